"""Gemini's chunks, of the Gemini API and of Vertex AI: the text of a candidate is a channel, its thoughts another.

Wire facts from Google's API reference ("GenerateContentResponse"): the text of a chunk stands in
``candidates[].content.parts[]``, a part with ``thought`` is no part of the answer. Some models write a
``finishReason`` on every chunk, so that only the end of the stream tells which was the last one: a chunk that has one
waits for the next. The arguments of a function call are an object that comes at once; of arguments that come in
pieces (``partialArgs``), each piece is a text by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, number, plain_index
from tenantguard.rules.redaction.json_text import escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

HEAD: Final = ("modelVersion", "responseId")


def view(event: Event) -> GeminiChunk | None:
    """The event as a chunk, if it is one."""
    return GeminiChunk(event) if ("candidates",) in event.values else None


class GeminiChunk:
    """One chunk."""

    sort = ""

    def __init__(self, event: Event) -> None:
        self._event = event

    def channel(self, path: Path) -> Key | None:
        """The text of a part."""
        match path:
            case ("candidates", int(), "content", "parts", int(), "text"):
                index = plain_index(self._event.raw(*path[:2], "index")) or str(path[1])
                thought = self._event.raw(*path[:5], "thought")
                return (index, "true" if thought == "true" else "false", "text")
        return None

    def repeats(self, path: Path) -> None:  # noqa: ARG002 - a view's method
        """Nothing is said twice."""
        return

    def ends(self, key: Key) -> bool:  # noqa: ARG002 - a view's method
        """Only the end of the stream ends a candidate."""
        return False

    def delta(self, key: Key, text: str) -> Said:
        """A chunk with one part."""
        index, thought, _ = key
        said = f'"text":"{escape(text)}"' + (',"thought":true' if thought == "true" else "")
        candidate = f'{{"content":{{"parts":[{{{said}}}],"role":"model"}},"index":{number(index)}}}'
        head = self._event.head(HEAD).removesuffix(",")
        return Said("", f'{{"candidates":[{candidate}]{"," + head if head else ""}}}')

    def failure(self, code: str, message: str) -> Said:
        """An ``error`` (google.rpc.Status)."""
        details = f'[{{"reason":"{escape(code)}"}}]'
        status = f'"code":500,"message":"{escape(message)}","status":"INTERNAL","details":{details}'
        return Said("", f'{{"error":{{{status}}}}}')
