"""The requests that fastapi_app.py, flask_app.py and django_app.py are shown with. Not an example itself."""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from tenantguard import Guard, TenantId, load
from tenantguard.model.money import Amount
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = Path(__file__).with_name("tenantguard.toml")


def tour(make_app: Callable[[Guard], Any], *, wsgi: bool = False) -> None:
    """Send the guarded application one request after the other, and print what came of each."""
    with TemporaryDirectory() as folder:  # each tour begins with an empty ledger
        guard = load(SETTINGS, environ={"TENANTGUARD__GUARD__LEDGER": f"sqlite:///{folder}/ledger.db"})
        guard.ports.audits = ()  # each exchange would be logged between the lines printed here
        with _client(make_app(guard), wsgi=wsgi) as client:
            _order(client, "a stranger", "nobody", "/pages", 3)
            _order(client, "acme orders 3 pages", "acme", "/pages", 3)
            _order(client, "acme orders too many: costs nothing", "acme", "/pages", 99)
            _order(client, "acme asks for a quote", "acme", "/quotes", 3)
            _order(client, "acme orders 1 page", "acme", "/pages", 1)
            _order(client, "acme's fifth request in the hour", "acme", "/pages", 1)
            _order(client, "globex orders 3 pages", "globex", "/pages", 3)
            _order(client, "globex has too little left for the next", "globex", "/pages", 1)
        for tenant in ("acme", "globex"):
            (balance,) = guard.ports.ledger.balances(TenantId(tenant))
            print(f"{tenant}: {Amount(balance.spent, balance.unit)} spent, {Amount(balance.held, balance.unit)} held")
        guard.close()


@contextmanager
def _client(app: Any, *, wsgi: bool) -> Iterator[httpx.Client]:
    """A client of the application: in process under WSGI, over the loopback under ASGI."""
    if wsgi:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://tour") as client:
            yield client
    else:
        with serve(app) as url, httpx.Client(base_url=url) as client:
            yield client


def _order(client: httpx.Client, what: str, tenant: str, path: str, pages: int) -> None:
    headers = {"authorization": f"Bearer tg_example_{tenant}_0123456789"}
    response = client.post(path, json={"pages": pages}, headers=headers)
    if response.is_success:
        told = f"served {response.json()['tenant']}"
    elif response.headers["content-type"] == "application/problem+json":
        told = response.json()["code"]
    else:
        told = "refused by the application itself"
    if "retry-after" in response.headers:
        told += f", Retry-After: {response.headers['retry-after']}"
    print(f"{what:<40}{response.status_code} {told}")
