"""Ollama's lines: ``/api/chat`` speaks in ``message``, ``/api/generate`` in ``response``; ``done`` ends both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said
from tenantguard.rules.redaction.json_text import escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

_CHANNELS: Final[frozenset[Path]] = frozenset({
    ("message", "content"), ("message", "thinking"), ("response",), ("thinking",),
})  # fmt: skip


def view(event: Event) -> OllamaLine | None:
    """The line, if it is one."""
    known = ("model",) in event.values and ("done",) in event.values
    return OllamaLine(event) if known else None


class OllamaLine:
    """One line."""

    sort = ""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._done = event.raw("done") == "true"

    def channel(self, path: Path) -> Key | None:
        """What is said."""
        return tuple(map(str, path)) if path in _CHANNELS else None

    def repeats(self, path: Path) -> None:  # noqa: ARG002 - a view's method
        """Nothing is said twice."""
        return

    def ends(self, key: Key) -> bool:  # noqa: ARG002 - a view's method
        """Whether this is the last line."""
        return self._done

    def delta(self, key: Key, text: str) -> Said:
        """A line that says it."""
        said = f'"{key[-1]}":"{escape(text)}"'
        if len(key) == 2:
            role = '"role":"assistant",' + ("" if key[-1] == "content" else '"content":"",')
            said = f'"message":{{{role}{said}}}'
        elif key[-1] != "response":
            said = f'"response":"",{said}'
        return Said("", f'{{{self._event.head(("model", "created_at"))}{said},"done":false}}')

    def failure(self, code: str, message: str) -> Said:  # noqa: ARG002 - a view's method
        """A line with an ``error``."""
        return Said("", f'{{"error":"{escape(message)}"}}')
