"""Forms and query strings: values replaced, every other byte kept."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.placeholders import LITERAL
from tenantguard.rules.redaction.fields import Scope, compile_fields
from tenantguard.rules.redaction.forms import rewrite_form
from tenantguard.rules.redaction.text.rule import MalformedTextError, RequestMask, SecretFoundError, apply, text_edits

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["write to a@b.io now", "a@b.io", "é 张三@example.com!", "4111 1111 1111 1111", "x&y=z", "100%", "%41", "{a@b.io"]
)


@given(
    fields=st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=3), TEXTS)),
    written=st.sampled_from(
        [quote_plus, quote, lambda text, safe="": "".join(f"%{byte:02x}" for byte in text.encode())]
    ),
)
def test_a_reader_of_forms_finds_what_the_rule_makes_of_each_value(
    tools: Any, fields: list[Any], written: Any
) -> None:
    data = "&".join(f"{quote_plus(name)}={written(value)}" for name, value in fields).encode()
    rewritten = rewrite_form(data, tools.mask())
    rule = tools.mask()
    expected = [(name, apply(value, text_edits(rule, value))) for name, value in fields]
    assert parse_qsl(rewritten.decode(), keep_blank_values=True, strict_parsing=bool(fields)) == expected
    if not rule.replaced:
        assert rewritten is data


def test_every_byte_that_is_no_personal_data_stays(tools: Any) -> None:
    data = b"&&a=%zz+%41%c3%A9+x%20a%40b.io+%7e&=&b&c==%3D&d=a@b.io&&e=1%2"
    vault = tools.vault()
    token = quote_plus(vault.mint("EMAIL_ADDRESS", "a@b.io")).encode()
    assert rewrite_form(data, tools.mask(vault)) == data.replace(b"a%40b.io", token).replace(b"a@b.io", token)


def test_a_plus_is_a_space_and_where_that_finds_nothing_a_plus(tools: Any) -> None:
    for value in (b"4111+1111+1111+1111", b"+1%20415+555-2671", b"+1 415 555-2671"):
        assert b"1111" not in (out := rewrite_form(b"a=" + value, tools.mask()))
        assert b"2671" not in out


def test_json_in_a_field_hides_nothing_in_escapes(tools: Any) -> None:
    out = rewrite_form(urlencode({"payload": '{"mail":"a\\u0040b.io"}'}).encode(), tools.mask())
    assert b"u0040" not in out


def test_names_are_redacted_by_option(tools: Any) -> None:
    data = b"a%40b.io=x"
    assert rewrite_form(data, tools.mask()) is data
    assert b"b.io" not in rewrite_form(data, tools.mask(), scope=Scope(keys=True))


def test_only_the_fields_of_the_policy_are_looked_at(tools: Any) -> None:
    data = b"mail=a@b.io&n%6Fte=a@b.io&x=a@b.io"
    only = rewrite_form(data, tools.mask(), scope=Scope(compile_fields(["note"])))
    assert [value == "a@b.io" for _, value in parse_qsl(only.decode())] == [True, False, True]
    skip = rewrite_form(data, tools.mask(), scope=Scope(compile_fields([], ["note"]), keys=True))
    assert [value == "a@b.io" for _, value in parse_qsl(skip.decode())] == [False, True, False]


def test_a_form_is_read_in_its_charset_or_refused(tools: Any) -> None:
    data = "a=é+a@b.io".encode("latin-1") + b"&b=%E9+a@b.io"
    out = rewrite_form(data, tools.mask(), "iso-8859-1")
    assert b"b.io" not in out
    assert out.startswith(b"a=\xe9+%3CEMAIL")
    with pytest.raises(MalformedTextError) as caught:
        rewrite_form(data, tools.mask())
    assert "b.io" not in str(caught.value)


def test_a_placeholder_is_restored_as_the_form_writes_it(tools: Any) -> None:
    vault = tools.vault()
    sent = rewrite_form("a=%C3%A9+张三@example.com&b=1".encode(), tools.mask(vault))
    assert (
        rewrite_form(sent, tools.scrub(vault, restore=True))
        == ("a=%C3%A9+" + quote_plus("张三@example.com") + "&b=1").encode()
    )
    assert LITERAL.encode() not in sent


def test_a_secret_is_told_with_the_name_of_its_field(tools: Any) -> None:
    class Refusing(RequestMask):
        def replace(self, entity: str, value: str) -> str:
            raise SecretFoundError(entity)

    rule = Refusing(tools.detecting(tools.detect), tools.vault(), escape=False)
    for data, scope, place in (
        (b"note=a@b.io", Scope(), "note"), (b"a%40b.io=x", Scope(keys=True), "?"), (b"a@b.io=a@b.io", Scope(), "?"),
        (b'p={"to":["a@b.io"]}', Scope(), "p:to[0]"),
    ):  # fmt: skip
        with pytest.raises(SecretFoundError) as caught:
            rewrite_form(data, rule, scope=scope)
        assert caught.value.location == place


def test_a_form_of_very_many_fields_costs_little_memory(tools: Any) -> None:
    data = b"a=&" * 100_000 + b"b=a@b.io"
    assert rewrite_form(data, tools.mask()).startswith(b"a=&" * 100_000 + b"b=%3CEMAIL")
