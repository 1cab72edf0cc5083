"""Usage of applications that speak no model's protocol: units from a response header, or from its JSON.

``header:x-usage-tokens`` reads one header. ``json:usage.total`` reads one member of the response: of a document, of
the last event of an event stream that has it, or of the last such line of JSON lines; a number in the path counts the
items of a list from 0. What is there must be one whole number, from 0 to 2**53, else usage is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.model.usage import Usage, is_count
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.decoder import (
    JSON_LINES,
    DocumentDecoder,
    LineDecoder,
    StreamDecoder,
    UsageDecoder,
    parse_object,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SOURCE: Final = re.compile(
    r"header:(?P<header>[!#$%&'*+.^_`|~0-9A-Za-z-]+)|json:(?P<path>[^.\s\"\\]+(?:\.[^.\s\"\\]+)*)",
    re.ASCII,
)
_DIGITS: Final = re.compile(r"\A[0-9]{1,16}\Z")


@dataclass(frozen=True, slots=True)
class UnitSource:
    """Where a response says how many units it used: in ``header`` (small letters), else at ``path`` of its JSON."""

    header: str | None = None
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> UnitSource:
        """Read ``"header:<name>"`` or ``"json:<path>"``, else :class:`ConfigurationError`."""
        found = _SOURCE.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"cannot read the usage {text!r}: write for example 'header:x-usage-tokens' or 'json:usage.total'",
            )
        if found["header"] is not None:
            return cls(header=found["header"].lower())
        return cls(path=tuple(found["path"].split(".")))

    def decoder(self, unit: str, *, content_type: str | None, values: Sequence[str] = ()) -> UsageDecoder:
        """A fresh decoder for one response, which counts what is said as ``unit``.

        ``values`` are those of the response's lines of ``header``: two that differ say nothing.
        """
        if self.header is not None:
            return _Header(unit, values)
        media_type = (content_type or "").partition(";")[0].strip().lower()
        if media_type == EVENT_STREAM:
            return _Events(unit, self.path)
        return _Lines(unit, self.path) if media_type == JSON_LINES else _Document(unit, self.path)


class CallableDecoder(DocumentDecoder):
    """One JSON document, whose usage the application's own function reads.

    ``function`` is given the parsed document, and returns its :class:`Usage`, or None where it has none. What it
    raises goes through, and :class:`LayerError` where it returns anything else.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[dict[str, Any]], Usage | None]) -> None:
        super().__init__()
        self._function = function

    def read(self, document: dict[str, Any]) -> None:
        """Let the function read it."""
        usage = self._function(document)
        if usage is not None and not isinstance(usage, Usage):
            raise LayerError(f"a function that reads usage returns a Usage or None, not {type(usage).__name__}")
        self.usage = usage


class _Header(UsageDecoder):
    __slots__ = ()

    def __init__(self, unit: str, values: Sequence[str]) -> None:
        super().__init__()
        said = {value.strip() for value in values}
        if len(said) == 1 and _DIGITS.match(text := said.pop()):
            self.usage = _units(unit, int(text))

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        self.ended = True
        return b""


class _Document(DocumentDecoder):
    __slots__ = ("_path", "_unit")

    def __init__(self, unit: str, path: tuple[str, ...]) -> None:
        super().__init__()
        self._unit = unit
        self._path = path

    def take(self, document: Any) -> None:
        self.ended = True  # a list is an answer too
        self.usage = _units(self._unit, _at(document, self._path))


class _Latest:
    """The last text of a stream that has the member: what is told again replaces what was told before."""

    __slots__ = ("_mark", "_path", "_text", "_unit")

    def __init__(self, unit: str, path: tuple[str, ...]) -> None:
        self._unit = unit
        self._path = path
        self._mark = _mark(path)
        self._text: bytes | None = None

    @property
    def usage(self) -> Usage | None:
        return _units(self._unit, _at(parse_object(self._text), self._path)) if self._text is not None else None

    def see(self, text: bytes) -> None:
        if self._mark in text and _at(parse_object(text), self._path) is not None:
            self._text = text


class _Events(StreamDecoder):
    __slots__ = ("_latest",)

    def __init__(self, unit: str, path: tuple[str, ...]) -> None:
        super().__init__()
        self._latest = _Latest(unit, path)

    @property
    def usage_so_far(self) -> Usage | None:
        return self._latest.usage

    def read_data(self, data: bytes) -> None:
        self._latest.see(data)

    def conclude(self) -> None:
        self.ended = True
        self.usage = self._latest.usage


class _Lines(LineDecoder):
    __slots__ = ("_latest",)

    def __init__(self, unit: str, path: tuple[str, ...]) -> None:
        super().__init__()
        self._latest = _Latest(unit, path)

    @property
    def usage_so_far(self) -> Usage | None:
        return self._latest.usage

    def read_line(self, line: bytes) -> None:
        self._latest.see(line)

    def conclude(self) -> None:
        self.ended = True
        self.usage = self._latest.usage


def _mark(path: tuple[str, ...]) -> bytes:
    """What every JSON text with this path contains: the longest plain name in it."""
    names = [name for name in path if name.isascii() and name.isalnum() and not name.isdigit()]
    return max(names, key=len, default="").encode()


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _units(unit: str, value: Any) -> Usage | None:
    return Usage(requests=1, units={unit: value}) if is_count(value) else None
