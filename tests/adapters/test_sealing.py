"""What is kept of responses is encrypted: opened by the same key for the same purpose, else not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.sealing import AESGCMSealer
from tenantguard.errors import ConfigurationError

KEY = b"a key for tests alone, of 32 bytes or more"
SEALER = AESGCMSealer(KEY)


@given(st.binary(), st.binary())
def test_what_was_sealed_opens_for_what_it_was_sealed_for(data: bytes, bound_to: bytes) -> None:
    assert SEALER.open(SEALER.seal(data, bound_to), bound_to) == data


@given(st.binary(), st.binary(), st.binary())
def test_it_opens_for_nothing_else_and_by_no_other_key(data: bytes, bound_to: bytes, other: bytes) -> None:
    sealed = SEALER.seal(data, bound_to)
    assert SEALER.open(sealed, bound_to + b"\0") is None
    assert bound_to == other or SEALER.open(sealed, other) is None
    assert AESGCMSealer(KEY + b"!").open(sealed, bound_to) is None


@given(st.binary(max_size=30), st.data())
def test_a_changed_or_shortened_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    sealed = SEALER.seal(data, b"purpose")
    at = draw.draw(st.integers(0, len(sealed) - 1))
    assert SEALER.open(sealed[:at], b"purpose") is None
    assert SEALER.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"purpose") is None


def test_the_same_text_is_never_sealed_the_same_and_cannot_be_read() -> None:
    sealed = {SEALER.seal(b"a telling text", b"purpose") for _ in range(100)}
    assert len(sealed) == 100
    assert not any(b"telling" in one for one in sealed)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs at least 32"):
        AESGCMSealer(b"k" * 31)
    AESGCMSealer(b"k" * 32)
