"""The JSON of a stream's events redacted: deltas joined, any other string by itself.

A text that a protocol sends as deltas is one text, a *channel* (see each protocol's module). What a channel holds
back leaves with its next delta, at the latest in a delta of our own directly before the event that ends it. What
repeats a channel's whole text is redacted as the channel is.

Everything else that is a string in an event is redacted by itself; in known shapes, a protocol's own identifiers stay
(``LLM_JSON``). In an event of unknown shape a value that is split over two events is not found, which is why
``unknown`` may block such streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events import anthropic, cohere, gemini, ollama, openai_chat, openai_responses
from tenantguard.rules.redaction.events.view import ARGUMENT_FIELDS, JSON_FIELDS, Event
from tenantguard.rules.redaction.hold import TextStream, join, whole
from tenantguard.rules.redaction.json_stream import JsonTextStream
from tenantguard.rules.redaction.json_text import (
    LITERAL,
    LLM_JSON,
    RPC_JSON,
    Kind,
    decode,
    edit_literal,
    edited_literal,
    escape,
    json_edits,
    places,
    rpc_or_any,
    string_edits,
    without_copies,
)
from tenantguard.rules.redaction.rule import Edit, MalformedTextError, apply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.rules.redaction.events.view import Key, Said, View
    from tenantguard.rules.redaction.json_text import Path, Place
    from tenantguard.rules.redaction.rule import TextRule

_VIEWS: Final = (openai_chat.view, openai_responses.view, anthropic.view, cohere.view, gemini.view, ollama.view)
_READ_FIELDS: Final = frozenset({"type", "index", *openai_responses.PLACE})
_HEADS: Final = frozenset({*openai_chat.HEAD, *gemini.HEAD})
CHANNELS_MAX: Final = 1024
"""Texts that are open at once in one stream; each may hold back a kilobyte, of a private key 16."""

_FORMS_MAX: Final = 16
_FORM_CHARS_MAX: Final = 2048  # finding literals in what is no JSON may cost the square of this
_WAITING: Final = re.compile(r'"finishReason"\s*:\s*"')
_NUMBER: Final = re.compile("(?<![0-9.eE+-])(?:0|[1-9][0-9]{0,15})(?![0-9.eE])")
_READ_NUMBERS: Final = frozenset({"index", *openai_responses.PLACE})


def waits(text: str) -> bool:
    """Whether only who sees what follows can tell if this event ends a text: it waits for the next, or the end."""
    return _WAITING.search(text) is not None


class JsonEvents:
    """Redacts the events of one stream by ``rule``, in their order.

    With ``protocol``, the stream is a model provider's. ``unknown`` says what happens to an event of no known shape.
    """

    def __init__(self, rule: TextRule, *, protocol: bool, unknown: Unknown) -> None:
        self._rule = rule
        self._protocol = protocol
        self._unknown = unknown
        self._channels: dict[Key, _Channel] = {}
        self._forms: dict[str, _Form] = {}
        self._latest: View | None = None
        self._next: int | None = None  # where events have numbers, that of the next one
        self._added = 0  # events of our own among them

    def event(self, text: str, *, last: bool = False) -> tuple[list[Said], str]:
        """Events of our own that leave before this one, and what leaves for it; ``last``: nothing follows.

        Raises :class:`MalformedTextError` if it is no JSON, or blocked.
        """
        parts: list[str] = []
        frame = ""
        if len(text) <= _FORM_CHARS_MAX:
            parts = LITERAL.split(text)
            frame = _NUMBER.sub("0", "\0".join(parts[::2]))
            form = self._forms.get(frame)
            if form is not None and form.count == len(parts) and form.fixed(parts) == form.values:
                return self._formed(form, parts, text, last=last)
        found = list(places(text))
        event = Event(found, text)
        view = next((seen for read in _VIEWS if (seen := read(event)) is not None), None)
        if view is None:
            before = self._close(self._channels) if last or ("error",) in event.values else []
            return before, apply(text, self._strange(found, event))
        form = _form(view, found, parts) if parts else None
        if form is None:
            return self._known(view, found, event, last=last)
        if len(self._forms) < _FORMS_MAX:
            self._forms[frame] = form
        return self._formed(form, parts, text, last=last)

    def close(self) -> list[Said]:
        """The stream has ended; what channels held back, as events of our own."""
        return self._close(self._channels)

    def failure(self, code: str, message: str) -> Said | None:
        """The event that says that redaction failed, in the protocol's own way; None where it has none."""
        said = self._latest.failure(code, message) if self._latest is not None else None
        return self._numbered(said) if said is not None else None

    def _formed(self, form: _Form, parts: list[str], text: str, *, last: bool) -> tuple[list[Said], str]:
        """What leaves for an event of this form."""
        changed = False
        self._latest = view = form.view
        for at, path, key in form.texts:
            literal = parts[at]
            value = decode(literal)
            if key is not None:
                new = self._say(view, key, value, last=last)
                if new != value:
                    parts[at] = f'"{escape(new)}"'
                    changed = True
            elif edits := string_edits(value, path, self._rule, LLM_JSON):
                parts[at] = edited_literal(literal, edits)
                changed = True
        for at, field in form.repeats:
            value = decode(parts[at])
            new = self._whole(field, value)
            if new != value:
                parts[at] = f'"{escape(new)}"'
                changed = True
        numbered = _NUMBER.search(parts[form.number]) if form.number is not None else None
        before, number = self._before(view, numbered[0] if numbered is not None else "", last=last)
        if number and form.number is not None:
            parts[form.number] = _NUMBER.sub(number, parts[form.number], 1)
        return before, "".join(parts) if changed or number else text

    def _known(self, view: View, found: Iterable[Place], event: Event, *, last: bool) -> tuple[list[Said], str]:
        """What leaves for an event in which something is said twice, or that is long."""
        self._latest = view
        text = event.text
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
            field = view.repeats(path) if key is None else None
            if key is None and field is None:
                edit = edit_literal(text, place, string_edits(value, path, self._rule, LLM_JSON))
            else:
                new = self._say(view, key, value, last=last) if key is not None else self._whole(field or "", value)
                edit = Edit(start, end, f'"{escape(new)}"') if new != value else None
            if edit is not None:
                edits.append(edit)
                changed.update(path[:steps] for steps in range(len(path)))
        numbered = event.raw("sequence_number")
        before, number = self._before(view, numbered if _NUMBER.fullmatch(numbered) else "", last=last)
        if number:
            _, start, end, _ = event.values["sequence_number",]
            edits.append(Edit(start, end, number))
        copies = [place for place in copies if place.path[:-1] in changed]
        lists = {place.start for place in copies if text[place.start] == "["}
        kept = without_copies(edits, copies)
        return before, apply(text, [edit._replace(new="[]") if edit.start in lists else edit for edit in kept])

    def _strange(self, found: list[Place], event: Event) -> list[Edit]:
        """The changes in an event that no protocol knows: JSON-RPC, an error, or anything."""
        shape = LLM_JSON if self._protocol else rpc_or_any(found, event.text)
        if shape is not RPC_JSON and ("error",) not in event.values:
            if self._unknown is Unknown.BLOCK:
                raise MalformedTextError("an event of the stream is of no known shape")
            if self._unknown is Unknown.PASS:
                self._rule.skipped["event"] = self._rule.skipped.get("event", 0) + 1
                return []
        return json_edits(found, event.text, self._rule, shape)

    def _say(self, view: View, key: Key, value: str, *, last: bool) -> str:
        """Feed a channel; its end goes into the same delta where the event that ends it says something itself."""
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) == CHANNELS_MAX:
                raise MalformedTextError("the stream has too many texts at once")
            channel = self._channels[key] = _Channel(self._rule, key[-1])
        channel.delta = partial(view.delta, key)
        said = channel.feed(value)
        if value and (last or view.ends(key)):
            said += self._channels.pop(key).finish()
        return said

    def _whole(self, field: str, value: str) -> str:
        """What the deltas of ``value`` join to, whatever they are."""
        if field in JSON_FIELDS:
            channel = _Channel(self._rule, field)
            return channel.feed(value) + channel.finish()
        return whole(self._rule.arguments if field in ARGUMENT_FIELDS else self._rule, value)

    def _before(self, view: View, numbered: str, *, last: bool) -> tuple[list[Said], str]:
        """What leaves before an event for the channels that it ends, and its number where that is another now."""
        if numbered:
            self._next = int(numbered) + self._added
        ended = [key for key in self._channels if last or view.ends(key)]
        before = self._close(ended) if ended else []
        if not numbered or self._next is None:
            return before, ""
        number, self._next = self._next, self._next + 1
        return before, str(number) if self._added else ""

    def _close(self, keys: Iterable[Key]) -> list[Said]:
        """End these channels; what they held back, as deltas."""
        said = [(channel.delta, channel.finish()) for channel in map(self._channels.pop, list(keys))]
        return [self._numbered(delta(text)) for delta, text in said if text]

    def _numbered(self, said: Said) -> Said:
        """An event of our own, with its number where the stream's events have one."""
        if self._next is None:
            return said
        number, self._next = self._next, self._next + 1
        self._added += 1
        return said._replace(data=f'{said.data[:-1]},"sequence_number":{number}}}')


class _Channel:
    """One text that arrives in deltas, and how a delta of our own is written for it."""

    __slots__ = ("_json", "_text", "delta")

    def __init__(self, rule: TextRule, field: str) -> None:
        rule = rule.arguments if field in ARGUMENT_FIELDS else rule
        self._json = JsonTextStream(rule) if field in JSON_FIELDS else None
        self._text = TextStream(rule)
        self.delta: Callable[[str], Said]

    def feed(self, text: str) -> str:
        return self._json.feed(text) if self._json is not None else join(self._text.feed(text))

    def finish(self) -> str:
        return self._json.finish() if self._json is not None else join(self._text.finish())


@dataclass(frozen=True, slots=True)
class _Form:
    """How all events are read that differ only in some of their strings: most of a stream's, in a fifth of the time.

    They have as many strings, the same marks and literals between them, numbers at the same places, and the same
    ``values`` of what ``fixed`` picks: keys, and what a view reads. So they are JSON too, with the same paths.
    ``texts`` are the strings to be redacted: which part, its path, its channel; ``repeats`` those that say a field
    again; ``number`` is the part that begins with the event's number.
    """

    view: View
    count: int
    fixed: Callable[[list[str]], object]
    values: object
    texts: list[tuple[int, Path, Key | None]]
    repeats: list[tuple[int, str]]
    number: int | None


def _form(view: View, found: Iterable[Place], parts: list[str]) -> _Form | None:
    """The form of an event; None where something is said twice in it, or an index is no plain value."""
    fixed: list[int] = []
    texts: list[tuple[int, Path, Key | None]] = []
    repeats: list[tuple[int, str]] = []
    number: int | None = None
    at = -1
    for kind, start, end, path in found:
        if kind is Kind.CONTAINER and path:
            copies = path[-1] in LLM_JSON.copy_keys and end - start > len("[]")
            if copies or path[-1] == "index":
                return None
        if kind is Kind.KEY or kind is Kind.STRING:
            at += 2
            stays = kind is Kind.KEY or path[-1] in _READ_FIELDS or (len(path) == 1 and path[0] in _HEADS)
            if stays:
                fixed.append(at)
            if kind is Kind.KEY:
                number = at + 1 if path == ("sequence_number",) else number
                if path[-1] in _READ_NUMBERS:
                    fixed.append(at + 1)
            if kind is Kind.STRING and not (stays and LLM_JSON.leaves(path, decode(parts[at]))):
                key = view.channel(path)
                field = view.repeats(path) if key is None else None
                if field is None:
                    texts.append((at, path, key))
                else:
                    repeats.append((at, field))
    pick = itemgetter(*fixed)
    return _Form(view, len(parts), pick, pick(parts), texts, repeats, number)
