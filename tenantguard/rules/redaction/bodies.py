"""Bodies by their media type: how each is redacted, whether it arrives whole or in chunks.

| type | how |
| --- | --- |
| JSON | kept until it has ended, then its strings; see ``json_text.py``; of a model an array element by element |
| forms | kept until they have ended, then value by value |
| ``multipart/*`` | as they come: text parts; files pass |
| ``text/*``, XML, JavaScript, YAML | as they come, escapes seen through, entities not; kept while it may be JSON |
| event streams, lines of JSON | as they come, event by event |
| pictures, sound, archives, office documents | pass |
| anything else, and a body without a type | as the policy's ``unknown`` says; as text, or as JSON if it begins so |
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from io import StringIO
from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.media import EVENT_STREAM, UTF8, Content
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.fields import ALL_FIELDS, EVERYWHERE, Fields, Scope
from tenantguard.rules.redaction.forms import rewrite_form
from tenantguard.rules.redaction.json_lines import VALUE_BYTES_MAX, JsonArray, JsonLines
from tenantguard.rules.redaction.json_stream import EscapedTextStream
from tenantguard.rules.redaction.json_text import LLM_JSON, NO_TEXT, broken_edits, is_json, rewrite_text
from tenantguard.rules.redaction.multipart import MultipartBody, Part, Rewriting
from tenantguard.rules.redaction.text.rule import MalformedTextError, apply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.rules.redaction.json_text import Shape
    from tenantguard.rules.redaction.text.rule import TextRule

JSON_BYTES_MAX: Final = 16 * 1024 * 1024

_FORM: Final = "application/x-www-form-urlencoded"
_LINES: Final = frozenset({
    "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl", "application/jsonlines",
    "application/x-jsonlines", "application/json-seq", "application/stream+json",
})  # fmt: skip
_FORM_DATA: Final = "multipart/form-data"
_BINARY: Final = re.compile(
    r"(?!image/svg)(?:image|audio|video|font|model)/[^/]+"
    r"|application/(?:octet-stream|pdf|zip|gzip|x-gzip|x-tar|x-bzip2|x-7z-compressed|zstd|wasm|java-archive|epub\+zip"
    r"|msword|vnd\.(?:rar|ms-[\w.+-]+|openxmlformats-[\w.+-]+|oasis\.opendocument\.[\w.+-]+))",
    re.ASCII,
)
_TEXT: Final = re.compile(
    r"text/[^/]+|[^/]+/[^/]+\+xml"
    r"|application/(?:xml|xml-dtd|javascript|x-javascript|ecmascript|yaml|x-yaml|toml|sql|graphql)",
    re.ASCII,
)
_UNICODE: Final = frozenset({"", UTF8, "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"})
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_MARK_BYTES_MAX: Final = 4
_PLAIN_UTF8: Final = frozenset({"", UTF8})
_MARKS_BEGIN: Final = frozenset(mark[:1] for mark, _ in _BYTE_ORDER_MARKS)


@dataclass(frozen=True, slots=True)
class Passing:
    """A body that is not looked at, counted as ``kind`` in the rule's ``skipped``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A body that cannot be redacted. ``problem`` goes on from "The request body"."""

    problem: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy says of one direction's bodies.

    ``model_call``: the body is in a model provider's protocol. ``fields``, ``keys`` and ``numbers`` are for bodies
    that have such (JSON; of forms and multipart bodies the names are keys); texts are looked at as a whole, and so
    are event streams and lines of JSON, in which ``keys`` and ``numbers`` hold outside of what is said in deltas.
    ``limit`` is in bytes, of a body that must be kept whole.
    """

    model_call: bool = False
    fields: Fields = ALL_FIELDS
    keys: bool = False
    numbers: bool = False
    limit: int = JSON_BYTES_MAX
    unknown: Unknown = Unknown.SCRUB

    scope: Scope = field(init=False)
    """The same for structured bodies."""

    whole: Scope = field(init=False)
    """The same for what is looked at as a whole."""

    def __post_init__(self) -> None:
        whole = Scope(keys=self.keys, numbers=self.numbers) if self.keys or self.numbers else EVERYWHERE
        object.__setattr__(self, "whole", whole)
        scope = whole if self.fields.everything else Scope(self.fields, self.keys, self.numbers)
        object.__setattr__(self, "scope", scope)


_TERMS: Final = Terms()


def body_for(content: Content, rule: TextRule, terms: Terms) -> Rewriting | Passing | Refused:
    """How a body is redacted of which the head says ``content``; its encodings are undone before.

    A passing body is counted here.
    """
    kind = content.type
    if content.problem is not None:
        return Refused(content.problem)
    if (content.is_json and kind not in _LINES) or (terms.model_call and not kind):
        return _json(content, rule, terms)
    if kind == EVENT_STREAM or kind in _LINES:
        if content.charset not in {"", UTF8}:
            return Refused("is a stream in a charset other than UTF-8")
        stream = EventStream if kind == EVENT_STREAM else JsonLines
        return stream(rule, protocol=terms.model_call, unknown=terms.unknown, scope=terms.whole)
    if kind == _FORM:
        if content.charset.startswith(("utf-16", "utf-32")):
            return Refused("is a form in a charset that does not hold ASCII: send UTF-8")
        rewrite = partial(rewrite_form, rule=rule, charset=content.charset or UTF8, scope=terms.scope)
        return WholeBody(rewrite, terms.limit)
    if kind == "multipart/byteranges":
        return Refused("is in parts that a value may be split over")
    if kind.startswith("multipart/"):
        if not content.boundary:
            return Refused("names no boundary")
        opening = partial(_part, rule=rule, terms=terms, is_form=kind == _FORM_DATA)
        return MultipartBody(content.boundary, rule, opening, terms.scope)
    if _binary_kind(kind):
        return passing(content, rule)
    if _TEXT.fullmatch(kind):
        return TextBody(rule, content.charset, terms)
    if terms.unknown is Unknown.SCRUB:
        return TextBody(rule, content.charset or UTF8, terms)
    if terms.unknown is Unknown.PASS:
        return passing(content, rule)
    return Refused("is of a type that is not redacted: send JSON, a form or text") if kind else NoBody()


def passing(content: Content, rule: TextRule, kind: str = "unknown") -> Passing:
    """A body, or part of one, that is not looked at: counted by ``kind``, of a binary type by that of its type.

    No more of a type is told, since it may hold anything.
    """
    kind = _binary_kind(content.type) or kind
    rule.skipped[kind] = rule.skipped.get(kind, 0) + 1
    return Passing(kind)


def binary_kind(content: Content) -> str:
    """What a body is counted as that passes whatever the policy says, since its type is binary; "" for any other."""
    kind = _binary_kind(content.type)
    return kind if kind and not content.is_json else ""


@lru_cache(maxsize=64)  # as media types are remembered
def _binary_kind(media_type: str) -> str:
    if _BINARY.fullmatch(media_type) is None:
        return ""
    top, _, sub = media_type.partition("/")
    return media_type if top == "application" and not sub.startswith("vnd.") else top


class WholeBody:
    """A body of at most ``limit`` bytes that is held back until it has ended; an empty one stays empty."""

    __slots__ = ("_data", "_limit", "_rewrite")

    def __init__(self, rewrite: Callable[[bytes], bytes], limit: int = JSON_BYTES_MAX) -> None:
        self._rewrite = rewrite
        self._limit = limit
        self._data: bytes | bytearray = b""

    def feed(self, chunk: bytes) -> bytes:
        """Keep the next bytes."""
        data = self._data
        if len(data) + len(chunk) > self._limit:
            raise MalformedTextError(f"the body has more than {self._limit} bytes")
        if not data:
            self._data = chunk  # most bodies come in one piece
        elif isinstance(data, bytearray):
            data += chunk
        else:
            self._data = bytearray(data) + chunk
        return b""

    def finish(self) -> bytes:
        """The body has ended; return it rewritten."""
        data, self._data = bytes(self._data), b""
        return self._rewrite(data) if data else data


class TextBody:
    """A text in ``charset`` ("": UTF-8, unless a byte order mark says other), redacted as it comes.

    Where it is JSON it is redacted as such under ``terms``.
    """

    def __init__(self, rule: TextRule, charset: str = "", terms: Terms = _TERMS) -> None:
        self._stream = _JsonOrText(rule, terms)
        self._charset = charset
        self._head = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        if self._decoder is not None:
            return encode_text(self._stream.feed(self._decoded(chunk)), self._charset)
        self._head += chunk
        return self._begin() if len(self._head) >= _MARK_BYTES_MAX else b""

    def finish(self) -> bytes:
        """The text has ended; return the rest of it."""
        begun = self._begin() if self._decoder is None else b""
        rest = self._stream.feed(self._decoded(b"", final=True))
        return begun + encode_text(rest + self._stream.finish(), self._charset)

    def _begin(self) -> bytes:
        """The first bytes are there, or all: take them, the byte order mark aside."""
        head, self._head = self._head, b""
        self._charset, mark = charset_of(head, self._charset)
        self._decoder = codecs.getincrementaldecoder(self._charset)()
        return head[:mark] + self.feed(head[mark:])

    def _decoded(self, chunk: bytes, *, final: bool = False) -> str:
        assert self._decoder is not None
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            raise MalformedTextError(f"the text is not in {self._charset}") from None
        if "\0" in text:
            raise MalformedTextError(NO_TEXT)
        return text


class _JsonOrText:
    """A text that may be JSON: held back while it may, at most ``terms.limit`` characters, then taken as it is."""

    def __init__(self, rule: TextRule, terms: Terms) -> None:
        self._rule = rule
        self._terms = terms
        self._held = StringIO(newline="")
        self._size = 0
        self._asked = 0
        self._text: EscapedTextStream | None = None

    def feed(self, text: str) -> str:
        if self._text is not None:
            return self._text.feed(text)
        self._held.write(text)
        self._size += len(text)
        if self._size > self._terms.limit:
            raise MalformedTextError(f"the body has more than {self._terms.limit} characters")
        if self._size < 2 * self._asked:
            return ""
        self._asked = self._size  # asking costs the whole length, so each time for twice as much
        held = self._held.getvalue()
        if is_json(held) is not False:
            return ""
        self._held = StringIO(newline="")
        self._text = EscapedTextStream(self._rule)
        return self._text.feed(held)

    def finish(self) -> str:
        if self._text is not None:
            return self._text.finish()
        held = self._held.getvalue()
        if is_json(held):
            return rewrite_text(held, self._rule, None, self._terms.scope)
        return apply(held, broken_edits(held, self._rule))


class NoBody:
    """A body of unknown type, which must be empty."""

    def feed(self, chunk: bytes) -> bytes:
        """Refuse the first byte."""
        if chunk:
            raise MalformedTextError("the body has no type")
        return b""

    def finish(self) -> bytes:
        """The body was empty."""
        return b""


def rewrite_encoded(data: bytes, rule: TextRule, shape: Shape | None, scope: Scope, charset: str) -> bytes:
    """A JSON text in UTF-8, UTF-16 or UTF-32 (``charset`` "": whichever it is), rewritten in it."""
    unsaid = not charset
    charset, mark = charset_of(data, charset)
    if unsaid and not mark and b"\0" in data[:_MARK_BYTES_MAX]:
        charset = _wide(data)
    try:
        text = data[mark:].decode(charset)
    except UnicodeDecodeError:
        raise MalformedTextError(f"the text is not in {charset}") from None
    rewritten = rewrite_text(text, rule, shape, scope)
    return data if rewritten is text else data[:mark] + encode_text(rewritten, charset)


def charset_of(head: bytes, charset: str) -> tuple[str, int]:
    """The charset that a text begins in, if the head says ``charset``, and the length of its byte order mark."""
    if charset in _PLAIN_UTF8 and head[:1] not in _MARKS_BEGIN:
        return UTF8, 0
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark) and charset in {"", name, name[:6]}:
            return name, len(mark)
    if charset in {"utf-16", "utf-32"} and head:
        raise MalformedTextError("the text does not say in which order its bytes are")
    return charset or UTF8, 0


def encode_text(text: str, charset: str) -> bytes:
    """``text`` in ``charset``; :class:`MalformedTextError` if a value that was put in it cannot be said there."""
    try:
        return text.encode(charset)
    except UnicodeEncodeError:
        raise MalformedTextError(f"a value to insert cannot be written in {charset}") from None


def _wide(data: bytes) -> str:
    """Which of UTF-16 and UTF-32 a JSON text without a mark is in: its first two characters are ASCII (RFC 4627)."""
    zeros = [byte == 0 for byte in data[:_MARK_BYTES_MAX]]
    if zeros[:3] == [True, True, True]:
        return "utf-32-be"
    if zeros[1:] == [True, True, True]:
        return "utf-32-le"
    return "utf-16-be" if zeros[0] else "utf-16-le"


def _json(content: Content, rule: TextRule, terms: Terms) -> Rewriting | Refused:
    if content.charset not in _UNICODE:
        return Refused("is JSON in a charset other than UTF-8, UTF-16 and UTF-32")
    shape = LLM_JSON if terms.model_call else None
    rewrite = partial(rewrite_encoded, rule=rule, shape=shape, scope=terms.scope, charset=content.charset)
    body = WholeBody(rewrite, terms.limit)
    if not terms.model_call or terms.scope is not EVERYWHERE or content.charset not in {"", UTF8}:
        return body
    return JsonArray(rule, body, unknown=terms.unknown, limit=min(VALUE_BYTES_MAX, terms.limit))


def _part(part: Part, rule: TextRule, terms: Terms, *, is_form: bool) -> Rewriting | None:
    """How a part of a multipart body is redacted, None if it passes.

    What is no file is a field of a form, and read as a text, whatever type it says that it is.
    """
    content = part.content
    fields = terms.fields.below(part.name) if part.name else terms.fields
    if part.is_file:
        passing(content, rule, "file")
        return None
    looked_at = not part.name or fields.looks(fields.start)
    if content.type.startswith("multipart/"):
        raise MalformedTextError("a part of the multipart body is one itself")
    if not content.is_json and not looked_at:
        return None
    untold = not content.type or (is_form and _binary_kind(content.type) != "")
    kind = content._replace(type="text/plain") if untold else content
    body = body_for(kind, rule, replace(terms, fields=fields))
    if isinstance(body, Refused):
        raise MalformedTextError(f"a part {body.problem}")
    return None if isinstance(body, Passing) else body
