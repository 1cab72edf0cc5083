from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.effects import CallApp
from tenantguard.flow.exchange import Exchange, current
from tenantguard.flow.http import Headers, Request, Response
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import FindPolicy, Identify
from tenantguard.guard import Guard
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.rate import Rate
from tenantguard.model.route import Route
from tenantguard.model.sections import RateRule, RateSection
from tenantguard.model.tenant import DEFAULT_TENANT, Identity, Role, Tenant, TenantId
from tenantguard.testing import Script, manual_system, memory_ports

if TYPE_CHECKING:
    from collections.abc import Iterable

ACME = TenantId("acme")
POLICY = Policy.of("acme", [RateSection((RateRule(Rate(1, 10**9)),))])
DEV = Identity("acme-dev", ACME, Role.EDITOR)


def exchange_of(*lines: tuple[str, str], route: Route | None = None, **head: Any) -> Exchange:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in lines]
    request = Request("GET", "/", headers=Headers(raw), **head)
    return Exchange(request, manual_system(), route=route or Route())


def script_of(layer: TenantContext, exchange: Exchange) -> Script[Response]:
    return Script(layer.handle(exchange, call_app))


def denial_of(exchange: Exchange) -> Deny:
    (denial,) = exchange.decisions
    assert isinstance(denial, Deny)
    return denial


def refusal(layer: TenantContext, *lines: tuple[str, str], answers: Iterable[object] = ()) -> tuple[int, str]:
    """Status and reason of a refusal, and proof that nothing was left for the layers further in."""
    exchange = exchange_of(*lines)
    script = script_of(layer, exchange)
    for answer in answers:
        script.answer(answer)
    assert exchange.find(Tenant) is None
    assert exchange.find(Policy) is None
    assert script.result.status == denial_of(exchange).status
    return script.result.status, str(denial_of(exchange).reason)


by_header = TenantContext(["header:X-Tenant-Id"], trust_headers=True)


def test_a_key_leads_to_its_identity_its_tenant_and_the_policy_of_that() -> None:
    exchange = exchange_of(("Authorization", "Bearer tg_secret"))
    script = script_of(TenantContext(), exchange)
    assert script.effect == Identify("tg_secret")
    assert script.answer(DEV) == FindPolicy(ACME)
    assert isinstance(script.answer(POLICY), CallApp)
    assert exchange.get(Tenant) == Tenant(ACME, DEV)
    assert exchange.get(Policy) is POLICY
    response = Response(200)
    script.answer(response)
    assert script.result is response
    assert exchange.decisions == [
        Allow("tenant", "key:acme-dev", {"tenant": "acme", "policy": "acme", "revision": POLICY.revision}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        ("authorization", "Bearer tg_secret"),
        ("authorization", "bearer  tg_secret "),
        ("x-api-key", "tg_secret"),
        ("X-API-Key", " tg_secret "),
        ("api-key", "tg_secret"),
    ],
)
def test_a_key_is_read_from_the_headers_of_all_common_sdks(line: tuple[str, str]) -> None:
    assert script_of(TenantContext(), exchange_of(line)).effect == Identify("tg_secret")


def test_the_credential_is_shown_nowhere() -> None:
    exchange = exchange_of(("authorization", "Bearer tg_secret"))
    script = script_of(TenantContext(), exchange)
    assert "tg_secret" not in repr(script.effect)
    script.answer(None)
    assert "tg_secret" not in repr(exchange.decisions) + repr(script.result.body) + repr(exchange)


def test_a_websocket_is_identified_by_the_same_headers() -> None:
    exchange = exchange_of(("x-api-key", "tg_secret"), protocol="websocket")
    assert script_of(TenantContext(), exchange).effect == Identify("tg_secret")


def test_without_a_key_the_answer_is_401() -> None:
    assert refusal(TenantContext()) == (401, Reason.IDENTITY_MISSING)
    assert refusal(TenantContext(), ("authorization", "Basic YTpi")) == (401, Reason.IDENTITY_MISSING)
    assert refusal(TenantContext(), ("x-tenant-id", "acme")) == (401, Reason.IDENTITY_MISSING)


@pytest.mark.parametrize("line", [("x-api-key", "nobody's"), ("authorization", "Bearer "), ("x-api-key", "  ")])
def test_a_key_that_nobody_has_is_refused_with_401(line: tuple[str, str]) -> None:
    assert refusal(TenantContext(), line, answers=[None]) == (401, Reason.IDENTITY_INVALID)


def test_a_wrong_key_is_refused_where_none_is_required() -> None:
    """E-10: what claims to be somebody never falls back to nobody."""
    assert refusal(TenantContext(required=False), ("x-api-key", "x"), answers=[None])[0] == 401


def test_several_keys_pass_only_if_they_are_one() -> None:
    two = [("authorization", "Bearer a"), ("x-api-key", "b")]
    assert refusal(TenantContext(), *two) == (400, Reason.TENANT_CONFLICT)
    same = exchange_of(("authorization", "Bearer a"), ("x-api-key", "a"), ("api-key", "a"))
    assert script_of(TenantContext(), same).effect == Identify("a")


def test_the_header_names_the_tenant_where_it_is_trusted() -> None:
    """E-9, E-12."""
    exchange = exchange_of(("x-tenant-id", " acme "))
    script = script_of(by_header, exchange)
    assert script.effect == FindPolicy(ACME)
    script.answer(POLICY)
    assert exchange.get(Tenant) == Tenant(ACME)
    (allowed,) = exchange.decisions
    assert isinstance(allowed, Allow)
    assert allowed.matched_by == "header:X-Tenant-Id"


def test_a_header_is_never_trusted_by_default() -> None:
    with pytest.raises(ConfigurationError, match="trust_headers"):
        TenantContext(["header:x-tenant-id"])


@pytest.mark.parametrize(
    "source",
    [
        "header:",
        "header:x tenant",
        "header:x-tenant:",
        "header:té",
        "header:x\r\n",
        "cookie:tenant",
        "apikey",
        "header",
    ],
)
def test_an_illegal_header_name_or_source_fails_at_construction(source: str) -> None:
    """E-13."""
    with pytest.raises(ConfigurationError, match="header:"):
        TenantContext([source], trust_headers=True)


def test_a_credential_is_no_tenant_header_and_no_source_is_none() -> None:
    with pytest.raises(ConfigurationError, match="credentials"):
        TenantContext(["header:X-API-Key"], trust_headers=True)
    with pytest.raises(ConfigurationError, match="at least one source"):
        TenantContext([])


def test_strict_mode_refuses_a_missing_header() -> None:
    """E-10."""
    assert refusal(by_header) == (400, Reason.TENANT_MISSING)


@pytest.mark.parametrize("value", ["", "   ", "a b", "a\tb", "a\x7fb", "x" * 129, "\xff"])
def test_a_header_that_holds_no_tenant_id_is_refused_with_400(value: str) -> None:
    """E-11."""
    assert refusal(by_header, ("x-tenant-id", value)) == (400, Reason.TENANT_INVALID)


def test_a_tenant_id_travels_as_utf_8() -> None:
    exchange = exchange_of(("x-tenant-id", "café".encode().decode("latin-1")))
    assert script_of(by_header, exchange).effect == FindPolicy(TenantId("café"))


@given(
    st.lists(st.sampled_from(["acme", "globex", ""]), min_size=2, max_size=4), st.sampled_from(["joined", "repeated"])
)
def test_contradictory_tenant_headers_are_refused_and_identical_ones_pass(values: list[str], how: str) -> None:
    """E+18. Some servers join repeated lines with commas."""
    lines = [("x-tenant-id", value) for value in ([",".join(values)] if how == "joined" else values)]
    if len(set(values)) > 1:
        assert refusal(by_header, *lines) == (400, Reason.TENANT_CONFLICT)
    elif values[0]:
        assert script_of(by_header, exchange_of(*lines)).effect == FindPolicy(TenantId(values[0]))
    else:
        assert refusal(by_header, *lines) == (400, Reason.TENANT_INVALID)


def test_a_key_and_a_header_must_name_the_same_tenant() -> None:
    both = TenantContext(["api-key", "header:x-tenant-id"], trust_headers=True)
    lines = [("x-api-key", "k"), ("x-tenant-id", "globex")]
    assert refusal(both, *lines, answers=[DEV]) == (400, Reason.TENANT_CONFLICT)
    script = script_of(both, exchange_of(("x-api-key", "k"), ("x-tenant-id", "acme")))
    assert script.answer(DEV) == FindPolicy(ACME)
    assert script_of(both, exchange_of(("x-tenant-id", "globex"))).effect == FindPolicy(TenantId("globex"))


def test_single_mode_runs_as_default_and_ignores_an_unsolicited_header() -> None:
    """E-4, E-7, E-8."""
    exchange = exchange_of(("x-tenant-id", "acme"), ("authorization", "Bearer x"))
    script = script_of(TenantContext(mode="single"), exchange)
    assert script.effect == FindPolicy(DEFAULT_TENANT)
    script.answer(POLICY)
    assert exchange.get(Tenant).id is DEFAULT_TENANT


def test_who_need_not_say_who_they_are_are_served_as_default() -> None:
    exchange = exchange_of()
    script = script_of(TenantContext(required=False), exchange)
    assert script.effect == FindPolicy(DEFAULT_TENANT)
    script.answer(POLICY)
    (allowed,) = exchange.decisions
    assert isinstance(allowed, Allow)
    assert allowed.matched_by == "anonymous"


def test_a_tenant_that_nobody_knows_is_refused_with_403() -> None:
    assert refusal(by_header, ("x-tenant-id", "acme"), answers=[None]) == (403, Reason.TENANT_UNKNOWN)


@pytest.mark.parametrize("answers", [[], [DEV]])
def test_a_source_that_fails_closes_the_guard(answers: list[object]) -> None:
    exchange = exchange_of(("x-api-key", "k"))
    script = script_of(TenantContext(), exchange)
    for answer in answers:
        script.answer(answer)
    script.fail(PortError("policies", "connection refused by 10.0.0.7"))
    assert script.result.status == 503
    assert denial_of(exchange).reason == Reason.STORE_UNAVAILABLE
    assert b"10.0.0.7" not in (script.result.body or b"")


def test_a_failure_further_in_is_not_taken_for_one_of_a_source() -> None:
    script = script_of(TenantContext(mode="single"), exchange_of())
    script.answer(POLICY)
    with pytest.raises(PortError):
        script.fail(PortError("ledger", "down"))


def test_a_public_route_is_served_to_anybody_under_no_policy() -> None:
    """E-16: a health check needs no key."""
    exchange = exchange_of(route=Route("GET /healthz", public=True))
    script = script_of(TenantContext(), exchange)
    assert isinstance(script.effect, CallApp)
    assert exchange.get(Policy) is EMPTY_POLICY
    assert exchange.get(Tenant) == Tenant(DEFAULT_TENANT)


def test_a_request_keeps_the_policy_that_it_started_with() -> None:
    """E+20: the fact is the value; whoever changes the registry changes what the next request finds."""
    registry = StaticPolicies({"acme": POLICY})
    exchange = exchange_of(("x-tenant-id", "acme"))
    script_of(by_header, exchange).answer(registry.find(ACME))
    registry.register("acme", EMPTY_POLICY)
    assert registry.find(ACME) is EMPTY_POLICY
    assert exchange.get(Policy) is POLICY


def test_a_guard_inside_another_finds_the_tenant_for_itself() -> None:
    """E-6: a tenant is never inherited silently."""
    outer = exchange_of(("x-tenant-id", "acme"))
    script_of(by_header, outer).answer(POLICY)
    assert outer.tenant == Tenant(ACME)
    inner = Exchange(Request("GET", "/"), outer.system, outer=outer)
    assert (inner.tenant, inner.policy, inner.decisions) == (None, None, [])
    assert script_of(by_header, inner).result.status == 400


def test_two_requests_at_once_see_only_their_own_tenant() -> None:
    """E-14."""

    async def visit() -> list[str]:
        both_inside = asyncio.Barrier(2)

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await both_inside.wait()
            tenant = current().tenant
            assert tenant is not None
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": tenant.id.encode()})

        guarded = Guard([by_header], ports=ports).asgi(app)

        async def get(name: str) -> str:
            said: list[bytes] = []

            async def send(message: Any) -> None:
                said.append(message.get("body", b""))

            scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-tenant-id", name.encode())]}
            await guarded(scope, None, send)
            return b"".join(said).decode()

        return await asyncio.gather(get("acme"), get("globex"))

    ports = memory_ports(policies=StaticPolicies({"acme": POLICY, "globex": POLICY}))
    assert asyncio.run(visit()) == ["acme", "globex"]
