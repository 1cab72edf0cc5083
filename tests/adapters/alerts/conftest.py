"""A receiver of webhooks, and an alert to send it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adapters.alerts.receiving import Receiver, make_alert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.model.ledger import Alert


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def alert() -> Alert:
    return make_alert()
