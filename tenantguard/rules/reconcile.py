"""A provider's invoice or usage report beside the ledger's entries: where they differ, by model and day.

Rules of this file
1. What the provider was owed is compared, not what the tenant paid: an entry's charge with what was absorbed, before
   the tenant's mark-up or discount and in the currency of the price. Refunds to a tenant are no business of the
   provider's.
2. An exchange counts once, by its first leg, however many budgets it was charged to.
3. Only what the invoice tells is compared: one without tokens says nothing about tokens.
4. A day is one of UTC, as providers count; an exchange over midnight may stand on either side of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.frozen import frozen
from tenantguard.model.ledger import EntryKind
from tenantguard.model.money import NANOS, is_currency
from tenantguard.rules.statement import model_of, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.ledger import Entry

DAY_NS: Final = 86_400_000_000_000
ROWS_MAX: Final = 100_000
_SNAPSHOT: Final = re.compile(r"[-@](?:20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2})\Z")
_NOTHING: Final = Fraction(0)


@frozen
class InvoiceLine:
    """What a provider says of one model on one day (days since 1970, UTC). None is what it does not tell.

    ``cost`` is exact, in units of ``currency``. An empty ``model`` is all of them together.
    """

    day: int
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Fraction | None = None
    currency: str | None = None


@dataclass(slots=True)
class Side:
    """What one side says of one model on one day."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: Fraction = _NOTHING

    def add(self, read: int, written: int, cost: Fraction) -> None:
        """Count more."""
        self.input_tokens += read
        self.output_tokens += written
        self.cost += cost


@dataclass(slots=True)
class Drift:
    """The ledger beside the invoice: of one model on one day, of a model on all days (``day`` None), or of all."""

    day: int | None
    model: str | None
    invoice: Side = field(default_factory=Side)
    ledger: Side = field(default_factory=Side)

    def of(self, measure: str) -> Fraction:
        """How much more the ledger has of ``measure``; negative: less."""
        return Fraction(getattr(self.ledger, measure) - getattr(self.invoice, measure))

    def share(self, measure: str) -> Fraction | None:
        """:meth:`of` as a share of what the invoice says; None where that is nothing and the ledger has something."""
        difference, said = self.of(measure), getattr(self.invoice, measure)
        if not difference:
            return _NOTHING
        return Fraction(difference) / abs(said) if said else None

    def is_beyond(self, tolerance: Fraction, measures: tuple[str, ...]) -> bool:
        """Whether any of ``measures`` differs by more than that share."""
        return any((share := self.share(name)) is None or abs(share) > tolerance for name in measures)


class Reconciliation:
    """First the invoice's lines, then the ledger's entries, then :meth:`rows`.

    ``provider`` restricts the entries to those of it, None takes all. ``unreadable`` counts entries whose evidence
    does not say what the provider was owed, ``foreign`` those in another currency than the invoice: neither is
    compared.
    """

    def __init__(self, provider: str | None = None) -> None:
        self.provider = provider
        self.currency: str | None = None
        self.measures: tuple[str, ...] = ()
        self.first_day: int | None = None
        self.last_day: int | None = None
        self.unreadable = 0
        self.foreign = 0
        self._rows: dict[tuple[int, str], Drift] = {}
        self._models: set[str] = set()
        self._short: dict[str, set[str]] = {}

    def invoiced(self, line: InvoiceLine) -> None:
        """Count a line of the invoice."""
        if line.currency is not None:
            if self.currency not in {None, line.currency}:
                raise ConfigurationError(
                    f"the invoice is in {self.currency} and in {line.currency}: reconcile one currency at a time"
                )
            self.currency = line.currency
        self.first_day = line.day if self.first_day is None else min(self.first_day, line.day)
        self.last_day = line.day if self.last_day is None else max(self.last_day, line.day)
        told = {"input_tokens": line.input_tokens, "output_tokens": line.output_tokens, "cost": line.cost}
        self.measures = tuple(name for name in told if name in self.measures or told[name] is not None)
        self._models.add(line.model)
        self._short.setdefault(_short(line.model), set()).add(line.model)
        side = self._row(line.day, line.model).invoice
        side.add(line.input_tokens or 0, line.output_tokens or 0, line.cost or _NOTHING)

    def entered(self, entry: Entry) -> None:
        """Count an entry of the ledger, where it is a charge of this provider's on a day of the invoice."""
        if entry.kind is not EntryKind.CHARGE or entry.leg or not is_currency(entry.unit):
            return
        model = model_of(entry.evidence)
        if model is None or not self._is_of_provider(entry):
            return
        day = entry.at_ns // DAY_NS
        if self.first_day is None or self.last_day is None or not self.first_day <= day <= self.last_day:
            return
        try:
            currency, cost = _owed(entry)
        except (ValueError, ZeroDivisionError, TypeError, KeyError):
            self.unreadable += 1
            return
        if self.currency not in {None, currency}:
            self.foreign += 1
            return
        read, written = tokens(entry.evidence)
        self._row(day, self._known(model, entry.evidence)).ledger.add(read, written, cost)

    def rows(self) -> list[Drift]:
        """By day and model; then each model over all days; then everything."""
        by_model: dict[str, Drift] = {}
        total = Drift(None, None)
        ordered = [self._rows[key] for key in sorted(self._rows)]
        for row in ordered:
            of_model = by_model.setdefault(row.model or "", Drift(None, row.model))
            for sums in (of_model, total):
                for side, more in ((sums.invoice, row.invoice), (sums.ledger, row.ledger)):
                    side.add(more.input_tokens, more.output_tokens, more.cost)
        return [*ordered, *(by_model[model] for model in sorted(by_model)), total]

    def _row(self, day: int, model: str) -> Drift:
        row = self._rows.get((day, model))
        if row is None:
            if len(self._rows) >= ROWS_MAX:
                raise ConfigurationError(f"there are more than {ROWS_MAX} models and days: reconcile a shorter time")
            row = self._rows[day, model] = Drift(day, model)
        return row

    def _is_of_provider(self, entry: Entry) -> bool:
        """What the price or the decoder says; an entry that says neither is taken."""
        if self.provider is None:
            return True
        named = entry.evidence.get("provider")
        if isinstance(named, str):
            return named == self.provider
        return entry.source is None or entry.source.partition(":")[0] == self.provider

    def _known(self, model: str, evidence: Mapping[str, Any]) -> str:
        """The name under which the invoice has the model: as it served, as asked for, or without its date."""
        if "" in self._models:
            return ""
        asked = evidence.get("model")
        for name in (model, asked):
            if isinstance(name, str) and name in self._models:
                return name
        for name in (model, asked):
            alike = self._short.get(_short(name), ()) if isinstance(name, str) else ()
            if len(alike) == 1:
                return next(iter(alike))
        return model


def _short(model: str) -> str:
    """``claude-haiku-4-5`` for ``Claude Haiku 4.5`` and ``claude-haiku-4-5-20251001``: reports write either."""
    return _SNAPSHOT.sub("", re.sub(r"[ .]+", "-", model.strip().lower()))


def _owed(entry: Entry) -> tuple[str, Fraction]:
    """In which currency and how much the provider was owed, as far as the evidence lets it be worked out."""
    cost, currency = Fraction(entry.amount + entry.absorbed, NANOS), entry.unit
    converted = entry.evidence.get("exchange_rate")
    if converted is not None:
        cost /= Fraction(converted["rate"])
        currency = str(converted["from"])
    if "price_factor" in entry.evidence:
        cost /= Fraction(entry.evidence["price_factor"])
    return currency, cost
