"""OpenAI images: generations and edits.

Wire facts from OpenAI's API reference ("Images", "Image streaming"): ``usage`` stands beside the images, in
``image_generation.completed`` or ``image_edit.completed`` of a stream, which has one image (``n`` must be 1). Output
is images unless ``output_tokens_details`` says how much of it is text. Servers without a usage object say nothing of
it: then it is missing. Neither the response nor the model is named.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.counts import read_count, read_part, usage_or_none
from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder, StreamDecoder, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMPLETED: Final = frozenset({"image_generation.completed", "image_edit.completed"})
_RUN_BYTES_MAX: Final = 1024
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=]*+")
_LONG_RUN: Final = re.compile(rb"([A-Za-z0-9+/=]{%d})[A-Za-z0-9+/=]++" % _RUN_BYTES_MAX)
_LAST_RUN: Final = re.compile(rb"[A-Za-z0-9+/=]{0,%d}\Z" % _RUN_BYTES_MAX)


def _usage_of(document: Mapping[str, Any], images: int) -> Usage:
    counts = read_part(document, "usage")
    output = read_count(counts, "output_tokens")
    details = read_part(counts, "output_tokens_details")
    drawn = read_count(details, "image_tokens", output - read_count(details, "text_tokens", 0))
    return Usage(
        read_count(counts, "input_tokens"),
        output - drawn,
        requests=1,
        units={"images": images},
        image_output_tokens=drawn,
        image_input_tokens=read_count(read_part(counts, "input_tokens_details"), "image_tokens", 0),
    )


class _Document(DocumentDecoder):
    """Images come in the document itself, in base64: of each only the first bytes are copied."""

    __slots__ = ("_run",)

    def __init__(self) -> None:
        super().__init__()
        self._run = 0

    def copy(self, chunk: bytes) -> None:
        going_on = _BASE64.match(chunk)
        length = going_on.end() if going_on is not None else 0
        kept = chunk[:length][: max(0, _RUN_BYTES_MAX - self._run)]
        if length == len(chunk):
            self._run += length
        else:
            rest = _LONG_RUN.sub(rb"\1", chunk[length:])
            kept += rest
            last = _LAST_RUN.search(rest)
            self._run = len(last[0]) if last is not None else 0
        super().copy(kept)

    def read(self, document: dict[str, Any]) -> None:
        self.failed = bool(document.get("error"))
        data = document.get("data")
        self.usage = usage_or_none(_usage_of, document, len(data) if isinstance(data, list) else 0)


class _Stream(StreamDecoder):
    __slots__ = ()

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()

    def read_data(self, data: bytes) -> None:
        telling = b'.completed"' in data or b'"error"' in data
        document = parse_object(data) if telling else None
        if document is None:
            return
        kind = document.get("type")
        if isinstance(kind, str) and kind in _COMPLETED:
            self.usage = usage_or_none(_usage_of, document, 1)
            self.ended = True
        elif kind == "error" or document.get("error"):
            self.failed = True


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
