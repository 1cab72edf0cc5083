"""Cancelled anywhere, in any way: what an exchange took is ended, once, and the cancellation is not lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tenantguard.adapters.identity.keys import ApiKeys, hash_key
from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.asgi import ASGIGuard
from tenantguard.flow.effects import Promise, ReadBody, ask
from tenantguard.flow.ports import EnterSlot, PortEffect, Take, TakeTokens
from tenantguard.guard import Guard
from tenantguard.layers.audit import Audit
from tenantguard.layers.charge import Charge
from tenantguard.layers.concurrency import ConcurrencyLimit
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.layers.redaction import Redaction
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import Policy
from tenantguard.model.rate import Rate
from tenantguard.model.redact_section import RedactSection
from tenantguard.model.route import Route, Success
from tenantguard.model.sections import BudgetRule, BudgetSection, RateRule, RateSection
from tenantguard.model.tenant import Identity, TenantId
from tenantguard.testing import manual_system, memory_ports
from tests.drivers.asgi_client import body, http_scope, idle, start
from tests.drivers.world import Watching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenantguard.flow.http import Outcome


# --- the clerk: every wait of a run goes through it ---


class Clerk:
    """Owns every suspension point of a run: answers each in its turn, and cancels at the chosen one.

    A store acts when it is asked; or ``late``, when its turn comes; or, where the call was cancelled, ``stray``, when
    everything is over.
    """

    def __init__(
        self, cancel_at: int | None, *, again: bool = False, late: bool = False, stray: bool = False
    ) -> None:
        self.points: list[str] = []
        self.cancel: Callable[[], Any] = lambda: None
        self.closed = False
        self.late = late or stray
        self._cancel_at = cancel_at
        self._again = again
        self._stray = stray
        self._strays: list[Callable[[], None]] = []
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def point(self, name: str, go_on: Callable[[], None]) -> None:
        self.points.append(name)
        self._waiting.append((len(self.points), go_on))

    async def suspend(self, name: str) -> None:
        event = anyio.Event()
        self.point(name, event.set)
        await event.wait()

    async def work(self) -> None:
        while not self.closed:
            if self._waiting:
                number, go_on = self._waiting.pop(0)
                if self._cancel_at is not None and (
                    number == self._cancel_at or (self._again and number > self._cancel_at)
                ):
                    self.cancel()
                    await idle()
                    if self._stray and self.points[number - 1] in TAKINGS:
                        self._strays.append(go_on)
                        continue
                go_on()
            await idle(1)
        for go_on in self._strays:
            go_on()


TAKINGS = {"outer takes", "inner takes", "TakeTokens", "EnterSlot", "PlaceHold"}


class Answer(Promise[Any]):
    """A promise that the clerk keeps, running the store's command then (``late``) or when it was asked."""

    port = "till"
    deadline_s = 1e9

    def __init__(self, clerk: Clerk, name: str, command: Callable[[], Any]) -> None:
        self._clerk = clerk
        self._done = False
        self._value: Any = None if clerk.late else command()
        self._command = command
        self._calls: list[Callable[[], Any]] = []
        clerk.point(name, self._keep)

    def _keep(self) -> None:
        if self._clerk.late:
            self._value = self._command()
        self._done = True
        for call in self._calls:
            bell = call()
            if bell is not None:
                bell()

    def then(self, call: Callable[[], Any]) -> None:
        if self._done:
            call()
        else:
            self._calls.append(call)

    def wait(self, timeout_s: float) -> bool:
        return self._done

    def result(self) -> Any:
        return self._value


@dataclass
class SlowTill:
    """A store that answers by promises and awaitables; ending an id that it does not know bars a later taking."""

    clerk: Clerk
    held: set[bytes] = field(default_factory=set)
    ended: list[bytes] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def take(self, hold_id: bytes) -> bool:
        if hold_id in self.ended:
            return False
        self.held.add(hold_id)
        return True

    def end(self, hold_id: bytes, outcome: Outcome) -> None:
        self.held.discard(hold_id)
        self.ended.append(hold_id)
        self.outcomes.append(outcome)

    def close(self) -> None: ...


@dataclass(frozen=True)
class Command(PortEffect[Any]):
    name: str
    run: Callable[[SlowTill], Any]
    by: str = "promise"

    def perform(self, ports: Any) -> Any:
        till = ports.limits
        if self.by == "promise":
            return Answer(till.clerk, self.name, partial(self.run, till))

        async def answer() -> Any:
            await till.clerk.suspend(self.name)
            return self.run(till)

        return answer()


class Everything:
    """A layer that takes by promise or awaitable and suspends in every way that a layer can."""

    def __init__(self, name: str, by: str) -> None:
        self.name = name
        self._by = by

    def handle(self, exchange: Any, proceed: Any) -> Any:
        hold_id = exchange.new_id()

        def end(outcome: Outcome) -> Any:
            yield from Command(f"{self.name} looks", lambda till: None, self._by)
            yield from Command(f"{self.name} ends", lambda till: till.end(hold_id, outcome), self._by)
            yield from ask(partial(clerk.suspend, f"{self.name} tells"))

        clerk: Clerk = exchange.system.ids.clerk
        exchange.resolve(end, strict=True)
        yield from Command(f"{self.name} takes", lambda till: till.take(hold_id), self._by)
        yield from ask(partial(clerk.suspend, f"{self.name} asks"))
        yield from ReadBody(100)

        def hear(outcome: Outcome) -> Any:
            yield from Command(f"{self.name} hears", lambda till: None, self._by)

        exchange.observe(hear)
        response = yield from proceed(exchange)
        yield from Command(f"{self.name} sees the head", lambda till: None, self._by)
        return response


class ClerksIds:
    def __init__(self, clerk: Clerk) -> None:
        self.clerk = clerk
        self._last = 0

    def new(self) -> bytes:
        self._last += 1
        return self._last.to_bytes(16, "big")


@dataclass
class Run:
    clerk: Clerk
    watching: Watching
    app: ASGIGuard
    check: Callable[[str], None]
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    finished: bool = False
    raised: BaseException | None = None

    async def serve(self) -> None:
        pieces = [b'{"a":', b'"b"}']

        async def receive() -> Any:
            if not pieces:
                await anyio.sleep_forever()
            await self.clerk.suspend("receive")
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            await self.clerk.suspend("send")

        try:
            await self.app(http_scope(method="POST", headers=self.headers), receive, send)
            self.finished = True
        except BaseException as failure:
            self.raised = failure
            raise


def application(clerk: Clerk) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await clerk.suspend("app begins")
        await receive()
        await send(start(headers=((b"content-type", b"text/plain"),)))
        for chunk in (b"one", b"two"):
            await clerk.suspend("app works")
            await send(body(chunk, more=True))
        await send(body(b""))
        await clerk.suspend("app ends")

    return app


def layers_of_every_kind(clerk: Clerk, success: Success = Success.ENDED) -> Run:
    till = SlowTill(clerk)
    watching = Watching()
    ports = memory_ports()
    ports.limits = till  # type: ignore[assignment]
    ports.system = type(ports.system)(ports.system.clock, ClerksIds(clerk))
    layers = [
        watching,
        Everything("outer", "promise"),
        Everything("middle", "awaitable"),
        Everything("inner", "promise"),
    ]

    def check(point: str) -> None:
        assert till.held == set(), point
        assert len(till.ended) == len(set(till.ended)) <= 3, point
        assert len({id(outcome) for outcome in till.outcomes}) <= 1, point

    guard = Guard(layers, ports=ports, routes=[Route(match="/**", success=success)])
    return Run(clerk, watching, ASGIGuard(application(clerk), guard=guard), check)


# --- the built-in layers, over slow ports ---

KEY = "tg-0123456789abcdef"
PRICE = Amount.parse("0.25 USD")
POLICY = Policy.of(
    "acme",
    [
        RateSection((RateRule(Rate.parse("5/hour")),)),
        BudgetSection((BudgetRule(Amount.parse("10 USD"), Period.LIFETIME),)),
        RedactSection(),
        ConcurrencySection((ConcurrencyRule(1),)),
    ],
)


class NoMatches:
    reach = 0
    passed = 0

    def clears(self, text: str) -> bool:
        return True

    def detect(self, text: str, after: int = 0) -> list[Any]:
        return []


def built_in_layers(clerk: Clerk, success: Success = Success.ENDED) -> Run:
    """The six layers, with every answer of a port waiting at the clerk."""
    acme = TenantId("acme")
    ports = memory_ports(
        manual_system(),
        policies=StaticPolicies({"acme": POLICY}),
        identities=ApiKeys({hash_key(KEY): Identity("acme-dev", acme)}),
    )
    limits, ledger, policies, identities = ports.limits, ports.ledger, ports.policies, ports.identities
    slots = ports.slots

    class Limits:
        def execute(self, command: Any) -> Any:
            return Answer(clerk, type(command).__name__, lambda: limits.execute(command))

        def take_in_place(self, takes: Any, *, final: bool = True) -> None: ...

        def close(self) -> None: ...

    class Slots:
        def execute(self, command: Any) -> Any:
            answer = Answer(clerk, type(command).__name__, lambda: slots.execute(command))
            answer.patient = isinstance(command, EnterSlot)
            return answer

        def close(self) -> None: ...

    class Ledger:
        def submit(self, command: Any) -> Any:
            return Answer(clerk, type(command).__name__, lambda: ledger.submit(command).result())

        def close(self) -> None: ...

    class Policies:
        async def find(self, tenant: Any) -> Any:
            await clerk.suspend("find")
            return policies.find(tenant)

    class Identities:
        async def identify(self, credential: str) -> Any:
            await clerk.suspend("identify")
            return identities.identify(credential)

    slow: Any = type(ports)(
        ports.system, Limits(), Ledger(), Policies(), Identities(), ports.audits, slot_store=Slots()
    )  # type: ignore[arg-type]
    watching = Watching()
    layers = [
        watching,
        Audit(),
        TenantContext(),
        RateLimit(),
        ConcurrencyLimit(),
        Redaction(lambda section: NoMatches(), b"k" * 32),
        Charge(PriceTable({})),
    ]
    guard = Guard(layers, ports=slow, routes=[Route(match="/**", success=success, price=PRICE)])

    def check(point: str) -> None:
        outcome = watching.outcome
        completed = outcome.ending == "completed"
        for balance in ledger.balances():
            assert balance.held == 0, point
            assert balance.spent == (PRICE.nanos if completed else 0), point
        looked: Any = limits.execute(TakeTokens(b"look", (Take("acme|tenant|tenant-3600s", Rate.parse("5/hour")),)))
        assert slots.standing() == [], point
        used = 4 - looked.levels[0][0]
        assert used == (1 if outcome.called else 0), point

    headers = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json")]
    return Run(clerk, watching, ASGIGuard(application(clerk), guard=guard), check, headers)


# --- ways of being cancelled ---


async def with_task_cancel(run: Run) -> None:
    task = asyncio.ensure_future(run.serve())
    run.clerk.cancel = task.cancel
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def with_anyio_scope(run: Run) -> None:
    with anyio.CancelScope() as scope:
        run.clerk.cancel = scope.cancel
        await run.serve()


async def with_asyncio_timeout(run: Run) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            run.clerk.cancel = lambda: None if timeout.expired() else timeout.reschedule(-1)
            await run.serve()


async def with_wait_for(run: Run) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    run.clerk.cancel = loop.leap
    with suppress(TimeoutError):
        await asyncio.wait_for(run.serve(), 1e6)


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    _ahead = 0.0

    def time(self) -> float:
        return super().time() + self._ahead

    def leap(self) -> None:
        self._ahead += 2e6


async def perform(run: Run, way: Callable[[Run], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.clerk.work)
        await way(run)
        run.clerk.closed = True


WAYS: dict[str, tuple[str, Callable[[Run], Awaitable[None]]]] = {
    "task.cancel()": ("asyncio", with_task_cancel),
    "an anyio scope": ("asyncio", with_anyio_scope),
    "asyncio.timeout()": ("asyncio", with_asyncio_timeout),
    "asyncio.wait_for()": ("asyncio", with_wait_for),
    "a trio scope": ("trio", with_anyio_scope),
}
TIMES: dict[str, dict[str, bool]] = {
    "once": {},
    "again and again": {"again": True},
    "once, the store being late": {"late": True},
    "again and again, the store being late": {"late": True, "again": True},
    "once, the store acting when all is over": {"stray": True},
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
@pytest.mark.parametrize(("backend", "way"), WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("make", [layers_of_every_kind, built_in_layers])
def test_cancelled_at_every_suspension_point_everything_ends_once(
    make: Callable[[Clerk], Run], backend: str, way: Callable[[Run], Awaitable[None]], times: dict[str, bool]
) -> None:
    options = {"loop_factory": LeapingLoop} if backend == "asyncio" else {}
    whole = make(Clerk(None, **times))
    anyio.run(perform, whole, way, backend=backend, backend_options=options)
    assert whole.finished
    assert whole.watching.outcome.ending == "completed"
    whole.check("not cancelled")
    for position in range(1, len(whole.clerk.points) + 1):
        run = make(Clerk(position, **times))
        anyio.run(perform, run, way, backend=backend, backend_options=options)
        if position > len(run.clerk.points):  # trio's order is random: this time the client was not looked for
            assert run.finished
            continue
        point = f"{position}: {run.clerk.points[position - 1]}"
        run.check(point)
        assert len(run.watching.outcomes) == 1, point
        assert not run.finished, point  # whatever was shielded, the cancellation is not lost
        assert type(run.raised).__name__ in {"CancelledError", "Cancelled"}, point


@pytest.mark.parametrize(("backend", "way"), WAYS.values(), ids=WAYS.keys())
def test_cancelled_on_a_route_that_waits_for_the_return_everything_ends_once(
    backend: str, way: Callable[[Run], Awaitable[None]]
) -> None:
    options = {"loop_factory": LeapingLoop} if backend == "asyncio" else {}
    whole = layers_of_every_kind(Clerk(None), Success.RETURNED)
    anyio.run(perform, whole, way, backend=backend, backend_options=options)
    assert whole.watching.outcome.ending == "completed"
    for position in range(1, len(whole.clerk.points) + 1):
        run = layers_of_every_kind(Clerk(position), Success.RETURNED)
        anyio.run(perform, run, way, backend=backend, backend_options=options)
        run.check(f"{position}: {run.clerk.points[position - 1]}")


def test_the_runs_above_wait_in_every_place_that_there_is() -> None:
    """Else they would prove less than they say."""
    for make, names in (
        (layers_of_every_kind, {"outer takes", "middle takes", "inner asks", "inner sees the head", "outer tells"}),
        (
            built_in_layers,
            {"identify", "find", "TakeTokens", "EnterSlot", "LeaveSlot", "PlaceHold", "ResolveHold", "SettleTokens"},
        ),
    ):
        run = make(Clerk(None))
        anyio.run(perform, run, with_anyio_scope)
        assert names | {"receive", "app begins", "app works", "app ends", "send"} <= set(run.clerk.points)
