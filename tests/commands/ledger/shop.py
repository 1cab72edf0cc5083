"""A durable ledger as the guard's process uses it, and the command line as operators do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.cli import main
from tenantguard.flow.ports import PlaceHold, ResolveHold, System
from tenantguard.model.ledger import Leg, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOW_NS = 1_795_000_000 * 10**9  # 2026-11-18T11:06:40Z, a moment that the real clock of a test is not
SETTINGS = """
[guard]
ledger = "sqlite:///ledger.db"
[tenancy]
mode = "strict"
[[tenancy.keys]]
id = "k"
tenant = "acme"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[pricing]
unknown_model = "warn"
[policies.acme]
budget = [
  { limit = "250.00 USD", per = "month in Europe/Berlin" },
  { limit = "20.00 USD", per = "day in Europe/Berlin" },
]
"""
MONTH, DAY = Period.parse("month in Europe/Berlin"), Period.parse("day in Europe/Berlin")


class Clock:
    """A clock that a test sets."""

    now_ns = NOW_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


class Shop:
    """The ledger as the guard's process uses it, at a time of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.ids = TimeOrderedIds()
        self.ledger = SQLiteLedger(folder / "ledger.db", System(self.clock, self.ids))
        self.ledger.open()

    def ask(self, command: Any) -> Any:
        promise = self.ledger.submit(command)
        assert promise.wait(20)
        return promise.result()

    def hold(self, nanos: int, *, tenant: str = "acme", extra: tuple[Leg, ...] = ()) -> bytes:
        hold_id = self.ids.new()
        terms = Terms(thresholds=(Threshold(50),))
        legs = (
            Leg(("tenant", tenant, str(MONTH)), MONTH, "USD", 250 * 10**9, nanos, nanos, terms),
            Leg(("tenant", tenant, str(DAY)), DAY, "USD", 20 * 10**9, nanos, nanos),
            *extra,
        )
        answer = self.ask(PlaceHold(hold_id, TenantId(tenant), legs))
        assert len(answer.amounts) == len(legs)
        return hold_id

    def charge(
        self,
        nanos: int,
        *,
        model: str = "gpt-5-mini",
        tokens: tuple[int, int] = (100, 10),
        tenant: str = "acme",
        source: str | None = "openai",
        held: int | None = None,
        **evidence: Any,
    ) -> bytes:
        hold_id = self.hold(nanos if held is None else held, tenant=tenant)
        told = {
            "route": "POST /v1/chat/completions",
            "basis": "usage",
            "model": model,
            "usage": {"input": tokens[0], "output": tokens[1], "cache_read": 0, "cache_write": 0},
            **evidence,
        }
        external = None if source is None else hold_id.hex()
        outside = None if source is None else f"{source}:{tenant}"
        self.ask(ResolveHold(hold_id, (nanos, nanos), "completed", told, outside, external))
        return hold_id


class Told:
    """How a command ended, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def words(self) -> str:
        return " ".join(self.out.split())

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Line:
    """The command line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str) -> Told:
        self._capsys.readouterr()
        code = main(["ledger", *argv])
        told = self._capsys.readouterr()
        return Told(code, told.out, told.err)

    def json(self, *argv: str) -> list[Any]:
        told = self(*argv, "--format", "json")
        assert told.code in {0, 1}, told.err
        return told.json
