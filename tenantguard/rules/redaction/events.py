"""Event streams redacted while they stream: OpenAI's and Anthropic's deltas joined, any other event by itself.

A text that a protocol sends as deltas is one text, a *channel*: a choice's field (OpenAI) or a content block's
(Anthropic). What a channel holds back leaves with its next delta, at the latest in a delta of our own directly before
the event that ends it: the chunk with the choice's ``finish_reason``, ``content_block_stop``, ``[DONE]``, or the end
of the stream. Events keep their order, framing and every byte that is not redacted. A comment, and a field other than
``data`` that is no identifier, is a plain text by itself. Any other line ends the stream: no reader of events is told
of it, but whoever reads the bytes is (another kind of body under the name of an event stream).

Everything else that is a string in an event's JSON is redacted by itself, in shapes that are known and in those that
are not; in known shapes, a protocol's own identifiers stay (``LLM_JSON``). In a stream of unknown shape, a value that
is split over two events is not found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from tenantguard.rules.redaction.hold import TextStream, join
from tenantguard.rules.redaction.json_stream import JsonTextStream
from tenantguard.rules.redaction.json_text import (
    ANY_JSON,
    LITERAL,
    LLM_JSON,
    Kind,
    decode,
    decode_utf8,
    edit_literal,
    edited_literal,
    escape,
    json_edits,
    places,
    string_edits,
    without_copies,
)
from tenantguard.rules.redaction.rule import Edit, MalformedTextError, apply, text_edits
from tenantguard.rules.sse import BYTE_ORDER_MARK, SSEFramer, read_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.rules.redaction.json_text import Path, Place
    from tenantguard.rules.redaction.rule import TextRule
    from tenantguard.rules.sse import SSEEvent

Key: TypeAlias = tuple[str, ...]
"""A channel: the choice or block that it belongs to, as JSON text, then the steps to its field."""

_DONE: Final = b"[DONE]"
_LINES: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:(?:(?:data|event|id|retry)(?::[^\r\n]*+)?|:[^\r\n]*+)?+(?:\r\n|\r|\n|\Z))*+",
)
"""Comments and the fields of the WHATWG HTML standard, section 9.2.6, and nothing else."""

_USUAL_LINES: Final = re.compile(
    rb"(?:(?:data:[^\r\n]*+|(?:event|id|retry): ?[A-Za-z0-9_.:/+=-]*+|:)?+(?:\r\n|\r|\n))*+",
)
"""Of these, nothing but data can be personal."""

_ANTHROPIC_EVENTS: Final = frozenset({
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
    "message_stop", "ping", "error",
})  # fmt: skip
_ANTHROPIC_FIRST_TEXTS: Final[dict[Path, tuple[str, str]]] = {
    ("content_block", "text"): ("text_delta", "text"),
    ("content_block", "thinking"): ("thinking_delta", "thinking"),
}
_READ_FIELDS: Final = frozenset({"type", "index"})
_FORMS_MAX: Final = 16
_FORM_CHARS_MAX: Final = 2048  # finding literals in what is no JSON may cost the square of this
_OPENAI_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


class EventStream:
    """Redacts the bytes of one event stream by ``rule``.

    With ``protocol``, the stream must be that of a model provider: data that is neither JSON nor ``[DONE]`` is a
    :class:`~tenantguard.rules.redaction.rule.MalformedTextError`. Without it, such data is redacted as plain text.
    """

    def __init__(self, rule: TextRule, *, protocol: bool) -> None:
        self._rule = rule
        self._protocol = protocol
        self._framer = SSEFramer()
        self._channels: dict[Key, _Channel] = {}
        self._forms: dict[tuple[str, ...], _Form] = {}

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        out = [self._event(event) for event in self._framer.feed(chunk)]
        if self._framer.overflowed:
            raise MalformedTextError("an event of the stream is too large")
        return b"".join(out)

    def finish(self) -> bytes:
        """The stream has ended; return the rest of it. An unfinished event with data is an error."""
        last = SSEFramer()
        out = [self._event(event) for event in last.feed(self._framer.finish() + b":")]  # what a last CR waited for
        rest = last.finish()[:-1]
        unfinished = b"".join(event.data for event in SSEFramer().feed(rest + b"\n\n"))
        if unfinished.strip() not in {b"", _DONE}:
            raise MalformedTextError("the stream ended inside an event")
        return b"".join(out) + self._close(self._channels) + self._lines(rest)

    def _event(self, event: SSEEvent) -> bytes:
        if _USUAL_LINES.fullmatch(event.raw) is None:
            event = replace(event, raw=self._lines(event.raw))
        if not event.data.strip():
            return event.raw
        if event.data.strip() == _DONE:
            return self._close(self._channels) + event.raw
        text = decode_utf8(event.data)
        if self._forms and len(text) <= _FORM_CHARS_MAX:
            parts = LITERAL.split(text)
            form = self._forms.get(tuple(parts[::2]))
            if form is not None and form.fixed(parts) == form.values:
                return self._formed(form, parts, event)
        before = b""
        try:
            found = list(places(text))
        except MalformedTextError:
            if self._protocol or text.lstrip()[:1] in {"{", "["}:
                raise
            edits = text_edits(self._rule, text)
        else:
            view = _view(found, text)
            if view is not None:
                parts = LITERAL.split(text)
                form = _form(view, found, parts)
                if form is not None:
                    if len(text) <= _FORM_CHARS_MAX and len(self._forms) < _FORMS_MAX:
                        self._forms[tuple(parts[::2])] = form
                    return self._formed(form, parts, event)
                before, edits = self._deltas(view, found, text)
            else:
                edits = json_edits(found, text, self._rule, LLM_JSON if self._protocol else ANY_JSON)
                if any(place.path == ("error",) for place in found):
                    before = self._close(self._channels)
        return before + (event.with_data(apply(text, edits).encode()) if edits else event.raw)

    def _formed(self, form: _Form, parts: list[str], event: SSEEvent) -> bytes:
        """What leaves for an event of this form."""
        changed = False
        for at, path, key in form.texts:
            literal = parts[at]
            value = decode(literal)
            if key is not None:
                new = self._say(form.view, key, value)
                if new != value:
                    parts[at] = f'"{escape(new)}"'
                    changed = True
            elif edits := string_edits(value, path, self._rule, LLM_JSON):
                parts[at] = edited_literal(literal, edits)
                changed = True
        before = self._close([key for key in self._channels if form.view.ends(key)])
        return before + (event.with_data("".join(parts).encode()) if changed else event.raw)

    def _lines(self, raw: bytes) -> bytes:
        """``raw`` with what is no data in it redacted, line by line."""
        if _LINES.fullmatch(raw) is None:
            raise MalformedTextError("a line of the stream is no field of an event")
        lines = raw.splitlines(keepends=True)
        for position, line in enumerate(lines):
            if read_field(line.removeprefix(BYTE_ORDER_MARK), b"data") is None:
                text = decode_utf8(line)
                lines[position] = apply(text, text_edits(self._rule, text)).encode()
        return b"".join(lines)

    def _deltas(self, view: _View, found: Iterable[Place], text: str) -> tuple[bytes, list[Edit]]:
        """What leaves before an event of known shape in which something is said twice, and the changes in it."""
        edits: list[Edit] = []
        copies: list[Place] = []
        changed: set[Path] = set()
        for place in found:
            kind, start, end, path = place
            if kind is Kind.CONTAINER and path and path[-1] in LLM_JSON.copy_keys:
                copies.append(place)
            if kind is not Kind.STRING:
                continue
            value = decode(text[start:end])
            key = view.channel(path)
            if key is None:
                edit = edit_literal(text, place, string_edits(value, path, self._rule, LLM_JSON))
            else:
                new = self._say(view, key, value)
                edit = Edit(start, end, f'"{escape(new)}"') if new != value else None
            if edit is not None:
                edits.append(edit)
                changed.add(path[:2])
        before = self._close([key for key in self._channels if view.ends(key)])
        return before, without_copies(edits, [place for place in copies if place.path[:2] in changed])

    def _say(self, view: _View, key: Key, value: str) -> str:
        """Feed a channel; its end goes into the same delta where the event that ends it says something itself."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(self._rule, json_text=key[-1] in LLM_JSON.json_keys)
        channel.delta = partial(view.delta, key)
        said = channel.feed(value)
        if value and view.ends(key):
            said += self._channels.pop(key).finish()
        return said

    def _close(self, keys: Iterable[Key]) -> bytes:
        """End these channels; what they held back, as deltas."""
        said = [(channel.delta, channel.finish()) for channel in map(self._channels.pop, list(keys))]
        return b"".join(delta(text) for delta, text in said if text)


class _Channel:
    """One text that arrives in deltas, and how a delta of our own is written for it."""

    __slots__ = ("_json", "_text", "delta")

    def __init__(self, rule: TextRule, *, json_text: bool) -> None:
        self._json = JsonTextStream(rule) if json_text else None
        self._text = TextStream(rule)
        self.delta: Callable[[str], bytes] = str.encode

    def feed(self, text: str) -> str:
        return self._json.feed(text) if self._json is not None else join(self._text.feed(text))

    def finish(self) -> str:
        return self._json.finish() if self._json is not None else join(self._text.finish())


@dataclass(frozen=True, slots=True)
class _Form:
    """How all events are read that differ only in some of their strings: most of a stream's, in a fifth of the time.

    They have the same marks, numbers and literals between their strings, and the same ``values`` of those that
    ``fixed`` picks: keys, and what a view reads. So they are JSON too, with the same paths. ``texts`` are the strings
    to be redacted: which part, its path, its channel.
    """

    view: _View
    fixed: Callable[[list[str]], object]
    values: object
    texts: list[tuple[int, Path, Key | None]]


def _form(view: _View, found: Iterable[Place], parts: list[str]) -> _Form | None:
    """The form of an event; None where something is said twice in it, or an index is no plain value."""
    fixed: list[int] = []
    texts: list[tuple[int, Path, Key | None]] = []
    at = -1
    for place in found:
        kind, _, _, path = place
        if kind is Kind.CONTAINER and path and (path[-1] == "index" or path[-1] in LLM_JSON.copy_keys):
            return None
        if kind is Kind.KEY or kind is Kind.STRING:
            at += 2
            stays = kind is Kind.KEY or path[-1] in _READ_FIELDS or (len(path) == 1 and path[0] in _OPENAI_HEAD)
            if stays:
                fixed.append(at)
            if kind is Kind.STRING and not (stays and LLM_JSON.leaves(path, decode(parts[at]))):
                texts.append((at, path, view.channel(path)))
    pick = itemgetter(*fixed)
    return _Form(view, pick, pick(parts), texts)


class _View(Protocol):
    """One event as its protocol reads it."""

    def channel(self, path: Path) -> Key | None:
        """The channel of the string at ``path``, None where it is a whole text by itself."""
        ...

    def ends(self, key: Key) -> bool:
        """Whether nothing follows in that channel after this event."""
        ...

    def delta(self, key: Key, text: str) -> bytes:
        """An event that says ``text`` in that channel."""
        ...


def _view(found: Iterable[Place], text: str) -> _View | None:
    values = {place.path: place for place in found if place.kind is not Kind.KEY}
    if ("choices",) in values:
        return _OpenAIChunk(values, text)
    kind = values.get(("type",))
    if kind is not None and kind.kind is Kind.STRING and decode(text[kind.start : kind.end]) in _ANTHROPIC_EVENTS:
        return _AnthropicEvent(values, text)
    return None


class _OpenAIChunk:
    """A chat completion chunk: each string of a delta is a channel of its choice, and so is what a tool is told."""

    def __init__(self, values: dict[Path, Place], text: str) -> None:
        self._values = values
        self._text = text
        self._ended = {
            self._name(path[:2])
            for path, place in values.items()
            if len(path) == 3 and path[::2] == ("choices", "finish_reason") and place.kind is Kind.STRING
        }

    def channel(self, path: Path) -> Key | None:
        if len(path) < 3 or path[0] != "choices" or not isinstance(path[1], int):
            return None
        match path[2:]:
            case ("text",):
                steps: Key = ("text",)
            case ("delta", str(field)) if field not in LLM_JSON.protocol_keys:
                steps = ("delta", field)
            case ("delta", "function_call", "arguments") | ("delta", "audio", "transcript"):
                steps = ("delta", str(path[3]), str(path[4]))
            case ("delta", "tool_calls", int(), "function", "arguments"):
                steps = ("delta", "tool_calls", self._name(path[:5]), "function", "arguments")
            case _:
                return None
        return (self._name(path[:2]), *steps)

    def ends(self, key: Key) -> bool:
        return key[0] in self._ended

    def delta(self, key: Key, text: str) -> bytes:
        choice, *steps = key
        said = f'"{escape(steps[-1])}":"{escape(text)}"'
        if len(steps) == 5:
            said = f'"tool_calls":[{{"index":{steps[2]},"function":{{{said}}}}}]'
        elif len(steps) == 3:
            said = f'"{steps[1]}":{{{said}}}'
        if len(steps) > 1:
            said = f'"delta":{{{said}}}'
        head = "".join(f'"{name}":{raw},' for name in _OPENAI_HEAD if (raw := self._identifier(name)))
        chunk = f'{{{head}"choices":[{{"index":{choice},{said},"finish_reason":null}}]}}'
        return f"data: {chunk}\n\n".encode()

    def _name(self, path: Path) -> str:
        """What the element at ``path`` calls itself, its place in the list where it has no ``index``."""
        index = self._values.get((*path, "index"))
        return self._text[index.start : index.end] if index is not None else str(path[-1])

    def _identifier(self, name: str) -> str:
        place = self._values.get((name,))
        if place is None or place.kind is Kind.CONTAINER:
            return ""
        raw = self._text[place.start : place.end]
        return raw if place.kind is Kind.SCALAR or LLM_JSON.leaves(place.path, decode(raw)) else ""


class _AnthropicEvent:
    """A message event: every string of a delta is a channel of its content block."""

    def __init__(self, values: dict[Path, Place], text: str) -> None:
        self._values = values
        self._text = text
        self._type = self._string(("type",))
        index = values.get(("index",))
        self._index = text[index.start : index.end] if index is not None else "0"

    def channel(self, path: Path) -> Key | None:
        if self._type == "content_block_start":
            first = _ANTHROPIC_FIRST_TEXTS.get(path)
            return (self._index, *first) if first is not None else None
        if self._type != "content_block_delta" or len(path) != 2 or path[0] != "delta":
            return None
        field = str(path[1])
        return None if field in LLM_JSON.protocol_keys else (self._index, self._string(("delta", "type")), field)

    def ends(self, key: Key) -> bool:
        if self._type == "content_block_stop":
            return key[0] == self._index
        return self._type in {"message_delta", "message_stop", "error"}

    def delta(self, key: Key, text: str) -> bytes:
        index, kind, field = key
        said = f'{{"type":"{escape(kind)}","{escape(field)}":"{escape(text)}"}}'
        event = f'{{"type":"content_block_delta","index":{index},"delta":{said}}}'
        return f"event: content_block_delta\ndata: {event}\n\n".encode()

    def _string(self, path: Path) -> str:
        place = self._values.get(path)
        return decode(self._text[place.start : place.end]) if place is not None and place.kind is Kind.STRING else ""
