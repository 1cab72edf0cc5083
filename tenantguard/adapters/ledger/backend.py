"""What a database must do to be a ledger, and how any ledger decides a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from tenantguard.adapters.ledger.encoding import evidence_json, storable
from tenantguard.errors import LayerError
from tenantguard.flow.ports import Claim, Correct, FindClaim, Grant, PlaceHold, Refund, ResolveHold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.ports import LedgerCommand
    from tenantguard.rules.ledger import Books

LEASE_S: Final = 20.0
"""A process that did not renew its lease for so long is lost, and what it held is ended."""

BESIDE_NS: Final = 7 * 86_400 * 1_000_000_000
"""How long what stands beside the books is kept, 7 days: notices that were delivered, and denials."""

DENIALS_MAX: Final = 100_000
"""How many denials are kept; more are dropped, the oldest first, when the heart beats."""

PRUNED_AT_ONCE: Final = 512
"""How many rows of a kind one transaction drops at most; where that is not enough, the next one goes on."""

OUTBOX_LEASE_NS: Final = 60 * 1_000_000_000
"""Who has taken a notice has this long to say what became of it."""


class Backend(Protocol):
    """A store of accounts and holds. Used by one thread at a time; opens itself with the first ``apply``."""

    def apply(self, commands: Sequence[LedgerCommand], /) -> list[Any]:
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


def decide(books: Books, command: LedgerCommand, now_ns: int) -> Any:
    """Let the rule decide; a command that its author got wrong is answered by the error.

    What comes from outside is made storable here, the same for every ledger.
    """
    try:
        if isinstance(command, PlaceHold):
            claim = None if command.claim is None else _claim(command.claim)
            return books.place(
                command.id, command.tenant, command.legs, command.on_orphan, now_ns, claim, command.share
            )
        if isinstance(command, ResolveHold):
            return books.resolve(
                command.id,
                command.amounts,
                storable(command.reason),
                evidence_json(command.evidence),
                None if command.source is None else storable(command.source),
                None if command.external_id is None else storable(command.external_id),
                now_ns,
                review=command.review,
                answer=None if command.answer is None else (storable(command.answer[0]), command.answer[1]),
                drawn=command.drawn,
            )
        if isinstance(command, FindClaim):
            return books.taken(command.tenant, _claim(command.claim), now_ns)
        return _book(books, command, now_ns)
    except LayerError as error:
        return error


def _book(books: Books, command: Refund | Grant | Correct, now_ns: int) -> Any:
    reason, evidence = storable(command.reason), evidence_json(command.evidence)
    if isinstance(command, Refund):
        return books.refund(command.id, command.hold, command.amounts, reason, evidence, now_ns)
    if isinstance(command, Grant):
        return books.grant(command.id, command.tenant, command.leg, command.expires_ns, reason, evidence, now_ns)
    return books.correct(command.id, command.tenant, command.leg, command.amount, reason, evidence, now_ns)


def _claim(claim: Claim) -> Claim:
    key = storable(claim.key)
    return claim if key is claim.key else Claim(key, claim.fingerprint)
