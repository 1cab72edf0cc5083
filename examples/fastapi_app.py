"""A FastAPI application behind a guard: tenants by API key, rates, budgets, and exact charges.

A tour of requests (it needs fastapi, httpx and uvicorn)::

    python examples/fastapi_app.py

Served::

    uvicorn --factory --app-dir examples fastapi_app:serve
    curl localhost:8000/pages -H "authorization: Bearer tg_example_acme_0123456789" --json '{"pages": 3}'
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, Field

from tenantguard import ASGIGuard, Guard, Tenant, current, load


class Job(BaseModel):
    """What a caller orders."""

    pages: int = Field(ge=1, le=10)


def make_app(guard: Guard) -> FastAPI:
    app = FastAPI()
    app.add_middleware(ASGIGuard, guard=guard)

    @app.post("/pages")
    def render_pages(job: Job) -> dict[str, str | int]:
        exchange = current()
        exchange.report(page=job.pages)  # units, which the route prices
        return {"tenant": exchange.get(Tenant).id, "pages": job.pages}

    @app.post("/quotes")
    async def quote(job: Job) -> dict[str, str | int]:
        current().report(price="0.004 USD")  # in place of the route's price, and never more than that
        return {"tenant": current().get(Tenant).id, "quoted": job.pages}

    return app


def serve() -> FastAPI:
    """For ``uvicorn --factory``."""
    return make_app(load(Path(__file__).with_name("tenantguard.toml")))


if __name__ == "__main__":
    from tour import tour

    tour(make_app)
