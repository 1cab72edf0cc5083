"""The messages of a WebSocket redacted: each is whole, and a text by itself.

A value that is split over several messages is not found; neither is a placeholder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.json_text import ANY_JSON, rewrite_json
from tenantguard.rules.redaction.rule import MalformedTextError, apply, text_edits

if TYPE_CHECKING:
    from tenantguard.rules.redaction.json_text import Shape
    from tenantguard.rules.redaction.rule import TextRule

_JSON: Final = ("{", "[", '"')
_HIDING: Final = re.compile(r"\\[u/]")


class MessageText:
    """Redacts messages by ``rule``: the strings of JSON, any other text as it stands.

    A binary message is redacted as text where it is one; where not, it is refused. With ``unknown`` ``block`` every
    binary message is refused, with ``pass`` every one passes.
    """

    __slots__ = ("_rule", "_shape", "_unknown")

    def __init__(self, rule: TextRule, shape: Shape = ANY_JSON, unknown: Unknown = Unknown.SCRUB) -> None:
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
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise MalformedTextError("the message is binary") from None
        return self._text(text).encode()

    def _text(self, text: str) -> str:
        if text.lstrip()[:1] in _JSON:
            try:
                return rewrite_json(text.encode(), self._rule, self._shape).decode()
            except MalformedTextError:
                if _HIDING.search(text):  # a more tolerant reader of JSON would see what is not seen here
                    raise
        return apply(text, text_edits(self._rule, text))
