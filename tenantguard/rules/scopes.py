"""What rules of a policy count, by their scope: what their counters are called, and which rules a request meets."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, TypeVar

from tenantguard.errors import ConfigurationError
from tenantguard.model.sections import Scope
from tenantguard.rules.bucket import SHARED, bucket_key, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.model.route import Route
    from tenantguard.model.sections import Group
    from tenantguard.model.tenant import Tenant

WIDTH: Final = {scope: width for width, scope in enumerate(Scope)}
"""From wide to narrow, as the words stand."""

_MODEL_CHARS: Final = 128
_SHARED_SCOPES: Final = frozenset({Scope.GLOBAL, Scope.PLAN})


class Scoped:
    """One rule with its name, which stands in its counters' keys and in decisions.

    ``what`` is its key in a policy.
    """

    __slots__ = ("_fixed", "group", "name", "scope")

    def __init__(self, what: str, name: str, scope: Scope, group: Group | None, plan: str | None) -> None:
        self.name = name
        self.scope = scope
        self.group = group
        if scope is Scope.PLAN:
            if plan is None:
                raise ConfigurationError(
                    f"the {what} {name!r} is for all tenants of a plan, and the policy names none: "
                    "write plan = 'gold'"
                )
            self._fixed = bucket_key(SHARED, scope, name, plan)
        elif scope is Scope.GLOBAL:
            self._fixed = bucket_key(SHARED, scope, name)
        else:
            self._fixed = f"|{escaped(scope)}|{escaped(name)}"

    def key(self, tenant: Tenant | None, route: str, model: str | None) -> str:
        """The key of what a request of ``tenant`` on ``route`` for ``model`` counts in.

        Where no tenant is known all callers share one; a tenant without an identity is its own.
        """
        scope = self.scope
        if scope in _SHARED_SCOPES:
            return self._fixed
        key = self._fixed if tenant is None else escaped(tenant.id) + self._fixed
        if scope is Scope.ROUTE:
            return f"{key}|{escaped(route)}"
        if scope is Scope.MODEL and model is not None:
            return f"{key}|{escaped(model) if len(model) <= _MODEL_CHARS else digest(model)}"
        if scope is Scope.IDENTITY and tenant is not None and tenant.identity is not None:
            return f"{key}|{escaped(tenant.identity.id)}"
        return key

    def covers(self, route: Route, model: str | None) -> bool:
        """Whether a request on ``route`` for ``model`` counts; None where it asks for no model."""
        group = self.group
        if group is not None and route.name not in group.routes and model not in group.models:
            return False
        return self.scope is not Scope.MODEL or model is not None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that its group names."""
        return self.group.models if self.group is not None else ()


S = TypeVar("S", bound=Scoped)


def most_specific(rules: Sequence[S]) -> list[S]:
    """Of rules that count the same for one request, those of the narrowest scope."""
    narrowest = max((WIDTH[rule.scope] for rule in rules), default=0)
    return [rule for rule in rules if WIDTH[rule.scope] == narrowest]


def names_of(rules: Sequence[tuple[str | None, str]]) -> list[str]:
    """The names of rules: their own, or the stem beside it, numbered where they are alike."""
    taken = {own for own, _ in rules}
    alike: Counter[str] = Counter()
    names = []
    for own, stem in rules:
        if own is not None:
            names.append(own)
            continue
        name = stem
        while name in taken or not alike[stem]:
            alike[stem] += 1
            name = stem if alike[stem] == 1 else f"{stem}-{alike[stem]}"
        taken.add(name)
        names.append(name)
    return names


def calls_model(route: Route) -> bool:
    """Whether a request on this route is a call of a model, whose name can be known."""
    return route.usage is not None and not route.counts_units


def digest(text: str) -> str:
    """A short name for what a caller may make as long as it likes, or what nobody is to read."""
    return blake2s(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
