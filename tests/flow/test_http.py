"""Headers, bodies and requests as layers see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError, LayerError
from tenantguard.flow.http import (
    Body,
    Ending,
    Headers,
    Outcome,
    Request,
    Response,
    Unreadable,
    declared_length,
    describe_body,
    length_mismatch,
    too_large,
)
from tenantguard.model.decision import Reason

# --- headers ---

NAMES = st.sampled_from(["a", "A", "b", "X-Long", "x-long"])
LINES = st.lists(st.tuples(NAMES.map(str.encode), st.sampled_from([b"1", b"2", b"\xe9"])), max_size=6)


def test_the_servers_own_lines_are_handed_on_until_somebody_changes_them() -> None:
    raw = [(b"A", b"1"), (b"b", b"2")]
    headers = Headers(raw)
    assert headers.raw is raw
    headers.remove("c")
    assert headers.raw is raw
    headers.set("b", "3")
    assert raw == [(b"A", b"1"), (b"b", b"2")]
    assert headers.raw == [(b"A", b"1"), (b"b", b"3")]


def test_lines_may_come_from_any_iterable() -> None:
    assert Headers(iter([(b"a", b"1")])).raw == [(b"a", b"1")]
    assert Headers().raw == []


def test_names_are_compared_without_case_and_values_are_latin1() -> None:
    headers = Headers([(b"X-Name", b"caf\xe9"), (b"x-name", b"2")])
    assert headers.get("x-NAME") == "café"
    assert headers.all("X-name") == ["café", "2"]
    assert headers.get("other") is None
    assert headers.all("other") == []


@given(LINES, NAMES, st.sampled_from(["v", "é"]))
def test_set_leaves_one_line_where_the_first_stood(raw: list[tuple[bytes, bytes]], name: str, value: str) -> None:
    headers = Headers(raw)
    before = list(raw)
    headers.set(name, value)
    assert headers.all(name) == [value]
    others = [line for line in raw if line[0].lower() != name.lower().encode()]
    assert [line for line in headers.raw if line[0].lower() != name.lower().encode()] == others
    first = next((at for at, line in enumerate(raw) if line[0].lower() == name.lower().encode()), len(raw))
    assert headers.raw[first][1].decode("latin-1") == value
    assert raw == before


@given(LINES, st.lists(NAMES, max_size=3))
def test_remove_drops_every_line_of_its_names_and_no_other(raw: list[tuple[bytes, bytes]], names: list[str]) -> None:
    headers = Headers(list(raw))
    headers.remove(*names)
    wanted = {name.lower().encode() for name in names}
    assert headers.raw == [line for line in raw if line[0].lower() not in wanted]


@given(LINES, NAMES)
def test_add_keeps_what_is_there(raw: list[tuple[bytes, bytes]], name: str) -> None:
    headers = Headers(raw)
    headers.add(name, "new")
    assert headers.raw == [*raw, (name.lower().encode(), b"new")]
    assert len(raw) == len(headers.raw) - 1


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\0b", "€"])
def test_a_value_that_would_break_the_message_is_refused_and_not_quoted(value: str) -> None:
    headers = Headers([(b"x", b"1")])
    for change in (headers.set, headers.add):
        with pytest.raises(LayerError) as caught:
            change("x", value)
        assert value not in str(caught.value)
    assert headers.raw == [(b"x", b"1")]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(LayerError):
        Headers().set(name, "1")
    with pytest.raises(LayerError):
        Headers().add(name, "1")


def test_a_repr_shows_no_value() -> None:
    assert repr(Headers([(b"authorization", b"secret")])) == "Headers(1 lines)"
    assert repr(Body(b"secret")) == "Body(6 bytes)"
    assert repr(Request("GET", "/a", query=b"secret")) == "Request(GET)"
    assert repr(Response(200, body=b"secret")) == "Response(200)"


# --- bodies ---


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    )
)
def test_a_body_is_parsed_as_json_once(value: Any) -> None:
    body = Body(json.dumps(value).encode())
    assert body.json() == value
    assert body.json() is body.json()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'{"a": 1, "a": 1}', "one key twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "one key twice"),
        (b"[" * 10_000 + b"]" * 10_000, "too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too deeply"),
        (b"[" * 10_000, "too deeply"),
    ],
)
def test_a_body_that_is_no_clear_json_is_refused(data: bytes, problem: str) -> None:
    body = Body(data)
    for _ in range(2):
        with pytest.raises(BadRequestError, match=problem):
            body.json()


def test_a_refusal_of_json_quotes_nothing_of_the_body() -> None:
    with pytest.raises(BadRequestError) as caught:
        Body(b'{"email": "a@example.com", "email": "b@example.com"}').json()
    assert "example" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# --- declared lengths ---


@pytest.mark.parametrize(
    ("values", "length"),
    [([], None), (["0"], 0), (["12"], 12), (["12", "12"], 12), (["007"], 7), (["9" * 18], 10**18 - 1)],
)
def test_a_declared_length(values: list[str], length: int | None) -> None:
    headers = Headers([(b"Content-Length", value.encode()) for value in values])
    assert declared_length(headers) == length


@pytest.mark.parametrize("values", [[""], ["-1"], ["+1"], ["1,1"], ["1", "2"], ["0x1"], ["1_0"], ["9" * 19], [" 1"]])
def test_a_declared_length_that_is_no_plain_number_is_unreadable(values: list[str]) -> None:
    headers = Headers([(b"content-length", value.encode()) for value in values])
    assert declared_length(headers) == length_mismatch()


def test_what_is_unreadable_says_which_status_it_deserves() -> None:
    assert (too_large(7).status, too_large(7).reason) == (413, Reason.BODY_TOO_LARGE)
    assert "7 bytes" in too_large(7).message
    assert (length_mismatch().status, length_mismatch().reason) == (400, Reason.BODY_LENGTH_MISMATCH)


def test_a_replaced_body_is_described_anew() -> None:
    names = [
        b"Content-Encoding",
        b"transfer-encoding",
        b"Digest",
        b"content-digest",
        b"content-md5",
        b"Content-Length",
    ]
    headers = Headers([*((name, b"x") for name in names), (b"content-type", b"a/b")])
    describe_body(headers, 3)
    assert sorted(headers.raw) == [(b"content-length", b"3"), (b"content-type", b"a/b")]


# --- requests ---


def test_a_body_that_was_not_read_cannot_be_looked_at_or_replaced() -> None:
    request = Request("POST", "/")
    for read in (None, too_large(1)):
        request.body_read = read
        with pytest.raises(LayerError, match="ReadBody"):
            _ = request.body
        with pytest.raises(LayerError, match="ReadBody"):
            request.body = b"x"


def test_a_body_is_replaced_only_by_another_one() -> None:
    request = Request("POST", "/")
    request.body_read = body = Body(b"same")
    request.body = b"same"
    assert (request.replaced, request.body_read is body) == (False, True)
    request.body = b"other"
    assert (request.replaced, request.body) == (True, b"other")


def test_defaults() -> None:
    request = Request("GET", "/a")
    assert (request.query, request.client, request.protocol, request.headers.raw) == (b"", None, "http", [])
    response = Response(200)
    assert (response.body, response.transforms, response.marker, response.headers.raw) == (None, [], None, [])
    outcome = Outcome(Ending.LOST)
    assert (outcome.called, outcome.status, outcome.sent, outcome.ended, outcome.reason) == (True, 0, 0, False, None)
    assert isinstance(too_large(1), Unreadable)
