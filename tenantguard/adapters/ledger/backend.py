"""What a database must do to be a ledger, and how any ledger decides a command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from tenantguard.errors import LayerError
from tenantguard.flow.ports import PlaceHold, ResolveHold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenantguard.rules.ledger import Books

Command: TypeAlias = PlaceHold | ResolveHold

_encode: Final = json.JSONEncoder(default=str, separators=(",", ":")).encode


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
    """Let the rule decide; a command that its author got wrong is answered by the error.

    What comes from outside is made storable here, the same for every ledger.
    """
    try:
        if isinstance(command, PlaceHold):
            return books.place(command.id, command.tenant, command.legs, command.on_orphan, now_ns)
        return books.resolve(
            command.id,
            command.amounts,
            storable(command.reason),
            _json(command.evidence),
            None if command.source is None else storable(command.source),
            None if command.external_id is None else storable(command.external_id),
            now_ns,
        )
    except LayerError as error:
        return error


def storable(value: str) -> str:
    """Text without lone surrogates, which JSON can carry and UTF-8 cannot: they are written out."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _json(evidence: Mapping[str, Any]) -> str:
    if not evidence:
        return "{}"
    try:
        return _encode(dict(evidence))
    except (TypeError, ValueError):
        raise LayerError("evidence must be JSON: a mapping with text as keys and no cycles") from None
