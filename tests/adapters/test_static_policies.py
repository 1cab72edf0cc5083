from __future__ import annotations

import threading

import pytest

from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.errors import BadRequestError
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.rate import Rate
from tenantguard.model.sections import BudgetRule, BudgetSection, RateRule, RateSection
from tenantguard.model.tenant import TenantId

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


def rate(amount: int) -> RateSection:
    return RateSection((RateRule(Rate(amount, 10**9)),))


def budget(nanos: int) -> BudgetSection:
    return BudgetSection((BudgetRule(Amount(nanos, "USD"), Period.MONTH),))


FALLBACK = Policy.of("fallback", [rate(1), budget(1)])
OWN = Policy.of("acme", [rate(9)])


def test_nobody_is_known_to_an_empty_registry() -> None:
    """E-17, in the way that design.md decides: an unknown tenant is a decision, unless a fallback is configured."""
    assert StaticPolicies({}).find(ACME) is None
    open_to_all = StaticPolicies({}, fallback=EMPTY_POLICY)
    assert open_to_all.find(ACME) is EMPTY_POLICY
    assert len(open_to_all.policies) == 0


def test_a_registered_tenant_gets_its_own_policy_and_others_the_fallback() -> None:
    """E-18, E-19."""
    policies = StaticPolicies({"acme": OWN}, fallback=FALLBACK)
    assert policies.find(ACME) is OWN
    assert policies.find(GLOBEX) is FALLBACK


def test_an_empty_policy_shadows_the_fallback() -> None:
    """E+19."""
    policies = StaticPolicies({"acme": EMPTY_POLICY}, fallback=FALLBACK)
    assert policies.find(ACME) is EMPTY_POLICY


def test_changes_of_the_fallback_are_seen_by_all_who_share_the_registry() -> None:
    """E-20."""
    policies = StaticPolicies({}, fallback=FALLBACK)
    find = policies.find
    policies.replace_fallback(OWN)
    assert find(ACME) is OWN
    policies.mutate_fallback(lambda policy: policy.having(rate(5)))
    found = find(ACME)
    assert found is not None
    assert found.section(RateSection) == rate(5)
    policies.replace_fallback(None)
    assert find(ACME) is None


def test_unregistering_brings_the_fallback_back() -> None:
    """E-21."""
    policies = StaticPolicies({"acme": OWN}, fallback=FALLBACK)
    policies.unregister("acme")
    policies.unregister("never there")
    assert policies.find(ACME) is FALLBACK
    assert len(policies.policies) == 0


def test_registering_again_overwrites() -> None:
    """E-22."""
    policies = StaticPolicies({})
    policies.register("acme", OWN)
    policies.register("acme", FALLBACK)
    assert policies.find(ACME) is FALLBACK
    assert len(policies.policies) == 1


def test_changing_one_section_of_the_fallback_keeps_the_others() -> None:
    """E-23."""
    policies = StaticPolicies({}, fallback=FALLBACK)
    changed = policies.mutate_fallback(lambda policy: policy.having(rate(7)))
    assert policies.find(ACME) is changed
    assert (changed.section(RateSection), changed.section(BudgetSection)) == (rate(7), budget(1))


def test_changing_one_section_of_a_tenant_keeps_the_others() -> None:
    """E-24."""
    policies = StaticPolicies({"acme": FALLBACK})
    changed = policies.mutate("acme", lambda policy: policy.having(rate(7)))
    assert policies.find(ACME) is changed
    assert (changed.section(RateSection), changed.section(BudgetSection)) == (rate(7), budget(1))


def test_mutating_an_unknown_tenant_starts_from_the_empty_policy() -> None:
    """E-25."""
    policies = StaticPolicies({}, fallback=FALLBACK)
    seen: list[Policy] = []
    policies.mutate("acme", lambda policy: seen.append(policy) or OWN)  # type: ignore[func-returns-value]
    assert seen == [EMPTY_POLICY]
    assert policies.find(ACME) is OWN


def test_partial_updates_from_two_threads_lose_nothing() -> None:
    """E-26."""
    policies = StaticPolicies({})
    begin = threading.Barrier(2)

    def update(section: type, make: object) -> None:
        begin.wait()
        for number in range(1, 1001):
            policies.mutate("acme", lambda policy: policy.having(make(number)))  # type: ignore[operator]  # noqa: B023
            found = policies.find(ACME)
            assert found is not None
            assert found.section(section) == make(number)  # type: ignore[operator]

    threads = [threading.Thread(target=update, args=pair) for pair in ((RateSection, rate), (BudgetSection, budget))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = policies.find(ACME)
    assert found is not None
    assert found.section(RateSection) == rate(1000)
    assert found.section(BudgetSection) == budget(1000)


def test_a_change_that_fails_changes_nothing() -> None:
    policies = StaticPolicies({"acme": OWN})
    with pytest.raises(ZeroDivisionError):
        policies.mutate("acme", lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert policies.find(ACME) is OWN


def test_a_change_may_call_back_without_a_deadlock() -> None:
    policies = StaticPolicies({})

    def change(policy: Policy) -> Policy:
        policies.register("globex", FALLBACK)
        return OWN

    policies.mutate("acme", change)
    assert dict(policies.policies) == {ACME: OWN, GLOBEX: FALLBACK}


def test_what_was_found_or_read_stays_as_it_was() -> None:
    """E+20: nothing that a request holds changes under it."""
    source = {"acme": OWN}
    policies = StaticPolicies(source)
    source.clear()
    before, found = policies.policies, policies.find(ACME)
    policies.replace({"globex": FALLBACK}, fallback=EMPTY_POLICY)
    assert dict(before) == {ACME: OWN}
    assert found is OWN
    assert policies.find(ACME) is EMPTY_POLICY
    assert policies.fallback is EMPTY_POLICY
    with pytest.raises(TypeError):
        policies.policies["acme"] = OWN  # type: ignore[index]


def test_a_name_that_is_no_tenant_id_is_refused() -> None:
    with pytest.raises(BadRequestError):
        StaticPolicies({"": OWN})
    with pytest.raises(BadRequestError):
        StaticPolicies({}).register("a b", OWN)


def test_a_registry_tells_its_size_and_no_more() -> None:
    assert repr(StaticPolicies({"acme": OWN}, fallback=FALLBACK)) == "StaticPolicies(1 tenants, fallback)"
