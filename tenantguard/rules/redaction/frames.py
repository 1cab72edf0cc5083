"""The messages of a WebSocket redacted: each is whole, and a text by itself.

A value that is split over several messages is not found; neither is a placeholder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.fields import EVERYWHERE, Scope
from tenantguard.rules.redaction.json_text import ANY_JSON, broken_edits, decode_utf8, rewrite_text
from tenantguard.rules.redaction.text.rule import MalformedTextError, apply, text_edits

if TYPE_CHECKING:
    from tenantguard.rules.redaction.json_text import Shape
    from tenantguard.rules.redaction.text.rule import TextRule

_FRAME: Final = re.compile(r'\s*+[^\s{["]{0,256}+(?=[{["])')
"""What may stand before the JSON of a message: blanks, then kind, namespace and number of a packet."""

_END: Final = b"\0\r\n"
"""What STOMP ends a message with, and may follow."""

_HIDING: Final = re.compile(r"\\[ux/\r\n]")


class MessageText:
    """Redacts messages by ``rule``: the strings of JSON and what ``scope`` adds, any other text as it stands.

    What stands before JSON in one message (the ``42`` of socket.io, the ``a`` of SockJS) is a text by itself. In a
    text that is none, what escapes of JSON hide is seen as well: a more tolerant reader would undo them.

    A binary message is redacted as text where it is one; where not, it is refused. With ``unknown`` ``block`` every
    binary message is refused, with ``pass`` every one passes.
    """

    __slots__ = ("_rule", "_scope", "_shape", "_unknown")

    def __init__(
        self,
        rule: TextRule,
        shape: Shape = ANY_JSON,
        unknown: Unknown = Unknown.SCRUB,
        scope: Scope = EVERYWHERE,
    ) -> None:
        self._scope = scope
        self._rule = rule
        self._shape = shape
        self._unknown = unknown

    def message(self, data: str | bytes) -> str | bytes:
        """What passes in place of ``data``, of the same kind; :class:`MalformedTextError` where nothing may."""
        if isinstance(data, str):
            return self._text(data)
        if self._unknown is Unknown.PASS:
            return data
        if self._unknown is Unknown.BLOCK:
            raise MalformedTextError("the message is binary")
        end = len(data.rstrip(_END))
        text = decode_utf8(data[:end])
        return self._text(text).encode() + data[end:]

    def _text(self, text: str) -> str:
        head = _FRAME.match(text)
        if head is not None:
            before, inner = head[0], text[head.end() :]
            try:
                said = rewrite_text(inner, self._rule, self._shape, self._scope)
            except MalformedTextError:
                if not before.strip() and _HIDING.search(text):
                    raise
            else:
                return apply(before, text_edits(self._rule, before)) + said
        return apply(text, broken_edits(text, self._rule) if _HIDING.search(text) else text_edits(self._rule, text))
