"""Values encrypted in place, and decrypted by who has the key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.encryption import ValueCipher
from tenantguard.errors import ConfigurationError
from tenantguard.rules.placeholders import PLACEHOLDER

KEY = b"k" * 32


@given(st.text(min_size=1), st.text(alphabet="abc XYZ<>:", max_size=10))
def test_what_was_encrypted_is_decrypted_wherever_it_stands(value: str, around: str) -> None:
    cipher = ValueCipher(KEY, "acme")
    sealed = cipher.encrypt("EMAIL_ADDRESS", value)
    assert cipher.decrypt(f"{around} {sealed} {around}") == f"{around} {value} {around}"


def test_equal_values_of_a_tenant_and_entity_have_one_ciphertext_and_no_others() -> None:
    acme = ValueCipher(KEY, "acme")
    sealed = acme.encrypt("A", "ann@example.com")
    assert sealed == ValueCipher(KEY, "acme").encrypt("A", "ann@example.com")
    others = [acme.encrypt("B", "ann@example.com"), ValueCipher(KEY, "globex").encrypt("A", "ann@example.com")]
    assert sealed.partition(":")[2] not in {other.partition(":")[2] for other in others}
    assert "ann" not in sealed
    assert PLACEHOLDER.search(sealed) is None


def test_what_another_key_tenant_or_entity_sealed_or_somebody_changed_stays_as_it_is() -> None:
    cipher = ValueCipher(KEY, "acme")
    sealed = cipher.encrypt("A", "ann@example.com")
    strange = [
        ValueCipher(b"x" * 32, "acme").encrypt("A", "ann"),
        ValueCipher(KEY, "globex").encrypt("A", "ann"),
        sealed.replace("<A:", "<B:"),
        sealed.replace(sealed[8], "a" if sealed[8] != "a" else "b", 1),
        "<A:AAAAAAAAAAAAAAAAAAAAAAA>",
    ]
    assert [cipher.decrypt(text) for text in strange] == strange


def test_an_entity_of_the_users_own_is_written_so_that_it_is_found_again() -> None:
    cipher = ValueCipher(KEY, "acme")
    assert cipher.decrypt(cipher.encrypt("employee id", "E-17")) == "E-17"


def test_a_short_key_is_refused_and_the_cipher_shows_nothing() -> None:
    with pytest.raises(ConfigurationError, match="32"):
        ValueCipher(b"short", "acme")
    assert repr(ValueCipher(KEY, "acme")) == "ValueCipher()"


@given(st.text(min_size=1, max_size=40))
def test_a_cipher_knows_its_own_from_everything_else(value: str) -> None:
    cipher = ValueCipher(KEY, "acme")
    sealed = cipher.encrypt("A", value)
    assert cipher.made(sealed)
    assert not cipher.made(sealed + " ")
    assert not cipher.made(value)
    assert not ValueCipher(KEY, "globex").made(sealed)
