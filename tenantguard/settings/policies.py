"""``[policies]``: sections, a user's own sections, and what a policy inherits."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import Field, create_model

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import CarryOver, Threshold
from tenantguard.model.period import Period
from tenantguard.model.policy import Policy
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.rate import REQUESTS, Rate
from tenantguard.model.sections import (
    NO_CARRY,
    BudgetRule,
    BudgetSection,
    Carry,
    QuotaRule,
    QuotaSection,
    RateRule,
    RateSection,
    RedactSection,
    Scope,
)
from tenantguard.model.tenant import TenantId
from tenantguard.settings.problems import did_you_mean
from tenantguard.settings.shapes import (
    AlertShape,
    BudgetShape,
    CarryMoneyShape,
    CarryUnitsShape,
    MarkupShape,
    PolicyShape,
    QuotaShape,
    RateShape,
    RedactShape,
    Shape,
    check,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path

Sections: TypeAlias = "dict[type, object]"

_Capped: TypeAlias = CarryMoneyShape | CarryUnitsShape

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """A policy with all that it inherits; ``origins`` names the policy that wrote each section."""

    policy: Policy
    origins: Mapping[type, str]
    inherits: str | None = None


def read_policies(document: Document, sections: Iterable[type] = ()) -> dict[str, ResolvedPolicy]:
    """Every policy by name, and what is wrong with each noted. ``sections`` are a user's own, frozen dataclasses.

    A policy that is wrong is among them all the same, without what could not be read.
    """
    table = document.data.get("policies", {})
    if not isinstance(table, dict):
        document.problem(("policies",), f"must be a table of tables, is {kind_of(table)}")
        return {}
    readers = _READERS | {section_key(section): partial(_read_own, section) for section in sections}
    parents: dict[str, str | None] = {}
    written: dict[str, Sections] = {}
    for name, value in table.items():
        path = ("policies", name)
        document.attempt(partial(TenantId, name), path)
        parents[name], written[name] = _read_policy(document, value, path, readers)
    for name, parent in parents.items():
        if parent is not None and parent not in parents:
            at = ("policies", name, "inherit")
            document.problem(at, f"there is no policy {parent!r}", did_you_mean(parent, parents.keys() - {name}))
    _check_cycles(document, parents)
    return {name: _resolve(name, parents, written) for name in parents}


def section_key(section: type) -> str:
    """The key of a user's section in a policy: ``QuietHoursSection`` is ``quiet_hours``."""
    if not (dataclasses.is_dataclass(section) and section.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise ConfigurationError(f"the section {section.__name__} must be a frozen dataclass")
    key = _WORD.sub("_", section.__name__.removesuffix("Section")).lower()
    if key in {"inherit", *_READERS}:
        raise ConfigurationError(f"the section {section.__name__} would take the place of the built-in {key!r}")
    return key


def _read_policy(
    document: Document, value: object, path: Path, readers: Mapping[str, _Reader]
) -> tuple[str | None, Sections]:
    if not isinstance(value, dict):
        document.problem(path, f"must be a table, is {kind_of(value)}")
        return None, {}
    sections: Sections = {}
    for key, read in readers.items():
        section = read(document, value[key], (*path, key)) if key in value else None
        if section is not None:
            sections[type(section)] = section
    rest = {key: inner for key, inner in value.items() if key not in readers}
    shape = check(document, PolicyShape, rest, path, known={"inherit", *readers})
    return (shape.inherit if shape is not None else None), sections


def _check_cycles(document: Document, parents: Mapping[str, str | None]) -> None:
    told: set[str] = set()
    for name in parents:
        chain = [name]
        while (parent := parents.get(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        if parent == name and name not in told:
            told.update(chain)
            document.problem(("policies", name, "inherit"), f"goes in a circle: {' -> '.join([*chain, name])}")


def _resolve(name: str, parents: Mapping[str, str | None], written: Mapping[str, Sections]) -> ResolvedPolicy:
    sections: Sections = {}
    origins: dict[type, str] = {}
    chain = [name]
    while (parent := parents.get(chain[-1])) in parents and parent not in chain:
        chain.append(typing.cast("str", parent))
    for ancestor in reversed(chain):
        sections |= written[ancestor]
        origins |= dict.fromkeys(written[ancestor], ancestor)
    return ResolvedPolicy(Policy.of(name, sections.values()), MappingProxyType(origins), parents[name])


# sections


def _several(document: Document, value: object, path: Path) -> list[tuple[object, Path]]:
    """The elements of a list, or one thing written without a list, each with its place."""
    if not isinstance(value, list):
        return [(value, path)]
    if not value:
        document.problem(path, "is empty", "leave the key out where nothing applies")
    return [(element, (*path, index)) for index, element in enumerate(value)]


def _read_rate(document: Document, value: object, path: Path) -> RateSection:
    rules = []
    for element, at in _several(document, value, path):
        if isinstance(element, str):
            rate = document.attempt(partial(Rate.parse, element), at)
            rules += [RateRule(rate)] if rate is not None else []
        else:
            shape = check(document, RateShape, element, at)
            rules += [RateRule(shape.limit, shape.scope)] if shape is not None else []
    return RateSection(tuple(rules))


def _read_budget(document: Document, value: object, path: Path) -> BudgetSection | None:
    rules: list[BudgetRule] = []
    for element, at in _several(document, value, path):
        shape = check(document, BudgetShape, element, at)
        carry = _read_carry(document, element, at, CarryMoneyShape)
        thresholds = _read_alerts(document, element, at)
        if shape is None or carry is None:
            continue
        make = partial(BudgetRule, shape.limit, shape.per, Scope(shape.scope), shape.mode, carry, thresholds)
        rule = document.attempt(make, at)
        if rule is None:
            continue
        if any((other.per, other.scope) == (rule.per, rule.scope) for other in rules):
            document.problem(
                at, "counts over the same period and scope as an earlier budget: they share one account", "keep one"
            )
        else:
            rules.append(rule)
    return document.attempt(partial(BudgetSection, tuple(rules)), path)


def _read_quota(document: Document, value: object, path: Path) -> QuotaSection | None:
    known = _units(document)
    rules: list[QuotaRule] = []
    for element, at in _several(document, value, path):
        shape = check(document, QuotaShape, element, at)
        carry = _read_carry(document, element, at, CarryUnitsShape)
        thresholds = _read_alerts(document, element, at)
        if shape is None or carry is None:
            continue
        if shape.unit not in known:
            remedy = did_you_mean(shape.unit, known) or f"known are {', '.join(sorted(known))}"
            document.problem(
                (*at, "unit"), f"no request takes {shape.unit!r}, in 'takes' or 'unit' of a route", remedy
            )
        per = shape.per or (Period.LIFETIME if shape.returned else None)
        if per is None:
            document.problem((*at, "per"), "is missing")
            continue
        counts = (shape.unit, shape.limit, per, Scope(shape.scope), shape.mode, carry, thresholds, shape.returned)
        rule = document.attempt(partial(QuotaRule, *counts), at)
        if rule is None:
            continue
        if any((other.unit, other.per, other.scope) == (rule.unit, rule.per, rule.scope) for other in rules):
            document.problem(at, f"an earlier quota of {rule.unit!r} has the same period and scope", "keep one")
        else:
            rules.append(rule)
    return document.attempt(partial(QuotaSection, tuple(rules)), path)


def _units(document: Document) -> set[str]:
    """The units that requests can take: whatever any route names, right or wrong in other respects."""
    units = {REQUESTS}
    routes = document.data.get("routes")
    for route in routes if isinstance(routes, list) else ():
        if isinstance(route, dict):
            units.update(unit for unit in [route.get("unit")] if isinstance(unit, str))
            takes = route.get("takes")
            units.update(takes if isinstance(takes, dict) else ())
    return units


def _read_carry(document: Document, element: object, path: Path, shape: type[_Capped]) -> Carry | None:
    """``carry`` of a budget or quota; None after what is wrong with it was noted."""
    value = element.get("carry", "none") if isinstance(element, dict) else "none"
    at = (*path, "carry")
    if isinstance(value, dict):
        capped = check(document, shape, value, at)
        return None if capped is None else Carry(CarryOver.UNUSED, capped.unused)
    if value == CarryOver.NONE:
        return NO_CARRY
    if value == CarryOver.DEBT:
        return Carry(CarryOver.DEBT)
    limit = "50.00 USD" if shape is CarryMoneyShape else 100
    remedy = f"write for example {{ unused = {json.dumps(limit)} }}: at most so much is carried over"
    meant = did_you_mean(value, ("none", "debt")) if isinstance(value, str) and value != CarryOver.UNUSED else None
    document.problem(at, "must be 'none', 'debt' or a table { unused = ... }", meant or remedy)
    return None


def _read_alerts(document: Document, element: object, path: Path) -> tuple[Threshold, ...]:
    """``alerts`` of a budget or quota, as far as they are right. What is no list is noted with the element."""
    alerts = element.get("alerts") if isinstance(element, dict) else None
    thresholds = []
    for index, alert in enumerate(alerts if isinstance(alerts, list) else ()):
        at = (*path, "alerts", index)
        if isinstance(alert, dict):
            shape = check(document, AlertShape, alert, at)
            thresholds += [Threshold(shape.percent, shape.of)] if shape is not None else []
        elif type(alert) is int:
            threshold = document.attempt(partial(Threshold, alert), at)
            thresholds += [threshold] if threshold is not None else []
        else:
            document.problem(
                at, f"must be a whole percentage or a table, is {kind_of(alert)}", "write for example [80, 100]"
            )
    return tuple(thresholds)


def _read_pricing(document: Document, value: object, path: Path) -> PricingSection | None:
    shape = check(document, MarkupShape, value, path)
    if shape is None:
        return None
    shares = {name: share for name in shape.model_fields_set if (share := getattr(shape, name)) is not None}
    return document.attempt(partial(PricingSection, **shares), path)


def _read_redact(document: Document, value: object, path: Path) -> RedactSection | None:
    shape = check(document, RedactShape, value, path)
    if shape is None:
        return None
    if shape.entities:
        from tenantguard.adapters.pii.presidio import known_entities  # noqa: PLC0415 - takes seconds

        known = known_entities()
        for index, entity in enumerate(shape.entities):
            if entity not in known:
                meant = did_you_mean(entity, known)
                document.problem((*path, "entities", index), f"Presidio finds no entity {entity!r}", meant)
    make = partial(RedactSection, shape.request, shape.response, tuple(shape.entities), shape.threshold)
    return document.attempt(make, path)


def _read_own(section: type, document: Document, value: object, path: Path) -> object:
    hints = typing.get_type_hints(section)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(section)
    }
    shape = check(document, create_model(section.__name__, __base__=Shape, **fields), value, path)
    if shape is None:
        return None
    return document.attempt(lambda: section(**{name: getattr(shape, name) for name in fields}), path)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ...


_Reader: TypeAlias = "Callable[[Document, object, Path], object]"
_READERS: Final[dict[str, _Reader]] = {
    "rate": _read_rate,
    "budget": _read_budget,
    "quota": _read_quota,
    "pricing": _read_pricing,
    "redact": _read_redact,
}
