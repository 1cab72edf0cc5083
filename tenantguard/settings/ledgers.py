"""From a ledger's address to the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.settings.shapes import POSTGRES, SQLITE, LedgerShape, shown_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tenantguard.flow.ports import Ledger, System


def open_ledger(uri: str, folder: Path, system: System, bounds: LedgerShape, place: str) -> Ledger:
    """The ledger at ``uri``; a relative path in it counts from ``folder``.

    :class:`ConfigurationError` names ``place``, which is where the address was written, and never a password; so does
    the :class:`PortError` of a server that cannot be reached.
    """
    ledger = _exact(uri, folder, system, bounds, place)
    if bounds.admission == "exact":
        return ledger
    from tenantguard.adapters.ledger.leased import LeasedLedger  # noqa: PLC0415 - only who asks for it

    return LeasedLedger(ledger, system)


def _exact(uri: str, folder: Path, system: System, bounds: LedgerShape, place: str) -> Ledger:
    if uri.startswith(SQLITE):
        from tenantguard.adapters.ledger.sqlite import SQLiteLedger  # noqa: PLC0415 - only who keeps money in a file

        path = folder / uri.removeprefix(SQLITE)
        durable = SQLiteLedger(path, system, deadline_s=bounds.deadline_s, queue_max=bounds.queue_max)
        try:
            durable.open()
        except ConfigurationError as wrong:
            raise ConfigurationError(f"{place}: {wrong}") from None
        return durable
    if uri.startswith(POSTGRES):
        try:
            from tenantguard.adapters.ledger.postgres import PostgresLedger  # noqa: PLC0415 - an extra

            shared = PostgresLedger(uri, system, deadline_s=bounds.deadline_s, queue_max=bounds.queue_max)
            shared.open()
        except ImportError as missing:
            raise ConfigurationError(
                f"{place}: {shown_ledger(uri)!r} needs a driver: pip install 'tenantguard[postgres]'",
            ) from missing
        except PortError as failed:
            reach = f"start the server, or mend {place}, {shown_ledger(uri)!r}"
            raise PortError(failed.port, f"{failed.problem.rstrip('.')}; {reach}") from None
        return shared
    from tenantguard.adapters.ledger.memory import MemoryLedger  # noqa: PLC0415

    return MemoryLedger(system)
