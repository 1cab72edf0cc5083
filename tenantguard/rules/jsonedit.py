"""Change one member of a JSON object in place, and no other byte: numbers, escapes and spacing stay as they came."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from tenantguard.errors import BadRequestError

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SPACES: Final = b" \t\n\r"
_compact: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class _NotJSONError(Exception):
    pass


def _refuse_constant(_: str) -> NoReturn:
    raise _NotJSONError  # NaN and Infinity


# str for numbers: they are skipped, and a number of any size or precision must not be read as one of ours
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


@dataclass(frozen=True, slots=True)
class _Object:
    """Where an object's values stand in the text, where a further member goes, and where the object ends."""

    values: dict[str, tuple[int, int]]
    insert: int
    end: int


def set_member(body: bytes, path: tuple[str, ...], value: Any) -> bytes:
    """Return ``body`` with ``value`` as the member at ``path``: replaced, or else added as the last of its object.

    A parent that is missing or null becomes an object. :class:`BadRequestError` where ``body`` or a parent is no JSON
    object, an object on the path has one key twice (two readers may take a different one), or the body nests too
    deeply to be read.
    """
    try:
        text = body.decode("utf-8")
        start, end, written = _edit(text, path, value)
    except UnicodeDecodeError:
        raise BadRequestError("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequestError("the body nests too deeply") from None
    except (json.JSONDecodeError, _NotJSONError, IndexError):
        raise BadRequestError("the body is not JSON") from None
    return (text[:start] + written + text[end:]).encode("utf-8")


def add_member(body: bytes, parsed: dict[str, Any], path: tuple[str, ...], value: Any) -> bytes:
    """As :func:`set_member`, for a ``body`` that was read as JSON before, without one key twice, as ``parsed``.

    Where that lacks the first name of ``path``, nothing is searched for: the last brace ends the object.
    """
    if path[0] in parsed or b"NaN" in body or b"Infinity" in body:  # which Python reads, and JSON does not know
        return set_member(body, path, value)
    end = len(body.rstrip(_SPACES)) - 1
    insert = len(body[:end].rstrip(_SPACES))
    comma = "" if body.endswith(b"{", 0, insert) else ","
    written = f"{comma}{_compact(path[0])}:{_write(path[1:], value)}"
    return body[:insert] + written.encode() + body[insert:]


def _edit(text: str, path: tuple[str, ...], value: Any) -> tuple[int, int, str]:
    found = _read_object(text, _skip_space(text, 0))
    if _skip_space(text, found.end) != len(text):
        raise _NotJSONError
    for depth, name in enumerate(path):
        inner = path[depth + 1 :]
        if name not in found.values:
            comma = "," if found.values else ""
            return found.insert, found.insert, f"{comma}{_compact(name)}:{_write(inner, value)}"
        start, end = found.values[name]
        if not inner or text[start:end] == "null":
            return start, end, _write(inner, value)
        found = _read_object(text, start)
    raise AssertionError("a path names at least one member")


def _write(path: tuple[str, ...], value: Any) -> str:
    for name in reversed(path):
        value = {name: value}
    return _compact(value)


def _read_object(text: str, at: int) -> _Object:
    if text[at] != "{":
        raise BadRequestError("the body, or a member of it, is not the object that it must be")
    values: dict[str, tuple[int, int]] = {}
    insert = at + 1
    at = _skip_space(text, insert)
    if text[at] == "}":
        return _Object(values, insert, at + 1)
    while True:
        if text[at] != '"':
            raise _NotJSONError
        name, at = _DECODER.raw_decode(text, at)
        at = _skip_space(text, at)
        if text[at] != ":":
            raise _NotJSONError
        if name in values:
            raise BadRequestError("an object in the body has one key twice")
        start = _skip_space(text, at + 1)
        _, insert = _DECODER.raw_decode(text, start)
        values[name] = (start, insert)
        at = _skip_space(text, insert)
        if text[at] == "}":
            return _Object(values, insert, at + 1)
        if text[at] != ",":
            raise _NotJSONError
        at = _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    matched = _SPACE.match(text, at)
    return matched.end() if matched is not None else at
