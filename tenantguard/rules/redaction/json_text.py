"""JSON as text: found in place, changed in place, every other byte kept.

Big integers, keys that occur twice, white space and escapes stay as they were written. The reader keeps its own
stack, up to ``DEPTH_MAX`` levels of 200 bytes each. It takes RFC 8259 and, as Python's writer does, ``NaN`` and
``Infinity``; anything else is a :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError`, since another
reader might find other strings in it.

Most bodies hold nothing to replace. Their texts are taken out in C, and the rule is asked once about all of them
together; only where it does not clear them is each looked at by itself.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.rules.redaction.base64_text import OPAQUE, read_base64
from tenantguard.rules.redaction.fields import ALL_FIELDS, EVERYWHERE, Fields, Scope, compile_fields, shown
from tenantguard.rules.redaction.text.rule import (
    BETWEEN,
    Edit,
    MalformedTextError,
    SecretFoundError,
    apply,
    may_be_token,
    opaque_edits,
    own_edits,
    text_edits,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.rules.redaction.fields import State
    from tenantguard.rules.redaction.text.rule import TextRule

Path: TypeAlias = tuple[str | int, ...]

DEPTH_MAX: Final = 1000
"""Containers in one another. Python's own reader gives up about there."""

NO_TEXT: Final = "there are null characters in the text: it may be in another charset"

_PATH_STEPS: Final = 8
_SPACES: Final = " \t\n\r"
_SPACE: Final = rf"[{_SPACES}]*"
_ESCAPE: Final = r"\\(?:[\"\\/bfnrt]|u[0-9a-fA-F]{4})"
STRING: Final = rf'"[^"\\\x00-\x1f]*+(?:{_ESCAPE}[^"\\\x00-\x1f]*+)*+"'
_SCALAR: Final = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|NaN|-?Infinity"
_VALUE: Final = re.compile(rf"{_SPACE}(?:(?P<string>{STRING})|(?P<scalar>{_SCALAR})|(?P<open>[\[{{]))")
_KEY: Final = re.compile(rf"{_SPACE}(?P<key>{STRING}){_SPACE}:")
_NEXT: Final = re.compile(rf"{_SPACE}(?P<mark>[,\]}}])")
_CLOSE: Final = re.compile(rf"{_SPACE}(?P<mark>[\]}}])")
_END: Final = re.compile(rf"{_SPACE}\Z")
ANY_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}"
    r"|\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F]{1,6}\}|\r\n|.)",
    re.DOTALL,
)
"""Escapes of JSON, and those of JSON5 and ECMAScript that no JSON has."""

_BREAKS: Final = "\r\n"
_CODE: Final = re.compile(r"\\(?:x(..)|u\{(.+)\})")
_QUICK: Final = 262_144
"""Texts of so many quotes, and so many containers, are read in C: that takes 40 MB, and 5 times the text's size."""


_READER: Final = json.JSONDecoder(object_pairs_hook=bool, parse_int=bool, parse_float=bool, parse_constant=bool)
"""Tells whether a text is JSON, and builds none of its values but lists: ``bool`` makes nothing, and runs in C."""

_DECODER: Final = json.JSONDecoder()
_WRITER: Final = json.JSONEncoder(ensure_ascii=False)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_FIGURES: Final = re.compile(r"[^A-Za-z]{7,}")  # more than an index: may be a card or a telephone number
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:/+=-]*")
_NUMBER: Final = re.compile(r"-?[0-9][0-9.eE+-]*")
_BRACKETS: Final = bytes(range(256)).translate(None, b"[]{}")
_DEEPER: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
LITERAL: Final = re.compile(f"({STRING})")
"""A string literal: what it splits a JSON text into is, in turn, what is no string and what is one."""

_LITERALS: Final = re.compile(rf'({STRING}|"[\s\S]*+)')
"""The same in linear time for any text: a quote that begins no literal takes all that follows with it."""

_UNFINISHED: Final = re.compile(
    rf'{_SPACE}(?:"[^"\\\x00-\x1f]*+(?:{_ESCAPE}[^"\\\x00-\x1f]*+)*+(?:\\(?:u[0-9a-fA-F]{{0,3}})?|"{_SPACE})?'
    r"|[A-Za-z0-9.+-]{0,32})"
)
"""What a JSON text can end in where it is cut off within a key or value."""

SCALAR: Final = re.compile(_SCALAR)
"""A whole JSON number or literal."""


class _NoJSONError(MalformedTextError):
    """A text is no JSON at the character ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__(f"the text is no JSON at character {at}")
        self.at = at


class Kind(Enum):
    """What stands at a place of a JSON text."""

    STRING = "string"
    KEY = "key"
    SCALAR = "scalar"
    CONTAINER = "container"
    LEFT = "left"
    """A key, string or scalar that the fields of a policy leave out."""


_KINDS: Final = {"string": Kind.STRING, "scalar": Kind.SCALAR}


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
    """What is known of a protocol: values that are its own, and keys whose strings are JSON themselves.

    The value under a protocol key, or at one of ``protocol_paths`` exactly, is left alone only if it looks like an
    identifier: letters, digits and ``_ . : / + = -`` without a space. What stands under a copy key says again what
    its neighbours say, in another form (tokens and their bytes): it becomes ``null`` where one of them is changed.
    Strings under a JSON key, and objects under an argument key, are the arguments of tool calls.
    """

    protocol_keys: frozenset[str] = frozenset()
    protocol_paths: Fields | None = field(default=None, repr=False)
    json_keys: frozenset[str] = frozenset()
    argument_keys: frozenset[str] = frozenset()
    copy_keys: frozenset[str] = frozenset()

    def leaves(self, path: Path, value: str) -> bool:
        """Whether the string at ``path`` is the protocol's own; in the arguments of a tool call none is."""
        if not path:
            return False
        if self.protocol_paths is not None and self.protocol_paths.ends_at(path):
            own = _IDENTIFIER.fullmatch(value) is not None
        elif path[-1] in self.protocol_keys:
            own = _IDENTIFIER.fullmatch(value) is not None and _FIGURES.fullmatch(value) is None
        else:
            return False
        return own and not self.in_arguments(path)

    def in_arguments(self, path: Path) -> bool:
        """Whether what stands at ``path`` belongs to the arguments of a tool call."""
        if not path or path[-1] in self.json_keys:
            return bool(path)
        return len(path) > 1 and any(
            step in self.argument_keys and isinstance(path[at + 1], str) for at, step in enumerate(path[:-1])
        )


ANY_JSON: Final = Shape()
LLM_JSON: Final = Shape(
    protocol_keys=frozenset({
        "id", "object", "model", "type", "role", "finish_reason", "stop_reason", "system_fingerprint", "service_tier",
        "tool_call_id", "tool_use_id", "media_type", "signature", "encrypted_content", "obfuscation", "item_id",
        "call_id", "response_id", "previous_response_id", "created_at", "done_reason", "finishReason", "modelVersion",
        "responseId", "mimeType", "thoughtSignature",
    }),
    json_keys=frozenset({"arguments", "partial_json"}),
    argument_keys=frozenset({"input", "args", "arguments"}),
    copy_keys=frozenset({"logprobs"}),
)  # fmt: skip
"""The bodies and events of model providers."""

_RPC_PATHS: Final = (
    "jsonrpc", "id", "method", "params.name", "params.protocolVersion", "params.progressToken", "params.requestId",
    "params._meta.progressToken", "params.cursor", "params.level", "params.messages[*].role",
    "params.messages[*].content.type", "result.protocolVersion", "result.nextCursor", "result.role", "result.model",
    "result.stopReason", "result.content.type", "result.content[*].type", "result.content[*].mimeType",
    "result.content[*].resource.mimeType", "result.contents[*].mimeType", "result.messages[*].role",
    "result.messages[*].content.type", "result.tools[*].name", "result.prompts[*].name",
)  # fmt: skip
RPC_JSON: Final = Shape(
    protocol_paths=compile_fields([*_RPC_PATHS, *(f"[*].{path}" for path in _RPC_PATHS)]),
    argument_keys=frozenset({"arguments", "structuredContent"}),
)
"""JSON-RPC 2.0, alone or as a batch, with what the Model Context Protocol (revision 2025-06-18) says in it."""

_RPC_KEY: Final = '"jsonrpc"'
_VERSION: Final = {("jsonrpc",), (0, "jsonrpc")}


def rpc_or_any(found: Iterable[Place], text: str) -> Shape:
    """``RPC_JSON`` if the text, whose places are ``found``, says that it is JSON-RPC 2.0, else ``ANY_JSON``."""
    for kind, start, end, path in found:
        if path in _VERSION and kind is not Kind.KEY and text[start:end] == '"2.0"':
            return RPC_JSON
    return ANY_JSON


def places(text: str, fields: Fields = ALL_FIELDS) -> Iterator[Place]:
    """Every key and value of a JSON text, in order, a container after what is in it.

    What ``fields`` leave out is :attr:`Kind.LEFT`. Raises :class:`MalformedTextError` at the first character that is
    no JSON.
    """
    stack: list[_Open] = []
    path: Path = ()
    state = fields.start
    at = 0
    while True:
        found = _VALUE.match(text, at)
        if found is None:
            raise _NoJSONError(at)
        at = found.end()
        name = found.lastgroup or ""
        if name == "open":
            if len(stack) == DEPTH_MAX:
                raise MalformedTextError("the text nests too deeply")
            inner = _Open(text[at - 1] == "{", at - 1, path, state)
            stack.append(inner)
            if _CLOSE.match(text, at) is None:
                key, path, state, at = _child(text, at, inner, fields)
                if key is not None:
                    yield key
                continue
        else:
            kind = _KINDS[name] if fields.everything or fields.looks(state) else Kind.LEFT
            yield Place(kind, found.start(name), at, path)
        while stack:
            inner = stack[-1]
            mark = _NEXT.match(text, at)
            if mark is None:
                raise _NoJSONError(at)
            at = mark.end()
            if text[at - 1] == ",":
                key, path, state, at = _child(text, at, inner, fields)
                if key is not None:
                    yield key
                break
            if (text[at - 1] == "}") is not inner.is_object:
                raise _NoJSONError(at - 1)
            stack.pop()
            yield Place(Kind.CONTAINER, inner.start, at, inner.path)
        else:
            if _END.match(text, at) is None:
                raise _NoJSONError(at)
            return


def is_json(text: str) -> bool | None:
    """Whether a text is an object or an array in JSON; None where it is not, but can go on so that it is.

    Now and then None for one that cannot. Raises :class:`MalformedTextError` for one that nests too deeply.
    """
    begin = text.lstrip(_SPACES)[:1]
    if begin not in {"{", "["}:
        return None if not begin else False
    try:
        deque(places(text), maxlen=0)
    except _NoJSONError as error:
        return None if _UNFINISHED.fullmatch(text, error.at) else False
    return True


def rewrite_json(data: bytes, rule: TextRule, shape: Shape | None = ANY_JSON, scope: Scope = EVERYWHERE) -> bytes:
    """``data`` with the strings of its values rewritten by ``rule``, and what ``scope`` adds; every other byte stays.

    ``shape`` None: that of JSON-RPC, where it is that. Raises :class:`MalformedTextError` if it is no JSON in UTF-8.
    """
    text = decode_utf8(data)
    rewritten = rewrite_text(text, rule, shape, scope)
    return data if rewritten is text else rewritten.encode()


def rewrite_text(text: str, rule: TextRule, shape: Shape | None = ANY_JSON, scope: Scope = EVERYWHERE) -> str:
    """As :func:`rewrite_json`, of a text; the very same one where nothing is replaced."""
    quick = _read_quickly(text, shape, scope)
    if quick is not None:
        one_rule = rule.arguments is rule
        asked = BETWEEN.join([value for _, _, value in quick.texts] + quick.asked)
        clear = not asked or (rule.clears(asked) and (one_rule or rule.arguments.clears(asked)))
        used = clear or (quick.simple and (one_rule or not quick.arguments))
        if used and not (quick.own and rule.own(quick.own)):
            if opaque := quick.opaque + (quick.hidden if clear else 0):
                rule.skipped[OPAQUE] = rule.skipped.get(OPAQUE, 0) + opaque
            return text if clear else _rewrite_quickly(text, quick, rule, shape or ANY_JSON)
    if shape is None:
        shape = rpc_or_any(places(text), text) if _RPC_KEY in text else ANY_JSON
    edits = json_edits(places(text, scope.fields), text, rule, shape, keys=scope.keys, numbers=scope.numbers)
    return apply(text, edits) if edits else text


@dataclass(slots=True)
class _Quick:
    """A JSON text read in C: what is between its literals and what is in them, in turn.

    ``texts`` are the strings of values: which part, key or nothing, value. ``asked`` is what else must be clear for
    the text to be so, ``opaque`` how many strings are binary, ``hidden`` how many inside of others. ``simple``:
    nothing is said twice, and the rule looks
    at all strings of values and nothing else. ``arguments``: there are some, as an object. ``own`` is what the
    protocol has of its own, and the keys.
    """

    parts: list[str]
    texts: list[tuple[int, Path, str]]
    asked: list[str]
    simple: bool
    opaque: int = 0
    hidden: int = 0
    arguments: bool = False
    own: str = ""


def _read_quickly(text: str, shape: Shape | None, scope: Scope) -> _Quick | None:
    """A JSON text read in C; None where only :func:`places` can tell, or it would take too much memory.

    Python's own reader, which takes what :func:`places` takes, tells of the text with its strings emptied whether it
    is JSON.
    """
    if text.count('"') > _QUICK:
        return None
    parts = _parts(text)
    if parts is None:
        return None
    frame = '""'.join(parts[::2])
    containers = frame.count("[") + frame.count("{")
    if containers > _QUICK or (containers > DEPTH_MAX and _depth(frame) > DEPTH_MAX):
        return None
    if scope.numbers and len(frame) > _QUICK:
        return None
    try:
        end = _READER.raw_decode(frame, len(frame) - len(frame.lstrip(_SPACES)))[1]
    except (ValueError, RecursionError):
        return None
    if end < len(frame) and _END.match(frame, end) is None:
        return None
    simple = scope is EVERYWHERE and not (_RPC_KEY in text if shape is None else shape.protocol_paths)
    quick = _Quick(parts, [], _NUMBER.findall(frame) if scope.numbers else [], simple)
    return quick if _collect(quick, shape or ANY_JSON, scope) else None


def _parts(text: str) -> list[str] | None:
    """What is between the literals of a text and the literals, in turn; None where a quote begins none."""
    parts = _LITERALS.split(text)
    return parts if len(parts) == 1 or LITERAL.fullmatch(parts[-2]) else None


def _collect(quick: _Quick, shape: Shape, scope: Scope) -> bool:
    """Sort the strings; False where only their paths tell what hides in them."""
    path: Path = ()
    parts = quick.parts
    left: list[str] = []
    names: list[str] = []
    keys, elsewhere = shape.protocol_keys, shape.protocol_paths is not None
    for at in range(1, len(parts), 2):
        literal, after = parts[at], parts[at + 1]
        value = literal[1:-1] if "\\" not in literal else decode(literal)
        if after[:1] in _SPACES:
            after = after.lstrip(_SPACES)
        if after[:1] == ":":
            opening = after[1:].lstrip(_SPACES)[:1]
            if opening in {"{", "["}:
                quick.simple = quick.simple and value not in shape.copy_keys
                quick.arguments = quick.arguments or (opening == "{" and value in shape.argument_keys)
            if scope.keys:
                quick.asked.append(value)
            elif value not in shape.protocol_keys:
                names.append(value)
            path = () if opening else (value,)
            continue
        if path and (path[0] in keys or elsewhere) and shape.leaves(path, value):
            left.append(value)
        elif value:
            encoded = read_base64(value) if " " not in value else None
            if encoded is not None and encoded.text is None:
                quick.opaque += 1
                if may_be_token(value):
                    names.append(value)
            else:
                quick.texts.append((at, path, value))
                if encoded is not None and encoded.text is not None:
                    _see_through(quick, encoded.text)
                elif (path and path[0] in shape.json_keys) or ("\\" in value and _is_coded(value)):
                    _see_through(quick, value)
        path = ()
    quick.own = BETWEEN.join([*left, *names])
    if quick.arguments and left:  # some of these may be no identifiers, but a tool's
        quick.asked += left
        quick.simple = False
        return all(read_base64(value) is None for value in left)
    return True


def _see_through(quick: _Quick, text: str) -> None:
    """Ask for a text that may be JSON or base64, too, and for whatever would be read out of it."""
    encoded = read_base64(text)
    if encoded is None:
        quick.asked.append(ANY_ESCAPE.sub(unescaped, text) if "\\" in text else text)
        if text.lstrip(_SPACES)[:1] in {"{", "[", '"'} and (parts := _parts(text)) is not None:
            for literal in islice(parts, 1, None, 2):
                _see_through(quick, decode(literal))
    elif encoded.text is None:
        quick.hidden += 1
        if may_be_token(text):
            quick.asked.append(text)
    else:
        _see_through(quick, encoded.text)


def _rewrite_quickly(text: str, quick: _Quick, rule: TextRule, shape: Shape) -> str:
    parts = quick.parts
    changed = False
    for at, path, value in quick.texts:
        try:
            edits = string_edits(value, path, rule, shape)
        except SecretFoundError as found:
            literals = (place for place in places(text) if place.kind in {Kind.STRING, Kind.KEY})
            place = next(islice(literals, at // 2, None))
            found.location = shown(place.path, found.location)
            raise
        if edits:
            parts[at] = edited_literal(parts[at], edits)
            changed = True
    return "".join(parts) if changed else text


def _depth(frame: str) -> int:
    """How many containers are in one another."""
    brackets = frame.encode("ascii", "replace").translate(None, _BRACKETS)
    return max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0)


def json_edits(
    found: Iterable[Place],
    text: str,
    rule: TextRule,
    shape: Shape = ANY_JSON,
    *,
    keys: bool = False,
    numbers: bool = False,
) -> list[Edit]:
    """Every change that ``rule`` makes in a JSON text whose places are ``found``; in keys and numbers too by option.

    Of keys, secrets are replaced without the option too.

    A number in which something is found becomes a string.
    """
    edits: list[Edit] = []
    changed: set[Path] = set()
    copies: list[Place] = []
    for place in found:
        kind, start, end, path = place
        edit: Edit | None = None
        try:
            if kind is Kind.STRING or (keys and kind is Kind.KEY):
                edit = edit_literal(text, place, string_edits(decode(text[start:end]), path, rule, shape))
            elif kind is Kind.KEY:
                edit = edit_literal(text, place, own_edits(rule, decode(text[start:end])))
            elif numbers and kind is Kind.SCALAR:
                edit = number_edit(text, place, rule, shape)
        except SecretFoundError as secret:
            secret.location = shown((*path[:-1], "") if kind is Kind.KEY else path, secret.location)
            raise
        if edit is not None:
            edits.append(edit)
            changed.update(path[:steps] for steps in range(len(path)))
        elif kind is Kind.CONTAINER and path and path[-1] in shape.copy_keys:
            copies.append(place)
    return without_copies(edits, [place for place in copies if place.path[:-1] in changed])


def number_edit(text: str, place: Place, rule: TextRule, shape: Shape) -> Edit | None:
    """The change of a number in which something is found: it becomes a string. None if there is none."""
    _, start, end, path = place
    if not text[end - 1].isdigit():
        return None
    arguments = rule.arguments
    used = arguments if arguments is not rule and shape.in_arguments(path) else rule
    edits = text_edits(used, text[start:end])
    return Edit(start, end, f'"{escape(apply(text[start:end], edits))}"') if edits else None


def without_copies(edits: list[Edit], copies: Iterable[Place]) -> list[Edit]:
    """``edits`` with ``null`` in place of each of ``copies``, and without those inside of one."""
    kept: list[Edit] = []
    for edit in sorted([*edits, *(Edit(place.start, place.end, "null") for place in copies)], key=_outermost_first):
        if not kept or edit.start >= kept[-1].end:
            kept.append(edit)
    return kept


def string_edits(value: str, path: Path, rule: TextRule, shape: Shape) -> list[Edit]:
    """Every change that ``rule`` makes in one string, which is JSON itself under some keys of ``shape``."""
    if not value:
        return []
    if shape.leaves(path, value):
        return own_edits(rule, value)
    if shape.json_keys or shape.argument_keys:
        arguments = rule.arguments
        if arguments is not rule and shape.in_arguments(path):
            rule = arguments
        if path and path[-1] in shape.json_keys:
            return loose_edits(value, rule)
    return _plain_edits(value, rule)


def loose_edits(value: str, rule: TextRule) -> list[Edit]:
    """Every change that ``rule`` makes in a text that may be JSON (then in its keys too), or not."""
    if value.lstrip(_SPACES)[:1] not in {"{", "["}:
        return _plain_edits(value, rule)
    try:
        deque(places(value), maxlen=0)
    except MalformedTextError:
        return broken_edits(value, rule)
    return json_edits(places(value), value, rule, keys=True)


def broken_edits(value: str, rule: TextRule) -> list[Edit]:
    """Every change in a text that begins as JSON and is none (cut short, as a model's arguments can be).

    It is read as if all of it stood in one string, so that escapes hide nothing.
    """
    if "\\" not in value:
        return text_edits(rule, value)
    return _raw_edits(value, text_edits(rule, ANY_ESCAPE.sub(unescaped, value)))


def unescaped(found: re.Match[str]) -> str:
    """What an :data:`ANY_ESCAPE` stands for: a character, or nothing."""
    try:
        character: str = json.loads(f'"{found[0]}"')
    except ValueError:
        code = _CODE.fullmatch(found[0])
        if code is not None:
            return chr(min(int(code[1] or code[2], 16), 0x10FFFF))
        return found[0][1].strip(_BREAKS)  # a line that is broken in JSON5 goes on
    return character


def _plain_edits(value: str, rule: TextRule) -> list[Edit]:
    """Every change in a text; where it is base64 or JSON, in what it says, so that no escape hides anything."""
    encoded = read_base64(value)
    if encoded is not None:
        if encoded.text is None:
            rule.skipped[OPAQUE] = rule.skipped.get(OPAQUE, 0) + 1
            return opaque_edits(rule, value)
        if edits := loose_edits(encoded.text, rule):
            return [Edit(encoded.start, len(value), encoded.written(apply(encoded.text, edits)))]
        return []
    if "\\" in value and _is_coded(value):
        return json_edits(places(value), value, rule, keys=True)
    return [] if rule.clears(value) else text_edits(rule, value)


def _is_coded(text: str) -> bool:
    """Whether a text is JSON that holds others: an object, an array or a string."""
    return is_whole_json(text) or LITERAL.fullmatch(text.strip(_SPACES)) is not None


def is_whole_json(text: str) -> bool:
    """Whether a text is an object or an array in JSON that does not nest too deeply."""
    try:
        return is_json(text) is True
    except MalformedTextError:
        return False


def edit_literal(text: str, place: Place, edits: Sequence[Edit]) -> Edit | None:
    """The change of a literal that changes its decoded value by ``edits``; None if there are none."""
    if not edits:
        return None
    return Edit(place.start, place.end, edited_literal(text[place.start : place.end], edits))


def edited_literal(literal: str, edits: Sequence[Edit]) -> str:
    """``literal`` with its decoded value changed by ``edits``; what they leave stays as written."""
    return f'"{apply(literal[1:-1], _raw_edits(literal[1:-1], edits))}"'


def _raw_edits(raw: str, edits: Sequence[Edit]) -> list[Edit]:
    """What changes the inside of a literal, ``raw``, so that its decoded value is changed by ``edits``."""
    offsets = [offset for edit in edits for offset in (edit.start, edit.end)]
    offsets = raw_offsets(raw, offsets) if "\\" in raw else offsets
    return [Edit(offsets[2 * index], offsets[2 * index + 1], escape(edit.new)) for index, edit in enumerate(edits)]


def raw_offsets(raw: str, offsets: Sequence[int]) -> list[int]:
    """Where the characters at ``offsets`` (rising) of a decoded string stand in the literal's inside, ``raw``."""
    found: list[int] = []
    gained = 0
    escapes = ANY_ESCAPE.finditer(raw)
    escape_now = next(escapes, None)
    for offset in offsets:
        while escape_now is not None and escape_now.start() - gained < offset:
            gained += len(escape_now[0]) - (escape_now[0][1] not in _BREAKS)
            escape_now = next(escapes, None)
        found.append(offset + gained)
    return found


def decode(literal: str) -> str:
    """The value of a string literal."""
    if "\\" not in literal:
        return literal[1:-1]
    value: str = _DECODER.raw_decode(literal)[0]
    return value


def escape(text: str) -> str:
    """``text`` as it stands between the quotes of a literal."""
    escaped = _WRITER.encode(text)[1:-1]
    if escaped.isascii():
        return escaped
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


def decode_utf8(data: bytes) -> str:
    """``data`` as text; :class:`MalformedTextError` if it is not UTF-8, or holds what only other charsets put in."""
    if b"\0" in data:
        raise MalformedTextError(NO_TEXT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedTextError(f"the bytes are not UTF-8 at {error.start}") from None


@dataclass(slots=True)
class _Open:
    is_object: bool
    start: int
    path: Path
    state: State
    count: int = 0


def _child(text: str, at: int, inner: _Open, fields: Fields) -> tuple[Place | None, Path, State, int]:
    """The next child of a container: its key in an object, its path and state, and where its value may begin."""
    key: Place | None = None
    if inner.is_object:
        found = _KEY.match(text, at)
        if found is None:
            raise _NoJSONError(at)
        start, end = found.span("key")
        path: Path = (*inner.path[:_PATH_STEPS], decode(text[start:end]))
        key, at = Place(Kind.KEY, start, end, path), found.end()
    else:
        path = (*inner.path[:_PATH_STEPS], inner.count)
        inner.count += 1
    if fields.everything:
        return key, path, inner.state, at
    state = fields.enter(inner.state, path[-1])
    if key is not None and not fields.looks(state):
        key = key._replace(kind=Kind.LEFT)
    return key, path, state, at


def _outermost_first(edit: Edit) -> tuple[int, int]:
    return edit.start, -edit.end
