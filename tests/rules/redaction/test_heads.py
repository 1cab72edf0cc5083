"""Headers' values, query strings and paths."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.redaction.heads import redact_path, redact_query, redact_raw_path, redact_value
from tenantguard.rules.redaction.text.rule import MalformedTextError


@pytest.mark.parametrize(
    "value", [b"a@b.io", b"Ann <a@b.io>, x", b'{"m":"a\\u0040b.io"}', b"/x?m=a%40b.io&y=1", "é a@b.io".encode(),
              b"caf\xe9 a@b.io", b"%e9 a%40b.io"],
)  # fmt: skip
def test_a_headers_value_hides_nothing(tools: Any, value: bytes) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io").encode()
    out = redact_value(value, tools.mask(vault))
    for hidden in (b"a@b.io", b"a%40b.io", b"a\\u0040b.io"):
        value = value.replace(hidden, quote(token).encode() if b"%" in hidden else token)
    assert out == value


@given(value=st.binary(max_size=30))
def test_a_headers_value_without_personal_data_stays(tools: Any, value: bytes) -> None:
    rule = tools.mask()
    out = redact_value(value, rule)
    assert rule.replaced or out == value


def test_what_is_restored_cannot_break_a_head(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("X", "a\r\nset-cookie: b").encode()
    rule = tools.scrub(vault, restore=True)
    with pytest.raises(MalformedTextError) as caught:
        redact_value(b"x " + token, rule)
    assert "cookie" not in str(caught.value)
    assert redact_value(quote(token).encode(), rule) == b"a%0D%0Aset-cookie%3A%20b"
    with pytest.raises(MalformedTextError):
        redact_value(b"\xe9" + vault.mint("X", "张").encode(), rule)


def test_a_query_is_a_form_in_utf8_or_bytes(tools: Any) -> None:
    vault = tools.vault()
    token = quote(vault.mint("EMAIL_ADDRESS", "a@b.io")).encode()
    for query in (b"q=%C3%A9+a%40b.io&a=b", b"q=%E9+a%40b.io&a=b"):
        assert redact_query(query, tools.mask(vault)) == query.replace(b"a%40b.io", token)
    assert redact_query(b"", tools.mask()) == b""


def test_a_path_is_redacted_segment_by_segment(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    assert redact_path("/users//a@b.io/é/", tools.mask(vault)) == f"/users//{token}/é/"
    assert (
        redact_raw_path(b"/users/a%40b.io/%C3%A9+/%e9", tools.mask(vault))
        == b"/users/%s/%%C3%%A9+/%%e9" % quote(token).encode()
    )
    assert redact_path("/", tools.mask()) == "/"


@given(path=st.lists(st.sampled_from(["users", "a@b.io", "é", "4111 1111 1111 1111", "", "100%"])).map("/".join))
def test_a_path_and_its_encoded_form_become_the_same(tools: Any, path: str) -> None:
    assert unquote(redact_raw_path(quote(path).encode(), tools.mask()).decode()) == redact_path(path, tools.mask())
