"""Cohere's chat events (v2): text and plans of a message, and the arguments of each tool call.

Wire facts from Cohere's API reference ("Chat with Streaming"): ``content-delta`` says more of the content at
``index`` in ``delta.message.content``, ``tool-plan-delta`` in ``delta.message.tool_plan`` and ``tool-call-delta`` in
``delta.message.tool_calls.function.arguments``; ``content-end`` and ``tool-call-end`` end what has that ``index``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, number, plain_index
from tenantguard.rules.redaction.json_text import escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

_CHANNELS: Final[dict[Path, str]] = {
    ("delta", "message", "content", "text"): "content",
    ("delta", "message", "content", "thinking"): "content",
    ("delta", "message", "tool_plan"): "tool-plan",
    ("delta", "message", "tool_calls", "function", "arguments"): "tool-call",
}
_EVENTS: Final = frozenset({
    "message-start", "content-start", "content-delta", "content-end", "tool-plan-delta", "tool-call-start",
    "tool-call-delta", "tool-call-end", "citation-start", "citation-end", "message-end", "debug",
})  # fmt: skip


def view(event: Event) -> CohereEvent | None:
    """The event as one of a chat, if it is one."""
    kind = event.string("type")
    return CohereEvent(event, kind) if kind in _EVENTS else None


class CohereEvent:
    """One event of a chat."""

    def __init__(self, event: Event, kind: str) -> None:
        self.sort = kind
        self._index = plain_index(event.raw("index")) or "0"

    def channel(self, path: Path) -> Key | None:
        """A string of a delta, or with which one begins."""
        family = _CHANNELS.get(path)
        if family is None or self.sort not in {f"{family}-delta", f"{family}-start"}:
            return None
        return (family, self._index, str(path[-1]))

    def repeats(self, path: Path) -> None:  # noqa: ARG002 - a view's method
        """Nothing is said twice."""
        return

    def ends(self, key: Key) -> bool:
        """Whether what has that index ends, or the message; a plan ends where tools are called."""
        if self.sort == "message-end":
            return True
        if key[0] == "tool-plan":
            return self.sort in {"tool-call-start", "content-start"}
        return self.sort == f"{key[0]}-end" and self._index == key[1]

    def delta(self, key: Key, text: str) -> Said:
        """A delta of one string."""
        family, index, field = key
        said = f'"{field}":"{escape(text)}"'
        if family == "content":
            said = f'"content":{{{said}}}'
        elif family == "tool-call":
            said = f'"tool_calls":{{"function":{{{said}}}}}'
        kind = f"{family}-delta"
        return Said(kind, f'{{"type":"{kind}","index":{number(index)},"delta":{{"message":{{{said}}}}}}}')

    def failure(self, code: str, message: str) -> None:  # noqa: ARG002 - a view's method
        """As the dialect of refusals has it."""
        return
