"""What headers say of a body: its media type, and whether it can be read as text at all."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EVENT_STREAM: Final = "text/event-stream"

_TYPE_CHARS: Final = len(b"content-type")
_ENCODING_CHARS: Final = len(b"content-encoding")
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
_CHARSET: Final = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii"})
_JSON: Final = re.compile(r"(?:application|text)/json|[\w!#$&^.+-]+/[\w!#$&^.-]+\+json", re.ASCII)


class Media(NamedTuple):
    """A body's media type in small letters ("" if none is given), and why it cannot be read as text, if it cannot."""

    type: str
    problem: str | None

    @property
    def is_json(self) -> bool:
        """Whether the type is JSON, or one that is written in JSON."""
        return _JSON.fullmatch(self.type) is not None


def media_of(head: Iterable[tuple[bytes, bytes]]) -> Media:
    """What the header lines of one head say of its body."""
    types: list[str] = []
    encodings: list[str] = []
    for name, value in head:
        length = len(name)
        if length == _TYPE_CHARS and name.lower() == b"content-type":
            types.append(value.decode("latin-1"))
        elif length == _ENCODING_CHARS and name.lower() == b"content-encoding":
            encodings.append(value.decode("latin-1"))
    return read_media(types, encodings)


def read_media(content_types: Sequence[str], content_encodings: Iterable[str]) -> Media:
    """Read the lines of ``content-type`` and ``content-encoding``; what is open to two readings is a problem."""
    for line in content_encodings:
        if any(name.strip().lower() not in {"", "identity"} for name in line.split(",")):
            return _ENCODED
    if not content_types:
        return _UNNAMED
    return _read_type(content_types[0]) if len(content_types) == 1 else _UNCLEAR


_ENCODED: Final = Media("", "is encoded, and cannot be read: send it without a content-encoding")
_UNNAMED: Final = Media("", None)
_UNCLEAR: Final = Media("", "has no clear content-type")


@lru_cache(maxsize=64)  # callers choose the key, and a header may be long
def _read_type(content_type: str) -> Media:
    given = content_type.strip()
    found = _MEDIA_TYPE.match(given)
    if found is None:
        return _UNCLEAR
    rest = given[found.end() :].lstrip()
    if rest and not rest.startswith(";"):
        return _UNCLEAR
    if any(charset.lower() not in _UTF8 for charset in _CHARSET.findall(rest)):
        return Media("", "is in a charset other than UTF-8")
    return Media(found[0].lower(), None)
