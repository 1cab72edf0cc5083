"""HTTP as layers see it: headers, request, response, transforms and the outcome. No protocol, no I/O."""

# ruff: noqa: PLC0414 - how an exchange ends is offered here beside what it is made of
from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tenantguard.errors import BadRequestError, LayerError
from tenantguard.model.decision import Reason
from tenantguard.model.frozen import frozen
from tenantguard.model.outcome import Ending as Ending
from tenantguard.model.outcome import Outcome as Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    RawHeaders = list[tuple[bytes, bytes]]


@lru_cache(maxsize=1024)
def _encoded(name: str) -> bytes:
    if not (name.isascii() and name.isprintable()) or not name or ":" in name or " " in name:
        raise LayerError("this is no name of a header")
    return name.lower().encode()


@lru_cache(maxsize=256)
def _all_encoded(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset([_encoded(name) for name in names])


def _checked(value: str) -> bytes:
    """What is wrong with a value is told without quoting it."""
    if "\r" in value or "\n" in value or "\0" in value:
        raise LayerError("a header's value has a line break")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise LayerError("a header's value is not latin-1") from None


class Headers:
    """Header lines in order, names compared without case; copied on the first change.

    ``raw`` is what a driver hands on: the very object that came in as long as nobody changed it.
    """

    __slots__ = ("_owned", "raw")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.raw: RawHeaders = raw if isinstance(raw, list) else list(raw)
        self._owned = False

    def get(self, name: str) -> str | None:
        """The first value of ``name`` (latin-1), or None."""
        wanted = _encoded(name)
        length = len(wanted)
        for key, value in self.raw:
            if len(key) == length and (key == wanted or key.lower() == wanted):
                return value.decode("latin-1")
        return None

    def all(self, name: str) -> list[str]:
        """Every value of ``name``, in order."""
        wanted = _encoded(name)
        length = len(wanted)
        found: list[str] = []
        for key, value in self.raw:  # a comprehension is a call, which costs as much as the rest
            if len(key) == length and (key == wanted or key.lower() == wanted):
                found.append(value.decode("latin-1"))
        return found

    def set(self, name: str, value: str) -> None:
        """Replace every line of ``name`` by one, which stands where the first stood."""
        wanted = _encoded(name)
        length = len(wanted)
        line = (wanted, _checked(value))
        if not self._owned:
            self.raw = list(self.raw)
            self._owned = True
        raw = self.raw
        placed = False
        for position, (key, _) in enumerate(raw):
            if len(key) == length and (key == wanted or key.lower() == wanted):
                if placed:
                    self.raw = [other for at, other in enumerate(raw) if at < position or other[0].lower() != wanted]
                    return
                raw[position] = line
                placed = True
        if not placed:
            raw.append(line)

    def add(self, name: str, value: str) -> None:
        """Add one line."""
        line = (_encoded(name), _checked(value))
        if not self._owned:
            self.raw = list(self.raw)
            self._owned = True
        self.raw.append(line)

    def extend(self, lines: Iterable[tuple[bytes, bytes]]) -> None:
        """Add lines as they are: names in small letters, values without line breaks."""
        if self._owned:
            self.raw.extend(lines)
        else:
            self.raw = [*self.raw, *lines]
            self._owned = True

    def remove(self, *names: str) -> None:
        """Drop every line of these names."""
        wanted = _all_encoded(names)
        kept = [line for line in self.raw if line[0].lower() not in wanted]
        if len(kept) < len(self.raw):
            self.raw = kept
            self._owned = True

    def __repr__(self) -> str:
        return f"Headers({len(self.raw)} lines)"  # values may be credentials or personal data


class Body:
    """A request body read whole, parsed at most once for all layers."""

    __slots__ = ("_json", "data")
    _UNPARSED: Any = object()

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._json: Any = Body._UNPARSED

    def json(self) -> Any:
        """The body as JSON, parsed once.

        :class:`BadRequestError` if it is none, nests too deeply, or an object in it has one key twice (which two
        readers may resolve differently).
        """
        if self._json is Body._UNPARSED:
            try:
                self._json = _UNAMBIGUOUS.decode(self.data.decode("utf-8"))
            except UnicodeDecodeError:
                raise BadRequestError("the body is not UTF-8") from None
            except RecursionError:
                raise BadRequestError("the body nests too deeply") from None
            except _AmbiguousKeyError:
                raise BadRequestError("an object in the body has one key twice") from None
            except ValueError:
                raise BadRequestError("the body is not JSON") from None
        return self._json

    def release(self) -> None:
        """Forget what was parsed, which can take 30 times as much memory as the bytes; it is parsed anew if asked."""
        self._json = Body._UNPARSED

    def __repr__(self) -> str:
        return f"Body({len(self.data)} bytes)"


class _AmbiguousKeyError(ValueError):
    pass


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _AmbiguousKeyError
    return found


_UNAMBIGUOUS: Final = json.JSONDecoder(object_pairs_hook=_unambiguous)


@frozen
class Unreadable:
    """Why a body could not be read whole: too large (413), or not as long as it said (400)."""

    reason: Reason
    status: int
    message: str


BODY_LIMIT_BYTES: Final = 10 * 1024 * 1024
"""The largest request body that a layer reads unless told otherwise: a million tokens are about 4 MB of text."""


def too_large(limit: int) -> Unreadable:
    """The body has more than ``limit`` bytes."""
    return Unreadable(Reason.BODY_TOO_LARGE, 413, f"The request body is larger than the {limit} bytes accepted here.")


def length_mismatch() -> Unreadable:
    """The body is not as long as its ``content-length`` said."""
    return Unreadable(Reason.BODY_LENGTH_MISMATCH, 400, "The request body is not as long as its content-length says.")


def declared_length(headers: Headers) -> int | Unreadable | None:
    """The ``content-length`` of a request: None if it has none, :class:`Unreadable` if it is no plain number."""
    lengths = headers.all("content-length")
    if not lengths:
        return None
    value = lengths[0]
    if (len(lengths) > 1 and len(set(lengths)) > 1) or not (value.isascii() and value.isdigit()) or len(value) > 18:
        return length_mismatch()
    return int(value)


def describe_body(headers: Headers, length: int) -> None:
    """Mend the headers of a request whose body was replaced by ``length`` plain bytes."""
    headers.remove("transfer-encoding", "content-encoding", "content-md5", "digest", "content-digest")
    headers.set("content-length", str(length))


class Request:
    """The head of a request. What is assigned to it is what the application sees; ``body`` only after ``ReadBody``.

    ``path`` is decoded; ``raw_path`` is the same as it was written, None where the server does not tell.
    """

    __slots__ = ("body_read", "client", "headers", "method", "path", "protocol", "query", "raw_path", "replaced")

    def __init__(
        self,
        method: str,
        path: str,
        headers: Headers | None = None,
        query: bytes = b"",
        client: str | None = None,
        protocol: Literal["http", "websocket"] = "http",
        raw_path: bytes | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.headers = headers if headers is not None else Headers()
        self.client = client
        self.protocol = protocol
        self.body_read: Body | Unreadable | None = None
        self.replaced = False

    @property
    def body(self) -> bytes:
        """The body as the application will read it; only after ``ReadBody`` was answered."""
        if not isinstance(self.body_read, Body):
            raise LayerError("the body was not read: yield from ReadBody(limit) first")
        return self.body_read.data

    @body.setter
    def body(self, data: bytes) -> None:
        if not isinstance(self.body_read, Body):
            raise LayerError("the body was not read: yield from ReadBody(limit) first")
        if data != self.body_read.data:
            self.body_read = Body(data)
            self.replaced = True

    def __repr__(self) -> str:
        return f"Request({self.method})"  # a path may be personal data


@frozen
class Cut:
    """A transform's last word: stop here. ``tail`` still passes the transforms further out, then the stream ends.

    An empty ``tail`` aborts the connection, so that the client sees that the response is not whole. A WebSocket sends
    none and closes with ``code`` (RFC 6455 7.4.1; 1011: the server met a condition that it did not expect).
    """

    reason: str
    tail: bytes = b""
    code: int = 1011


class Transform(Protocol):
    """A pure, incremental rewriting of the response body. It cannot ask anything while it works.

    ``rewrites`` is False for a tap that only reads: then headers that describe the bytes stay. One that can take more
    than a microsecond a byte says how many in an attribute ``work``, and runs in a worker the earlier.
    """

    rewrites: bool

    def feed(self, chunk: bytes) -> bytes | Cut:
        """Take the next bytes; return what may leave."""
        ...

    def finish(self) -> bytes | Cut:
        """The body has ended; return what was held back."""
        ...


class Frames(Protocol):
    """A pure rewriting of a WebSocket's messages, each whole and by itself: text is ``str``, binary is ``bytes``.

    One that can take more than a microsecond a byte says how many in an attribute ``work``, as a transform does. In
    each direction it is asked for one message at a time. After a :class:`Cut` nothing more passes, either way.
    """

    def inbound(self, message: str | bytes) -> str | bytes | Cut:
        """What the application receives in place of a message of the client's."""
        ...

    def outbound(self, message: str | bytes) -> str | bytes | Cut:
        """What the client receives in place of a message of the application's."""
        ...


class Marker(Protocol):
    """Proof of completion in the protocol's own terms, kept by whoever decodes the response."""

    ended: bool
    failed: bool


class Response:
    """Status, headers, and a body: bytes, or None for "stream the application's body" through ``transforms``.

    The messages of a WebSocket (status 101) pass ``frames`` instead: outward in their order, inward in the reverse.
    """

    __slots__ = ("body", "frames", "headers", "marker", "status", "transforms")

    def __init__(self, status: int, headers: Headers | None = None, body: bytes | None = None) -> None:
        self.status = status
        self.headers = headers if headers is not None else Headers()
        self.body = body
        self.transforms: list[Transform] = []
        self.frames: tuple[Frames, ...] = ()
        self.marker: Marker | None = None

    def __repr__(self) -> str:
        return f"Response({self.status})"
