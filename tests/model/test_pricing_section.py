"""A tenant's mark-up or discount: exact shares."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.policy import Policy
from tenantguard.model.pricing_section import PricingSection, parse_percent


@pytest.mark.parametrize(
    ("text", "share"),
    [("15%", Fraction(3, 20)), ("2.5 %", Fraction(1, 40)), ("0%", Fraction(0)), ("0.000001%", Fraction(1, 10**8))],
)
def test_a_percentage_is_read_exactly(text: str, share: Fraction) -> None:
    assert parse_percent(text) == share


@pytest.mark.parametrize("text", ["", "15", "-1%", "1,5%", ".5%", "1e2%", "0.0000001%", "nan%", "\u0661%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="percentage"):
        parse_percent(text)


def test_a_markup_adds_and_a_discount_takes_away() -> None:
    assert PricingSection(markup=Fraction(15, 100)).factor == Fraction(23, 20)
    assert PricingSection(discount=Fraction(1, 10)).factor == Fraction(9, 10)
    assert PricingSection(discount=Fraction(1)).factor == 0
    assert PricingSection().factor == 1


@pytest.mark.parametrize(
    ("markup", "discount"),
    [
        (Fraction(1, 10), Fraction(1, 10)),
        (Fraction(-1, 10), Fraction(0)),
        (Fraction(0), Fraction(11, 10)),
        (0.1, Fraction(0)),
    ],
)
def test_an_impossible_section_is_refused(markup: Fraction, discount: Fraction) -> None:
    with pytest.raises(ConfigurationError, match="pricing"):
        PricingSection(markup, discount)


@given(st.integers(0, 10**9))
def test_a_section_shows_what_was_written(millionths: int) -> None:
    section = PricingSection(markup=Fraction(millionths, 10**8))
    told = str(section).removeprefix("markup ")
    assert parse_percent(told) == section.markup


def test_a_section_belongs_to_a_policy_and_its_revision() -> None:
    dear, cheap = PricingSection(markup=Fraction(1, 10)), PricingSection(discount=Fraction(1, 10))
    assert Policy.of("a", [dear]).section(PricingSection) == dear
    assert Policy.of("a", [dear]).revision != Policy.of("a", [cheap]).revision
    assert str(cheap) == "discount 10%"
