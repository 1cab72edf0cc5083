"""Where each key of a TOML document stands: ``tomllib`` parses, but does not say on which line.

The scanner takes a document that ``tomllib`` has accepted, so it only has to find where keys and values begin and
end; it decides nothing about their validity.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

Path: TypeAlias = "tuple[str | int, ...]"
"""Keys from the top, with numbers for the elements of arrays: ``("routes", 0, "match")``."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS: Final = (
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""(?!")))*"""', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''(?!')))*'''", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[Path, int]:
    """The line, counted from 1, on which each key, table and array element of a valid document begins."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def nearest_line(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of ``path``, or of the nearest table or array around it; None where nothing of it is there."""
    known = nearest_path(lines, path)
    return lines.get(known)


def nearest_path(lines: Mapping[Path, int], path: Path) -> Path:
    """The longest beginning of ``path`` that stands in the document; ``()`` is the document."""
    while path and path not in lines:
        path = path[:-1]
    return path


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._line = 1
        self._counted = 0
        self._elements: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            line = self.line
            if self.text.startswith("[[", self.at):
                self.at += 2
                array = self._header()
                index = self._elements.get(array, -1) + 1
                self._elements[array] = index
                table = (*array, index)
                self._note(array, line)
                self._note(table, line)
            elif self.text[self.at] == "[":
                self.at += 1
                table = self._header()
                self._note(table, line)
            else:
                self._pair(table)
            self._skip(_BLANK)

    @property
    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _header(self) -> Path:
        """The path of the table in ``[a.b]``; a key that names an array of tables means its last element."""
        line = self.line
        names = self._key()
        while self.at < len(self.text) and self.text[self.at] == "]":
            self.at += 1
        path: Path = ()
        for name in names[:-1]:
            path = (*path, name)
            self._note(path, line)
            if path in self._elements:
                path = (*path, self._elements[path])
        return (*path, names[-1])

    def _pair(self, table: Path) -> None:
        line = self.line
        path = table
        for name in self._key():
            path = (*path, name)
            self._note(path, line)
        self.at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        names: list[str] = []
        while True:
            self._skip(_SPACE)
            bare = _BARE.match(self.text, self.at)
            if bare is not None:
                names.append(bare[0])
                self.at = bare.end()
            else:
                start = self.at
                self._string()
                quoted = self.text[start : self.at]
                names.append(cast("str", tomllib.loads(f"key = {quoted}")["key"]))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def _value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._string()
        elif opening in "[{":
            self.at += 1
            closing = "]" if opening == "[" else "}"
            index = 0
            self._skip(_BLANK)
            while self.text[self.at] != closing:
                if opening == "[":
                    self._note((*path, index), self.line)
                    self._value((*path, index))
                    index += 1
                else:
                    self._pair(path)
                self._skip(_BLANK)
                if self.text[self.at] == ",":
                    self.at += 1
                self._skip(_BLANK)
            self.at += 1
        else:
            self._skip(_SCALAR)

    def _string(self) -> None:
        for kind in _STRINGS:
            found = kind.match(self.text, self.at)
            if found is not None:
                self.at = found.end()
                return
        raise ValueError(f"no key or string on line {self.line}: the document is not valid TOML")

    def _note(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
