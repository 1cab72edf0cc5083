"""``tenantguard ledger``: read the ledger, book what an operator decides, and compare it with others' books."""

from __future__ import annotations

import argparse
from typing import Any, Final

_EPILOG: Final = """\
examples:
  tenantguard ledger balance --tenant acme
  tenantguard ledger entries --tenant acme --limit 20
  tenantguard ledger statement --tenant acme --period 2026-11 --by day,model --format csv
  tenantguard ledger holds --review
  tenantguard ledger refund HOLD --reason 'the answer was cut'
  tenantguard ledger grant --tenant acme --amount '50 USD' --id pi_3Q9xYz --reason 'top-up of 20 November'
  tenantguard ledger resolve HOLD --charge '0.02 USD' --reason 'by the log of the provider'
  tenantguard ledger reconcile tokens.csv --provider anthropic --tolerance 1%
  tenantguard ledger reconcile bill.csv --provider generic --columns 'day=Date,cost=Total' --currency EUR
  tenantguard ledger audit

Every command reads tenantguard.toml here, the settings that --config names, or the ledger that --ledger names, beside
the guard's running processes.

exit codes: 0 done and right, 1 something is wrong with the ledger or what it is compared with, 2 wrong arguments
"""

_BOOKING: Final = ("refund", "grant", "correct", "resolve")

_ACTIONS: Final = {
    "balance": (
        "print what every account has left",
        """\
examples:
  tenantguard ledger balance --tenant acme
  tenantguard ledger balance --tenant acme --at 2026-10-31T12:00:00Z --format json\
""",
    ),
    "entries": (
        "print what was booked",
        """\
examples:
  tenantguard ledger entries --tenant acme --limit 20
  tenantguard ledger entries --period 2026-11 --format json > november.jsonl\
""",
    ),
    "statement": (
        "print a tenant's accounts over a stretch of time: opening, entries by group, closing",
        """\
A charge counts in the window in which it was held, however late it came. 'later' is what was booked on a
window after the stretch; limit, held and left are as of now.

examples:
  tenantguard ledger statement --tenant acme --period 2026-11
  tenantguard ledger statement --tenant acme --period month --by day,model,route --format csv

exit codes: 0 entries and accounts agree, 1 they do not, 2 wrong arguments\
""",
    ),
    "holds": (
        "print what is held now",
        """\
examples:
  tenantguard ledger holds --tenant acme
  tenantguard ledger holds --review\
""",
    ),
    "audit": (
        "check every invariant of the ledger",
        """\
example:
  tenantguard ledger audit --config tenantguard.toml

exit codes: 0 everything agrees, 1 what does not is told, 2 wrong arguments\
""",
    ),
    "alerts": (
        "print the alerts that were not delivered yet, and those that were given up",
        """\
examples:
  tenantguard ledger alerts
  tenantguard ledger alerts --retry 17

exit codes: 0 none was given up, 1 some were, 2 wrong arguments\
""",
    ),
    "refund": (
        "give back what a hold was charged, or a part of it",
        """\
HOLD is what 'tenantguard ledger entries' shows. The refund counts in the window of the charge.

examples:
  tenantguard ledger refund 0199f3a2c4d87b3e9a1c2d3e4f506172 --reason 'answer was cut'
  tenantguard ledger refund 0199f3a2c4d87b3e9a1c2d3e4f506172 --amount '0.50 USD' --reason 'half' --id T-93\
""",
    ),
    "grant": (
        "raise the limit of a tenant in the window that runs: a top-up",
        """\
The same payment tops up once, however often it is granted.

examples:
  tenantguard ledger grant --tenant acme --amount '50 USD' --id pi_3Q9xYz --reason 'top-up'
  tenantguard ledger grant --tenant acme --amount '100 jobs' --expires 2026-12-24 --id G-7 --reason 'trial'\
""",
    ),
    "correct": (
        "add to what is spent on a tenant's account, or, with a minus, take away",
        """\
example:
  tenantguard ledger correct --tenant acme --amount '-3.00 USD' --reason 'invoice 81 was lower'\
""",
    ),
    "resolve": (
        "end a hold that is in review",
        """\
examples:
  tenantguard ledger holds --review
  tenantguard ledger resolve 0199f3a2c4d87b3e9a1c2d3e4f506172 --charge '0.02 USD' --reason 'by their log'
  tenantguard ledger resolve 0199f3a2c4d87b3e9a1c2d3e4f506172 --void --reason 'nothing was served'\
""",
    ),
    "reconcile": (
        "compare a provider's usage or cost report with the entries, by model and day",
        """\
Known are the CSV exports of OpenAI (completions usage, costs) and Anthropic (tokens, cost).
For others --columns names day, model, input, output, cost, currency.

examples:
  tenantguard ledger reconcile tokens.csv --provider anthropic --tolerance 0.5%
  tenantguard ledger reconcile bill.csv --provider generic --currency EUR \\
      --columns 'day=Date,model=SKU,input=Prompt+Cached,output=Completion,cost=Total'

exit codes: 0 within the tolerance, 1 beyond it, 2 the file or the arguments are wrong\
""",
    ),
}


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "ledger",
        help="balances, statements, refunds, grants, audit, reconciliation",
        description="Read the ledger, book what you decide, and compare it with a provider's invoice.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    made: dict[str, argparse.ArgumentParser] = {}
    for name, (told, text) in _ACTIONS.items():
        made[name] = actions.add_parser(
            name,
            help=told,
            description=f"{told[0].upper()}{told[1:]}.",
            epilog=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    _reading(made)
    _booking(made)
    compared = made["reconcile"]
    compared.add_argument("file", metavar="FILE", help="the report, a CSV")
    compared.add_argument("--provider", required=True, choices=("openai", "anthropic", "generic"), help="whose it is")
    compared.add_argument("--columns", metavar="FIELD=COLUMN,...", help="which columns say what")
    compared.add_argument("--currency", metavar="CODE", help="the currency, where no column says it")
    compared.add_argument("--encoding", metavar="NAME", help="the file's, where it is neither UTF-8 nor UTF-16")
    compared.add_argument(
        "--tolerance", default="1%", metavar="SHARE", help="the drift that is no difference (%(default)s)"
    )
    for name in ("entries", "statement"):
        _stretch_arguments(made[name])
    whose = {"statement": "required", "grant": "required", "correct": "required", "audit": None}
    for name, action in made.items():
        _ledger_arguments(action, tenant=whose.get(name, "optional"), books=name in _BOOKING)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for. Raises where the arguments or settings are wrong."""
    from tenantguard.commands.ledger import booking, reading, reconciling, statements  # noqa: PLC0415

    actions = {
        "balance": reading.balance,
        "entries": reading.entries,
        "holds": reading.holds,
        "audit": reading.audit,
        "alerts": reading.alerts,
        "statement": statements.statement,
        "refund": booking.refund,
        "grant": booking.grant,
        "correct": booking.correct,
        "resolve": booking.resolve,
        "reconcile": reconciling.reconcile,
    }
    return actions[args.action](args)


def _reading(made: dict[str, argparse.ArgumentParser]) -> None:
    made["balance"].add_argument("--at", metavar="TIME", help="the windows that counted then (now)")
    made["balance"].add_argument("--all", action="store_true", help="every window that was ever touched")
    made["entries"].add_argument(
        "--limit", type=int, default=100, metavar="N", help="the latest N, without a stretch of time; 0: all (100)"
    )
    made["statement"].add_argument(
        "--by", default="day", metavar="WHAT", help="group entries by some of day,model,route (%(default)s)"
    )
    made["statement"].add_argument("--budget", metavar="NAME", help="only this account, as 'balance' shows it")
    made["holds"].add_argument("--review", action="store_true", help="only those that wait for an operator")
    made["alerts"].add_argument("--limit", type=int, default=100, metavar="N", help="the latest N (%(default)s)")
    made["alerts"].add_argument("--retry", type=int, metavar="SEQ", help="let this one be tried again now")


def _booking(made: dict[str, argparse.ArgumentParser]) -> None:
    for name in ("refund", "resolve"):
        made[name].add_argument("hold", metavar="HOLD", help="the hold's id")
    made["refund"].add_argument("--amount", metavar="AMOUNT", help="a part of it, '0.50 USD' (all)")
    for name in ("grant", "correct"):
        made[name].add_argument("--amount", required=True, metavar="AMOUNT", help="'50 USD', or '100 jobs'")
        made[name].add_argument(
            "--budget", metavar="NAME", help="which account, as 'balance' shows it, where there are several"
        )
    made["grant"].add_argument("--expires", metavar="TIME", help="when it ends, before its window does")
    made["grant"].add_argument("--id", required=True, metavar="PAYMENT", help="the payment's own id")
    for name in ("refund", "correct"):
        made[name].add_argument("--id", metavar="ID", help="your own id of it: booked once under it (a new one)")
    ends = made["resolve"].add_mutually_exclusive_group(required=True)
    ends.add_argument("--charge", metavar="AMOUNT", help="charge this much, or 'all' that is held")
    ends.add_argument("--void", action="store_true", help="charge nothing")
    for name in _BOOKING:
        made[name].add_argument("--reason", required=True, metavar="TEXT", help="why, for who reads the entry later")


def _ledger_arguments(parser: argparse.ArgumentParser, *, tenant: str | None, books: bool) -> None:
    """Which ledger, whose accounts, and how they are shown; what is booked is told in words."""
    parser.add_argument(
        "--config", metavar="FILE", help="the settings that name the ledger (tenantguard.toml, if it is there)"
    )
    parser.add_argument("--section", action="append", default=[], metavar="MODULE:CLASS", help="as for check")
    parser.add_argument("--ledger", metavar="URI", help="another ledger: sqlite:///<path> or postgresql://...")
    if tenant is not None:
        parser.add_argument("--tenant", metavar="T", required=tenant == "required", help="whose accounts")
    if books:
        parser.set_defaults(format="table")
    else:
        parser.add_argument(
            "--format", choices=("table", "csv", "json"), default="table", help="how to print it (%(default)s)"
        )
    parser.add_argument("--locale", default="en_US", help="how a table writes amounts (%(default)s)")
    parser.add_argument(
        "--zone", metavar="ZONE", help="the time zone of days and times (that of the tenant's periods, else UTC)"
    )


def _stretch_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stretch of time."""
    parser.add_argument(
        "--period",
        metavar="P",
        help="2026, 2026-Q4, 2026-11, 2026-W47, 2026-11-20, or the running 'month', 'day' ...",
    )
    parser.add_argument("--from", dest="since", metavar="TIME", help="a day or time, instead of --period")
    parser.add_argument("--to", dest="until", metavar="TIME", help="up to this day or time, itself excluded (now)")
