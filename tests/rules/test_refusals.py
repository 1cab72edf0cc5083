"""How refusals are written: the same fields whatever was refused before, in the shape of the route's protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import Dialect
from tenantguard.rules.refusals import render_error_event, render_refusal

ID = "01972f0e6c6b7c6e8f3f4f0f5a5b5c5d"


def told(denial: Deny, dialect: Dialect, request_id: str = ID) -> Any:
    status, headers, body = render_refusal(denial, dialect, request_id)
    assert status == denial.status
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    return json.loads(body)


@given(
    message=st.text(),
    reason=st.sampled_from([*Reason, "gate.closed"]),
    status=st.sampled_from([400, 401, 402, 403, 413, 418, 429, 503]),
    request_id=st.text(min_size=1),
)
def test_whatever_it_says_a_refusal_is_sound_json_that_names_its_own_request(
    message: str, reason: str, status: int, request_id: str
) -> None:
    denial = Deny("gate", reason, status, message)
    problem = told(denial, Dialect.PROBLEM, request_id)
    assert (problem["status"], problem["detail"], problem["code"]) == (status, message, str(reason))
    assert problem["instance"] == f"urn:uuid:{request_id}"
    anthropic = told(denial, Dialect.ANTHROPIC, request_id)
    assert (anthropic["type"], anthropic["request_id"]) == ("error", request_id)
    assert (anthropic["error"]["message"], anthropic["error"]["code"]) == (message, str(reason))
    openai = told(denial, Dialect.OPENAI, request_id)
    assert (openai["error"]["message"], openai["error"]["code"]) == (message, str(reason))


@pytest.mark.parametrize("dialect", list(Dialect))
def test_two_refusals_that_are_alike_differ_in_nothing_but_the_id(dialect: Dialect) -> None:
    denial = Deny("gate", Reason.BUDGET_EXHAUSTED, 402, "The budget does not cover this request.")
    first = render_refusal(denial, dialect, "a" * 32)
    second = render_refusal(denial, dialect, "b" * 32)
    assert first[2].replace(b"a" * 32, b"b" * 32) == second[2]
    first[1].append((b"x-changed", b"1"))
    assert render_refusal(denial, dialect, "b" * 32) == second


def test_an_error_event_has_the_body_of_the_refusal() -> None:
    denial = Deny("guard", Reason.RESPONSE_UNREADABLE, 502, "It was cut.")
    for dialect, begin in ((Dialect.OPENAI, b"data: "), (Dialect.ANTHROPIC, b"event: error\ndata: ")):
        assert render_error_event(denial, dialect, ID) == begin + render_refusal(denial, dialect, ID)[2] + b"\n\n"


@pytest.mark.parametrize(
    ("reason", "status", "openai", "anthropic", "problem"),
    [
        (Reason.RATE_EXCEEDED, 429, "rate_limit_error", "rate_limit_error", "quota-exceeded"),
        (Reason.BUDGET_EXHAUSTED, 402, "insufficient_quota", "billing_error", "about:blank"),
        (Reason.STORE_UNAVAILABLE, 503, "server_error", "overloaded_error", "temporary-reduced-capacity"),
        (Reason.RATE_IMPOSSIBLE, 422, "invalid_request_error", "invalid_request_error", "about:blank"),
    ],
)
def test_too_fast_spent_undecided_and_too_large_are_told_apart(
    reason: Reason, status: int, openai: str, anthropic: str, problem: str
) -> None:
    denial = Deny("gate", reason, status, "No.")
    assert told(denial, Dialect.OPENAI)["error"]["type"] == openai
    assert told(denial, Dialect.ANTHROPIC)["error"]["type"] == anthropic
    assert told(denial, Dialect.PROBLEM)["type"].endswith(problem)


@given(wait_ms=st.integers(0, 10**9))
def test_a_wait_is_told_in_both_units_and_never_too_short(wait_ms: int) -> None:
    """E+3."""
    _, headers, _ = render_refusal(Deny("gate", "gate.closed", 429, "No.", wait_ms), Dialect.PROBLEM, ID)
    told_s, told_ms = (int(dict(headers)[name]) for name in (b"retry-after", b"retry-after-ms"))
    assert told_ms == max(wait_ms, 1)
    assert told_ms <= told_s * 1000 < told_ms + 1000
    assert b"x-should-retry" not in dict(headers)
