"""Who has the secret can tell that a message is ours, new and unchanged."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.alerts.signature import sign, verify_signature

SECRET = b"a secret of 16 bytes or more"
NOW = 1_793_600_000


def test_the_signature_is_the_documented_one() -> None:
    mac = hmac.new(SECRET, b'1793600000.{"id":1}', hashlib.sha256).hexdigest()
    assert sign(SECRET, b'{"id":1}', NOW) == f"t=1793600000,v1={mac}"


@given(st.binary(min_size=1), st.binary(), st.integers(0, 10**11), st.integers(-300, 300))
def test_what_was_signed_verifies_within_the_tolerance(secret: bytes, body: bytes, at: int, off: int) -> None:
    assert verify_signature(secret, sign(secret, body, at), body, at + off)


@given(st.binary(), st.binary())
def test_another_body_does_not_verify(body: bytes, other: bytes) -> None:
    assert verify_signature(SECRET, sign(SECRET, body, NOW), other, NOW) == (body == other)


def test_another_secret_or_another_time_does_not_verify() -> None:
    header = sign(SECRET, b"{}", NOW)
    assert not verify_signature(b"another", header, b"{}", NOW)
    assert not verify_signature(SECRET, header.replace("t=17936", "t=17937"), b"{}", NOW + 100_000)
    assert verify_signature(SECRET.decode(), header, b"{}", NOW)


@pytest.mark.parametrize("off", [-301, 301, 10**6])
def test_an_old_message_and_one_from_the_future_do_not_verify(off: int) -> None:
    header = sign(SECRET, b"{}", NOW)
    assert not verify_signature(SECRET, header, b"{}", NOW + off)
    assert verify_signature(SECRET, header, b"{}", NOW + off, tolerance_s=abs(off))


def test_one_of_several_signatures_is_enough_so_that_a_secret_can_be_replaced() -> None:
    old, new = sign(b"the old secret", b"{}", NOW), sign(SECRET, b"{}", NOW)
    both = f"{old},{new.partition(',')[2]}"
    assert verify_signature(SECRET, both, b"{}", NOW)
    assert verify_signature(b"the old secret", both, b"{}", NOW)
    assert not verify_signature(b"a third", both, b"{}", NOW)


@given(st.text() | st.text(alphabet="tv1=,0123456789abcdef. "))
def test_whatever_the_header_is_nothing_is_raised(header: str) -> None:
    assert not verify_signature(SECRET, header, b"{}", NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=1793600000",
        "v1=00",
        "t=,v1=",
        "t=²,v1=00",
        "t=1793600000,t=1793600000,v1={right}",
        "t=+1793600000,v1={right}",
    ],
)
def test_a_malformed_header_does_not_verify(header: str) -> None:
    right = sign(SECRET, b"{}", NOW).partition("v1=")[2]
    assert not verify_signature(SECRET, header.format(right=right), b"{}", NOW)
