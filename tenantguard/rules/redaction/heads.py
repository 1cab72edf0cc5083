"""What stands before a body: a header's value, a query string, a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from tenantguard.rules.redaction.fields import EVERYWHERE, Scope
from tenantguard.rules.redaction.forms import rewrite_form
from tenantguard.rules.redaction.json_text import loose_edits
from tenantguard.rules.redaction.percent import Percent
from tenantguard.rules.redaction.text.rule import Edit, MalformedTextError, apply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tenantguard.rules.redaction.text.rule import TextRule

_NOT_IN_A_VALUE: Final = re.compile(r"[\r\n\0]")
_SEGMENT: Final = re.compile(r"[^/]+")


def redact_value(value: bytes, rule: TextRule) -> bytes:
    """The value of a header, rewritten by ``rule``; of one with percent-encoding in it that is seen through, too.

    Raises :class:`MalformedTextError` if what would be inserted cannot stand in a header.
    """
    charset = _charset(value)
    text = value.decode(charset)
    try:
        edits = loose_edits(text, rule)
        if "%" in text:
            edits = sorted([*edits, *_encoded_edits(text, charset, edits, rule)])
        if not edits:
            return value
        new = apply(text, edits)
        if _NOT_IN_A_VALUE.search(new):
            raise MalformedTextError("what a header would hold cannot stand in one")
        return new.encode(charset)
    except UnicodeError:
        raise MalformedTextError("what a header would hold cannot stand in one") from None


def _encoded_edits(text: str, charset: str, found: Sequence[Edit], rule: TextRule) -> Iterator[Edit]:
    """The changes in what stands between those that were found already, where that is percent-encoded."""
    bounds = [0, *(at for edit in found for at in (edit.start, edit.end)), len(text)]
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        raw = text[start:end].encode(charset)
        if b"%" not in raw:
            continue
        percent = Percent(raw.decode("latin-1"), _charset(unquote_to_bytes(raw)), plus=False)
        if edits := loose_edits(percent.text, rule):
            yield Edit(start, end, percent.changed(edits).encode("latin-1").decode(charset))


def redact_query(query: bytes, rule: TextRule, scope: Scope = EVERYWHERE) -> bytes:
    """A query string with its values rewritten by ``rule``, as those of a form are; its names with ``scope.keys``."""
    return rewrite_form(query, rule, _charset(unquote_to_bytes(query)), scope)


def redact_path(path: str, rule: TextRule) -> str:
    """A path that is not percent-encoded, segment by segment."""
    return _SEGMENT.sub(lambda found: apply(found[0], loose_edits(found[0], rule)).replace("/", "%2F"), path)


def redact_raw_path(path: bytes, rule: TextRule) -> bytes:
    """A percent-encoded path, segment by segment."""
    charset = _charset(unquote_to_bytes(path))

    def segment(found: re.Match[str]) -> str:
        percent = Percent(found[0], charset, plus=False)
        return percent.changed(loose_edits(percent.text, rule))

    try:
        return _SEGMENT.sub(segment, path.decode("latin-1")).encode("latin-1")
    except UnicodeError:
        raise MalformedTextError("what a path would hold cannot stand in one") from None


def _charset(data: bytes) -> str:
    """UTF-8 where the bytes are, else one that every byte is in."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "utf-8"
