"""``tenantguard ledger balance|entries|holds|audit|alerts``."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.cli import main
from tenantguard.flow.ports import Grant, PlaceHold, ResolveHold
from tenantguard.model.ledger import NEVER_NS, Leg
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands.ledger.shop import Line, Shop

ACTIONS = [
    "balance", "entries", "statement", "holds", "audit", "alerts", "refund", "grant", "correct", "resolve",
    "reconcile",
]  # fmt: skip


@pytest.mark.parametrize("action", ["", *ACTIONS])
def test_help_teaches_by_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["ledger", *action.split(), "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "example" in told
    assert f"\n  tenantguard ledger {action}" in told


def test_balance_tells_what_every_account_has_left_in_the_locale_and_zone(shop: Shop, line: Line) -> None:
    shop.charge(1_500_000_001)
    shop.hold(500_000_000)
    told = line("balance", "--tenant", "acme")
    assert told.code == 0
    assert "2026-11-01 00:00:00" in told.out
    assert "$1.500000001" in told.out
    assert "$247.999999999" in told.out
    assert "1,500000001\u00a0$" in line("balance", "--tenant", "acme", "--locale", "de_DE").out


def test_balance_in_csv_and_json_is_exact_with_units_and_offsets(shop: Shop, line: Line) -> None:
    shop.charge(1)
    month, day = line.json("balance", "--tenant", "acme")
    assert month == {
        "budget": "tenant/acme/month in Europe/Berlin",
        "period": "month in Europe/Berlin",
        "unit": "USD",
        "window_starts": "2026-11-01T00:00:00.000000+01:00",
        "window_ends": "2026-12-01T00:00:00.000000+01:00",
        "limit": "250.00",
        "granted": "0.00",
        "carried": "0.00",
        "spent": "0.000000001",
        "held": "0.00",
        "left": "249.999999999",
    }
    rows = list(csv.DictReader(io.StringIO(line("balance", "--tenant", "acme", "--format", "csv").out)))
    assert rows == [month, day]


def test_balance_shows_the_running_windows_or_those_of_then_or_all(shop: Shop, line: Line) -> None:
    shop.charge(10**9)
    shop.clock.now_ns += 86_400 * 10**9
    shop.charge(10**9)
    assert [row["spent"] for row in line.json("balance", "--tenant", "acme")] == ["2.00", "1.00"]
    then = line.json("balance", "--tenant", "acme", "--at", "2026-11-18T12:00:00+01:00")
    assert [row["window_starts"][:10] for row in then] == ["2026-11-01", "2026-11-18"]
    assert len(line.json("balance", "--tenant", "acme", "--all")) == 3
    assert line.json("balance", "--tenant", "nobody") == []
    assert "no account was touched" in line("balance", "--tenant", "nobody").out


def test_what_a_rolling_period_has_left_is_what_a_request_would_find(shop: Shop, line: Line) -> None:
    """Every window that counts has a part: what it spent and what it was granted, under the limit of the latest."""
    period = Period.parse("rolling 24 hours")

    def leg(dollars: int, limit: int) -> Leg:
        return Leg(("tenant", "acme", str(period)), period, "USD", limit * 10**9, dollars * 10**9, dollars * 10**9)

    def place(dollars: int, limit: int) -> Any:
        return shop.ask(PlaceHold(shop.ids.new(), TenantId("acme"), (leg(dollars, limit),)))

    place(10, limit=100)
    shop.ask(Grant(b"g" * 16, TenantId("acme"), leg(50, limit=100), None, "top-up"))
    shop.clock.now_ns += 2 * 3600 * 10**9
    place(20, limit=90)
    available = place(500, limit=90).available
    assert available == 110 * 10**9
    assert [row["left"] for row in line.json("balance", "--tenant", "acme")] == ["110.00", "110.00"]
    assert [row["left"] for row in line.json("balance", "--tenant", "acme", "--all")] == [None, None]
    (told,) = line.json("statement", "--tenant", "acme", "--period", "day")
    assert [window["left"] for window in told["accounts"][0]["windows"]] == [None, None]


def test_a_tenant_of_whom_nobody_knows_is_told_beside_the_empty_answer(shop: Shop, line: Line) -> None:
    told = line("balance", "--tenant", "acm")
    assert (told.code, "the tenant 'acm'; did you mean 'acme'?" in told.err) == (0, True)
    assert "'tenantguard ledger balance' shows" in line("balance", "--tenant", "nobody").err
    assert line("balance", "--tenant", "acme").err == ""
    shop.charge(1, tenant="gone")
    assert line("entries", "--tenant", "gone").err == ""


def test_only_charges_and_refunds_show_a_hold(shop: Shop, line: Line) -> None:
    hold = shop.charge(10**9).hex()
    why = ("--tenant", "acme", "--budget", "tenant/acme/month in Europe/Berlin", "--reason", "why")
    assert line("grant", "--amount", "5 USD", "--id", "p", *why).code == 0
    told = line("entries", "--tenant", "acme").out.splitlines()
    assert [row.split()[-1] for row in told[1:]] == [hold, hold, "-"]


def test_entries_are_the_latest_or_those_of_a_stretch_oldest_first(shop: Shop, line: Line) -> None:
    for nanos in (1, 2, 3):
        shop.charge(nanos)
        shop.clock.now_ns += 86_400 * 10**9
    latest = line.json("entries", "--tenant", "acme", "--limit", "2")
    assert [row["amount"] for row in latest] == ["0.000000003"] * 2
    everything = line.json("entries", "--limit", "0")
    assert [row["seq"] for row in everything] == sorted(row["seq"] for row in everything)
    assert len(everything) == 6
    day = line.json("entries", "--tenant", "acme", "--period", "2026-11-19")
    assert [row["amount"] for row in day] == ["0.000000002"] * 2
    assert day[0]["at"] == "2026-11-19T12:06:40.000000+01:00"
    assert day[0]["evidence"]["usage"]["input"] == 100
    bounds = ("--from", "2026-11-19", "--to", "2026-11-20T00:00:00+01:00", "--zone", "Europe/Berlin")
    assert line.json("entries", *bounds) == day


def test_entries_beyond_a_page_are_all_read_once(shop: Shop, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantguard.commands.ledger.opening.PAGE", 3)
    for nanos in range(1, 8):
        shop.charge(nanos)
    found = line.json("entries", "--limit", "0")
    assert len(found) == len({row["seq"] for row in found}) == 14


def test_what_came_from_outside_cannot_speak_to_a_terminal_or_a_spreadsheet(shop: Shop, line: Line) -> None:
    hold = shop.hold(10)
    shop.ask(ResolveHold(hold, (10, 10), "=1+1\x1b[31mred"))
    table = line("entries", "--limit", "0").out
    assert "\x1b" not in table
    assert "\\x1b[31mred" in table
    reasons = [row["reason"] for row in csv.DictReader(io.StringIO(line("entries", "--format", "csv").out))]
    assert {reason[:2] for reason in reasons} == {"'="}


@pytest.mark.parametrize(
    ("reason", "cell"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31mred", "\\x9b31mred"),
        ("\u202e00.05", "\\u202e00.05"),
        ("\n=1+1", "\\n=1+1"),
        ("\t=1+1", "\\t=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-1+1", "'-1+1"),
        ('M\u00fcller, "quoted"; = no formula', 'M\u00fcller, "quoted"; = no formula'),
    ],
)
def test_csv_and_json_speak_to_no_terminal_either_and_json_stays_exact(
    reason: str, cell: str, shop: Shop, line: Line
) -> None:
    hold = shop.hold(10)
    shop.ask(ResolveHold(hold, (10, 10), reason, {"model": reason}))
    told = line("entries", "--format", "csv").out
    assert all(text.isprintable() for text in told.splitlines())
    rows = list(csv.DictReader(io.StringIO(told)))
    assert {row["reason"] for row in rows} == {row["model"] for row in rows} == {cell}
    assert {json.loads(row["evidence"])["model"] for row in rows} == {reason}
    told = line("entries", "--format", "json").out
    assert all(text.isprintable() for text in told.splitlines())
    assert {json.loads(text)["reason"] for text in told.splitlines()} == {reason}


def test_holds_are_listed_by_account_and_those_in_review_apart(shop: Shop, line: Line) -> None:
    open_hold, review = shop.hold(5), shop.hold(7)
    shop.ask(ResolveHold(review, None, "usage is missing", review=True))
    rows = line.json("holds", "--tenant", "acme")
    assert {(row["hold"], row["state"], row["held"]) for row in rows} == {
        (open_hold.hex(), "pending", "0.000000005"),
        (review.hex(), "review", "0.000000007"),
    }
    assert {row["hold"] for row in line.json("holds", "--review")} == {review.hex()}
    assert "usage is missing" in line("holds", "--review").out


def test_audit_is_clean_or_tells_every_broken_invariant(shop: Shop, line: Line) -> None:
    shop.charge(10)
    assert line("audit").code == 0
    assert "agrees" in line("audit").out
    with sqlite3.connect(shop.folder / "ledger.db") as db:
        db.execute("UPDATE account SET spent = spent + 1 WHERE unit = 'USD'")
    db.close()
    told = line("audit")
    assert told.code == 1
    assert len(told.out.splitlines()) == 2
    assert "2 invariants are broken" in told.err
    assert all("broken" in row for row in line.json("audit"))
    with sqlite3.connect(shop.folder / "ledger.db") as db:
        db.execute("UPDATE account SET spent = spent - 1 WHERE unit = 'USD'")
    db.close()


def test_alerts_that_wait_or_were_given_up_are_in_sight(shop: Shop, line: Line) -> None:
    assert "every alert was delivered" in line("alerts").out
    for _ in range(7):
        shop.charge(19 * 10**9)
        shop.clock.now_ns += 86_400 * 10**9
    (row,) = line.json("alerts", "--tenant", "acme")
    assert (row["state"], row["threshold"], row["spent"], row["ceiling"]) == ("waiting", "50%", "133.00", "250.00")
    assert line.json("alerts", "--tenant", "globex") == []
    (notice,) = shop.ledger.outbox(10)
    shop.ledger.retry(notice.seq, NEVER_NS)
    told = line("alerts")
    assert told.code == 1
    assert "failed" in told.out
    assert line("alerts", "--retry", str(notice.seq)).code == 0
    assert [again.seq for again in shop.ledger.outbox(10)] == [notice.seq]
    assert line("alerts", "--retry", "999").code == 2
    shop.ledger.delivered(notice.seq)
    assert line.json("alerts") == []


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["balance", "--tenant", "a b"], "no spaces"),
        (["balance", "--locale", "xx_YY"], "en_US"),
        (["balance", "--zone", "Europe/Berln"], "Europe/Berlin"),
        (["balance", "--at", "yesterday"], "2026-11-20"),
        (["entries", "--limit", "-1"], "at least 0"),
        (["entries", "--limit", "99999999999999999999"], "at most 1000000"),
        (["alerts", "--limit", "99999999999999999999"], "at most 1000000"),
        (["alerts", "--retry", "99999999999999999999"], "'tenantguard ledger alerts' lists them"),
        (["alerts", "--retry", "-99999999999999999999"], "'tenantguard ledger alerts' lists them"),
        (["entries", "--period", "2026-13"], "2026-11"),
        (["entries", "--period", "2026-11-31"], "2026-11"),
        (["entries", "--period", "mnth"], "month"),
        (["entries", "--period", "9999"], "2026-11"),
        (["entries", "--period", "2300"], "2026-11"),
        (["entries", "--period", "0002-W01"], "2026-11"),
        (["entries", "--from", "9000-01-01"], "1900 to 2199"),
        (["balance", "--at", "0001-01-01T00:00:00Z"], "1900 to 2199"),
        (["balance", "--at", "9999-12-31"], "1900 to 2199"),
        (["entries", "--period", "2026-11", "--from", "2026-11-01"], "either"),
        (["entries", "--from", "2026-11-02", "--to", "2026-11-01"], "before"),
        (["alerts", "--limit", "0"], "at least 1"),
        (["balance", "--zone", ""], "--zone: '' is no time zone: write an IANA name"),
        (["balance", "--zone", "x" * 200], "write an IANA name"),
        (["balance", "--ledger", "redis://x"], "sqlite"),
        (["balance", "--ledger", "memory://"], "nobody else"),
        (["balance", "--ledger", "sqlite:///elsewhere.db"], "no ledger at"),
        (["balance", "--ledger", f"sqlite:///{'p' * 300}"], "cannot be read: File name too long"),
        (["balance", "--config", "nowhere.toml"], "cannot be read"),
    ],
)
def test_wrong_input_is_refused_with_a_remedy(argv: list[str], remedy: str, shop: Shop, line: Line) -> None:
    told = line(*argv)
    assert told.code == 2
    assert remedy in told.err
    assert not (shop.folder / "elsewhere.db").exists()


def test_without_settings_the_ledger_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Shop, line: Line
) -> None:
    (shop.folder / "tenantguard.toml").unlink()
    assert "--config" in line("balance").err
    shop.charge(5)
    assert len(line.json("balance", "--ledger", "sqlite:///ledger.db")) == 2
