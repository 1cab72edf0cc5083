"""Content encodings undone within bounds: gzip and deflate here, others (br, zstd) by what an adapter brings.

A few bytes can stand for gigabytes, so the output is bounded twice: altogether, and by what the bytes read so far can
fairly stand for. It is made in pieces, and the bounds are checked after each of them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

from tenantguard.rules.redaction.text.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ENCODINGS_MAX: Final = 2
"""More than two encodings on one another are refused: nobody means them."""

RATIO_MAX: Final = 100
"""Bytes out for a byte in. Text and JSON of real use stay under 20; deflate reaches 1032, others a million."""

CREDIT_BYTES: Final = 1024 * 1024
"""What may come out beyond the ratio: a short body of blanks is no attack."""

PIECE_BYTES: Final = 65_536
"""The most that a decompressor makes at once, where it can be told."""

_TAKEN_BYTES: Final = 4096  # at a time: what zlib hands back unread is copied
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB_HEAD_BYTES: Final = 2


class Decompressor(Protocol):
    """One compressed body that arrives in chunks."""

    @property
    def finished(self) -> bool:
        """Whether all that was read so far is whole: the body may end here."""
        ...

    def read(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes stand for, in pieces of bounded size; an empty piece is possible.

        Raises :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError` where they are not what they claim
        to be.
        """
        ...


class Decoder:
    """Undoes the encodings of one body, the last applied first. Made by :func:`decoding`.

    ``feed`` and ``finish`` raise :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError` for what is not
    in the encoding, goes on after its end, ends before it, or grows beyond the bounds.
    """

    def __init__(self, stages: Sequence[Decompressor], limit: int | None, ratio: int) -> None:
        self._stages = [_Bounded(stage, ratio) for stage in stages]
        self._limit = limit
        self._made = 0
        self._begun = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next encoded bytes; return what they stand for."""
        if not chunk:
            return b""
        self._begun = True
        pieces: list[bytes] = []
        for piece in self._through(chunk, 0):
            self._made += len(piece)
            if self._limit is not None and self._made > self._limit:
                raise MalformedTextError(f"the decoded body has more than {self._limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def finish(self) -> bytes:
        """The body has ended; nothing was held back. A body without a byte is empty in every encoding."""
        if self._begun and not all(stage.finished for stage in self._stages):
            raise MalformedTextError("the encoded body is not whole")
        return b""

    def _through(self, data: bytes, index: int) -> Iterator[bytes]:
        if index == len(self._stages):
            yield data
            return
        for piece in self._stages[index].read(data):
            if piece:
                yield from self._through(piece, index + 1)


def decoding(
    names: Sequence[str],
    decoders: Mapping[str, Callable[[], Decompressor]],
    *,
    limit: int | None,
    ratio: int = RATIO_MAX,
) -> Decoder | None:
    """What undoes the encodings of these names, in the order in which they were applied.

    None where one is not known or they are more than two. ``decoders`` are those beside gzip and deflate. ``limit``
    is the most bytes of the decoded body (None for a stream, which has no end that one could wait for).
    """
    known: dict[str, Callable[[], Decompressor]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate, **decoders}
    if len(names) > ENCODINGS_MAX or any(name not in known for name in names):
        return None
    return Decoder([known[name]() for name in reversed(names)], limit, ratio)


class _Bounded:
    """A decompressor whose output is paid for by its input: ``ratio`` bytes for one, and a credit."""

    def __init__(self, inner: Decompressor, ratio: int) -> None:
        self._inner = inner
        self._ratio = ratio
        self._credit = CREDIT_BYTES

    @property
    def finished(self) -> bool:
        return self._inner.finished

    def read(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _TAKEN_BYTES):
            taken = data[start : start + _TAKEN_BYTES]
            self._credit = min(self._credit + self._ratio * len(taken), CREDIT_BYTES + self._ratio * _TAKEN_BYTES)
            for piece in self._inner.read(taken):
                self._credit -= len(piece)
                if self._credit < 0:
                    raise MalformedTextError(f"the encoded body grows to more than {self._ratio} times its size")
                yield piece


class _Gzip:
    """RFC 1952: one member or several, one after the other."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self.finished = False

    def read(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            yield from _inflated(self._member, data)
            self.finished = self._member.eof
            data = self._member.unused_data


class _Deflate:
    """RFC 1950, or RFC 1951 alone, which many send under that name; the first two bytes tell."""

    def __init__(self) -> None:
        self._head = b""
        self._stream: zlib._Decompress | None = None

    @property
    def finished(self) -> bool:
        return self._stream is not None and self._stream.eof

    def read(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._head += data
            if len(self._head) < _ZLIB_HEAD_BYTES:
                return
            data, self._head = self._head, b""
            with_head = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if with_head else -zlib.MAX_WBITS)
        elif self._stream.eof:
            raise MalformedTextError("the encoded body goes on after its end")
        yield from _inflated(self._stream, data)
        if self._stream.unused_data:
            raise MalformedTextError("the encoded body goes on after its end")


def _inflated(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    try:
        while True:
            made = stream.decompress(data, PIECE_BYTES)
            yield made
            data = stream.unconsumed_tail
            if stream.eof or (not data and len(made) < PIECE_BYTES):
                return
    except zlib.error:
        raise MalformedTextError("the body is not in the encoding that it names") from None
