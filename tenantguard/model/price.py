"""Prices by model: published rows with the time from which they hold, and the operator's book over them.

Both are immutable, with a version that every charge records.
"""

# ruff: noqa: PLC0414, TC001 - what one model costs is offered here beside the book of all
from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.token_price import TokenPrice as TokenPrice
from tenantguard.model.token_price import parse_rate as parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

NAME_MAX: Final = 256
"""The longest name, in characters, that is compared with patterns: names come from callers."""

_REMEMBERED_MAX: Final = 1024  # so that callers cannot grow the memory
_STARS_MAX: Final = 3
_WILD: Final = {"*": ".*", "#": "[0-9]"}


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What ``provider`` (None: any) takes for a model from ``from_ns`` on, in nanoseconds since 1970-01-01 UTC.

    The row holds for ``model`` and ``aliases``, which are exact names, and for names that match one of ``patterns``,
    in which ``*`` is any text and ``#`` one digit. ``unpriced`` names what the source of the row charges for, and the
    price does not say.
    """

    model: str
    price: TokenPrice
    provider: str | None = None
    from_ns: int = 0
    aliases: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all((self.model, self.provider is None or self.provider, *self.aliases)):
            raise ConfigurationError("a price's model, aliases and provider must be non-empty names")
        if type(self.from_ns) is not int:
            raise ConfigurationError("a price holds from a whole number of nanoseconds since 1970 on")
        for pattern in self.patterns:
            stars = pattern.count("*")
            if not (stars or "#" in pattern) or stars > _STARS_MAX or not pattern.strip("*#"):
                raise ConfigurationError(
                    f"the pattern {pattern!r} must have one to {_STARS_MAX} '*' (any text) or some '#' (a digit), "
                    "and other text beside them"
                )

    def names(self, model: str) -> bool:
        """Whether this is one of the row's exact names."""
        return model == self.model or model in self.aliases


@dataclass(frozen=True, slots=True)
class PriceList:
    """Rows of prices, and the version under which charges record them; derived from the rows unless given.

    Two rows of one provider that give one name, or one pattern, a price from the same time on are refused.
    """

    rows: tuple[PriceRow, ...] = ()
    version: str = ""
    _exact: dict[str, list[PriceRow]] = field(init=False, repr=False, compare=False)
    _patterns: tuple[tuple[re.Pattern[str], list[PriceRow]], ...] = field(init=False, repr=False, compare=False)
    _matched: dict[str, list[PriceRow]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.version:
            digest = hashlib.blake2s(repr(self.rows).encode(), digest_size=6).hexdigest()
            object.__setattr__(self, "version", digest)
        exact = _index((name, row) for row in self.rows for name in (row.model, *row.aliases))
        patterns = _index((pattern, row) for row in self.rows for pattern in row.patterns)
        ranked = sorted(patterns, key=lambda pattern: (-len(pattern.replace("*", "")), pattern))
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_patterns", tuple((_compiled(text), patterns[text]) for text in ranked))

    def find(self, model: str, providers: tuple[str, ...] = (), now_ns: int = 0) -> PriceRow | None:
        """The row in force at ``now_ns`` for a call to ``model``, or None.

        A row with this exact name goes before one with a pattern, and the longest pattern first. Of several providers
        the first of ``providers`` is taken, after them a row without one; where ``providers`` is empty, all must
        agree on the price.
        """
        for rows in self._stages(model):
            found: dict[str | None, PriceRow] = {}
            for row in rows:
                if row.from_ns <= now_ns:
                    found.setdefault(row.provider, row)
            if providers:
                chosen = next((found[name] for name in (*providers, None) if name in found), None)
                if chosen is not None:
                    return chosen
            elif found:
                first, *others = found.values()
                return first if all(other.price == first.price for other in others) else None
        return None

    def sellers(self, model: str, now_ns: int) -> tuple[PriceRow, ...]:
        """The row in force of each provider that sells ``model``."""
        found: dict[str | None, PriceRow] = {}
        for rows in self._stages(model):
            for row in rows:
                if row.from_ns <= now_ns:
                    found.setdefault(row.provider, row)
        return tuple(found.values())

    def _stages(self, model: str) -> Iterator[Iterable[PriceRow]]:
        """Rows that name the model, then rows whose pattern it matches, longest first; of each the latest first."""
        yield self._exact.get(model, ())
        yield self._matched.get(model) or self._match(model)

    def _match(self, model: str) -> list[PriceRow]:
        """The rows whose pattern ``model`` matches, remembered: 500 patterns take 0.1 ms, too long for a request."""
        if len(model) > NAME_MAX:
            return []
        matched = [row for pattern, rows in self._patterns if pattern.fullmatch(model) for row in rows]
        if matched:
            if len(self._matched) >= _REMEMBERED_MAX:
                self._matched.clear()
            self._matched[model] = matched
        return matched


class UnknownModel(StrEnum):
    """What becomes of a call whose model has no price.

    ``refuse`` it (the default); let it go free with one warning per name (``warn``); or charge the ``default`` price.
    """

    REFUSE = "refuse"
    WARN = "warn"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The operator's prices by exact model name, published ones behind them, and what holds for every other name.

    ``listed`` is a price file; of its prices those of the first of ``providers`` count that sells the model, and
    without ``providers`` those on which all sellers agree. ``version`` is derived from the content unless given:
    equal books have equal versions whatever process built them.
    """

    models: Mapping[str, TokenPrice] = field(default_factory=dict, hash=False)
    unknown: UnknownModel = UnknownModel.REFUSE
    default: TokenPrice | None = None
    version: str = ""
    listed: PriceList = field(default_factory=PriceList)
    providers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.unknown is UnknownModel.DEFAULT) != (self.default is not None):
            raise ConfigurationError("prices: a default price and unknown = 'default' go together")
        if "" in self.models:
            raise ConfigurationError("prices: a model's name must be non-empty")
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        if not self.version:
            shown = repr((sorted(self.models.items()), self.unknown.value, self.default, self.providers))
            own = hashlib.blake2s(shown.encode(), digest_size=6).hexdigest()
            object.__setattr__(self, "version", f"{self.listed.version}+{own}" if self.listed.rows else own)

    def find(self, model: str) -> TokenPrice | None:
        """The operator's price of exactly this model, or None."""
        return self.models.get(model)

    def with_model(self, model: str, price: TokenPrice) -> PriceBook:
        """A new book in which ``model`` has this price; all else is as it was, and the version is derived anew."""
        models = {**self.models, model: price}
        return PriceBook(models, self.unknown, self.default, listed=self.listed, providers=self.providers)


def _index(named: Iterable[tuple[str, PriceRow]]) -> dict[str, list[PriceRow]]:
    """Rows by name, the latest first."""
    index: dict[str, list[PriceRow]] = {}
    seen: set[tuple[str, str | None, int]] = set()
    for name, row in named:
        key = (name, row.provider, row.from_ns)
        if key in seen:
            seller = f" of {row.provider!r}" if row.provider is not None else ""
            raise ConfigurationError(f"two prices{seller} for {name!r} hold from the same time on")
        seen.add(key)
        index.setdefault(name, []).append(row)
    for rows in index.values():
        rows.sort(key=lambda row: -row.from_ns)
    return index


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_WILD.get(char) or re.escape(char) for char in pattern))
