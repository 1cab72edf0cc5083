"""``tenantguard ledger refund|grant|correct|resolve``: booked once, nothing guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.commands.ledger.booking import operation_id
from tenantguard.errors import PortError
from tenantguard.flow.ports import ResolveHold
from tenantguard.model.ledger import Leg
from tenantguard.model.period import Period

if TYPE_CHECKING:
    from tests.commands.ledger.shop import Line, Shop

WHY = ("--reason", "the answer was cut")
MONTH = "tenant/acme/month in Europe/Berlin"


def spent(line: Line, what: str = "spent") -> list[str]:
    return [row[what] for row in line.json("balance", "--tenant", "acme")]


def test_a_refund_gives_back_all_that_a_hold_was_charged_once(shop: Shop, line: Line) -> None:
    shop.charge(10**9)
    hold = shop.charge(3 * 10**9)
    told = line("refund", hold.hex(), *WHY)
    assert told.code == 0
    assert told.words.count("$3.00 given back on tenant/acme/") == 2
    assert spent(line) == ["1.00", "1.00"]
    again = line("refund", hold.hex(), *WHY)
    assert again.code == 2
    assert "nothing is left" in again.err
    (entry, *_) = [row for row in line.json("entries") if row["kind"] == "refund"]
    assert (entry["of"], entry["reason"], entry["amount"]) == (hold.hex(), WHY[1], "-3.00")


def test_a_part_is_given_back_on_every_budget_and_only_once_under_an_id(shop: Shop, line: Line) -> None:
    jobs = Leg(("tenant", "acme", "lifetime"), Period.LIFETIME, "jobs", 10, 1, 1)
    hold = shop.hold(3 * 10**9, extra=(jobs,))
    shop.ask(ResolveHold(hold, (3 * 10**9, 3 * 10**9, 1), "completed"))
    for _ in range(2):
        assert line("refund", hold.hex(), "--amount", "0.50 USD", "--id", "T-93", *WHY).code == 0
    assert spent(line) == ["2.50", "2.50", "1"]
    assert line("refund", hold.hex(), "--amount", "1 jobs", *WHY).code == 0
    assert spent(line) == ["2.50", "2.50", "0"]
    other = line("refund", hold.hex(), "--amount", "0.70 USD", "--id", "T-93", *WHY)
    assert other.code == 1
    assert "booked before" in other.out
    assert spent(line)[0] == "2.50"


def test_no_budget_is_given_back_more_than_it_was_charged(shop: Shop, line: Line) -> None:
    hold = shop.hold(3 * 10**9)
    shop.ask(ResolveHold(hold, (3 * 10**9, 10**9), "completed"))
    assert line("refund", hold.hex(), "--amount", "2 USD", *WHY).code == 0
    assert spent(line) == ["1.00", "0.00"]


@pytest.mark.parametrize(
    ("amount", "remedy"),
    [
        ("3.01 USD", "no more than $3.00"),
        ("1 EUR", "in USD"),
        ("0 USD", "above nothing"),
        ("-1 USD", "'100 jobs'"),
        ("1e3 USD", "'100 jobs'"),
        ("99999999999999999999 USD", "64 bits"),
    ],
)
def test_absurd_refunds_are_refused(amount: str, remedy: str, shop: Shop, line: Line) -> None:
    hold = shop.charge(3 * 10**9)
    told = line("refund", hold.hex(), "--amount", amount, *WHY)
    assert told.code == 2
    assert remedy in told.err
    assert spent(line) == ["3.00", "3.00"]


def test_what_is_no_hold_or_was_charged_nothing_is_refused(shop: Shop, line: Line) -> None:
    pending = shop.hold(5)
    assert "is no hold" in line("refund", "zz", *WHY).err
    assert "was charged nothing" in line("refund", "00" * 16, *WHY).err
    assert "is open" in line("refund", pending.hex(), *WHY).err
    assert "--reason" in line("refund", pending.hex(), "--reason", "  ").err
    assert shop.ask(ResolveHold(pending, (5, 5), "completed")).amounts == (5, 5)


def test_a_payment_tops_up_once_however_often_it_is_granted(shop: Shop, line: Line) -> None:
    """The id of a payment is that of its operation."""
    grant = ("grant", "--tenant", "acme", "--id", "pi_3Q9xYz", "--budget", MONTH, "--reason", "top-up")
    for _ in range(3):
        told = line(*grant, "--amount", "50 USD")
        assert told.code == 0
        assert f"$50.00 granted on {MONTH}" in told.out
    assert spent(line, "granted") == ["50.00"]
    other = line(*grant, "--amount", "60 USD")
    assert other.code == 1
    assert "$60.00 was not booked" in other.out
    (entry,) = line.json("entries")
    assert (entry["kind"], entry["evidence"]) == ("grant", {"payment": "pi_3Q9xYz"})
    assert entry["op"] == operation_id("grant", "acme", "pi_3Q9xYz").hex()


def test_an_id_that_is_no_unicode_is_an_id_all_the_same(shop: Shop, line: Line) -> None:
    """As Python gives an argument of other bytes."""
    hold = shop.charge(1_000).hex()
    asked = ("refund", hold, "--amount", "0.0000001 USD", "--reason", "half", "--id", "T-\udcff")
    assert (line(*asked).code, line(*asked).code) == (0, 0)
    assert line("refund", *asked[1:-1], "T-\udcfe").code == 0
    assert sum(row["kind"] == "refund" for row in line.json("entries", "--limit", "0")) == 2 * 2


@pytest.mark.parametrize("own_id", ["", "  ", "p" * 201])
@pytest.mark.parametrize("action", ["grant", "correct", "refund"])
def test_a_blank_or_endless_id_books_nothing(action: str, own_id: str, shop: Shop, line: Line) -> None:
    """An unset shell variable is not the one id of every payment."""
    hold = shop.charge(3 * 10**9)
    account = ("--tenant", "acme", "--amount", "5 USD", "--budget", MONTH)
    told = line(action, *((hold.hex(),) if action == "refund" else account), "--id", own_id, *WHY)
    assert told.code == 2
    assert told.err.startswith("--id: ")
    assert "write the one id by which you know this" in told.err
    assert spent(line) == ["3.00", "3.00"]
    assert spent(line, "granted") == ["0.00", "0.00"]


def test_a_grant_that_could_mean_several_accounts_names_them_and_changes_nothing(shop: Shop, line: Line) -> None:
    told = line("grant", "--tenant", "acme", "--amount", "5 USD", "--id", "p", *WHY)
    assert told.code == 2
    assert f"'{MONTH}'" in told.err
    assert "'tenant/acme/day in Europe/Berlin'" in told.err
    assert line.json("entries") == []


def test_a_grant_can_expire_before_its_window_does(shop: Shop, line: Line) -> None:
    grant = ("grant", "--tenant", "acme", "--amount", "5 USD", "--id", "p", "--budget", MONTH, *WHY)
    assert "past" in line(*grant, "--expires", "2026-11-01").err
    assert line(*grant, "--expires", "2026-11-20").code == 0
    assert spent(line, "granted") == ["5.00"]
    shop.clock.now_ns += 3 * 86_400 * 10**9
    assert spent(line, "granted") == ["0.00"]


def test_without_a_limit_there_is_nothing_to_raise(shop: Shop, line: Line) -> None:
    for tenant, amount in (("acme", "5 EUR"), ("acme", "5 jobs"), ("nobody", "5 USD")):
        told = line("grant", "--tenant", tenant, "--amount", amount, "--id", "p", *WHY)
        assert told.code == 2
        assert "no account" in told.err
    shop.charge(1)
    told = line("grant", "--tenant", "acme", "--amount", "5 EUR", "--id", "p", *WHY)
    assert told.err == "acme has no account in EUR with a limit, but in USD: its policy must give it one\n"


def test_a_correction_adds_or_takes_away_and_never_below_nothing(shop: Shop, line: Line) -> None:
    shop.charge(3 * 10**9)
    correct = ("correct", "--tenant", "acme", "--budget", MONTH, *WHY)
    assert line(*correct, "--amount", "-1.25 USD").code == 0
    assert line(*correct, "--amount", "0.25 USD", "--id", "I-81").code == 0
    assert line(*correct, "--amount", "0.25 USD", "--id", "I-81").code == 0
    assert spent(line) == ["2.00", "3.00"]
    told = line(*correct, "--amount", "-2.01 USD")
    assert told.code == 2
    assert "less than nothing" in told.err
    assert spent(line) == ["2.00", "3.00"]


def reviewed(shop: Shop, *extra: Leg) -> bytes:
    hold = shop.hold(3 * 10**9, extra=extra)
    shop.ask(ResolveHold(hold, None, "usage is missing", review=True))
    return hold


def test_a_hold_in_review_is_charged_or_voided_by_an_operator(shop: Shop, line: Line) -> None:
    first, second, third = reviewed(shop), reviewed(shop), reviewed(shop)
    assert "$0.02 charged" in line("resolve", first.hex(), "--charge", "0.02 USD", *WHY).out
    assert "nothing is charged" in line("resolve", second.hex(), "--void", *WHY).out
    assert line("resolve", third.hex(), "--charge", "all", *WHY).code == 0
    assert spent(line) == ["3.02", "3.02"]
    assert spent(line, "held") == ["0.00", "0.00"]
    told = line("resolve", first.hex(), "--void", *WHY)
    assert told.code == 2
    assert "is not open" in told.err


def test_units_that_were_taken_are_charged_with_the_money(shop: Shop, line: Line) -> None:
    hold = reviewed(shop, Leg(("tenant", "acme", "month"), Period.MONTH, "jobs", 10, 2, 2))
    assert line("resolve", hold.hex(), "--charge", "1 USD", *WHY).code == 0
    assert [row["spent"] for row in line.json("balance", "--tenant", "acme") if row["unit"] == "jobs"] == ["2"]


def test_units_that_may_come_back_need_the_settings(shop: Shop, line: Line) -> None:
    hold = reviewed(shop, Leg(("tenant", "acme", "lifetime"), Period.LIFETIME, "sessions", 10, 1, 1))
    told = line("resolve", hold.hex(), "--charge", "1 USD", *WHY)
    assert told.code == 2
    assert "come back" in told.err
    settings = shop.folder / "tenantguard.toml"
    quota = """
quota = { unit = "sessions", limit = 10, per = "lifetime", returned = true }
[[routes]]
match = "POST /**"
takes = { sessions = 1 }
"""
    settings.write_text(settings.read_text() + quota)
    told = line("resolve", hold.hex(), "--charge", "1 USD", *WHY)
    assert told.code == 0, told.err
    assert [row["spent"] for row in line.json("balance", "--tenant", "acme") if row["unit"] == "sessions"] == ["0"]


def test_an_open_hold_is_its_process_s_and_absurd_charges_are_refused(shop: Shop, line: Line) -> None:
    pending, review = shop.hold(5), reviewed(shop)
    assert "is pending" in line("resolve", pending.hex(), "--void", *WHY).err
    assert "no more than $3.00" in line("resolve", review.hex(), "--charge", "3.01 USD", *WHY).err
    assert "nothing is held in EUR" in line("resolve", review.hex(), "--charge", "1 EUR", *WHY).err
    assert line("resolve", review.hex(), "--charge", "much", *WHY).err.startswith("--charge: cannot read")
    assert spent(line) == ["0.00", "0.00"]
    shop.ask(ResolveHold(pending, None, "done"))


def test_a_ledger_that_does_not_answer_is_told_with_the_id_to_repeat_it_under(
    shop: Shop, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(_ledger: object, _command: object) -> LedgerPromise:
        promise = LedgerPromise(1.0)
        promise.fail(PortError("ledger", "locked"))
        return promise

    with monkeypatch.context() as patched:
        patched.setattr(SQLiteLedger, "submit", submit)
        told = line("correct", "--tenant", "acme", "--budget", MONTH, "--amount", "1 USD", *WHY)
    assert told.code == 1
    name = told.err.partition("--id ")[2].partition(",")[0]
    for _ in range(2):
        assert (
            line("correct", "--tenant", "acme", "--budget", MONTH, "--amount", "1 USD", "--id", name, *WHY).code == 0
        )
    assert spent(line) == ["1.00"]
