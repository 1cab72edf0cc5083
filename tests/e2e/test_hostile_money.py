"""A tenant that wants output cheaper than it is, and upstreams that say odd things: whole requests, by settings."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tenantguard import current
from tenantguard.adapters.identity.keys import hash_key
from tenantguard.model.ledger import HoldState
from tenantguard.model.tenant import TenantId
from tenantguard.settings import build, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tenantguard.guard import Guard

KEY = "tg_test_key_of_acme_0123456789"
CALL = 10 * 1_000 + 20 * 2_000
"""What ten tokens in and twenty out cost, in billionths of a dollar."""
SETTINGS = f"""
[guard]
ledger = "sqlite:///ledger.db"

[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "{hash_key(KEY)}"

[[routes]]
match = "POST /chat"
usage = "openai-chat"
max_output = 1000

[[routes]]
match = "POST /observed"
usage = "openai-chat"
max_output = 1000
on_disconnect = "observed"

[[routes]]
match = "POST /images"
usage = "openai-images"
max_output = 5000

[[routes]]
match = "POST /audio"
usage = "openai-audio"
max_output = 5000

[[routes]]
match = "POST /v1beta/models/*"
usage = "gemini-generate"
max_output = 100

[[routes]]
match = "POST /drawings"
unit = "images"
unit_price = "0.10 USD"
max_units = 5

[prices.small]
input = "1 USD/1M"
output = "2 USD/1M"
cache_read = "0.1 USD/1M"
cache_write = "1 USD/1M"

[policies.acme]
budget = {{ limit = "%s USD", per = "month" }}
quota = [{{ unit = "images", limit = 10, per = "month" }}]
"""
Answer = tuple[str, bytes]


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Callable[..., Guard]]:
    guards: list[Guard] = []

    def make(budget: str = "10.00") -> Guard:
        guards.append(build(parse_settings(SETTINGS % budget, folder=tmp_path, environ={})))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


def ask(guard: Guard, answer: Callable[[dict[bytes, bytes], bytes], Answer], *calls: dict[str, Any]) -> list[Any]:
    """Send each call, one after the other, to an application that answers with a media type and a body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        media, data = answer(dict(scope["headers"]), body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media.encode())]})
        await send({"type": "http.response.body", "body": data})

    async def go() -> list[Any]:
        headers = {"authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(guard.asgi(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return [await client.post(**call) for call in calls]

    return asyncio.run(go())


def spent(guard: Guard, unit: str = "USD") -> int:
    """What is spent of the unit; nothing may be held at rest."""
    assert guard.ports.ledger.holds() == []
    found = [balance for balance in guard.ports.ledger.balances(TenantId("acme")) if balance.unit == unit]
    assert all(balance.held == 0 for balance in found)
    return sum(balance.spent for balance in found)


def completion(response_id: str, text: str = "hi") -> Answer:
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    document = {"id": response_id, "model": "small", "choices": [{"message": {"content": text}}], "usage": usage}
    return "application/json", json.dumps(document).encode()


def chat(**members: Any) -> dict[str, Any]:
    return {"url": "/chat", "json": {"model": "small", "messages": [], **members}}


@pytest.mark.parametrize("line", ["x-request-id", "x-trace"])
def test_a_caller_that_names_its_own_responses_pays_for_each(built: Callable[..., Guard], line: str) -> None:
    """vLLM gives a response the id of the request's ``X-Request-Id``: said twice, the second was free."""
    guard = built()

    def vllm(headers: dict[bytes, bytes], _: bytes) -> Answer:
        return completion("chatcmpl-" + headers[line.encode()].decode())

    ask(guard, vllm, *[{**chat(), "headers": {line: "one-and-the-same"}}] * 3)
    assert spent(guard) == 3 * CALL


@pytest.mark.parametrize("member", ["request_id", "rid"])
def test_a_caller_that_names_its_responses_in_the_body_pays_for_each(
    built: Callable[..., Guard], member: str
) -> None:
    guard = built()

    def sglang(_: dict[bytes, bytes], body: bytes) -> Answer:
        return completion(json.loads(body)[member])

    ask(guard, sglang, *[chat(**{member: "one-and-the-same"})] * 3)
    assert spent(guard) == 3 * CALL


def test_an_id_that_the_upstream_minted_is_still_charged_once(built: Callable[..., Guard]) -> None:
    guard = built()
    ask(guard, lambda *_: completion("chatcmpl-5c1e77aa90d1"), chat(), chat())
    assert spent(guard) == CALL


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 1, "n_predict": 100_000},
        {"max_tokens": 1, "nPredict": 100_000},
        {"n_cmpl": 50},
        {"models": ["small", "large"]},
        {"fallbacks": [{"model": "large"}]},
    ],
    ids=str,
)
def test_members_that_bring_more_output_or_another_model_are_refused(
    built: Callable[..., Guard], members: dict[str, Any]
) -> None:
    """llama.cpp obeys ``n_predict`` before ``max_tokens``, OpenRouter serves any of ``models``."""
    guard = built()
    (answer,) = ask(guard, lambda *_: completion("chatcmpl-5c1e77aa90d1"), chat(**members))
    assert answer.status_code == 400
    assert spent(guard) == 0


def test_what_has_no_cap_is_not_sold_for_what_is_left_of_a_budget(built: Callable[..., Guard]) -> None:
    """No word in the request makes an image smaller: it came whole, and was charged what the budget had left."""
    guard = built("0.0061")  # of 0.0100 that 5000 tokens cost
    drawn = {"data": [{"b64_json": "AAAA"}], "usage": {"input_tokens": 5, "output_tokens": 5000}}
    (answer,) = ask(
        guard,
        lambda *_: ("application/json", json.dumps(drawn).encode()),
        {"url": "/images", "json": {"model": "small", "prompt": "x"}},
    )
    assert answer.status_code == 402
    assert spent(guard) == 0


def test_a_form_that_a_budget_does_not_cover_is_refused_as_any_request(built: Callable[..., Guard]) -> None:
    guard = built("0.0061")
    call = {"url": "/audio", "data": {"model": "small"}, "files": {"file": ("a.wav", b"RIFF")}}
    (answer,) = ask(guard, lambda *_: ("application/json", b"{}"), call)
    assert answer.status_code == 402
    assert spent(guard) == 0


def test_a_reported_price_takes_the_reported_units_from_their_quota(built: Callable[..., Guard]) -> None:
    guard = built()

    def draw(*_: Any) -> Answer:
        exchange = current()
        assert exchange is not None
        exchange.report(price="0.02 USD", images=3)
        return "text/plain", b"drawn"

    ask(guard, draw, {"url": "/drawings"})
    assert (spent(guard), spent(guard, "images")) == (20_000_000, 3)


def test_a_client_that_leaves_before_the_last_byte_of_a_document_pays_for_its_output(
    built: Callable[..., Guard],
) -> None:
    guard = built()
    _, data = completion("chatcmpl-5c1e77aa90d1", "word " * 400)
    came: list[bytes] = []
    messages: Iterator[Any] = iter([{"type": "http.request", "body": b'{"model":"small","messages":[]}'}])

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        length = str(len(data)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": data[:-1], "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        came.append(message.get("body", b""))

    scope = {"type": "http", "method": "POST", "path": "/observed", "query_string": b""}
    headers = [(b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json")]
    asyncio.run(guard.asgi(app)({**scope, "headers": headers}, receive, send))
    assert b"".join(came) == data[:-1]
    assert spent(guard) >= 2_000 * 400  # a word is a token


@pytest.mark.parametrize("chunk", [{"candidates": 5}, {"candidates": [5, {"content": {"parts": 5}}]}], ids=str)
def test_an_upstream_that_says_nonsense_leaves_no_hold_behind(
    built: Callable[..., Guard], chunk: dict[str, Any]
) -> None:
    guard = built()
    ask(
        guard,
        lambda *_: ("application/json", json.dumps([chunk]).encode()),
        {"url": "/v1beta/models/small:streamGenerateContent", "json": {"contents": []}},
    )
    assert spent(guard) == 0


def test_a_price_that_cannot_be_worked_out_is_an_operators_matter(
    built: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold that only a running process knew of was held until that process ended."""

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    guard = built()
    monkeypatch.setattr("tenantguard.layers.charge.price_of", fails)
    (answer,) = ask(guard, lambda *_: completion("chatcmpl-5c1e77aa90d1"), chat())
    assert answer.content == b""
    (hold,) = guard.ports.ledger.holds()
    assert hold.state is HoldState.REVIEW
