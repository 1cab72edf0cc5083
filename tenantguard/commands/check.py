"""``tenantguard check FILE``: every problem of a settings file at once, or what it comes to for each tenant."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection
    from tenantguard.model.period import Period
    from tenantguard.model.price import TokenPrice
    from tenantguard.model.redact_section import Direction, Listing, RedactSection
    from tenantguard.model.route import Route
    from tenantguard.model.sections import BudgetRule, QuotaRule, RateRule, RateSection, Scope
    from tenantguard.model.token_price import Rates
    from tenantguard.settings import ResolvedPolicy, Settings

_EPILOG: Final = """\
examples:
  tenantguard check tenantguard.toml
  TENANTGUARD__GUARD__LEDGER=memory:// tenantguard check tenantguard.toml

Environment variables override the file: two underscores separate keys, and a value is text, or TOML where it is true,
false, a plain number, or begins with a bracket, a brace or a quote.

exit codes: 0 the settings are right, 2 they are wrong: every problem is told, with its line
"""

Row: TypeAlias = tuple[str, ...]


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "check",
        help="check a settings file and show each tenant's policy",
        description="Check a settings file, and print the policy that each tenant gets and where it comes from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the settings, tenantguard.toml")
    parser.add_argument(
        "--section",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="a policy section of your own, as given to load(..., sections=[...]); may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Print what the settings come to. Raises where they are wrong."""
    from tenantguard.settings import import_target, loopholes, read_settings  # noqa: PLC0415

    settings = read_settings(args.file, sections=[import_target(name) for name in args.section])
    print(f"{args.file} is right.\n")
    _print_table(_guard(settings))
    for name in sorted(settings.policies):
        print()
        _print_policy(name, settings)
    if settings.routes.routes:
        print("\nroutes, the first that matches")
        _print_table([(f"  {route.match}", _route(route)) for route in settings.routes.routes])
    _print_prices(settings)
    if settings.rates is not None:
        from tenantguard.rules.pricing import exact_text  # noqa: PLC0415

        print(f"\nexchange rates (version {settings.rates.version})")
        rates = sorted(settings.rates.rates.items())
        _print_table([(f"  1 {currency}", f"{exact_text(rate)} {settings.rates.base}") for currency, rate in rates])
    for loophole in loopholes(settings):
        print(f"\nweakens the guard: {loophole}")
    return 0


def _guard(settings: Settings) -> Iterator[Row]:
    from tenantguard.model.route import Idempotency  # noqa: PLC0415
    from tenantguard.settings import shown_ledger, shown_limits  # noqa: PLC0415

    tenancy = settings.tenancy
    yield "layers", " > ".join(layer.name for layer in settings.layers)
    uri = settings.guard.ledger
    yield "ledger", "none: nothing is charged" if uri is None else shown_ledger(uri)
    if uri is not None and uri != "memory://":
        bounds = settings.ledger
        yield "", f"answers within {bounds.deadline_s:g} s, and at most {bounds.queue_max} holds wait to be written"
    if uri is not None and settings.ledger.admission == "lease":
        yield "", "each process leases blocks of budget and places holds in memory"
    yield "limits", shown_limits(settings.guard.limits)
    if settings.guard.limits != "memory://":
        shared = settings.limits
        others = "as many as it sees" if shared.processes is None else f"{shared.processes}"
        yield "", f"decides within {shared.deadline_ms} ms, else with a share of the rate for one of {others}"
        if shared.lease:
            yield "", f"each process leases up to {shared.lease} units of a bucket"
    slots = settings.guard.limits if settings.guard.slots is None else settings.guard.slots
    if slots != "memory://":
        yield "slots", shown_limits(slots)
        yield "", f"those of a process that is lost come back after {settings.limits.slot_lease_s:g} s"
    elif settings.guard.limits != "memory://":
        yield "slots", "of each process for itself"
    names = {layer.name for layer in settings.layers}
    if "charge" in names and "idempotency" not in names:
        yield "repetitions", "an Idempotency-Key means nothing: guard.layers lacks 'idempotency'"
    replays = any(route.idempotency is Idempotency.REPLAY for route in settings.routes.routes)
    if replays and settings.idempotency_key is None:
        yield "kept responses", "of each process for itself: idempotency.key shares them, and outlives restarts"
    if settings.redaction_key is None and any(layer.name == "redaction" for layer in settings.layers):
        yield "placeholders", "other ones in each process: redaction.key makes them the same"
    if tenancy.mode == "single":
        yield "tenants", "one, 'default'"
        return
    yield (
        "tenants",
        f"from {' or '.join(tenancy.sources)}; {'required' if tenancy.required else 'anonymous: default'}",
    )
    others = f"policy {tenancy.fallback!r}" if tenancy.fallback is not None else "refused"
    yield "", f"without a policy of their own: {others}"


def _print_policy(name: str, settings: Settings) -> None:
    resolved = settings.policies[name]
    heading = f"policy {name} (revision {resolved.policy.revision}"
    heading += f", inherits {resolved.inherits})" if resolved.inherits is not None else ")"
    print(heading)
    keys = [
        f"{identity.id} ({identity.role.value}{'' if identity.tenant == name else f' of {identity.tenant}'})"
        for identity in settings.keys.values()
        if identity.tenant == name or (name == settings.tenancy.fallback and identity.tenant not in settings.policies)
    ]
    rows = list(_sections(name, resolved))
    if keys:
        rows.insert(0, ("  keys", ", ".join(keys), ""))
    _print_table(rows or [("  nothing is limited, charged to a budget or redacted",)])


def _sections(name: str, resolved: ResolvedPolicy) -> Iterator[Row]:
    from tenantguard.model.concurrency import ConcurrencySection  # noqa: PLC0415
    from tenantguard.model.pricing_section import PricingSection  # noqa: PLC0415
    from tenantguard.model.redact_section import RedactSection  # noqa: PLC0415
    from tenantguard.model.sections import (  # noqa: PLC0415
        BudgetSection,
        PlanSection,
        QuotaSection,
        RateSection,
    )

    for kind, section in resolved.policy.sections.items():
        origin = resolved.origins[kind]
        source = "" if origin == name else f"from {origin}"
        if isinstance(section, RateSection):
            for rate in section.rules:
                yield "  rate", _rate(rate), source
            if terms := _together(section):
                yield "  rates", terms, source
        elif isinstance(section, ConcurrencySection):
            for slots in section.rules:
                yield "  concurrency", _slots(slots), source
            if terms := _together(section):
                yield "  concurrencies", terms, source
        elif isinstance(section, PlanSection):
            yield "  plan", section.name, source
        elif isinstance(section, BudgetSection):
            for budget in section.rules:
                yield "  budget", f"{budget.limit} {_counted(budget.per)}, {_terms(budget)}", source
        elif isinstance(section, QuotaSection):
            for quota in section.rules:
                when = "at a time" if quota.returned else _counted(quota.per)
                yield "  quota", f"{quota.limit} {quota.unit} {when}, {_terms(quota)}", source
        elif isinstance(section, PricingSection):
            yield "  pricing", f"{section} on what models cost", source
        elif isinstance(section, RedactSection):
            for what, told in _redact(section):
                yield f"  {what}", told, source
                source = ""
        else:
            yield f"  {kind.__name__}", str(section), source


def _redact(section: RedactSection) -> Iterator[tuple[str, str]]:
    """What is redacted each way, and on which routes otherwise."""
    yield "redact request", _direction(section.request)
    yield "redact response", _direction(section.response) + _restored(section)
    for name, route in section.routes:
        if route.request != section.request:
            yield f"  on {name}", f"request: {_direction(route.request)}"
        if (route.response, route.restore) != (section.response, section.restore):
            yield f"  on {name}", f"response: {_direction(route.response)}{_restored(route)}"


def _restored(section: RedactSection) -> str:
    from tenantguard.model.redact_section import Restore  # noqa: PLC0415

    if not section.restore:
        return ""
    where = {Restore.ALL: "", Restore.TEXT: " in text", Restore.ARGUMENTS: " in arguments of tools"}
    return f"; the request's own values restored{where[section.restore]}"


def _direction(direction: Direction | None) -> str:
    """What is found, what becomes of it, and where, as far as it differs from what is usual. Never a listed value."""
    from tenantguard.model.redact_section import Direction  # noqa: PLC0415

    if direction is None:
        return "off"
    find, usual = direction.find, Direction()
    found = ", ".join([*find.entities, *find.recognizers]) or "all entities"
    told = [f"{found} (score {find.threshold:g} and above)"]
    if find.countries:
        told.append(f"those of {', '.join(find.countries)}")
    if find.languages != usual.find.languages:
        told.append(f"in {', '.join(find.languages)}")
    if find.phone_regions:
        told.append(f"telephone numbers of {', '.join(find.phone_regions)}")
    if not find.context:
        told.append("whatever words are before")
    if find.normalize:
        told.append("in any width")
    told += [f"{entity}: {operator.kind.value}" for entity, operator in direction.operators]
    lists = (("allowed", find.allow), ("denied", find.deny))
    told += [f"{count} {what}" for what, listing in lists if (count := _entries(listing))]
    if find.known:
        told.append(f"{len(find.known)} known secrets")
    if find.secrets and not find.entropy:
        told.append("no random keys")
    if direction.limit_bytes is not None:
        told.append(f"at most {direction.limit_bytes} bytes")
    if direction.fields:
        told.append(f"only {', '.join(direction.fields)}")
    if direction.skip:
        told.append(f"not {', '.join(direction.skip)}")
    switches = {"keys": direction.keys, "numbers": direction.numbers, "query": direction.query}
    parts = [name for name, on in (switches | {"path": direction.path}).items() if on]
    parts += [f"header {name}" for name in direction.headers]
    if parts:
        told.append(f"also {', '.join(parts)}")
    for key in ("secrets", "unknown", "on_error"):
        value = getattr(direction, key)
        if value is not getattr(usual, key):
            told.append(f"{key} {value.value}")
    if find.parity is not usual.find.parity:
        told.append("by Presidio's own engine")
    if find.ner:
        told.append(
            f"names by a language model, {'streams kept whole for it' if direction.buffer else 'not in streams'}"
        )
    return "; ".join(told)


def _entries(listing: Listing) -> int:
    return sum(map(len, (listing.exact, listing.regex, listing.domains, listing.networks)))


def _whose(scope: Scope) -> str:
    return "for everybody together" if scope.value == "global" else f"for each {scope.value}"


def _rate(rule: RateRule) -> str:
    from tenantguard.model.rate import REQUESTS  # noqa: PLC0415

    counts = str(rule.rate) if rule.unit == REQUESTS else f"{rule.unit}: {rule.rate}"
    told = [f"{counts}, {_whose(rule.scope)}"]
    if rule.group is not None:
        told.append(f"of {', '.join([*rule.group.routes, *rule.group.models])}")
    if rule.shadow:
        told.append("shadow: nothing is refused")
    return "; ".join(told)


def _slots(rule: ConcurrencyRule) -> str:
    from tenantguard.model.concurrency import WhenFull  # noqa: PLC0415

    told = [f"{rule.limit} at a time, {_whose(rule.scope)}"]
    if rule.by:
        told.append(f"by {', '.join(rule.by)}")
    if rule.group is not None:
        told.append(f"of {', '.join([*rule.group.routes, *rule.group.models])}")
    if rule.when_full is WhenFull.QUEUE:
        told.append(f"{rule.queue} wait, {rule.wait_ns / 1e9:g} s at most")
    if rule.weight != 1:
        told.append(f"weight {rule.weight}")
    return "; ".join(told)


def _together(section: RateSection | ConcurrencySection) -> str:
    """What rules say together, where that is not the default."""
    from tenantguard.model.sections import Combine, OnError  # noqa: PLC0415

    terms = [f"combine {section.combine.value}"] if section.combine is not Combine.ALL else []
    terms += [f"on error {section.on_error.value}"] if section.on_error is not OnError.LOCAL else []
    return ", ".join(terms)


def _counted(per: Period) -> str:
    if str(per) == "lifetime":
        return "over the lifetime"
    return f"in {per}" if per.buckets else f"in each {per}"


def _terms(rule: BudgetRule | QuotaRule) -> str:
    """Over what a budget or quota counts, and what it says beside its limit."""
    from tenantguard.model.ledger import CarryOver, Counted  # noqa: PLC0415
    from tenantguard.model.sections import Mode  # noqa: PLC0415

    told = [_whose(rule.scope)]
    if rule.mode is Mode.SOFT:
        told.append("soft: nothing is refused")
    if rule.carry.over is CarryOver.UNUSED:
        told.append(f"what is unused is carried over, at most {rule.carry.cap}")
    elif rule.carry.over is CarryOver.DEBT:
        told.append("debt is carried over")
    if rule.thresholds:
        marks = (
            f"{threshold.percent}%{' committed' if threshold.of is Counted.COMMITTED else ''}"
            for threshold in rule.thresholds
        )
        told.append(f"alerts at {', '.join(marks)}")
    return "; ".join(told)


_ROUTE_KEYS: Final = (
    "min_output",
    "image_tokens",
    "file_tokens",
    "context_tokens",
    "success",
    "on_missing_usage",
    "on_disconnect",
    "idempotency",
    "charge_once",
    "charge_reported",
    "on_orphan",
)
"""Told as they are written, where they are not what they are without being written."""


def _route(route: Route) -> str:
    from tenantguard.model.route import DEFAULT_ROUTE  # noqa: PLC0415

    told = []
    if route.public:
        told.append("public")
    if route.usage is not None:
        told.append(f"usage {route.usage}")
    if route.max_output is not None:
        told.append(f"at most {route.max_output} tokens out")
    if route.price is not None:
        told.append(f"{route.price} a request")
    if route.unit_price is not None:
        told.append(f"{route.unit_price} for each of at most {route.max_units} {route.unit}")
    if not told:
        told.append("no price")
    if route.takes:
        told.append(f"takes {' and '.join(f'{count} {unit}' for unit, count in route.takes)}")
    for key in _ROUTE_KEYS:
        value = getattr(route, key)
        if value != getattr(DEFAULT_ROUTE, key):
            told.append(f"{key} {str(value).lower()}")
    return ", ".join(told)


def _print_prices(settings: Settings) -> None:
    book = settings.prices
    if not (book.models or book.default or book.listed.rows):
        return
    print(f"\nprices (version {book.version}), for a million tokens")
    rows = [row for model, price in sorted(book.models.items()) for row in _price(model, price)]
    if book.default is not None:
        rows += _price("any other", book.default)
    if rows:
        _print_table([("  model", "input", "output", "cache read", "cache write", ""), *rows])
    if book.listed.rows:
        first = f", of {' before '.join(book.providers)}" if book.providers else ""
        count = f"{len(book.listed.rows)} price{'' if len(book.listed.rows) == 1 else 's'}"
        print(f"  {settings.price_file}: {count} (version {book.listed.version}){first}")
    if book.default is None:
        print(f"  any other: {book.unknown.value}")


def _price(model: str, price: TokenPrice) -> Iterator[Row]:
    """The rates of a model, then those of long contexts and of other service tiers."""
    from fractions import Fraction  # noqa: PLC0415

    from tenantguard.rules.pricing import exact_text  # noqa: PLC0415

    yield _rates(model, price, price.currency)
    for tier in price.tiers:
        yield _rates(f"  above {tier.above} tokens", tier, price.currency)
    for name, service in price.services:
        if isinstance(service, Fraction):
            yield (f"    {name}", f"{exact_text(service)} times")
        else:
            yield from _price(f"  {name}", service)


def _rates(name: str, rates: Rates, currency: str) -> Row:
    from tenantguard.model.money import Amount  # noqa: PLC0415
    from tenantguard.model.token_price import BASE_KINDS, KINDS  # noqa: PLC0415

    others = {kind: getattr(rates, kind) for kind in KINDS if kind not in BASE_KINDS}
    others["a request"] = rates.request or None
    told = (f"{kind} {Amount(rate, currency)}" for kind, rate in others.items() if rate is not None)
    return (
        f"  {name}",
        *(str(Amount(getattr(rates, kind), currency)) for kind in BASE_KINDS),
        ", ".join(told).replace("_", " "),
    )


def _print_table(rows: Iterable[Row]) -> None:
    """Print rows in columns as wide as their widest cell."""
    listed = list(rows)
    widths = [max(len(row[column]) for row in listed if column < len(row)) for column in range(max(map(len, listed)))]
    for row in listed:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
