"""The routes layer: what no route names is refused, so that nothing passes unmetered by an unexpected path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import DEFAULT_ROUTE

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler


class KnownRoutes:
    """Answer 404 where no route matches: in front of a model endpoint, the way around the prices is closed."""

    name = "routes"

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Refuse the default route."""
        if exchange.route is DEFAULT_ROUTE:
            return exchange.deny(Deny(self.name, Reason.ROUTE_UNKNOWN, 404, "Nothing is served here."))
        return (yield from proceed(exchange))
