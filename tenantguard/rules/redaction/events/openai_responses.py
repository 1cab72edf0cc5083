"""OpenAI's Responses events: a part of an item is a channel, and its whole text is said again three times.

Wire facts from OpenAI's API reference ("Streaming events"): ``response.<what>.delta`` says more of what
``output_index`` and ``content_index``, ``summary_index`` or ``command_index`` name (``item_id`` is another with every
delta of some, LiteLLM's reasoning for example, so it counts only where there is no ``output_index``), and
``response.<what>.done`` has the whole of it; so have ``response.content_part.done``, ``response.output_item.done``
and the last event's ``response``. Whole texts are redacted as the deltas are, so all say the same. Every event has a
``sequence_number``; those that follow an event of our own count it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, plain_index
from tenantguard.rules.redaction.json_text import escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

PLACE: Final = ("item_id", "output_index", "content_index", "summary_index", "command_index")
_FIELDS: Final = {
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
    "response.shell_call_command": "command",
}
_WHOLE: Final = frozenset({"text", "refusal", "transcript", "arguments", "input", "code", "command"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_SOUND: Final = "response.audio.delta"
_INNER: Final = ("response.content_part.done", "response.reasoning_summary_part.done", "response.output_item.done")


def view(event: Event) -> ResponsesEvent | None:
    """The event as one of a response, if it is one."""
    kind = event.string("type")
    known = kind.startswith("response.") or (kind == "error" and ("sequence_number",) in event.values)
    return ResponsesEvent(event, kind) if known else None


class ResponsesEvent:
    """One event of a response."""

    def __init__(self, event: Event, kind: str) -> None:
        self._type = kind
        self._family, _, self._last = kind.rpartition(".")
        self.sort = kind if kind == _SOUND else self._last if self._last == "delta" else ""
        item, output, *inner = [plain_index(event.raw(name)) for name in PLACE]
        self._place = (output or item, *inner)
        self._head = event.head(PLACE)

    def channel(self, path: Path) -> Key | None:
        """The delta of an event; that of sound is base64."""
        if path != ("delta",) or self.sort != "delta":
            return None
        return (self._family, *self._place, _FIELDS.get(self._family, "text"))

    def repeats(self, path: Path) -> str | None:
        """A whole text."""
        field = path[-1] if path else None
        return field if isinstance(field, str) and field in _WHOLE and self._last != "delta" else None

    def ends(self, key: Key) -> bool:
        """Whether the whole text of that channel is here."""
        if self._type in _ENDS:
            return True
        family, place = key[0], key[1:-1]
        if self._type in _INNER:
            same = place if self._type != _INNER[-1] else place[:1]
            return all(mine in {"", yours} for mine, yours in zip(self._place, same, strict=False))
        return self._last == "done" and family == self._family and place == self._place

    def delta(self, key: Key, text: str) -> Said:
        """A delta."""
        logprobs = ',"logprobs":[]' if key[0] == "response.output_text" else ""
        kind = f"{key[0]}.delta"
        return Said(kind, f'{{"type":"{escape(kind)}",{self._head}"delta":"{escape(text)}"{logprobs}}}')

    def failure(self, code: str, message: str) -> Said:
        """An ``error``."""
        said = f'"code":"{escape(code)}","message":"{escape(message)}","param":null'
        return Said("error", f'{{"type":"error",{said}}}')
