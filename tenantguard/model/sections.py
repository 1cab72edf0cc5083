"""The typed sections of a policy that the built-in layers read. A user's own section is any frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tenantguard.model.money import Amount
    from tenantguard.model.rate import Rate


class Scope(StrEnum):
    """What a limit counts, from wide to narrow: everybody, one tenant, one route of it, one identity of it."""

    GLOBAL = "global"
    TENANT = "tenant"
    ROUTE = "route"
    IDENTITY = "identity"


class Period(StrEnum):
    """The calendar window, in UTC, over which a budget counts."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"
    LIFETIME = "lifetime"


@dataclass(frozen=True, slots=True)
class RateRule:
    """One token bucket per ``scope``: requests at ``rate``."""

    rate: Rate
    scope: Scope = Scope.TENANT


@dataclass(frozen=True, slots=True)
class RateSection:
    """Every rule must pass; all are taken together or none."""

    rules: tuple[RateRule, ...]


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """At most ``limit`` in each ``per``, counted over ``scope``."""

    limit: Amount
    per: Period
    scope: Scope = Scope.TENANT


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """Every budget must have room for the hold; all in one currency."""

    rules: tuple[BudgetRule, ...]

    def __post_init__(self) -> None:
        if len({rule.limit.currency for rule in self.rules}) > 1:
            raise ConfigurationError("the budgets of one policy must be in one currency")


class RedactRequest(StrEnum):
    """What happens to personal data on the way in."""

    OFF = "off"
    REPLACE = "replace"


class RedactResponse(StrEnum):
    """What happens on the way out: scrub what the application wrote, and restore what the request's held."""

    OFF = "off"
    REPLACE = "replace"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class RedactSection:
    """What to find (Presidio's entity names; empty: all of the built-in set), from which score on, and what to do.

    ``restore`` on the response needs ``replace`` on the request; it scrubs first and then puts back the request's
    own values.
    """

    request: RedactRequest = RedactRequest.REPLACE
    response: RedactResponse = RedactResponse.REPLACE
    entities: tuple[str, ...] = ()
    threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.response is RedactResponse.RESTORE and self.request is not RedactRequest.REPLACE:
            raise ConfigurationError("redact: response = 'restore' needs request = 'replace'")
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError("redact: threshold must be between 0 and 1")
