"""The concurrency section of a policy: how many requests are served at a time, and what becomes of further ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.rate import NANOS_PER_SECOND
from tenantguard.model.sections import Combine, Group, OnError, Scope

SLOTS_MAX: Final = 1_000_000
WEIGHT_MAX: Final = 1000
WAIT_MAX_NS: Final = 3600 * NANOS_PER_SECOND
_BY_MAX: Final = 8
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH: Final = re.compile(r"[^\s.]{1,128}(?:\.[^\s.]{1,128}){0,15}")


class WhenFull(StrEnum):
    """What becomes of a request for which no slot is free: ``reject`` refuses it, ``queue`` lets it wait."""

    REJECT = "reject"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class ConcurrencyRule:
    """At most ``limit`` requests at a time for each of what ``scope`` counts.

    With ``by``, dotted paths into the request's JSON body, for each combination of the values there. A ``group`` is
    what the rule is for, everything by default; ``Scope.GROUP`` needs one, and counts all of it together. Where the
    slots are taken, at most ``queue`` requests of a tenant wait, each ``wait_ns`` at most. Tenants that wait for one
    shared slot get it in proportion to ``weight``. ``name`` is what decisions call the rule; without it, it is made
    of the scope.
    """

    limit: int
    scope: Scope = Scope.TENANT
    when_full: WhenFull = WhenFull.QUEUE
    queue: int = 100
    wait_ns: int = 30 * NANOS_PER_SECOND
    by: tuple[str, ...] = ()
    weight: int = 1
    group: Group | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("limit", SLOTS_MAX), ("queue", SLOTS_MAX), ("weight", WEIGHT_MAX)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigurationError(f"concurrency: {name} must be a whole number from 1 to {most}")
        if type(self.wait_ns) is not int or not 0 < self.wait_ns <= WAIT_MAX_NS:
            raise ConfigurationError("concurrency: a wait must be longer than 0 and at most an hour")
        if self.scope is Scope.GROUP and self.group is None:
            raise ConfigurationError(
                "concurrency: scope = 'group' needs a group: the routes or models that it counts"
            )
        if self.name is not None and _RULE_NAME.fullmatch(self.name) is None:
            raise ConfigurationError("concurrency: name is 1 to 64 letters, digits or . _ -, like 'streams'")
        if len(self.by) > _BY_MAX or len(set(self.by)) < len(self.by):
            raise ConfigurationError(f"concurrency: by names each path once, at most {_BY_MAX} of them")
        if not all(_PATH.fullmatch(path) for path in self.by):
            raise ConfigurationError("concurrency: by has paths like 'model' or 'metadata.user'")


@dataclass(frozen=True, slots=True)
class ConcurrencySection:
    """Rules whose slots are taken together, all or none; ``combine`` says which of them count for a request."""

    rules: tuple[ConcurrencyRule, ...]
    combine: Combine = Combine.ALL
    on_error: OnError = OnError.LOCAL

    def __post_init__(self) -> None:
        named = [rule.name for rule in self.rules if rule.name is not None]
        if len(set(named)) < len(named):
            raise ConfigurationError(
                "concurrency: two rules have one name, so they would share their slots; rename one"
            )
