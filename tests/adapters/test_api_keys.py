from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.identity.keys import ApiKeys, hash_key, new_key
from tenantguard.errors import ConfigurationError
from tenantguard.model.tenant import Identity, TenantId

keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=80)


def identity(name: str) -> Identity:
    return Identity(name, TenantId("acme"))


@given(keys, keys)
def test_only_the_key_that_was_hashed_is_known(key: str, other: str) -> None:
    known = ApiKeys({hash_key(key): identity("dev")})
    assert known.identify(key) == identity("dev")
    assert (known.identify(other) is not None) == (other == key)


@given(st.text(st.characters(codec="latin-1")))
def test_whatever_a_header_can_carry_is_looked_up_without_an_error(credential: str) -> None:
    assert ApiKeys({hash_key("k" * 20): identity("dev")}).identify(credential) == (
        identity("dev") if credential == "k" * 20 else None
    )


def test_each_key_leads_to_its_own_identity() -> None:
    known = ApiKeys({hash_key(f"key-{number}"): identity(f"id-{number}") for number in range(100)})
    assert [known.identify(f"key-{number}") for number in range(100)] == [identity(f"id-{n}") for n in range(100)]


def test_a_hash_is_plain_sha_256_so_that_other_tools_can_make_it() -> None:
    assert hash_key("tg_x") == f"sha256:{hashlib.sha256(b'tg_x').hexdigest()}"


def test_new_keys_are_recognisable_long_and_never_the_same() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("tg_") and len(key) >= 43 for key in made)
    assert all(hash_key(key) for key in made)


@pytest.mark.parametrize("key", ["", " ", "a b", "a,b", "é", "a\n"])
def test_a_key_that_no_header_could_carry_is_not_hashed(key: str) -> None:
    with pytest.raises(ConfigurationError, match="visible ASCII"):
        hash_key(key)


@pytest.mark.parametrize(
    "text", ["hunter2", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "sha256:" + "a" * 63]
)
def test_what_is_no_hash_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="64 lower-case hex digits") as refused:
        ApiKeys({text: identity("dev")})
    assert "hunter2" not in str(refused.value)


def test_two_keys_with_one_id_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'dev'"):
        ApiKeys({hash_key("a"): identity("dev"), hash_key("b"): identity("dev")})


def test_neither_keys_nor_hashes_are_shown() -> None:
    assert repr(ApiKeys({hash_key("a"): identity("dev")})) == "ApiKeys(1 keys)"
