"""What the tour tells a person: facts, and numbers with a mark that says whether each is the expected one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LABEL_CHARS: Final = 17
_BOLD, _DIM, _RED, _GREEN = "1", "2", "31", "32"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table. ``right`` is None where nothing in it was checked."""

    cells: tuple[str, ...]
    right: bool | None = None


class Report:
    """Prints to ``out``, in colours only on a terminal, unless ``environ`` has NO_COLOR (no-color.org).

    ``checked`` counts the numbers that were compared; ``wrong`` has a sentence for each that was not as expected.
    """

    def __init__(self, out: TextIO, environ: Mapping[str, str]) -> None:
        self.checked = 0
        self.wrong: list[str] = []
        self._out = out
        self._colours = out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._yes, self._no = ("✓", "✗") if _can_print("✓✗", out) else ("+", "x")
        self._step = ""

    def line(self, text: str = "", end: str = "\n") -> None:
        """Print a line as it is."""
        print(text, end=end, file=self._out, flush=True)

    def step(self, title: str) -> None:
        """Begin a part of the tour."""
        self._step = title
        self.line(f"\n{self._colour(_BOLD, title)}")

    def tell(self, label: str, text: object) -> None:
        """Print a fact that is not checked."""
        self.line(f"   {self._label(label)}{text}")

    def check(self, label: str, expected: object, seen: object, note: str = "") -> bool:
        """Print what was seen, and what was expected where that is something else."""
        return self._judge(label, seen == expected, expected, seen, note)

    def check_between(self, label: str, least: int, most: int, seen: int | None, note: str = "") -> bool:
        """As :meth:`check`, for a number that time has a part in."""
        return self._judge(label, seen is not None and least <= seen <= most, f"{least} to {most}", seen, note)

    def table(self, header: Sequence[str], rows: Sequence[Row]) -> None:
        """Print rows in columns as wide as their widest cell."""
        columns = [header, *(row.cells for row in rows)]
        widths = [max(len(cells[column]) for cells in columns) for column in range(len(header))]

        def aligned(cells: Sequence[str]) -> str:
            return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

        self.line(f"   {self._colour(_DIM, aligned(header))}")
        for row in rows:
            self.line(f" {self._mark(row.right)} {aligned(row.cells)}")

    def compare(self, label: str, expected: object, seen: object) -> bool:
        """Compare without a line of its own; the answer is the mark of a row that is told later."""
        right = seen == expected
        self._count(label, expected, seen, right=right)
        return right

    def end(self, took: str) -> int:
        """Print what it comes to; return the exit code."""
        if not self.wrong:
            verdict = f"{self._yes} all {self.checked} numbers are as expected ({took})"
            self.line(f"\n{self._colour(_GREEN, verdict)}")
            return 0
        verdict = f"{self._no} {len(self.wrong)} of {self.checked} numbers are not as expected ({took}):"
        self.line(f"\n{self._colour(_RED, verdict)}")
        for sentence in self.wrong:
            self.line(f"  {sentence}")
        return 1

    def _judge(self, label: str, right: bool, expected: object, seen: object, note: str) -> bool:  # noqa: FBT001
        self._count(label, expected, seen, right=right)
        text = str(seen) if right else self._colour(_RED, f"{seen}, expected {expected}")
        shown_note = f"   {self._colour(_DIM, note)}" if note else ""
        self.line(f" {self._mark(right)} {self._label(label)}{text}{shown_note}")
        return right

    def _count(self, label: str, expected: object, seen: object, *, right: bool) -> None:
        self.checked += 1
        if not right:
            self.wrong.append(f"{self._step}: {label}: expected {expected}, seen {seen}")

    def _mark(self, right: bool | None) -> str:  # noqa: FBT001
        if right is None:
            return " "
        return self._colour(_GREEN, self._yes) if right else self._colour(_RED, self._no)

    def _label(self, label: str) -> str:
        return self._colour(_DIM, label.ljust(_LABEL_CHARS))

    def _colour(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def _can_print(text: str, out: Any) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
