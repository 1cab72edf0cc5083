"""``tenantguard check FILE``: every problem of a settings file at once, or what it comes to for each tenant."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.model.price import TokenPrice
    from tenantguard.model.route import Route
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
    if settings.prices.models or settings.prices.default:
        print(f"\nprices (version {settings.prices.version}), for a million tokens")
        header = ("  model", "input", "output", "cache read", "cache write")
        _print_table([header, *(_price(model, price) for model, price in sorted(settings.prices.models.items()))])
        default = settings.prices.default
        if default is not None:
            _print_table([_price("any other", default)])
        else:
            print(f"  any other: {settings.prices.unknown.value}")
    for loophole in loopholes(settings):
        print(f"\nweakens the guard: {loophole}")
    return 0


def _guard(settings: Settings) -> Iterator[Row]:
    tenancy = settings.tenancy
    yield "layers", " > ".join(layer.name for layer in settings.layers)
    yield "ledger", settings.guard.ledger or "none: nothing is charged"
    yield "limits", settings.guard.limits
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
    from tenantguard.model.sections import BudgetSection, RateSection, RedactSection  # noqa: PLC0415

    for kind, section in resolved.policy.sections.items():
        origin = resolved.origins[kind]
        source = "" if origin == name else f"from {origin}"
        if isinstance(section, RateSection):
            for rate in section.rules:
                yield "  rate", f"{rate.rate}, for each {rate.scope.value}", source
        elif isinstance(section, BudgetSection):
            for budget in section.rules:
                yield "  budget", f"{budget.limit} in each {budget.per.value}, for each {budget.scope.value}", source
        elif isinstance(section, RedactSection):
            found = ", ".join(section.entities) or "all entities"
            how = f"request {section.request.value}, response {section.response.value}"
            yield "  redact", f"{how}: {found} (score {section.threshold:g} and above)", source
        else:
            yield f"  {kind.__name__}", str(section), source


def _route(route: Route) -> str:
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
        told.append(f"{route.unit_price} a {route.unit}, at most {route.max_units}")
    return ", ".join(told) or "no price"


def _price(model: str, price: TokenPrice) -> Row:
    from tenantguard.model.money import Amount  # noqa: PLC0415

    rates = (price.input, price.output, price.cache_read, price.cache_write)
    return (f"  {model}", *(str(Amount(rate, price.currency)) for rate in rates))


def _print_table(rows: Iterable[Row]) -> None:
    """Print rows in columns as wide as their widest cell."""
    listed = list(rows)
    widths = [max(len(row[column]) for row in listed if column < len(row)) for column in range(max(map(len, listed)))]
    for row in listed:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
