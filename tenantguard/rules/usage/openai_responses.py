"""OpenAI responses.

Wire facts from OpenAI's API reference ("Responses", "Streaming events"): a stream ends with ``response.completed`` or
``response.incomplete`` (an output cap was met; it is a success), whose ``response`` has the usage that all events
before it leave null, or with ``response.failed``; ``error`` is a failure as well. There is no ``[DONE]``. The
response of a background call is only queued, and has no usage yet. ``input_tokens`` include what was read from and
written to the cache, ``output_tokens`` include reasoning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.counts import read_count, read_part, read_tier, usage_or_none
from tenantguard.rules.usage.decoder import (
    Decoding,
    DocumentDecoder,
    StreamDecoder,
    UsageDecoder,
    is_beyond_python,
    parse_object,
    text_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN: Final = re.compile(rb'\{"type":"response\.[a-z_.]+\.delta",')
"""How nearly every event begins, and none that tells more than its delta."""
_TELLING: Final = re.compile(rb'"type"\s*:\s*"(?:response\.(?:created|completed|incomplete|failed)|error)"')
_FIRST: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z.]+)"')
_LAST: Final = re.compile(rb'"type"\s*:\s*"([a-z.]+)"\s*\}\s*\Z')
"""The type of an event that cannot be parsed, as its first member or its last."""
_LAST_BYTES: Final = 100
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DELTA: Final = re.compile(rb'"delta"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_SOUND: Final = b'"response.audio.delta"'


def _usage_of(response: Mapping[str, Any]) -> Usage:
    counts = read_part(response, "usage")
    details = read_part(counts, "input_tokens_details")
    cached = read_count(details, "cached_tokens", 0)
    written = read_count(details, "cache_write_tokens", 0)
    return Usage(
        read_count(counts, "input_tokens") - cached - written,
        read_count(counts, "output_tokens"),
        cached,
        written,
        requests=1,
        reasoning_tokens=read_count(read_part(counts, "output_tokens_details"), "reasoning_tokens", 0),
        service_tier=read_tier(response.get("service_tier")),
    )


def _read_response(decoder: UsageDecoder, response: dict[str, Any]) -> None:
    decoder.read_names(response)
    if response.get("status") == "failed" or response.get("error"):
        decoder.failed = True
    decoder.usage = usage_or_none(_usage_of, response)


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        _read_response(self, document)


class _Stream(StreamDecoder):
    __slots__ = ()

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()

    def read_data(self, data: bytes) -> None:
        if _PLAIN.match(data) is None and _TELLING.search(data):
            document = parse_object(data)
            if document is not None:
                self._read(document)
            elif is_beyond_python(data):  # it repeats what the request brought: its tools, its metadata
                self._read_type(data)
        elif _SOUND not in data:
            for text in _DELTA.findall(data):
                self._text_bytes += text_bytes(text)

    def _read(self, document: dict[str, Any]) -> None:
        kind = document.get("type")
        response = document.get("response")
        if not isinstance(kind, str):
            return
        if kind in {"error", "response.failed"}:
            self.failed = True
        if isinstance(response, dict):
            _read_response(self, response)
        self.ended = kind in _ENDS

    def _read_type(self, data: bytes) -> None:
        found = _FIRST.match(data) or _LAST.search(data[-_LAST_BYTES:])
        if found is not None:
            self._read({"type": found[1].decode()})


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
