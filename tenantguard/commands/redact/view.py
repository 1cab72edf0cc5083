"""What the command shows beside the text: colour, a bar on long input, a table of what was found. Never a value."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rich.progress import Progress, TaskID

BAR_BYTES_MIN: Final = 1_000_000
"""Shorter input needs no bar: it takes a second."""

OPEN, CLOSE = "\ue000", "\ue001"
"""What marks a replaced text until it is printed: private characters, which no font shows."""

_ON, _OFF = b"\x1b[1;30;43m", b"\x1b[0m"
_ROWS_MAX: Final = 200


class View:
    """One run of the command. ``color`` is ``auto``, ``always`` or ``never``; ``summary`` None: on a terminal."""

    def __init__(self, color: str, *, summary: bool | None, printing: bool) -> None:
        shows_color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.marks = printing and (color == "always" or (color == "auto" and shows_color))
        self._summary = sys.stderr.isatty() if summary is None else summary
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._found: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._passed = 0
        self._inputs = 0
        self._bytes = 0
        self._begun_ns = time.perf_counter_ns()

    def begin(self, total_bytes: int) -> None:
        """So many bytes are to be read."""
        if total_bytes < BAR_BYTES_MIN or not sys.stderr.isatty():
            return
        from rich.console import Console  # noqa: PLC0415 - 50 ms that short input does not pay
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

        self._progress = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task("", total=total_bytes)
        self._progress.start()

    def advance(self, count: int) -> None:
        """So many bytes more were read."""
        self._bytes += count
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count)

    def tell(
        self, replaced: Mapping[str, int], kept: Mapping[str, int], skipped: Mapping[str, int], passed: int
    ) -> None:
        """One input was redacted: what was replaced, kept and skipped in it, and what was reported unchecked."""
        self._inputs += 1
        self._found.update(replaced)
        self._kept.update(kept)
        self._skipped.update(skipped)
        self._passed += passed

    def shown(self, data: bytes) -> bytes:
        """What is printed for redacted text: its marks as colour."""
        if not self.marks:
            return data
        return data.replace(OPEN.encode(), _ON).replace(CLOSE.encode(), _OFF)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if kind is None and self._summary:
            self._print_summary()

    def _print_summary(self) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        seconds = (time.perf_counter_ns() - self._begun_ns) / 1e9
        inputs = f"{self._inputs} inputs, " if self._inputs != 1 else ""
        table = Table(title=f"{inputs}{self._bytes:,} bytes in {seconds:.1f} s", title_justify="left")
        table.add_column("found")
        table.add_column("times", justify="right")
        table.add_column("")
        rows = [(name, count, "replaced") for name, count in self._found.most_common()]
        rows += [(name, count, "kept") for name, count in self._kept.most_common()]
        rows += [(name, count, "not looked at") for name, count in self._skipped.most_common()]
        rows += [("unchecked", self._passed, "replaced; a check would have taken too long")] if self._passed else []
        for name, count, became in rows[:_ROWS_MAX] or [("nothing", 0, "")]:
            table.add_row(name, f"{count:,}", became)
        Console(stderr=True).print(table)
