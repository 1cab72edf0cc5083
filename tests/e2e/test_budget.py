"""A strict budget under concurrency, over both drivers and a durable ledger."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.model.tenant import TenantId
from tenantguard.settings import build, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tenantguard.guard import Guard

KEY = "tg_test_key_of_acme_0123456789"
PRICE_NANOS = 250_000_000
SETTINGS = f"""
[guard]
ledger = "sqlite:///ledger.db"

[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "{hash_key(KEY)}"

[[routes]]
match = "POST /jobs"
price = "0.25 USD"

[policies.acme]
budget = {{ limit = "2.50 USD", per = "month" }}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Any:
    built = build(parse_settings(SETTINGS, folder=tmp_path, environ={}))
    yield built
    built.close()


def assert_spent(guard: Guard, requests: int) -> None:
    (balance,) = guard.ports.ledger.balances(TenantId("acme"))
    assert (balance.spent, balance.held) == (requests * PRICE_NANOS, 0)


def test_of_100_concurrent_requests_against_a_budget_for_10_exactly_10_pass(guard: Guard) -> None:
    """E+6, E-38, E-39: as long as what is spent and held is below the budget, the next one passes."""
    inside = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside
        inside += 1
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def go() -> list[int]:
        transport = httpx.ASGITransport(guard.asgi(app))
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            answers = await asyncio.gather(*(client.post("/jobs") for _ in range(100)))
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(go())
    assert sorted(statuses) == [200] * 10 + [402] * 90
    assert inside == 10
    assert_spent(guard, 10)


def test_of_100_requests_in_16_threads_exactly_10_pass(guard: Guard) -> None:
    """E+6, under WSGI."""
    inside: list[int] = []
    together = threading.Barrier(16)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        inside.append(1)
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"done"]

    wrapped = guard.wsgi(app)

    def post(number: int) -> str:
        if number < 16:
            together.wait()
        seen: list[str] = []
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/jobs", "HTTP_AUTHORIZATION": f"Bearer {KEY}"}
        body = wrapped(environ, lambda status, headers, exc_info=None: seen.append(status[:3]))
        list(body)
        body.close()
        return seen[0]

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(post, range(100)))
    assert sorted(statuses) == ["200"] * 10 + ["402"] * 90
    assert len(inside) == 10
    assert_spent(guard, 10)
