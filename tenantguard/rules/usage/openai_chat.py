"""OpenAI chat completions, and the many servers that speak them.

Wire facts from OpenAI's API reference ("Chat completions", "stream_options"). The counts of one stream are never
added up: vLLM's ``continuous_usage_stats`` are running totals, so that the last word is the whole. Model text cannot
pass for a member: inside a JSON string every quote is escaped.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage, is_count
from tenantguard.rules.usage.decoder import DocumentDecoder, StreamDecoder, UsageDecoder, parse_object, text_bytes

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_ERROR: Final = re.compile(rb'"error"\s*:\s*+(?!null)')
_TEXT: Final = re.compile(
    rb'"(content|refusal|reasoning|reasoning_content|arguments)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"',
)
_NAMING_EVENTS: Final = 4
"""How many events are parsed for the model and the id: Azure's first one names neither."""


def make(stream: bool, strip_usage: bool) -> UsageDecoder:  # noqa: FBT001 - the registry's signature
    """A decoder for one response."""
    return _Stream(rewrites=strip_usage) if stream else _Document()


def read_usage(counts: Any, *, writes: bool = True) -> Usage | None:
    """The usage in OpenAI's words; None unless every count is there and possible.

    ``prompt_tokens`` include those read from and written to the cache; ``completion_tokens`` include reasoning.
    """
    if not isinstance(counts, dict):
        return None
    details = counts.get("prompt_tokens_details")
    if details is None:
        details = {}
    if not isinstance(details, dict):
        return None
    prompt = counts.get("prompt_tokens")
    output: Any = counts.get("completion_tokens") if writes else 0
    cached, written = (_or_zero(details.get(name)) for name in ("cached_tokens", "cache_write_tokens"))
    if not (is_count(prompt) and is_count(cached) and is_count(written)):
        return None
    try:
        return Usage(prompt - cached - written, output, cached, written, requests=1)
    except BadRequestError:
        return None


def read_document(decoder: UsageDecoder, document: dict[str, Any], *, writes: bool = True) -> None:
    """Take what a whole document, or one event of a stream, says."""
    decoder.read_names(document)
    if document.get("error"):
        decoder.failed = True
    if document.get("usage") is not None:
        decoder.usage = read_usage(document["usage"], writes=writes)


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        read_document(self, document)


class _Stream(StreamDecoder):
    __slots__ = ("_naming",)

    def __init__(self, *, rewrites: bool) -> None:
        super().__init__(rewrites=rewrites)
        self._naming = _NAMING_EVENTS

    def read_data(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.ended = True
            return
        if (start := data.find(b'"delta"')) >= 0:
            self._count(_TEXT.findall(data, start))
        if self._naming or _USAGE.search(data) or _ERROR.search(data):
            self._parse(data)

    def _count(self, texts: list[tuple[bytes, bytes]]) -> None:
        twice = len(texts) > 1 and any(name == b"reasoning_content" for name, _ in texts)
        for name, text in texts:
            if not (twice and name == b"reasoning"):  # some servers say the same under both names
                self.output_bytes += text_bytes(text)

    def _parse(self, data: bytes) -> None:
        self._naming = max(0, self._naming - 1)
        document = parse_object(data)
        if document is None:
            return
        read_document(self, document)
        if self.model and self.response_id:
            self._naming = 0
        # an empty list alone is no usage event: Azure's first event has one
        self._extra = self.rewrites and document.get("choices") == [] and isinstance(document.get("usage"), dict)


def _or_zero(value: Any) -> Any:
    return 0 if value is None else value
