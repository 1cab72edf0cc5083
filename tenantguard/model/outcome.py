"""How an exchange ended, decided once by the session."""

from __future__ import annotations

from enum import StrEnum

from tenantguard.model.frozen import frozen


class Ending(StrEnum):
    """The six ways in which an exchange ends; ``docs/charging.md`` says what each costs."""

    REFUSED = "refused"
    COMPLETED = "completed"
    FAILED = "failed"
    CUT = "cut"
    LEFT = "left"
    LOST = "lost"


@frozen
class Outcome:
    """How an exchange ended, decided once. ``called``: the application was called. ``status`` is 0 without a head.

    ``received`` counts the application's own body bytes, ``sent`` those handed to the server. ``ended`` says that
    the response's own end was seen, also where the client had left before it.
    """

    ending: Ending
    called: bool = True
    status: int = 0
    received: int = 0
    sent: int = 0
    ended: bool = False
    reason: str | None = None
    error: BaseException | None = None
