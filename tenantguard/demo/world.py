"""Everything that the tour needs, on the loopback: a model server, and the guarded proxy in front of it."""

from __future__ import annotations

import json
import queue
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.model.rate import TICKS_PER_NANO
from tenantguard.model.sections import BudgetSection, RateSection
from tenantguard.model.tenant import TenantId
from tenantguard.proxy import upstream_app
from tenantguard.rules.bucket import level, next_unit_in_ns, owner_of
from tenantguard.settings import build, parse_settings
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.demo.report import Report
    from tenantguard.flow.ports import Clock, Entry
    from tenantguard.guard import Guard
    from tenantguard.model.audit import AuditRecord
    from tenantguard.model.rate import Rate
    from tenantguard.model.sections import BudgetRule
    from tenantguard.settings import Settings
    from tenantguard.testing.model_server import Received

SETTINGS: Final = Path(__file__).with_name("demo.toml")
TENANTS: Final = ("acme", "hasty", "broke", "crowd")
KEYS: Final = {tenant: f"tg_demo_{tenant}_0123456789" for tenant in TENANTS}
"""The demo's API keys, whose hashes stand in its settings."""

_RECORD_TIMEOUT_S: Final = 30.0


class Provider:
    """What the proxy stands in front of: the model server, and beside it a job that sells reports."""

    def __init__(self) -> None:
        self.model = ModelServer()
        self.reports = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http" or scope["path"] != "/v1/reports":
            await self.model(scope, receive, send)
            return
        self.reports += 1
        body = json.dumps({"report": self.reports}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Records:
    """An audit sink that hands records over as they come: an exchange is over when its record is here."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[AuditRecord] = queue.SimpleQueue()

    def record(self, record: AuditRecord) -> None:
        """Take one record."""
        self._queue.put(record)

    def next(self, timeout_s: float | None = _RECORD_TIMEOUT_S) -> AuditRecord | None:
        """The next record, None after so many seconds without one."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class World:
    """One guarded endpoint at ``url``, the model server behind it at ``model_url``, and a look into both."""

    url: str
    model_url: str
    ledger_path: Path
    settings: Settings
    guard: Guard
    provider: Provider
    records: Records = field(default_factory=Records)

    @property
    def clock(self) -> Clock:
        """The clock by which the guard decides."""
        return self.guard.ports.system.clock

    @property
    def calls(self) -> int:
        """How many requests have reached the model server."""
        return len(self.provider.model.requests)

    @property
    def received(self) -> Received:
        """The request that the model server got last."""
        return self.provider.model.requests[-1]

    def rate(self, tenant: str) -> Rate:
        """The tenant's one rate."""
        section = self.settings.policies[tenant].policy.section(RateSection)
        assert section is not None, "every policy of the demo has a rate"
        return section.rules[0].rate

    def budget(self, tenant: str) -> BudgetRule:
        """The tenant's one budget."""
        section = self.settings.policies[tenant].policy.section(BudgetSection)
        assert section is not None, "every policy of the demo has a budget"
        return section.rules[0]

    def bucket(self, tenant: str) -> tuple[int, int]:
        """The whole units in the tenant's bucket, and nanoseconds until the next one comes."""
        limits = self.guard.ports.limits
        assert isinstance(limits, MemoryLimits), "the demo's settings say so"
        rate = self.rate(tenant)
        full_in_ns = next((full for key, full in limits.snapshot().items() if owner_of(key) == tenant), 0)
        units, _ = level(full_in_ns * TICKS_PER_NANO, rate, 0)
        return units, next_unit_in_ns(full_in_ns, rate)

    def level(self, tenant: str) -> str:
        """What is left in the tenant's bucket, as it is told."""
        return f"{self.bucket(tenant)[0]} of {self.rate(tenant).burst} left"

    def balance(self, tenant: str) -> tuple[int, int]:
        """Billionths of a dollar spent and held, over all windows."""
        found = self.guard.ports.ledger.balances(TenantId(tenant))
        return sum(balance.spent for balance in found), sum(balance.held for balance in found)

    def entries(self) -> list[Entry]:
        """The ledger's latest entries, newest first."""
        return self.guard.ports.ledger.entries(limit=1000)

    def audit(self) -> list[str]:
        """What is inconsistent in the ledger."""
        ledger = self.guard.ports.ledger
        assert isinstance(ledger, SQLiteLedger), "the demo's settings say so"
        return ledger.audit()


@contextmanager
def open_world(folder: Path, report: Report) -> Iterator[World]:
    """Serve everything, with the ledger in ``folder``; the missing extra is told before anything takes long."""
    provider = Provider()
    with serve(provider) as model_url:
        proxy = upstream_app(model_url)
        report.line("loading the recognisers of personal data ... ", end="")
        # the demo's numbers are those of its file, whatever the environment overrides
        settings = parse_settings(SETTINGS.read_text("utf-8"), source=str(SETTINGS), folder=folder, environ={})
        guard = build(settings, proxy=True)
        report.line("done")
        world_ledger = folder / (settings.guard.ledger or "").rpartition("/")[2]
        records = Records()
        guard.ports.audits = (records,)
        with serve(guard.asgi(proxy)) as url:
            yield World(url, model_url, world_ledger, settings, guard, provider, records)
