"""Refusals that need no ledger: only what stays true for a moment is remembered, and only for that moment."""

from __future__ import annotations

from dataclasses import replace

from tenantguard.model.decision import Deny, Reason
from tenantguard.model.ledger import Exhausted, Leg, Terms
from tenantguard.model.period import Period
from tenantguard.rules.spent import KEPT_NS, LINES_MAX, Spent

LEG = Leg(("tenant", "acme", "day"), Period.DAY, "USD", 100, 10, 10)
FULL = Exhausted(0, needed=10, available=5, spent=95, held=0, window_ends_ns=1000)

DENIAL = Deny("charge", Reason.BUDGET_EXHAUSTED, 402, "The budget does not cover this request.")


def remembered(answer: Exhausted = FULL) -> Spent:
    spent = Spent()
    spent.remember(LEG, answer, 0)
    return spent


def test_what_is_spent_is_refused_again_for_a_moment() -> None:
    spent = remembered()
    assert spent.find([LEG], KEPT_NS - 1, 0) == (0, FULL)
    assert spent.find([LEG], KEPT_NS, 0) is None
    assert not spent


def test_what_a_hold_that_ends_could_make_room_for_is_asked_again() -> None:
    assert remembered(replace(FULL, available=0, spent=95, held=10)).find([LEG], 0, 0) is None


def test_a_smaller_request_is_asked() -> None:
    assert remembered().find([replace(LEG, least=5)], 0, 0) is None


def test_another_limit_or_other_terms_are_asked() -> None:
    assert remembered().find([replace(LEG, limit=200)], 0, 0) is None
    assert remembered().find([replace(LEG, terms=Terms(strict=False))], 0, 0) is None


def test_the_next_window_is_asked() -> None:
    assert remembered().find([LEG], 0, 999) is not None
    assert remembered().find([LEG], 0, 1000) is None


def test_another_leg_of_the_request_is_named_by_its_place() -> None:
    other = replace(LEG, budget=("global", "day"))
    assert remembered().find([other, LEG], 0, 0) == (1, FULL)
    assert remembered().find([other, replace(LEG, unit="jobs")], 0, 0) is None


def test_it_does_not_grow_without_bound() -> None:
    spent = Spent()
    for number in range(LINES_MAX + 1):
        spent.remember(replace(LEG, budget=("tenant", str(number))), FULL, 0)
    assert spent.find([replace(LEG, budget=("tenant", "0"))], 0, 0) is None
    assert spent.find([replace(LEG, budget=("tenant", str(LINES_MAX)))], 0, 0) is not None


def test_a_request_that_is_repeated_is_refused_as_before_for_the_same_moment() -> None:
    spent = remembered()
    spent.keep("request", LEG, DENIAL)
    assert spent.again("request", KEPT_NS - 1, 999) is DENIAL
    assert spent.again("another", KEPT_NS - 1, 999) is None
    assert spent.again("request", KEPT_NS, 999) is None


def test_a_request_that_is_repeated_in_the_next_window_is_asked() -> None:
    spent = remembered()
    spent.keep("request", LEG, DENIAL)
    assert spent.again("request", 0, 1000) is None


def test_a_repetition_does_not_make_the_moment_longer() -> None:
    """The ledger was asked once, and its answer is as old as that."""
    spent = remembered()
    spent.keep("request", LEG, DENIAL)
    spent.keep("request", LEG, DENIAL)
    assert spent.again("request", KEPT_NS, 0) is None


def test_a_request_is_kept_only_for_what_is_remembered_as_spent() -> None:
    spent = remembered()
    spent.keep("request", replace(LEG, unit="jobs"), DENIAL)
    assert spent.again("request", 0, 0) is None


def test_kept_requests_do_not_grow_without_bound() -> None:
    spent = remembered()
    for number in range(LINES_MAX + 1):
        spent.keep(number, LEG, DENIAL)
    assert spent.again(0, 0, 0) is None
    assert spent.again(LINES_MAX, 0, 0) is DENIAL
