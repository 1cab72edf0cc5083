"""What headers say of a body: its media type, and how its bytes become text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EVENT_STREAM: Final = "text/event-stream"

_TYPE_CHARS: Final = len(b"content-type")
_ENCODING_CHARS: Final = len(b"content-encoding")
_TOKEN: Final = r"[\w!#$%&'*+.^`|~-]+"  # noqa: S105 - of RFC 9110, section 5.6.2
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
_PARAMETER: Final = re.compile(
    rf'\s*;\s*(?:({_TOKEN})\s*(?:=\s*(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+)))?)?\s*',
    re.ASCII | re.DOTALL,
)
_QUOTED: Final = re.compile(r"\\(.)", re.DOTALL)
_JSON: Final = re.compile(r"(?:application|text)/json|[\w!#$&^.+-]+/[\w!#$&^.-]+\+json", re.ASCII)
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, section 5.1.1."""

_PLAIN_BOUNDARY: Final = re.compile(r"[\w'+.-]{1,70}", re.ASCII)
"""Without quotes a boundary is a token (RFC 2045, section 5.1): some readers end it before any other character."""

_EXTENDED: Final = ("charset*", "boundary*")
"""In the notation of RFC 2231, which some readers prefer to the plain parameter and others do not know."""

UTF8: Final = "utf-8"
_CHARSETS: Final[dict[str, str]] = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), UTF8),
    **dict.fromkeys(("latin1", "latin-1", "l1", "iso8859-1", "iso_8859-1"), "iso-8859-1"),
    **{name: name for number in (*range(1, 12), *range(13, 17)) if (name := f"iso-8859-{number}")},
    **{name: f"cp{page}" for page in range(1250, 1259) for name in (f"windows-{page}", f"cp{page}")},
    **{name: name for bits in (16, 32) for end in ("", "-le", "-be") if (name := f"utf-{bits}{end}")},
    **{f"utf-{bits}{end}": f"utf-{bits}-{end}" for bits in (16, 32) for end in ("le", "be")},
}
"""Charsets that are read, by their names in small letters, and Python's names of them.

Each says a text in one way only, so that what is not replaced is written as it was read.
"""


class Content(NamedTuple):
    """What the head says of a body.

    ``type`` in small letters ("" if none is given), ``charset`` as Python calls it ("" if none is given),
    ``encodings`` in the order in which they were applied, the ``boundary`` of a multipart body ("" if it has none
    that is one), and why the head is not clear, if it is not: then the rest means nothing.
    """

    type: str
    charset: str = ""
    encodings: tuple[str, ...] = ()
    boundary: str = ""
    problem: str | None = None

    @property
    def is_json(self) -> bool:
        """Whether the type is JSON, or one that is written in JSON."""
        return self.type == "application/json" or _JSON.fullmatch(self.type) is not None


class Media(NamedTuple):
    """A body's media type in small letters ("" if none is given), and why it cannot be read as text, if it cannot."""

    type: str
    problem: str | None

    @property
    def is_json(self) -> bool:
        """Whether the type is JSON, or one that is written in JSON."""
        return self.type == "application/json" or _JSON.fullmatch(self.type) is not None


def content_of(head: Iterable[tuple[bytes, bytes]]) -> Content:
    """What the header lines of one head say of its body; what is open to two readings is a problem."""
    types, encodings = _lines(head)
    content = _UNNAMED if not types else read_type(types[0]) if len(types) == 1 else _UNCLEAR
    return content._replace(encodings=_names(encodings)) if encodings else content


def media_of(head: Iterable[tuple[bytes, bytes]]) -> Media:
    """What the header lines of one head say of a body that is read as it comes, in UTF-8."""
    types, encodings = _lines(head)
    return read_media(types, encodings) if encodings or len(types) != 1 else _read_one(types[0])


def read_media(content_types: Sequence[str], content_encodings: Iterable[str]) -> Media:
    """Read the lines of ``content-type`` and ``content-encoding``; what is open to two readings is a problem."""
    if _names(content_encodings):
        return Media("", "is encoded, and cannot be read: send it without a content-encoding")
    if len(content_types) > 1:
        return Media("", _UNCLEAR.problem)
    content = read_type(content_types[0]) if content_types else _UNNAMED
    if content.problem is not None:
        return Media("", content.problem)
    if content.charset not in {"", UTF8}:
        return Media("", "is in a charset other than UTF-8")
    return Media(content.type, None)


@lru_cache(maxsize=64)  # as that of ``read_type``
def _read_one(content_type: str) -> Media:
    return read_media((content_type,), ())


_UNNAMED: Final = Content("")
_UNCLEAR: Final = Content("", problem="has no clear content-type")


@lru_cache(maxsize=64)  # callers choose the key, and a header may be long
def read_type(content_type: str) -> Content:
    """Read the value of one ``content-type``."""
    given = content_type.strip()
    found = _MEDIA_TYPE.match(given)
    if found is None:
        return _UNCLEAR
    charset: str | None = None
    boundary: str | None = None
    at = found.end()
    while at < len(given):
        parameter = _PARAMETER.match(given, at)
        if parameter is None:
            return _UNCLEAR
        at = parameter.end()
        name, quoted, plain = parameter.groups()
        value = _QUOTED.sub(r"\1", quoted) if quoted is not None else plain
        match (name or "").lower():
            case extended if extended.startswith(_EXTENDED):
                return _UNCLEAR
            case "charset" if charset is not None:
                return _UNCLEAR
            case "charset":
                charset = _CHARSETS.get((value or "").lower())
                if charset is None:
                    return Content("", problem="is in a charset that cannot be read: send UTF-8")
            case "boundary" if boundary is not None:
                return _UNCLEAR
            case "boundary":
                given_as = _BOUNDARY if quoted is not None else _PLAIN_BOUNDARY
                boundary = value if given_as.fullmatch(quoted or plain or "") else ""
            case _:
                pass
    return Content(found[0].lower(), charset or "", boundary=boundary or "")


def _lines(head: Iterable[tuple[bytes, bytes]]) -> tuple[list[str], list[str]]:
    types: list[str] = []
    encodings: list[str] = []
    for name, value in head:
        length = len(name)
        if length == _TYPE_CHARS and name.lower() == b"content-type":
            types.append(value.decode("latin-1"))
        elif length == _ENCODING_CHARS and name.lower() == b"content-encoding":
            encodings.append(value.decode("latin-1"))
    return types, encodings


def _names(content_encodings: Iterable[str]) -> tuple[str, ...]:
    names = [name.strip().lower() for line in content_encodings for name in line.split(",")]
    return tuple(name for name in names if name not in {"", "identity"})
