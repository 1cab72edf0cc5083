"""A model server, the guarded proxy in front of it, and real SDKs as clients: all over loopback."""

from __future__ import annotations

import queue
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.commands.proxy import guarded_proxy
from tenantguard.model.tenant import TenantId
from tenantguard.rules.bucket import owner_of
from tenantguard.settings import parse_settings
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenantguard.flow.ports import Balance
    from tenantguard.guard import Guard
    from tenantguard.model.audit import AuditRecord

TENANTS = ("acme", "scrubbed", "limited", "poor", "plain")
KEYS = {tenant: f"tg_test_key_of_{tenant}_0123456789" for tenant in TENANTS}
INPUT, OUTPUT = 1_000, 2_000
"""Billionths of a dollar a token: 1 and 2 USD per million."""
UNIT_NS = 360 * 86_400 * 10**9 // 1000
"""How long a unit of a bucket takes to come back at 1000 a year: longer than any test."""

SETTINGS = """
[guard]
ledger = "sqlite:///ledger.db"
{guard}

[redaction]
key = "a key for tests alone, of 32 bytes or more"

[tenancy]
from = ["api-key"]

{keys}

[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 50
{chat}

[[routes]]
match = "POST /v1/embeddings"
usage = "openai-embeddings"

[[routes]]
match = "POST /v1/messages"
usage = "anthropic-messages"
max_output = 50

[prices.small]
input = "1 USD/1M"
output = "2 USD/1M"
cache_read = "0.1 USD/1M"
cache_write = "1 USD/1M"

[policies.plain]
rate = "1000/year"
budget = {{ limit = "10.00 USD", per = "month" }}

[policies.acme]
inherit = "plain"
redact = {{ request = "replace", response = "restore", entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"] }}

[policies.scrubbed]
inherit = "plain"
redact = {{ request = "off", response = "replace", entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"] }}

[policies.limited]
rate = "2/minute"
budget = {{ limit = "10.00 USD", per = "month" }}

[policies.poor]
rate = "1000/year"
budget = {{ limit = "0.000001 USD", per = "month" }}
"""


class Recorder:
    """An audit sink that hands records over as they come: an exchange has settled when its record is here."""

    def __init__(self) -> None:
        self._records: queue.Queue[AuditRecord] = queue.Queue()

    def record(self, record: AuditRecord) -> None:
        self._records.put(record)

    def next(self) -> AuditRecord:
        return self._records.get(timeout=20)

    def close(self) -> None:
        pass


@dataclass
class World:
    """One guarded endpoint."""

    url: str
    guard: Guard
    model: ModelServer
    recorder: Recorder = field(default_factory=Recorder)
    clients: ExitStack = field(default_factory=ExitStack)

    def openai(self, tenant: str, **options: Any) -> Any:
        import openai

        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEYS[tenant], max_retries=0, **options)
        return self.clients.enter_context(client)

    def anthropic(self, tenant: str, **options: Any) -> Any:
        import anthropic

        client = anthropic.Anthropic(base_url=self.url, api_key=KEYS[tenant], max_retries=0, **options)
        return self.clients.enter_context(client)

    def balance(self, tenant: str) -> Balance | None:
        found = self.guard.ports.ledger.balances(TenantId(tenant))
        assert len(found) <= 1
        return found[0] if found else None

    def spent(self, tenant: str) -> int:
        """Billionths of a dollar; nothing may be held while nothing is in flight."""
        balance = self.balance(tenant)
        if balance is None:
            return 0
        assert balance.held == 0, "held at rest"
        return balance.spent

    def standing(self, tenant: str) -> tuple[int, int]:
        """What was spent, and how many units are gone from the tenant's bucket of 1000 a year."""
        limits = self.guard.ports.limits
        assert isinstance(limits, MemoryLimits)
        full_in_ns = next((nanos for key, nanos in limits.snapshot().items() if owner_of(key) == tenant), 0)
        return self.spent(tenant), -(-full_in_ns // UNIT_NS)

    def change(self, tenant: str, before: tuple[int, int]) -> tuple[int, int]:
        """What was spent and taken since."""
        spent, taken = self.standing(tenant)
        return spent - before[0], taken - before[1]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Make worlds; all of a module stay up until its end."""
    with ExitStack() as stack:

        def make(*, guard: str = "", chat: str = "") -> World:
            folder: Path = tmp_path_factory.mktemp("world")
            keys = "\n".join(
                f'[[tenancy.keys]]\nid = "{tenant}-dev"\ntenant = "{tenant}"\nhash = "{hash_key(key)}"'
                for tenant, key in KEYS.items()
            )
            text = SETTINGS.format(keys=keys, guard=guard, chat=chat)
            model = ModelServer()
            upstream = stack.enter_context(serve(model))
            app = guarded_proxy(parse_settings(text, folder=folder, environ={}), upstream)
            recorder = Recorder()
            app.guard.ports.audits = (recorder,)
            world = World(stack.enter_context(serve(app)), app.guard, model, recorder)
            stack.callback(world.clients.close)  # or their sockets would be warned of in some later test
            return world

        yield make


@pytest.fixture(scope="module")
def shared(worlds: Any) -> World:
    """The world of a module's tests that do not change it for one another."""
    made: World = worlds()
    return made


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The module's world, at rest before and after each test."""
    yield shared
    for tenant in TENANTS:
        shared.spent(tenant)
