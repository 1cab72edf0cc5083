"""Anthropic's message events: every string of a delta is a channel of its content block, which ends with its stop.

The field alone names the channel: readers join texts whatever type the deltas say that they are.

The signature of a block of thinking stays, also where the thinking is changed: it is encrypted, so it tells
nothing, and where placeholders were restored it is valid again once the request that repeats the block is masked.
Where a value of the model's own was replaced, the provider will refuse the repeated block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.events.view import Said, number, plain_index
from tenantguard.rules.redaction.json_text import LLM_JSON, escape

if TYPE_CHECKING:
    from tenantguard.rules.redaction.events.view import Event, Key
    from tenantguard.rules.redaction.json_text import Path

_EVENTS: Final = frozenset({
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
    "message_stop", "ping", "error",
})  # fmt: skip
_FIRST_TEXTS: Final[frozenset[Path]] = frozenset({("content_block", "text"), ("content_block", "thinking")})
_TYPES: Final = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


def view(event: Event) -> AnthropicEvent | None:
    """The event as a message event, if it is one."""
    kind = event.string("type")
    if kind not in _EVENTS or (kind == "error" and ("error",) not in event.values):
        return None
    return AnthropicEvent(event, kind)


class AnthropicEvent:
    """One message event."""

    def __init__(self, event: Event, kind: str) -> None:
        self._event = event
        self.sort = kind
        index = event.values.get(("index",))
        self._index = plain_index(event.raw("index")) if index is not None else "0"

    def channel(self, path: Path) -> Key | None:
        """A string of a delta, or with which a block begins."""
        if self.sort == "content_block_start":
            return (self._index, str(path[-1])) if path in _FIRST_TEXTS else None
        if self.sort != "content_block_delta" or len(path) != 2 or path[0] != "delta":
            return None
        field = str(path[1])
        return None if field in LLM_JSON.protocol_keys else (self._index, field)

    def repeats(self, path: Path) -> None:  # noqa: ARG002 - a view's method
        """Nothing is said twice."""
        return

    def ends(self, key: Key) -> bool:
        """Whether the block stops, or the message."""
        if self.sort == "content_block_stop":
            return key[0] == self._index
        return self.sort in {"message_delta", "message_stop", "error"}

    def delta(self, key: Key, text: str) -> Said:
        """A delta of one string."""
        index, field = key
        kind = _TYPES.get(field) or self._event.string("delta", "type")
        if not LLM_JSON.leaves(("type",), kind):
            kind = ""
        said = f'{{"type":"{escape(kind)}","{escape(field)}":"{escape(text)}"}}'
        name = "content_block_delta"
        return Said(name, f'{{"type":"{name}","index":{number(index)},"delta":{said}}}')

    def failure(self, code: str, message: str) -> None:  # noqa: ARG002 - a view's method
        """As the dialect of refusals has it."""
        return
