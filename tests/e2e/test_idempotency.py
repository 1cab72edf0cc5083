"""Idempotency keys over both drivers and both embedded ledgers: whole requests through the whole stack."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.adapters.sealing import AESGCMSealer
from tenantguard.flow.ports import Ports, System
from tenantguard.guard import Guard
from tenantguard.layers.charge import Charge
from tenantguard.layers.idempotency import Idempotency
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.layers.redaction import Redaction
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.pii import Match
from tenantguard.model.policy import Policy
from tenantguard.model.price import PriceBook, TokenPrice
from tenantguard.model.rate import Rate
from tenantguard.model.redact_section import RedactSection, Restore
from tenantguard.model.route import Idempotency as OnKey
from tenantguard.model.route import Route, RouteTable
from tenantguard.model.sections import (
    BudgetRule,
    BudgetSection,
    QuotaRule,
    QuotaSection,
    RateRule,
    RateSection,
)
from tenantguard.model.tenant import DEFAULT_TENANT
from tenantguard.testing import ManualClock, RecordingSink, SequentialIds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = b"a key for tests alone, of 32 bytes or more"
PRICE = Amount.parse("0.25 USD")
HOUR_S = 3600
ROUTES = RouteTable.of(
    [
        Route("POST /jobs", price=PRICE),
        Route("POST /replayed", price=PRICE, idempotency=OnKey.REPLAY),
        Route("POST /chat", usage="openai-chat", max_output=50, idempotency=OnKey.REPLAY),
        Route("POST /off", price=PRICE, idempotency=OnKey.OFF),
    ]
)
BOOK = PriceBook(
    {"small": TokenPrice.parse(input="1 USD/1M", output="2 USD/1M", cache_read="1 USD/1M", cache_write="1 USD/1M")}
)
EMAIL = re.compile(r"[a-z]+@[a-z]+\.example")
Answer = tuple[int, list[tuple[str, str]], list[bytes]]


class Emails:
    """A detector of one kind of value."""

    reach = 0
    passed = 0

    def clears(self, text: str) -> bool:
        return EMAIL.search(text) is None

    def detect(self, text: str, after: int = 0) -> list[Match]:
        return [Match("EMAIL_ADDRESS", found.start(), found.end(), 1.0) for found in EMAIL.finditer(text)]


def jobs_done(body: bytes, call: int) -> Answer:
    headers = [("content-type", "application/json"), ("set-cookie", "session=1"), ("location", "/jobs/7")]
    return 201, headers, [json.dumps({"call": call}).encode()]


@dataclass
class World:
    """One guarded application; ``answer`` makes its response of the request's body and the number of the call."""

    driver: str
    ledger: Any
    clock: ManualClock = field(default_factory=ManualClock)
    answer: Callable[[bytes, int], Answer] = jobs_done
    calls: int = 0

    def __post_init__(self) -> None:
        policy = Policy.of(
            "all",
            [
                RateSection((RateRule(Rate(10, HOUR_S * 10**9)),)),
                QuotaSection((QuotaRule("requests", 20, Period.MONTH),)),
                BudgetSection((BudgetRule(Amount.parse("2.50 USD"), Period.MONTH),)),
                RedactSection(restore=Restore.ALL),
            ],
        )
        self.limits = MemoryLimits(self.clock)
        self.sink = RecordingSink()
        ports = Ports(
            System(self.clock, SequentialIds()),
            self.limits,
            self.ledger,
            StaticPolicies({}, fallback=policy),
            None,  # type: ignore[arg-type]
            (self.sink,),
        )
        layers = [
            TenantContext(mode="single"),
            Idempotency(AESGCMSealer(KEY)),
            RateLimit(),
            Redaction(lambda _: Emails(), KEY),
            Charge(PriceTable(BOOK)),
        ]
        self.guard = Guard(layers, routes=ROUTES, ports=ports)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.calls += 1
        status, headers, chunks = self.answer(body, self.calls)
        lines = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        self.calls += 1
        status, headers, chunks = self.answer(body, self.calls)
        start_response(f"{status} Whatever", headers)
        return chunks

    def post(self, path: str = "/jobs", body: Any = None, key: str | None = "k-1", **headers: str) -> httpx.Response:
        return self.post_all([(path, {"job": 1} if body is None else body, key)], **headers)[0]

    def post_all(self, requests: list[tuple[str, Any, str | None]], **headers: str) -> list[httpx.Response]:
        """Send them all at once."""
        sent = [
            (path, json.dumps(body), {**headers, **({} if key is None else {"idempotency-key": key})})
            for path, body, key in requests
        ]
        if self.driver == "wsgi":
            with (
                httpx.Client(
                    transport=httpx.WSGITransport(self.guard.wsgi(self.wsgi)), base_url="http://t"
                ) as client,
                ThreadPoolExecutor(len(sent)) as pool,
            ):
                return list(pool.map(lambda one: client.post(one[0], content=one[1], headers=one[2]), sent))
        return asyncio.run(self._post_all(sent))

    async def _post_all(self, sent: list[tuple[str, str, dict[str, str]]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.guard.asgi(self.asgi), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await asyncio.gather(
                *[client.post(path, content=body, headers=lines) for path, body, lines in sent]
            )

    def taken(self) -> dict[str, int]:
        """What was charged of money and quota, and how many tokens are gone; nothing may be held at rest."""
        balances = self.ledger.balances(DEFAULT_TENANT)
        assert all(balance.held == 0 for balance in balances)
        found = {balance.unit: balance.spent for balance in balances if balance.spent}
        level = next(iter(self.limits.snapshot().values()), 0)
        tokens = -(-level // (HOUR_S * 10**9 // 10))
        return found | ({"tokens": tokens} if tokens else {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Any]:
    system = System(clock, SequentialIds())
    made: Any = MemoryLedger(system) if request.param == "memory" else SQLiteLedger(tmp_path / "ledger.db", system)
    yield made
    made.close()


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest, ledger: Any, clock: ManualClock) -> World:
    return World(request.param, ledger, clock)


ONE: dict[str, int] = {"USD": PRICE.nanos, "requests": 1, "tokens": 1}


def test_a_retried_request_is_charged_once_across_rate_quota_and_cost(world: World) -> None:
    """S+5."""
    first = world.post()
    assert (first.status_code, world.taken()) == (201, ONE)
    for _ in range(3):
        again = world.post()
        assert (again.status_code, again.json()["code"]) == (409, "idempotency.already_done")
        assert again.json()["charged"] == ["0.25 USD", "1 requests"]
        assert bytes.fromhex(again.json()["hold"])
    assert (world.calls, world.taken()) == (1, ONE)
    assert len(world.ledger.entries(DEFAULT_TENANT)) == 2, "one of money, one of the quota"


def test_without_a_key_or_with_another_each_request_is_its_own(world: World) -> None:
    assert [world.post(key=key).status_code for key in (None, None, "a", "b")] == [201] * 4
    assert [world.post("/off").status_code for _ in range(2)] == [201] * 2
    assert world.taken() == {"USD": 6 * PRICE.nanos, "requests": 6, "tokens": 6}


def test_another_request_under_the_same_key_is_a_conflict(world: World) -> None:
    assert world.post().status_code == 201
    for answer in (world.post(body={"job": 2}), world.post("/jobs?more=1"), world.post("/replayed")):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.conflict")
    assert (world.calls, world.taken()) == (1, ONE)


def test_of_many_at_once_one_is_served_and_charged(world: World) -> None:
    answers = world.post_all([("/jobs", {"job": 1}, "k-1")] * 8)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] + [409] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
        "idempotency.in_flight",
        "idempotency.already_done",
    }
    assert (world.calls, world.taken()) == (1, ONE)


def test_while_the_first_is_served_the_second_is_told_to_wait(world: World) -> None:
    waiting: list[httpx.Response] = []

    def ask_again(body: bytes, call: int) -> Answer:
        if call == 1:
            asking = threading.Thread(target=lambda: waiting.append(world.post()))
            asking.start()
            asking.join(20)
        return jobs_done(body, call)

    world.answer = ask_again
    assert world.post().status_code == 201
    (second,) = waiting
    assert (second.status_code, second.headers["retry-after"]) == (409, "1")
    assert second.json()["code"] == "idempotency.in_flight"
    assert (world.calls, world.taken()) == (1, ONE)


def test_a_failure_does_not_burn_the_key(world: World) -> None:
    def failing(body: bytes, call: int) -> Answer:
        if call == 1:
            raise OSError("the application failed")
        return (500, [("content-type", "application/json")], [b"{}"]) if call == 2 else jobs_done(body, call)

    world.answer = failing
    if world.driver == "asgi":
        assert world.post().status_code == 500
    else:
        with pytest.raises(OSError, match="the application failed"):
            world.post()
    assert world.post().status_code == 500
    assert world.taken() == {"tokens": 2}, "the application was called, so the tokens are gone"
    assert [world.post().status_code for _ in range(2)] == [201, 409]
    assert world.taken() == ONE | {"tokens": 3}


def test_a_refusal_does_not_burn_the_key(world: World) -> None:
    assert [world.post(key=f"k-{number}").status_code for number in range(10)] == [201] * 10
    assert world.post(key="late").status_code == 429
    world.clock.advance(HOUR_S)
    assert world.post(key="late").status_code == 402, "the budget is for ten"
    assert world.post(key="late").status_code == 402, "and says so again: no hold has the key"
    assert world.calls == 10


def test_however_often_an_application_tries_its_upstream_one_exchange_has_one_hold(world: World) -> None:
    attempts: list[int] = []

    def upstream() -> bool:
        attempts.append(1)
        return len(attempts) % 3 == 0

    def trying(body: bytes, call: int) -> Answer:
        while not upstream():
            pass
        return jobs_done(body, call)

    world.answer = trying
    assert world.post().status_code == 201
    assert (len(attempts), world.taken()) == (3, ONE)
    assert world.post().status_code == 409
    assert len(attempts) == 3
    assert len({entry.op for entry in world.ledger.entries(DEFAULT_TENANT)}) == 1


# the kept response


def test_a_kept_response_is_given_again_as_it_was_but_for_its_own_moment(world: World) -> None:
    first = world.post("/replayed")
    again = [world.post("/replayed") for _ in range(3)]
    for answer in again:
        assert (answer.status_code, answer.content) == (201, first.content)
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.headers["location"] == "/jobs/7"
        assert {"set-cookie", "ratelimit"}.isdisjoint(answer.headers)
    assert "idempotent-replayed" not in first.headers
    assert "ratelimit" in first.headers
    assert (world.calls, world.taken()) == (1, ONE)


def test_after_a_day_or_for_another_caller_the_charge_alone_is_told(world: World) -> None:
    assert world.post("/replayed", cookie="session=1").status_code == 201
    assert world.post("/replayed", cookie="session=2").status_code == 409
    world.clock.advance(24 * HOUR_S - 1)
    assert world.post("/replayed", cookie="session=1").status_code == 201
    world.clock.advance(1)
    assert world.post("/replayed", cookie="session=1").status_code == 409
    assert world.calls == 1


def test_after_seven_days_a_key_is_free(world: World) -> None:
    assert world.post().status_code == 201
    world.clock.advance(7 * 24 * HOUR_S - 1)
    assert world.post().status_code == 409
    world.clock.advance(1)
    assert world.post().status_code == 201
    assert (world.calls, world.taken()["USD"]) == (2, 2 * PRICE.nanos)


def streamed(body: bytes, call: int) -> Answer:
    """An event stream that names what it was told, in deltas that part a placeholder."""
    said = json.loads(body)["messages"][0]["content"]
    assert "@" not in said, "the application never sees the address"
    events = [{"choices": [{"index": 0, "delta": {"content": said[at : at + 5]}}]} for at in range(0, len(said), 5)]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    events.append({"id": "chatcmpl-0123456789abcdef", "choices": [], "usage": usage})
    chunks = [b"data: " + json.dumps({"model": "small", **event}).encode() + b"\n\n" for event in events]
    return 200, [("content-type", "text/event-stream")], [*chunks, b"data: [DONE]\n\n"]


def test_a_redacted_stream_is_kept_as_its_caller_saw_it_and_unreadable_to_others(
    world: World, tmp_path: Path
) -> None:
    world.answer = streamed
    message = {"role": "user", "content": "Please write to jane@home.example today."}
    asked = {"model": "small", "stream": True, "stream_options": {"include_usage": True}, "messages": [message]}
    first = world.post("/chat", asked)
    assert first.status_code == 200
    said = "".join(
        choice["delta"].get("content", "")
        for line in first.text.splitlines()
        if line.startswith("data: {")
        for choice in json.loads(line[6:])["choices"]
    )
    assert said == message["content"]
    again = world.post("/chat", asked)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["content-type"] == "text/event-stream"
    assert again.headers["idempotent-replayed"] == "true"
    assert (world.calls, world.taken()["USD"]) == (1, 10 * 1000 + 20 * 2000)
    for file in tmp_path.iterdir():
        assert b"jane@home" not in file.read_bytes()


def test_what_a_client_did_not_hear_to_its_end_is_kept_for_it(ledger: Any) -> None:
    world = World("asgi", ledger, answer=streamed)
    asked = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "Count to ten."}]}

    async def leave() -> list[bytes]:
        heard: list[bytes] = []
        gone = asyncio.Event()
        given: list[Any] = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]

        async def receive() -> Any:
            if given:
                return given.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if gone.is_set():
                raise OSError("the client has left")
            if message["type"] == "http.response.body":
                heard.append(message["body"])
                gone.set()

        scope = {
            "type": "http", "method": "POST", "path": "/chat", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"idempotency-key", b"k-1")],
        }  # fmt: skip
        await world.guard.asgi(world.asgi)(scope, receive, send)
        return heard

    heard = asyncio.run(leave())
    again = world.post("/chat", asked, **{"content-type": "application/json"})
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (200, "true")
    assert again.content.startswith(b"".join(heard))
    assert again.content.endswith(b"data: [DONE]\n\n")
    assert len(heard) == world.calls == 1


def test_what_is_kept_outlives_the_process(tmp_path: Path) -> None:
    system = System(ManualClock(), SequentialIds())
    worlds = []
    for driver in ("asgi", "wsgi"):
        ledger = SQLiteLedger(tmp_path / "ledger.db", system)
        worlds.append(World(driver, ledger))
        assert worlds[-1].post("/replayed").status_code == 201
        ledger.close()
    assert [world.calls for world in worlds] == [1, 0]
