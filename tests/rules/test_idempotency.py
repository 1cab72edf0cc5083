"""Idempotency keys as pure rules: reading one, telling requests apart, refusing the second, keeping a response."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError
from tenantguard.flow.http import Ending, Outcome
from tenantguard.model.decision import Reason
from tenantguard.model.ledger import Claim, Conflict, HoldState, Repeated
from tenantguard.model.route import Dialect
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.idempotency import (
    _KEPT_HEADERS,
    Kept,
    Recording,
    binding,
    decode,
    encode,
    fingerprint,
    keep,
    raced,
    read_key,
    refusal,
)
from tenantguard.rules.refusals import render_refusal

PAGE = Path(__file__).parents[2] / "docs" / "idempotency.md"
HOLD = bytes(range(16))
SERVED = Outcome(Ending.COMPLETED, status=200, ended=True)
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
CLAIM = Claim("k-1", b"f" * 16)

KEYS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=255
)
BYTES = st.binary(max_size=40)


def recording(headers: list[tuple[bytes, bytes]] = JSON, limit: int = 100) -> Recording:
    return Recording("k-1", lambda body: b"sealed:" + body, headers, limit)


# the key


@given(KEYS)
def test_a_key_is_any_visible_ascii_but_the_comma(key: str) -> None:
    assert read_key([key]) == key


def test_no_line_is_no_key() -> None:
    assert read_key([]) is None


@given(KEYS, st.sampled_from([", ", ",", "\t,"]))
def test_a_key_said_twice_is_one_key_whether_a_server_joins_the_lines_or_not(key: str, comma: str) -> None:
    assert read_key([key, f" {key}"]) == read_key([f"{key}{comma}{key}"]) == key


@pytest.mark.parametrize("lines", [["a", "b"], ["a,b"], ["a", "a, b"], ["a", ""], ["a,"]])
def test_two_different_keys_are_refused(lines: list[str]) -> None:
    with pytest.raises(BadRequestError, match="several"):
        read_key(lines)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\x7f", "a\x00", "k" * 256, "schlüssel", "\xa0"])
def test_what_is_no_key_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(BadRequestError, match="1 to 255") as wrong:
        read_key([key])
    assert not key.strip() or key not in str(wrong.value)


# what is asked


@given(st.tuples(st.text(), st.text(), BYTES, BYTES), st.tuples(st.text(), st.text(), BYTES, BYTES))
def test_two_requests_have_one_fingerprint_exactly_where_they_are_equal(
    first: tuple[str, str, bytes, bytes], second: tuple[str, str, bytes, bytes]
) -> None:
    assert len(fingerprint(*first)) == 16
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)


def test_bytes_that_move_from_the_query_to_the_body_make_another_request() -> None:
    assert fingerprint("POST", "/a", b"b", b"c") != fingerprint("POST", "/a", b"", b"bc")
    assert fingerprint("POST", "/a", b"", b"c") != fingerprint("POST", "/", b"a", b"c")


def test_a_path_with_a_lone_surrogate_has_a_fingerprint() -> None:
    assert len(fingerprint("GET", "/\ud800", b"", b"")) == 16


def test_what_is_kept_is_bound_to_tenant_identity_credentials_key_and_request() -> None:
    other = Tenant(TenantId("globex"), Identity("acme-dev", TenantId("globex")))
    colleague = Tenant(TenantId("acme"), Identity("acme-ops", TenantId("acme")))
    bound = {
        binding(ACME, CLAIM, ["cookie:a"]),
        binding(other, CLAIM, ["cookie:a"]),
        binding(colleague, CLAIM, ["cookie:a"]),
        binding(Tenant(TenantId("acme")), CLAIM, ["cookie:a"]),
        binding(ACME, CLAIM, ["cookie:b"]),
        binding(ACME, CLAIM, ["authorization:a"]),
        binding(ACME, CLAIM, []),
        binding(ACME, Claim("k-2", b"f" * 16), ["cookie:a"]),
        binding(ACME, Claim("k-1", b"g" * 16), ["cookie:a"]),
    }
    assert len(bound) == 9
    assert binding(ACME, CLAIM, ["cookie:a"]) in bound


# the refusal of the second


def test_a_key_of_another_request_is_a_conflict() -> None:
    for refuse in (refusal, raced):
        denial = refuse("idempotency", Conflict())
        assert (denial.status, denial.reason, denial.retry_after_ms) == (422, Reason.IDEMPOTENCY_CONFLICT, None)


def test_while_the_first_is_served_the_second_is_told_when_to_ask_again() -> None:
    denial = refusal("idempotency", Repeated(HOLD, HoldState.PENDING, ()))
    assert (denial.status, denial.reason, denial.retry_after_ms) == (409, Reason.IDEMPOTENCY_IN_FLIGHT, 1000)
    assert denial.members == {}


def test_a_hold_that_waits_for_an_operator_is_not_to_be_asked_for_again_soon() -> None:
    denial = refusal("idempotency", Repeated(HOLD, HoldState.REVIEW, ()))
    assert (denial.status, denial.reason, denial.retry_after_ms) == (409, Reason.IDEMPOTENCY_IN_FLIGHT, None)


def test_after_the_first_was_charged_the_second_is_told_the_hold_and_the_charge() -> None:
    units = ("USD", "USD", "requests", "sessions")
    answer = Repeated(HOLD, HoldState.SETTLED, (250_000_000, 250_000_000, 1, 0), units=units)
    denial = refusal("idempotency", answer)
    assert (denial.status, denial.reason, denial.retry_after_ms) == (409, Reason.IDEMPOTENCY_DONE, None)
    charged = ["0.25 USD", "1 requests", "0 sessions"]
    assert denial.members == denial.details == {"hold": HOLD.hex(), "state": "settled", "charged": charged}
    problem = json.loads(render_refusal(denial, Dialect.PROBLEM, "an-id")[2])
    assert (problem["hold"], problem["state"], problem["charged"]) == (HOLD.hex(), "settled", charged)
    assert (problem["code"], problem["instance"]) == ("idempotency.already_done", "urn:uuid:an-id")
    for dialect in (Dialect.OPENAI, Dialect.ANTHROPIC):
        error = json.loads(render_refusal(denial, dialect, "an-id")[2])["error"]
        assert HOLD.hex() in error["message"]
        assert "0.25 USD, 1 requests" in error["message"]
        assert "charged" not in error


def test_of_two_that_raced_the_second_is_told_to_fetch_the_answer_that_is_kept() -> None:
    kept = Repeated(HOLD, HoldState.SETTLED, (1,), b"sealed")
    assert (raced("charge", kept).reason, raced("charge", kept).retry_after_ms) == (
        Reason.IDEMPOTENCY_IN_FLIGHT,
        1000,
    )
    assert raced("charge", Repeated(HOLD, HoldState.SETTLED, (1,))).reason == Reason.IDEMPOTENCY_DONE
    assert refusal("idempotency", kept).reason == Reason.IDEMPOTENCY_DONE


# what is kept


@given(st.integers(0, 2**63), st.integers(200, 299), st.lists(st.tuples(st.binary(), st.binary())), st.binary())
def test_what_was_kept_reads_as_it_was_written(
    at_ns: int, status: int, lines: list[tuple[bytes, bytes]], body: bytes
) -> None:
    kept = Kept(at_ns, status, tuple(lines), body)
    assert decode(encode(kept)) == kept


def test_only_headers_that_say_how_to_read_the_body_are_kept() -> None:
    dropped = [
        b"set-cookie", b"date", b"age", b"connection", b"keep-alive", b"transfer-encoding", b"trailer", b"upgrade",
        b"content-length", b"etag", b"ratelimit", b"ratelimit-policy", b"retry-after", b"www-authenticate", b"x-mine",
    ]  # fmt: skip
    lines = [(b"Content-Type", b"text/plain"), *((name, b"1") for name in dropped), (b"Location", b"/jobs/1")]
    kept = keep(1, 201, lines, b"{}")
    assert kept.headers == ((b"content-type", b"text/plain"), (b"location", b"/jobs/1"))


# the documentation


def test_a_refusal_is_written_as_the_documentation_shows() -> None:
    hold = bytes.fromhex("0197b3c2000070008000000000000001")
    answer = Repeated(hold, HoldState.SETTLED, (250_000_000, 1), units=("USD", "requests"))
    shown = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    written = render_refusal(refusal("idempotency", answer), Dialect.PROBLEM, "01972f0e6c6b7c6e8f3f4f0f5a5b5c5d")
    assert json.loads(shown[1]) == json.loads(written[2])


def test_the_documentation_lists_every_header_that_is_kept() -> None:
    listed = PAGE.read_text().partition("which response it was:")[2].partition(". No cookie")[0]
    assert {name.encode() for name in re.findall(r"`([^`]+)`", listed)} == _KEPT_HEADERS


# taking it down


@given(st.binary(max_size=100), st.data())
def test_however_a_body_is_cut_it_passes_untouched_and_is_kept_whole(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    taken = recording()
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [taken.feed(chunk) for chunk in chunks] == chunks
    assert taken.finish() == b""
    assert taken.answer(SERVED) == ("k-1", b"sealed:" + body)


def test_a_recording_rewrites_nothing() -> None:
    assert Recording.rewrites is False


def test_one_byte_beyond_the_limit_and_nothing_is_kept() -> None:
    taken = recording(limit=10)
    taken.feed(b"0123456789")
    taken.feed(b"")
    assert taken.feed(b"x") == b"x"
    assert taken.feed(b"y") == b"y"
    taken.finish()
    assert taken.answer(SERVED) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Ending.FAILED, status=200, ended=True),
        Outcome(Ending.CUT, status=200, ended=True),
        Outcome(Ending.REFUSED, status=200),
        Outcome(Ending.LEFT, status=200, ended=False),
        Outcome(Ending.COMPLETED, status=302, ended=True),
        Outcome(Ending.COMPLETED, status=206, ended=True),
    ],
)
def test_what_did_not_end_well_is_not_kept(outcome: Outcome) -> None:
    taken = recording()
    taken.feed(b"{}")
    taken.finish()
    assert taken.answer(outcome) is None


def test_what_a_client_that_had_left_did_not_hear_is_kept_where_it_came_to_its_end() -> None:
    taken = recording()
    taken.feed(b"{}")
    taken.finish()
    assert taken.answer(Outcome(Ending.LEFT, status=200, ended=True)) == ("k-1", b"sealed:{}")


def test_a_response_without_a_body_is_kept() -> None:
    """Nothing is fed through the transforms of a 204."""
    assert recording([]).answer(Outcome(Ending.COMPLETED, status=204, ended=True)) == ("k-1", b"sealed:")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_a_stream_that_settles_at_its_own_end_is_kept_if_every_byte_of_it_has_passed(end: bytes) -> None:
    taken = recording(EVENTS)
    taken.feed(b"data: 1" + end)
    taken.feed(b"data: [DONE]" + end)
    assert taken.answer(SERVED) == ("k-1", b"sealed:data: 1" + end + b"data: [DONE]" + end)
    cut_short = recording(EVENTS)
    cut_short.feed(b"data: [DONE]" + end[: len(end) // 2])
    assert cut_short.answer(SERVED) is None


def test_lines_of_json_that_settle_at_their_own_end_are_kept() -> None:
    taken = recording([(b"content-type", b"application/x-ndjson")])
    taken.feed(b'{"done":true}\n')
    assert taken.answer(SERVED) is not None


def test_any_other_body_is_kept_once_it_has_ended() -> None:
    taken = recording()
    taken.feed(b"{}\n\n")
    assert taken.answer(SERVED) is None


def test_what_comes_after_the_settling_point_is_forwarded_and_forgotten() -> None:
    taken = recording(EVENTS)
    taken.feed(b"data: [DONE]\n\n")
    assert taken.answer(SERVED) is not None
    assert taken.feed(b"late") == b"late"
    assert taken.answer(SERVED) is None


def test_no_message_of_a_refusal_has_the_key() -> None:
    for state in HoldState:
        assert not re.search("k-1", refusal("idempotency", Repeated(HOLD, state, ())).message)
