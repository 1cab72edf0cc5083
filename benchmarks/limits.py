"""What a decision in memory costs, beside a bare bucket, `limits` and throttled-py.

    python -m benchmarks.limits

The yardstick is a bucket without anything that a store needs: no lock, no bound, no ids, one dictionary. It computes
the same four numbers from the same command: whether it fits, the units left, the wait, and the time to full.
``acquire`` is the store's function for one final take, in the same numbers; ``take_in_place`` takes finally from one
or four buckets, all or none; ``execute`` answers commands, also with an id that is settled afterwards. A hit of
``limits`` answers yes or no for one window, so four scopes are four hits; throttled-py (where it is installed)
answers in full. CPU time of the process, rounds interleaved, medians.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import limits
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from benchmarks.overhead import requests_of
from benchmarks.rounds import Target, interleave, interleave_async, print_table, print_targets, progress
from benchmarks.subjects import FIGURES, asgi_app
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.system import SystemClock, real_system
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.guard import Guard
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.limits import MemoryStorage as BucketStorage
from tenantguard.limits import TokenBucketRateLimiter
from tenantguard.model.policy import Policy
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.model.route import Route
from tenantguard.model.sections import RateRule, RateSection, Scope, Signals
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.bucket import bucket_key
from tenantguard.testing import memory_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler, Layer

ROUNDS: Final = 31
DISTINCT: Final = 1_000_000
KEYS: Final = (
    bucket_key("", "global", "global-1s"),
    bucket_key("acme", "tenant", "tenant-1s"),
    bucket_key("acme", "route", "route-1s", "POST /v1/chat"),
    bucket_key("acme", "identity", "identity-1s", "acme-dev"),
)
OPEN: Final = Rate(10**9, 10**9)
DRAINED: Final = Rate(1, 86_400 * 10**9)
ID: Final = bytes(16)
ACME: Final = TenantId("acme")

YARDSTICK: Final = "bare bucket, the same four numbers"
ACQUIRE: Final = "acquire, 1 bucket"
FOUR: Final = "execute, 4 buckets, all or none"
FIXED: Final = "limits, fixed window, 1 hit"
PLUGIN: Final = "limits, our token bucket, 1 hit"
GCRA: Final = "throttled-py, GCRA"


class Bare:
    """The yardstick: exact, in integers, and nothing else."""

    def __init__(self) -> None:
        self.tats: dict[str, int] = {}

    def take(self, take: Take) -> tuple[bool, int, int, int]:
        key, rate = take.bucket, take.rate
        now = time.monotonic_ns() * TICKS_PER_NANO
        need = take.cost * rate.unit_ticks
        tat = self.tats.get(key, now)
        tat = tat if tat > now else now  # noqa: FURB136 - max() takes three times as long
        missing = tat + need - now
        left = rate.burst_ticks - missing
        if left < 0:
            held = tat - now
            return False, (left + need) // rate.unit_ticks, -(left // TICKS_PER_NANO), -(-held // TICKS_PER_NANO)
        self.tats[key] = now + missing
        return True, left // rate.unit_ticks, 0, -(-missing // TICKS_PER_NANO)


def repeat(call: Callable[..., Any], *commands: Any) -> Callable[[int], None]:
    """So many times each command in turn."""

    def run(times: int) -> None:
        for _ in range(times):
            for command in commands:
                call(command)

    return run


def hits(limiter: Any, keys: tuple[str, ...]) -> Callable[[int], None]:
    item = limits.parse("1000000000/minute")

    def run(times: int) -> None:
        hit = limiter.hit
        for _ in range(times):
            for key in keys:
                hit(item, key)

    return run


def throttled_cases() -> dict[str, Callable[[int], None]]:
    if find_spec("throttled") is None:
        progress("throttled-py is not installed")
        return {}
    from throttled import RateLimiterType, Throttled, rate_limiter, store  # noqa: PLC0415

    limiter = Throttled(
        using=RateLimiterType.GCRA.value,
        quota=rate_limiter.per_sec(10**9, burst=10**9),
        store=store.MemoryStore(),
        timeout=-1,
    )
    return {GCRA: repeat(partial(limiter.limit, cost=1), KEYS[1])}


def decisions(targets: list[Target]) -> None:
    """One and four buckets, granted and refused."""
    store, bare = MemoryLimits(SystemClock()), Bare()
    locked = MemoryLimits(SystemClock(), locks=64)
    takes = tuple(Take(key, OPEN) for key in KEYS)
    drained = Take("acme|tenant|drained", DRAINED)
    for each in (store, locked):
        assert isinstance(each.execute(TakeTokens(None, takes)), Taken)
    store.execute(TakeTokens(None, (drained,)))
    refused = TakeTokens(None, (drained,))
    assert isinstance(store.execute(refused), Shortage)
    one, four = TakeTokens(ID, takes[1:2]), TakeTokens(ID, takes)
    samples = interleave(
        {
            YARDSTICK: repeat(bare.take, takes[1]),
            ACQUIRE: repeat(store.acquire, takes[1]),
            "execute, 1 bucket": repeat(store.execute, TakeTokens(None, takes[1:2])),
            "execute, 1 bucket, refused": repeat(store.execute, refused),
            "execute, 1 bucket, with an id and settled": repeat(store.execute, one, SettleTokens(ID)),
            "execute, 1 bucket, with an id and returned": repeat(store.execute, one, ReturnTokens(ID)),
            FOUR: repeat(store.execute, TakeTokens(None, takes)),
            "in place, 1 bucket": repeat(store.take_in_place, takes[1:2]),
            "in place, 4 buckets": repeat(store.take_in_place, takes),
            "execute, 4 buckets, with an id and settled": repeat(store.execute, four, SettleTokens(ID)),
            "acquire, 64 locks": repeat(locked.acquire, takes[1]),
            "execute, 4 buckets, 64 locks": repeat(locked.execute, TakeTokens(None, takes)),
            FIXED: hits(FixedWindowRateLimiter(MemoryStorage()), KEYS[1:2]),
            PLUGIN: hits(TokenBucketRateLimiter(BucketStorage()), KEYS[1:2]),
            "limits, moving window, 1 hit": hits(MovingWindowRateLimiter(MemoryStorage()), KEYS[1:2]),
            "limits, sliding window, 1 hit": hits(SlidingWindowCounterRateLimiter(MemoryStorage()), KEYS[1:2]),
            "limits, fixed window, 4 hits": hits(FixedWindowRateLimiter(MemoryStorage()), KEYS),
            **throttled_cases(),
        },
        ROUNDS,
    )
    print_table(
        "A decision in memory: CPU",
        ("", "us", "to the bare bucket", "to a hit of limits"),
        [
            [
                name,
                f"{samples.median(name):.2f}",
                f"{samples.ratio(name, YARDSTICK):.2f}",
                f"{samples.ratio(name, FIXED):.2f}",
            ]
            for name in samples.rounds
        ],
    )
    ratio = samples.ratio(ACQUIRE, YARDSTICK)
    targets.append(Target("one scope, to the bare bucket", "<= 1.5x", f"{ratio:.2f}x", ratio <= 1.5))
    theirs = [name for name in samples.rounds if "1 hit" in name and name != PLUGIN]
    fastest = min(theirs, key=samples.median)
    ratio = samples.ratio(fastest, ACQUIRE)
    targets.append(
        Target(f"  faster than the fastest of limits ({fastest})", ">= 4.5x", f"{ratio:.1f}x", ratio >= 4.5)
    )
    us, ratio = samples.median(PLUGIN), samples.ratio(fastest, PLUGIN)
    targets.append(Target("a hit through limits", "<= 1.6 us", f"{us:.2f} us", us <= 1.6))
    targets.append(Target("  faster than the fastest of limits", ">= 1.8x", f"{ratio:.1f}x", ratio >= 1.8))
    if GCRA in samples.rounds:
        ratio = samples.ratio(GCRA, ACQUIRE)
        targets.append(Target("  faster than throttled-py's GCRA", ">= 6x", f"{ratio:.1f}x", ratio >= 6))
    us, ratio = samples.median(FOUR), samples.ratio(FOUR, FIXED)
    targets.append(Target("four scopes, all or none", "<= 2 us", f"{us:.2f} us", us <= 2))
    targets.append(Target("  to one hit of a fixed window of limits", "< 1x", f"{ratio:.2f}x", ratio < 1))


class Empty:
    """A layer that does nothing."""

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        return (yield from proceed(exchange))


class Facts:
    """Stands where the layer of tenants would."""

    provides = (Tenant, Policy)

    def __init__(self, policy: Policy) -> None:
        self._facts = (Tenant(ACME, Identity("acme-dev", ACME)), policy)

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        for fact in self._facts:
            exchange.put(fact)
        return (yield from proceed(exchange))


def table_of(routes: int) -> list[Route]:
    """So many routes, every other one a pattern, and at their end the one of the requests."""
    others = [Route(f"GET /r{number}" + "/*" * (number % 2 == 0)) for number in range(routes - 1)]
    return [*others, Route("GET /jobs")]


def requests(targets: list[Target]) -> None:
    """What rates add to a request, in process, to a guard with as many layers that do nothing."""
    progress("requests")
    rate = Rate(10**6, 10**9)
    scopes = (Scope.GLOBAL, Scope.TENANT, Scope.ROUTE, Scope.IDENTITY)
    policy = Policy.of("acme", [RateSection(tuple(RateRule(rate, scope) for scope in scopes))])
    app = asgi_app(FIGURES)

    def guarded(*layers: Layer, routes: int = 2) -> Callable[[int], Any]:
        ports = memory_ports(real_system())
        ports.audits = ()
        return requests_of(Guard(layers, routes=table_of(routes), ports=ports).asgi(app))

    one, four = "one rate", "four rates, headers"
    cases = {
        "an empty layer": guarded(Empty()),
        "one rate, no headers": guarded(RateLimit(rate, signals=Signals.NONE)),
        one: guarded(RateLimit(rate)),
        "one rate, 400 routes": guarded(RateLimit(rate), routes=400),
        "tenant, an empty layer": guarded(Facts(policy), Empty()),
        four: guarded(Facts(policy), RateLimit()),
        "four rates, another layer further in": guarded(Facts(policy), RateLimit(), Empty()),
    }
    samples = asyncio.run(interleave_async(cases, ROUNDS))
    base = {name: "an empty layer" if "one" in name else "tenant, an empty layer" for name in cases}
    print_table(
        "ASGI, in process: CPU of a request, and what the rates add",
        ("", "us", "added"),
        [[name, f"{samples.median(name):.1f}", f"{samples.added(name, base[name]):.1f}"] for name in cases],
    )
    for name, most in ((one, 5), (four, 10)):
        added = samples.added(name, base[name])
        targets.append(Target(f"a request, {name}: CPU added", f"<= {most} us", f"{added:.1f} us", added <= most))
    ratio = samples.ratio("one rate, 400 routes", one)
    targets.append(Target("  400 routes, to two", "<= 1.05x", f"{ratio:.2f}x", ratio <= 1.05))


def distinct_keys(targets: list[Target]) -> None:
    """A million drained buckets: what each costs, the longest operation, and how much memory they take."""
    progress("a million keys")
    store = MemoryLimits(SystemClock(), 2 * DISTINCT)
    gc.collect()
    gc.freeze()  # what the peers left, as the thread with which limits sweeps, is none of ours
    before = resident()
    slowest = spent = 0
    for number in range(DISTINCT):
        command = TakeTokens(None, (Take(f"t{number}|tenant|60s", DRAINED),))
        began = time.thread_time_ns()
        store.execute(command)
        took = time.thread_time_ns() - began
        spent += took
        slowest = max(slowest, took)
    each = (resident() - before) / DISTINCT
    assert store.overflowed == 0
    print_table(
        "A million distinct drained buckets",
        ("", ""),
        [
            ["CPU of a take", f"{spent / DISTINCT / 1000:.2f} us"],
            ["the longest", f"{slowest / 1e6:.2f} ms"],
            ["memory of a bucket with its key", f"{each:.0f} bytes"],
        ],
    )
    targets.append(Target("a million keys: memory of each", "<= 160 bytes", f"{each:.0f}", each <= 160))
    targets.append(Target("  the longest operation", "< 2 ms", f"{slowest / 1e6:.2f} ms", slowest < 2_000_000))


def resident() -> int:
    """Bytes of this process in memory; the most that there ever were where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run() -> list[Target]:
    """Measure, print the tables and return what was aimed at."""
    targets: list[Target] = []
    decisions(targets)
    requests(targets)
    distinct_keys(targets)
    return targets


if __name__ == "__main__":
    print_targets(run())
