"""Which of Presidio's recognisers a policy gets, each detector its own."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.pii.recognizers import known_countries, known_entities, recognizers_for
from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import Find

OWN = "tests.adapters.pii.own_recognizers"


def names(find: Find) -> list[str]:
    return sorted(type(one).__name__ for one in recognizers_for(find)[0])


def test_by_default_there_are_presidios_own_for_the_language() -> None:
    recognizers, entities = recognizers_for(Find())
    assert len(recognizers) == 17
    assert {"EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"} < set(entities)
    italian, entities = recognizers_for(Find(languages=("it",)))
    assert "IT_FISCAL_CODE" in entities
    assert {one.supported_language for one in italian} == {"it"}


def test_a_recogniser_of_several_languages_is_there_once_with_the_words_of_all() -> None:
    both, _ = recognizers_for(Find(languages=("en", "es"), entities=("CREDIT_CARD",)))
    (card,) = both
    assert {"credit", "tarjeta"} <= set(card.context)


def test_entities_choose_and_bring_in_what_is_off_by_default() -> None:
    assert names(Find(entities=("US_SSN", "SG_NRIC_FIN"))) == ["SgFinRecognizer", "UsSsnRecognizer"]
    assert recognizers_for(Find(entities=("US_SSN",)))[1] == ["US_SSN"]


@pytest.mark.parametrize("country", ["GB", "gb", "SG", "SE"])
def test_a_country_brings_its_pack(country: str) -> None:
    packed = set(names(Find(countries=(country,)))) - set(names(Find()))
    assert packed
    assert all(name.startswith({"GB": "Uk"}.get(country.upper(), country.title())) for name in packed)
    assert country.upper() in known_countries()


def test_recognisers_are_named_by_class_or_are_the_users_own() -> None:
    found = names(Find(recognizers=("SgFinRecognizer", f"{OWN}:badges", f"{OWN}:Names")))
    assert found == ["Names", "PatternRecognizer", "SgFinRecognizer"]


def test_no_detector_shares_patterns_with_a_class_or_with_another() -> None:
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer

    from tests.adapters.pii import own_recognizers

    find = Find(recognizers=("CreditCardRecognizer", f"{OWN}:badges"))
    one, _ = recognizers_for(find)
    other, _ = recognizers_for(find)
    shared = [CreditCardRecognizer.PATTERNS[0], own_recognizers.badges.patterns[0]]
    for here, there, owner in zip(one, other, shared, strict=True):
        patterns = [here.patterns[0], there.patterns[0], owner]  # type: ignore[attr-defined]
        assert len({id(pattern) for pattern in patterns}) == 3


@settings(max_examples=500)
@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.ip_addresses(v=6).map(lambda one: one.exploded),
        st.from_regex(re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}(/[0-9]{1,2})?", re.ASCII), fullmatch=True),
        st.from_regex(
            re.compile(r"([0-9a-fA-F]{0,5}:){1,8}([0-9a-f]{0,4}|(0|1?2?[0-9]\.){3}[0-9]{1,3})(%e1)?(/64)?", re.ASCII),
            fullmatch=True,
        ),
    )
)
def test_what_is_an_address_is_what_presidio_says(text: str) -> None:
    from presidio_analyzer.predefined_recognizers import IpRecognizer

    (ours,), _ = _recognizers_of_addresses()
    assert bool(ours.invalidate_result(text)) == bool(IpRecognizer().invalidate_result(text))  # type: ignore[attr-defined]


@cache
def _recognizers_of_addresses() -> Any:
    return recognizers_for(Find(entities=("IP_ADDRESS",)))


def test_telephone_regions_are_those_of_the_policy() -> None:
    (phone,), _ = recognizers_for(Find(entities=("PHONE_NUMBER",), phone_regions=("ch", "AT")))
    assert phone.supported_regions == ("CH", "AT")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": ("EMAIL_ADRESS",)}, "did you mean 'EMAIL_ADDRESS'"),
        ({"entities": ("PERSON",)}, "no entity 'PERSON'"),
        ({"recognizers": ("SgFinRecogniser",)}, "did you mean 'SgFinRecognizer'"),
        ({"recognizers": ("SpacyRecognizer",)}, "no pattern recogniser"),
        ({"recognizers": ("no.such.module:attribute",)}, "cannot be loaded: ModuleNotFoundError"),
        ({"recognizers": (f"{OWN}:missing",)}, "cannot be loaded: AttributeError"),
        ({"recognizers": (f"{OWN}:nothing",)}, "is no recogniser"),
        ({"countries": ("XX",)}, "no recognisers for the country 'XX'; it has some for AU"),
        ({"phone_regions": ("XX",)}, "no telephone region 'XX'"),
    ],
)
def test_names_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    """E-69."""
    with pytest.raises(ConfigurationError, match=message):
        recognizers_for(Find(**settings))


def test_a_presidio_that_would_skip_a_slow_pattern_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from presidio_analyzer.predefined_recognizers.generic import iban_recognizer

    monkeypatch.setattr(iban_recognizer, "REGEX_TIMEOUT_SECONDS", 1)
    with pytest.raises(ConfigurationError, match="REGEX_TIMEOUT_SECONDS"):
        recognizers_for(Find())


def test_known_entities_are_all_that_can_be_named() -> None:
    known = known_entities()
    assert {"EMAIL_ADDRESS", "SG_NRIC_FIN", "DE_TAX_ID"} <= known
    assert set(recognizers_for(Find())[1]) <= known
