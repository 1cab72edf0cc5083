"""What the killed servers serve, and what everybody who watches them knows: tenants, prices, limits, the clock."""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.adapters.system import TimeOrderedIds, real_system
from tenantguard.flow.ports import OnOrphan, System

if TYPE_CHECKING:
    from pathlib import Path

PRICE: Final = 10_000_000
CHAT_COST: Final = 10 * 1_000 + 20 * 2_000
FITS: Final = 150
"""So many requests the budget of tenant ``small`` carries, and not one more."""

SMALL_LIMIT: Final = FITS * PRICE + PRICE // 2
SETTINGS: Final = """
[guard]
ledger = "memory://"  # another one takes its place
layers = ["tenant", "idempotency", "charge"]

[tenancy]
from = ["header:x-tenant"]
trust_headers = true

[[routes]]
match = "/v1/chat/completions"
usage = "openai-chat"
charge_once = false  # so that nothing but the idempotency key keeps a retry from being charged

[prices."m"]
input = "1 USD/1M"
output = "2 USD/1M"
cache_read = "0 USD/1M"
cache_write = "0 USD/1M"

[[routes]]
match = "/void"
price = "0.01 USD"

[[routes]]
match = "/charge"
price = "0.01 USD"
on_orphan = "charge_hold"

[[routes]]
match = "/review"
price = "0.01 USD"
on_orphan = "review"

[policies.void]
budget = { limit = "100000 USD", per = "lifetime" }
quota = { unit = "requests", limit = 10_000_000, per = "lifetime" }

[policies.charge]
inherit = "void"

[policies.review]
inherit = "void"

[policies.chat]
inherit = "void"

[policies.small]
budget = { limit = "1.505 USD", per = "lifetime" }
"""


class Kind(NamedTuple):
    """How the requests of a tenant look: all of it on one path, so that a hold's tenant tells what becomes of it."""

    tenant: str
    path: str
    on_orphan: OnOrphan
    cost: int
    body: bytes
    share: int


_CHAT: Final = b'{"model":"m","stream":true,"max_tokens":50,"messages":[{"role":"user","content":"hi"}]}'
KINDS: Final = (
    Kind("void", "/void", OnOrphan.VOID, PRICE, b"{}", 3),
    Kind("charge", "/charge", OnOrphan.CHARGE_HOLD, PRICE, b"{}", 2),
    Kind("review", "/review", OnOrphan.REVIEW, PRICE, b"{}", 2),
    Kind("chat", "/v1/chat/completions", OnOrphan.VOID, CHAT_COST, _CHAT, 4),
    Kind("small", "/void", OnOrphan.VOID, PRICE, b"{}", 1),
)


class SharedClock:
    """This machine's clocks, moved on by hand for all processes that share ``path``."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)
        self._real = real_system().clock

    def advance(self, seconds: float) -> None:
        """Let so much time have passed."""
        struct.pack_into("=q", self._ahead, 0, self._ahead_ns() + int(seconds * 1e9))

    def monotonic_ns(self) -> int:
        return self._real.monotonic_ns() + self._ahead_ns()

    def wall_ns(self) -> int:
        return self._real.wall_ns() + self._ahead_ns()

    def _ahead_ns(self) -> int:
        (ahead_ns,) = struct.unpack_from("=q", self._ahead)
        return int(ahead_ns)


def open_ledger(where: str, clock: SharedClock) -> Any:
    """The ledger at a PostgreSQL's address or a file's path."""
    system = System(clock, TimeOrderedIds())
    if where.startswith("postgresql:"):
        from tenantguard.adapters.ledger.postgres import PostgresLedger

        return PostgresLedger(where, system, now_ns=clock.wall_ns)
    from tenantguard.adapters.ledger.sqlite import SQLiteLedger

    return SQLiteLedger(where, system)
