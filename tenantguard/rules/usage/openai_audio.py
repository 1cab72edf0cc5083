"""OpenAI audio: transcriptions, and speech where it is streamed as events.

Wire facts from OpenAI's API reference ("Audio", "Streaming events"): a transcription's ``usage`` counts tokens, of
which ``input_token_details`` are sound and text, or the seconds of the recording; a stream has it in
``transcript.text.done``. Speech is bytes of sound, which say nothing of usage, or events that end with
``speech.audio.done``: text in, sound out. Translations and plain-text transcripts have no usage. Nothing is named.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.usage import COUNT_MAX, Usage
from tenantguard.rules.media import EVENT_STREAM
from tenantguard.rules.usage.counts import read_count, read_part, usage_or_none
from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder, StreamDecoder, parse_object, text_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

_DELTA: Final = re.compile(rb'"delta"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')


def _transcription(document: Mapping[str, Any]) -> Usage:
    counts = read_part(document, "usage")
    if counts.get("type") == "duration":
        return Usage(requests=1, units={"seconds": _read_seconds(counts.get("seconds"))})
    total = read_count(counts, "input_tokens")
    # a recording, and at most a short prompt: what is not said to be text is sound
    text = read_count(read_part(counts, "input_token_details"), "text_tokens", 0)
    sound = read_count(read_part(counts, "input_token_details"), "audio_tokens", max(0, total - text))
    return Usage(
        total - sound,
        read_count(counts, "output_tokens"),
        requests=1,
        audio_input_tokens=sound,
    )


def _speech(document: Mapping[str, Any]) -> Usage:
    counts = read_part(document, "usage")
    sound = read_count(counts, "output_tokens")
    return Usage(read_count(counts, "input_tokens"), requests=1, audio_output_tokens=sound)


def _read_seconds(value: Any) -> int:
    """The length of a recording; a second that has begun counts."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise BadRequestError("usage: seconds are missing or no length")
    return math.ceil(value)


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        self.failed = bool(document.get("error"))
        self.usage = usage_or_none(_transcription, document)


class _Stream(StreamDecoder):
    __slots__ = ()

    def __init__(self, rewrites: bool) -> None:  # noqa: ARG002, FBT001 - usage is never asked for, so none is stripped
        super().__init__()

    def read_data(self, data: bytes) -> None:
        if b'.done"' in data or b'"error"' in data:
            document = parse_object(data)
            if document is not None:
                self._read(document)
        elif b'"transcript.text.delta"' in data:
            for text in _DELTA.findall(data):
                self._text_bytes += text_bytes(text)

    def _read(self, document: dict[str, Any]) -> None:
        match document.get("type"):
            case "transcript.text.done":
                self.usage = usage_or_none(_transcription, document)
                self.ended = True
            case "speech.audio.done":
                self.usage = usage_or_none(_speech, document)
                self.ended = True
            case kind if kind == "error" or document.get("error"):
                self.failed = True


DECODING: Final = Decoding(_Document, {EVENT_STREAM: _Stream})
