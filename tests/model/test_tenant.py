from __future__ import annotations

import copy
import json
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError
from tenantguard.model.tenant import DEFAULT_TENANT, TENANT_ID_CHARS_MAX, Identity, Role, Tenant, TenantId

BAD = ["", " ", "\t", "a b", "a\n", "a\x00", "a\x7f", "a\u200b", "a\u202e", "\u00a0", "a\ud800", "x" * 129]


@pytest.mark.parametrize("value", BAD)
def test_what_names_no_tenant_is_refused(value: str) -> None:
    """E-1: there is no unchecked way to build one, from JSON or otherwise (E-3)."""
    with pytest.raises(BadRequestError):
        TenantId(value)
    with pytest.raises(BadRequestError):
        TenantId(json.loads(json.dumps(value)))


def test_an_empty_id_is_told_what_it_must_be() -> None:
    """E-1, E-3."""
    with pytest.raises(BadRequestError, match="non-empty"):
        TenantId("")
    with pytest.raises(BadRequestError, match="string"):
        TenantId(3)  # type: ignore[arg-type]


@given(st.text())
def test_an_id_is_a_bare_string_in_json_and_in_mappings(value: str) -> None:
    """E-2."""
    try:
        tenant = TenantId(value)
    except BadRequestError:
        return
    assert json.loads(json.dumps(tenant)) == tenant == unicodedata.normalize("NFC", value)
    assert json.dumps(tenant) == json.dumps(str(tenant))
    assert {str(tenant): 1}[tenant] == 1
    assert {tenant: 1}[str(tenant)] == 1  # type: ignore[index]
    assert TenantId(tenant) is tenant
    assert 0 < len(tenant) <= TENANT_ID_CHARS_MAX
    assert pickle.loads(pickle.dumps(tenant)) == copy.deepcopy(tenant) == tenant


def test_two_spellings_of_one_name_are_one_tenant() -> None:
    assert TenantId("cafe\u0301") == TenantId("caf\u00e9")


def test_an_id_that_grows_when_it_is_normalised_is_still_bounded() -> None:
    """NFC writes U+0958 as two characters, so the length counts after it."""
    with pytest.raises(BadRequestError, match="128"):
        TenantId("\u0958" * 100)


def test_a_tenant_and_who_acts_for_it_are_independent_values() -> None:
    """E-5: copying keeps the tenant, and no part of a copy is shared with what changes."""
    tenant = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme"), Role.VIEWER))
    assert copy.deepcopy(tenant) == tenant
    assert tenant != Tenant(DEFAULT_TENANT, tenant.identity)
    with pytest.raises(AttributeError):
        tenant.id = DEFAULT_TENANT  # type: ignore[misc]


def test_the_default_tenant_is_one_object() -> None:
    """E-4."""
    assert DEFAULT_TENANT == "default"
    assert TenantId(DEFAULT_TENANT) is DEFAULT_TENANT
