"""The request's rule and the response's: what they count, refuse and restore."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import PLACEHOLDER, Vault
from tenantguard.rules.redaction.text.matches import outside, united
from tenantguard.rules.redaction.text.rule import (
    Replacing,
    RequestMask,
    ResponseScrub,
    SecretFoundError,
    apply,
    text_edits,
)

MAIL = "ann@example.com"
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=6)


def written(rule: Any, text: str) -> str:
    return apply(text, text_edits(rule, text))


def test_an_entity_that_is_refused_raises_its_kind_and_nothing_of_the_value(tools: Any) -> None:
    replacing = Replacing(refused=lambda entity: entity == "EMAIL_ADDRESS")
    for rule in (
        RequestMask(tools.detecting(tools.detect), tools.vault(), escape=False, replacing=replacing),
        ResponseScrub(tools.detecting(tools.detect), tools.vault(), restore=False, replacing=replacing),
    ):
        with pytest.raises(SecretFoundError) as found:
            text_edits(rule, f"to {MAIL}")
        assert found.value.kind == "EMAIL_ADDRESS"
        assert "ann" not in repr(found.value) + str(found.value)
    assert replacing.replaced == {}


@pytest.mark.parametrize(("text", "arguments"), [(True, False), (False, True), (True, True), (False, False)])
def test_text_and_arguments_are_restored_each_by_its_switch(
    tools: Any,
    text: bool,  # noqa: FBT001
    arguments: bool,  # noqa: FBT001
) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", MAIL)
    scrub = ResponseScrub(tools.detecting(tools.detect), vault, restore=text, restore_arguments=arguments)
    assert written(scrub, token) == (MAIL if text else token)
    assert written(scrub.arguments, token) == (MAIL if arguments else token)
    written(scrub.arguments, "eve@evil.org")
    assert scrub.replaced == {"EMAIL_ADDRESS": 1}


def test_arguments_have_the_same_rule_unless_other_things_are_restored_there(tools: Any) -> None:
    scrub = ResponseScrub(tools.detecting(tools.detect), tools.vault(), restore=True)
    assert scrub.arguments is scrub
    mask = tools.mask()
    assert mask.arguments is mask


def test_what_a_rule_tells_of_the_work_is_the_detectors(tools: Any) -> None:
    detector = tools.detecting(tools.detect, 7)
    detector.passed = 3
    for rule in (
        RequestMask(detector, tools.vault(), escape=True),
        ResponseScrub(detector, tools.vault(), restore=True),
    ):
        assert (rule.reach, rule.passed) == (7, 3)


@given(SPANS, SPANS)
def test_united_matches_cover_what_either_covered_and_do_not_overlap(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    mine = [Match("A", start, start + length, 0.5) for start, length in ours]
    others = [Match("B", start, start + length, 1.0) for start, length in theirs]
    joined = united(mine, others, "B")
    assert all(one.end <= other.start for one, other in pairwise(joined))
    assert _covered(joined) == _covered([*mine, *others])
    assert all(any(match.entity == "B" for match in joined if match.start <= one.start < match.end) for one in others)


@given(SPANS, SPANS)
def test_what_is_outside_of_holes_covers_the_rest_and_nothing_of_them(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    mine = united([Match("A", start, start + length, 0.5) for start, length in ours], [])
    holes = united([Match("H", start, start + length, 1.0) for start, length in theirs], [])
    assert _covered(outside(mine, holes)) == _covered(mine) - _covered(holes)


def _covered(matches: list[Match]) -> set[int]:
    return {place for match in matches for place in range(match.start, match.end)}


@given(
    st.lists(st.sampled_from([MAIL, "bob@example.com", " ", "hi ", "<", "<EMAIL_ADDRESS_aaaaaaaaaa>"])).map("".join)
)
def test_a_round_trip_gives_the_users_own_text_back(tools: Any, text: str) -> None:
    vault = Vault(b"k" * 32)
    sent = written(RequestMask(tools.detecting(tools.detect), vault, escape=True), text)
    assert MAIL not in sent
    back = written(ResponseScrub(tools.detecting(lambda _: []), vault, restore=True), sent)
    assert back == text


def test_a_vault_that_is_full_restores_no_more_and_reveals_nothing() -> None:
    vault = Vault(b"k" * 32, 1)
    first, second = vault.mint("A", "one"), vault.mint("A", "two")
    assert (vault.value(first), vault.value(second)) == ("one", None)
    assert PLACEHOLDER.fullmatch(second)
    assert vault.mint("A", "one") == first
