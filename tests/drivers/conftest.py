from __future__ import annotations

import pytest

from tests.drivers.world import World


@pytest.fixture(params=["asgi", "asgi-trio", "wsgi"])
def world(request: pytest.FixtureRequest) -> World:
    """The same applications and layers, run by the event-loop driver (on two libraries) and by the thread driver."""
    protocol, _, backend = request.param.partition("-")
    return World(protocol, backend or "asyncio")
