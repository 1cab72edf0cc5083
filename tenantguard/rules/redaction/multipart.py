"""Multipart bodies (RFC 2046, RFC 7578) as they come: text parts redacted, file parts passed, every other byte kept.

What two readers of such a body could read differently is refused, since one of them could take for a file what the
other takes for text: a boundary that is no line of its own, text before the first one or after the last, header
lines that are folded, broken or said twice, a multipart body in another.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenantguard.rules.media import Content, read_type
from tenantguard.rules.redaction.fields import EVERYWHERE, shown
from tenantguard.rules.redaction.percent import Percent
from tenantguard.rules.redaction.text.rule import Edit, MalformedTextError, SecretFoundError, apply, text_edits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.rules.redaction.fields import Scope
    from tenantguard.rules.redaction.text.rule import TextRule

PARTS_MAX: Final = 1000
HEAD_BYTES_MAX: Final = 16_384
_PADDING_BYTES_MAX: Final = 64
_LINE: Final = re.compile(r"([\w!#$%&'*+.^`|~-]+):[ \t]*+([^\r\n\0]*)", re.ASCII)
_DISPOSITION: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+(?=[ \t]*(?:;|\Z))", re.ASCII)
_PARAMETER: Final = re.compile(
    r'[ \t]*;[ \t]*([\w!#$%&\'*+.^`|~-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))[ \t]*',
    re.ASCII,
)
_AFTER: Final = re.compile(rb"(?P<end>--)|[ \t]*+\r\n")
_PLAIN_TRANSFER: Final = frozenset({"", "7bit", "8bit", "binary"})
_READ: Final = frozenset({
    "content-disposition", "content-type", "content-transfer-encoding", "content-length", "content-encoding",
})  # fmt: skip
"""Header lines of a part that tell how it is read; any other is a text."""

_QUOTED: Final = re.compile(r"\\(.)")
_BREAK: Final = re.compile(r"[\r\n\0]")
_EXTENDED: Final = re.compile(r"([\w-]*)'[\w-]*'", re.ASCII)
"""What a value in the notation of RFC 8187 begins with: its charset and language."""


class Part(NamedTuple):
    """What the head of a part says: its name ("" if it has none), whether it is a file, what its bytes are."""

    name: str
    is_file: bool
    content: Content


class _Span(NamedTuple):
    """A text within a part's head, and how it is written: as a line's value, in quotes, or percent-encoded."""

    start: int
    end: int
    kind: str


class Rewriting(Protocol):
    """A body that is rewritten as it comes. Raises :class:`MalformedTextError` for what is not what it says."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        ...

    def finish(self) -> bytes:
        """The body has ended; return the rest of it."""
        ...


class MultipartBody:
    """A multipart body with this boundary; ``opening`` says how each part is rewritten, None if it passes.

    At most ``PARTS_MAX`` parts, each with a head of at most ``HEAD_BYTES_MAX`` bytes. Names of files, and header
    lines that do not tell how the part is read, are rewritten by ``rule``, names of parts too where ``scope`` has
    them. Raises
    :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError` for what is no such body.
    """

    def __init__(
        self,
        boundary: str,
        rule: TextRule,
        opening: Callable[[Part], Rewriting | None],
        scope: Scope = EVERYWHERE,
    ) -> None:
        self._scope = scope
        self._mark = b"--" + boundary.encode("ascii")
        self._rule = rule
        self._opening = opening
        self._waiting = b"\r\n"  # before the first boundary none stands: it is added, and not sent
        self._begun = False
        self._in_head = False
        self._ended = False
        self._parts = 0
        self._name = ""
        self._body: Rewriting | None = None
        self._sent = b""  # the last bytes of the open part that left: a boundary may not come about in them

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        data = self._waiting + chunk
        out: list[bytes] = []
        at = 0
        while (after := self._step(data, at, out)) is not None:
            at = after
        self._waiting = data[at:]
        return b"".join(out)

    def finish(self) -> bytes:
        """The body has ended; return the rest of it."""
        if not self._begun and self._waiting == b"\r\n":
            return b""
        if not self._ended:
            raise MalformedTextError("the multipart body is not whole")
        return b""

    def _step(self, data: bytes, at: int, out: list[bytes]) -> int | None:
        """Take what can be taken at ``at``; where to go on, None if more bytes are needed."""
        if self._ended:
            if data[at:].strip():
                raise MalformedTextError("the multipart body goes on after its last boundary")
            out.append(data[at:])
            return None if at == len(data) else len(data)
        return self._head(data, at, out) if self._in_head else self._content(data, at, out)

    def _content(self, data: bytes, at: int, out: list[bytes]) -> int | None:
        mark = data.find(self._mark, at)
        if mark < 0:
            end = len(data) - len(self._mark) - 1  # a boundary may have begun behind that, after a line's end
            if end <= at:
                return None
            self._send(data[at:end], out)
            return end
        after = _AFTER.match(data, mark + len(self._mark))
        if after is None:
            rest = data[mark + len(self._mark) :]
            if len(rest) > _PADDING_BYTES_MAX or rest.strip(b" \t") not in {b"", b"-", b"\r"}:
                raise MalformedTextError("a boundary of the multipart body is no line of its own")
            return None
        if mark - at < 2 or data[mark - 2 : mark] != b"\r\n":
            raise MalformedTextError("a boundary of the multipart body is no line of its own")
        self._send(data[at : mark - 2], out)
        if self._begun:
            out += (self._told(b"", finish=True), b"\r\n")
        out.append(data[mark : after.end()])
        self._begun, self._body = True, None
        self._ended = after["end"] is not None
        self._in_head = not self._ended
        return after.end()

    def _head(self, data: bytes, at: int, out: list[bytes]) -> int | None:
        end = at if data.startswith(b"\r\n", at) else data.find(b"\r\n\r\n", at, at + HEAD_BYTES_MAX)
        if end < 0:
            if len(data) - at >= HEAD_BYTES_MAX:
                raise MalformedTextError("the head of a part is too large")
            return None
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise MalformedTextError(f"the multipart body has more than {PARTS_MAX} parts")
        head = data[at:end]
        part, spans, names = _read_head(_text(head))
        if names and (self._scope.looks_at_key(part.name) or self._rule.own(_text(head))):
            spans = sorted([*spans, *names])
        out.append(self._rewritten(head, spans))
        start = end + 2 if end == at else end + 4
        out.append(data[end:start])
        self._name = part.name
        self._body = self._opening(part)
        self._sent = b"\r\n"
        self._in_head = False
        return start

    def _send(self, content: bytes, out: list[bytes]) -> None:
        if content and not self._begun:
            raise MalformedTextError("the multipart body does not begin with its boundary")
        if content:
            out.append(self._told(content))

    def _told(self, content: bytes, *, finish: bool = False) -> bytes:
        """What leaves of the open part for ``content``, or for its end."""
        if self._body is None:
            return content
        try:
            told = self._body.finish() if finish else self._body.feed(content)
        except SecretFoundError as found:
            found.location = shown((self._name,), found.location)
            raise
        sent = self._sent + told
        if b"\r\n" + self._mark in sent:
            raise MalformedTextError("what a part would hold has the boundary in it")
        self._sent = sent[-len(self._mark) - 1 :]
        return told

    def _rewritten(self, head: bytes, spans: list[_Span]) -> bytes:
        """The head of a part with these texts in it rewritten."""
        text = _text(head)
        edits = [edit for span in spans if (edit := self._edit(text, span)) is not None]
        try:
            return apply(text, edits).encode(_charset(head)) if edits else head
        except UnicodeEncodeError:
            raise MalformedTextError("what the head of a part would hold cannot stand in it") from None

    def _edit(self, head: str, span: _Span) -> Edit | None:
        value = head[span.start : span.end]
        match span.kind:
            case "extended":
                new = self._percent(value)
            case "quoted":
                new = self._quoted(value)
            case _:
                new = apply(value, text_edits(self._rule, value))
                if _BREAK.search(new):
                    raise MalformedTextError("what the head of a part would hold cannot stand in it")
        return Edit(span.start, span.end, new) if new != value else None

    def _quoted(self, value: str) -> str:
        """A name; with its quoted pairs undone where only so something is found."""
        edits = text_edits(self._rule, value)
        if edits or "\\" not in value:
            return apply(value, [edit._replace(new=_in_quotes(edit.new)) for edit in edits])
        plain = _QUOTED.sub(r"\1", value)
        edits = text_edits(self._rule, plain)
        return _in_quotes(apply(plain, edits)) if edits else value

    def _percent(self, value: str) -> str:
        """The name of a file in the notation of RFC 8187, which has UTF-8 and, as it was once, Latin-1."""
        head = _EXTENDED.match(value)
        raw = value[head.end() :] if head is not None else value
        latin = head is not None and head[1].lower() == "iso-8859-1"
        try:
            percent = Percent(raw, "iso-8859-1" if latin else "utf-8", plus=False)
            return value[: len(value) - len(raw)] + percent.changed(text_edits(self._rule, percent.text))
        except UnicodeError:
            raise MalformedTextError("the head of a part is not clear") from None


def _read_head(head: str) -> tuple[Part, list[_Span], list[_Span]]:
    """What the head of a part says; its texts (names of files, lines that say no more); where its name stands."""
    fields: dict[str, tuple[int, str]] = {}
    at = 0
    for line in head.split("\r\n") if head else ():
        found = _LINE.fullmatch(line)
        if found is None or found[1].lower() in fields:
            raise MalformedTextError("the head of a part is not clear")
        fields[found[1].lower()] = (at + found.start(2), found[2])
        at += len(line) + 2
    start, disposition = fields.get("content-disposition", (0, ""))
    parameters = _parameters(disposition)
    name = parameters["name"][1] if "name" in parameters else ""
    is_file = bool(parameters.get("filename", (0, ""))[1])
    if "filename*" in parameters:
        is_file = is_file or _EXTENDED.sub("", parameters["filename*"][1], count=1) != ""
    content = read_type(fields["content-type"][1]) if "content-type" in fields else Content("")
    if content.problem is not None:
        raise MalformedTextError(f"a part {content.problem}")
    transfer = fields["content-transfer-encoding"][1] if "content-transfer-encoding" in fields else ""
    if not is_file and transfer.strip().lower() not in _PLAIN_TRANSFER:
        raise MalformedTextError("a part is encoded: send it as it is")
    spans = [_Span(at, at + len(value), "line") for key, (at, value) in fields.items() if key not in _READ]
    names: list[_Span] = []
    for key, kind in (("filename", "quoted"), ("filename*", "extended"), ("name", "quoted"), ("name*", "extended")):
        if key in parameters:
            offset, value = parameters[key]
            kept = spans if key.startswith("file") else names
            kept.append(_Span(start + offset, start + offset + len(value), kind))
    return Part(name, is_file, content), sorted(spans), names


def _parameters(disposition: str) -> dict[str, tuple[int, str]]:
    """The parameters of a ``content-disposition`` by name: where each value stands, and the value as written."""
    if not disposition:
        return {}
    found = _DISPOSITION.match(disposition)
    parameters: dict[str, tuple[int, str]] = {}
    while found is not None and found.end() < len(disposition):
        found = _PARAMETER.match(disposition, found.end())
        if found is not None:
            name, group = found[1].lower(), 2 if found[2] is not None else 3
            if name in parameters:
                found = None
            else:
                parameters[name] = (found.start(group), found[group])
    if found is None:
        raise MalformedTextError("the head of a part is not clear")
    return parameters


def _in_quotes(text: str) -> str:
    """As the HTML standard has the names of files written ("multipart/form-data encoding algorithm")."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _text(head: bytes) -> str:
    return head.decode(_charset(head))


def _charset(head: bytes) -> str:
    try:
        head.decode()
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "utf-8"
