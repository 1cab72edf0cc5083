"""OpenAI chat completions, and the many servers that speak them.

Wire facts from OpenAI's API reference ("Chat completions", "stream_options"), and of those that differ:

* running totals on every chunk: vLLM's ``continuous_usage_stats``. Counts of one stream are never added up, the last
  word is the whole. Usage beside choices (Mistral and Groq write it so) is the last word only once the end is seen.
* Groq: the counts of a stream may stand in ``x_groq``, and so may the error that ended it.
* DeepSeek: ``prompt_cache_hit_tokens`` and ``prompt_cache_miss_tokens``, which together are the prompt.
* xAI: ``reasoning_tokens`` on top of ``completion_tokens`` (docs.x.ai, "Consumption and rate limits"); the total,
  which counts them, tells it from OpenAI's way.
* OpenRouter: ``cost`` in US dollars, to which the upstream's own cost comes where the caller's own key was used
  (openrouter.ai/docs, "Usage accounting").
* Cohere and its likes write whole counts with a point.

Model text cannot pass for a member: inside a JSON string every quote is escaped.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.sse import EVENT_BYTES_MAX
from tenantguard.rules.usage.counts import read_cost, read_count, read_part, read_tier, usage_or_none
from tenantguard.rules.usage.decoder import (
    Decoding,
    DocumentDecoder,
    StreamDecoder,
    UsageDecoder,
    parse_object,
    text_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_ERROR: Final = re.compile(rb'"error"\s*:\s*+(?!null)')
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_TEXT: Final = re.compile(
    rb'"(content|refusal|reasoning|reasoning_content|arguments)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"',
)
_ONLY_TEXT: Final = re.compile(rb'"delta":\{"content":"([^"\\]*+)"\}')
"""What nearly every event has, and nothing else that was generated: it is read in half the time."""
_UNESCAPED: Final = re.compile(rb'[^"\\\r\n]*+')
_FORMS_MAX: Final = 8
"""How often a stream's form is learned: OpenAI pads its events with random text, so that no two are alike."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_NAMING_EVENTS: Final = 4
"""How many events are parsed for the model and the id: Azure's first one names neither."""


def read_document(decoder: UsageDecoder, document: dict[str, Any], *, writes: bool = True) -> None:
    """Take what a whole document, or one event of a stream, says."""
    decoder.read_names(document)
    extra = _groq(document)
    if document.get("error") or extra.get("error"):
        decoder.failed = True
    if _states_usage(document):
        decoder.usage = read_usage(document, writes=writes)


def read_usage(document: Mapping[str, Any], *, writes: bool = True) -> Usage | None:
    """The usage in OpenAI's words; None unless every count is there and possible."""
    return usage_or_none(_usage_of, document, writes=writes)


def _usage_of(document: Mapping[str, Any], *, writes: bool) -> Usage:
    counts = read_part(document, "usage") or read_part(_groq(document), "usage")
    prompt = read_count(counts, "prompt_tokens", floats=True)
    inside = read_part(counts, "prompt_tokens_details")
    written = audio = 0
    if inside:
        written = read_count(inside, "cache_write_tokens", 0, floats=True)
        audio = read_count(inside, "audio_tokens", 0, floats=True)
    cached = _read_cached(counts, inside, prompt)
    completion = read_count(counts, "completion_tokens", floats=True) if writes else 0
    outside = read_part(counts, "completion_tokens_details")
    reasoning = spoken = drawn = 0
    if outside:
        reasoning = read_count(outside, "reasoning_tokens", 0, floats=True)
        spoken = read_count(outside, "audio_tokens", 0, floats=True)
        drawn = read_count(outside, "image_tokens", 0, floats=True)
    on_top = counts.get("total_tokens") == prompt + completion + reasoning
    return Usage(
        prompt - cached - written - audio,
        completion - spoken - drawn + (reasoning if on_top else 0),
        cached,
        written,
        1,
        audio_input_tokens=audio,
        audio_output_tokens=spoken,
        image_output_tokens=drawn,
        reasoning_tokens=reasoning,
        service_tier=read_tier(document.get("service_tier")),
        reported_cost=_read_reported(counts),
    )


def _read_cached(counts: Mapping[str, Any], inside: Mapping[str, Any], prompt: int) -> int:
    if counts.get("prompt_cache_hit_tokens") is None and counts.get("prompt_cache_miss_tokens") is None:
        return read_count(inside, "cached_tokens", 0, floats=True)  # of more than the prompt no usage is made
    hit = read_count(counts, "prompt_cache_hit_tokens", read_count(inside, "cached_tokens", 0, floats=True))
    if hit != read_count(inside, "cached_tokens", hit, floats=True):
        raise BadRequestError("usage: two counts of what was read from the cache")
    if hit + read_count(counts, "prompt_cache_miss_tokens", prompt - hit if hit <= prompt else 0) != prompt:
        raise BadRequestError("usage: the cache's hits and misses are not the prompt")
    return hit


def _read_reported(counts: Mapping[str, Any]) -> Any:
    cost = counts.get("cost")
    if cost is None:
        return None
    if counts.get("is_byok") is not True:
        return read_cost([cost])
    details = counts.get("cost_details")
    return read_cost([cost, details.get("upstream_inference_cost") if isinstance(details, dict) else None])


def _states_usage(document: Mapping[str, Any]) -> bool:
    return document.get("usage") is not None or _groq(document).get("usage") is not None


def _groq(document: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = document.get("x_groq")
    return extra if isinstance(extra, dict) else _NOTHING


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        read_document(self, document)


class _Stream(StreamDecoder):
    """Of most servers' streams nearly every event is the one before with another text in one place.

    ``_form`` is what such an event has before its text and after it. What is like it, and has no quote and no escape
    in its text, has the same members: only the text is counted.
    """

    __slots__ = ("_form", "_forms_left", "_latest", "_naming")

    def __init__(self, rewrites: bool) -> None:  # noqa: FBT001 - as the registry builds it
        super().__init__(rewrites=rewrites)
        self._naming = _NAMING_EVENTS
        self._latest: bytes | None = None
        self._form: tuple[bytes, bytes] | None = None
        self._forms_left = _FORMS_MAX

    def feed(self, chunk: bytes) -> bytes:
        """Read the lines that the next bytes complete."""
        if self._form is not None and self._between and not self._passing:
            before, after = self._form
            if chunk.startswith(before) and chunk.endswith(after) and len(chunk) <= EVENT_BYTES_MAX:
                text = _UNESCAPED.fullmatch(chunk, len(before), len(chunk) - len(after))
                if text is not None:
                    self._text_bytes += text.end() - text.start()
                    return chunk
        return super().feed(chunk)

    @property
    def usage_so_far(self) -> Usage | None:
        document = parse_object(self._latest) if self._latest is not None else None
        return read_usage(document) if document is not None and _states_usage(document) else None

    def read_data(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.ended = True
            if self._latest is not None:
                self.usage = self.usage_so_far
                self._latest = None
            return
        if (start := data.find(b'"delta"')) >= 0:
            only = _ONLY_TEXT.match(data, start)
            if only is not None and data.find(b'"delta"', only.end()) < 0:
                self._text_bytes += len(only[1])
            else:
                self._count(_TEXT.findall(data, start))
        usage = _USAGE.search(data) is not None
        if self._naming or (usage and _NO_CHOICES.search(data)) or _ERROR.search(data):
            self._parse(data)
        elif usage:
            self._latest = data
            self.usage = None
        elif self._forms_left and start >= 0:
            self._learn(data, start)

    def _learn(self, data: bytes, start: int) -> None:
        """Keep the form of an event that generated one text, and said nothing else that is read here."""
        self._forms_left -= 1
        texts = list(_TEXT.finditer(data, start))
        if len(texts) == 1 and data[texts[0].end() :].lstrip()[:1] in {b"}", b","}:
            begins, ends = texts[0].span(2)
            self._form = b"data: " + data[:begins], data[ends:] + b"\n\n"

    def _count(self, texts: list[tuple[bytes, bytes]]) -> None:
        twice = len(texts) > 1 and any(name == b"reasoning_content" for name, _ in texts)
        for name, text in texts:
            if not (twice and name == b"reasoning"):  # some servers say the same under both names
                self._text_bytes += text_bytes(text)

    def _parse(self, data: bytes) -> None:
        self._naming = max(0, self._naming - 1)
        document = parse_object(data)
        if document is None:
            return
        # an empty list alone is no usage event: Azure's first event has one
        alone = document.get("choices") == []
        before = self.usage
        read_document(self, document)
        if _states_usage(document):
            self._latest = None if alone else data
            if not alone:
                self.usage = None
        else:
            self.usage = before
        if self.model and self.response_id:
            self._naming = 0
        self._extra = self.rewrites and alone and isinstance(document.get("usage"), dict)


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
