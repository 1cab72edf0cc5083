"""Policies in memory, replaced whole: what a reader got stays as it is, whatever is registered afterwards."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from tenantguard.model.policy import EMPTY_POLICY
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.model.policy import Policy


@dataclass(frozen=True, slots=True)
class _Snapshot:
    policies: Mapping[TenantId, Policy]
    fallback: Policy | None


class StaticPolicies:
    """A policy for each tenant by name, and ``fallback`` for all others (None: they are unknown).

    A registered policy is the whole truth for its tenant: an empty one shadows the fallback. Every change is atomic,
    copies the mapping (change many with :meth:`replace`), and is seen by all who share this object from their next
    request on; a request keeps the policy that it started with.
    """

    def __init__(self, policies: Mapping[str, Policy] | None = None, *, fallback: Policy | None = None) -> None:
        self._lock = threading.RLock()
        self._now = _checked(policies or {}, fallback)

    def find(self, tenant: TenantId) -> Policy | None:
        """The policy of ``tenant`` as it is now, or the fallback, or None."""
        now = self._now
        return now.policies.get(tenant, now.fallback)

    @property
    def policies(self) -> Mapping[TenantId, Policy]:
        """The registered policies as they are now, the fallback aside."""
        return self._now.policies

    @property
    def fallback(self) -> Policy | None:
        """The policy of every tenant that is not registered."""
        return self._now.fallback

    def replace(self, policies: Mapping[str, Policy], *, fallback: Policy | None = None) -> None:
        """Put another set of policies, and its fallback, in the place of everything."""
        with self._lock:
            self._now = _checked(policies, fallback)

    def replace_fallback(self, fallback: Policy | None) -> None:
        """Put another fallback in place; None makes unregistered tenants unknown."""
        with self._lock:
            self._now = replace(self._now, fallback=fallback)

    def register(self, tenant: str, policy: Policy) -> None:
        """Give ``tenant`` this policy, new or instead of its own."""
        with self._lock:
            self._keep({**self._now.policies, TenantId(tenant): policy})

    def unregister(self, tenant: str) -> None:
        """Take the policy of ``tenant`` away, if it has one: the fallback applies again."""
        with self._lock:
            self._keep({name: policy for name, policy in self._now.policies.items() if name != tenant})

    def mutate(self, tenant: str, change: Callable[[Policy], Policy]) -> Policy:
        """Register what ``change`` makes of the policy of ``tenant``, with nobody in between; return it.

        ``change`` is handed the empty policy for a tenant that is not registered, never the fallback. It should
        only compute: other changes wait for it.
        """
        with self._lock:
            changed = change(self._now.policies.get(TenantId(tenant), EMPTY_POLICY))
            self.register(tenant, changed)
        return changed

    def mutate_fallback(self, change: Callable[[Policy], Policy]) -> Policy:
        """As :meth:`mutate`, for the fallback; ``change`` is handed the empty policy where there is none."""
        with self._lock:
            changed = change(self._now.fallback or EMPTY_POLICY)
            self.replace_fallback(changed)
        return changed

    def _keep(self, policies: dict[TenantId, Policy]) -> None:
        self._now = replace(self._now, policies=MappingProxyType(policies))

    def __repr__(self) -> str:
        return f"StaticPolicies({len(self.policies)} tenants{', fallback' if self.fallback else ''})"


def _checked(policies: Mapping[str, Policy], fallback: Policy | None) -> _Snapshot:
    return _Snapshot(MappingProxyType({TenantId(name): policy for name, policy in policies.items()}), fallback)
