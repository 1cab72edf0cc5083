"""The SDKs of both providers against limits: they wait as long as they are told, and then are let in.

Their sleep turns the guard's clock on, so nothing is waited for.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tenantguard.errors import PortError
from tenantguard.flow.layer import check
from tenantguard.guard import Guard
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.route import Route
from tenantguard.model.sections import RateRule, RateSection
from tenantguard.model.tenant import Tenant, TenantId
from tenantguard.testing import ManualClock, manual_system, memory_ports
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler, Layer

ROUTES = [
    Route("POST /v1/chat/completions", usage="openai-chat", max_output=50),
    Route("POST /v1/messages", usage="anthropic-messages", max_output=50),
]
ASK: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


class Facts:
    """Stands where the tenant layer would."""

    provides = (Tenant, Policy)

    def __init__(self, *rates: str) -> None:
        self.policy = Policy.of("acme", [RateSection(tuple(RateRule.parse(rate) for rate in rates))])

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        exchange.put(Tenant(TenantId("acme")))
        exchange.put(self.policy)
        return (yield from proceed(exchange))


@check
def spent(_: Exchange) -> Deny:
    return Deny("charge", Reason.BUDGET_EXHAUSTED, 402, "The budget is spent.")


class World:
    """A guarded model and one SDK."""

    def __init__(self, sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sdk = sdk
        self.model = ModelServer()
        self.ports = memory_ports(manual_system())
        self.slept: list[float] = []
        clock = SimpleNamespace(**{**vars(time), "sleep": self.sleep})
        monkeypatch.setattr(f"{sdk.__name__}._base_client.time", clock)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        clock = self.ports.system.clock
        assert isinstance(clock, ManualClock)
        clock.advance(seconds)

    def ask(self, *layers: Layer, times: int = 1, retries: int = 1) -> Any:
        """The headers of the last answer, or the SDK's error; the waits are in ``slept``."""
        with serve(Guard(layers, routes=ROUTES, ports=self.ports).asgi(self.model)) as url:
            if self.sdk is openai:
                client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=retries)
                create: Callable[..., Any] = client.chat.completions.with_raw_response.create
            else:
                client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=retries)
                create = client.messages.with_raw_response.create
            with client:
                for _ in range(times):
                    answer = create(**ASK)
        return answer.headers


@pytest.fixture(params=[openai, anthropic], ids=["openai", "anthropic"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(request.param, monkeypatch)


def test_who_is_too_fast_sleeps_as_long_as_it_is_told_and_is_let_in(world: World) -> None:
    """E+3."""
    world.ask(Facts("7/minute burst 1"), RateLimit(), times=3)
    assert world.slept == [8.572, 8.572]
    assert len(world.model.requests) == 3


def test_who_has_used_its_tokens_sleeps_until_there_are_enough(world: World) -> None:
    world.ask(Facts("26 tokens/minute", "100/minute"), RateLimit(), times=4)
    assert world.slept
    assert len(world.model.requests) == 4


def test_answers_have_the_fields_of_the_provider(world: World) -> None:
    headers = world.ask(Facts("7/minute", "6000 tokens/minute"), RateLimit())
    prefix = "x-ratelimit-{}-{}" if world.sdk is openai else "anthropic-ratelimit-{1}-{0}"
    assert headers[prefix.format("limit", "requests")] == "7"
    assert headers[prefix.format("remaining", "requests")] == "6"
    assert 0 < int(headers[prefix.format("remaining", "tokens")]) < 6000
    assert "ratelimit" not in headers


@pytest.mark.parametrize(
    ("layers", "status"),
    [
        ((Facts("1/minute"), RateLimit(), spent), 402),
        ((Facts("5 tokens/minute"), RateLimit()), 422),
    ],
)
def test_what_waiting_does_not_mend_is_not_tried_again(world: World, layers: tuple[Layer, ...], status: int) -> None:
    with pytest.raises(world.sdk.APIStatusError) as refused:
        world.ask(*layers)
    assert refused.value.status_code == status
    assert world.slept == []
    assert world.model.requests == []


def test_a_store_that_cannot_be_asked_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> object:
        raise PortError("limits", "late")

    monkeypatch.setattr(world.ports.limits, "take_in_place", late)
    monkeypatch.setattr(world.ports.limits, "execute", late)
    with pytest.raises(world.sdk.InternalServerError) as refused:
        world.ask(Facts("1/minute"), RateLimit())
    assert refused.value.status_code == 503
    assert world.slept == [1.0]
