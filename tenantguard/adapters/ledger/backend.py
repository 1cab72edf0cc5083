"""What a database must do to be a ledger, and how any ledger decides a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tenantguard.errors import LayerError
from tenantguard.flow.ports import PlaceHold, ResolveHold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.rules.ledger import Books

Command: TypeAlias = PlaceHold | ResolveHold


class Backend(Protocol):
    """A store of accounts and holds. Used by one thread at a time; opens itself with the first ``apply``."""

    def apply(self, commands: Sequence[Command], /) -> list[Any]:
        """Decide ``commands`` in order in one transaction and return their answers once that is durable.

        An answer that is an exception concerns its command alone. :class:`~tenantguard.errors.PortError` says that
        it is unknown whether anything became durable: apply the same commands again. Any other exception says that
        one of the commands cannot be stored and nothing was. Beats the heart when that is due, so call it with no
        commands at times.
        """
        ...

    def close(self) -> None:
        """Release the connection; the next ``apply`` opens it again."""
        ...

    def forget(self) -> None:
        """Let go of everything without touching it: it belongs to the process that this one was forked from."""
        ...


def decide(books: Books, command: Command, now_ns: int) -> Any:
    """Let the rule decide; a command that its author got wrong is answered by the error."""
    try:
        if isinstance(command, PlaceHold):
            return books.place(command.id, command.tenant, command.legs, command.on_orphan, now_ns)
        return books.resolve(
            command.id,
            command.amounts,
            command.reason,
            command.evidence,
            command.source,
            command.external_id,
            now_ns,
        )
    except LayerError as error:
        return error
