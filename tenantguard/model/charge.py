"""What an exchange was charged, and what its application reported about it."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.money import Amount
    from tenantguard.model.usage import Usage


@frozen
class Reported:
    """What the application said of its own request: token counts, units by name, a price that replaces ours."""

    usage: Usage | None = None
    units: Mapping[str, int] = field(default_factory=dict, hash=False)
    price: Amount | None = None


@frozen
class Charged:
    """How the hold of an exchange ended: ``amount`` was charged (0 if it was voided) of the ``held`` one.

    ``basis`` says what it rests on: ``usage``, ``price``, ``units``, ``reported``, ``hold`` or ``counted``, or
    ``nothing``.
    """

    amount: Amount
    held: Amount
    basis: str
    usage: Usage | None = None
