"""Forms (``application/x-www-form-urlencoded``) and query strings, value by value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

from tenantguard.rules.redaction.fields import EVERYWHERE, Scope, shown
from tenantguard.rules.redaction.json_text import NO_TEXT, is_json, loose_edits, rewrite_text
from tenantguard.rules.redaction.percent import Percent
from tenantguard.rules.redaction.text.rule import Edit, MalformedTextError, SecretFoundError, apply, own_edits

if TYPE_CHECKING:
    from tenantguard.rules.redaction.text.rule import TextRule

_PAIR: Final = re.compile(r"[^&]+")


def rewrite_form(data: bytes, rule: TextRule, charset: str = "utf-8", scope: Scope = EVERYWHERE) -> bytes:
    """``data`` with the values of its fields rewritten by ``rule``, and their names with ``scope.keys``.

    A value that is JSON is looked at as such, and so is a form that is JSON as a whole (clients that name no type are
    given this one). Where a field is no ``name=value``, or the form begins as JSON, there is no name to leave alone.
    Names, order, and every byte that is not replaced stay as written. Raises :class:`MalformedTextError` if the form
    is not in ``charset``.
    """
    if b"\0" in data:
        raise MalformedTextError(NO_TEXT)
    form = data.decode("latin-1")
    begins_as_json = form.lstrip()[:1] in {"{", "["}
    if begins_as_json and (rewritten := _as_json(data, rule, charset, scope)) is not None:
        return rewritten
    hiding = bool(rule.own(unquote_plus(form)))
    edits: list[Edit] = []
    for found in _PAIR.finditer(form):
        name, equals, value = found[0].partition("=")
        try:
            looked_at = scope.keys or begins_as_json or not equals
            said = _name(name, rule, charset, scope) if looked_at else name
            if hiding and not looked_at:
                said = _own_name(name, rule, charset)
            new = f"{said}{equals}{_value(name, value, rule, charset, scope)}"
        except UnicodeError:
            raise MalformedTextError(f"a field of the form is not in {charset}") from None
        if new != found[0]:
            edits.append(Edit(*found.span(), new))
    return apply(form, edits).encode("latin-1") if edits else data


def _as_json(data: bytes, rule: TextRule, charset: str, scope: Scope) -> bytes | None:
    """What JSON becomes that was sent under a form's name; None where it is none, or nothing in it is replaced."""
    try:
        text = data.decode(charset)
        rewritten = rewrite_text(text, rule, None, scope) if is_json(text) else text
        return rewritten.encode(charset) if rewritten is not text else None
    except UnicodeError:
        raise MalformedTextError(f"the form is not in {charset}") from None


def _name(raw: str, rule: TextRule, charset: str, scope: Scope) -> str:
    if not raw:
        return raw
    name = Percent(raw, charset, plus=True)
    if not scope.fields.everything and not _looks(name.text, scope):
        return raw
    try:
        edits = loose_edits(name.text, rule)
    except SecretFoundError as found:
        found.location = "?"
        raise
    return name.changed(edits) if edits else raw


def _own_name(raw: str, rule: TextRule, charset: str) -> str:
    """A name that is left alone, without the secrets in it."""
    name = Percent(raw, charset, plus=True)
    try:
        edits = own_edits(rule, name.text)
    except SecretFoundError as found:
        found.location = "?"
        raise
    return name.changed(edits) if edits else raw


def _value(name: str, raw: str, rule: TextRule, charset: str, scope: Scope) -> str:
    if not raw or not (scope.fields.everything or _looks(Percent(name, charset, plus=True).text, scope)):
        return raw
    value = Percent(raw, charset, plus=True)
    try:
        edits = loose_edits(value.text, rule)
        if not edits and "+" in raw:
            value = Percent(raw, charset, plus=False)  # who reads it as no form, or wrote it so, means a plus
            edits = loose_edits(value.text, rule)
    except SecretFoundError as found:
        found.location = shown((Percent(name, charset, plus=True).text,), found.location)
        raise
    return value.changed(edits) if edits else raw


def _looks(name: str, scope: Scope) -> bool:
    return scope.fields.looks(scope.fields.enter(scope.fields.start, name))
