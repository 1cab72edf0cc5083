"""A Django project of one file behind a guard, under ASGI.

A tour of requests (it needs django, httpx and uvicorn)::

    python examples/django_app.py

Served::

    uvicorn --factory --app-dir examples django_app:serve
    curl localhost:8000/pages -H "authorization: Bearer tg_example_acme_0123456789" -d '{"pages": 3}'

Under WSGI the guard goes around the other handler: ``guard.wsgi(get_wsgi_application())``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from tenantguard import Guard, Tenant, current, load


@require_POST
def render_pages(request: HttpRequest) -> HttpResponse:
    pages = json.loads(request.body)["pages"]
    if not 1 <= pages <= 10:
        return HttpResponse(status=422)
    exchange = current()
    exchange.report(page=pages)  # units, which the route prices
    return JsonResponse({"tenant": exchange.get(Tenant).id, "pages": pages})


@require_POST
async def quote(request: HttpRequest) -> HttpResponse:
    current().report(price="0.004 USD")  # in place of the route's price, and never more than that
    return JsonResponse({"tenant": current().get(Tenant).id, "quoted": json.loads(request.body)["pages"]})


urlpatterns = [path("pages", render_pages), path("quotes", quote)]


def make_app(guard: Guard) -> Any:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)
    django.setup()
    return guard.asgi(get_asgi_application())


def serve() -> Any:
    """For ``uvicorn --factory``."""
    return make_app(load(Path(__file__).with_name("tenantguard.toml")))


if __name__ == "__main__":
    from tour import tour

    tour(make_app)
