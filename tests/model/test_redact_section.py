"""The section of a policy that says what is redacted."""

from __future__ import annotations

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.model.policy import Policy
from tenantguard.model.redact_section import (
    Direction,
    Find,
    Kept,
    Listing,
    Operator,
    OperatorKind,
    RedactSection,
    Restore,
    SecretAction,
)


def test_whether_secrets_are_looked_for_follows_from_what_becomes_of_them() -> None:
    assert Direction().find.secrets
    known = Find(known=(("db", "hunter2-hunter2"),))
    assert Direction(known).find.known
    assert not Direction(secrets=SecretAction.OFF).find.secrets
    with pytest.raises(ConfigurationError, match="known secrets"):
        Direction(known, secrets=SecretAction.OFF)
    assert Direction(Find(secrets=True)) == Direction(Find(secrets=False))


def test_streams_are_kept_whole_for_a_language_model_alone() -> None:
    with pytest.raises(ConfigurationError, match="'buffer'"):
        Direction(buffer=True)
    assert Direction(Find(ner="en_core_web_sm"), buffer=True).buffer


def test_what_is_kept_is_named_or_all_but_what_is_named() -> None:
    assert "A" in Kept(frozenset("A"))
    assert "B" not in Kept(frozenset("A"))
    assert "A" not in Kept(frozenset("A"), others=True)
    assert "B" in Kept(frozenset("A"), others=True)
    assert [bool(kept) for kept in (Kept(), Kept(others=True), Kept(frozenset("A")))] == [False, True, True]


def test_a_response_is_restored_only_where_both_directions_are_redacted() -> None:
    for section in ({"request": None}, {"response": None}):
        with pytest.raises(ConfigurationError, match="both directions"):
            RedactSection(restore=Restore.TEXT, **section)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="threshold"):
        Find(threshold=1.1)
    with pytest.raises(ConfigurationError, match="one operator"):
        Direction(operators=(("A", Operator()), ("A", Operator(OperatorKind.KEEP))))
    inner = RedactSection(routes=(("a", RedactSection()),))
    with pytest.raises(ConfigurationError, match="no routes"):
        RedactSection(routes=(("b", inner),))


def test_policies_that_differ_in_a_list_have_other_revisions_and_show_no_entry() -> None:
    def policy(name: str) -> Policy:
        return Policy.of("acme", [RedactSection(Direction(Find(deny=Listing(exact=(name,)))))])

    assert policy("Ann Lee").revision != policy("Bob Lee").revision
    assert policy("Ann Lee").revision == policy("Ann Lee").revision
    assert "Ann" not in repr(policy("Ann Lee"))


def test_what_is_searched_is_the_same_for_all_lists() -> None:
    ours = Find(allow=Listing(exact=("a",)), deny=Listing(exact=("b",)), normalize=True, threshold=0.5)
    assert ours.searched == Find(threshold=0.5)
    assert Find(entropy=False).searched == Find(), "without secrets it means nothing"
    assert Find(entropy=False, secrets=True).searched != Find(secrets=True).searched
