"""From a request that reaches a threshold to the log, through a guard as the settings build it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import structlog

from tenantguard.settings import build, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SETTINGS = """
[guard]
ledger = "sqlite:///ledger.db"
[tenancy]
mode = "single"
[[routes]]
match = "/jobs"
price = "0.50 USD"
[policies.default]
budget = { limit = "1.00 USD", per = "day", alerts = [50, 100] }
"""


class Told:
    """A structlog logger that lets a test wait for what it hears."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.heard = threading.Condition()

    def hear(self, _logger: object, _method: str, event: Any) -> Any:
        with self.heard:
            self.events.append(dict(event))
            self.heard.notify_all()
        raise structlog.DropEvent

    def alerts(self) -> list[Any]:
        return [event["threshold"] for event in self.events if event["event"] == "budget.alert"]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_request_that_reaches_a_threshold_is_told_to_the_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    structlog.configure(processors=[told.hear])
    guard = build(parse_settings(SETTINGS, folder=tmp_path, environ={}))
    guarded = guard.asgi(app)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "path": "/jobs", "headers": []}
        for _ in range(2):
            await guarded(scope, receive, send)

    try:
        asyncio.run(ask())
        assert guard.ports.alerts is not None
        guard.ports.alerts.wake()  # type: ignore[attr-defined]
        with told.heard:
            assert told.heard.wait_for(lambda: len(told.alerts()) == 2, timeout=10)
    finally:
        guard.close()
        structlog.reset_defaults()
    assert told.alerts() == [50, 100]


def test_a_guard_without_alerts_starts_no_thread_for_them(tmp_path: Path) -> None:
    guard = build(parse_settings(SETTINGS.replace(", alerts = [50, 100]", ""), folder=tmp_path, environ={}))
    assert guard.ports.alerts is None
    guard.close()
