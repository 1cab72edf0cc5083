"""Rates that count in the windows of `limits`: all or none with buckets and with one another, waits that are true."""

from __future__ import annotations

import dataclasses
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import ENDED, MemoryLimits
from tenantguard.adapters.limits.windows import WindowLimits
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.ports import (
    ReturnTokens,
    SettleTokens,
    Shortage,
    System,
    Take,
    Taken,
    TakeTokens,
    TakeWithWindows,
)
from tenantguard.guard import Guard
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.model.policy import Policy
from tenantguard.model.rate import Rate
from tenantguard.model.sections import RateRule, RateSection, Scope, Strategy
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.testing import ManualClock, SequentialIds, memory_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Ports

SECOND = 10**9
MINUTE = 60 * SECOND
WINDOWS = (Strategy.FIXED_WINDOW, Strategy.MOVING_WINDOW, Strategy.SLIDING_WINDOW)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.buckets = MemoryLimits(self.clock)
        self.store = WindowLimits(self.buckets, self.clock)
        self.ids = 0

    def ports(self) -> Ports:
        ports = memory_ports(System(self.clock, SequentialIds()))
        return dataclasses.replace(ports, limits=self.store)

    def take(self, *takes: Take, final: bool = True) -> Taken | Shortage:
        self.ids += 1
        return self.store.execute_with_windows(TakeWithWindows(None if final else bytes([self.ids]), takes))


@contextmanager
def opened() -> Iterator[World]:
    """`limits` reads the clock itself, so it gets another."""
    world = World()
    time = SimpleNamespace(time=lambda: world.clock.wall_ns() / 1e9)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("limits.storage.memory.time", time)
        patched.setattr("limits.strategies.time", time)
        yield world
    world.store.close()


@pytest.fixture
def world() -> Iterator[World]:
    with opened() as world:
        yield world


def window(
    strategy: Strategy, amount: int = 10, cost: int = 1, *, key: str = "acme|window", shadow: bool = False
) -> Take:
    return Take(key, Rate(amount, MINUTE), cost, shadow, strategy)


def bucket(amount: int, cost: int = 1, *, key: str = "acme|bucket", shadow: bool = False) -> Take:
    return Take(key, Rate(amount, MINUTE), cost, shadow)


def remaining(world: World, *takes: Take) -> list[int]:
    answer = world.take(*[Take(take.bucket, take.rate, 0, strategy=take.strategy) for take in takes])
    return [level[0] for level in answer.levels]


@pytest.mark.parametrize("strategy", WINDOWS)
def test_a_window_admits_its_amount_and_then_waits(world: World, strategy: Strategy) -> None:
    take = window(strategy)
    assert sum(isinstance(world.take(take), Taken) for _ in range(15)) == 10
    refused = world.take(take)
    assert isinstance(refused, Shortage)
    assert refused.failing == (0,)
    assert refused.retry_after_ns is not None
    assert refused.levels[0][0] == 0
    world.clock.advance(refused.retry_after_ns / 1e9)
    assert isinstance(world.take(take), Taken)


@pytest.mark.parametrize("strategy", WINDOWS)
def test_what_is_refused_is_not_counted(world: World, strategy: Strategy) -> None:
    """rate-limits D0: an oversize hit of `limits`' fixed window locks the tenant out."""
    refused = world.take(window(strategy, cost=1000))
    assert refused == Shortage((0,), None, ((10, 0),))
    assert isinstance(world.take(window(strategy, cost=10)), Taken)


@pytest.mark.parametrize("strategy", WINDOWS)
def test_several_limits_are_taken_all_or_none(world: World, strategy: Strategy) -> None:
    """rate-limits D0: 50 tries of `limits` against two limits admit 5, and charge the outer one 50."""
    outer, inner = window(strategy, 100, key="outer"), window(strategy, 5, key="inner")
    tokens = bucket(20)
    answers = [world.take(outer, tokens, inner) for _ in range(50)]
    assert sum(isinstance(answer, Taken) for answer in answers) == 5
    assert remaining(world, outer, tokens, inner) == [95, 15, 0]
    refused = world.take(outer, bucket(20, 16), inner)
    assert isinstance(refused, Shortage)
    assert refused.failing == (1, 2)
    assert remaining(world, outer, tokens, inner) == [95, 15, 0]


@pytest.mark.parametrize("strategy", WINDOWS)
def test_two_takes_of_one_window_must_fit_together(world: World, strategy: Strategy) -> None:
    both = window(strategy, cost=6), window(strategy, cost=5)
    refused = world.take(*both)
    assert isinstance(refused, Shortage)
    assert refused.failing == (1,)
    assert remaining(world, both[0]) == [10]
    assert isinstance(world.take(both[0], window(strategy, cost=4)), Taken)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_waits_are_true_and_a_moving_window_holds_in_any_period(data: st.DataObject) -> None:
    """E+3."""
    with opened() as world:
        _check_waits(world, data)


def _check_waits(world: World, data: st.DataObject) -> None:
    strategy = data.draw(st.sampled_from(WINDOWS))
    amount = data.draw(st.integers(1, 12))
    admitted: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(1, 20))):
        world.clock.advance(data.draw(st.floats(0, 40)))
        take = window(strategy, amount, data.draw(st.integers(1, amount)))
        answer = world.take(take)
        if isinstance(answer, Shortage) and data.draw(st.booleans()):
            assert answer.retry_after_ns is not None
            world.clock.advance(answer.retry_after_ns / 1e9 + 1e-9)
            answer = world.take(take)
            assert isinstance(answer, Taken)
        if isinstance(answer, Taken):
            admitted.append((world.clock.monotonic_ns(), take.cost))
        if strategy is Strategy.MOVING_WINDOW:
            now = world.clock.monotonic_ns()
            assert sum(cost for at, cost in admitted if at > now - MINUTE) <= amount


def test_what_is_returned_comes_back_to_buckets_and_stays_counted_in_windows(world: World) -> None:
    both = window(Strategy.FIXED_WINDOW), bucket(10)
    first = world.take(*both, final=False)
    assert isinstance(first, Taken)
    again = world.store.execute_with_windows(TakeWithWindows(bytes([1]), both))
    assert again == first
    world.store.execute(ReturnTokens(bytes([1])))
    world.store.execute(ReturnTokens(bytes([1])))
    assert remaining(world, *both) == [9, 10]
    assert world.store.execute_with_windows(TakeWithWindows(b"ended", both[1:])) != ENDED
    world.store.execute(ReturnTokens(b"never taken"))
    assert world.store.execute_with_windows(TakeWithWindows(b"never taken", both)) == ENDED


def test_settling_is_for_the_buckets_alone(world: World) -> None:
    takes = window(Strategy.FIXED_WINDOW, cost=3), bucket(10, 4), window(Strategy.MOVING_WINDOW, key="other")
    assert isinstance(world.take(*takes, final=False), Taken)
    with pytest.raises(LayerError, match="one number for each take"):
        world.store.execute(SettleTokens(bytes([1]), (1,)))
    assert isinstance(world.take(*takes, final=False), Taken)
    world.store.execute(SettleTokens(bytes([2]), (None, 1, None)))
    assert remaining(world, *takes) == [4, 5, 8]
    assert "0 open ids" in repr(world.buckets) or "1 open ids" in repr(world.buckets)


def test_a_shadow_refuses_nothing_and_counts_only_what_fits(world: World) -> None:
    shadow = window(Strategy.FIXED_WINDOW, 1, shadow=True)
    assert world.take(shadow, bucket(10)) == Taken(((0, 60_001_000_000), (9, 6 * SECOND)))
    shadowed = world.take(shadow, bucket(10))
    assert isinstance(shadowed, Taken)
    assert shadowed.shadowed == (0,)
    refused = world.take(bucket(10, cost=9), shadow, bucket(5, 9, key="c", shadow=True))
    assert isinstance(refused, Shortage)
    assert (refused.failing, refused.shadowed) == ((0,), (1, 2))


def test_commands_without_windows_go_to_the_buckets_as_they_are(world: World) -> None:
    assert isinstance(world.store.execute(TakeTokens(b"id", (bucket(10, 4),))), Taken)
    world.store.execute(SettleTokens(b"id", (2,)))
    assert remaining(world, bucket(10)) == [8]


def test_threads_never_admit_more_than_a_window() -> None:
    """rate-limits D0: threads over-admit in `limits`."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    store = WindowLimits(MemoryLimits(SystemClock()), SystemClock())
    try:
        for trial in range(40):
            admitted: list[bool] = []
            start = threading.Barrier(8)
            command = TakeWithWindows(
                None, (Take(f"key-{trial}", Rate(5, 86_400 * SECOND), strategy=WINDOWS[trial % 3]), bucket(1000))
            )

            def work(
                start: threading.Barrier = start,
                admitted: list[bool] = admitted,
                command: TakeWithWindows = command,
            ) -> None:
                start.wait()
                admitted.extend(isinstance(store.execute_with_windows(command), Taken) for _ in range(5))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(admitted) == 5
    finally:
        sys.setswitchinterval(before)
        store.close()


# in a policy

ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))


class Known:
    """A layer that knows the tenant and its policy."""

    name = "known"
    provides = (Tenant, Policy)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        exchange.put(ACME)
        exchange.put(self._policy)
        return (yield from proceed(exchange))


@pytest.mark.parametrize("strategy", WINDOWS)
def test_a_policy_counts_in_the_window_that_it_names(world: World, strategy: Strategy) -> None:
    policy = Policy.of(
        "acme", [RateSection((RateRule(Rate(2, MINUTE), strategy=strategy), RateRule(Rate(9, SECOND), Scope.ROUTE)))]
    )
    app = Guard([Known(policy), RateLimit()], ports=world.ports()).wsgi(served)
    answers = [call(app) for _ in range(3)]
    assert [status for status, _ in answers] == ["200 OK", "200 OK", "429 Too Many Requests"]
    assert answers[0][1]["RateLimit-Policy".lower()] == '"tenant-60s";q=2;w=60, "route-1s";q=9;w=1'
    assert answers[1][1]["ratelimit"].startswith('"tenant-60s";r=0;t=')
    world.clock.advance(int(answers[2][1]["retry-after"]))
    assert call(app)[0] == "200 OK"


def test_a_store_without_windows_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy.of("acme", [RateSection((RateRule(Rate(2, MINUTE), strategy=Strategy.FIXED_WINDOW),))])
    app = Guard([Known(policy), RateLimit()], ports=memory_ports()).wsgi(served)
    with pytest.raises(ConfigurationError, match=r"WindowLimits\(MemoryLimits\(clock\)"):
        call(app)


def served(environ: dict[str, object], start_response: object) -> list[bytes]:
    start_response("200 OK", [])  # type: ignore[operator]
    return [b"hello"]


def call(app: object) -> tuple[str, dict[str, str]]:
    from wsgiref.util import setup_testing_defaults

    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    found: list[tuple[str, dict[str, str]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        found.append((status, {name.lower(): value for name, value in headers}))

    body = app(environ, start)  # type: ignore[operator]
    b"".join(body)
    if hasattr(body, "close"):
        body.close()
    return found[0]
