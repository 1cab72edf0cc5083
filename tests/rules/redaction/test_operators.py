"""What becomes of values."""

from __future__ import annotations

import hashlib
import hmac
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import OTHERS, Kept, Operator, OperatorKind
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.operators import Operators, TenantKeys
from tenantguard.rules.redaction.text.rule import Replacing, RequestMask, ResponseScrub, apply, text_edits

KEYS = TenantKeys.of(b"t" * 32)
MAIL = "ann@example.com"


def become(value: str, operator: Operator, **functions: Any) -> str:
    operators = Operators([("X", operator)], functions)
    chosen = operators.of("X")
    assert chosen is not None
    return operators.text(chosen, "X", value, KEYS)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Operator(value="[mail]"), "[mail]"),
        (Operator(value=""), ""),
        (Operator(OperatorKind.REDACT), ""),
        (Operator(OperatorKind.KEEP), "4111111111111111"),
        (Operator(OperatorKind.MASK), "*" * 16),
        (Operator(OperatorKind.MASK, char="#", count=12), "#" * 12 + "1111"),
        (Operator(OperatorKind.MASK, count=4, from_end=True), "411111111111****"),
        (Operator(OperatorKind.MASK, count=0), "4111111111111111"),
        (Operator(OperatorKind.MASK, count=99), "*" * 16),
        (Operator(OperatorKind.CUSTOM, function="f"), "1111111111111114"),
    ],
)
def test_an_operator_makes_of_a_value_what_its_name_says(operator: Operator, expected: str) -> None:
    assert become("4111111111111111", operator, f=lambda value: value[::-1]) == expected


@given(st.text(min_size=1), st.integers(0, 40), st.booleans())
def test_a_mask_is_as_long_as_the_value_and_leaves_the_rest(value: str, count: int, from_end: bool) -> None:  # noqa: FBT001
    masked = become(value, Operator(OperatorKind.MASK, count=count, from_end=from_end))
    assert len(masked) == len(value)
    assert masked[: max(len(value) - count, 0)] == value[: max(len(value) - count, 0)] if from_end else True
    assert masked[count:] == value[count:] if not from_end else True
    assert masked.count("*") >= min(count, len(value))


def test_a_hash_is_keyed_by_the_tenant_and_the_same_for_the_same_value() -> None:
    hashed = become(MAIL, Operator(OperatorKind.HASH))
    assert hashed == become(MAIL, Operator(OperatorKind.HASH))
    assert len(hashed) == 64
    assert hashed != hashlib.sha256(MAIL.encode()).hexdigest()
    other = TenantKeys.of(b"u" * 32)
    assert other.hashed(MAIL) != hashed
    assert hmac.digest(KEYS.hash_key, MAIL.encode(), hashlib.sha256).hex()[:56] == hashed[:56]
    assert KEYS.hash_key != b"t" * 32


@given(st.text(min_size=1), st.sampled_from(["", " ", ", ", "(", "/", "-", "="]))
def test_a_hash_that_comes_back_is_known_and_not_looked_into(value: str, beside: str) -> None:
    hashed = KEYS.hashed(value)
    text = f"{beside}{hashed}{beside}"
    digits = [Match("US_BANK_NUMBER", *found.span(), 0.5) for found in re.finditer(r"\d+", text)]
    detecting = SimpleNamespace(detect=lambda *_: digits, clears=lambda _: False, reach=0, passed=0)
    hashes = Operators([(OTHERS, Operator(OperatorKind.HASH))])
    for rule, same in ((Replacing(hashes, KEYS), True), (Replacing(hashes, TenantKeys.of(b"u" * 32)), False)):
        edits = text_edits(RequestMask(detecting, Vault(b"k" * 32), escape=False, replacing=rule), text)
        assert not edits if same else bool(edits) is bool(digits)


def test_what_only_looks_like_a_hash_hides_nothing() -> None:
    hashed = KEYS.hashed(MAIL)
    changed = ("0" if hashed[0] != "0" else "1") + hashed[1:]
    assert len(KEYS.made(f"{hashed} {hashed}")) == 2
    for text in (changed, hashed[:-1], f"{hashed}0", f"a{hashed}", hashed.upper().replace("0", "O"), "4" * 64):
        assert KEYS.made(text) == []


@pytest.mark.parametrize("replacement", [r"\1", "$1", r"\g<0>", "%s", "{0}", "&"])
def test_a_replacement_is_inserted_literally(tools: Any, replacement: str) -> None:
    """E+14."""
    rule = _mask(tools, Operator(value=replacement))
    assert apply(f"to {MAIL}.", text_edits(rule, f"to {MAIL}.")) == f"to {replacement}."


def test_an_entity_without_an_operator_has_that_of_all_others_and_else_a_placeholder() -> None:
    mask = Operator(OperatorKind.MASK)
    assert Operators([("A", mask)]).of("B") is None
    assert Operators([("A", mask), (OTHERS, Operator(value="x"))]).of("B") == Operator(value="x")
    assert Operators([(OTHERS, mask), ("A", Operator())]).of("A") is None


def test_what_is_kept_follows_from_the_operators() -> None:
    keep, mask = Operator(OperatorKind.KEEP), Operator(OperatorKind.MASK)
    assert Operators([("A", keep), ("B", mask)]).kept() == Kept(frozenset("A"))
    assert Operators([("A", keep), ("B", keep)]).kept(frozenset("A")) == Kept(frozenset("B"))
    others = Operators([("A", keep), ("B", mask), (OTHERS, keep)]).kept(frozenset("S"))
    assert [entity in others for entity in "ABSX"] == [True, False, False, True]


def test_a_function_that_nobody_gave_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="m:f"):
        Operators([("A", Operator(OperatorKind.CUSTOM, function="m:f"))])


def _fail(value: str) -> str:
    raise ValueError(value)


@pytest.mark.parametrize("function", [_fail, lambda value: None])
def test_a_function_that_fails_is_a_failure_that_tells_nothing_of_the_value(function: Any) -> None:
    with pytest.raises(PortError) as failed:
        become(MAIL, Operator(OperatorKind.CUSTOM, function="m_f"), m_f=function)
    assert "ann" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None


def test_encryption_without_a_cipher_is_a_failure_and_not_the_value() -> None:
    with pytest.raises(PortError):
        become(MAIL, Operator(OperatorKind.ENCRYPT))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": OperatorKind.MASK, "value": "x"}, "value"),
        ({"char": "#"}, "mask"),
        ({"kind": OperatorKind.HASH, "count": 3}, "mask"),
        ({"kind": OperatorKind.MASK, "char": "##"}, "one character"),
        ({"kind": OperatorKind.MASK, "count": -1}, "one character"),
        ({"kind": OperatorKind.CUSTOM}, "function"),
        ({"function": "m:f"}, "function"),
    ],
)
def test_an_operator_that_says_two_things_is_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Operator(**arguments)


def _mask(tools: Any, operator: Operator, vault: Vault | None = None, *, escape: bool = False) -> RequestMask:
    replacing = Replacing(Operators([("EMAIL_ADDRESS", operator)]), KEYS)
    return RequestMask(tools.detecting(tools.detect), vault or Vault(b"k" * 32), escape=escape, replacing=replacing)


def test_only_placeholders_can_be_restored(tools: Any) -> None:
    vault = Vault(b"k" * 32)
    rule = _mask(tools, Operator(OperatorKind.HASH), vault)
    sent = apply(MAIL, text_edits(rule, MAIL))
    assert vault.count == 0
    scrub = ResponseScrub(tools.detecting(tools.detect), vault, restore=True)
    assert apply(sent, text_edits(scrub, sent)) == sent


def test_a_kept_value_stays_and_is_counted_as_kept(tools: Any) -> None:
    rule = _mask(tools, Operator(OperatorKind.KEEP))
    assert text_edits(rule, f"to {MAIL}") == []
    assert (rule.replaced, rule.kept) == ({}, {"EMAIL_ADDRESS": 1})


def test_a_response_has_its_operators_too(tools: Any) -> None:
    replacing = Replacing(Operators([(OTHERS, Operator(value="[gone]"))]), KEYS)
    scrub = ResponseScrub(tools.detecting(tools.detect), Vault(b"k" * 32), restore=False, replacing=replacing)
    assert apply(f"to {MAIL}", text_edits(scrub, f"to {MAIL}")) == "to [gone]"


def test_a_users_own_placeholder_is_escaped_whatever_the_operator_of_all_others(tools: Any) -> None:
    vault = Vault(b"k" * 32)
    replacing = Replacing(Operators([(OTHERS, Operator(OperatorKind.KEEP))]), KEYS)
    rule = RequestMask(tools.detecting(tools.detect), vault, escape=True, replacing=replacing)
    forged = "<EMAIL_ADDRESS_aaaaaaaaaa>"
    sent = apply(forged, text_edits(rule, forged))
    assert sent == vault.mask("LITERAL", forged)
    assert rule.replaced == {"LITERAL": 1}
