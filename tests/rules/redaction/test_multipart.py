"""Multipart bodies: text parts redacted, files and every other byte kept, what is open to two readings refused."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.formparser import parse_form_data

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.media import Content
from tenantguard.rules.redaction.bodies import Passing, Refused, Terms, body_for
from tenantguard.rules.redaction.fields import compile_fields
from tenantguard.rules.redaction.multipart import HEAD_BYTES_MAX, PARTS_MAX
from tenantguard.rules.redaction.text.rule import (
    MalformedTextError,
    RequestMask,
    SecretFoundError,
    TextRule,
    apply,
    text_edits,
)

BOUNDARY = "x.Y'7"
LINE = b"--x.Y'7\r\n"
END = b"--x.Y'7--\r\n"


def part(content: bytes, *lines: str, name: str = "a") -> bytes:
    head = [f'Content-Disposition: form-data; name="{name}"', *lines]
    return LINE + "\r\n".join(head).encode() + b"\r\n\r\n" + content + b"\r\n"


def rewrite(rule: TextRule, chunks: list[bytes], kind: str = "multipart/form-data", **terms: Any) -> bytes:
    body = body_for(Content(kind, boundary=BOUNDARY), rule, Terms(**terms))
    assert not isinstance(body, Passing | Refused)
    return b"".join([*map(body.feed, chunks), body.finish()])


def file(name: str) -> str:
    return f'Content-Disposition: form-data; name="f"; filename="{name}"'


VALUES = st.sampled_from([
    "hello", "", "a@b.io", "write to a@b.io now", "4111 1111 1111 1111", "\r\n", "\n--x.Y'", "é 张三@example.com",
    "--", "\r\n--x.Y", "-", "\r",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.lists(VALUES, max_size=4).map("".join), max_size=4), places=st.lists(st.integers(0)))
def test_a_reader_finds_what_the_rule_makes_of_each_part_in_any_chunks(
    tools: Any, values: list[str], places: list[int]
) -> None:
    """E+9, E+10."""
    data = b"".join(part(value.encode(), name=f"n{at}") for at, value in enumerate(values)) + END
    if b"\n--x.Y'7" in data.replace(b"\r\n--x.Y'7", b""):
        return
    rule = tools.mask()
    out = rewrite(rule, tools.cut(data, places))
    head = {"wsgi.input": BytesIO(out), "CONTENT_LENGTH": str(len(out)), "REQUEST_METHOD": "POST"}
    _, form, _ = parse_form_data({**head, "CONTENT_TYPE": f'multipart/form-data; boundary="{BOUNDARY}"'})
    plain = tools.mask()
    assert [form[f"n{at}"] for at in range(len(values))] == [
        apply(value, text_edits(plain, value)) for value in values
    ]
    if not rule.replaced:
        assert out == data


def test_files_pass_and_are_counted_by_a_kind_that_tells_nothing(tools: Any) -> None:
    data = (
        LINE + file("a.png").encode() + b"\r\nContent-Type: image/png\r\n\r\n\x89PNG a@b.io\r\n"
        + LINE + file("b.txt").encode() + b"\r\nContent-Type: text/plain\r\n\r\na@b.io \xff\r\n"
        + LINE + b"content-disposition:form-data;name=f; FileName*=utf-8''x.bin\r\n\r\n\r\n--a@b.io\r\n" + END
    )  # fmt: skip
    rule = tools.mask()
    assert rewrite(rule, [data]) == data
    assert rule.skipped == {"image": 1, "file": 2}
    assert rule.replaced == {}


def test_the_name_of_a_file_is_redacted(tools: Any) -> None:
    vault = tools.vault()
    data = LINE + file('é of a@b.io".png').replace('o".', 'o\\".').encode() + b"\r\n\r\nx\r\n" + END
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    sent = rewrite(tools.mask(vault), [data])
    assert sent == data.replace(b"a@b.io", token.encode())
    assert rewrite(tools.scrub(vault, restore=True), [sent]) == data
    quoted = vault.mint("X", 'a"\r\nb')
    restored = rewrite(tools.scrub(vault, restore=True), [LINE + file(quoted).encode() + b"\r\n\r\n\r\n" + END])
    assert b'filename="a%22%0D%0Ab"' in restored


def test_a_part_is_redacted_by_its_own_type(tools: Any) -> None:
    data = (
        part(b'{"m":"a\\u0040b.io","n":1}', "Content-Type: application/json")
        + part("é a@b.io".encode("utf-16"), "Content-Type: text/plain; charset=utf-16")
        + part(b"m=a%40b.io", "Content-Type: application/x-www-form-urlencoded")
        + part(b"GIF a@b.io", "Content-Type: image/gif")
        + part(b'{"m":"a\\u0040b.io"}', "Content-Transfer-Encoding: 8BIT")
        + END
    )
    rule = tools.mask()
    out = rewrite(rule, [data])
    assert rule.replaced == {"EMAIL_ADDRESS": 5}
    assert b"a@b.io" not in out


@pytest.mark.parametrize("kind", ["image/gif", "application/octet-stream", "application/pdf", "video/mp4"])
def test_a_field_is_read_whatever_type_it_says_that_it_is(tools: Any, kind: str) -> None:
    """Readers of forms take for a file only what has the name of one."""
    rule = tools.mask()
    assert b"a@b.io" not in rewrite(rule, [part(b'{"m":"a\\u0040b.io"}', f"Content-Type: {kind}") + END])
    assert (rule.replaced, rule.skipped) == ({"EMAIL_ADDRESS": 1}, {})
    assert b"a@b.io" not in rewrite(rule, [part(b"a@b.io", f"Content-Type: {kind}") + END], unknown=Unknown.PASS)
    with pytest.raises(MalformedTextError):
        rewrite(rule, [part(b"\x89PNG a@b.io", f"Content-Type: {kind}") + END])


def test_what_is_no_form_may_have_pictures_without_a_name_which_are_counted(tools: Any) -> None:
    data = LINE + b"Content-Type: image/gif\r\n\r\nGIF\xff\r\n" + END
    rule = tools.mask()
    assert rewrite(rule, [data], "multipart/related") == data
    assert rule.skipped == {"image": 1}


@pytest.mark.parametrize("name", ['name="a@b.io"', "name=a@b.io", "name*=utf-8''a%40b.io", 'name="a\\@b.io"'])
def test_names_of_parts_are_redacted_by_option(tools: Any, name: str) -> None:
    data = LINE + f"Content-Disposition: form-data; {name}".encode() + b"\r\n\r\nx\r\n" + END
    rule = tools.mask()
    assert rewrite(rule, [data]) == data
    named = rewrite(rule, [data], keys=True)
    assert b"b.io" not in named
    assert b"EMAIL_ADDRESS" in named
    assert rewrite(rule, [data], keys=True, fields=compile_fields(["else"])) == data


def test_parts_without_a_name_are_redacted_too(tools: Any) -> None:
    data = LINE + b'Content-Type: application/json\r\n\r\n{"a":"a@b.io"}\r\n' + LINE + b"\r\nmail a@b.io\r\n" + END
    for kind in ("multipart/mixed", "multipart/related"):
        out = rewrite(tools.mask(), [data], kind)
        assert b"a@b.io" not in out


def test_the_fields_of_the_policy_are_names_of_parts_and_paths_in_them(tools: Any) -> None:
    data = (
        part(b"a@b.io", name="mail")
        + part(b'{"x":"a@b.io","y":"a@b.io"}', "Content-Type: application/json", name="doc")
        + part(b"a@b.io", name="doc")
        + END
    )
    only = rewrite(tools.mask(), [data], fields=compile_fields(["doc.x"]))
    assert (only.count(b'"a@b.io"'), only.count(b"a@b.io")) == (1, 3)
    skip = rewrite(tools.mask(), [data], fields=compile_fields([], ["mail"]))
    assert skip.count(b"a@b.io") == 1


def test_a_part_of_unknown_type_is_treated_as_the_policy_says(tools: Any) -> None:
    data = part(b"mail a@b.io", "Content-Type: application/x-thing") + END
    assert b"a@b.io" not in rewrite(tools.mask(), [data])
    assert rewrite(tools.mask(), [data], unknown=Unknown.PASS) == data
    with pytest.raises(MalformedTextError):
        rewrite(tools.mask(), [data], unknown=Unknown.BLOCK)


@pytest.mark.parametrize(
    "data",
    [
        b"a@b.io", b"a@b.io\r\n" + part(b"x") + END, b"\r\n" + part(b"x") + END, part(b"x"), part(b"x") + LINE,
        LINE, LINE[:-2], b"--x.Y'7--", part(b"x") + END[:-4], part(b"x") + END + b"a@b.io",
        part(b"x\n--x.Y'7\r\na@b.io") + END, part(b"x --x.Y'7\r\n") + END, part(b"x\r\n--x.Y'78\r\n") + END,
        part(b"x\r\n--x.Y'7" + b" " * 80 + b"\r\n") + END, LINE.replace(b"\r\n", b"\n") + b"\n\nx\n" + END,
        part(b"x", "no colon") + END, part(b"x", "A: b", " folded") + END, part(b"x", "A: b\nC: d") + END,
        part(b"x", "content-disposition: form-data; name=a; filename=b") + END, part(b"x", "A: 1", "a: 2") + END,
        LINE + b'Content-Disposition: form-data; name="a; filename=b\r\n\r\nx\r\n' + END,
        LINE + b"Content-Disposition: form-data; name=a; name=b\r\n\r\nx\r\n" + END,
        LINE + b"Content-Disposition: form-data, name=a\r\n\r\nx\r\n" + END,
        part(b"eA==", "Content-Transfer-Encoding: base64") + END,
        part(b"=40", "Content-Transfer-Encoding: quoted-printable") + END,
        part(b"x", "Content-Type: multipart/mixed; boundary=b") + END,
        part(b"x", "Content-Type: text/plain; charset=utf-7") + END, part(b"x", "Content-Type: what") + END,
        part(b"\xff a@b.io") + END, part(b"{", "Content-Type: application/json") + END,
        part(b"x", "X: " + "y" * HEAD_BYTES_MAX) + END, part(b"x") * (PARTS_MAX + 1) + END,
    ],
)  # fmt: skip
def test_what_is_broken_cut_short_or_open_to_two_readings_is_an_error(tools: Any, data: bytes) -> None:
    for chunks in ([data], [data[at : at + 1] for at in range(len(data))] if len(data) < 2000 else [data]):
        if data == b"--x.Y'7--":
            assert rewrite(tools.mask(), chunks) == data  # no part at all
            continue
        with pytest.raises(MalformedTextError) as caught:
            rewrite(tools.mask(), chunks)
        assert "a@b.io" not in str(caught.value)


def test_an_empty_body_stays_empty_and_as_many_parts_as_allowed_are_read(tools: Any) -> None:
    assert rewrite(tools.mask(), []) == b""
    data = part(b"a@b.io") * PARTS_MAX + END
    assert b"a@b.io" not in rewrite(tools.mask(), [data])


def test_a_large_file_costs_linear_time_and_leaves_as_it_comes(tools: Any) -> None:
    body = body_for(Content("multipart/form-data", boundary=BOUNDARY), tools.mask(), Terms())
    assert not isinstance(body, Passing | Refused)
    sent = len(body.feed(LINE + file("a").encode() + b"\r\n\r\n"))
    for _ in range(200):
        sent += len(body.feed(b"\r\n--x.Y" * 10_000))
    assert 0 <= 70_000 * 200 + 100 - sent < 100


def test_a_secret_is_told_with_the_name_of_its_part(tools: Any) -> None:
    class Refusing(RequestMask):
        def replace(self, entity: str, value: str) -> str:
            raise SecretFoundError(entity)

    rule = Refusing(tools.detecting(tools.detect), tools.vault(), escape=False)
    for data, place in (
        (part(b"a@b.io", name="note"), "note"), (part(b"a@b.io", name="a@b.io"), "?"),
        (part(b'{"m":["a@b.io"]}', "Content-Type: application/json", name="doc"), "doc:m[0]"),
    ):  # fmt: skip
        with pytest.raises(SecretFoundError) as caught:
            rewrite(rule, [data + END])
        assert caught.value.location == place
