"""Prices from the files of others: exact decimals, all problems at once, and where they stand."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pricing.file import PriceFileError, parse_time
from tenantguard.adapters.pricing.imports import COLUMNS, import_prices
from tenantguard.model.price import PriceRow, TokenPrice
from tenantguard.model.token_price import Tier

if TYPE_CHECKING:
    from pathlib import Path

    from tenantguard.adapters.pricing.compiled import Compiled

HEADER = "provider,model,currency,from,above,service,multiplier,input,output,cache_read,cache_write\n"
LARGE = "acme,large,USD,,,,,3,15,0.3,3.75\n"


def csv_of(folder: Path, lines: str, header: str = HEADER) -> Compiled:
    (folder / "p.csv").write_text(header + lines)
    return import_prices(folder / "p.csv")


def csv_problems(folder: Path, lines: str, header: str = HEADER) -> list[str]:
    with pytest.raises(PriceFileError) as wrong:
        csv_of(folder, lines, header)
    return [problem.split(";")[0] for problem in wrong.value.problems]


def json_of(folder: Path, document: Any) -> Compiled:
    (folder / "p.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return import_prices(folder / "p.json")


# CSV


def test_a_line_is_a_price_and_further_lines_are_its_tiers_and_service_tiers(tmp_path: Path) -> None:
    made = csv_of(
        tmp_path,
        LARGE
        + "acme,large,USD,,200000,,,6,22.5,0.6,7.5\n"
        + "acme,large,USD,,,batch,0.5,,,,\n"
        + "acme,large,USD,,,priority,,4,20,0.4,5\n"
        + "acme,large,USD,,200000,priority,,8,40,0.8,10\n"
        + "acme,large,USD,2027-01-01,,,,2,10,0.2,2\n",
    )
    first, second = made.rows
    assert first == PriceRow(
        "large",
        TokenPrice(
            3 * 10**9,
            15 * 10**9,
            3 * 10**8,
            3_750_000_000,
            "USD",
            tiers=(Tier(6 * 10**9, 22_500_000_000, 6 * 10**8, 7_500_000_000, above=200_000),),
            services=(
                ("batch", Fraction(1, 2)),
                (
                    "priority",
                    TokenPrice(
                        4 * 10**9,
                        20 * 10**9,
                        4 * 10**8,
                        5 * 10**9,
                        "USD",
                        tiers=(Tier(8 * 10**9, 40 * 10**9, 8 * 10**8, 10 * 10**9, above=200_000),),
                    ),
                ),
            ),
        ),
        "acme",
    )
    assert (second.from_ns, second.price.input) == (parse_time("2027-01-01"), 2 * 10**9)
    assert made.source == "p.csv"


def test_names_are_divided_by_spaces_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    header = "model,aliases,patterns,currency,input,output,cache_read,cache_write,audio_input,request\n"
    (row,) = csv_of(tmp_path, "m,m-1  m-2,m-* n-####,EUR,1,1,0,0,2,0.5\n\n,,,,,,,,,\n", header).rows
    assert (row.aliases, row.patterns) == (("m-1", "m-2"), ("m-*", "n-####"))
    assert (row.provider, row.price.currency, row.price.audio_input, row.price.request) == (
        None,
        "EUR",
        2 * 10**9,
        5 * 10**8,
    )


def test_every_wrong_line_of_a_csv_is_told_by_its_number(tmp_path: Path) -> None:
    told = csv_problems(
        tmp_path,
        LARGE
        + LARGE
        + "acme,other,USD,,200000,,,1,1,1,1\n"
        + "acme,large,USD,,many,,,1,1,1,1\n"
        + "acme,third,USD,,,,,0.1e3,1,1,\n"
        + "acme,fourth,USD,,,,,1,1,1,1,1\n"
        + "acme,large,USD,,,batch,0.5,,,,\n"
        + "acme,large,USD,,,batch,0.6,,,,\n",
    )
    assert sorted(told) == [
        "line 3: the model has these rates in line 2",
        "line 4: the line of the model's own rates must come first, with the same provider and from",
        "line 5: above: must be a whole number of tokens",
        "line 6 (third): cache_write: is missing",
        "line 6 (third): input: must be a decimal with at most nine decimals",
        "line 7: has 12 cells under 11 columns",
        "line 9: the service tier 'batch' has rates already",
    ]


def test_a_tier_in_another_currency_or_for_other_names_is_refused(tmp_path: Path) -> None:
    """Its rates would be charged as if they were in the model's own currency."""
    told = csv_problems(
        tmp_path,
        "acme,large,large-*,USD,,,,3,15,0.3,3.75\n"
        "acme,large,,EUR,200000,,,6,22.5,0.6,7.5\n"
        "acme,large,big-*,USD,,batch,0.5,,,,\n"
        "acme,large,large-*,USD,,flex,0.5,,,,\n"
        "acme,large,,,300000,,,7,25,0.6,7.5\n",
        "provider,model,patterns,currency,above,service,multiplier,input,output,cache_read,cache_write\n",
    )
    assert told == [
        "line 3: currency: differs from the line of the model's own rates",
        "line 4: patterns: differs from the line of the model's own rates",
    ]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("model,price\n", "line 1: unknown columns 'price'"),
        ("model,input\n", "line 1: columns must differ"),
        ("model,currency,model\n", "line 1: columns must differ"),
        ("", "line 1: unknown columns"),
    ],
)
def test_columns_that_nobody_knows_are_refused_with_those_that_are_known(
    tmp_path: Path, header: str, told: str
) -> None:
    with pytest.raises(PriceFileError) as wrong:
        csv_of(tmp_path, LARGE, header)
    assert wrong.value.problems[0].startswith(told)
    assert all(column in wrong.value.problems[0] for column in COLUMNS)


def test_what_is_no_csv_is_told_by_its_line(tmp_path: Path) -> None:
    assert csv_problems(tmp_path, LARGE + 'acme,"x"y,USD\n') == ["line 3: this is not CSV: ',' expected after '\"'"]


def test_a_file_without_prices_is_a_mistake(tmp_path: Path) -> None:
    assert csv_problems(tmp_path, "") == ["has no price in it"]
    with pytest.raises(PriceFileError, match="no price in it"):
        json_of(tmp_path, {})


def test_only_files_of_two_kinds_are_imported(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match=r"must be a \.csv"):
        import_prices(tmp_path / "p.toml")
    with pytest.raises(PriceFileError, match="cannot be read"):
        import_prices(tmp_path / "none.csv")


# LiteLLM


def test_costs_by_token_become_exact_rates_by_the_million(tmp_path: Path) -> None:
    made = json_of(
        tmp_path,
        {
            "sample_spec": {"input_cost_per_token": "what it costs"},
            "vendor/large": {
                "litellm_provider": "vendor",
                "mode": "chat",
                "input_cost_per_token": 1.8000000000000002e-07,
                "output_cost_per_token": 2.25e-05,
                "cache_read_input_token_cost": 3e-08,
                "cache_creation_input_token_cost": None,
                "input_cost_per_audio_token": 1e-06,
                "output_cost_per_reasoning_token": "3e-06",
                "input_cost_per_request": 0.005,
                "search_context_cost_per_query": {"low": 0.01},
                "max_tokens": 4096,
            },
        },
    )
    assert made.rows == (
        PriceRow(
            "large",
            TokenPrice(
                180_000_000,
                22_500_000_000,
                30_000_000,
                180_000_000,
                "USD",
                audio_input=10**9,
                reasoning=3 * 10**9,
                request=5_000_000,
            ),
            "vendor",
            unpriced=("search_context_cost_per_query",),
        ),
    )


def test_tiers_and_service_tiers_stand_in_the_keys(tmp_path: Path) -> None:
    (row,) = json_of(
        tmp_path,
        {
            "m": {
                "input_cost_per_token": 1e-06,
                "output_cost_per_token": 2e-06,
                "cache_creation_input_token_cost_above_1hr": 5e-06,
                "input_cost_per_token_above_200k_tokens": 3e-06,
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 6e-06,
                "input_cost_per_token_batches": 5e-07,
                "input_cost_per_token_above_200k_tokens_batches": 7e-07,
                "output_cost_per_token_priority": 4e-06,
            }
        },
    ).rows
    billion = 10**9
    assert row.provider is None
    assert row.price.tiers == (
        Tier(3 * billion, 2 * billion, 3 * billion, 3 * billion, above=200_000, cache_write_1h=6 * billion),
    )
    assert row.price.services == (
        (
            "batch",
            TokenPrice(
                billion // 2,
                2 * billion,
                billion // 2,
                billion // 2,
                "USD",
                cache_write_1h=5 * billion,
                tiers=(
                    Tier(
                        700_000_000, 2 * billion, 700_000_000, 700_000_000, above=200_000, cache_write_1h=5 * billion
                    ),
                ),
            ),
        ),
        ("priority", TokenPrice(billion, 4 * billion, billion, billion, "USD", cache_write_1h=5 * billion)),
    )


def test_what_has_no_price_of_tokens_is_left_out_and_told(tmp_path: Path) -> None:
    """A model that writes is never taken for one that writes for nothing."""
    made = json_of(
        tmp_path,
        {
            "picture": {"output_cost_per_image": 0.06},
            "embed": {"input_cost_per_token": 1e-07, "mode": "embedding"},
            "chat": {"input_cost_per_token": 1e-07, "mode": "chat"},
        },
    )
    assert made.left_out == ("chat: has no price of output tokens", "picture: has no price of input tokens")
    assert [(row.model, row.price.output) for row in made.rows] == [("embed", 0)]


def test_every_wrong_model_of_a_json_is_told_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError) as wrong:
        json_of(
            tmp_path,
            '{"a": {"input_cost_per_token": -1e-06}, "b": {"input_cost_per_token": NaN}, "c": [],'
            ' "d": {"input_cost_per_token": 1e-30}, "e": {"input_cost_per_token": true},'
            ' "v/f": {"input_cost_per_token": 1, "litellm_provider": "v"},'
            ' "f": {"input_cost_per_token": 2, "litellm_provider": "v"}}',
        )
    told = [problem.split(": must")[0] for problem in wrong.value.problems]
    assert told[:3] == ["'a': input_cost_per_token", "'b': input_cost_per_token", "'c'"]
    assert "'d': input_cost_per_token" in told
    assert "'e': input_cost_per_token" in told
    assert any("'f' has a price from the same time on" in problem for problem in wrong.value.problems)


def test_the_version_of_an_import_follows_from_the_file(tmp_path: Path) -> None:
    first = csv_of(tmp_path, LARGE).source_version
    assert csv_of(tmp_path, LARGE).source_version == first
    assert csv_of(tmp_path, LARGE.replace("3.75", "3.76")).source_version != first
