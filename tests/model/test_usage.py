"""Usage: counts that do not overlap, and are never mended."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tenantguard.errors import BadRequestError
from tenantguard.model.money import Amount
from tenantguard.model.usage import COUNT_MAX, Usage, is_count

COUNTS = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "requests",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "reasoning_tokens",
    "image_input_tokens",
]
NO_COUNTS = [-1, True, False, 1.0, float("nan"), float("inf"), "1", None, COUNT_MAX + 1]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", NO_COUNTS)
def test_what_is_no_count_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadRequestError, match=name):
        Usage(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_COUNTS)
def test_a_unit_that_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(BadRequestError):
        Usage(units={"pages": value})  # type: ignore[dict-item]


def test_a_unit_needs_a_name() -> None:
    with pytest.raises(BadRequestError):
        Usage(units={"": 1})


def test_zero_is_a_value_and_the_largest_count_is_one() -> None:
    """E-47"""
    assert Usage() == Usage(0, 0, 0, 0, 0, {})
    assert Usage(COUNT_MAX).input_tokens == COUNT_MAX
    assert is_count(0)


def test_units_are_a_copy_that_nobody_can_change() -> None:
    counted = {"pages": 2}
    usage = Usage(units=counted)
    counted["pages"] = 3
    assert usage.units == {"pages": 2}
    with pytest.raises(TypeError):
        usage.units["pages"] = 4  # type: ignore[index]
    assert len({usage, Usage(units={"pages": 2})}) == 1


def test_every_number_of_a_usage_is_a_count() -> None:
    numbers = {item.name for item in fields(Usage) if item.type == "int"}
    assert numbers == set(COUNTS)


def test_a_part_is_not_more_than_what_it_is_inside_of() -> None:
    assert Usage(output_tokens=2, reasoning_tokens=2).reasoning_tokens == 2
    assert Usage(input_tokens=2, image_input_tokens=2).image_input_tokens == 2
    with pytest.raises(BadRequestError, match="reasoning_tokens"):
        Usage(output_tokens=1, reasoning_tokens=2)
    with pytest.raises(BadRequestError, match="image_input_tokens"):
        Usage(input_tokens=1, image_input_tokens=2)


def test_a_tier_has_a_name_and_a_reported_cost_is_not_negative() -> None:
    assert Usage(service_tier="flex", reported_cost=Amount(0, "USD")).service_tier == "flex"
    with pytest.raises(BadRequestError, match="service_tier"):
        Usage(service_tier="")
    with pytest.raises(BadRequestError, match="reported_cost"):
        Usage(reported_cost=Amount(-1, "USD"))
