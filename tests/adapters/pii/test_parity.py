"""The cascade finds what Presidio finds: on a seeded sample here, on any number of texts by ``parity.py``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Find
from tests.adapters.pii.parity import (
    Figures,
    Pair,
    Presidio,
    covered,
    others,
    recognizer_names,
    text_of,
    unequal,
)
from tests.adapters.pii.texts import SIZE_MAX, Density, any_text, chat
from tests.adapters.pii.values import DEFAULT, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable

SAMPLES: list[str] = [
    json.loads(line) for line in Path(__file__).with_name("samples.jsonl").read_text("utf-8").splitlines()
]
TEXTS = 500
TEXTS_OF_EACH = 15


def differing(pair: Pair, texts: Iterable[str]) -> tuple[list[str], Figures]:
    figures = Figures()
    found = [f"text {at}: {one}" for at, text in enumerate(texts) for one in pair.compare(text, figures)]
    return found, figures


@pytest.fixture(scope="module")
def default() -> Pair:
    return Pair()


def test_generated_texts_give_presidios_results_with_hyperscan_and_without(default: Pair) -> None:
    """Spans, entities and scores; the anonymised text; and the text with conflicts settled."""
    differences, figures = differing(default, map(text_of, range(TEXTS)))
    assert not differences, differences[:3]
    assert figures.results > 5 * TEXTS, "the texts hold what is looked for"


def test_the_repositorys_sample_texts_give_presidios_results(default: Pair) -> None:
    assert len(SAMPLES) > 200
    differences, _ = differing(default, SAMPLES)
    assert not differences, differences[:3]


def test_all_recognisers_at_once_give_presidios_results() -> None:
    everything = Pair(recognizer_names(), backends=(False,))  # hyperscan needs ten seconds to compile so many
    differences, figures = differing(everything, [*map(text_of, range(5_000, 5_040)), *SAMPLES[::5]])
    assert not differences, differences[:3]
    assert figures.results > 500


@pytest.mark.parametrize("name", others())
def test_each_further_recogniser_alone_gives_presidios_results(name: str) -> None:
    pair = Pair((name,))
    entities = [entity for one in pair.theirs.recognizers for entity in one.supported_entities]
    own = (text_of(seed, entities, (name,)) for seed in range(TEXTS_OF_EACH))
    differences, figures = differing(pair, [*own, *map(text_of, range(TEXTS_OF_EACH))])
    assert not differences, differences[:3]
    assert figures.results >= TEXTS_OF_EACH // 2, "the texts hold what is looked for"


@pytest.mark.parametrize("fragment", ["12 ", "415-555-01", "1.5, 20, "])
def test_a_text_on_which_the_work_ends_is_covered_at_least_as_far(default: Pair, fragment: str) -> None:
    text = fragment * (SIZE_MAX // len(fragment))
    differences, figures = differing(default, [text, text[:2_000]])
    assert not differences, differences[:3]
    assert figures.texts == 2


@pytest.mark.parametrize("backend", ["hyperscan", "re"])
def test_in_no_part_of_a_text_that_is_clear_anything_is_found(backend: str) -> None:
    """What clears a body as a whole clears each of its strings."""
    detector = CascadeDetector(Find(threshold=0.0), fast=backend == "hyperscan")
    cleared = 0
    for seed in range(400):
        rng = Random(seed)
        text = chat(rng, 600, Density.NATURAL) if seed % 2 else text_of(seed)[:600]
        if not detector.clears(text):
            continue
        cleared += 1
        ends = sorted(rng.sample(range(len(text) + 1), 2)) if len(text) > 1 else [0, len(text)]
        assert detector.detect(text) == []
        assert detector.detect(text[slice(*ends)]) == []
    assert cleared > 50
    assert all(detector.clears(chat(Random(seed), 2_000, Density.CLEAN)) for seed in range(20))


@pytest.mark.parametrize("backend", ["hyperscan", "re"])
def test_what_ends_behind_a_place_is_found_as_in_the_whole_text(backend: str) -> None:
    """What a stream asks for, of the text that it kept and what is new."""
    detector = CascadeDetector(Find(threshold=0.0), fast=backend == "hyperscan")
    found = 0
    for seed in range(150):
        text = text_of(seed)[:1_500]
        whole = detector.detect(text)
        for after in {
            0,
            len(text) // 3,
            *(match.end for match in whole[::5]),
            *(match.start for match in whole[::7]),
        }:
            seen = [match for match in detector.detect(text, after) if match.end > after]
            assert seen == [match for match in whole if match.end > after], seed
            found += len(seen)
    assert found > 500


@pytest.mark.parametrize("name", recognizer_names())
def test_generated_values_are_right_for_presidio(name: str) -> None:
    """A generator whose values no recogniser takes would compare nothing."""
    presidio = Presidio((name,))
    for recognizer in presidio.recognizers:
        for entity in recognizer.supported_entities:
            rng = Random(name)
            values = [VALUES[entity](rng) for _ in range(40)]
            assert sum(bool(presidio.analyze(value)) for value in values) >= 20


def test_a_seed_gives_the_same_text_again_and_seeds_differ() -> None:
    texts = [any_text(seed) for seed in range(300)]
    assert texts == [any_text(seed) for seed in range(300)]
    assert len(set(texts)) > 270
    assert max(map(len, texts)) > 1_000


@pytest.mark.parametrize("density", Density)
def test_a_chat_is_as_long_and_as_dense_as_asked_for(density: Density) -> None:
    text = chat(Random(1), SIZE_MAX, density)
    assert len(text) == SIZE_MAX
    digits = sum(one.isdigit() for one in text)
    assert {"clean": digits == 0, "natural": 20 < digits < 400, "dense": digits > 300}[density.value]


def test_the_comparison_sees_what_is_missing_and_what_is_too_much() -> None:
    card, phone = Match("CREDIT_CARD", 5, 21, 1.0), Match("PHONE_NUMBER", 5, 17, 0.4)
    weak, shifted = Match("US_BANK_NUMBER", 5, 21, 0.05), Match("PHONE_NUMBER", 3, 17, 0.4)
    assert unequal([card, phone], [card]) == ([], []), "a number inside of a claimed span may be left out"
    assert unequal([weak, phone], [weak]) == ([phone], []), "a weak result claims nothing"
    assert unequal([card, shifted], [card]) == ([shifted], []), "nor does one that covers it in part"
    assert unequal([phone], [phone, card]) == ([], [card])
    assert unequal([card], [Match("CREDIT_CARD", 5, 21, 0.3)]) == ([card], [Match("CREDIT_CARD", 5, 21, 0.3)])


def test_a_result_is_covered_by_several_that_leave_no_gap() -> None:
    match = Match("URL", 4, 12, 0.5)
    assert covered(match, [Match("A", 8, 13, 0.4), Match("B", 0, 8, 0.4)])
    assert not covered(match, [Match("A", 9, 13, 0.4), Match("B", 0, 8, 0.4)])
    assert not covered(match, [])


def test_every_default_entity_has_values() -> None:
    found = {entity for one in Presidio().recognizers for entity in one.supported_entities}
    assert found == set(DEFAULT)
