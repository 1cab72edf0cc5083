"""Interleaved rounds and tables: how every benchmark here measures and prints.

Processor time is measured, not the clock on the wall, since other programs share the machine. Candidates take turns
round by round, so that a noisy moment hits all of them, and a ratio is the median of the ratios of single rounds.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

SLICE_S: Final = 0.025
"""Processor time that one candidate gets in one round."""


@dataclass
class Samples:
    """What each candidate cost, round by round, in microseconds of processor time an operation."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, us: float) -> None:
        """Keep one round's figure."""
        self.rounds.setdefault(name, []).append(us)

    def median(self, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[to], strict=True))

    def added(self, name: str, to: str) -> float:
        """The median of the rounds' differences."""
        return statistics.median(a - b for a, b in zip(self.rounds[name], self.rounds[to], strict=True))


def progress(text: str) -> None:
    """Say what is being done, beside the tables."""
    print(f"  ... {text}", file=sys.stderr, flush=True)


def _sized(spent_ns: int, operations: int) -> int:
    return max(1, round(operations * SLICE_S * 1e9 / max(spent_ns, 1)))


def interleave(cases: Mapping[str, Callable[[int], None]], rounds: int) -> Samples:
    """Measure functions that perform a number of operations."""
    samples = Samples()
    sizes = {}
    for name, run in cases.items():
        run(20)
        began = time.process_time_ns()
        run(20)
        sizes[name] = _sized(time.process_time_ns() - began, 20)
    for _ in range(rounds):
        for name, run in cases.items():
            gc.collect()
            began = time.process_time_ns()
            run(sizes[name])
            samples.add(name, (time.process_time_ns() - began) / sizes[name] / 1000)
    return samples


async def interleave_async(
    cases: Mapping[str, Callable[[int], Awaitable[None]]],
    rounds: int,
    *,
    operations: int | None = None,
) -> Samples:
    """Measure coroutine functions that perform a number of operations, on the running event loop.

    Every candidate performs ``operations`` a round, or as many as it can in ``SLICE_S``.
    """
    samples = Samples()
    sizes = {}
    for name, run in cases.items():
        await run(operations or 20)
        began = time.process_time_ns()
        await run(operations or 20)
        sizes[name] = operations or _sized(time.process_time_ns() - began, 20)
    for _ in range(rounds):
        for name, run in cases.items():
            gc.collect()
            began = time.process_time_ns()
            await run(sizes[name])
            samples.add(name, (time.process_time_ns() - began) / sizes[name] / 1000)
    return samples


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table: the first column to the left, figures to the right."""
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    print(f"\n{title}\n")
    for row in (columns, ["-" * width for width in widths], *rows):
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that the project aims at, and what was seen."""

    what: str
    aim: str
    seen: str
    met: bool


def print_targets(targets: Sequence[Target]) -> None:
    """Print what was aimed at beside what was seen."""
    rows = [(target.what, target.aim, target.seen, "yes" if target.met else "NO") for target in targets]
    print_table("Targets", ("what", "aim", "seen", "met"), rows)
