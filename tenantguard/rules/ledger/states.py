"""The states of a hold, and where each input leads. An empty place changes nothing and answers as the first time.

    state      place             settle             void       expire    review
    (none)     pending/refused   barred             barred
    pending                      settled            voided     expired   review
    expired                      settled, late      voided
    review                       settled            voided
    settled
    voided
    barred     refused

``barred`` is a voided hold under which nothing was ever placed. A process that was lost *expires* its holds, settles
them whole or puts them in *review*, as each hold said when it was placed. A late settling finds its money released:
it charges what the limit still allows and absorbs the rest. What is drawn from a lease begins pending, or expired
where the lease has ended. Refunds follow a settled hold and leave its state alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantguard.model.ledger import HoldState, OnOrphan


class Input(StrEnum):
    """What can happen to a hold once it is there."""

    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    REVIEW = "review"


TRANSITIONS: Final[dict[HoldState, dict[Input, HoldState]]] = {
    HoldState.PENDING: {
        Input.SETTLE: HoldState.SETTLED,
        Input.VOID: HoldState.VOIDED,
        Input.EXPIRE: HoldState.EXPIRED,
        Input.REVIEW: HoldState.REVIEW,
    },
    HoldState.EXPIRED: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED},
    HoldState.REVIEW: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED},
    HoldState.SETTLED: {},
    HoldState.VOIDED: {},
}

HOLDING: Final = frozenset({HoldState.PENDING, HoldState.REVIEW})
"""The states in which a hold's amounts are part of their accounts' ``held``."""

OF_ORPHAN: Final = {
    OnOrphan.VOID: Input.EXPIRE,
    OnOrphan.CHARGE_HOLD: Input.SETTLE,
    OnOrphan.REVIEW: Input.REVIEW,
}
