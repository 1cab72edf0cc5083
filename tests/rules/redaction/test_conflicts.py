"""Matches that overlap: settled as Presidio's anonymizer settles them, thinned out as its analyzer does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Kept
from tenantguard.rules.redaction.text.conflicts import distinct, resolve, settle

SPANS = st.lists(
    st.builds(
        lambda entity, start, length, score: Match(entity, start, start + length, score),
        st.sampled_from("ABC"),
        st.integers(0, 30),
        st.integers(1, 12),
        st.sampled_from([0.4, 0.6, 1.0]),
    ),
    max_size=12,
)


@given(SPANS)
def test_settled_matches_do_not_overlap_and_cover_all_that_was_found(matches: list[Match]) -> None:
    settled = resolve(matches)
    assert all(one.end <= other.start for one, other in pairwise(settled))
    assert {at for match in settled for at in range(match.start, match.end)} == {
        at for match in matches for at in range(match.start, match.end)
    }
    assert resolve(settled[::-1]) == settled


@given(SPANS)
def test_without_secrets_and_kept_entities_conflicts_are_presidios(matches: list[Match]) -> None:
    assert settle(matches) == resolve(matches)
    assert settle(matches, {"D"}, Kept(frozenset({"E"}))) == resolve(matches)


def _places(matches: list[Match], entities: str) -> set[int]:
    return {at for one in matches if one.entity in entities for at in range(one.start, one.end)}


@given(SPANS)
def test_a_secret_has_all_its_span_and_what_is_kept_only_what_nothing_else_has(matches: list[Match]) -> None:
    settled = settle(matches, {"A"}, Kept(frozenset({"C"})))
    assert all(one.end <= other.start for one, other in pairwise(settled))
    assert _places(settled, "A") == _places(matches, "A")
    assert _places(settled, "B") == _places(matches, "B") - _places(matches, "A")
    assert _places(settled, "C") == _places(matches, "C") - _places(matches, "AB")


@given(SPANS)
def test_a_secret_that_is_kept_hides_nothing(matches: list[Match]) -> None:
    settled = settle(matches, {"A"}, Kept(frozenset({"B"}), others=True))
    assert _places(settled, "B") == _places(matches, "B")


@settings(deadline=None)  # the first example imports Presidio's anonymizer
@given(SPANS)
def test_conflicts_are_settled_as_presidios_anonymizer_settles_them(matches: list[Match]) -> None:
    from presidio_anonymizer import AnonymizerEngine
    from presidio_anonymizer.entities import ConflictResolutionStrategy, OperatorConfig, RecognizerResult

    text = "".join(map(chr, range(200, 245)))
    results = [RecognizerResult(one.entity, one.start, one.end, one.score) for one in matches]
    operators = {entity: OperatorConfig("replace", {"new_value": f"<{entity}>"}) for entity in "ABC"}
    theirs = AnonymizerEngine().anonymize(
        text, results, operators, conflict_resolution=ConflictResolutionStrategy.REMOVE_INTERSECTIONS
    )
    ours = text
    for match in reversed(resolve(matches)):
        ours = f"{ours[: match.start]}<{match.entity}>{ours[match.end :]}"
    assert ours == theirs.text


@settings(deadline=None)  # the first example imports Presidio's analyzer
@given(SPANS.map(lambda matches: [*matches, *(Match(one.entity, one.start, one.end, 0.0) for one in matches[:2])]))
def test_repetitions_are_dropped_as_presidios_analyzer_drops_them(matches: list[Match]) -> None:
    from presidio_analyzer import EntityRecognizer, RecognizerResult

    results = [RecognizerResult(one.entity, one.start, one.end, one.score) for one in matches]
    theirs = {(one.entity_type, one.start, one.end, one.score) for one in EntityRecognizer.remove_duplicates(results)}
    assert {(one.entity, one.start, one.end, one.score) for one in distinct(matches)} == theirs
