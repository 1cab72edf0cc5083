"""``tenantguard ledger statement``: its totals are those of the account, to the nanos."""

from __future__ import annotations

import csv
import io
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.flow.ports import Correct, Grant, Refund, ResolveHold
from tenantguard.model.ledger import Leg
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tests.commands.ledger.shop import MONTH

if TYPE_CHECKING:
    from tests.commands.ledger.shop import Line, Shop

DAY_NS = 86_400 * 10**9
MONTH_LEG = Leg(("tenant", "acme", str(MONTH)), MONTH, "USD", 250 * 10**9, 50 * 10**9, 0)


def account(told: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in told["accounts"] if one["budget"] == name]
    return dict(found)


def test_opening_entries_and_closing_reconcile_exactly_with_the_account(shop: Shop, line: Line) -> None:
    acme = TenantId("acme")
    first = shop.charge(3_000_000_001, tokens=(1000, 50))
    shop.charge(2 * 10**9, model="claude-haiku-4-5")
    shop.clock.now_ns += DAY_NS
    shop.charge(10**9)
    shop.ask(Grant(b"grant-0000000001", acme, MONTH_LEG, None, "top-up"))
    shop.ask(Refund(b"refund-000000001", first, (10**9, 10**9), "cut"))
    shop.ask(Correct(b"correct-00000001", acme, MONTH_LEG, -5, "rounding"))
    shop.hold(7)
    told = line("statement", "--tenant", "acme", "--period", "month", "--by", "day,model,route", "--format", "json")
    assert told.code == 0
    (document,) = told.json
    assert (document["tenant"], document["zone"], document["agrees"]) == ("acme", "Europe/Berlin", True)
    assert document["from"] == "2026-11-01T00:00:00.000000+01:00"
    month = account(document, "tenant/acme/month in Europe/Berlin")
    (window,) = month["windows"]
    assert window["limit"] == "250.00"
    assert window["granted"] == "50.00"
    assert window["opening"] == "0.00"
    assert window["charged"] == "6.000000001"
    assert window["refunded"] == "-1.00"
    assert window["corrected"] == "-0.000000005"
    assert window["closing"] == "4.999999996"
    assert window["held"] == "0.000000007"
    (balance, *_) = line.json("balance", "--tenant", "acme")
    assert window["closing"] == balance["spent"]
    assert window["left"] == balance["left"]
    assert month["total"]["spent"] == balance["spent"]
    assert sum(Decimal(group["spent"]) for group in month["groups"]) == Decimal(balance["spent"])
    assert {(group["day"], group["model"], group["entries"]) for group in month["groups"]} == {
        ("2026-11-18", "gpt-5-mini", 1),
        ("2026-11-18", "claude-haiku-4-5", 1),
        ("2026-11-19", "gpt-5-mini", 1),
        ("2026-11-19", None, 3),
    }
    assert month["total"]["input_tokens"] == 1200


def test_a_table_shows_each_account_and_csv_has_the_same_numbers(shop: Shop, line: Line) -> None:
    shop.charge(3 * 10**9)
    table = line("statement", "--tenant", "acme", "--period", "2026-11")
    assert table.code == 0
    assert "statement of acme, 2026-11-01 00:00:00 to now (Europe/Berlin)" in table.out
    assert table.out.count("$3.00") >= 4
    rows = list(
        csv.DictReader(
            io.StringIO(line("statement", "--tenant", "acme", "--period", "2026-11", "--format", "csv").out)
        )
    )
    month = [row for row in rows if "month" in row["budget"]]
    assert [(row["row"], row["charged"], row["closing"], row["day"]) for row in month] == [
        ("window", "3.00", "3.00", ""),
        ("group", "3.00", "", "2026-11-18"),
        ("total", "3.00", "", ""),
    ]


def test_a_charge_counts_in_the_window_of_its_hold_and_statements_of_months_have_it_once(
    shop: Shop, line: Line
) -> None:
    shop.charge(10**9)
    hold = shop.hold(2 * 10**9)
    shop.clock.now_ns += 20 * DAY_NS
    shop.ask(ResolveHold(hold, (2 * 10**9,) * 2, "late"))
    shop.charge(5 * 10**9)
    month = "tenant/acme/month in Europe/Berlin"
    november, december = (
        account(line.json("statement", "--tenant", "acme", "--period", period)[0], month)
        for period in ("2026-11", "2026-12")
    )
    assert november["total"]["spent"] == "3.00"
    assert [group["day"] for group in november["groups"]] == ["2026-11-18", "2026-11-30"]
    assert december["total"]["spent"] == "5.00"


def test_a_part_of_a_longer_window_opens_with_what_was_spent_before(shop: Shop, line: Line) -> None:
    for _ in range(3):
        shop.charge(10**9)
        shop.clock.now_ns += DAY_NS
    told = line.json("statement", "--tenant", "acme", "--period", "2026-11-19")[0]
    (window,) = account(told, "tenant/acme/month in Europe/Berlin")["windows"]
    assert (window["opening"], window["charged"], window["closing"], window["later"]) == (
        "1.00", "1.00", "2.00", "1.00"
    )  # fmt: skip
    (day,) = account(told, "tenant/acme/day in Europe/Berlin")["windows"]
    assert (day["opening"], day["closing"], day["later"]) == ("0.00", "1.00", "0.00")


def test_one_account_can_be_chosen_and_a_shared_one_is_the_tenants_part(shop: Shop, line: Line) -> None:
    shared = Leg(("global", "lifetime"), Period.LIFETIME, "jobs", 100, 1, 1)
    for tenant, jobs in (("acme", 1), ("globex", 1), ("acme", 1)):
        hold = shop.hold(5, tenant=tenant, extra=(shared,))
        shop.ask(ResolveHold(hold, (5, 5, jobs), "completed"))
    told = line.json("statement", "--tenant", "acme", "--period", "lifetime", "--budget", "global/lifetime")[0]
    (section,) = told["accounts"]
    assert section["shared"]
    assert section["total"]["spent"] == "2"
    wrong = line("statement", "--tenant", "acme", "--period", "lifetime", "--budget", "tenant")
    assert wrong.code == 2
    assert "'global/lifetime'" in wrong.err
    assert "shared with other tenants" in line("statement", "--tenant", "acme", "--period", "lifetime").out


def test_a_statement_of_a_ledger_that_does_not_agree_says_so(shop: Shop, line: Line) -> None:
    shop.charge(10**9)
    with sqlite3.connect(shop.folder / "ledger.db") as db:
        db.execute("UPDATE account SET spent = spent + 1 WHERE period LIKE 'month%'")
    db.close()
    told = line("statement", "--tenant", "acme", "--period", "2026-11")
    assert told.code == 1
    assert "does not agree" in told.err
    assert not line.json("statement", "--tenant", "acme", "--period", "2026-11")[0]["agrees"]
    with sqlite3.connect(shop.folder / "ledger.db") as db:
        db.execute("UPDATE account SET spent = spent - 1 WHERE period LIKE 'month%'")
    db.close()


def test_what_is_booked_while_the_statement_is_read_is_in_it(
    shop: Shop, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.charge(10**9)
    left = {"balances": 3, "entries": 3}

    def busy(name: str) -> None:
        reads = getattr(SQLiteLedger, name)

        def read(self: SQLiteLedger, *args: Any, **kwargs: Any) -> Any:
            found = reads(self, *args, **kwargs)
            if left[name]:
                left[name] -= 1
                shop.charge(10**9)
            return found

        monkeypatch.setattr(SQLiteLedger, name, read)

    busy("balances")
    busy("entries")
    told = line("statement", "--tenant", "acme", "--period", "2026-11")
    assert told.code == 0
    assert left == {"balances": 0, "entries": 0}
    assert "$7.00" in told.out


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        ([], "--period is missing"),
        (["--period", "2026-11", "--by", "hour"], "day,model,route"),
        (["--period", "2026-11", "--by", "day,day"], "each once"),
    ],
)
def test_wrong_input_is_refused_with_a_remedy(argv: list[str], remedy: str, shop: Shop, line: Line) -> None:
    told = line("statement", "--tenant", "acme", *argv)
    assert told.code == 2
    assert remedy in told.err


def test_a_tenant_without_accounts_has_an_empty_statement(shop: Shop, line: Line) -> None:
    assert "no account was touched" in line("statement", "--tenant", "nobody", "--period", "2026-11").out
