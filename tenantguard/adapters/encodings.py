"""Brotli and Zstandard, where a package (or CPython, since 3.14) brings them; see ``rules/encodings.py``."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from tenantguard.rules.encodings import PIECE_BYTES
from tenantguard.rules.redaction.text.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tenantguard.rules.encodings import Decompressor

_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
"""The window that every reader of Zstandard should support (RFC 8878, section 3.1.1.1.2), and so the most used."""

_WINDOW_LOG_MAX: Final = _WINDOW_BYTES_MAX.bit_length() - 1
_TAKEN_BYTES: Final = 64
"""Of a package that cannot bound its output, at a time: a block of 4 bytes can stand for 128 KiB (RFC 8878)."""


def available_decoders() -> Mapping[str, Callable[[], Decompressor]]:
    """The encodings that this machine can undo besides gzip and deflate, by name."""
    decoders: dict[str, Callable[[], Decompressor]] = {}
    for package in ("brotli", "brotlicffi"):
        if find_spec(package) is not None:
            module = import_module(package)
            if hasattr(module.Decompressor, "can_accept_more_data"):  # an older one cannot bound its output
                decoders["br"] = partial(_Brotli, module)
                break
    if sys.version_info >= (3, 14) and find_spec("compression.zstd") is not None:
        decoders["zstd"] = _Zstd
    elif find_spec("zstandard") is not None:
        decoders["zstd"] = _Zstandard
    return decoders


class _Brotli:
    """RFC 7932 by the package ``brotli`` or ``brotlicffi``."""

    def __init__(self, module: Any) -> None:
        self._stream = module.Decompressor()
        self._error: type[Exception] = module.error
        self.finished = False

    def read(self, data: bytes) -> Iterator[bytes]:
        if self.finished:
            raise _goes_on()
        try:
            made = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
            while made:
                yield made
                made = self._next()
        except self._error:
            raise _broken() from None
        self.finished = self._stream.is_finished()

    def _next(self) -> bytes:
        """What is still to come of the bytes that it has, although it would take more."""
        if self._stream.is_finished():
            return b""
        made: bytes = self._stream.process(b"", output_buffer_limit=PIECE_BYTES)
        return made


class _Zstd:
    """RFC 8878 by CPython: one frame or several."""

    def __init__(self) -> None:
        self._module: Any = import_module("compression.zstd")
        self._stream = self._frame()
        self.finished = False

    def _frame(self) -> Any:
        limit = {self._module.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        return self._module.ZstdDecompressor(options=limit)

    def read(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._stream.eof:
                    self._stream = self._frame()
                yield self._stream.decompress(data, PIECE_BYTES)
                while not (self._stream.eof or self._stream.needs_input):
                    yield self._stream.decompress(b"", PIECE_BYTES)
                self.finished = self._stream.eof
                data = self._stream.unused_data if self._stream.eof else b""
        except self._module.ZstdError:
            raise _broken() from None


class _Zstandard:
    """RFC 8878 by the package ``zstandard``: one frame or several."""

    def __init__(self) -> None:
        self._module: Any = import_module("zstandard")
        self._context = self._module.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
        self._frame = self._context.decompressobj()
        self.finished = False

    def read(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), _TAKEN_BYTES):
                taken = data[start : start + _TAKEN_BYTES]
                while taken:
                    if self._frame.eof:
                        self._frame = self._context.decompressobj()
                    yield self._frame.decompress(taken)
                    self.finished = self._frame.eof
                    taken = self._frame.unused_data
        except self._module.ZstdError:
            raise _broken() from None


def _broken() -> MalformedTextError:
    return MalformedTextError("the body is not in the encoding that it names")


def _goes_on() -> MalformedTextError:
    return MalformedTextError("the encoded body goes on after its end")
