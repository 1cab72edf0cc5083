"""The exchange: one request with its response, and everything that layers learn and promise about it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantguard.errors import BadRequestError, LayerError
from tenantguard.flow.http import Headers, Response
from tenantguard.model.charge import Reported
from tenantguard.model.decision import Allow, Decision, Deny
from tenantguard.model.money import Amount
from tenantguard.model.policy import Policy
from tenantguard.model.route import DEFAULT_ROUTE, Dialect, OnDisconnect, Route
from tenantguard.model.tenant import Tenant
from tenantguard.model.usage import Usage
from tenantguard.rules.refusals import render_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.http import Outcome, Request
    from tenantguard.flow.ports import System

S = TypeVar("S")

CURRENT: Final[ContextVar[Exchange | None]] = ContextVar("tenantguard.current", default=None)
"""The innermost exchange of the running request; drivers set it around the application."""


def current() -> Exchange:
    """The exchange of the request that is being served: its tenant, policy and decisions so far.

    Raises :class:`LookupError` outside a guarded request.
    """
    exchange = CURRENT.get()
    if exchange is None:
        raise LookupError("no guarded request is being served here")
    return exchange


class Exchange:
    """One request with its response. Layers read and leave typed facts, and register how things end.

    Facts are keyed by their type. ``outer`` is the exchange of the guard further out, if guards nest; both have the
    same ``id``. ``on_disconnect`` says what a layer wants where the client leaves before the end; None: nothing
    depends on that, so nobody looks for the client at the settling point. ``called`` says that the application was
    called, so that a response without a body is its own, and not a layer's that answered in its place.
    """

    __slots__ = (
        "_facts", "_id", "called", "decisions", "observers", "on_disconnect", "outer", "request", "resolvers",
        "route", "started_ns", "system",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        system: System,
        route: Route = DEFAULT_ROUTE,
        outer: Exchange | None = None,
        id: str | None = None,  # noqa: A002 - the exchange's own name for it
    ) -> None:
        self.request = request
        self.system = system
        self.route = route
        self.outer = outer
        self.decisions: list[Decision] = []
        self.resolvers: list[tuple[Callable[[Outcome], Flow[None] | None], bool]] = []
        self.observers: list[Callable[[Outcome], Flow[None] | None]] = []
        self.on_disconnect: OnDisconnect | None = None
        self.called = False
        self.started_ns = system.clock.monotonic_ns()
        self._facts: dict[type, Any] = {}
        self._id = id

    @property
    def id(self) -> str:
        """The exchange's id, time-ordered, minted on first use; shared by nested guards."""
        if self._id is None:
            self._id = self.outer.id if self.outer is not None else self.system.ids.new().hex()
        return self._id

    def new_id(self) -> bytes:
        """A new time-ordered id of 16 bytes for something that this exchange takes."""
        return self.system.ids.new()

    def put(self, fact: object) -> None:
        """Leave a fact for the layers further in and for the application; a later one of its type replaces it."""
        self._facts[type(fact)] = fact

    def get(self, kind: type[S]) -> S:
        """The fact of this type. :class:`LayerError` says that nobody left one."""
        fact: S | None = self._facts.get(kind)
        if fact is None:
            raise LayerError(
                f"no layer further out left a {kind.__name__} on this exchange: put one that provides it before",
            )
        return fact

    def find(self, kind: type[S]) -> S | None:
        """The fact of this type, or None."""
        fact: S | None = self._facts.get(kind)  # a call of ``cast`` would cost as much again
        return fact

    def report(
        self,
        *,
        usage: Usage | None = None,
        price: Amount | str | None = None,
        **units: int,
    ) -> None:
        """Let the application say what its request used or costs, before its response ends.

        ``usage`` replaces what a decoder reads, ``price`` (``"0.02 USD"``) replaces the computed one, and units by
        name (``images=2``) are priced by the route. Later reports replace earlier ones of the same name. No charge
        exceeds what was held. Impossible values raise :class:`~tenantguard.errors.TenantGuardError`.
        """
        amount = Amount.parse(price) if isinstance(price, str) else price
        if amount is not None and amount.nanos < 0:
            raise BadRequestError("a reported price is never negative")
        counts = Usage(units=units).units
        exchange: Exchange | None = self
        while exchange is not None:
            known = exchange.find(Reported) or Reported()
            exchange.put(
                Reported(
                    usage if usage is not None else known.usage,
                    {**known.units, **counts},
                    amount if amount is not None else known.price,
                ),
            )
            exchange = exchange.outer

    @property
    def tenant(self) -> Tenant | None:
        """Who is served, None before or without a tenant layer."""
        return self.find(Tenant)

    @property
    def policy(self) -> Policy | None:
        """The policy that this exchange started with."""
        return self.find(Policy)

    def allow(self, layer: str, matched_by: str, **details: object) -> None:
        """Record that a layer let the request on, and why."""
        self.decisions.append(Allow(layer, matched_by, details))

    @property
    def dialect(self) -> Dialect:
        """The shape in which refusals and errors are written on this route."""
        if self.route.dialect is not None:
            return self.route.dialect
        usage = self.route.usage or ""
        if usage.startswith("openai"):
            return Dialect.OPENAI
        return Dialect.ANTHROPIC if usage.startswith("anthropic") else Dialect.PROBLEM

    def deny(self, denial: Deny) -> Response:
        """Record the refusal and write it in the route's shape; return it from ``handle``."""
        self.decisions.append(denial)
        status, headers, body = render_refusal(denial, self.dialect, self.id)
        return Response(status, Headers(headers), body)

    def resolve(self, resolver: Callable[[Outcome], Flow[None] | None], *, strict: bool = False) -> None:
        """Register how something taken ends, before taking it.

        Resolvers run once, innermost first, each isolated, before the response's last chunk leaves. Where a
        ``strict`` one fails, that chunk never leaves.
        """
        self.resolvers.append((resolver, strict))

    def unresolve(self, resolver: Callable[[Outcome], Flow[None] | None]) -> None:
        """Take back a resolver whose work is done, so that the end of the exchange need not wait for it."""
        self.resolvers[:] = [one for one in self.resolvers if one[0] is not resolver]

    def observe(self, observer: Callable[[Outcome], Flow[None] | None]) -> None:
        """Register who hears the outcome after the hand-off; it can neither delay nor change it."""
        self.observers.append(observer)

    def __repr__(self) -> str:
        return f"Exchange({self.request!r})"
