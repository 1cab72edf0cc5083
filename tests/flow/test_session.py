"""The session: every pair of state and event, and how every kind of response ends."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tenantguard.flow.session as module
from tenantguard.errors import LayerError
from tenantguard.flow.http import Cut, Ending, Headers, Outcome, Response
from tenantguard.flow.session import Session, State
from tenantguard.model.decision import Deny
from tenantguard.testing import make_exchange

# --- the table at the top of the module ---

EVENTS: dict[str, Any] = {
    "call": lambda session: session.call(),
    "respond": lambda session: session.respond(Response(200)),
    "refuse": lambda session: session.refuse(Response(403, body=b"")),
    "count": lambda session: session.count(b"x", more=True),
    "feed": lambda session: session.feed(b"x", more=True),
    "settle_bare": lambda session: session.settle_bare(left=False),
    "settle": lambda session: session.settle(session.conclude()),
    "withhold": lambda session: session.withhold("x", None),
    "finish": lambda session: session.finish(),
}
ROUTES: dict[State, tuple[str, ...]] = {
    State.OPEN: (),
    State.CALLED: ("call",),
    State.HEADED: ("call", "respond"),
    State.STREAMING: ("call", "respond", "feed"),
    State.SETTLING: ("call", "respond", "feed", "settle"),
    State.DONE: ("call", "respond", "feed", "settle", "finish"),
}
"""How to come to a state."""


def table() -> dict[tuple[State, str], State]:
    assert module.__doc__ is not None
    lines = re.findall(r"^([A-Z]+) +``(\w+)``: (.*?) +([A-Z]+)$", module.__doc__, re.MULTILINE)
    return {
        (State[state], event): State[following] for state, event, what, following in lines if what != "an empty chunk"
    }


def at(state: State) -> Session:
    session = Session(make_exchange())
    for event in ROUTES[state]:
        EVENTS[event](session)
    assert session.state is state
    return session


def test_the_table_is_complete_to_the_eye() -> None:
    assert len(table()) == 19
    assert {state for state, _ in table()} == set(State)
    assert {event for _, event in table()} == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_state_takes_the_events_of_the_table_and_no_other(state: State, event: str) -> None:
    session = at(state)
    following = table().get((state, event))
    if following is not None:
        EVENTS[event](session)
        assert session.state is following
    else:
        with pytest.raises(LayerError if event == "call" else AssertionError):
            EVENTS[event](session)
        assert session.state is state


def test_an_empty_chunk_leaves_the_head_alone() -> None:
    session = at(State.HEADED)
    session.feed(b"", more=True)
    assert session.state is State.HEADED


# --- settling points and outcomes ---


class Marker:
    rewrites = False

    def __init__(self) -> None:
        self.ended = False
        self.failed = False

    def feed(self, chunk: bytes) -> bytes | Cut:
        self.ended = self.ended or b"$" in chunk
        self.failed = self.failed or b"!" in chunk
        return chunk

    def finish(self) -> bytes | Cut:
        return b""


class Doubling:
    rewrites = True

    def __init__(self) -> None:
        self.finished = 0

    def feed(self, chunk: bytes) -> bytes | Cut:
        return chunk * 2

    def finish(self) -> bytes | Cut:
        self.finished += 1
        return b"."


def headed(
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    method: str = "GET",
    transforms: tuple[Any, ...] = (),
    marker: Any = None,
    resolver: bool = True,
) -> Session:
    exchange = make_exchange(method)
    if resolver:
        exchange.resolve(lambda outcome: None)
    session = Session(exchange)
    session.call()
    response = Response(status, Headers(headers or []))
    response.transforms.extend(transforms)
    response.marker = marker
    session.respond(response)
    return session


@given(
    chunks=st.lists(st.sampled_from([b"", b"a", b"bc", b"$", b"!"]), max_size=6),
    length=st.none() | st.integers(0, 8),
    marked=st.booleans(),
    ends=st.booleans(),
    rewritten=st.booleans(),
)
def test_an_exchange_settles_at_the_first_settling_point_and_completes_only_with_proof(
    chunks: list[bytes], length: int | None, *, marked: bool, ends: bool, rewritten: bool
) -> None:
    marker = Marker() if marked else None
    transforms = (*([marker] if marker is not None else []), *([Doubling()] if rewritten else []))
    headers = [(b"content-length", str(length).encode())] if length is not None else []
    session = headed(headers=headers, transforms=transforms, marker=marker)
    received = b""
    settled_at: int | None = None
    messages = [*((chunk, True) for chunk in chunks), *([(b"", False)] if ends else [])]
    for position, (chunk, more) in enumerate(messages):
        session.feed(chunk, more=more)
        received += chunk
        expected = not more or (length is not None and len(received) >= length) or (marked and b"$" in received)
        if session.due:
            assert expected
            outcome = session.conclude()
            session.settle(outcome)
            settled_at = position
            break
        assert not expected
    if settled_at is None:
        assert session.conclude().reason == (
            "response.error_event" if b"!" in received and marked else "response.unfinished"
        )
        return
    complete = length is None or len(received) == length or (marked and b"$" in received)
    proven = (b"$" in received and b"!" not in received) if marked else True
    assert (outcome.ending is Ending.COMPLETED) == (complete and proven)
    assert outcome.received == len(received)
    session.feed(b"", more=False)
    assert not session.due


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ({}, False),
        ({"headers": [(b"content-length", b"5")]}, True),
        ({"headers": [(b"content-length", b"5")], "resolver": False}, False),
        ({"headers": [(b"content-length", b"5")], "resolver": False, "transforms": (Doubling(),)}, True),
        ({"headers": [(b"content-length", b"five")]}, False),
        ({"method": "HEAD"}, True),
        ({"status": 204}, True),
        ({"status": 304}, True),
        ({"status": 304, "resolver": False}, False),
    ],
)
def test_a_head_is_held_where_a_failure_could_still_become_a_clean_refusal(
    kind: dict[str, Any], *, holds: bool
) -> None:
    assert headed(**kind).holds_head is holds


@pytest.mark.parametrize(
    ("kind", "bare"),
    [
        ({"resolver": False}, True),
        ({}, False),
        ({"resolver": False, "transforms": (Marker(),)}, False),
        ({"resolver": False, "transforms": (Marker(),), "method": "HEAD"}, True),
    ],
)
def test_a_response_is_bare_where_nothing_looks_at_it(kind: dict[str, Any], *, bare: bool) -> None:
    assert headed(**kind).bare is bare


def test_only_rewriting_removes_the_headers_that_describe_the_bytes() -> None:
    lines = [(b"content-length", b"5"), (b"ETag", b"x"), (b"Accept-Ranges", b"bytes"), (b"digest", b"y")]
    kept = [(b"content-type", b"a/b")]
    assert headed(headers=[*lines, *kept], transforms=(Marker(),)).response.headers.raw == [*lines, *kept]  # type: ignore[union-attr]
    assert headed(headers=[*lines, *kept], transforms=(Doubling(),)).response.headers.raw == kept  # type: ignore[union-attr]


def test_a_transform_is_finished_once_and_nothing_passes_it_afterwards() -> None:
    doubling = Doubling()
    session = headed(headers=[(b"content-length", b"2")], transforms=(doubling,))
    assert session.feed(b"ab", more=True) == b"abab."
    assert session.feed(b"", more=False) == b""
    assert session.cut is None
    assert session.feed(b"more", more=False) == b""
    assert session.cut == Cut("response.too_long")
    assert doubling.finished == 1


def test_a_refusal_passes_the_transforms_and_needs_no_application() -> None:
    session = Session(make_exchange())
    response = Response(200, Headers([(b"etag", b"x")]), b"ab")
    response.transforms.append(Doubling())
    assert session.refuse(response)
    assert response.body == b"abab."
    assert response.headers.raw == []
    assert session.conclude().ending is Ending.REFUSED


def test_a_replacement_is_a_cut_for_the_reason_of_the_denial() -> None:
    for denied, reason in ((True, "test.no"), (False, "response.replaced")):
        session = at(State.CALLED)
        if denied:
            session.exchange.deny(Deny("test", "test.no", 451, "No."))
        assert session.refuse(Response(451, body=b"no"))
        outcome = session.conclude()
        assert (outcome.ending, outcome.reason, outcome.called) == (Ending.CUT, reason, True)


def test_an_answer_for_a_failed_application_is_a_failure() -> None:
    fault = ValueError()
    for status in (200, 502):
        session = at(State.CALLED)
        session.refuse(Response(status, body=b""), error=fault)
        outcome = session.conclude(error=fault)
        assert (outcome.ending, outcome.reason, outcome.error) == (Ending.FAILED, "ValueError", fault)


def test_a_client_that_left_is_told_from_a_failure_and_an_end_that_was_seen_is_remembered() -> None:
    session = headed()
    assert session.conclude(left=True, error=ConnectionResetError()).ending is Ending.LEFT
    session.feed(b"all", more=False)
    outcome = session.conclude(left=True)
    assert (outcome.ending, outcome.ended) == (Ending.LEFT, True)
    assert headed(500).conclude(left=True).ending is Ending.FAILED


def test_what_fails_or_ends_early_without_having_heard_that_its_client_left_has_failed() -> None:
    session = headed()
    fault = ValueError()
    outcome = session.conclude(left=True, drained=True, error=fault)
    assert (outcome.ending, outcome.reason) == (Ending.FAILED, "ValueError")
    assert session.conclude(left=True, drained=True).reason == "response.unfinished"
    session.feed(b"all", more=False)
    outcome = session.conclude(left=True, drained=True)
    assert (outcome.ending, outcome.ended) == (Ending.LEFT, True)


def test_what_is_withheld_is_a_cut_whatever_was_settled() -> None:
    session = headed()
    session.feed(b"all", more=False)
    session.settle(session.conclude())
    session.withhold("settle.failed", Response(503))
    outcome = session.final()
    assert (outcome.ending, outcome.reason, outcome.status) == (Ending.CUT, "settle.failed", 503)


def test_the_final_outcome_counts_what_was_sent_since() -> None:
    session = headed()
    session.feed(b"all", more=False)
    outcome = session.conclude()
    session.settle(outcome)
    assert session.final() is outcome
    session.sent = 3
    assert (session.final().sent, session.final().ending) == (3, Ending.COMPLETED)


def test_a_bare_end_costs_no_outcome_unless_somebody_listens() -> None:
    for listens in (False, True):
        session = headed(resolver=False)
        if listens:
            session.exchange.observe(lambda outcome: None)
        assert not session.count(b"ab", more=True)
        assert session.count(b"", more=False)
        session.settle_bare(left=False)
        assert (session.outcome is not None) == listens
        if session.outcome is not None:
            assert (session.outcome.ending, session.outcome.sent) == (Ending.COMPLETED, 2)


@pytest.mark.parametrize(
    ("status", "code", "left", "error", "ending", "reason"),
    [
        (101, 1000, True, None, Ending.COMPLETED, None),
        (101, 1001, False, None, Ending.COMPLETED, None),
        (101, 1006, True, None, Ending.LEFT, "websocket.1006"),
        (101, 1011, False, None, Ending.FAILED, "websocket.1011"),
        (101, None, False, None, Ending.FAILED, "response.unfinished"),
        (101, 1000, False, ValueError(), Ending.FAILED, "ValueError"),
        (403, None, False, None, Ending.FAILED, "response.status"),
        (None, None, True, None, Ending.LEFT, None),
        (None, 1000, False, None, Ending.FAILED, "response.unfinished"),
    ],
)
def test_how_a_socket_ends(
    status: int | None, code: int | None, *, left: bool, error: Exception | None, ending: Ending, reason: str | None
) -> None:
    session = at(State.CALLED)
    if status is not None:
        session.respond(Response(status))
    outcome = session.conclude_socket(code, left=left, error=error)
    assert (outcome.ending, outcome.reason, outcome.error) == (ending, reason, error)
    assert isinstance(outcome, Outcome)
