"""Keys without a prefix: found, unless they are anything else that looks like chance."""

from __future__ import annotations

import base64
import math
import uuid
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.secrets import entropy
from tenantguard.rules.secrets.entropy import LENGTH_MAX, LENGTH_MIN, RUN, normalised_entropy, random_key
from tests.rules.secrets.examples import run

if TYPE_CHECKING:
    from collections.abc import Callable


def is_key(text: str) -> bool:
    found = [(match.start(), match.end()) for match in RUN.finditer(text)]
    return any(random_key(text, *span) for span in found)


def share_found(make: Callable[[Random], str], count: int = 400) -> float:
    random = Random(5)
    return sum(is_key(f"use {make(random)} for it") for _ in range(count)) / count


@pytest.mark.parametrize("length", [32, 40, 64, 128, LENGTH_MAX])
def test_random_letters_and_digits_are_a_key(length: int) -> None:
    """S-64."""
    assert share_found(lambda random: run(random, length)) >= 0.95


@pytest.mark.parametrize("size", [30, 32, 48, 64])
def test_random_bytes_in_base64_are_a_key(size: int) -> None:
    """S-64."""
    assert share_found(lambda random: base64.b64encode(random.randbytes(size)).decode()) >= 0.95
    assert share_found(lambda random: base64.urlsafe_b64encode(random.randbytes(size)).decode()) >= 0.95


KEY = next(key for key in (run(Random(seed), 40) for seed in range(9)) if is_key(key))


@pytest.mark.parametrize(
    "text", [f"key={KEY}", f'"{KEY}"', f"\n{KEY}\n", f"密钥{KEY}。", f"\\n{KEY}", f"é{KEY}", KEY]
)
def test_a_key_is_found_whatever_stands_around_it(text: str) -> None:
    assert is_key(text)


LOOKALIKES = {
    "a SHA-1": lambda random: random.randbytes(20).hex(),
    "a SHA-256": lambda random: random.randbytes(32).hex().upper(),
    "a UUID": lambda random: str(uuid.UUID(int=random.getrandbits(128))),
    "an integrity": lambda random: "sha512-" + base64.b64encode(random.randbytes(64)).decode(),
    "a wheel's digest": lambda random: "sha256=" + base64.urlsafe_b64encode(random.randbytes(32)).decode(),
    "a fingerprint": lambda random: "SHA256:" + base64.b64encode(random.randbytes(32)).decode(),
    "a public key": lambda random: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + run(random, 48),
    "an address": lambda random: "https://docs.example.com/d/" + run(random, 44) + "/edit",
    "a path": lambda random: "/home/ann/" + run(random, 40),
    "a short one": lambda random: run(random, LENGTH_MIN - 1),
    "a long one": lambda random: run(random, LENGTH_MAX + 1),
    "data": lambda random: run(random, 400),
    "base64 of text": lambda random: base64.b64encode(
        b"Nobody wrote this: it only stands here for a test of " + random.randbytes(2)
    ).decode(),
    "base64 of JSON": lambda random: base64.b64encode(
        f'{{"id": {random.randrange(9**9)}, "name": "Ann", "on": true}}'.encode()
    ).decode(),
    "base64 of Greek": lambda random: base64.b64encode("Καλημέρα κόσμε, τι κάνεις;".encode()).decode(),
    "base64 of UTF-16": lambda random: base64.b64encode("Guten Morgen 42 mal".encode("utf-16-le")).decode(),
    "base64 of a protocol buffer": lambda random: base64.b64encode(
        b"\x0a\x05Alice\x12\x11alice@example.com\x18\x2a\x22\x05Paris" + random.randbytes(1)
    ).decode(),
    "a certificate": lambda random: "-----BEGIN CERTIFICATE-----\n" + run(random, 64),
    "a second line of base64": lambda random: f"{run(random, 76)}\n{run(random, 60)}",
    "a camel-cased name": lambda random: "getHTTPResponseCode2AndReturnItAsUtf8StringV3",
    "a mangled name": lambda random: "_ZN4llvm12DenseMapBaseINS8DenseMapIPKNS5ValueEjNS12EE",
    "few characters": lambda random: "Ab1" * 20,
    "repeated characters": lambda random: "aaaaaaaaaaaaaaaaaaaaBBBBBBBBBBBBBBBBBBBB1111",
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_chance_is_no_key(name: str) -> None:
    """S-64, S-65: the last run of each text, since the first line of data may be a key by itself."""
    random = Random(6)
    for _ in range(50):
        text = LOOKALIKES[name](random)
        *_, last = [match.span() for match in RUN.finditer(text)] or [(0, 0)]
        assert not random_key(text, *last)


@given(st.text(max_size=300))
def test_the_entropy_of_a_text_lies_between_none_and_all(text: str) -> None:
    assert 0.0 <= normalised_entropy(text) <= 1.0 + 1e-9 or len(set(text)) > 64


def test_the_entropy_is_shannons() -> None:
    assert math.isclose(normalised_entropy("ab" * 8), 1 / 4)
    assert math.isclose(normalised_entropy("abcdefgh" * 16), 3 / 6)
    assert normalised_entropy("aaaa") == 0.0


def test_an_entropy_that_equals_the_least_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-64."""
    least = normalised_entropy(KEY)
    monkeypatch.setattr(entropy, "ENTROPY_MIN", least)
    assert is_key(KEY)
    monkeypatch.setattr(entropy, "ENTROPY_MIN", math.nextafter(least, 1))
    assert not is_key(KEY)
