"""JSON as text: found in place, changed in place, every other byte kept.

Big integers, keys that occur twice, white space and escapes stay as they were written. The reader keeps its own
stack, up to ``DEPTH_MAX`` levels of 200 bytes each. It takes RFC 8259 and, as Python's writer does, ``NaN`` and
``Infinity``; anything else is a :class:`~tenantguard.rules.redaction.rule.MalformedTextError`, since another reader
might find other strings in it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.rules.redaction.rule import Edit, MalformedTextError, apply, text_edits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.rules.redaction.rule import TextRule

Path: TypeAlias = tuple[str | int, ...]

DEPTH_MAX: Final = 1000
"""Containers in one another. Python's own reader gives up about there."""

_PATH_STEPS: Final = 8
_SPACES: Final = " \t\n\r"
_SPACE: Final = rf"[{_SPACES}]*"
_ESCAPE: Final = r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})"
_STRING: Final = rf'"[^"\\\x00-\x1f]*+(?:{_ESCAPE}[^"\\\x00-\x1f]*+)*+"'
_SCALAR: Final = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|NaN|-?Infinity"
_VALUE: Final = re.compile(rf"{_SPACE}(?:(?P<string>{_STRING})|(?P<scalar>{_SCALAR})|(?P<open>[\[{{]))")
_KEY: Final = re.compile(rf"{_SPACE}(?P<key>{_STRING}){_SPACE}:")
_NEXT: Final = re.compile(rf"{_SPACE}(?P<mark>[,\]}}])")
_CLOSE: Final = re.compile(rf"{_SPACE}(?P<mark>[\]}}])")
_END: Final = re.compile(rf"{_SPACE}\Z")
_RAW: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.",
)
_SMALL_CHARS: Final = 65_536
_READER: Final = json.JSONDecoder()
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:/+=-]*")
LITERAL: Final = re.compile(f"({_STRING})")
"""A string literal: what it splits a JSON text into is, in turn, what is no string and what is one."""

SCALAR: Final = re.compile(_SCALAR)
"""A whole JSON number or literal."""


class Kind(Enum):
    """What stands at a place of a JSON text."""

    STRING = "string"
    KEY = "key"
    SCALAR = "scalar"
    CONTAINER = "container"


class Place(NamedTuple):
    """``text[start:end]`` is a value, quotes and brackets included.

    ``path`` leads to it: keys and indexes, the last one always its own; of more than eight steps before that only
    the first eight are told.
    """

    kind: Kind
    start: int
    end: int
    path: Path


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a protocol: keys whose values are its own, and keys whose strings are JSON themselves.

    The value under a protocol key is left alone only if it looks like an identifier: letters, digits and
    ``_ . : / + = -`` without a space. What stands under a copy key says again what its neighbours say, in another
    form (tokens and their bytes): it becomes ``null`` where one of them is changed.
    """

    protocol_keys: frozenset[str] = frozenset()
    json_keys: frozenset[str] = frozenset()
    copy_keys: frozenset[str] = frozenset()

    def leaves(self, path: Path, value: str) -> bool:
        """Whether the string at ``path`` is the protocol's own."""
        return bool(path) and path[-1] in self.protocol_keys and _IDENTIFIER.fullmatch(value) is not None


ANY_JSON: Final = Shape()
LLM_JSON: Final = Shape(
    protocol_keys=frozenset({
        "id", "object", "model", "type", "role", "finish_reason", "stop_reason", "system_fingerprint", "service_tier",
        "tool_call_id", "tool_use_id", "media_type", "signature", "encrypted_content", "obfuscation",
    }),
    json_keys=frozenset({"arguments", "partial_json"}),
    copy_keys=frozenset({"logprobs"}),
)  # fmt: skip
"""OpenAI's and Anthropic's bodies and events."""


def places(text: str) -> Iterator[Place]:
    """Every key and value of a JSON text, in order, a container after what is in it.

    Raises :class:`MalformedTextError` at the first character that is no JSON.
    """
    stack: list[_Open] = []
    path: Path = ()
    at = 0
    while True:
        found = _VALUE.match(text, at)
        if found is None:
            raise _no_json(at)
        at = found.end()
        if found.lastgroup == "open":
            if len(stack) == DEPTH_MAX:
                raise MalformedTextError("the text nests too deeply")
            inner = _Open(text[at - 1] == "{", at - 1, path)
            stack.append(inner)
            if _CLOSE.match(text, at) is None:
                if inner.is_object:
                    key = _key(text, at, path)
                    yield key[0]
                    path, at = key[0].path, key[1]
                else:
                    path = (*path[:_PATH_STEPS], 0)
                continue
        elif found.lastgroup == "string":
            yield Place(Kind.STRING, found.start("string"), at, path)
        else:
            yield Place(Kind.SCALAR, found.start("scalar"), at, path)
        while stack:
            inner = stack[-1]
            mark = _NEXT.match(text, at)
            if mark is None:
                raise _no_json(at)
            at = mark.end()
            if text[at - 1] == ",":
                if inner.is_object:
                    key = _key(text, at, inner.path)
                    yield key[0]
                    path, at = key[0].path, key[1]
                else:
                    inner.count += 1
                    path = (*inner.path[:_PATH_STEPS], inner.count)
                break
            if (text[at - 1] == "}") is not inner.is_object:
                raise _no_json(at - 1)
            stack.pop()
            yield Place(Kind.CONTAINER, inner.start, at, inner.path)
        else:
            if _END.match(text, at) is None:
                raise _no_json(at)
            return


def rewrite_json(data: bytes, rule: TextRule, shape: Shape = ANY_JSON) -> bytes:
    """``data`` with the strings of its values rewritten by ``rule``; keys and every other byte stay.

    Raises :class:`MalformedTextError` if it is no JSON in UTF-8.
    """
    text = decode_utf8(data)
    rewritten = _rewrite_small(text, rule, shape)
    if rewritten is None:
        rewritten = apply(text, json_edits(places(text), text, rule, shape))
    return data if rewritten == text else rewritten.encode()


def _rewrite_small(text: str, rule: TextRule, shape: Shape) -> str | None:
    """What :func:`rewrite_json` makes of a small text, in a third of the time.

    None, with nothing asked of ``rule`` yet, where only :func:`places` can tell: the text is large, nests deeply, is
    no JSON, or holds a copy. Python's reader, in C, takes what :func:`places` takes, but builds the values, 30 times
    as large as a small text can be. In what it took, no quote stands outside of a literal.
    """
    if len(text) > _SMALL_CHARS or text.count("[") + text.count("{") > DEPTH_MAX:
        return None
    try:
        end = _READER.raw_decode(text)[1]
    except (ValueError, RecursionError):
        return None
    if end < len(text) and _END.match(text, end) is None:
        return None
    parts = LITERAL.split(text)
    texts: list[tuple[int, Path]] = []
    path: Path = ()
    for at in range(1, len(parts), 2):
        after = parts[at + 1].lstrip(_SPACES)
        if after[:1] != ":":
            texts.append((at, path))
            path = ()
            continue
        key = decode(parts[at])
        value = after[1:].lstrip(_SPACES)
        if value[:1] in {"{", "["} and key in shape.copy_keys:
            return None
        path = () if value else (key,)
    for at, path in texts:
        if edits := string_edits(decode(parts[at]), path, rule, shape):
            parts[at] = edited_literal(parts[at], edits)
    return "".join(parts)


def json_edits(
    found: Iterable[Place], text: str, rule: TextRule, shape: Shape = ANY_JSON, *, keys: bool = False
) -> list[Edit]:
    """Every change that ``rule`` makes in a JSON text whose places are ``found``; in its keys too with ``keys``."""
    edits: list[Edit] = []
    changed: set[Path] = set()
    copies: list[Place] = []
    for place in found:
        kind, start, end, path = place
        if kind is Kind.STRING or (keys and kind is Kind.KEY):
            edit = edit_literal(text, place, string_edits(decode(text[start:end]), path, rule, shape))
            if edit is not None:
                edits.append(edit)
                changed.update(path[:steps] for steps in range(len(path)))
        elif kind is Kind.CONTAINER and path and path[-1] in shape.copy_keys:
            copies.append(place)
    return without_copies(edits, [place for place in copies if place.path[:-1] in changed])


def without_copies(edits: list[Edit], copies: Iterable[Place]) -> list[Edit]:
    """``edits`` with ``null`` in place of each of ``copies``, and without those inside of one."""
    kept: list[Edit] = []
    for edit in sorted([*edits, *(Edit(place.start, place.end, "null") for place in copies)], key=_outermost_first):
        if not kept or edit.start >= kept[-1].end:
            kept.append(edit)
    return kept


def string_edits(value: str, path: Path, rule: TextRule, shape: Shape) -> list[Edit]:
    """Every change that ``rule`` makes in one string, which is JSON itself under some keys of ``shape``."""
    if shape.leaves(path, value):
        return []
    if path and path[-1] in shape.json_keys and value.lstrip(" \t\n\r")[:1] in {"{", "["}:
        try:
            inner = list(places(value))
        except MalformedTextError:
            return text_edits(rule, value)
        return json_edits(inner, value, rule, keys=True)
    return text_edits(rule, value)


def edit_literal(text: str, place: Place, edits: Sequence[Edit]) -> Edit | None:
    """The change of a literal that changes its decoded value by ``edits``; None if there are none."""
    if not edits:
        return None
    return Edit(place.start, place.end, edited_literal(text[place.start : place.end], edits))


def edited_literal(literal: str, edits: Sequence[Edit]) -> str:
    """``literal`` with its decoded value changed by ``edits``; what they leave stays as written."""
    offsets = [offset for edit in edits for offset in (edit.start, edit.end)]
    offsets = raw_offsets(literal[1:-1], offsets) if "\\" in literal else offsets
    raw = [
        Edit(offsets[2 * index] + 1, offsets[2 * index + 1] + 1, escape(edit.new)) for index, edit in enumerate(edits)
    ]
    return apply(literal, raw)


def raw_offsets(raw: str, offsets: Sequence[int]) -> list[int]:
    """Where the characters at ``offsets`` (rising) of a decoded string stand in the literal's inside, ``raw``."""
    found: list[int] = []
    gained = 0
    escapes = _RAW.finditer(raw)
    escape_now = next(escapes, None)
    for offset in offsets:
        while escape_now is not None and escape_now.start() - gained < offset:
            gained += len(escape_now[0]) - 1
            escape_now = next(escapes, None)
        found.append(offset + gained)
    return found


def decode(literal: str) -> str:
    """The value of a string literal."""
    if "\\" not in literal:
        return literal[1:-1]
    value: str = json.loads(literal)
    return value


def escape(text: str) -> str:
    """``text`` as it stands between the quotes of a literal."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    if escaped.isascii():
        return escaped
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


def decode_utf8(data: bytes) -> str:
    """``data`` as text; :class:`MalformedTextError` if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedTextError(f"the bytes are not UTF-8 at {error.start}") from None


@dataclass(slots=True)
class _Open:
    is_object: bool
    start: int
    path: Path
    count: int = 0


def _key(text: str, at: int, parent: Path) -> tuple[Place, int]:
    found = _KEY.match(text, at)
    if found is None:
        raise _no_json(at)
    start, end = found.span("key")
    return Place(Kind.KEY, start, end, (*parent[:_PATH_STEPS], decode(text[start:end]))), found.end()


def _no_json(at: int) -> MalformedTextError:
    return MalformedTextError(f"the text is no JSON at character {at}")


def _outermost_first(edit: Edit) -> tuple[int, int]:
    return edit.start, -edit.end
