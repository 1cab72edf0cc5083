"""A text that arrives in pieces is redacted as the whole text is: the real recognisers, over generated texts."""

# ruff: noqa: RUF001 - full-width punctuation and letters are meant

from __future__ import annotations

import base64
import json
import re
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.model.redact_section import Find
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.hold import HOLD_CHARS_MAX, TextStream, join
from tenantguard.rules.redaction.text.normal import Normalized
from tenantguard.rules.redaction.text.rule import Edit, ResponseScrub, apply, text_edits
from tenantguard.rules.secrets.catalog import FORMATS
from tests.adapters.pii.texts import Density, any_text, chat
from tests.rules.secrets.examples import example, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.adapters.pii.cascade import CascadeDetector
    from tenantguard.adapters.pii.presidio import PresidioDetector

TEXTS = 250
CHARS = 2_000
_TOKENS = re.compile(r"\s*\S{1,6}|\s+")
SPLITS: dict[str, Callable[[str, Random], list[str]]] = {
    "like tokens": lambda text, _: _TOKENS.findall(text),
    "characters": lambda text, _: list(text[:600]),
    "up to 20": lambda text, rng: _split(text, 20, rng),
    "up to 200": lambda text, rng: _split(text, 200, rng),
}


def _split(text: str, most: int, rng: Random) -> list[str]:
    pieces = []
    at = 0
    while at < len(text):
        end = at + rng.randint(1, most)
        pieces.append(text[at:end])
        at = end
    return pieces


@pytest.fixture(scope="module")
def detector() -> CascadeDetector | PresidioDetector:
    return detector_for(Find(secrets=True))


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_gives_what_the_whole_text_gives(
    detector: CascadeDetector | PresidioDetector, split: str
) -> None:
    """E+9."""
    for seed in range(TEXTS):
        pieces = SPLITS[split](any_text(seed)[:CHARS], Random(seed))
        text = "".join(pieces)
        rule = ResponseScrub(detector.bounded(), Vault(b"k" * 32), restore=False)
        expected = apply(text, text_edits(rule, text))
        if rule.passed:
            continue  # beyond its budget a text is replaced wider, and in pieces there is less of it at once
        stream = TextStream(ResponseScrub(detector.bounded(), Vault(b"k" * 32), restore=False))
        said = join([*(piece for part in pieces for piece in stream.feed(part)), *stream.finish()])
        assert said == expected, f"seed {seed}"


@pytest.mark.parametrize("before", ["see ", "看", "I ", "，", ""])
@pytest.mark.parametrize(
    "value",
    [
        "aa：bb：cc：dd：ee：ff", "AB：cd：ef：ab：cd：ef", "：：ffff：10.0.0.1", "https：//secret.example.com/a，b",
        "ｈｔｔｐｓ：／／ｓｅｃｒｅｔ．ｅｘａｍｐｌｅ．ｃｏｍ／ａ，ｂ", "example.com？of=ann",
        "+1 415 555 2671 ｅｘｔ 12", "+1 415 555 2671 ｘ 12",
    ],
)  # fmt: skip
def test_what_is_written_in_full_width_is_one_value_at_every_split(
    detector: CascadeDetector | PresidioDetector, before: str, value: str
) -> None:
    text = f"{before}{value} ok"
    normalized = Normalized(detector.bounded())
    rule = ResponseScrub(normalized, Vault(b"k" * 32), restore=False)
    expected = apply(text, text_edits(rule, text))
    assert len(expected) < len(before) + 45
    for split in SPLITS.values():
        stream = TextStream(ResponseScrub(normalized, Vault(b"k" * 32), restore=False))
        pieces = split(text, Random(1))
        assert join([*(piece for part in pieces for piece in stream.feed(part)), *stream.finish()]) == expected


def test_full_width_punctuation_of_a_script_without_spaces_lets_go_of_what_stands_before_it(
    detector: CascadeDetector | PresidioDetector,
) -> None:
    stream = TextStream(ResponseScrub(detector.bounded(), Vault(b"k" * 32), restore=False))
    assert join(stream.feed("今天下午，我们用Python：天气很好：你好")) == "今天下午，我们用Python：天气很好："


@pytest.mark.parametrize("density", list(Density))
def test_little_is_held_back(detector: CascadeDetector | PresidioDetector, density: Density) -> None:
    """At most 32 characters of 99 deltas in 100, and the first words leave with the delta behind them."""
    held: list[int] = []
    rng = Random(7)
    for _ in range(12):
        stream = TextStream(ResponseScrub(detector.bounded(), Vault(b"k" * 32), restore=False))
        said = []
        for piece in _TOKENS.findall(chat(rng, 4_000, density)):
            said.append(join(stream.feed(piece)))
            held.append(stream.held)
        assert any(said[:3])
    held.sort()
    assert held[len(held) * 99 // 100] <= 32
    assert held[-1] <= HOLD_CHARS_MAX


def _web_token(rng: Random, header: int, payload: int) -> str:
    """A signed token with so many random characters in its header and its payload."""
    parts = [{"typ": "JWT", "nonce": run(rng, header), "alg": "RS256"}, {"sub": run(rng, payload)}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, run(rng, 342)])


KNOWN = {f"own_{size}": run(Random(size), size) for size in (65, 164, 255, 400, 3000)}
LONG = {
    **{
        secret.entity: made
        for secret in FORMATS
        if len(made := example(secret, Random(5))) > 128 and secret.entity != "TEAMS_WEBHOOK"  # an address
    },
    **{
        f"token_{header}_{size}": _web_token(Random(1), header, size) for header in (1, 90, 600) for size in (9, 3000)
    },
    "quoted": f'client_secret = "{run(Random(2), 900)}"',
    "bearer": f"Bearer {run(Random(3), 1500)}",
    **KNOWN,
}


@pytest.fixture(scope="module")
def knowing() -> CascadeDetector | PresidioDetector:
    return detector_for(Find(("EMAIL_ADDRESS",), secrets=True, entropy=False, known=tuple(KNOWN.items())))


@pytest.mark.parametrize("secret", LONG)
def test_a_secret_longer_than_what_is_held_is_one_value_at_every_split(
    knowing: CascadeDetector | PresidioDetector, secret: str
) -> None:
    """E+9: alone, behind a word, and wherever it begins in a run without white space."""
    befores = ["", "it is ", *("a.b," * size for size in (8, 27, 37, 45, 49, 70))]
    for before, after in product(befores, (" and more", '"} a', "")):
        text = f"{before}{LONG[secret]}{after}"
        rule = ResponseScrub(knowing.bounded(), Vault(b"k" * 32), restore=False)
        edits = [
            Edit(one.start, one.end, rule.replace(one.entity, text[one.start : one.end])) for one in rule.find(text)
        ]
        whole = apply(text, edits)
        for size in (1, 7, len(text)):
            stream = TextStream(ResponseScrub(knowing.bounded(), Vault(b"k" * 32), restore=False))
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            said = join([*(piece for part in pieces for piece in stream.feed(part)), *stream.finish()])
            assert said == whole
