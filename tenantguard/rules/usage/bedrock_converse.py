"""Bedrock's Converse and ConverseStream.

Wire facts from AWS's API reference ("Converse", "ConverseStreamOutput", "TokenUsage"): a stream is in Amazon's binary
event stream, and its last event is ``metadata``, after ``messageStop``; a failure is an exception in its place.
``inputTokens`` leave out what was read from or written to the cache; ``cacheDetails`` split what was written by how
long it is kept. The model stands in the URL alone, and nothing names the response.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage
from tenantguard.rules.usage.counts import read_count, read_part, read_tier, usage_or_none
from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder, UsageDecoder, parse_object, text_bytes
from tenantguard.rules.usage.event_stream import EventStreamFramer

if TYPE_CHECKING:
    from collections.abc import Mapping

AMAZON_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_TEXT: Final = re.compile(rb'"(?:text|input)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')


def _usage_of(document: Mapping[str, Any]) -> Usage:
    counts = read_part(document, "usage")
    written = read_count(counts, "cacheWriteInputTokens", 0)
    hour = _read_hour(counts.get("cacheDetails"), written)
    fast = read_part(document, "performanceConfig").get("latency") == "optimized"
    return Usage(
        read_count(counts, "inputTokens"),
        read_count(counts, "outputTokens"),
        read_count(counts, "cacheReadInputTokens", 0),
        written - hour,
        requests=1,
        cache_write_1h_tokens=hour,
        service_tier="optimized" if fast else read_tier(read_part(document, "serviceTier").get("type")),
    )


def _read_hour(details: Any, written: int) -> int:
    """How much of what was written to the cache is kept for an hour; without a split, nothing."""
    if not details:
        return 0
    if not isinstance(details, list) or not all(isinstance(item, dict) for item in details):
        raise BadRequestError("usage: cacheDetails are no list")
    kept = {"5m": 0, "1h": 0}
    for item in details:
        time = item.get("ttl")
        if time not in kept:
            raise BadRequestError("usage: a cache at another price")
        kept[time] += read_count(item, "inputTokens")
    if sum(kept.values()) != written:
        raise BadRequestError("usage: the split of the cache's writes is not their sum")
    return kept["1h"]


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        self.usage = usage_or_none(_usage_of, document)


class _Stream(UsageDecoder):
    """Whatever follows ``metadata`` passes unread, as does everything from a corrupt message on."""

    __slots__ = ("_framer", "_stopped")

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()
        self._framer = EventStreamFramer()
        self._stopped = False

    def feed(self, chunk: bytes) -> bytes:
        if self.ended:
            return chunk
        for kind, name, payload in self._framer.feed(chunk):
            if kind != "event":
                self.failed = True
            elif name == "contentBlockDelta":
                for text in _TEXT.findall(payload):
                    self._text_bytes += text_bytes(text)
            elif name == "messageStop":
                self._stopped = True
            elif name == "metadata":
                document = parse_object(payload)
                self.usage = usage_or_none(_usage_of, document) if document is not None else None
                self.ended = self._stopped
                break
        return chunk

    def finish(self) -> bytes:
        self.broken = not self.ended
        return b""


DECODING: Final = Decoding(_Document, {AMAZON_EVENT_STREAM: _Stream})
