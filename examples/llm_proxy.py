"""A language model behind the guarded proxy: prices by the token, budgets, rates, and no personal data for the model.

A tour of calls over the loopback, to a model server that repeats what it is told (it needs the extra ``proxy``, and
calls through the OpenAI SDK where that is installed)::

    python examples/llm_proxy.py

Served, in front of a real provider::

    export UPSTREAM_AUTH="Bearer sk-..."
    tenantguard proxy --config examples/llm_proxy.toml --upstream https://api.openai.com \
        --header-env authorization=UPSTREAM_AUTH
"""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

import json
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tenantguard import TenantId
from tenantguard.model.money import Amount
from tenantguard.proxy import upstream_app
from tenantguard.settings import build, read_settings
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve

try:
    import openai
except ImportError:
    HAS_SDK = False
else:
    HAS_SDK = True

if TYPE_CHECKING:
    from tenantguard import Guard

SETTINGS = Path(__file__).with_name("llm_proxy.toml")
TEXT = "Write to jane.roe@example.com about card 4012888888881881"


def make_proxy(guard: Guard, upstream: str) -> Any:
    """What ``tenantguard proxy`` serves. The tenants' keys stop here; the provider gets its own."""
    return guard.asgi(upstream_app(upstream, headers={"authorization": "Bearer sk-of-the-provider"}))


def tour() -> None:
    model = ModelServer()
    with TemporaryDirectory() as folder:  # each tour begins with an empty ledger
        environ = {"TENANTGUARD__GUARD__LEDGER": f"sqlite:///{folder}/ledger.db"}
        guard = build(read_settings(SETTINGS, environ=environ), proxy=True)  # refuses what no route names
        guard.ports.audits = ()  # each exchange would be logged between the lines printed here
        with serve(model) as upstream, serve(make_proxy(guard, upstream)) as url:
            say = partial(say_with_sdk if HAS_SDK else say_plainly, url)
            print("acme says:                ", TEXT)
            print("acme is answered:         ", say("acme", TEXT))
            print("the model was told:       ", model.requests[-1].body["messages"][0]["content"])
            print("with the credential:      ", model.requests[-1].headers["authorization"])
            print("acme, in a stream:        ", say("acme", TEXT, stream=True))
            print("globex:                   ", say("globex", "Hello"))
            print("globex, once more:        ", say("globex", "Hello"))
            print("initech, without money:   ", say("initech", "Hello"))
            print("calls that the model got: ", len(model.requests))
            for tenant in ("acme", "globex"):
                (balance,) = guard.ports.ledger.balances(TenantId(tenant))
                spent, held = Amount(balance.spent, balance.unit), Amount(balance.held, balance.unit)
                print(f"{tenant}: {spent} spent, {held} held")
        guard.close()


def say_with_sdk(url: str, tenant: str, text: str, *, stream: bool = False) -> str:
    """The model's answer, or how it was refused."""
    messages = [{"role": "user", "content": text}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=f"tg_example_{tenant}_0123456789", max_retries=0) as client:
        call: Any = partial(client.chat.completions.create, model="gpt-5-mini")
        try:
            if stream:
                chunks = call(messages=messages, stream=True)
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            return str(call(messages=messages).choices[0].message.content)
        except openai.APIStatusError as refused:
            return _refusal(refused.status_code, refused.code, refused.response.headers.get("retry-after"))


def say_plainly(url: str, tenant: str, text: str, *, stream: bool = False) -> str:
    """The same without the SDK."""
    headers = {"authorization": f"Bearer tg_example_{tenant}_0123456789", "content-type": "application/json"}
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], "stream": stream}
    connection = HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    if response.status != 200:
        return _refusal(response.status, json.loads(data)["error"]["code"], response.getheader("retry-after"))
    if not stream:
        return str(json.loads(data)["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


def _refusal(status: int, code: str | None, wait: str | None) -> str:
    return f"{status} {code}" + (f", Retry-After: {wait}" if wait else "")


if __name__ == "__main__":
    tour()
