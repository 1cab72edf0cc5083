"""Gemini: generateContent and streamGenerateContent, of the Gemini API and of Vertex AI.

Wire facts from Google's API reference ("GenerateContentResponse", "UsageMetadata"): ``usageMetadata`` stands on
every chunk and is a running total. What was cached is inside ``promptTokenCount``; tokens of tool use come on top of
it, and thoughts on top of ``candidatesTokenCount``, unless the total shows that they are inside. As in all JSON of
Google's, a count of zero is left out: one that is absent is zero where the total agrees, else it is missing.

A stream has no last word. Its last chunk has a ``finishReason``, which some models wrote on every chunk, so that the
end is proven only by the end of the body with such a chunk as its last; a prompt that was blocked has a
``blockReason`` instead. Without ``alt=sse`` a stream is one JSON array.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.counts import read_count, read_part, read_tier, usage_or_none
from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder, StreamDecoder, parse_object, text_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

_TELLING: Final = re.compile(rb'"(?:finishReason|blockReason|functionCall|error)"')
_TEXT: Final = re.compile(rb'"text"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_SEPARATORS: Final = " \t\r\n,"


def _usage_of(document: Mapping[str, Any]) -> Usage:
    counts = read_part(document, "usageMetadata")
    prompt = read_count(counts, "promptTokenCount")
    cached = read_count(counts, "cachedContentTokenCount", 0)
    thoughts = read_count(counts, "thoughtsTokenCount", 0)
    tools = read_count(counts, "toolUsePromptTokenCount", 0)
    totals = {prompt + thoughts, prompt + tools + thoughts}
    if counts.get("candidatesTokenCount") is None and counts.get("totalTokenCount") not in totals:
        raise BadRequestError("usage: candidatesTokenCount is missing")
    candidates = read_count(counts, "candidatesTokenCount", 0)
    inside = candidates >= thoughts and counts.get("totalTokenCount") == prompt + tools + candidates
    heard = _of_kind(counts, "promptTokensDetails", "AUDIO") + _of_kind(counts, "toolUsePromptTokensDetails", "AUDIO")
    heard -= _of_kind(counts, "cacheTokensDetails", "AUDIO")
    spoken = _of_kind(counts, "candidatesTokensDetails", "AUDIO")
    drawn = _of_kind(counts, "candidatesTokensDetails", "IMAGE")
    return Usage(
        prompt - cached + tools - heard,
        candidates - spoken - drawn + (0 if inside else thoughts),
        cached,
        requests=1,
        audio_input_tokens=heard,
        audio_output_tokens=spoken,
        image_output_tokens=drawn,
        reasoning_tokens=thoughts,
        service_tier=read_tier(counts.get("trafficType")),
    )


def _of_kind(counts: Mapping[str, Any], name: str, kind: str) -> int:
    listed = counts.get(name) or []
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise BadRequestError(f"usage: {name} is no list of counts")
    return sum(read_count(item, "tokenCount", 0) for item in listed if item.get("modality") == kind)


def _is_finished(document: Mapping[str, Any]) -> bool | None:
    """Whether a chunk may be the last one; None if it has nothing of the answer."""
    feedback = document.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        return True
    candidates = document.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        return None
    return all(isinstance(candidate, dict) and candidate.get("finishReason") for candidate in candidates)


def _called_bytes(document: Mapping[str, Any]) -> int:
    """The size of the arguments of function calls, which are objects here."""
    size = 0
    candidates = document.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        content = candidate.get("content") if isinstance(candidate, dict) else None
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            call = part.get("functionCall") if isinstance(part, dict) else None
            if isinstance(call, dict) and call.get("args"):
                written = json.dumps(call["args"], separators=(",", ":"), ensure_ascii=False)
                size += len(written.encode("utf-8", "surrogatepass"))
    return size


class _Document(DocumentDecoder):
    """One answer, or an array of chunks; what an array has so far is worked out when it is asked for.

    Each chunk is parsed once for that, however often it is asked: at every piece of a stream that has a bound.
    """

    __slots__ = ("_at", "_looked", "_stated")

    def __init__(self) -> None:
        super().__init__()
        self._at = 0  # so many bytes of the copy are counted
        self._looked = 0  # and in so many there was no further chunk
        self._stated: dict[str, Any] | None = None

    @property
    def usage_so_far(self) -> Usage | None:
        self._count()
        return usage_or_none(_usage_of, self._stated) if self._stated is not None else None

    @property
    def output_bytes(self) -> int:
        self._count()
        return self._text_bytes

    def finish(self) -> bytes:
        self._count()
        return super().finish()

    def parse(self, data: bytes) -> None:
        last = _last_chunk(data)
        if last is None:
            super().parse(data)
        else:
            self.take([last])

    def take(self, document: Any) -> None:
        if isinstance(document, dict):
            super().take(document)
        elif isinstance(document, list) and all(isinstance(chunk, dict) for chunk in document):
            finished = fresh = False
            for chunk in document:
                self.read(chunk)
                state = _is_finished(chunk)
                finished = finished if state is None else state
                fresh = chunk.get("usageMetadata") is not None or (fresh and state is None)
            self.ended = finished
            self.usage = self.usage if fresh else None

    def read(self, document: dict[str, Any]) -> None:
        self.read_names(document, model="modelVersion", response_id="responseId")
        if document.get("error"):
            self.failed = True
        if document.get("usageMetadata") is not None:
            self.usage = usage_or_none(_usage_of, document)

    def _count(self) -> None:
        """Count the whole objects that are new in an array that has not ended; only a brace ends one."""
        copy = self._copy
        if copy is None or copy.find(b"}", self._looked) < 0:
            return
        self._looked = len(copy)
        if not self._at:
            begun = _ARRAY.match(copy)
            if begun is None:
                return
            self._at = begun.end()
        text = copy[self._at :].decode("utf-8", "surrogateescape")
        at = start = 0
        while True:
            while at < len(text) and text[at] in _SEPARATORS:
                at += 1
            try:
                chunk, at = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError):
                break
            if not isinstance(chunk, dict):
                break
            start = at
            if chunk.get("usageMetadata") is not None:
                self._stated = chunk
            self._text_bytes += _called_bytes(chunk)
            self._text_bytes += sum(map(text_bytes, _TEXT.findall(json.dumps(chunk).encode())))
        self._at += len(text[:start].encode("utf-8", "surrogateescape"))


_DECODER: Final = json.JSONDecoder()
_ARRAY: Final = re.compile(rb"(?:\xef\xbb\xbf|[ \t\r\n])*\[")


def _last_chunk(data: bytes) -> dict[str, Any] | None:
    """The last chunk of an array as Google writes it, which says all; None if the whole array must be parsed.

    Only a chunk begins a line there, since what is inside of one is indented.
    """
    array = data.strip()
    if not array.startswith(b"[") or not array.endswith(b"]") or b'"error"' in array:
        return None
    chunk = parse_object(array[array.rfind(b"\n{") + 1 : -1])
    if chunk is None or chunk.get("usageMetadata") is None or _is_finished(chunk) is None:
        return None
    return chunk


class _Stream(StreamDecoder):
    __slots__ = ("_finished", "_fresh", "_latest")

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()
        self._finished = False
        self._fresh = False
        self._latest: bytes | None = None

    @property
    def usage_so_far(self) -> Usage | None:
        document = parse_object(self._latest) if self._latest is not None else None
        return usage_or_none(_usage_of, document) if document is not None else None

    def read_data(self, data: bytes) -> None:
        for text in _TEXT.findall(data):
            self._text_bytes += text_bytes(text)
        state: bool | None = False if b'"candidates"' in data else None
        if self.model is None or _TELLING.search(data):
            document = parse_object(data)
            if document is None:
                return
            state = _is_finished(document)
            self.read_names(document, model="modelVersion", response_id="responseId")
            self._text_bytes += _called_bytes(document)
            if document.get("error"):
                self.failed = True
        if b'"usageMetadata"' in data:
            self._latest = data
            self._fresh = True
        elif state is not None:
            self._fresh = False
        self._finished = self._finished if state is None else state

    def conclude(self) -> None:
        self.ended = self._finished
        if self.ended and self._fresh:
            self.usage = self.usage_so_far


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
