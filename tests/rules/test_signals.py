"""How limits are told: the fields of each dialect, and that none of them promises too much."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.rate import Rate
from tenantguard.model.route import Dialect
from tenantguard.model.sections import RateRule, RateSection, Scope, Signals
from tenantguard.rules.limits import LimitPlan
from tenantguard.rules.signals import signal_of, slowest_first, tightest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.rules.limits import Limit

SECOND = 10**9
MINUTE = 60 * SECOND
NOW_NS = 1_798_761_600_000_000_000
"""2027-01-01T00:00:00Z."""
REQUESTS = RateRule(Rate(10, SECOND, 20), name="requests")
TOKENS = RateRule(Rate(1000, MINUTE), unit="tokens", name="tokens")
SHADOW = RateRule(Rate(1, MINUTE), Scope.IDENTITY, shadow=True)
LEVELS = ((3, 1_700_000_001), (400, 36 * SECOND), (0, MINUTE))


def limits_of(*rules: RateRule) -> tuple[Limit, ...]:
    return LimitPlan(RateSection(rules)).limits


def told(
    signals: Signals,
    *rules: RateRule,
    levels: Sequence[tuple[int, int]] = LEVELS,
    dialect: Dialect = Dialect.PROBLEM,
    refused: bool = False,
) -> dict[str, str]:
    limits, costs = limits_of(*rules), [1 if rule.unit == "requests" else 100 for rule in rules]
    signal = signal_of(signals, dialect, limits, costs)
    if signal is None:
        return {}
    tightest = tightest_of(slowest_first(limits, costs), levels)
    lines = signal.refused(tightest, levels, 7, NOW_NS) if refused else signal.told(tightest, levels, NOW_NS)
    assert set(signal.replaced) <= {name.decode() for name, _ in lines}
    return {name.decode(): value.decode() for name, value in lines}


def test_the_draft_has_every_policy_and_the_tightest_of_them() -> None:
    assert told(Signals.IETF, REQUESTS, TOKENS, SHADOW) == {
        "ratelimit-policy": '"requests";q=10;w=1;tenantguard-burst=20, '
        '"tokens";q=1000;w=60;tenantguard-unit="tokens"',
        "ratelimit": '"requests";r=3;t=1',
    }


def test_after_a_refusal_the_window_of_the_draft_is_the_wait() -> None:
    assert told(Signals.IETF, REQUESTS, refused=True)["ratelimit"] == '"requests";r=3;t=7'


def test_legacy_fields_are_about_requests_and_reset_at_an_instant() -> None:
    assert told(Signals.LEGACY, TOKENS, REQUESTS, levels=LEVELS[1::-1]) == {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "3",
        "x-ratelimit-reset": "1798761602",
    }


def test_legacy_fields_are_about_something_else_where_nothing_counts_requests() -> None:
    assert told(Signals.LEGACY, TOKENS, levels=LEVELS[1:])["x-ratelimit-remaining"] == "400"


@pytest.mark.parametrize("refused", [False, True])
def test_openai_has_three_fields_a_unit_and_resets_after_a_time(*, refused: bool) -> None:
    assert told(Signals.OPENAI, REQUESTS, TOKENS, SHADOW, refused=refused) == {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "1.701s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "36s",
    }


@pytest.mark.parametrize("refused", [False, True])
def test_anthropic_has_three_fields_a_unit_and_resets_at_an_instant(*, refused: bool) -> None:
    assert told(Signals.ANTHROPIC, REQUESTS, TOKENS, refused=refused) == {
        "anthropic-ratelimit-requests-limit": "20",
        "anthropic-ratelimit-requests-remaining": "3",
        "anthropic-ratelimit-requests-reset": "2027-01-01T00:00:02Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "400",
        "anthropic-ratelimit-tokens-reset": "2027-01-01T00:00:36Z",
    }


@pytest.mark.parametrize("signals", [Signals.OPENAI, Signals.ANTHROPIC])
def test_what_a_provider_does_not_count_is_not_told_and_the_tightest_of_a_unit_is(signals: Signals) -> None:
    slow = RateRule(Rate(100, MINUTE), Scope.ROUTE)
    fields = told(
        signals, REQUESTS, slow, RateRule(Rate(5, SECOND), unit="pictures"), levels=((9, 1), (2, 1), (0, 1))
    )
    assert len(fields) == 3
    assert {"100", "2"} <= set(fields.values())


@pytest.mark.parametrize(
    ("dialect", "signals"),
    [
        (Dialect.PROBLEM, Signals.IETF),
        (Dialect.OPENAI, Signals.OPENAI),
        (Dialect.ANTHROPIC, Signals.ANTHROPIC),
    ],
)
def test_by_default_a_route_tells_of_limits_in_its_own_dialect(dialect: Dialect, signals: Signals) -> None:
    assert told(Signals.AUTO, REQUESTS, dialect=dialect) == told(signals, REQUESTS)


@pytest.mark.parametrize("signals", list(Signals))
def test_shadows_are_never_told_and_none_tells_nothing(signals: Signals) -> None:
    assert told(signals, SHADOW) == told(Signals.NONE, REQUESTS) == {}


def _seconds(duration: str) -> float:
    if duration.endswith("ms"):
        return int(duration[:-2]) / 1000
    found = re.fullmatch(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?P<s>\d+(?:\.\d*[1-9])?)s", duration)
    assert found is not None, duration
    return int(found["h"] or 0) * 3600 + int(found["m"] or 0) * 60 + float(found["s"])


@given(full_in_ns=st.integers(0, 10**30))
def test_a_reset_is_never_told_too_early_and_by_less_than_a_second_too_late(full_in_ns: int) -> None:
    """E+3."""
    levels = [(1, full_in_ns)]
    after = _seconds(told(Signals.OPENAI, REQUESTS, levels=levels)["x-ratelimit-reset-requests"])
    assert after == pytest.approx(-(-full_in_ns // 1_000_000) / 1000, rel=1e-12)
    epoch = int(told(Signals.LEGACY, REQUESTS, levels=levels)["x-ratelimit-reset"])
    assert full_in_ns <= epoch * SECOND - NOW_NS < full_in_ns + SECOND
    instant = told(Signals.ANTHROPIC, REQUESTS, levels=levels)["anthropic-ratelimit-requests-reset"]
    read = datetime.strptime(instant, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert read == last or read == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch)


@pytest.mark.parametrize(
    ("full_in_ns", "written"),
    [
        (0, "0s"),
        (1, "1ms"),
        (17_000_000, "17ms"),
        (999_000_001, "1s"),
        (1_500_000_000, "1.5s"),
        (59_990_000_000, "59.99s"),
        (360 * SECOND, "6m0s"),
        (3_600 * SECOND, "1h0m0s"),
        (90_061 * SECOND, "25h1m1s"),
    ],
)
def test_times_are_written_as_go_writes_them(full_in_ns: int, written: str) -> None:
    fields = told(Signals.OPENAI, REQUESTS, levels=[(1, full_in_ns)])
    assert fields["x-ratelimit-reset-requests"] == written


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(0, 1000)), min_size=1, max_size=6),
)
def test_the_tightest_allows_the_fewest_requests_and_refills_slowest(drawn: list[tuple[int, int, int]]) -> None:
    limits = limits_of(*[RateRule(Rate(amount, MINUTE), name=f"r{at}") for at, (amount, _, _) in enumerate(drawn)])
    costs = [cost for _, cost, _ in drawn]
    levels = [(left, 1) for _, _, left in drawn]
    tightest = tightest_of(slowest_first(limits, costs), levels)
    ranks = [(left // cost, -cost * limits[at].rate.unit_ticks) for at, (_, cost, left) in enumerate(drawn)]
    assert ranks[tightest] == min(ranks)
