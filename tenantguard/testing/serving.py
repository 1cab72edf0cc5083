"""An ASGI application served for a while by uvicorn (extra ``proxy``), in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def serve(app: Any, **options: Any) -> Iterator[str]:
    """Serve ``app`` on a free port of the loopback and yield its base URL, ready for requests.

    ``options`` are ``uvicorn.Config``'s. Unless they say otherwise the server is quiet, adds no headers of its own,
    believes none about the client, and gives requests that still run at the end 5 s before it cancels them.
    :class:`ConfigurationError` if the application's start-up failed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError("serving an application needs uvicorn: pip install 'tenantguard[proxy]'") from None
    defaults: dict[str, Any] = {
        "log_level": "critical",
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": 5,
    }
    settled = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            settled.set()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            for connection in tuple(self.server_state.connections):  # whose clients do not read the rest
                connection.transport.abort()
            await asyncio.sleep(0)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = Server(uvicorn.Config(app, **defaults | options))

        def run() -> None:
            try:
                server.run(sockets=[listener])
            except SystemExit:  # how uvicorn says that the start-up failed
                return
            finally:
                settled.set()

        thread = threading.Thread(target=run, name=f"serving-{port}", daemon=True)
        thread.start()
        settled.wait()
        try:
            if not server.started:
                raise ConfigurationError("the application could not be served: its start-up failed")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
