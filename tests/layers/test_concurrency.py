"""The concurrency layer: the script of its flow, and which slots it claims."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.errors import ConfigurationError, PortError, PortTimeout
from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Body, Ending, Outcome, Response, too_large
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, NotEntered, SlotClaim
from tenantguard.layers.concurrency import ConcurrencyLimit
from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection, WhenFull
from tenantguard.model.decision import Allow, Deny
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.route import Route
from tenantguard.model.sections import Combine, Group, OnError, PlanSection, Scope
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.testing import ManualClock, Script, make_exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Unreadable

SECOND = 10**9
ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
GLOBEX = Tenant(TenantId("globex"))
CHAT = Route("POST /chat", name="chat", usage="openai-chat")
FILES = Route("POST /files", name="files")
ENDED = Outcome(Ending.COMPLETED, status=200)


def policy(*rules: ConcurrencyRule, combine: Combine = Combine.ALL, plan: str = "gold") -> Policy:
    return Policy.of("acme", [ConcurrencySection(rules, combine), PlanSection(plan)])


def rule(limit: int, scope: Scope = Scope.TENANT, **terms: object) -> ConcurrencyRule:
    return ConcurrencyRule(limit, scope, **terms)  # type: ignore[arg-type]


def start(
    layer: ConcurrencyLimit,
    *facts: object,
    route: Route = FILES,
    headers: Mapping[str, str] | None = None,
) -> tuple[Exchange, Script[Response]]:
    exchange = make_exchange("POST", route=route, facts=facts, headers=headers)
    return exchange, Script(layer.handle(exchange, call_app))


def read(script: Script[Response], body: Body | Unreadable) -> None:
    """Answer the reading of the body, and what is computed of it."""
    effect = script.answer(body)
    if isinstance(effect, Compute):
        script.answer(effect.call())


def claims(
    *facts: object, route: Route = FILES, body: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> tuple[SlotClaim, ...]:
    _, script = start(ConcurrencyLimit(), *facts, route=route, headers=headers)
    if isinstance(script.effect, ReadBody):
        read(script, Body(body))
    if isinstance(script.effect, CallApp):
        return ()
    assert isinstance(script.effect, EnterSlot)
    return script.effect.claims


def keys(*facts: object, route: Route = FILES, body: bytes = b"{}") -> list[str]:
    return [claim.key for claim in claims(*facts, route=route, body=body)]


# the script


def test_it_enters_then_calls_the_application_and_leaves_when_that_has_ended() -> None:
    exchange, script = start(ConcurrencyLimit(), ACME, policy(rule(5)))
    entering = script.effect
    assert isinstance(entering, EnterSlot)
    assert entering.owner == "acme"
    assert entering.claims == (SlotClaim("acme|tenant|tenant", 5, 100, 30 * SECOND),)
    assert isinstance(script.answer(Entered(7, 12_000_000)), CallApp)
    assert exchange.decisions == [Allow("concurrency", "tenant", {"waited_ms": 12})]
    assert exchange.get(Entered).fence == 7
    ((resolver, strict),) = exchange.resolvers
    assert not strict
    flow = resolver(ENDED)
    assert flow is not None
    assert Script(flow).effect == LeaveSlot(entering.id)


@pytest.mark.parametrize("of", [EMPTY_POLICY, policy()])
def test_without_a_rule_it_does_nothing(of: Policy) -> None:
    """A-1."""
    exchange, script = start(ConcurrencyLimit(), ACME, of)
    assert isinstance(script.effect, CallApp)
    assert not exchange.resolvers
    assert not exchange.decisions


def test_the_end_is_registered_before_anything_is_asked() -> None:
    exchange, script = start(ConcurrencyLimit(5))
    assert isinstance(script.effect, EnterSlot)
    script.close()
    flow = exchange.resolvers[0][0](Outcome(Ending.LEFT, called=False))
    assert flow is not None
    assert Script(flow).effect == LeaveSlot(script.effect.id)


@pytest.mark.parametrize(
    ("reason", "status", "code", "words"),
    [
        (NotEntered.FULL, 429, "concurrency.exceeded", "Too many requests at once: 5 are being served."),
        (NotEntered.QUEUE_FULL, 429, "concurrency.queue_full", "queue is full"),
        (NotEntered.WAITED, 503, "concurrency.timeout", "Timeout"),
        (NotEntered.ENDED, 503, "concurrency.timeout", "Timeout"),
        (NotEntered.DEADLINE, 503, "concurrency.deadline", "within the time that it allows"),
    ],
)
def test_a_refusal_says_why_and_when_to_try_again(reason: NotEntered, status: int, code: str, words: str) -> None:
    """A-7, A-18, A-29."""
    exchange, script = start(ConcurrencyLimit(), ACME, policy(rule(50, Scope.GLOBAL), rule(5, name="streams")))
    script.answer(Crowded(reason, (1,), 2_000_000_001))
    response = script.result
    assert response.status == status
    assert response.headers.get("retry-after") == "3"
    assert response.body is not None
    told = json.loads(response.body)
    assert told["code"] == code
    assert words in told["detail"]
    assert told["type"].startswith("https://iana.org/assignments/http-problem-types#")
    (denial,) = exchange.decisions
    assert isinstance(denial, Deny)
    assert denial.details == {"failing": ["streams"]}


def test_what_the_store_refused_is_not_ended() -> None:
    """There is nothing to end, and barring every refused id would fill the memory of a store in a flood."""
    exchange, script = start(ConcurrencyLimit(5))
    script.answer(Crowded(NotEntered.FULL, (0,)))
    assert script.result.headers.get("retry-after") == "1"
    flow = exchange.resolvers[0][0](Outcome(Ending.REFUSED, called=False))
    assert flow is not None
    assert Script(flow).done


def test_a_wait_that_the_driver_ended_is_a_timeout_and_gives_the_place_up() -> None:
    exchange, script = start(ConcurrencyLimit(5))
    entering = script.effect
    assert isinstance(entering, EnterSlot)
    script.fail(PortTimeout("slots", 30.0))
    assert script.result.status == 503
    flow = exchange.resolvers[0][0](Outcome(Ending.REFUSED, called=False))
    assert flow is not None
    assert Script(flow).effect == LeaveSlot(entering.id)


def test_a_store_that_fails_is_no_timeout() -> None:
    _, script = start(ConcurrencyLimit(5))
    with pytest.raises(PortError, match="no route"):
        script.fail(PortError("slots", "no route to it"))


def test_what_a_store_decided_by_itself_is_told() -> None:
    exchange, script = start(ConcurrencyLimit(), ACME, policy(rule(5)))
    script.answer(Entered(1, degraded=True))
    assert exchange.decisions == [Allow("concurrency", "tenant", {"degraded": True})]
    exchange, script = start(ConcurrencyLimit(), ACME, policy(rule(5)))
    script.answer(Crowded(NotEntered.FULL, (0,), degraded=True))
    assert exchange.decisions[0].details == {"failing": ["tenant"], "degraded": True}


def test_what_a_failing_store_means_goes_with_the_command() -> None:
    section = ConcurrencySection((rule(5),), on_error=OnError.CLOSED)
    _, script = start(ConcurrencyLimit(), ACME, Policy.of("acme", [section]))
    assert isinstance(script.effect, EnterSlot)
    assert script.effect.on_error is OnError.CLOSED


# which slots


def test_every_scope_is_claimed_in_one_command_the_widest_first() -> None:
    """A-9, A-12, A-13: each limit counts what it says, all of them."""
    everything = policy(
        rule(1, Scope.IDENTITY), rule(2, Scope.ROUTE), rule(9, Scope.GLOBAL), rule(5, Scope.PLAN), rule(3)
    )
    assert keys(ACME, everything) == [
        "|global|global",
        "|plan|plan|gold",
        "acme|tenant|tenant",
        "acme|route|route|files",
        "acme|identity|identity|acme-dev",
    ]


def test_where_the_most_specific_override_only_that_counts() -> None:
    """A-13, A+8: then it may be looser than what is wider."""
    rules = (rule(20, Scope.GLOBAL), rule(10), rule(50, Scope.ROUTE))
    assert [claim.limit for claim in claims(ACME, policy(*rules, combine=Combine.OVERRIDE))] == [50]
    assert [claim.limit for claim in claims(ACME, policy(*rules))] == [20, 10, 50]


def test_a_limit_of_a_route_or_group_is_for_that_alone() -> None:
    """A-4, A-10, A-11."""
    of = policy(rule(1, group=Group(routes=("chat",)), name="chats"), rule(5, Scope.GROUP, group=Group(("files",))))
    assert keys(ACME, of) == ["acme|group|group"]
    assert keys(ACME, of, route=CHAT) == ["acme|tenant|chats"]


def test_a_slot_of_a_group_of_routes_is_taken_whichever_of_them_comes_first() -> None:
    """A-5: the second is blocked."""
    both = policy(rule(1, Scope.GROUP, group=Group(routes=("chat", "files")), when_full=WhenFull.REJECT))
    store = MemorySlots(ManualClock())
    answers = [
        store.execute(EnterSlot(bytes([number]) * 16, "acme", claims(ACME, both, route=route)))
        for number, route in enumerate([CHAT, FILES])
    ]
    assert answers == [Entered(1), Crowded(NotEntered.FULL, (0,))]


def test_a_limit_of_a_tenant_is_shared_by_its_routes_and_identities() -> None:
    """A+6, S+10."""
    other = Tenant(TenantId("acme"), Identity("acme-ci", TenantId("acme")))
    assert keys(ACME, policy(rule(5))) == keys(other, policy(rule(5)), route=CHAT)


def test_a_thousand_callers_never_share_slots_by_mistake() -> None:
    """S-70."""
    of = policy(rule(5, Scope.IDENTITY), rule(5, name="mine"))
    tenants = [Tenant(TenantId(f"t{at}|"), Identity(f"|{at}", TenantId(f"t{at}|"))) for at in range(1100)]
    assert len({key for tenant in tenants for key in keys(tenant, of)}) == 2200


def test_rules_of_one_scope_have_slots_of_their_own() -> None:
    of = policy(rule(5), rule(2, name="tenant-2"), rule(1))
    assert keys(ACME, of) == ["acme|tenant|tenant", "acme|tenant|tenant-2", "acme|tenant|tenant-3"]


def test_a_model_is_read_where_it_matters() -> None:
    body = b'{"model": "gpt-5", "max_tokens": 5}'
    assert keys(ACME, policy(rule(2, Scope.MODEL)), route=CHAT, body=body) == ["acme|model|model|gpt-5"]
    assert keys(ACME, policy(rule(2, Scope.MODEL))) == []
    large = rule(1, group=Group(models=("gpt-5",)), name="large")
    assert keys(ACME, policy(large), route=CHAT, body=body) == ["acme|tenant|large"]
    assert keys(ACME, policy(large), route=CHAT, body=b'{"model": "gpt-5-mini", "max_tokens": 5}') == []


def test_groups_are_told_apart_by_the_values_at_their_paths() -> None:
    """A-14, A-25: stable, whatever the order of paths and members; exact values, nested ones too."""

    def group(body: object, *by: str) -> str:
        (key,) = keys(ACME, policy(rule(1, by=by)), body=json.dumps(body).encode())
        return key

    here = group({"env": "prod", "meta": {"user": "ann"}, "x": 1}, "env", "meta.user")
    assert here == group({"x": 2, "meta": {"user": "ann", "y": 3}, "env": "prod"}, "meta.user", "env")
    others = [
        {"env": "prod"}, {"env": "prod", "meta": {"user": "bob"}}, {"env": "prod", "meta": ["user"]},
        {"env": 1, "meta": {"user": "ann"}}, {"env": "1", "meta": {"user": "ann"}}, {"env": [1], "meta": {}},
    ]  # fmt: skip
    found = [group(body, "env", "meta.user") for body in others]
    assert here not in found
    assert len(set(found)) == len(others) - 1
    assert found[0] == found[2]  # what is not there, and what is no object, is null
    assert "ann" not in here


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b"null", b'{"a": 1, "a": 2}'])
def test_what_has_no_values_shares_the_slots_of_those(body: bytes) -> None:
    of = policy(rule(1, by=("a",)))
    assert keys(ACME, of, body=body) == keys(ACME, of, body=b"{}")


def test_values_are_hashed_with_the_rest_of_the_work_on_a_body_and_not_on_the_event_loop() -> None:
    """However long a caller makes them."""
    _, script = start(ConcurrencyLimit(), ACME, policy(rule(1, by=("a",))))
    effect = script.answer(Body(b'{"a": "%b"}' % (b"x" * 10_000)))
    assert isinstance(effect, Compute)
    assert effect.size > 10_000
    worked_out = effect.call()
    assert len(repr(worked_out)) < 100
    entering = script.answer(worked_out)
    assert isinstance(entering, EnterSlot)
    assert entering.claims[0].key.startswith("acme|tenant|tenant|")


@pytest.mark.parametrize(
    "value",
    [b"[%b]" % b",".join([b"1"] * 257), b"[" * 800 + b"]" * 800, b"[[%b],{}]" % b",".join([b"{}"] * 255)],
    ids=["wide", "deep", "both"],
)
def test_a_value_of_too_many_members_counts_as_none(value: bytes) -> None:
    """Nobody is held up by its hashing, and no stack is too short for it."""
    of = policy(rule(1, by=("a.b",)))
    assert keys(ACME, of, body=b'{"a": {"b": %b}}' % value) == keys(ACME, of, body=b"{}")


def test_a_value_of_many_members_is_told_apart_by_all_of_them() -> None:
    of = policy(rule(1, by=("a",)))
    bodies = [json.dumps({"a": [0] * 255 + [last]}).encode() for last in (1, 2)]
    assert len({keys(ACME, of, body=body)[0] for body in [*bodies, b"{}"]}) == 3


def test_a_body_that_cannot_be_read_is_refused_where_it_matters() -> None:
    of = policy(rule(1, Scope.MODEL, by=("user",)))
    for answer, status in ((too_large(100), 413), (Body(b"no json"), 400)):
        _, script = start(ConcurrencyLimit(body_limit=100), ACME, of, route=CHAT)
        assert script.effect == ReadBody(100)
        read(script, answer)
        assert script.result.status == status
    _, script = start(ConcurrencyLimit(), ACME, of, headers={"content-encoding": "gzip"})
    assert script.result.status == 415


def test_a_rule_that_rejects_lets_nobody_wait() -> None:
    (claim,) = claims(ACME, policy(rule(5, when_full=WhenFull.REJECT, weight=3)))
    assert (claim.queue, claim.wait_ns, claim.weight) == (0, 0, 3)


def test_by_itself_it_needs_no_tenant() -> None:
    layer = ConcurrencyLimit(2, by=Scope.ROUTE)
    assert layer.requires == ()
    _, script = start(layer)
    assert isinstance(script.effect, EnterSlot)
    assert (script.effect.owner, script.effect.claims[0].key) == ("", "|route|layer-route|files")


# deadlines


def test_what_a_request_allows_counts_from_its_beginning() -> None:
    layer = ConcurrencyLimit(2, deadline_header="X-Request-Timeout-Ms")
    exchange = make_exchange(headers={"x-request-timeout-ms": "1500"})
    clock = exchange.system.clock
    assert isinstance(clock, ManualClock)
    clock.advance(1)
    script = Script(layer.handle(exchange, call_app))
    assert isinstance(script.effect, EnterSlot)
    assert script.effect.deadline_ns == SECOND // 2
    _, script = start(layer)
    assert isinstance(script.effect, EnterSlot)
    assert script.effect.deadline_ns is None


def test_a_deadline_that_cannot_be_read_is_refused() -> None:
    _, script = start(ConcurrencyLimit(2, deadline_header="grpc-timeout"), headers={"grpc-timeout": "soon"})
    assert script.result.status == 400
    assert script.result.body is not None
    assert json.loads(script.result.body)["code"] == "deadline.invalid"


# rules


def test_a_rule_queues_by_default_and_looks_at_no_values() -> None:
    """A-8."""
    assert (rule(1).when_full, rule(1).by, rule(1).weight) == (WhenFull.QUEUE, (), 1)
    assert (rule(1), rule(1, Scope.TENANT)) == (rule(1, Scope.TENANT), rule(1))


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"limit": 0}, "limit must be a whole number from 1"),
        ({"limit": True}, "limit must be a whole number"),
        ({"limit": -1}, "limit must be a whole number"),
        ({"limit": 1, "queue": 0}, "queue must be a whole number from 1"),
        ({"limit": 1, "weight": 1001}, "weight must be a whole number from 1 to 1000"),
        ({"limit": 1, "wait_ns": 0}, "longer than 0 and at most an hour"),
        ({"limit": 1, "wait_ns": 3601 * SECOND}, "at most an hour"),
        ({"limit": 1, "scope": Scope.GROUP}, "needs a group"),
        ({"limit": 1, "name": "a b"}, "1 to 64 letters"),
        ({"limit": 1, "by": ("a", "a")}, "each path once"),
        ({"limit": 1, "by": ("a..b",)}, "paths like"),
        ({"limit": 1, "by": tuple("abcdefghi")}, "at most 8"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(terms: dict[str, object], told: str) -> None:
    """A-31, A+7."""
    with pytest.raises(ConfigurationError, match=told):
        ConcurrencyRule(**terms)  # type: ignore[arg-type]


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one name"):
        ConcurrencySection((rule(1, name="a"), rule(2, name="a")))


def test_a_limit_of_a_plan_needs_one() -> None:
    with pytest.raises(ConfigurationError, match="concurrency 'plan' is for all tenants of a plan"):
        start(ConcurrencyLimit(), ACME, Policy.of("acme", [ConcurrencySection((rule(1, Scope.PLAN),))]))
