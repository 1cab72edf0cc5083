"""Redacting what arrives in pieces: cost of a delta, what is held back, and whether the pieces make a difference.

    python -m benchmarks.pii_streams

A delta is cut as a tokeniser cuts: at words, long ones in pieces. Every text is also cut into single characters and
into random pieces of at most 20 and 200 characters, and must come out as the whole text does.
"""

from __future__ import annotations

import re
import statistics
import time
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.rounds import Target, print_table, print_targets, progress
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.model.redact_section import Find
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.hold import TextStream, join
from tenantguard.rules.redaction.text.rule import ResponseScrub, apply, text_edits
from tests.adapters.pii.texts import Density, chat

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS: Final = 5_000
CHARS: Final = 300
CHATS: Final = 60
CHAT_CHARS: Final = 2_000
KEY: Final = b"k" * 32
_DELTA: Final = re.compile(r"\s?\w{1,5}|\s|\W")


def deltas(text: str) -> list[str]:
    """``text`` as a tokeniser would cut it."""
    return _DELTA.findall(text)


def cut(most: int) -> Callable[[Random, str], list[str]]:
    """Cuts into random pieces of at most so many characters."""

    def pieces(rng: Random, text: str) -> list[str]:
        found, at = [], 0
        while at < len(text):
            size = rng.randint(1, most)
            found.append(text[at : at + size])
            at += size
        return found

    return pieces


MODES: Final[dict[str, Callable[[Random, str], list[str]]]] = {
    "deltas": lambda _, text: deltas(text),
    "characters": lambda _, text: list(text),
    "random, 20": cut(20),
    "random, 200": cut(200),
}


def scrub(detector: CascadeDetector) -> ResponseScrub:
    """The rule of one response."""
    return ResponseScrub(detector.bounded(), Vault(KEY), restore=False)


def streamed(detector: CascadeDetector, pieces: list[str]) -> str:
    """What becomes of a text that arrives so."""
    stream = TextStream(scrub(detector))
    return "".join([*(join(stream.feed(piece)) for piece in pieces), join(stream.finish())])


def whole(detector: CascadeDetector, text: str) -> str:
    """What becomes of the whole text."""
    return apply(text, text_edits(scrub(detector), text))


def equal(detector: CascadeDetector) -> tuple[list[list[str]], list[int]]:
    """How many texts come out otherwise than whole, by how they were cut; and the seeds of those."""
    wrong: dict[str, list[int]] = {mode: [] for mode in MODES}
    for seed in range(TEXTS):
        if seed % 1_000 == 0:
            progress(f"streams against whole texts: {seed} of {TEXTS}")
        rng = Random(seed)
        text = chat(rng, rng.randint(20, CHARS * 2), rng.choice((Density.NATURAL, Density.DENSE, Density.DENSE)))
        expected = whole(detector, text)
        for mode, pieces in MODES.items():
            if streamed(detector, pieces(rng, text)) != expected:
                wrong[mode].append(seed)
    seeds = sorted({seed for found in wrong.values() for seed in found})
    return [[mode, f"{TEXTS:,}", str(len(found))] for mode, found in wrong.items()], seeds


def delays(detector: CascadeDetector, density: Density) -> tuple[list[float], list[int], list[int]]:
    """Of chats: microseconds of processor time a delta, characters held after it, deltas until the first text."""
    spent: list[float] = []
    held: list[int] = []
    first: list[int] = []
    for seed in range(CHATS):
        stream = TextStream(scrub(detector))
        began = None
        for at, delta in enumerate(deltas(chat(Random(seed), CHAT_CHARS, density))):
            start = time.process_time_ns()
            out = stream.feed(delta)
            spent.append((time.process_time_ns() - start) / 1000)
            held.append(stream.held)
            if out and began is None:
                began = at
        first.append(began or 0)
    return spent, held, first


def report() -> list[Target]:
    """Print the tables; what they tell of the aims."""
    detector = CascadeDetector(Find())
    table = []
    targets = []
    for density in Density:
        spent, held, first = delays(detector, density)
        tail, kept = statistics.quantiles(spent, n=100), statistics.quantiles(held, n=100)
        mean = statistics.fmean(spent)
        table.append([
            density.value, f"{mean:.1f}", f"{tail[49]:.1f}", f"{tail[98]:.0f}", f"{kept[49]:.0f}", f"{kept[98]:.0f}",
            str(max(held)), f"{statistics.median(first):.0f}", str(max(first)),
        ])  # fmt: skip
        targets += [
            Target(f"a delta, {density.value}, mean", "<= 50 us", f"{mean:.1f} us", mean <= 50),
            Target(f"held back, {density.value}, p99", "<= 32", f"{kept[98]:.0f}", kept[98] <= 32),
            Target(f"held back, {density.value}, most", "<= 256", str(max(held)), max(held) <= 256),
            Target(f"first text, {density.value}, deltas later", "<= 1", f"{statistics.median(first):.0f} (median)",
                   statistics.median(first) <= 1),
        ]  # fmt: skip
    columns = ("text", "mean us", "p50 us", "p99 us", "held p50", "p99", "most", "first text after", "most")
    print_table(
        "A delta of a stream: processor time, characters held back, deltas before the first text", columns, table
    )
    lines, seeds = equal(detector)
    print_table("Streams that came out otherwise than the whole text", ("cut into", "texts", "differ"), lines)
    if seeds:
        progress(f"seeds: {seeds[:20]}")
    targets.append(
        Target(f"stream = batch, {TEXTS:,} texts in {len(MODES)} ways", "0 differ", str(len(seeds)), not seeds)
    )
    return targets


if __name__ == "__main__":
    print_targets(report())
