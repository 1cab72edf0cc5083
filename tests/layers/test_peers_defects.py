"""What other gateways get wrong when they redact and restore, each as it goes right here.

They were seen by running LiteLLM (1.106.2, 1.109.1) and in the trackers of LiteLLM, Higress, Kong and LLM Guard.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Body, Cut, Ending, Headers, Outcome, Response
from tenantguard.flow.layer import call_app
from tenantguard.layers.redaction import Redaction
from tenantguard.model.decision import Reason
from tenantguard.model.pii import Match
from tenantguard.model.policy import Policy
from tenantguard.model.redact_section import RedactSection, Restore
from tenantguard.model.route import Route
from tenantguard.model.tenant import Tenant, TenantId
from tenantguard.testing import Script, make_exchange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.exchange import Exchange

CHAT = Route("POST /v1/chat/completions", usage="openai-chat")
RESPONSES = Route("POST /v1/responses", usage="openai-responses")
MESSAGES = Route("POST /v1/messages", usage="anthropic-messages")
OTHER = Route("/**")
BUILDER = 'Bob "The\nBuilder" Smith'
NAMES = ("Alice Archer", "Carol Clark", BUILDER, *(f"Person Number{index:02}" for index in range(24)))
_FOUND = re.compile("|".join([r"(?P<EMAIL_ADDRESS>[\w.]+@[\w.]+\w)", *(f"(?:{re.escape(name)})" for name in NAMES)]))


class Persons:
    """An analyser that knows some persons and e-mail addresses; a dead one fails."""

    reach = max(map(len, NAMES))
    passed = 0

    def __init__(self, *, dead: bool = False) -> None:
        self.dead = dead

    def clears(self, text: str) -> bool:
        return False

    def detect(self, text: str, after: int = 0) -> Sequence[Match]:
        if self.dead:
            raise ConnectionError(text)
        return [Match(found.lastgroup or "PERSON", *found.span(), 0.85) for found in _FOUND.finditer(text)]


def ready(layer: Redaction, policy: Policy) -> Redaction:
    """The layer with what the policy needs already built, as a guard builds it."""
    section = policy.section(RedactSection)
    assert section is not None
    layer.prepare(section)
    return layer


class Call:
    """One request through the layer, up to the application, and the response after it."""

    def __init__(self, body: Any, route: Route = CHAT, *, dead: bool = False) -> None:
        policy = Policy.of("acme", [RedactSection(restore=Restore.ALL)])
        self.exchange = make_exchange(
            "POST",
            "/",
            headers={"content-type": "application/json"},
            body=json.dumps(body).encode(),
            route=route,
            facts=(Tenant(TenantId("acme")), policy),
        )
        self.script = Script(Redaction(lambda _: Persons(dead=dead), b"k" * 32).handle(self.exchange, call_app))
        while self.script.effect is not None and not isinstance(self.script.effect, CallApp):
            effect = self.script.effect
            if isinstance(effect, ReadBody):
                assert isinstance(self.exchange.request.body_read, Body)
                self.script.answer(self.exchange.request.body_read)
            else:
                assert isinstance(effect, Compute)
                self.script.answer(effect.call())

    @property
    def sent(self) -> Any:
        """What the application read."""
        return json.loads(self.exchange.request.body)

    def answer(self, content_type: str, *chunks: bytes) -> list[bytes]:
        """What the client reads for each chunk that the application wrote, and for its end."""
        self.script.answer(Response(200, Headers([(b"content-type", content_type.encode())])))
        (transform,) = self.script.result.transforms
        out = [*(transform.feed(chunk) for chunk in chunks), transform.finish()]
        assert all(isinstance(one, bytes) for one in out), out
        return [one for one in out if isinstance(one, bytes)]

    def reply(self, body: Any) -> Any:
        """What the client reads of an answer in JSON."""
        return json.loads(b"".join(self.answer("application/json", json.dumps(body).encode())))

    def stream(self, *deltas: str) -> list[str]:
        """The texts of an OpenAI stream as the client reads them, for each delta and then for its end."""
        events = [_sse({"choices": [{"index": 0, "delta": {"content": delta}}]}) for delta in deltas]
        return [_content(out) for out in self.answer("text/event-stream", *events, b"data: [DONE]\n\n")]


def say(*texts: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}


def said(call: Call) -> list[str]:
    return [message["content"] for message in call.sent["messages"]]


def _sse(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")]


def _content(data: bytes) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in _events(data) if event["choices"])


def test_two_persons_in_two_messages_are_two_persons_again() -> None:
    """Numbering began anew in every message, so that Alice's address came back as Bob's (LiteLLM #31959)."""
    call = Call(say("I am alice@example.com", "I am bob@example.com"))
    first, second = (text.removeprefix("I am ") for text in said(call))
    assert first != second
    assert "".join(call.stream(f"{first} and {second}")) == "alice@example.com and bob@example.com"


def test_the_same_person_is_the_same_in_every_message_and_every_turn() -> None:
    """One person was <PERSON_1> and then <PERSON_3>: coreference lost (LiteLLM #41600)."""
    first, again = said(Call(say("Alice Archer", "Alice Archer")))
    assert first == again == said(Call(say("Alice Archer")))[0]


@pytest.mark.parametrize("text", ["<PERSON", "<PERSON_", "see <PER"])
def test_a_truncated_placeholder_stays_what_it_is(text: str) -> None:
    """A text that ended with "<PERSON" was restored as another person's name."""
    call = Call(say("Alice Archer and Carol Clark"))
    assert "".join(call.stream(text)) == text
    call = Call(say("Alice Archer"))
    token = said(call)[0]
    assert "".join(call.stream(token[:-3])) == token[:-3]


@given(st.lists(st.integers(1, 60), max_size=6))
def test_a_placeholder_in_an_anthropic_stream_is_restored_wherever_it_is_split(places: list[int]) -> None:
    """`<PER` and `SON_1>` in two chunks reached the user (LiteLLM #22821)."""
    call = Call(say("Alice Archer"), MESSAGES)
    text = f"Dear {said(call)[0]}, hello"
    edges = sorted({0, len(text), *(place % len(text) for place in places)})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    stop = {"type": "content_block_stop", "index": 0}
    out = b"".join(call.answer("text/event-stream", *map(_sse, [*events, stop])))
    assert "".join(event["delta"]["text"] for event in _events(out) if "delta" in event) == "Dear Alice Archer, hello"


def test_a_name_with_quotes_and_line_breaks_is_restored_into_arguments_as_valid_json() -> None:
    """It was put between the quotes as it is, and the arguments were no JSON any more."""
    call = Call(say(BUILDER))
    arguments = json.dumps({"to": said(call)[0], "n": 1})
    tool = {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": arguments}}
    answer = call.reply({"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [tool]}}]})
    (restored,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(restored["function"]["arguments"]) == {"to": BUILDER, "n": 1}
    call = Call(say(BUILDER))
    events = []
    for piece in re.findall(r"(?s).{1,7}", arguments):
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        events.append(_sse({"choices": [{"index": 0, "delta": delta}]}))
    out = b"".join(call.answer("text/event-stream", *events, b"data: [DONE]\n\n"))
    deltas = [event["choices"][0]["delta"]["tool_calls"][0] for event in _events(out)]
    joined = "".join(delta["function"]["arguments"] for delta in deltas)
    assert json.loads(joined) == {"to": BUILDER, "n": 1}


def test_a_dead_analyser_lets_nothing_through_either_way() -> None:
    """With the analyser down the text was sent in clear, and an error logged (LiteLLM #30728)."""
    call = Call(say("My SSN is 078-05-1120"), dead=True)
    assert call.script.result.status == 503
    assert call.exchange.decisions[-1].reason == Reason.REDACTION_FAILED  # type: ignore[union-attr]
    policy = Policy.of("acme", [RedactSection(request=None)])
    exchange = make_exchange("POST", "/", route=CHAT, facts=(Tenant(TenantId("acme")), policy))
    script = Script(ready(Redaction(lambda _: Persons(dead=True), b"k" * 32), policy).handle(exchange, call_app))
    script.answer(Response(200, Headers([(b"content-type", b"text/event-stream")])))
    (transform,) = script.result.transforms
    out = [
        transform.feed(_sse({"choices": [{"index": 0, "delta": {"content": "078-05-1120 "}}]})),
        transform.finish(),
    ]
    assert any(isinstance(one, Cut) for one in out)
    assert "078" not in repr(out)


def test_the_text_around_a_value_is_not_cut_where_matches_overlap() -> None:
    """`write to john@smith.com now` became `write to <EMAIL_ADDRESS_1>ow` (LiteLLM #42130)."""
    call = Call(say("write to john@smith.com now"))
    (sent,) = said(call)
    assert re.fullmatch(r"write to <EMAIL_ADDRESS_[a-z2-7]{10,20}> now", sent)
    assert "".join(call.stream(sent)) == "write to john@smith.com now"


def test_placeholders_of_many_persons_share_no_prefix() -> None:
    """<PERSON_1> was restored within <PERSON_10> (Kong's change log)."""
    names = [name for name in NAMES if name.startswith("Person")]
    call = Call(say(*names))
    tokens = said(call)
    assert not any(one != other and other.startswith(one[:-1]) for one in tokens for other in tokens)
    assert "".join(call.stream(" ".join(tokens))) == " ".join(names)


def test_no_request_restores_what_another_one_replaced() -> None:
    """One vault of the process was shared by all users (LLM Guard; LiteLLM #19950)."""
    stolen = said(Call(say("Alice Archer")))[0]
    call = Call(say("Carol Clark"))
    assert "".join(call.stream(stolen)) == stolen
    asked = Call(say(f"Who is {stolen}? I am Carol Clark"))
    assert stolen not in said(asked)[0]
    assert "".join(asked.stream(said(asked)[0])) == f"Who is {stolen}? I am Carol Clark"


def test_what_was_restored_is_not_masked_again() -> None:
    """A stream masked once more what it had just restored (LiteLLM #28316)."""
    call = Call(say("Alice Archer"))
    token = said(call)[0]
    assert "".join(call.stream("It is ", token, ", yes. ", token)) == "It is Alice Archer, yes. Alice Archer"


def test_the_deltas_of_the_responses_api_are_restored_and_so_is_every_repetition() -> None:
    """Deltas passed with a warning, and placeholders showed until the last event (LiteLLM)."""
    call = Call({"model": "m", "input": "Alice Archer"}, RESPONSES)
    token = call.sent["input"]
    text = f"Hello {token}!"
    base = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "output": [item]}
    events: list[dict[str, Any]] = [
        *({"type": "response.output_text.delta", **base, "delta": piece} for piece in re.findall(".{1,5}", text)),
        {"type": "response.output_text.done", **base, "text": text},
        {"type": "response.content_part.done", **base, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    out = _events(b"".join(call.answer("text/event-stream", *map(_sse, numbered))))
    deltas = [event["delta"] for event in out if event["type"].endswith(".delta")]
    assert "".join(deltas) == "Hello Alice Archer!"
    assert token not in json.dumps(out)
    assert out[-1]["response"]["output"][0]["content"][0]["text"] == "Hello Alice Archer!"
    numbers = [event["sequence_number"] for event in out]
    assert numbers == sorted(set(numbers))


def test_the_arguments_of_tools_in_the_history_are_read_too() -> None:
    """Only `messages[].content` was read on the way in."""
    tool = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"to": BUILDER})}}
    call = Call({"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [tool]}]})
    sent = json.dumps(call.sent)
    assert "Smith" not in sent
    (masked,) = call.sent["messages"][0]["tool_calls"]
    assert json.loads(masked["function"]["arguments"])["to"].startswith("<PERSON_")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_and_every_part_of_a_message_is_read(role: str) -> None:
    """E-65. Masking did not fire for some roles and for content in parts (Higress #3308, #2463)."""
    content = [{"type": "text", "text": "I am Alice Archer"}, {"type": "text", "text": "alice@example.com"}]
    call = Call(
        {"model": "m", "messages": [{"role": role, "content": content}, {"role": role, "content": "Carol Clark"}]}
    )
    assert not re.search("Archer|alice|Clark", json.dumps(call.sent))


def test_the_first_text_leaves_with_the_delta_after_it_and_not_with_the_end() -> None:
    """The whole response was collected before its first byte left (LiteLLM LIT-3222)."""
    out = Call(say("hello")).stream("The quick ", "brown fox ", "jumps over ", "the dog. ", "And on it goes.")
    first = next(index for index, text in enumerate(out) if text)
    assert first <= 4  # held back as far as the longest name that this analyser knows
    assert sum(bool(text) for text in out) >= 3

    class Mails(Persons):
        reach = 0

    policy = Policy.of("acme", [RedactSection(restore=Restore.ALL)])
    call = Call(say("hello"))
    exchange = make_exchange("POST", "/", route=CHAT, body=b"", facts=(Tenant(TenantId("acme")), policy))
    script = Script(ready(Redaction(lambda _: Mails(), b"k" * 32), policy).handle(exchange, call_app))
    script.answer(exchange.request.body_read)
    call.script, call.exchange = script, exchange
    assert call.stream("The quick ", "brown fox ")[0]


@given(st.integers(1, 30))
def test_a_value_that_is_cut_by_chunks_is_found(place: int) -> None:
    """E+9. Words that were cut by chunks slipped through (Higress #204)."""
    text = "write to eve@evil.org or to Alice Archer now"
    out = "".join(Call(say("hello")).stream(text[:place], text[place:]))
    assert "evil" not in out
    assert "Archer" not in out


def test_a_stream_of_an_unknown_shape_is_not_passed_unmasked() -> None:
    """It was flushed as it came, with a warning."""
    call = Call(say("hello"))
    out = b"".join(call.answer("text/event-stream", _sse({"odd": [{"shape": "eve@evil.org"}]})))
    assert b"evil" not in out


def test_nothing_of_a_vault_is_in_what_is_logged_or_kept() -> None:
    """The mapping stood in the request's metadata, which is logged."""
    call = Call(say("Alice Archer"))
    call.stream(said(call)[0])
    exchange: Exchange = call.exchange
    for resolver, _ in exchange.resolvers:
        resolver(Outcome(Ending.COMPLETED, status=200))
    assert "Archer" not in repr([exchange, exchange.decisions, exchange.observers, exchange.resolvers])
