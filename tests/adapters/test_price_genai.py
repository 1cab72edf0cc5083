"""Prices compiled from the installed package genai-prices: the same money as that package computes, pinned."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from genai_prices import types
from genai_prices.data import providers as known_providers

from tenantguard.adapters.pricing.file import parse_price_list, parse_time, render_price_list
from tenantguard.adapters.pricing.genai import compile_genai, compile_providers
from tenantguard.errors import ConfigurationError
from tenantguard.model.price import PriceBook, PriceList, PriceRow
from tenantguard.model.usage import Usage
from tenantguard.rules.pricing import quote

if TYPE_CHECKING:
    from tenantguard.adapters.pricing.compiled import Compiled

PROVIDERS = {provider.id: provider for provider in known_providers}
TIMES = (datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 10, 13, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC))
USAGES = (
    Usage(1000, 500),
    Usage(90_000, 1, 60_000, 1_000, cache_write_1h_tokens=7),
    Usage(1_000_003, 3, 0, 11),
)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_genai()


@pytest.fixture(scope="module")
def prices(compiled: Compiled) -> PriceList:
    return PriceList(compiled.rows)


def nanos(when: datetime) -> int:
    return int(when.timestamp()) * 10**9


def their_nanos(
    model: types.ModelInfo, provider: types.Provider, usage: Usage, when: datetime, service: str
) -> Decimal:
    used = types.Usage(
        input_tokens=usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.cache_write_1h_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
    )
    context = {"processing": "batch"} if service == "batch" else {"service_tier": service} if service else None
    price = model.get_prices(when, context)
    text_only = types.ModelPrice(**{key: value for key, value in vars(price).items() if key in TEXT_KINDS})
    return text_only.calc_price(used)["total_price"].scaleb(9)


TEXT_KINDS = {
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "requests_kcount",
}


@pytest.mark.parametrize("service", ["", "batch", "flex", "priority"])
def test_every_model_costs_what_the_package_computes(prices: PriceList, service: str) -> None:
    """For text of all cache kinds, below and above every threshold, before and after prices change."""
    differing = []
    compared = 0
    for row in {(row.provider, row.model): row for row in prices.rows if "time_of_day" not in row.unpriced}.values():
        provider = PROVIDERS[row.provider or ""]
        model = next(model for model in provider.models if model.id == row.model)
        if service and not model.price_variants:
            continue
        for when in TIMES:
            book = PriceBook(listed=prices)
            answer = quote(book, row.model, provider=row.provider, now_ns=nanos(when))
            if answer is None:
                continue  # not sold yet
            for usage in USAGES:
                ours = answer.cost_nanos(Usage(*_counts(usage), service_tier=service or None, **_named(usage)))
                theirs = their_nanos(model, provider, usage, when, service)
                compared += 1
                if abs(ours - theirs) > max(1, theirs * Decimal("1e-6")):
                    differing.append((row.provider, row.model, when.date(), usage.input_tokens, ours, theirs))
    assert differing == []
    assert compared > (500 if service else 10_000)


def _counts(usage: Usage) -> tuple[int, int, int, int]:
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens


def _named(usage: Usage) -> dict[str, int]:
    return {"cache_write_1h_tokens": usage.cache_write_1h_tokens}


def test_a_name_finds_the_model_that_the_package_finds(prices: PriceList) -> None:
    differing = []
    compared = 0
    for row in {(row.provider, row.model): row for row in prices.rows}.values():
        provider = PROVIDERS[row.provider or ""]
        likely = [pattern.replace("#", "7").replace("*", middle) for pattern in row.patterns for middle in ("", "-x")]
        for name in (*row.aliases, *likely):
            theirs = provider.find_model(name)
            ours = prices.find(name, (provider.id,), nanos(TIMES[-1]))
            compared += 1
            if theirs is not None and (ours is None or ours.model != theirs.id):
                differing.append((provider.id, name, ours and ours.model, theirs.id))
    assert differing == []
    assert compared > 1000


def test_compiling_is_deterministic_and_survives_the_file(compiled: Compiled) -> None:
    text = render_price_list(compiled.rows, source=compiled.source, source_version=compiled.source_version)
    again = compile_genai()
    assert render_price_list(again.rows, source=again.source, source_version=again.source_version) == text
    read = parse_price_list(text)
    assert read.rows == compiled.rows
    assert read.version.startswith(f"genai-prices-{compiled.source_version}-")


def test_only_the_named_providers_are_compiled() -> None:
    assert {row.provider for row in compile_genai(["openai", "anthropic"]).rows} == {"openai", "anthropic"}
    with pytest.raises(ConfigurationError, match=r"no provider 'opnai'.*openai"):
        compile_genai(["opnai"])


def test_what_has_no_price_of_tokens_is_left_out_and_told(compiled: Compiled) -> None:
    assert "openai whisper-1: has no price of input tokens" in compiled.left_out
    assert not any(row.model == "whisper-1" and row.provider == "openai" for row in compiled.rows)


def one(model: types.ModelInfo) -> tuple[PriceRow, ...]:
    return compile_providers([types.Provider("p", "P", "https://p", models=[model])], "1").rows


def test_float_noise_is_no_price() -> None:
    noisy = types.ModelPrice(input_mtok=Decimal("0.18000000000000002"), output_mtok=Decimal("0.08333333333333334"))
    (row,) = one(types.ModelInfo("m", types.ClauseEquals("m"), prices=noisy))
    assert (row.price.input, row.price.output) == (180_000_000, 83_333_333)


def test_a_price_that_is_too_fine_leaves_its_model_out() -> None:
    fine = types.ModelPrice(input_mtok=Decimal("0.0000000012345"))
    made = compile_providers(
        [types.Provider("p", "P", "https://p", models=[types.ModelInfo("m", types.ClauseEquals("m"), prices=fine)])],
        "1",
    )
    assert (made.rows, made.left_out) == ((), ("p m: a price is finer than a billionth per million tokens",))


def test_where_a_price_depends_on_the_time_of_day_the_dearest_holds() -> None:
    night = types.TimeOfDateConstraint(time(1), time(4))
    cheap = types.ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(9))
    dear = types.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(8))
    conditional = [types.ConditionalPrice(prices=cheap), types.ConditionalPrice(night, prices=dear)]
    (row,) = one(types.ModelInfo("m", types.ClauseEquals("m"), prices=conditional))
    assert (row.price.input, row.price.output, row.unpriced) == (2 * 10**9, 9 * 10**9, ("time_of_day",))


def test_each_start_date_is_a_row() -> None:
    later = types.StartDateConstraint(date(2027, 1, 1))
    conditional = [
        types.ConditionalPrice(prices=types.ModelPrice(input_mtok=Decimal(1))),
        types.ConditionalPrice(later, prices=types.ModelPrice(input_mtok=Decimal(2))),
    ]
    first, second = one(types.ModelInfo("m", types.ClauseEquals("m"), prices=conditional))
    assert (first.from_ns, first.price.input) == (0, 10**9)
    assert (second.from_ns, second.price.input) == (parse_time("2027-01-01"), 2 * 10**9)


@pytest.mark.parametrize(
    ("clause", "aliases", "patterns"),
    [
        (types.ClauseEquals("m-2"), ("m-2",), ()),
        (types.ClauseStartsWith("m-"), (), ("m-*",)),
        (types.ClauseEndsWith("/m"), (), ("*/m",)),
        (types.ClauseContains("m"), (), ("*m*",)),
        (types.ClauseOr([types.ClauseEquals("m-2"), types.ClauseStartsWith("n-")]), ("m-2",), ("n-*",)),
        (types.ClauseRegex(r"^m-5[-@]\d{8}$"), (), ("m-5-########", "m-5@########")),
        (types.ClauseRegex(r"^m\.5-\d"), (), ("m.5-#*",)),
        (types.ClauseRegex(r"^m\[fast=true\]$"), ("m[fast=true]",), ()),
        (types.ClauseRegex(r"^(?!tts)"), (), ()),
        (types.ClauseRegex(r"m$"), (), ()),
        (types.ClauseAnd([types.ClauseStartsWith("m"), types.ClauseRegex("^(?!tts)")]), (), ()),
    ],
)
def test_conditions_become_names_and_patterns_or_nothing(
    clause: object, aliases: tuple[str, ...], patterns: tuple[str, ...]
) -> None:
    price = types.ModelPrice(input_mtok=Decimal(1))
    (row,) = one(types.ModelInfo("m", clause, prices=price))  # type: ignore[arg-type]
    assert (row.model, row.aliases, row.patterns) == ("m", aliases, patterns)


def test_nothing_imports_the_package_but_compiling() -> None:
    code = (
        "import sys, tenantguard.adapters.pricing.genai, tenantguard.adapters.pricing.file, "
        "tenantguard.adapters.pricing.imports, tenantguard.commands.prices; "
        "assert not [name for name in sys.modules if name.startswith('genai_prices')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
