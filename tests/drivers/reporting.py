"""A layer that tells a test how each exchange ended."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from tenantguard.flow.effects import ask


class Reporting:
    """Tells how an exchange ended to whoever listens at the port that its query names."""

    def handle(self, exchange: Any, proceed: Any) -> Any:
        port = port_of(exchange.request.query.decode(), "report")
        if port:
            exchange.observe(lambda outcome: ask(partial(report, port, outcome.ending.value)))
        return (yield from proceed(exchange))


def port_of(query: str, name: str) -> int:
    return int(parse_qs(query).get(name, ["0"])[0])


def report(port: int, ending: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(ending.encode())
