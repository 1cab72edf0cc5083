"""Placeholders: equal for equal values of one tenant, of no use to anybody else, undone in their exchange alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.rules import placeholders
from tenantguard.rules.placeholders import PLACEHOLDER, PLACEHOLDER_CHARS_MAX, Vault, tenant_key

KEY = b"0123456789abcdef" * 2
VALUES = st.text(st.characters(codec=None))


def test_equal_values_share_a_placeholder_within_a_tenant_and_across_exchanges() -> None:
    one, other = Vault(tenant_key(KEY, "acme")), Vault(tenant_key(KEY, "acme"))
    assert one.mint("EMAIL_ADDRESS", "a@b.io") == one.mint("EMAIL_ADDRESS", "a@b.io")
    assert one.mint("EMAIL_ADDRESS", "a@b.io") == other.mint("EMAIL_ADDRESS", "a@b.io")
    assert one.count == 1


def test_placeholders_do_not_link_two_tenants_nor_two_keys() -> None:
    keys = [tenant_key(KEY, "acme"), tenant_key(KEY, "globex"), tenant_key(KEY[::-1], "acme")]
    assert len({Vault(key).mint("EMAIL_ADDRESS", "a@b.io") for key in keys}) == 3


def test_values_are_told_apart_by_entity_and_by_every_letter() -> None:
    vault = Vault(KEY)
    assert len({vault.mint(*pair) for pair in [("A", "x@b.io"), ("B", "x@b.io"), ("A", "X@b.io")]}) == 3


@given(st.text(min_size=1, max_size=80), VALUES)
def test_every_placeholder_fits_the_grammar_and_stands_for_its_value(entity: str, value: str) -> None:
    vault = Vault(KEY)
    token = vault.mint(entity, value)
    assert PLACEHOLDER.fullmatch(token)
    assert len(token) <= PLACEHOLDER_CHARS_MAX
    assert vault.value(token) == value


def test_a_masked_value_cannot_be_restored_unless_the_request_held_it_too() -> None:
    vault = Vault(KEY)
    token = vault.mask("EMAIL_ADDRESS", "a@b.io")
    assert vault.value(token) is None
    assert vault.mint("EMAIL_ADDRESS", "a@b.io") == token
    assert vault.value(token) == "a@b.io"


def test_nothing_is_restored_for_a_placeholder_of_another_exchange() -> None:
    token = Vault(KEY).mint("EMAIL_ADDRESS", "a@b.io")
    assert Vault(KEY).value(token) is None


def test_two_values_with_one_hash_get_a_longer_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placeholders, "_digest", lambda key, entity, value: "a" * 10 + value * 20)
    vault = Vault(KEY)
    first, second = vault.mint("A", "b"), vault.mint("A", "c")
    assert (vault.value(first), vault.value(second)) == ("b", "c")
    assert len(first) < len(second)
    assert vault.mask("A", "c") == second


def test_values_that_cannot_be_told_apart_are_an_error_without_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placeholders, "_digest", lambda key, entity, value: "a" * 20 + value)
    vault = Vault(KEY)
    assert len({vault.mint("A", value) for value in ("secret-b", "secret-c", "secret-d")}) == 3
    with pytest.raises(LayerError) as caught:
        vault.mint("A", "secret-e")
    assert "secret" not in str(caught.value)


def test_a_vault_shows_a_count_alone_and_forgets_when_told() -> None:
    vault = Vault(KEY)
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    assert repr(vault) == "Vault(1 values)"
    vault.erase()
    assert (vault.count, vault.value(token)) == (0, None)


def test_a_short_key_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="at least 32"):
        tenant_key(KEY[1:], "acme")
