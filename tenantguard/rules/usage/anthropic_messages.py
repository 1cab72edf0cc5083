"""Anthropic messages.

Wire facts from Anthropic's API reference ("Messages", "Streaming messages"): ``input_tokens`` leave out what was
read from or written to the cache; the counts of ``message_delta`` are running totals that may be null, so each
replaces what ``message_start`` said; an error may come in mid-stream, as an event of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage
from tenantguard.rules.usage.decoder import DocumentDecoder, StreamDecoder, UsageDecoder, parse_object, text_bytes

_TEXT: Final = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def make(stream: bool, strip_usage: bool) -> UsageDecoder:  # noqa: ARG001, FBT001 - the registry's signature
    """A decoder for one response; its usage is never asked for, so there is none to strip."""
    return _Stream() if stream else _Document()


def _read_usage(counts: dict[str, Any]) -> Usage | None:
    try:
        return Usage(
            counts["input_tokens"],
            counts["output_tokens"],
            counts.get("cache_read_input_tokens", 0),
            counts.get("cache_creation_input_tokens", 0),
            requests=1,
        )
    except (KeyError, BadRequestError):
        return None


def _stated(counts: Any) -> dict[str, Any]:
    if not isinstance(counts, dict):
        return {}
    return {name: counts[name] for name in _COUNTS if counts.get(name) is not None}


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        self.read_names(document)
        self.failed = document.get("type") == "error" or bool(document.get("error"))
        self.usage = _read_usage(_stated(document.get("usage")))


class _Stream(StreamDecoder):
    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}

    def read_data(self, data: bytes) -> None:
        if (start := data.find(b'"delta"')) >= 0:
            for text in _TEXT.findall(data, start):
                self.output_bytes += text_bytes(text)
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
                    self.usage_so_far = _read_usage(self._counts)
            case "message_delta":
                if isinstance(document.get("usage"), dict):
                    self._counts.update(_stated(document["usage"]))
                    self.usage = self.usage_so_far = _read_usage(self._counts)
            case "message_stop":
                self.ended = True
            case "error":
                self.failed = True
