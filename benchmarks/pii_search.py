"""Searching texts for personal data: the cascade beside Presidio's ``AnalyzerEngine``, and hostile texts.

    python -m benchmarks.pii_search

Every round has texts of its own, which each candidate searches once: nothing that a search remembers helps the next.
Presidio's engine runs over its ``NoOpNlpEngine`` with the same recognisers and threshold; the cascade scores context
as well, which Presidio cannot do without a language model. Chats are made by ``tests/adapters/pii/texts.py``: "clean"
ones hold no digit and no address, "natural" ones a small number every 300 characters and a value of some entity every
5 000, "dense" ones a value every 450.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.model.redact_section import Find
from tests.adapters.pii.adversarial import CPU_MS_MAX, KNOWN, SIZE, cpu_ms
from tests.adapters.pii.parity import Presidio
from tests.adapters.pii.texts import Density, chat
from tests.adapters.pii.values import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROUNDS: Final = 7
TEXTS_A_ROUND: Final = {200: 60, 2_000: 16, 20_000: 3, 200_000: 1}
"""By the size of a text in characters, how many each candidate searches in a round."""

SIX: Final = (
    "CreditCardRecognizer",
    "EmailRecognizer",
    "IbanRecognizer",
    "IpRecognizer",
    "PhoneRecognizer",
    "UsSsnRecognizer",
)
SETS: Final[Mapping[str, tuple[str, ...]]] = {"all 17": (), "six": SIX}
SIX_ENTITIES: Final = ("CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN")
PRESIDIO: Final = "Presidio"
FAST: Final = "hyperscan"
SLOW: Final = "re"
AIMS: Final = {
    (FAST, "all 17", Density.CLEAN, 2_000): 60.0,
    (FAST, "all 17", Density.NATURAL, 2_000): 60.0,
    (FAST, "all 17", Density.NATURAL, 20_000): 20.0,
    (FAST, "all 17", Density.DENSE, 2_000): 10.0,
    (FAST, "all 17", Density.DENSE, 20_000): 10.0,
    (SLOW, "all 17", Density.CLEAN, 2_000): 15.0,
    (SLOW, "all 17", Density.DENSE, 2_000): 3.0,
}
GROWTH_MAX: Final = 1.15
"""What a character of 200 000 may cost, to one of 20 000."""


def searchers(recognizers: tuple[str, ...]) -> dict[str, Callable[[str], object]]:
    """The candidates, by name."""
    find = Find(recognizers=recognizers)
    return {
        PRESIDIO: Presidio(recognizers, find.threshold).analyze,
        FAST: CascadeDetector(find, fast=True).detect,
        SLOW: CascadeDetector(find, fast=False).detect,
    }


def measure(
    candidates: Mapping[str, Callable[[str], object]], size: int, density: Density, entities: Sequence[str]
) -> Samples:
    """Microseconds a text, round by round."""
    samples = Samples()
    for turn in range(-1, ROUNDS):  # the first one warms up
        rng = Random(f"{size} {density} {turn}")
        texts = [chat(rng, size, density, entities) for _ in range(TEXTS_A_ROUND[size])]
        for name, search in candidates.items():
            gc.collect()
            began = time.process_time_ns()
            for text in texts:
                search(text)
            if turn >= 0:
                samples.add(name, (time.process_time_ns() - began) / len(texts) / 1000)
    return samples


def rows() -> Iterator[tuple[list[str], list[Target]]]:
    """Each line of the table, and what it tells of the aims."""
    for title, recognizers in SETS.items():
        candidates = searchers(recognizers)
        entities = SIX_ENTITIES if recognizers else DEFAULT
        for density in Density:
            each: dict[str, dict[int, float]] = {FAST: {}, SLOW: {}}
            for size in TEXTS_A_ROUND:
                progress(f"{title}, {density.value}, {size:,} characters")
                samples = measure(candidates, size, density, entities)
                row = [f"{density.value} {size:>7,} {title}", f"{samples.median(PRESIDIO):,.0f}"]
                targets = []
                for name in (FAST, SLOW):
                    times = samples.ratio(PRESIDIO, name)
                    each[name][size] = samples.median(name) / size
                    row += [f"{samples.median(name):,.1f}", f"{times:.1f}x"]
                    if (aim := AIMS.get((name, title, density, size))) is not None:
                        what = f"{density.value} {size:,} characters, {title}, {name}"
                        targets.append(Target(what, f">= {aim:.0f}x", f"{times:.1f}x", times >= aim))
                if size == 200_000:
                    for name in (FAST, SLOW):
                        grown = each[name][200_000] / each[name][20_000]
                        what = f"a character of 200,000 to one of 20,000, {density.value}, {title}, {name}"
                        targets.append(Target(what, f"<= {GROWTH_MAX}", f"{grown:.2f}", grown <= GROWTH_MAX))
                yield row, targets


def hostile(detector: CascadeDetector) -> tuple[list[list[str]], list[Target]]:
    """Known hostile texts at two sizes; the larger one is not tried where the smaller one costs too much."""
    gc.collect()
    gc.freeze()  # as the proxy does once it is ready: else each full collection walks all of Presidio, 50 ms
    table = []
    dearest = ("", 0.0)
    steepest = ("", 0.0)
    for name, make in KNOWN.items():
        passed = detector.passed
        small = cpu_ms(detector.detect, make(SIZE), 5)
        past = detector.passed > passed
        dearest = max(dearest, (name, small), key=lambda one: one[1])
        if small > CPU_MS_MAX * 2:
            table.append([name, f"{small:.2f}", "-", "-", "yes" if past else ""])
            continue
        large = cpu_ms(detector.detect, make(SIZE * 10), 2)
        grown = large / 10 / small
        if large >= 2.0:
            steepest = max(steepest, (name, grown), key=lambda one: one[1])
        table.append([name, f"{small:.2f}", f"{large:.1f}", f"{grown:.2f}", "yes" if past else ""])
    worst = Target(
        f"the dearest of {len(KNOWN)} hostile texts of {SIZE:,} characters ({dearest[0]})",
        f"<= {CPU_MS_MAX:.0f} ms",
        f"{dearest[1]:.1f} ms",
        dearest[1] <= CPU_MS_MAX,
    )
    linear = Target(
        f"the same, a character of 200,000 to one of 20,000 ({steepest[0]})",
        f"<= {GROWTH_MAX}",
        f"{steepest[1]:.2f}",
        steepest[1] <= GROWTH_MAX,
    )
    return table, [worst, linear]


def report() -> list[Target]:
    """Print the tables; what they tell of the aims."""
    lines, targets = [], []
    for row, told in rows():
        lines.append(row)
        targets += told
    columns = ("text", "Presidio, us", "hyperscan, us", "ratio", "re, us", "ratio")
    print_table("Searching one text, processor time", columns, lines)
    for name, fast in ((FAST, True), (SLOW, False)):
        progress(f"hostile texts, {name}")
        table, told = hostile(CascadeDetector(Find(), fast=fast))
        title = f"Hostile texts, {name}, ms of processor time"
        print_table(title, ("text", "20 000", "200 000", "growth a character", "past a budget"), table)
        targets += [replace(target, what=f"{target.what}, {name}") for target in told]
    return targets


if __name__ == "__main__":
    print_targets(report())
