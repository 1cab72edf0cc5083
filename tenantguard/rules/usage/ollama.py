"""Ollama's own API: chat and generate, and embed.

Wire facts from Ollama's API reference: a stream is one JSON object a line, of which the last has ``done`` and the
counts; an error may be such a line. ``prompt_eval_count`` was left out for prompts that were still in memory
(github.com/ollama/ollama, issues 2068 and 3427): then usage is missing. ``prompt_eval_cached_count`` is inside it.
Embeddings come without ``done``, and put out nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.model.usage import Usage
from tenantguard.rules.usage.counts import read_count, usage_or_none
from tenantguard.rules.usage.decoder import (
    JSON_LINES,
    Decoding,
    DocumentDecoder,
    LineDecoder,
    UsageDecoder,
    parse_object,
    text_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_TELLING: Final = re.compile(rb'"done"\s*:\s*true|"error"|"tool_calls"')
_TEXT: Final = re.compile(rb'"(?:content|response|thinking)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')


def _usage_of(document: Mapping[str, Any]) -> Usage:
    prompt = read_count(document, "prompt_eval_count")
    cached = read_count(document, "prompt_eval_cached_count", 0)
    return Usage(prompt - cached, read_count(document, "eval_count"), cached, requests=1)


def _embed_usage_of(document: Mapping[str, Any]) -> Usage:
    return Usage(read_count(document, "prompt_eval_count"), requests=1)


def _read(decoder: UsageDecoder, document: dict[str, Any]) -> None:
    decoder.read_names(document)
    if document.get("error"):
        decoder.failed = True
    if document.get("done") is True:
        decoder.usage = usage_or_none(_usage_of, document)


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        _read(self, document)


class _Embeddings(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        self.read_names(document)
        self.failed = bool(document.get("error"))
        self.usage = usage_or_none(_embed_usage_of, document)


class _Stream(LineDecoder):
    __slots__ = ()

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()

    def read_line(self, line: bytes) -> None:
        for text in _TEXT.findall(line):
            self._text_bytes += text_bytes(text)
        if self.model is None or _TELLING.search(line):
            document = parse_object(line)
            if document is not None:
                self._text_bytes += _called_bytes(document)
                _read(self, document)
                self.ended = document.get("done") is True


def _called_bytes(document: Mapping[str, Any]) -> int:
    """The size of the arguments of tool calls, which are objects here."""
    message = document.get("message")
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    size = 0
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and function.get("arguments"):
            written = json.dumps(function["arguments"], separators=(",", ":"), ensure_ascii=False)
            size += len(written.encode("utf-8", "surrogatepass"))
    return size


DECODING: Final = Decoding(_Document, {JSON_LINES: _Stream})
EMBED_DECODING: Final = Decoding(_Embeddings)
