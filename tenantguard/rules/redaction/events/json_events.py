"""The JSON of a stream's events redacted: deltas joined, any other string by itself.

A text that a protocol sends as deltas is one text, a *channel* (see each protocol's module). What a channel holds
back leaves with its next delta, at the latest in a delta of our own directly before the event that ends it (a reason
to finish ends nothing where the next event says more of the same text). What repeats a channel's whole text is
redacted as the channel is.

Everything else that is a string in an event is redacted by itself; in known shapes, a protocol's own identifiers stay
(``LLM_JSON``). In an event of unknown shape a value that is split over two events is not found, which is why
``unknown`` may block such streams.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events import anthropic, cohere, gemini, ollama, openai_chat, openai_responses
from tenantguard.rules.redaction.events.moulds import NUMBER, form_alone, form_of, is_own, read_mould
from tenantguard.rules.redaction.events.view import ARGUMENT_FIELDS, JSON_FIELDS, Event
from tenantguard.rules.redaction.fields import EVERYWHERE
from tenantguard.rules.redaction.json_stream import JsonTextStream
from tenantguard.rules.redaction.json_text import (
    LLM_JSON,
    RPC_JSON,
    Kind,
    decode,
    edit_literal,
    edited_literal,
    escape,
    json_edits,
    number_edit,
    places,
    rpc_or_any,
    string_edits,
    without_copies,
)
from tenantguard.rules.redaction.text.hold import TextStream, join, whole
from tenantguard.rules.redaction.text.rule import Edit, MalformedTextError, apply, own_edits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.rules.redaction.events.moulds import After, Form, Mould
    from tenantguard.rules.redaction.events.view import Key, Said, View
    from tenantguard.rules.redaction.fields import Scope
    from tenantguard.rules.redaction.json_text import Path, Place
    from tenantguard.rules.redaction.text.rule import TextRule

_VIEWS: Final[tuple[Callable[[Event], View | None], ...]] = (
    openai_chat.view,
    openai_responses.view,
    anthropic.view,
    cohere.view,
    gemini.view,
    ollama.view,
)
CHANNELS_MAX: Final = 1024
"""Texts that are open at once in one stream; each may hold back a kilobyte, of a private key 16."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.#-]{0,64}")
_FORMS_MAX: Final = 16
_SEEN_MAX: Final = 16
_WAITING: Final = re.compile(r'"finish(?:R|_r)eason"\s*:\s*"(?!")')


class Usual(NamedTuple):
    """How an event is written that says more of the one text that is open, and of what.

    ``head`` is before the text, ``tail`` behind it; where there is a ``between``, an identifier of the protocol's own
    stands between it and the tail. Quotes belong to what they stand in.
    """

    head: str
    between: str
    tail: str
    key: Key
    channel: _Channel
    form: Form


class _Read(NamedTuple):
    """An event as a form reads it: what is in the holes, and which of them were looked at, with their channels."""

    form: Form
    filled: list[str]
    looked_at: list[tuple[int, Key | None]]


def waits(text: str) -> bool:
    """Whether only who sees what follows can tell if this event ends a text: it waits for the next, or the end."""
    return _WAITING.search(text) is not None


class JsonEvents:
    """Redacts the events of one stream by ``rule``, in their order.

    With ``protocol``, the stream is a model provider's. ``unknown`` says what happens to an event of no known shape,
    ``scope`` whether keys and numbers are looked at; of what deltas join to, numbers are not.
    """

    def __init__(self, rule: TextRule, *, protocol: bool, unknown: Unknown, scope: Scope = EVERYWHERE) -> None:
        self._scope = scope
        self._rule = rule
        self._protocol = protocol
        self._unknown = unknown
        self._channels: dict[Key, _Channel] = {}
        self._forms: list[Form] = []  # the latest first
        self._seen: list[Mould] = []  # those of events without a form, the latest first
        self._after: After = None, False
        self._read: _Read | None = None  # the latest event, if it has a form
        self._latest: View | None = None
        self._following = ""  # the event behind the latest, where that waited for it
        self._going_on: frozenset[Key] | None = None  # of what that says more; None: nobody has asked
        self._next: int | None = None  # where events have numbers, that of the next one
        self._added = 0  # events of our own among them

    def event(self, text: str, *, last: bool = False, following: str = "") -> tuple[list[Said], str]:
        """Events of our own that leave before this one, and what leaves for it; ``last``: nothing follows.

        ``following`` is the event behind one that :func:`waits`. Raises :class:`MalformedTextError` if it is no JSON,
        or blocked.
        """
        self._following, self._going_on = following, None
        hides = bool(self._rule.own(text))  # then it is read place by place
        forms = self._forms if not hides else []
        self._read = None
        for at, form in enumerate(forms):
            filled = form.read(text)
            if filled is not None:
                if at:
                    forms.insert(0, forms.pop(at))
                return self._formed(form, filled, text, last=last)
        learned = self._learn(text) if self._scope is EVERYWHERE and not hides else None
        if learned is not None:
            return self._formed(*learned, text, last=last)
        found = list(places(text))
        event = Event.of(found, text)
        view = _view(event)
        if view is not None:
            return self._known(view, found, text, last=last)
        before = self._close(self._channels) if last or ("error",) in event.values else []
        return before, apply(text, self._strange(found, event, text))

    def close(self) -> list[Said]:
        """The stream has ended; what channels held back, as events of our own."""
        return self._close(self._channels)

    def usual(self, text: str, before: Usual | None) -> Usual | None:
        """How an event is written that says more of what the latest one, ``text``, said, and differs in that alone.

        None where such an event does more, or has in it what must be looked at. One identifier, which tells nothing
        apart, may be another each time. ``before`` again where nothing is another way now.
        """
        if self._read is None:
            return None
        form, filled, looked_at = self._read
        if before is not None and form is before.form and self._channels.get(before.key) is before.channel:
            return before
        if len(looked_at) != 1 or form.repeats or form.number is not None:
            return None
        hole, key = looked_at[0]
        channel = self._channels.get(key) if key is not None else None
        if key is None or channel is None:  # what ends with such events has ended now
            return None
        start = form.cut.start(filled, hole)
        end = start + len(filled[hole])
        if form.free is None or form.free < hole:
            return Usual(text[:start], "", text[end:], key, channel, form)
        free = form.cut.start(filled, form.free)
        return Usual(text[:start], text[end:free], text[free + len(filled[form.free]) :], key, channel, form)

    def more(self, usual: Usual, text: str) -> str | None:
        """What leaves in an event that is as usual and says ``text``; None where what it says more of has ended."""
        return usual.channel.feed(text) if self._channels.get(usual.key) is usual.channel else None

    def failure(self, code: str, message: str) -> Said | None:
        """The event that says that redaction failed, in the protocol's own way; None where it has none."""
        said = self._latest.failure(code, message) if self._latest is not None else None
        return self._numbered(said) if said is not None else None

    def _learn(self, text: str) -> tuple[Form, list[str]] | None:
        """The form of an event and what is in its holes; None where it has none, or is of no known protocol."""
        seen = self._seen
        read = read_mould(text, self._after)
        if read is None:
            return None
        mould, filled = read
        view = _view(Event(mould.written_in(filled)))
        if view is None:
            return None
        self._after = mould, mould in seen
        if mould in seen:
            form = form_of(view, mould, filled)
            again = form.read(text)
            if again is not None:
                self._forms.insert(0, form)
                del self._forms[_FORMS_MAX:]
                return form, again
        self._seen = [mould, *seen[: _SEEN_MAX - 1]]
        return form_alone(view, mould), filled

    def _formed(self, form: Form, filled: list[str], text: str, *, last: bool) -> tuple[list[Said], str]:
        """What leaves for an event of this form."""
        changed = False
        self._latest = view = form.view
        self._read = read = _Read(form, filled, [])
        filled = filled.copy()
        for at, path, key, own in form.texts:
            literal = filled[at]
            if own and is_own(literal):
                continue
            read.looked_at.append((at, key))
            value = decode(literal)
            if key is not None:
                new = self._say(view, key, value, ends=last or (form.ends(key) and not self._goes_on(key)))
                if new != value:
                    filled[at] = f'"{escape(new)}"'
                    changed = True
            elif edits := string_edits(value, path, self._rule, LLM_JSON):
                filled[at] = edited_literal(literal, edits)
                changed = True
        for at, field in form.repeats:
            value = decode(filled[at])
            new = self._whole(field, value)
            if new != value:
                filled[at] = f'"{escape(new)}"'
                changed = True
        ended = list(self._channels) if last else self._over(form.ending(self._channels))
        said = filled[form.number] if form.number is not None else ""
        before, number = self._before(ended, said)
        if number and form.number is not None:
            filled[form.number] = number
            changed = True
        return before, form.cut.written(filled) if changed else text

    def _known(self, view: View, found: Iterable[Place], text: str, *, last: bool) -> tuple[list[Said], str]:
        """What leaves for an event in which something is said twice, or that is long."""
        self._latest = view
        edits: list[Edit] = []
        copies: list[Place] = []
        numbered: Place | None = None
        changed: set[Path] = set()
        read: set[Path] = set()
        for place in found:
            kind, start, end, path = place
            edit: Edit | None = None
            if kind is Kind.STRING:
                edit = self._string(view, place, text, read, last=last)
            elif kind is Kind.CONTAINER and path and path[-1] in LLM_JSON.copy_keys:
                copies.append(place)
            elif kind is Kind.SCALAR and path == ("sequence_number",):
                numbered = place
            elif kind is Kind.SCALAR and self._scope.numbers:
                edit = number_edit(text, place, self._rule, LLM_JSON)
            elif kind is Kind.KEY:
                key = decode(text[start:end])
                edits_of = (
                    string_edits(key, path, self._rule, LLM_JSON) if self._scope.keys else own_edits(self._rule, key)
                )
                edit = edit_literal(text, place, edits_of)
            if edit is not None:
                edits.append(edit)
                changed.update(path[:steps] for steps in range(len(path)))
        if numbered is not None and not NUMBER.fullmatch(text, numbered.start, numbered.end):
            numbered = None
        ended = list(self._channels) if last else self._over([key for key in self._channels if view.ends(key)])
        said = text[numbered.start : numbered.end] if numbered is not None else ""
        before, number = self._before(ended, said)
        if number and numbered is not None:
            edits.append(Edit(numbered.start, numbered.end, number))
        copies = [place for place in copies if place.path[:-1] in changed]
        lists = {place.start for place in copies if text[place.start] == "["}
        kept = without_copies(edits, copies)
        return before, apply(text, [edit._replace(new="[]") if edit.start in lists else edit for edit in kept])

    def _string(self, view: View, place: Place, text: str, read: set[Path], *, last: bool) -> Edit | None:
        """The change of a string: what it says of a channel, a whole text again, or a text by itself.

        ``read`` are the paths of the event's deltas so far.
        """
        _, start, end, path = place
        value = decode(text[start:end])
        key = view.channel(path)
        if key is not None and self._scope.keys and not all(map(_NAME.fullmatch, key)):
            key = None  # an event of our own would say it
        field = view.repeats(path) if key is None else None
        if key is not None:
            if path in read:  # readers take one of the two, so they would join what is not joined here
                raise MalformedTextError("an event of the stream says one delta twice")
            read.add(path)
            new = self._say(view, key, value, ends=last or (view.ends(key) and not self._goes_on(key)))
        elif field is not None:
            new = self._whole(field, value)
        else:
            return edit_literal(text, place, string_edits(value, path, self._rule, LLM_JSON))
        return Edit(start, end, f'"{escape(new)}"') if new != value else None

    def _strange(self, found: list[Place], event: Event, text: str) -> list[Edit]:
        """The changes in an event that no protocol knows: JSON-RPC, an error, or anything."""
        shape = LLM_JSON if self._protocol else rpc_or_any(found, text)
        if shape is not RPC_JSON and ("error",) not in event.values:
            if self._unknown is Unknown.BLOCK:
                raise MalformedTextError("an event of the stream is of no known shape")
            if self._unknown is Unknown.PASS:
                self._rule.skipped["event"] = self._rule.skipped.get("event", 0) + 1
                return []
        return json_edits(found, text, self._rule, shape, keys=self._scope.keys, numbers=self._scope.numbers)

    def _say(self, view: View, key: Key, value: str, *, ends: bool) -> str:
        """Feed a channel; its end goes into the same delta where the event that ends it says something itself."""
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) == CHANNELS_MAX:
                raise MalformedTextError("the stream has too many texts at once")
            channel = self._channels[key] = _Channel(self._rule, key[-1])
        channel.view = view
        said = channel.feed(value)
        if value and ends:
            said += self._channels.pop(key).finish()
        return said

    def _over(self, ended: list[Key]) -> list[Key]:
        """Those of channels said to end which do."""
        return [key for key in ended if not self._goes_on(key)]

    def _goes_on(self, key: Key) -> bool:
        """Whether the event behind the latest says more of a channel, which then has not ended with it."""
        if self._going_on is None:
            self._going_on = _said_in(self._following) if self._following else frozenset()
        return key in self._going_on

    def _whole(self, field: str, value: str) -> str:
        """What the deltas of ``value`` join to, whatever they are."""
        if field in JSON_FIELDS:
            channel = _Channel(self._rule, field)
            return channel.feed(value) + channel.finish()
        return whole(self._rule.arguments if field in ARGUMENT_FIELDS else self._rule, value)

    def _before(self, ended: list[Key], numbered: str) -> tuple[list[Said], str]:
        """What leaves before an event that ends these channels, and its number where that is another now."""
        if numbered:
            self._next = int(numbered) + self._added
        before = self._close(ended) if ended else []
        if not numbered or self._next is None:
            return before, ""
        number, self._next = self._next, self._next + 1
        return before, str(number) if self._added else ""

    def _close(self, keys: Iterable[Key]) -> list[Said]:
        """End these channels; what they held back, as deltas."""
        ended = [(key, self._channels.pop(key)) for key in list(keys)]
        said = [(key, channel.view, channel.finish()) for key, channel in ended]
        if any(text and self._rule.own(view.delta(key, "").data) for key, view, text in said):
            raise MalformedTextError("an event of our own would tell a secret that events of the stream name")
        return [self._numbered(view.delta(key, text)) for key, view, text in said if text]

    def _numbered(self, said: Said) -> Said:
        """An event of our own, with its number where the stream's events have one."""
        if self._next is None:
            return said
        number, self._next = self._next, self._next + 1
        self._added += 1
        return said._replace(data=f'{said.data[:-1]},"sequence_number":{number}}}')


def _view(event: Event) -> View | None:
    """The event as the first protocol sees it that knows it."""
    for read in _VIEWS:
        view = read(event)
        if view is not None:
            return view
    return None


def _said_in(text: str) -> frozenset[Key]:
    """The channels of which an event says more than nothing; none where it is no event of a known protocol."""
    try:
        found = list(places(text))
    except MalformedTextError:
        return frozenset()
    view = _view(Event.of(found, text))
    if view is None:
        return frozenset()
    keys = [view.channel(path) for kind, start, end, path in found if kind is Kind.STRING and end - start > len('""')]
    return frozenset(key for key in keys if key is not None)


class _Channel:
    """One text that arrives in deltas, and the event that said more of it last."""

    __slots__ = ("_json", "_text", "view")

    def __init__(self, rule: TextRule, field: str) -> None:
        rule = rule.arguments if field in ARGUMENT_FIELDS else rule
        self._json = JsonTextStream(rule) if field in JSON_FIELDS else None
        self._text = TextStream(rule)
        self.view: View

    def feed(self, text: str) -> str:
        """Take the next piece; return what may leave."""
        if self._json is not None:
            return self._json.feed(text)
        pieces = self._text.feed(text)
        return join(pieces) if pieces else ""

    def finish(self) -> str:
        """The text has ended; return the rest of it."""
        return self._json.finish() if self._json is not None else join(self._text.finish())
