"""Editing JSON in place: one member changes, every other byte stays."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError
from tenantguard.rules.jsonedit import add_member, set_member

J: TypeAlias = "dict[str, Any]"
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
)
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=3), st.dictionaries(st.text(max_size=2), LEAVES, max_size=2))
NAMES = st.sampled_from(["a", "b", "max_tokens", "é", '"', "\\", ""])
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
STYLES = st.sampled_from([{"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {}])


@given(OBJECTS, STYLES, NAMES, VALUES, st.sampled_from(["", " ", "\r\n\t"]))
def test_the_edited_body_reads_as_the_edited_object(
    document: J, style: J, name: str, value: object, space: str
) -> None:
    body = (space + json.dumps(document, **style) + space).encode()
    edited = set_member(body, (name,), value)
    assert json.loads(edited) == {**document, name: value}
    assert list(json.loads(edited)) == list({**document, name: value})


@given(OBJECTS, OBJECTS, STYLES, NAMES, NAMES, VALUES)
def test_a_nested_member_is_set_and_its_parent_made(
    document: J,
    parent: J,
    style: J,
    outer: str,
    inner: str,
    value: object,
) -> None:
    for before in ({**document, outer: parent}, {**document, outer: None}, document):
        if not isinstance(before.get(outer, {}), dict | None):
            continue
        edited = set_member(json.dumps(before, **style).encode(), (outer, inner), value)
        assert json.loads(edited) == {**before, outer: {**(before.get(outer) or {}), inner: value}}


@given(OBJECTS, STYLES, NAMES, VALUES)
def test_only_the_member_changes(document: J, style: J, name: str, value: object) -> None:
    body = json.dumps({**document, name: 12345}, **style).encode()
    edited = set_member(body, (name,), value)
    assert edited.count(json.dumps(value, separators=(",", ":")).encode()) >= 1
    assert set_member(edited, (name,), 12345) == body


@pytest.mark.parametrize(
    ("body", "path", "value", "edited"),
    [
        (b"{}", ("n",), 1, b'{"n":1}'),
        (b"{ }", ("n",), 1, b'{"n":1 }'),
        (b'{"a": 1e400}', ("n",), 1, b'{"a": 1e400,"n":1}'),
        (b'{\n "a": 1\n}\n', ("n",), 1, b'{\n "a": 1,"n":1\n}\n'),
        (b'{"big": 123456789012345678901234567890, "n": 7}', ("n",), 1, None),
        (b'{"x": -0.0, "y": 1.10, "z": 1E+2, "n":7}', ("n",), 1, b'{"x": -0.0, "y": 1.10, "z": 1E+2, "n":1}'),
        (b'{"s":"\\u00e9\\/\\ud83d","n":7}', ("n",), 1, b'{"s":"\\u00e9\\/\\ud83d","n":1}'),
        (b'{"m\\u0061x_tokens": 9}', ("max_tokens",), 1, b'{"m\\u0061x_tokens": 1}'),
        (b'{"o":{"a":1,"a":2},"n":7}', ("n",), 1, b'{"o":{"a":1,"a":2},"n":1}'),
        (b'{"o": null}', ("o", "n"), True, b'{"o": {"n":true}}'),
        (b'{"o": {"a":1 }}', ("o", "n"), True, b'{"o": {"a":1,"n":true }}'),
        (b"{}", ("o", "n"), True, b'{"o":{"n":true}}'),
    ],
)
def test_every_other_byte_stays(body: bytes, path: tuple[str, ...], value: object, edited: bytes | None) -> None:
    expected = edited if edited is not None else body.replace(b"7}", b"1}")
    assert set_member(body, path, value) == expected


def test_a_number_of_any_length_stays() -> None:
    digits = b"9" * 10_000
    assert set_member(b'{"a":' + digits + b"}", ("n",), 1) == b'{"a":' + digits + b',"n":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":1,',
        b'{"a":1,}',
        b'{"a" 1}',
        b'{"a":1 "b":2}',
        b"{1:2}",
        b"{'a':1}",
        b"{} x",
        b"{}{}",
        b"[]",
        b"null",
        b'"{}"',
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\n"}',
        b'{"a":01}',
        b'{"a":1,"a":2}',
        b'{"n":1,"n":2}',
        b'{"n":1,"\\u006e":2}',
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 10_000,
    ],
    ids=lambda body: body[:16].decode("latin-1"),
)
def test_what_is_no_unambiguous_json_object_is_refused(body: bytes) -> None:
    """E+17: 10 000-deep JSON does not overflow the stack."""
    with pytest.raises(BadRequestError):
        set_member(body, ("n",), 1)


@pytest.mark.parametrize("parent", [b"1", b'"x"', b"[]", b"true", b'{"n":1,"n":2}'])
def test_a_parent_that_is_no_unambiguous_object_is_refused(parent: bytes) -> None:
    with pytest.raises(BadRequestError):
        set_member(b'{"o":' + parent + b"}", ("o", "n"), 1)


@given(OBJECTS, STYLES, st.lists(NAMES, min_size=1, max_size=2), VALUES, st.sampled_from(["", " ", "\r\n\t"]))
def test_a_member_is_added_to_a_body_that_was_read_as_to_any(
    document: J, style: J, path: list[str], value: object, space: str
) -> None:
    body = (space + json.dumps(document, **style) + space).encode()
    if len(path) > 1 and not isinstance(document.get(path[0], {}), dict | None):
        return
    added = add_member(body, json.loads(body), tuple(path), value)
    assert added == set_member(body, tuple(path), value)
    assert add_member(added, json.loads(body), ("another",), 1) == set_member(added, ("another",), 1)


@pytest.mark.parametrize("body", [b"{}", b"{ }", b" {\n}\n", b'{"a": "}"} ', b'{"a": {"n": 1} }', b'{"a":[1 ]\n}'])
def test_a_member_is_added_where_the_last_one_ends(body: bytes) -> None:
    assert add_member(body, json.loads(body), ("n",), 1) == set_member(body, ("n",), 1)


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_python_alone_takes_for_a_number_is_refused_where_a_member_is_added(constant: bytes) -> None:
    body = b'{"a":' + constant + b"}"
    with pytest.raises(BadRequestError):
        add_member(body, json.loads(body), ("n",), 1)


@given(st.binary(max_size=40))
def test_anything_else_is_a_bad_request_and_nothing_worse(body: bytes) -> None:
    try:
        edited = set_member(body, ("n",), 1)
    except BadRequestError:
        return
    assert json.loads(edited)["n"] == 1
