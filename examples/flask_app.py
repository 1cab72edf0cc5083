"""A Flask application behind a guard: the same layers and the same settings, under WSGI.

A tour of requests (it needs flask and httpx)::

    python examples/flask_app.py

Served::

    gunicorn --chdir examples "flask_app:serve()"
    curl localhost:8000/pages -H "authorization: Bearer tg_example_acme_0123456789" --json '{"pages": 3}'

With several workers, rates are counted in each for itself; the ledger is one file for all.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask, abort, request

from tenantguard import Guard, Tenant, current, load


def make_app(guard: Guard) -> Flask:
    app = Flask(__name__)
    app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]

    @app.post("/pages")
    def render_pages() -> dict[str, str | int]:
        pages = request.get_json()["pages"]
        if not 1 <= pages <= 10:
            abort(422)
        exchange = current()
        exchange.report(page=pages)  # units, which the route prices
        return {"tenant": exchange.get(Tenant).id, "pages": pages}

    @app.post("/quotes")
    def quote() -> dict[str, str | int]:
        current().report(price="0.004 USD")  # in place of the route's price, and never more than that
        return {"tenant": current().get(Tenant).id, "quoted": request.get_json()["pages"]}

    return app


def serve() -> Flask:
    """For gunicorn."""
    return make_app(load(Path(__file__).with_name("tenantguard.toml")))


if __name__ == "__main__":
    from tour import tour

    tour(make_app, wsgi=True)
