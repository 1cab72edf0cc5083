"""Chat completion chunks: OpenAI's, and those of the many who write the same (Mistral, vLLM, OpenRouter, ...).

Each string of a delta is a channel of its choice (``content``, ``refusal``, ``reasoning_content``, the arguments of
each tool call, the parts of Mistral's ``content`` and OpenRouter's ``reasoning_details``, ...), in lists by the
``index`` of the element, else its place. A choice ends with the chunk that has its ``finish_reason``, unless the next
event says more of it: some write one on every chunk, or on every one of the reasoning (Gemini behind LiteLLM, Open
WebUI), so a chunk that has one waits for the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, number, plain_index
from tenantguard.rules.redaction.json_text import LLM_JSON, escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

_STEPS_MAX: Final = 6
_ELEMENT: Final = "#"
"""What begins a step that is an element of a list."""

HEAD: Final = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


def view(event: Event) -> OpenAIChunk | None:
    """The event as a chunk, if it is one."""
    return OpenAIChunk(event) if ("choices",) in event.values else None


class OpenAIChunk:
    """One chunk."""

    sort = ""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._ended = {
            self._name(path[:2])
            for path, raw in event.values.items()
            if len(path) == 3 and path[::2] == ("choices", "finish_reason") and raw[0] == '"' and raw != '""'
        }

    def channel(self, path: Path) -> Key | None:
        """A string of a delta."""
        if len(path) < 3 or path[0] != "choices" or not isinstance(path[1], int):
            return None
        if path[2:] == ("text",):
            return (self._name(path[:2]), "text")
        if path[2] != "delta" or not 4 <= len(path) <= _STEPS_MAX + 3 or path[-1] in LLM_JSON.protocol_keys:
            return None
        steps = [self._name(path[:2]), "delta"]
        for at in range(3, len(path)):
            step = path[at]
            if isinstance(step, int):
                if isinstance(path[at - 1], int) or at == len(path) - 1:
                    return None  # a list in a list, or of texts: no protocol says more of a text so
                steps.append(_ELEMENT + self._name(path[: at + 1]))
            else:
                steps.append(step)
        if steps[2] == "tool_calls" and steps[-2:] != ["function", "arguments"]:
            return None
        return tuple(steps)

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
        inner = steps[-1]
        element = ""
        for step in reversed(steps[:-1]):
            if step.startswith(_ELEMENT):
                kind = f'"type":"{inner}",' if inner == "text" else ""
                element = f'[{{"index":{number(step[1:])},{kind}{said}}}]'
            else:
                said = f'"{escape(step)}":{element or f"{{{said}}}"}'
                element = ""
            inner = step
        head = self._event.head(HEAD)
        return Said("", f'{{{head}"choices":[{{"index":{number(choice)},{said},"finish_reason":null}}]}}')

    def failure(self, code: str, message: str) -> None:  # noqa: ARG002 - a view's method
        """As the dialect of refusals has it."""
        return

    def _name(self, path: Path) -> str:
        """What the element at ``path`` calls itself, its place in the list where it has no ``index``."""
        return plain_index(self._event.raw(*path, "index")) or str(path[-1])
