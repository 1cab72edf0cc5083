"""The price table: books replaced while requests run, and models without a price."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from tenantguard.adapters.pricing.table import WARNED_MAX, PriceTable
from tenantguard.model.money import NANOS
from tenantguard.model.price import PriceBook, PriceList, PriceRow, TokenPrice, UnknownModel
from tenantguard.model.usage import Usage

PRICE = TokenPrice.parse(input="15 USD/1K", output="75 USD/1K", cache_read="1.5 USD/1K", cache_write="18.75 USD/1K")
CHEAP = TokenPrice(1_000_000, 1_000_000, 1_000_000, 1_000_000, "USD")
USAGE = Usage(1000, 1000)


def cost(table: PriceTable, model: str) -> int | None:
    answer = table.quote(model)
    return None if answer is None else answer.cost_nanos(USAGE)


def test_a_replaced_book_prices_later_calls() -> None:
    """E-53, E-56"""
    table = PriceTable(PriceBook({"a": PRICE}))
    assert cost(table, "a") == 90 * NANOS
    table.replace(PriceBook({"a": CHEAP}))
    assert cost(table, "a") == 2000


def test_one_replaced_model_leaves_the_others_and_a_first_price_ends_the_refusal() -> None:
    """E-54"""
    table = PriceTable(PriceBook({"a": PRICE, "b": PRICE}))
    assert cost(table, "c") is None
    table.replace_model("a", CHEAP)
    table.replace_model("c", CHEAP)
    assert [cost(table, name) for name in "abc"] == [2000, 90 * NANOS, 2000]


def test_a_snapshot_does_not_change() -> None:
    """E-55"""
    table = PriceTable(PriceBook({"a": PRICE}))
    before = table.snapshot()
    table.replace_model("a", CHEAP)
    assert before.find("a") == PRICE
    assert table.snapshot().find("a") == CHEAP


def test_an_empty_table_refuses_everything() -> None:
    assert PriceTable().quote("a") is None


def test_warn_lets_go_free_and_logs_each_name_once() -> None:
    """E-49, E-52"""
    table = PriceTable(PriceBook({"a": PRICE}, UnknownModel.WARN))
    with capture_logs() as logs:
        assert [cost(table, name) for name in ["x", "y", "x", "a", "x"]] == [0, 0, 0, 90 * NANOS, 0]
    assert [(log["event"], log["model"]) for log in logs] == [("price.unknown", "x"), ("price.unknown", "y")]


def test_the_memory_of_warned_names_is_bounded() -> None:
    """E-51: twice the cap in names gives one log a name up to the cap, one that says it is full, then silence."""
    table = PriceTable(PriceBook({}, UnknownModel.WARN))
    with capture_logs() as logs:
        assert all(cost(table, f"model-{number}") == 0 for number in range(2 * WARNED_MAX))
    assert [log["event"] for log in logs] == ["price.unknown"] * WARNED_MAX + ["price.warnings_full"]


def test_a_name_that_is_none_is_not_logged() -> None:
    table = PriceTable(PriceBook({}, UnknownModel.WARN))
    with capture_logs() as logs:
        table.quote("alice@example.org")
        table.quote("a\nb")
        table.quote("a" * 129)
    assert [log["model"] for log in logs] == ["(withheld)"], "and none is kept, however long it is"


@pytest.mark.parametrize(
    ("book", "expected"),
    [
        (PriceBook({}), None),
        (PriceBook({}, UnknownModel.WARN), 0),
        (PriceBook({}, UnknownModel.DEFAULT, PRICE), 90 * NANOS),
    ],
)
def test_the_sink_hears_every_attempt_under_every_policy(book: PriceBook, expected: int | None) -> None:
    """E-58, E-59"""
    heard: list[str] = []
    table = PriceTable(book, sink=heard.append)
    with capture_logs() as logs:
        assert [cost(table, "x") for _ in range(5)] == [expected] * 5
    assert heard == ["x"] * 5
    assert len(logs) == (1 if book.unknown is UnknownModel.WARN else 0)


def test_without_a_sink_nothing_is_said() -> None:
    """E-60"""
    with capture_logs() as logs:
        assert PriceTable(PriceBook({})).quote("x") is None
    assert logs == []


def test_the_sink_does_not_hear_of_known_models() -> None:
    """E-61"""
    heard: list[str] = []
    assert cost(PriceTable(PriceBook({"a": PRICE}), sink=heard.append), "a") == 90 * NANOS
    assert heard == []


@pytest.mark.parametrize(("policy", "first"), [(UnknownModel.WARN, 0), (UnknownModel.REFUSE, None)])
def test_a_sink_may_install_the_missing_price(policy: UnknownModel, first: int | None) -> None:
    """E-62: no deadlock; the call that it hears of is decided as before, the next one is priced."""
    table = PriceTable(PriceBook({}, policy), sink=lambda model: table.replace_model(model, PRICE))
    with capture_logs():
        assert [cost(table, "x"), cost(table, "x")] == [first, 90 * NANOS]


def test_a_sink_that_raises_decides_nothing() -> None:
    def broken(model: str) -> None:
        raise RuntimeError(model)

    with capture_logs() as logs:
        assert PriceTable(PriceBook({}), sink=broken).quote("x") is None
    assert [log["event"] for log in logs] == ["price.sink_failed"]


def test_concurrent_replacements_never_tear() -> None:
    """E-57: every quote is of one book, and no replaced model is lost to another thread's."""
    books = [PriceBook({"a": price, "b": price}) for price in (PRICE, CHEAP)]
    table = PriceTable(books[0])
    done = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not done.is_set():
            book = table.snapshot()
            if book.find("a") != book.find("b"):
                torn.append(book)

    def swap() -> None:
        for turn in range(300):
            table.replace(books[turn % 2])

    reader = threading.Thread(target=read)
    swappers = [threading.Thread(target=swap) for _ in range(2)]
    for thread in [reader, *swappers]:
        thread.start()
    for thread in swappers:
        thread.join()
    done.set()
    reader.join()
    assert torn == []

    def add(prefix: str) -> None:
        for number in range(100):
            table.replace_model(f"{prefix}{number}", CHEAP)

    adders = [threading.Thread(target=add, args=(prefix,)) for prefix in "xyz"]
    for thread in adders:
        thread.start()
    for thread in adders:
        thread.join()
    assert len(table.snapshot().models) == 302


def test_published_prices_are_chosen_by_the_tables_clock() -> None:
    """The row in force when the hold is placed; a quote that was given stays what it is."""
    now = [0]
    listed = PriceList(
        (PriceRow("m", PRICE, "one"), PriceRow("m", CHEAP, "one", 100), PriceRow("m", PRICE, "two", 200))
    )
    table = PriceTable(PriceBook(listed=listed), now_ns=lambda: now[0])
    held = table.quote("m")
    assert held is not None
    assert held.cost_nanos(USAGE) == 90 * NANOS
    now[0] = 100
    assert cost(table, "m") == 2000
    assert held.cost_nanos(USAGE) == 90 * NANOS
    now[0] = 200
    assert cost(table, "m") is None, "two sell it for different prices"
    told = table.quote("m", provider="two")
    assert told is not None
    assert (told.provider, told.cost_nanos(USAGE)) == ("two", 90 * NANOS)


def test_a_model_that_a_pattern_prices_is_known() -> None:
    """E-61"""
    heard: list[str] = []
    listed = PriceList((PriceRow("m", CHEAP, patterns=("m-*",)),))
    table = PriceTable(PriceBook(unknown=UnknownModel.WARN, listed=listed), sink=heard.append)
    with capture_logs() as logs:
        assert cost(table, "m-2026") == 2000
    assert (heard, logs) == ([], [])


def test_replacing_one_model_keeps_the_published_prices() -> None:
    table = PriceTable(PriceBook(listed=PriceList((PriceRow("m", CHEAP),)), providers=("one",)))
    table.replace_model("n", PRICE)
    assert [cost(table, name) for name in "mn"] == [2000, 90 * NANOS]
    assert table.snapshot().providers == ("one",)
