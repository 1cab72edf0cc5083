"""What headers say of a body: its media type, and whether it can be read as text at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EVENT_STREAM: Final = "text/event-stream"

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


def read_media(content_types: Sequence[str], content_encodings: Iterable[str]) -> Media:
    """Read the lines of ``content-type`` and ``content-encoding``; what is open to two readings is a problem."""
    encodings = [name.strip().lower() for line in content_encodings for name in line.split(",")]
    if any(name not in {"", "identity"} for name in encodings):
        return Media("", "is encoded, and cannot be read: send it without a content-encoding")
    if not content_types:
        return Media("", None)
    given = content_types[0].strip()
    found = _MEDIA_TYPE.match(given)
    rest = given[found.end() :].lstrip() if found is not None else ""
    if len(content_types) > 1 or found is None or (rest and not rest.startswith(";")):
        return Media("", "has no clear content-type")
    if any(charset.lower() not in _UTF8 for charset in _CHARSET.findall(rest)):
        return Media("", "is in a charset other than UTF-8")
    return Media(found[0].lower(), None)
