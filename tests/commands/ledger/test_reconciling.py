"""``tenantguard ledger reconcile``: reports of providers beside the entries."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.commands.ledger.invoices import parse_columns, read_invoice
from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.commands.ledger.shop import Line, Shop

ANTHROPIC = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count,inference_geo,speed\n"
)
OPENAI_COSTS = "start_time,end_time,start_time_iso,amount_value,amount_currency,line_item,project_id\n"
GENERIC = "day,model,input_tokens,output_tokens,cost,currency\n"
DAY_NS = 86_400 * 10**9


def row_of(rows: list[dict[str, Any]], day: str, model: str) -> dict[str, Any]:
    (found,) = [row for row in rows if (row["day"], row["model"]) == (day, model)]
    return found


def test_a_report_that_agrees_has_no_drift(shop: Shop, line: Line) -> None:
    shop.charge(2 * 10**9, tokens=(1000, 20))
    shop.charge(10**9, tokens=(500, 10))
    Path("report.csv").write_text(f"{GENERIC}2026-11-18,gpt-5-mini,1500,30,3.00,usd\n")
    told = line("reconcile", "report.csv", "--provider", "generic", "--tolerance", "0%", "--format", "json")
    assert told.code == 0
    assert row_of(told.json, "2026-11-18", "gpt-5-mini") == {
        "day": "2026-11-18",
        "model": "gpt-5-mini",
        "currency": "USD",
        "input_invoice": 1500,
        "input_ledger": 1500,
        "input_drift": 0,
        "output_invoice": 30,
        "output_ledger": 30,
        "output_drift": 0,
        "cost_invoice": "3",
        "cost_ledger": "3",
        "cost_drift": "0",
        "drift": "0%",
        "beyond": "no",
    }
    assert row_of(told.json, "all days", "all models")["cost_ledger"] == "3"


def test_drift_beyond_the_tolerance_is_told_by_model_and_day(shop: Shop, line: Line) -> None:
    shop.charge(10**9, tokens=(1000, 10))
    shop.clock.now_ns += DAY_NS
    shop.charge(10**9, tokens=(1000, 10), model="gpt-5")
    Path("report.csv").write_text(
        f"{GENERIC}2026-11-18,gpt-5-mini,1010,10,1.01,USD\n2026-11-19,gpt-5-mini,7,0,0.1,USD\n"
    )
    told = line("reconcile", "report.csv", "--provider", "generic", "--tolerance", "1%", "--format", "json")
    assert told.code == 1
    assert row_of(told.json, "2026-11-18", "gpt-5-mini")["beyond"] == "no"
    only_ledger = row_of(told.json, "2026-11-19", "gpt-5")
    assert (only_ledger["drift"], only_ledger["beyond"]) == ("only in ledger", "yes")
    assert row_of(told.json, "2026-11-19", "gpt-5-mini")["drift"] == "-100.00%"
    assert "differ by more than 1%" in told.err
    table = line("reconcile", "report.csv", "--provider", "generic")
    assert "only in ledger" in table.out
    assert table.out.split()[:3] == ["day", "model", "currency"]
    rows = list(
        csv.DictReader(io.StringIO(line("reconcile", "report.csv", "--provider", "generic", "--format", "csv").out))
    )
    assert [row["beyond"] for row in rows] == [row["beyond"] for row in told.json]


def test_anthropics_tokens_and_costs_are_known_and_names_match_without_their_date(shop: Shop, line: Line) -> None:
    usage = {"input": 46_981, "cache_write": 15_969, "cache_write_1h": 7, "cache_read": 5, "output": 16_932}
    shop.charge(5 * 10**9, model="claude-haiku-4-5-20251001", source="anthropic", usage=usage)
    shop.charge(5 * 10**9, model="gpt-5", source="openai")
    Path("tokens.csv").write_text(
        f"{ANTHROPIC}2026-11-18,claude-haiku-4-5-20251001,k,Default,standard,≤ 200k,46981,15969,7,5,16932,0,global,\n"
    )
    assert line("reconcile", "tokens.csv", "--provider", "anthropic", "--tolerance", "0%").code == 0
    Path("cost.csv").write_text(
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd\n"
        "2026-11-18,Claude Haiku 4.5,Default,k,message,≤ 200k,input_no_cache,3.5,3.5\n"
        "2026-11-18,Claude Haiku 4.5,Default,k,message,≤ 200k,output,1.5e0,1.5\n"
    )
    told = line("reconcile", "cost.csv", "--provider", "anthropic", "--tolerance", "0%", "--format", "json")
    assert told.code == 0
    assert row_of(told.json, "2026-11-18", "Claude Haiku 4.5")["cost_ledger"] == "5"


def test_openais_usage_and_costs_are_known(shop: Shop, line: Line) -> None:
    shop.charge(10**9, model="gpt-5-mini", served_model="gpt-5-mini-2025-08-07", tokens=(1000, 20))
    Path("usage.csv").write_text(
        "start_time,end_time,start_time_iso,num_model_requests,model,input_tokens,output_tokens,input_cached_tokens\n"
        "1794960000,1795046400,2026-11-18T00:00:00+00:00,1,gpt-5-mini-2025-08-07,1000,20,0\n"
    )
    assert line("reconcile", "usage.csv", "--provider", "openai", "--tolerance", "0%").code == 0
    Path("costs.csv").write_text(
        f'{OPENAI_COSTS}1794960000,1795046400,x,0.75,usd,"gpt-5-mini-2025-08-07, input",p\n'
        '1794960000,1795046400,x,0.25,usd,"gpt-5-mini-2025-08-07, output",p\n'
    )
    assert line("reconcile", "costs.csv", "--provider", "openai", "--tolerance", "0%").code == 0
    Path("days.csv").write_text("start_time,end_time,amount_value,amount_currency\n1794960000,1795046400,1.00,usd\n")
    told = line("reconcile", "days.csv", "--provider", "openai", "--tolerance", "0%")
    assert told.code == 0
    assert "all models" in told.out


def test_an_exchange_counts_once_with_what_was_absorbed_before_markup_and_conversion(shop: Shop, line: Line) -> None:
    rate = {"from": "EUR", "to": "USD", "rate": "11/10", "version": "v"}
    shop.charge(2_310_000_000, price_factor="1.05", exchange_rate=rate)
    shop.charge(4_620_000_000, held=2_310_000_000, price_factor="1.05", exchange_rate=rate)
    Path("report.csv").write_text("Date;SKU;Total\n2026-11-18;gpt-5-mini;6.00\n")
    columns = ("--columns", "day=Date,model=SKU,cost=Total", "--currency", "EUR")
    told = line("reconcile", "report.csv", "--provider", "generic", *columns, "--tolerance", "0%")
    assert told.code == 0, told.out


def test_charges_that_cannot_be_compared_are_counted(shop: Shop, line: Line) -> None:
    shop.charge(10**9)
    shop.charge(10**9, price_factor="much")
    Path("report.csv").write_text(f"{GENERIC}2026-11-18,gpt-5-mini,0,0,1,EUR\n")
    told = line("reconcile", "report.csv", "--provider", "generic")
    assert "1 charges in another currency than EUR" in told.err
    assert "1 charges do not say" in told.err


def read(text: str, tmp_path: Path, provider: str = "generic", encoding: str = "utf-8", **options: Any) -> list[Any]:
    path = tmp_path / "report.csv"
    path.write_bytes(text.encode(encoding))
    return list(read_invoice(path, provider, **options))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_and_delimiters_are_recognised(encoding: str, delimiter: str, tmp_path: Path) -> None:
    text = f"{GENERIC}2026-11-18,größe,1,2,0.5,EUR\r\n\r\n".replace(",", delimiter)
    (found,) = read(text, tmp_path, encoding=encoding)
    assert (found.model, found.input_tokens, found.currency) == ("größe", 1, "EUR")


def test_another_encoding_must_be_named(tmp_path: Path) -> None:
    text = f"{GENERIC}2026-11-18,größe,1,2,0.5,EUR\n"
    with pytest.raises(ConfigurationError, match="--encoding"):
        read(text, tmp_path, encoding="cp1252")
    path = tmp_path / "report.csv"
    assert next(read_invoice(path, "generic", encoding="cp1252")).model == "größe"
    with pytest.raises(ConfigurationError, match="cp1252"):
        next(read_invoice(path, "generic", encoding="nonsense"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('2026-11-18,m,"1,234",0,1,USD', "line 2: input_tokens.*separator"),
        ("2026-11-18,m,1 234,0,1,USD", "separator"),
        ('2026-11-18,m,1,0,"1.234,56",USD', "cost: '1.234,56'"),
        ('2026-11-18,m,1,0,"1,5",USD', "separator"),
        ("2026-11-18,m,1,0,$1.50,USD", "currency sign"),
        ("2026-11-18,m,1,0,NaN,USD", "decimal number"),
        ("2026-11-18,m,1,0,Infinity,USD", "decimal number"),
        ("2026-11-18,m,1,0,1e99999,USD", "decimal number"),
        ("2026-11-18,m,-1,0,1,USD", "whole number"),
        ("2026-11-18,m,1.5,0,1,USD", "whole number"),
        ("2026-11-18,m,9999999999999999,0,1,USD", "2\\*\\*53"),
        ("2026-11-18,m,1,0,1,DOLLARS", "ISO 4217"),
        ("18.11.2026,m,1,0,1,USD", "is no day"),
        (",m,1,0,1,USD", "is no day"),
        ("9999-12-31,m,1,0,1,USD", "is no day"),
        ("9999999999,m,1,0,1,USD", "is no day"),
        ('2026-11-18,"m,1,0,1,USD', "not CSV"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_with_its_line(row: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read(f"{GENERIC}{row}\n", tmp_path)


@pytest.mark.parametrize(
    ("header", "provider", "problem"),
    [
        ("usage_date,model_version,usage_output_tokens", "anthropic", "'usage_date_utc', did you mean 'usage_date'"),
        ("day,model,inputs,output_tokens", "generic", "did you mean 'inputs'"),
        ("a,b", "openai", "--columns"),
        ("", "openai", "no CSV"),
    ],
)
def test_unknown_columns_are_named_with_a_suggestion(
    header: str, provider: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read(f"{header}\n1,2\n", tmp_path, provider)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("day=Date,modle=M,cost=C", "did you mean 'model'"),
        ("day=Date", "'input', 'output' or 'cost'"),
        ("model=M,cost=C", "'day' is needed"),
        ("day=Date,cost=C", "--currency"),
        ("day,cost=C", "cannot read"),
        ("day=A,day=B,cost=C", "twice"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        parse_columns(text)


def test_named_columns_that_the_file_lacks_are_told(tmp_path: Path) -> None:
    columns = parse_columns("day=Date,input=Prompt+Cached", None)
    with pytest.raises(ConfigurationError, match="'Cached', did you mean 'cached'"):
        read("Date,Prompt,cached\n2026-11-18,1,2\n", tmp_path, columns=columns)
    (found,) = read("Date,Prompt,Cached\n2026-11-18,1,2\n", tmp_path, columns=columns)
    assert (found.input_tokens, found.output_tokens, found.cost, found.model) == (3, None, None, "")


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["nowhere.csv", "--provider", "generic"], "cannot be read"),
        (["empty.csv", "--provider", "generic"], "no line but its header"),
        (["mixed.csv", "--provider", "generic"], "one currency"),
        (["empty.csv", "--provider", "generic", "--tolerance", "one"], "15%"),
        (["empty.csv", "--provider", "openai", "--currency", "USD"], "--columns"),
    ],
)
def test_wrong_input_is_refused_with_a_remedy(argv: list[str], remedy: str, shop: Shop, line: Line) -> None:
    Path("empty.csv").write_text(GENERIC)
    Path("mixed.csv").write_text(f"{GENERIC}2026-11-18,m,0,0,1,EUR\n2026-11-18,m,0,0,1,USD\n")
    told = line("reconcile", *argv)
    assert told.code == 2
    assert remedy in told.err
