from __future__ import annotations

import pytest

from tests.drivers.world import World


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> World:
    """The same applications and layers, run by the event-loop driver and by the thread driver."""
    return World(request.param)
