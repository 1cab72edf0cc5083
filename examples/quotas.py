"""Budgets and quotas of a small company, and what its books say afterwards.

A tour of requests in process, then of the commands that read and book (it needs httpx)::

    python examples/quotas.py

Served::

    uvicorn --factory --app-dir examples quotas:serve
    curl -X POST localhost:8000/reports -H "authorization: Bearer tg_example_acme_0123456789"
    tenantguard ledger balance --config examples/quotas.toml
"""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from tenantguard import Amount, TenantId, load
from tenantguard.adapters.alerts.delivery import Alerts
from tenantguard.cli import main

if TYPE_CHECKING:
    from tenantguard import Guard
    from tenantguard.flow.ports import Balance
    from tenantguard.model.ledger import Alert

SETTINGS = Path(__file__).with_name("quotas.toml")
LEDGER = "TENANTGUARD__GUARD__LEDGER"


class App:
    """Writes reports, and keeps sessions open until ``close`` is set."""

    def __init__(self) -> None:
        self.written = 0
        self.opened = asyncio.Event()
        self.close = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - it reads no body
        """Answer one request."""
        if scope["path"] == "/reports":
            self.written += 1
            body = f"report {self.written}\n".encode()
        else:
            self.opened.set()
            await self.close.wait()
            body = b"goodbye\n"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})


class Printer:
    """Who is told of alerts: beside the log and a webhook, anything with a name, ``send`` and ``close``."""

    name = "printer"

    def send(self, alert: Alert) -> None:
        """Tell it; an alert that was not taken, which ``PortError`` says, is tried again later."""
        threshold = f"{alert.threshold.percent}% of {shown(alert.ceiling, alert.unit)}"
        print(f"alert: {alert.tenant} has spent {shown(alert.spent, alert.unit)}, {threshold} is reached")

    def close(self) -> None:
        """There is nothing to give up."""


def serve() -> Any:
    """For ``uvicorn --factory``."""
    return load(SETTINGS).asgi(App())


async def requests(guard: Guard) -> None:
    """Send requests, and print what came of each."""
    app = App()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard.asgi(app)), base_url="http://tour") as client:

        async def ask(what: str, tenant: str, method: str, path: str, **headers: str) -> None:
            headers["authorization"] = f"Bearer tg_example_{tenant}_0123456789"
            response = await client.request(method, path, headers=headers)
            plain = response.headers["content-type"] == "text/plain"
            print(f"{what:<37}{response.status_code} {response.text.strip() if plain else response.json()['code']}")

        await ask("acme orders a report", "acme", "POST", "/reports", **{"idempotency-key": "order-1"})
        await ask("acme asks again, under the same key", "acme", "POST", "/reports", **{"idempotency-key": "order-1"})
        for _ in range(3):
            await ask("acme orders another", "acme", "POST", "/reports")
        for _ in range(2):
            await ask("globex orders a report", "globex", "POST", "/reports")
        session = asyncio.create_task(ask("acme's session ends", "acme", "GET", "/sessions"))
        await app.opened.wait()
        await ask("acme opens a second one meanwhile", "acme", "GET", "/sessions")
        app.close.set()
        await session
        await ask("acme opens a third one, afterwards", "acme", "GET", "/sessions")


def told(balance: Balance) -> str:
    ceiling = (balance.limit or 0) + balance.granted + balance.carried
    spent, left = balance.spent, ceiling - balance.spent - balance.held
    name = "/".join(balance.budget)
    return f"{name:<36} spent {shown(spent, balance.unit):<12}left {shown(left, balance.unit)}"


def shown(number: int, unit: str) -> str:
    """Money is kept in billionths of the currency's unit, any other unit as it is."""
    return str(Amount(number, unit)) if unit == "EUR" else f"{number} {unit}"


def report(*command: str) -> None:
    """A command as an operator types it."""
    print(f"\n$ tenantguard ledger {shlex.join(command)}")
    code = main(["ledger", *command, "--config", str(SETTINGS)])
    assert code == 0, code


def tour() -> None:
    with TemporaryDirectory() as folder:  # each tour begins with an empty ledger
        os.environ[LEDGER] = f"sqlite:///{folder}/ledger.db"
        guard = load(SETTINGS)
        guard.ports.audits, guard.ports.alerts = (), None  # both would be logged between the lines printed here
        ledger = guard.ports.ledger
        asyncio.run(requests(guard))
        hold = ledger.entries(TenantId("acme"), limit=1)[0].op.hex()
        print()
        Alerts(ledger, [Printer()], guard.ports.system).deliver()
        report("refund", hold, "--reason", "the report was empty")
        report("grant", "--tenant", "globex", "--amount", "5 EUR", "--id", "invoice-81", "--reason", "a top-up")
        report("audit")
        print()
        for balance in ledger.balances():
            print(told(balance))
        guard.close()
        del os.environ[LEDGER]


if __name__ == "__main__":
    tour()
