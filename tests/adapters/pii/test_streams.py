"""A text that arrives in pieces is redacted as the whole text is: the real recognisers, over generated texts."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.model.redact_section import Find
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.hold import HOLD_CHARS_MAX, TextStream, join
from tenantguard.rules.redaction.rule import ResponseScrub, apply, text_edits
from tests.adapters.pii.texts import Density, any_text, chat

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
