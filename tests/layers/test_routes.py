from __future__ import annotations

from tenantguard.flow.effects import CallApp
from tenantguard.flow.layer import call_app
from tenantguard.layers.routes import KnownRoutes
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import DEFAULT_ROUTE, Route, RouteTable
from tenantguard.testing import Script, make_exchange


def test_what_no_route_names_is_not_found() -> None:
    exchange = make_exchange(route=RouteTable.of([Route("/jobs")]).find("GET", "/other"))
    script = Script(KnownRoutes().handle(exchange, call_app))
    assert script.result.status == 404
    (denial,) = exchange.decisions
    assert isinstance(denial, Deny)
    assert (denial.layer, denial.reason) == ("routes", Reason.ROUTE_UNKNOWN)


def test_a_route_that_is_written_like_the_default_one_is_known() -> None:
    """Whoever writes a route for everything means everything."""
    assert Route() == DEFAULT_ROUTE
    exchange = make_exchange(route=RouteTable.of([Route()]).find("GET", "/other"))
    assert isinstance(Script(KnownRoutes().handle(exchange, call_app)).effect, CallApp)
