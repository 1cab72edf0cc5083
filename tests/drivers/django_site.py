"""A Django project of one file, guarded under ASGI and under WSGI; it checks itself and prints ``ok``.

Django's settings are global, so it has a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="test",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.gzip.GZipMiddleware"],
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402 - after the set-up
from django.core.wsgi import get_wsgi_application  # noqa: E402

from tenantguard.flow.exchange import current  # noqa: E402
from tests.drivers.asgi_client import call  # noqa: E402
from tests.drivers.world import Holding, Till, Watching, World, _Request, serve_wsgi  # noqa: E402


def plain(request: Any) -> HttpResponse:
    return HttpResponse(f"plain {current().request.method} {request.body.decode()}")


def stream(request: Any) -> StreamingHttpResponse:
    if hasattr(request, "scope"):

        async def chunks() -> Any:
            for chunk in (b"one", b"two", b"three"):
                yield chunk

        return StreamingHttpResponse(chunks())
    return StreamingHttpResponse(iter([b"one", b"two", b"three"]))


async def soon(request: Any) -> HttpResponse:
    return HttpResponse(f"soon {current().request.path}")


def file(request: Any) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"))


def fails(request: Any) -> HttpResponse:
    raise ValueError("in the view")


urlpatterns = [
    path("plain", plain),
    path("stream", stream),
    path("soon", soon),
    path("file", file),
    path("fails", fails),
]


def check(protocol: str) -> None:
    world = World(protocol)
    till = Till()
    world.ports.limits = till  # type: ignore[assignment]
    watching = Watching()
    guard = world.guard([watching, Holding()])
    app: Any = guard.asgi(get_asgi_application()) if protocol == "asgi" else guard.wsgi(get_wsgi_application())

    def get(where: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes, list[bytes]]:
        if protocol == "asgi":
            answer = call(app, where, method=method, body=body, headers={"content-length": str(len(body))})
            assert answer.raised is None, answer.raised
            return answer.status, answer.body, answer.chunks
        headers = [("host", "test"), ("content-length", str(len(body)))]
        seen = serve_wsgi(app, _Request(method, where, headers, [body], None), lambda: None)
        assert seen.broken is None, seen.broken
        return seen.status, seen.body, seen.chunks

    assert get("/plain", "POST", b"a body")[:2] == (200, b"plain POST a body")
    assert get("/stream")[2] == [b"one", b"two", b"three"]
    assert get("/soon")[1] == b"soon /soon"
    if protocol == "wsgi":  # Django itself warns of files under ASGI
        assert get("/file")[1].startswith(b'"""A Django project of one file')
    completed = len(till.endings)
    assert till.endings == ["completed"] * completed, till.endings
    assert get("/fails")[0] == 500
    assert get("/nowhere")[0] == 404
    assert till.endings[completed:] == ["failed", "failed"]
    assert till.held == set()
    assert len(watching.outcomes) == completed + 2
    till.refuse = True
    status, body, _ = get("/plain")
    assert (status, b"till.empty" in body) == (402, True)


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)
    check("asgi")
    check("wsgi")
    print("ok")  # noqa: T201 - what the test looks for
