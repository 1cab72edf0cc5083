"""Where a private key begins and ends, whole or still arriving."""

from __future__ import annotations

import re
from random import Random

import pytest

from tenantguard.rules.secrets import pem
from tests.rules.secrets.examples import run

LABEL = "PRIVATE KEY"


def block(label: str = LABEL, line: str = "\n") -> str:
    random = Random(2)
    lines = [run(random, 64) for _ in range(5)]
    return line.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"])


@pytest.mark.parametrize(
    "label", [LABEL, "RSA " + LABEL, "OPENSSH " + LABEL, "ENCRYPTED " + LABEL, f"PGP {LABEL} BLOCK"]
)
@pytest.mark.parametrize("line", ["\n", "\r\n", "\\n", "\\r\\n", " ", '\\n" +\n  "'])
def test_a_block_goes_to_its_end(label: str, line: str) -> None:
    text = f"here: {block(label, line)} and more"
    begin = text.index("-----")
    assert pem.BEGIN.match(text, begin)
    assert text[begin : pem.block_end(text, begin)] == block(label, line)


def test_a_block_without_an_end_goes_to_the_end_of_the_text_and_not_for_ever() -> None:
    text = block()[:200]
    assert pem.block_end(text, 0) == 200
    assert pem.block_end(block().partition("-----END")[0] + "x" * 50_000, 0) == pem.PEM_CHARS_MAX


def test_a_header_begins_a_block_too() -> None:
    assert pem.BEGIN.match(f"-----BEGIN RSA {LABEL}-----\nProc-Type: 4,ENCRYPTED\n")
    assert pem.BEGIN.match(f"-----BEGIN PGP {LABEL} BLOCK-----\nVersion: 1\n\n")
    assert pem.BEGIN.match(f"-----BEGIN PGP {LABEL} BLOCK-----\n\n{run(Random(1), 64)}\n")


@pytest.mark.parametrize(
    "text",
    [f"-----BEGIN {LABEL}----- is how it starts", "-----BEGIN CERTIFICATE-----\n" + "A" * 64, f"BEGIN {LABEL}"],
)
def test_a_label_alone_begins_nothing(text: str) -> None:
    assert not pem.BEGIN.match(text)


def test_a_stream_knows_from_every_piece_whether_a_block_may_have_begun() -> None:
    text = "see " + block()
    whole = pem.BEGIN.search(text)
    assert whole is not None
    assert whole.end() - whole.start() <= pem.BEGIN_CHARS_MAX
    for length in range(5, whole.end()):
        assert pem.begun(text[:length]) == 4, length
    assert pem.begun(text[: whole.end()]) is None
    assert pem.begun("a plain text") is None
    assert pem.begun("") is None


def test_the_trigger_begins_what_begins_a_block() -> None:
    assert pem.BEGIN.pattern.startswith(pem.TRIGGER)
    assert re.match(pem.TRIGGER, block())
