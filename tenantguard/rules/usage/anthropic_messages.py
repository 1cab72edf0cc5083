"""Anthropic messages.

Wire facts from Anthropic's API reference ("Messages", "Streaming messages") and its SDK's types: ``input_tokens``
leave out what was read from or written to the cache; ``cache_creation`` splits what was written by how long it is
kept; the counts of ``message_delta`` are running totals that may be null, so each replaces what ``message_start``
said; an error may come in mid-stream, as an event of its own. Of ``iterations``, a compaction is in no total; an
advisor is another model, whose tokens no price of this one fits, so that usage with one is missing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.counts import read_count, read_part, read_tier, usage_or_none
from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder, StreamDecoder, parse_object, text_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT: Final = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_FIVE_MINUTES: Final = "ephemeral_5m_input_tokens"
_ONE_HOUR: Final = "ephemeral_1h_input_tokens"
_OWN_TOTALS: Final = frozenset({"message", "fallback_message"})


def _usage_of(counts: Mapping[str, Any]) -> Usage:
    parts = [counts, *_beside(counts)]
    hour = sum(map(_read_hour, parts))
    searched = read_part(counts, "server_tool_use")
    return Usage(
        sum(read_count(part, "input_tokens") for part in parts),
        sum(read_count(part, "output_tokens") for part in parts),
        sum(read_count(part, "cache_read_input_tokens", 0) for part in parts),
        sum(read_count(part, "cache_creation_input_tokens", 0) for part in parts) - hour,
        requests=1,
        units={name: read_count(searched, name) for name in searched if searched[name] is not None},
        cache_write_1h_tokens=hour,
        reasoning_tokens=read_count(read_part(counts, "output_tokens_details"), "thinking_tokens", 0),
        service_tier="fast" if counts.get("speed") == "fast" else read_tier(counts.get("service_tier")),
    )


def _beside(counts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The iterations that the totals leave out."""
    iterations = counts.get("iterations") or []
    if not isinstance(iterations, list):
        raise BadRequestError("usage: iterations are no list")
    beside: list[Mapping[str, Any]] = []
    for iteration in iterations:
        kind = iteration.get("type") if isinstance(iteration, dict) else None
        if kind == "compaction":
            beside.append(iteration)
        elif kind not in _OWN_TOTALS:
            raise BadRequestError("usage: an iteration at another price")
    return beside


def _read_hour(counts: Mapping[str, Any]) -> int:
    """How much of what was written to the cache is kept for an hour; without a split, nothing."""
    split = read_part(counts, "cache_creation")
    if not split:
        return 0
    hour = read_count(split, _ONE_HOUR, 0)
    if read_count(split, _FIVE_MINUTES, 0) + hour != read_count(counts, "cache_creation_input_tokens", 0):
        raise BadRequestError("usage: the split of the cache's writes is not their sum")
    return hour


def _stated(counts: Any) -> dict[str, Any]:
    if not isinstance(counts, dict):
        return {}
    return {name: value for name, value in counts.items() if value is not None}


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        self.read_names(document)
        self.failed = document.get("type") == "error" or bool(document.get("error"))
        self.usage = usage_or_none(_usage_of, _stated(document.get("usage")))


class _Stream(StreamDecoder):
    __slots__ = ("_announced", "_counts")

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()
        self._counts: dict[str, Any] = {}
        self._announced: Usage | None = None

    @property
    def usage_so_far(self) -> Usage | None:
        return self._announced

    def read_data(self, data: bytes) -> None:
        if (start := data.find(b'"delta"')) >= 0:
            for text in _TEXT.findall(data, start):
                self._text_bytes += text_bytes(text)
        if b'"message_' in data or b'"error"' in data:
            document = parse_object(data)
            if document is not None:
                self._read(document)

    def _read(self, document: dict[str, Any]) -> None:
        match document.get("type"):
            case "message_start":
                message = document.get("message")
                if isinstance(message, dict):
                    self.read_names(message)
                    self._counts = _stated(message.get("usage"))
                    self._announced = usage_or_none(_usage_of, self._counts)
            case "message_delta":
                if isinstance(document.get("usage"), dict):
                    self._replace(_stated(document["usage"]))
                    self.usage = self._announced = usage_or_none(_usage_of, self._counts)
            case "message_stop":
                self.ended = True
            case "error":
                self.failed = True

    def _replace(self, totals: dict[str, Any]) -> None:
        """Take running totals. A total of the cache's writes that has grown keeps its split if that had one kind."""
        split = self._counts.get("cache_creation")
        written = totals.get("cache_creation_input_tokens")
        if isinstance(split, dict) and written is not None and "cache_creation" not in totals:
            kinds = [name for name in (_FIVE_MINUTES, _ONE_HOUR) if split.get(name)]
            if len(kinds) < 2:
                totals["cache_creation"] = {kinds[0] if kinds else _FIVE_MINUTES: written}
        self._counts.update(totals)


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
