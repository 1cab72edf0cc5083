"""``[policies]``: sections, a user's own sections, and what a policy inherits."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from pydantic import Field, create_model

from tenantguard.errors import ConfigurationError
from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection, WhenFull
from tenantguard.model.ledger import CarryOver, Threshold
from tenantguard.model.period import Period
from tenantguard.model.policy import Policy
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS
from tenantguard.model.sections import (
    NO_CARRY,
    BudgetRule,
    BudgetSection,
    Carry,
    Group,
    PlanSection,
    QuotaRule,
    QuotaSection,
    RateRule,
    RateSection,
    Scope,
)
from tenantguard.model.tenant import TenantId
from tenantguard.settings.problems import did_you_mean
from tenantguard.settings.redact import read_redact
from tenantguard.settings.routes import route_names, route_tables
from tenantguard.settings.shapes import (
    AlertShape,
    BudgetShape,
    CarryMoneyShape,
    CarryUnitsShape,
    ConcurrenciesShape,
    ConcurrencyShape,
    GroupShape,
    MarkupShape,
    PolicyShape,
    QuotaShape,
    RateShape,
    RatesShape,
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
    resolved = {name: _resolve(name, parents, written) for name in parents}
    _check_plans(document, resolved, parents)
    return resolved


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


def _read_plan(document: Document, value: object, path: Path) -> PlanSection | None:
    if not isinstance(value, str):
        document.problem(path, f"must be text in quotes, is {kind_of(value)}", 'write for example "gold"')
        return None
    return document.attempt(partial(PlanSection, value), path)


def _read_rate(document: Document, value: object, path: Path) -> RateSection | None:
    terms = RatesShape(rules=value)
    if isinstance(value, dict) and "rules" in value:
        read = check(document, RatesShape, value, path)
        if read is None:
            return None
        terms, path = read, (*path, "rules")
    rules: list[RateRule] = []
    for element, at in _several(document, terms.rules, path):
        rule = (
            document.attempt(partial(RateRule.parse, element), at)
            if isinstance(element, str)
            else _read_rate_rule(document, element, at)
        )
        if rule is None:
            continue
        _check_applies(document, rule, at)
        if rule.name is not None and any(rule.name == other.name for other in rules):
            document.problem(at, f"an earlier rate is called {rule.name!r}: they would share buckets", "rename one")
        else:
            rules.append(rule)
    return RateSection(tuple(rules), terms.combine, terms.on_error, terms.signals)


def _read_rate_rule(document: Document, element: object, path: Path) -> RateRule | None:
    shape = check(document, RateShape, element, path, expected="text in quotes or a table", example='"10/second"')
    if shape is None:
        return None
    rate, unit = shape.limit
    if shape.unit is not None and unit not in {REQUESTS, shape.unit}:
        document.problem(
            (*path, "unit"), f"is {shape.unit!r}, and the limit counts {unit!r}", "leave one of them out"
        )
    group = None
    if shape.group is not None:
        group = _read_group(document, shape.group, (*path, "group"))
        if group is None:
            return None
    make = partial(RateRule, rate, shape.scope, shape.unit or unit, group, shape.shadow, shape.name, shape.strategy)
    return document.attempt(make, path)


def _read_group(document: Document, value: object, path: Path) -> Group | None:
    shape = check(document, GroupShape, value, path)
    if shape is None:
        return None
    known = route_names(document)
    for index, name in enumerate(shape.routes):
        if name not in known:
            remedy = did_you_mean(name, known) or "write the name of a route, or its match where it has none"
            document.problem((*path, "routes", index), f"there is no route {name!r}", remedy)
    return document.attempt(partial(Group, tuple(shape.routes), tuple(shape.models)), path)


def _read_concurrency(document: Document, value: object, path: Path) -> ConcurrencySection | None:
    terms = ConcurrenciesShape(rules=value)
    if isinstance(value, dict) and "rules" in value:
        read = check(document, ConcurrenciesShape, value, path)
        if read is None:
            return None
        terms, path = read, (*path, "rules")
    rules: list[ConcurrencyRule] = []
    for element, at in _several(document, terms.rules, path):
        rule = _read_concurrency_rule(document, {"limit": element} if type(element) is int else element, at)
        if rule is None:
            continue
        if rule.name is not None and any(rule.name == other.name for other in rules):
            document.problem(
                at, f"an earlier concurrency is called {rule.name!r}: they would share slots", "rename one"
            )
        else:
            rules.append(rule)
    return ConcurrencySection(tuple(rules), terms.combine, terms.on_error)


def _read_concurrency_rule(document: Document, element: object, path: Path) -> ConcurrencyRule | None:
    shape = check(document, ConcurrencyShape, element, path, expected="a whole number or a table", example="5")
    if shape is None:
        return None
    if shape.when_full is WhenFull.REJECT:
        for name in shape.model_fields_set & {"queue", "wait_s"}:
            document.problem((*path, name), "is for those who wait, and when_full = 'reject' lets nobody")
    group = None
    if shape.group is not None:
        group = _read_group(document, shape.group, (*path, "group"))
        if group is None:
            return None
    if shape.scope is Scope.MODEL and not _calls_models(document):
        document.problem(path, "is for each model, and no route has the usage of one", "write usage on that route")
    wait_ns = round(shape.wait_s * NANOS_PER_SECOND)
    terms = (shape.limit, shape.scope, shape.when_full, shape.queue, wait_ns, tuple(shape.by), shape.weight)
    return document.attempt(partial(ConcurrencyRule, *terms, group, shape.name), path)


def _calls_models(document: Document) -> bool:
    """Whether some route has the usage of a model."""
    return any(isinstance(usage := route.get("usage"), str) and ":" not in usage for route in route_tables(document))


def _check_applies(document: Document, rule: RateRule, path: Path) -> None:
    """A rate that no request can meet is a mistake."""
    routes = route_tables(document)
    calls_models = _calls_models(document)
    if rule.scope is Scope.MODEL and not calls_models:
        document.problem(path, "is for each model, and no route has the usage of one", "write usage on that route")
    known = {REQUESTS, *([TOKENS] if calls_models else [])}
    known.update(*(takes for route in routes if isinstance(takes := route.get("takes"), dict)))
    if rule.unit not in known:
        remedy = did_you_mean(rule.unit, known) or f"known are {', '.join(sorted(known))}"
        if rule.unit == TOKENS:
            remedy = "write usage on the route that calls a model"
        document.problem(path, f"no request takes {rule.unit!r}", remedy)


def _check_plans(
    document: Document, resolved: Mapping[str, ResolvedPolicy], parents: Mapping[str, str | None]
) -> None:
    """What is limited by plan needs one, unless others inherit it and name theirs."""
    for name, policy in resolved.items():
        if name in parents.values() or policy.policy.section(PlanSection) is not None:
            continue
        rates, slots = policy.policy.section(RateSection), policy.policy.section(ConcurrencySection)
        for what, rules in (
            ("rate", rates.rules if rates is not None else ()),
            ("concurrency", slots.rules if slots is not None else ()),
        ):
            if any(rule.scope is Scope.PLAN for rule in rules):
                document.problem(
                    ("policies", name),
                    f"has a {what} of its plan, and no plan",
                    'write plan = "gold", or what it is called',
                )


def _read_budget(document: Document, value: object, path: Path) -> BudgetSection | None:
    rules: list[BudgetRule] = []
    for element, at in _several(document, value, path):
        shape = check(document, BudgetShape, element, at, example='{ limit = "250.00 USD", per = "month" }')
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
        example = '{ unit = "requests", limit = 1000, per = "day" }'
        shape = check(document, QuotaShape, element, at, example=example)
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
    for route in route_tables(document):
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
    shape = check(document, MarkupShape, value, path, example='{ markup = "15%" }')
    if shape is None:
        return None
    shares = {name: share for name in shape.model_fields_set if (share := getattr(shape, name)) is not None}
    return document.attempt(partial(PricingSection, **shares), path)


def _read_own(section: type, document: Document, value: object, path: Path) -> object:
    hints = typing.get_type_hints(section)
    fields: dict[str, Any] = {
        field.name: (_written(hints[field.name]), _default(field)) for field in dataclasses.fields(section)
    }
    shape = check(document, create_model(section.__name__, __base__=Shape, **fields), value, path)
    if shape is None:
        return None

    def make() -> object:
        try:
            return section(**{name: getattr(shape, name) for name in fields})
        except ValueError as wrong:  # as dataclasses refuse values
            raise ConfigurationError(str(wrong)) from None

    return document.attempt(make, path)


def _written(hint: Any) -> Any:
    """A type as TOML can write it: a tuple as a list, a member of an enumeration as its value."""
    kind = typing.get_origin(hint) or hint
    if isinstance(kind, type) and issubclass(kind, (tuple, frozenset, Enum)):
        return Annotated[hint, Field(strict=False)]
    return hint


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ...


_Reader: TypeAlias = "Callable[[Document, object, Path], object]"
_READERS: Final[dict[str, _Reader]] = {
    "plan": _read_plan,
    "rate": _read_rate,
    "concurrency": _read_concurrency,
    "budget": _read_budget,
    "quota": _read_quota,
    "pricing": _read_pricing,
    "redact": read_redact,
}
