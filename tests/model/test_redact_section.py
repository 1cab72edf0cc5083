"""The section of a policy that says what is redacted."""

from __future__ import annotations

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.model.policy import Policy
from tenantguard.model.redact_section import (
    Direction,
    Find,
    Listing,
    Operator,
    OperatorKind,
    Parity,
    RedactSection,
    Restore,
    SecretAction,
)


def test_whether_secrets_are_looked_for_follows_from_what_becomes_of_them() -> None:
    assert Direction().find.secrets
    known = Find(known=(("db", "hunter2-hunter2"),))
    assert Direction(known).find.known
    off = Direction(known, secrets=SecretAction.OFF)
    assert (off.find.secrets, off.find.known) == (False, ())
    assert Direction(Find(secrets=True)) == Direction(Find(secrets=False))


def test_presidios_own_engine_stands_beside_no_secrets() -> None:
    find = Find(parity=Parity.PRESIDIO)
    with pytest.raises(ConfigurationError, match="secrets = 'off'"):
        Direction(find)
    assert Direction(find, secrets=SecretAction.OFF).find.parity is Parity.PRESIDIO


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
