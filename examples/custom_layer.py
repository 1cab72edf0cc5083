"""A layer of one's own, with its own section in every tenant's policy, and its unit tests.

A tour of requests in process (it needs httpx)::

    python examples/custom_layer.py

Its tests, which need no server, store, clock or mock::

    pytest examples/custom_layer.py

Served::

    uvicorn --factory --app-dir examples custom_layer:serve
    curl -i localhost:8000 -H "authorization: Bearer tg_example_globex_0123456789"
"""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tenantguard import ConfigurationError, Deny, Exchange, Flow, Handler, Policy, Response, Tenant, current
from tenantguard.flow.effects import CallApp
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import System
from tenantguard.settings import build, parse_settings
from tenantguard.testing import ManualClock, Script, SequentialIds, make_exchange

if TYPE_CHECKING:
    from tenantguard import Guard

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class QuietHoursSection:
    """``quiet_hours = { begin = 22, end = 6 }`` in a policy: hours of the day, in UTC."""

    begin: int
    end: int

    def __post_init__(self) -> None:
        if not (0 <= self.begin < 24 and 0 <= self.end < 24 and self.begin != self.end):
            raise ConfigurationError("quiet_hours: begin and end are different hours from 0 to 23")

    def left_ms(self, day_ms: int) -> int:
        """Milliseconds until the quiet hours end, seen from this millisecond of the day; 0 outside of them."""
        since_ms = (day_ms - self.begin * HOUR_MS) % (24 * HOUR_MS)
        length_ms = (self.end - self.begin) % 24 * HOUR_MS
        return max(0, length_ms - since_ms)


class QuietHours:
    """Refuses requests in a tenant's quiet hours, with the time when it is worth trying again."""

    name = "quiet_hours"
    requires = (Policy,)  # so that a stack without a tenant layer further out is refused when it is built

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Refuse with 503 while the tenant's quiet hours last."""
        section = exchange.get(Policy).section(QuietHoursSection)
        if section is not None:
            left_ms = section.left_ms(exchange.system.clock.wall_ns() // 1_000_000 % (24 * HOUR_MS))
            if left_ms:
                message = "This service sleeps at the moment."
                return exchange.deny(Deny(self.name, "quiet_hours.asleep", 503, message, retry_after_ms=left_ms))
            exchange.allow(self.name, "awake")
        response = yield from proceed(exchange)
        response.headers.set("x-awake", "yes")
        return response


SETTINGS = f"""
[guard]
layers = ["audit", "tenant", "{__name__}:QuietHours", "rate"]   # in a package: "mypackage.layers:QuietHours"

[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "sha256:bfc2119d93df4a17efc9b3ea4504f7b15263d63a9d969934376f23039b18fca4"

[[tenancy.keys]]
id = "globex-dev"
tenant = "globex"
hash = "sha256:c5461678b4ec6045144e26ecee7dffbdd1658631b11b627521417f20336c6cb6"

[policies.acme]
rate = "10/second"

[policies.globex]
inherit = "acme"
quiet_hours = {{ begin = 22, end = 6 }}
"""


# its tests: the script of its flow


def at(hour: int, *sections: object) -> Script[Response]:
    """The layer's flow at that hour, under a policy of these sections."""
    clock = ManualClock()  # begins at midnight
    clock.advance(hour * 3600)
    exchange = make_exchange(facts=(Policy.of("globex", sections),), system=System(clock, SequentialIds()))
    return Script(QuietHours().handle(exchange, call_app))


def test_in_quiet_hours_a_request_is_refused_until_they_end() -> None:
    response = at(23, QuietHoursSection(22, 6)).result
    assert response.status == 503
    assert response.headers.get("retry-after") == str(7 * 3600)


def test_outside_of_quiet_hours_the_application_answers() -> None:
    flow = at(6, QuietHoursSection(22, 6))
    assert isinstance(flow.effect, CallApp)
    flow.answer(Response(200))
    assert flow.result.headers.get("x-awake") == "yes"


def test_a_policy_without_the_section_has_no_quiet_hours() -> None:
    assert isinstance(at(23).effect, CallApp)


# the same layer around an application


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - it reads no body
    body = f"hello, {current().get(Tenant).id}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def make_guard() -> Guard:
    return build(parse_settings(SETTINGS, sections=[QuietHoursSection]))


def serve() -> Any:
    """For ``uvicorn --factory``."""
    return make_guard().asgi(app)


async def tour() -> None:
    clock = ManualClock()
    guard = make_guard()
    guard.ports.system = System(clock, SequentialIds())
    guard.ports.audits = ()  # each exchange would be logged between the lines printed here
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard.asgi(app)), base_url="http://tour") as client:
        for hour in (0, 6):
            clock.advance(hour * 3600)
            for tenant in ("acme", "globex"):
                headers = {"authorization": f"Bearer tg_example_{tenant}_0123456789"}
                response = await client.get("/", headers=headers)
                wait = response.headers.get("retry-after", "none")
                print(f"{hour:02}:00 UTC, {tenant:<7} {response.status_code}, Retry-After: {wait}")
    guard.close()


if __name__ == "__main__":
    test_in_quiet_hours_a_request_is_refused_until_they_end()
    test_outside_of_quiet_hours_the_application_answers()
    test_a_policy_without_the_section_has_no_quiet_hours()
    print("the layer's three tests pass")
    asyncio.run(tour())
