"""Chat completion chunks: OpenAI's, and those of the many who write the same (Mistral, vLLM, OpenRouter, ...).

Each string of a delta is a channel of its choice (``content``, ``refusal``, ``reasoning_content``, ...), and so are
the arguments of each tool call. A choice ends with the chunk that has its ``finish_reason``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, number
from tenantguard.rules.redaction.json_text import LLM_JSON, Kind, escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

HEAD: Final = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


def view(event: Event) -> OpenAIChunk | None:
    """The event as a chunk, if it is one."""
    return OpenAIChunk(event) if ("choices",) in event.values else None


class OpenAIChunk:
    """One chunk."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._ended = {
            self._name(path[:2])
            for path, place in event.values.items()
            if len(path) == 3 and path[::2] == ("choices", "finish_reason") and place.kind is Kind.STRING
        }

    def channel(self, path: Path) -> Key | None:
        """A string of a delta."""
        if len(path) < 3 or path[0] != "choices" or not isinstance(path[1], int):
            return None
        match path[2:]:
            case ("text",):
                steps: Key = ("text",)
            case ("delta", str(field)) if field not in LLM_JSON.protocol_keys:
                steps = ("delta", field)
            case ("delta", "function_call", "arguments") | ("delta", "audio", "transcript"):
                steps = ("delta", str(path[3]), str(path[4]))
            case ("delta", "tool_calls", int(), "function", "arguments"):
                steps = ("delta", "tool_calls", self._name(path[:5]), "function", "arguments")
            case _:
                return None
        return (self._name(path[:2]), *steps)

    def repeats(self, path: Path) -> None:  # noqa: ARG002 - a view's method
        """Nothing is said twice."""
        return

    def ends(self, key: Key) -> bool:
        """Whether the choice has its reason to finish."""
        return key[0] in self._ended

    def delta(self, key: Key, text: str) -> Said:
        """A chunk with one string."""
        choice, *steps = key
        said = f'"{escape(steps[-1])}":"{escape(text)}"'
        if len(steps) == 5:
            said = f'"tool_calls":[{{"index":{number(steps[2])},"function":{{{said}}}}}]'
        elif len(steps) == 3:
            said = f'"{steps[1]}":{{{said}}}'
        if len(steps) > 1:
            said = f'"delta":{{{said}}}'
        head = self._event.head(HEAD)
        return Said("", f'{{{head}"choices":[{{"index":{number(choice)},{said},"finish_reason":null}}]}}')

    def failure(self, code: str, message: str) -> None:  # noqa: ARG002 - a view's method
        """As the dialect of refusals has it."""
        return

    def _name(self, path: Path) -> str:
        """What the element at ``path`` calls itself, its place in the list where it has no ``index``."""
        index = self._event.values.get((*path, "index"))
        return self._event.text[index.start : index.end] if index is not None else str(path[-1])
