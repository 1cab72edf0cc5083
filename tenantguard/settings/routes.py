"""What a document says of its routes, right or wrong in other respects: for the tables that speak of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantguard.settings.document import Document


def route_tables(document: Document) -> list[dict[str, Any]]:
    """The tables of all routes, as they are written."""
    routes = document.data.get("routes")
    return [route for route in (routes if isinstance(routes, list) else ()) if isinstance(route, dict)]


def route_names(document: Document) -> set[str]:
    """What routes are called: by their names, or by their matches."""
    names = [route.get("name", route.get("match")) for route in route_tables(document)]
    return {name for name in names if isinstance(name, str)}
