"""Keys: escaped, one hash tag for each tenant, nothing that says how large a limit is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from tenantguard.adapters.limits.redis.wire import check, id_key, redis_key
from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Take
from tenantguard.model.rate import Rate
from tenantguard.rules.bucket import bucket_key

PARTS = st.lists(st.text(max_size=120), min_size=1, max_size=4)


@given(one=PARTS, other=PARTS)
def test_two_buckets_never_share_a_key(one: list[str], other: list[str]) -> None:
    first, second = bucket_key("acme", *one), bucket_key("acme", *other)
    assert (redis_key(first) == redis_key(second)) == (one == other)


@given(owner=st.text(min_size=1, max_size=40), one=PARTS, other=PARTS)
def test_all_buckets_and_ids_of_a_tenant_are_in_one_slot(owner: str, one: list[str], other: list[str]) -> None:
    """Whatever braces it calls itself."""
    first, second = redis_key(bucket_key(owner, *one)), redis_key(bucket_key(owner, *other))
    assert key_slot(first) == key_slot(second) == key_slot(id_key(first, bytes(16)))


def test_what_tenants_share_is_spread_over_slots() -> None:
    slots = {key_slot(redis_key(bucket_key("", "plan", f"plan-{number}"))) for number in range(20)}
    assert len(slots) > 15


def test_a_tenant_is_a_hash_and_the_rest_can_be_read() -> None:
    key = redis_key(bucket_key("acme{}", "route", "route-1s", "POST /v1/chat"))
    assert key.startswith(b"tg:{")
    assert key.endswith(b"}:route|route-1s|POST /v1/chat")
    assert b"acme" not in key


def test_a_key_is_short_whatever_a_request_asks_for() -> None:
    keys = {redis_key(bucket_key("acme", "model", "m", "x" * 10_000 + str(number))) for number in range(10)}
    assert len(keys) == 10
    assert max(map(len, keys)) < 80


def test_a_burst_of_more_than_a_century_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match="lower it"):
        check([Take("a|b", Rate(1, 86_400 * 10**9, 10**6))])
