"""Reading a provider's counts: each is there and possible, or the usage is missing. Nothing is mended."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from tenantguard.errors import BadRequestError
from tenantguard.model.money import NANOS, NANOS_MAX, Amount
from tenantguard.model.usage import COUNT_MAX, is_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.model.usage import Usage

_TIER: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")

P = ParamSpec("P")


def usage_or_none(read: Callable[P, Usage], *args: P.args, **kwargs: P.kwargs) -> Usage | None:
    """What ``read`` makes of the counts, or None where one of them is missing or impossible."""
    try:
        return read(*args, **kwargs)
    except BadRequestError:
        return None


def read_count(counts: Mapping[str, Any], name: str, default: int | None = None, *, floats: bool = False) -> int:
    """The count called ``name``; one that is absent or null is ``default``.

    With ``floats`` a whole one written with a point (``12.0``) is that number. :class:`BadRequestError` if it is
    missing without a default, or no count.
    """
    value = counts.get(name)
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value
    if value is None and default is not None:
        return default
    if floats and type(value) is float and value.is_integer():
        value = int(value)
    if not is_count(value):
        raise BadRequestError(f"usage: {name} is missing or no count")
    return value


def read_part(counts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object called ``name``; an empty one where it is absent or null, else :class:`BadRequestError`."""
    value = counts.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"usage: {name} is no object")
    return value


def read_tier(value: Any) -> str | None:
    """How a request was served, if that is said in one short word: it may name a rate and stand in a log."""
    return value if isinstance(value, str) and _TIER.fullmatch(value) else None


def read_cost(values: Iterable[Any]) -> Amount | None:
    """The sum of costs in US dollars that JSON wrote as numbers, in billionths, rounded once: half to even.

    A float stands for the decimal number that was written: the shortest one that reads back as the same. None if one
    of them is no number, negative, not finite or too large.
    """
    total = Decimal(0)
    for value in values:
        if type(value) not in {int, float}:
            return None
        try:
            cost = Decimal(repr(value))
            if not 0 <= cost <= Decimal(NANOS_MAX) / NANOS:
                return None
        except InvalidOperation:  # NaN
            return None
        total += cost
    nanos = int((total * NANOS).to_integral_value(ROUND_HALF_EVEN))
    return Amount(nanos, "USD") if nanos <= NANOS_MAX else None
