"""A language model's HTTP API without the model: it answers in the OpenAI and Anthropic wire formats, from a script.

It serves ``POST /v1/chat/completions`` and ``/v1/embeddings`` (OpenAI) and ``/v1/messages`` (Anthropic) as a plain
ASGI application on asyncio. What it does is chosen by the request: by its header ``x-behaviour``, else by its
``model`` where that names a behaviour, else ``echo``.

=====================  ==============================================================================================
``echo``               says what the last user message says
``fixed=N``            says N words (10)
``tool``               calls the first tool offered, with the arguments ``{"text": <the last user message>}``
``no-usage``           like ``echo``, but tells no usage
``slow=S``             like ``echo``, but waits, for S seconds (30) at most, until the client leaves or ``release`` is
                       called: before a whole answer, after the first delta of a stream
``die-mid-stream=K``   breaks the connection off after K deltas (3), or in the middle of a whole answer
``stop-short=K``       ends a stream after K deltas (3) as if that were all, without the protocol's own end
``error-NNN``          answers with this status in the provider's error shape; 429 with ``retry-after: 1``
=====================  ==============================================================================================

A token is a word between white space: usage counts those of all messages, and of what is answered. An answer longer
than ``max_tokens`` is cut there. A stream's deltas carry five characters, so that whatever matters is split.
Everything but the ids is the same each time; these are unique, as a provider's are, unless ``ids`` says otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.adapters.system import TimeOrderedIds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Receive, Scope, Send

    from tenantguard.flow.ports import Ids

DELTA_CHARS: Final = 5
CREATED: Final = 1_700_000_000
DIMENSIONS: Final = 8

_BEHAVIOUR: Final = re.compile(
    r"(?P<name>echo|fixed|tool|no-usage|slow|die-mid-stream|stop-short|error-(?P<status>[45]\d\d))(?:=(?P<number>\d+))?",
)
_DEFAULT_NUMBERS: Final = {"fixed": 10, "slow": 30, "die-mid-stream": 3, "stop-short": 3}
_WORD: Final = re.compile(r"\S+\s*")


class ModelDied(ConnectionError):  # noqa: N818 - named like the builtin ConnectionError it is
    """The model server was asked to break its connection off."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What to do with one request; ``number`` is what stands behind its ``=``."""

    name: str
    number: int = 0
    status: int = 0


@dataclass(slots=True)
class Received:
    """A request as the model server got it, and what became of it; the events may be waited for in any thread."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes
    body: Any = None
    behaviour: Behaviour = field(default_factory=lambda: Behaviour("echo"))
    waiting: threading.Event = field(default_factory=threading.Event)
    """A ``slow`` answer has come to where it waits."""
    left: threading.Event = field(default_factory=threading.Event)
    """The client left while a ``slow`` answer was waiting."""
    answered: threading.Event = field(default_factory=threading.Event)
    """The answer was handed over whole."""

    def __repr__(self) -> str:
        return f"Received({self.method} {self.path}, {self.behaviour})"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What to say, before it is put into a wire format.

    ``usage`` says whether to tell it at all, ``final_usage`` whether a stream tells it.
    """

    id: str
    model: str
    text: str
    tool: str | None
    finish: str
    choices: int
    input_tokens: int
    usage: bool
    final_usage: bool

    @property
    def output_tokens(self) -> int:
        return len(self.text.split()) * self.choices

    @property
    def pieces(self) -> list[str]:
        return [self.text[start : start + DELTA_CHARS] for start in range(0, len(self.text), DELTA_CHARS)]


class _Events(NamedTuple):
    """A stream: what comes before the deltas, the deltas, and the protocol's end."""

    opening: list[bytes]
    deltas: list[bytes]
    closing: list[bytes]


class _BadRequest(ValueError):  # noqa: N818 - never leaves this module
    pass


class ModelServer:
    """The ASGI application. ``requests`` are those received so far, in order."""

    def __init__(self, *, ids: Ids | None = None) -> None:
        self.requests: list[Received] = []
        self._ids: Ids = ids if ids is not None else TimeOrderedIds()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def release(self) -> None:
        """Let every ``slow`` answer that waits now go on; from any thread."""
        for loop, event in tuple(self._waiting):
            loop.call_soon_threadsafe(event.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await _receive_whole(scope, receive)
        if request is None:
            return
        self.requests.append(request)
        dialect = _DIALECTS.get((request.method, request.path))
        if dialect is None:
            await _send_json(send, 404, _openai_error(404, "there is no such route"))
            return
        try:
            request.body = json.loads(request.data)
            if not isinstance(request.body, dict) or not isinstance(request.body.get("model"), str):
                raise _BadRequest("the body must be an object with a 'model'")
            request.behaviour = behaviour = _behaviour(request)
            if behaviour.status:
                await self._fail(request, dialect, send)
                return
            if dialect.kind == "embeddings":
                await _send_json(send, 200, _embeddings(request.body, usage=behaviour.name != "no-usage"))
                request.answered.set()
                return
            answer = self._answer(request, dialect)
        except ValueError as problem:
            await _send_json(send, 400, dialect.error(400, str(problem)))
            return
        if request.body.get("stream"):
            await self._stream(request, dialect.events(answer), receive, send)
        else:
            await self._whole(request, dialect.whole(answer), receive, send)

    async def _fail(self, request: Received, dialect: _Dialect, send: Send) -> None:
        status = request.behaviour.status
        headers = [(b"retry-after", b"1")] if status == 429 else []
        await _send_json(send, status, dialect.error(status, "the model was asked to fail"), headers)
        request.answered.set()

    def _answer(self, request: Received, dialect: _Dialect) -> _Answer:
        body, behaviour = request.body, request.behaviour
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _BadRequest("'messages' must be a list with at least one message")
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        if most is None and dialect.kind == "messages":
            raise _BadRequest("max_tokens: Field required")
        said = _last_user_text(messages)
        tool: str | None = None
        finish = "stop"
        if behaviour.name == "tool":
            tool, text, finish = _tool_name(body), json.dumps({"text": said}, ensure_ascii=False), "tool"
        else:
            text = " ".join(f"word{n}" for n in range(behaviour.number)) if behaviour.name == "fixed" else said
            words = _WORD.findall(text)
            if most is not None and len(words) > most:
                text, finish = "".join(words[:most]).rstrip(), "length"
        usage = behaviour.name != "no-usage"
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        system = [{"content": body["system"]}] if dialect.kind == "messages" and body.get("system") else []
        return _Answer(
            id=self._ids.new().hex(),
            model=body["model"],
            text=text,
            tool=tool,
            finish=finish,
            choices=int(body.get("n") or 1),
            input_tokens=sum(len(_text(message).split()) for message in [*system, *messages]),
            usage=usage,
            final_usage=usage and (asked or dialect.kind == "messages"),
        )

    async def _whole(self, request: Received, fields: Any, receive: Receive, send: Send) -> None:
        if request.behaviour.name == "slow" and not await self._wait(request, receive):
            return
        if request.behaviour.name == "die-mid-stream":
            data = _json(fields)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": data[: len(data) // 2], "more_body": True})
            raise ModelDied("half of the answer is all there is")
        await _send_json(send, 200, fields)
        request.answered.set()

    async def _stream(self, request: Received, events: _Events, receive: Receive, send: Send) -> None:
        name, number = request.behaviour.name, request.behaviour.number
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        breaks = name in {"die-mid-stream", "stop-short"}
        deltas = events.deltas[:number] if breaks else events.deltas
        for position, event in enumerate([*events.opening, *deltas]):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            last_of_first = position == len(events.opening)
            if name == "slow" and last_of_first and not await self._wait(request, receive):
                return
        if name == "die-mid-stream":
            raise ModelDied("these deltas are all there is")
        for event in () if breaks else events.closing:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        request.answered.set()

    async def _wait(self, request: Received, receive: Receive) -> bool:
        """Wait until released or for the request's number of seconds; False if the client left."""
        released = asyncio.Event()
        place = (asyncio.get_running_loop(), released)
        self._waiting.add(place)
        request.waiting.set()
        leaving = asyncio.ensure_future(_until_client_leaves(receive))
        releasing = asyncio.ensure_future(released.wait())
        try:
            done, _ = await asyncio.wait(
                {leaving, releasing},
                timeout=request.behaviour.number,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._waiting.discard(place)
            leaving.cancel()
            releasing.cancel()
        if leaving in done:
            request.left.set()
        return leaving not in done


async def _until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _receive_whole(scope: Scope, receive: Receive) -> Received | None:
    data = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data += message.get("body", b"")
        more = message.get("more_body", False)
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Received(scope["method"], scope["path"], headers, bytes(data))


async def _send_json(send: Send, status: int, fields: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    data = _json(fields)
    described = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": data, "more_body": False})


def _json(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


# --- reading a request ---


def _behaviour(request: Received) -> Behaviour:
    asked = request.headers.get("x-behaviour")
    found = _BEHAVIOUR.fullmatch(asked if asked is not None else request.body["model"])
    if found is None:
        if asked is not None:
            raise _BadRequest(f"there is no behaviour {asked!r}")
        return Behaviour("echo")
    name = found["name"]
    number = int(found["number"]) if found["number"] else _DEFAULT_NUMBERS.get(name, 0)
    return Behaviour(name, number, int(found["status"] or 0))


def _text(message: Any) -> str:
    """The text of a message: its content is a string, or a list of parts of which some are text."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return " ".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def _last_user_text(messages: list[Any]) -> str:
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(message)
    return ""


def _tool_name(body: dict[str, Any]) -> str:
    for tool in body.get("tools") or ():
        name = tool.get("function", tool).get("name")
        if isinstance(name, str):
            return name
    raise _BadRequest("'tools' must offer a tool to call")


# --- OpenAI ---


_OPENAI_FINISH: Final = {"stop": "stop", "length": "length", "tool": "tool_calls"}


def _openai_usage(answer: _Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _openai_call(answer: _Answer, arguments: str) -> dict[str, Any]:
    function = {"name": answer.tool, "arguments": arguments}
    return {"id": f"call_{answer.id}", "type": "function", "function": function}


def _openai_whole(answer: _Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool is not None:
        message |= {"content": None, "tool_calls": [_openai_call(answer, answer.text)]}
    finish = _OPENAI_FINISH[answer.finish]
    fields: dict[str, Any] = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
            for index in range(answer.choices)
        ],
    }
    return fields | {"usage": _openai_usage(answer)} if answer.usage else fields


def _openai_events(answer: _Answer) -> _Events:
    """Chunks of all choices in turn; with usage asked for, null on each and told by one more without choices."""

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        fields: dict[str, Any] = {
            "id": f"chatcmpl-{answer.id}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": answer.model,
            "choices": choices,
        }
        if answer.final_usage:
            fields["usage"] = usage
        return b"data: " + _json(fields) + b"\n\n"

    def each(delta: dict[str, Any], finish: str | None = None) -> list[bytes]:
        return [
            event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}])
            for index in range(answer.choices)
        ]

    opening: dict[str, Any] = {"role": "assistant", "content": ""}
    said: list[dict[str, Any]]
    if answer.tool is not None:
        opening = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **_openai_call(answer, "")}]}
        said = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in answer.pieces]
    else:
        said = [{"content": piece} for piece in answer.pieces]
    closing = each({}, _OPENAI_FINISH[answer.finish])
    if answer.final_usage:
        closing.append(event([], _openai_usage(answer)))
    return _Events(each(opening), [one for delta in said for one in each(delta)], [*closing, b"data: [DONE]\n\n"])


def _openai_error(status: int, message: str) -> dict[str, Any]:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _embeddings(body: dict[str, Any], *, usage: bool) -> dict[str, Any]:
    """One vector for each input, made from its digest; floats, or base64 of little-endian 32-bit floats."""
    given = body.get("input")
    single = isinstance(given, str) or (isinstance(given, list) and bool(given) and isinstance(given[0], int))
    inputs = [given] if single else given
    if not isinstance(inputs, list) or not inputs:
        raise _BadRequest("'input' must be a string, a list of tokens, or a list of these")
    dimensions = int(body.get("dimensions") or DIMENSIONS)
    data = []
    for index, one in enumerate(inputs):
        digest = hashlib.shake_128(_json(one)).digest(dimensions)
        vector: Any = [(byte - 128) / 128 for byte in digest]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(len(one.split()) if isinstance(one, str) else len(one) for one in inputs)
    fields: dict[str, Any] = {"object": "list", "data": data, "model": body["model"]}
    return fields | {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if usage else fields


# --- Anthropic ---


_ANTHROPIC_STOP: Final = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}


def _anthropic_message(answer: _Answer, content: list[Any], stop: str | None, output_tokens: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }
    if answer.usage:
        fields["usage"] = {
            "input_tokens": answer.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }
    return fields


def _anthropic_block(answer: _Answer, text: str, arguments: Any) -> dict[str, Any]:
    if answer.tool is None:
        return {"type": "text", "text": text}
    return {"type": "tool_use", "id": f"toolu_{answer.id}", "name": answer.tool, "input": arguments}


def _anthropic_whole(answer: _Answer) -> dict[str, Any]:
    arguments = None if answer.tool is None else json.loads(answer.text)
    block = _anthropic_block(answer, answer.text, arguments)
    return _anthropic_message(answer, [block], _ANTHROPIC_STOP[answer.finish], answer.output_tokens)


def _anthropic_events(answer: _Answer) -> _Events:
    """Usage stands in the first event and, for the output, once more in ``message_delta``, where it is the sum."""

    def event(kind: str, **fields: Any) -> bytes:
        return b"event: " + kind.encode() + b"\ndata: " + _json({"type": kind, **fields}) + b"\n\n"

    def delta(piece: str) -> bytes:
        if answer.tool is None:
            return event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        return event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})

    usage: dict[str, Any] = {"usage": {"output_tokens": answer.output_tokens}} if answer.usage else {}
    return _Events(
        [
            event("message_start", message=_anthropic_message(answer, [], None, min(1, answer.output_tokens))),
            event("content_block_start", index=0, content_block=_anthropic_block(answer, "", {})),
            event("ping"),
        ],
        [delta(piece) for piece in answer.pieces],
        [
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": _ANTHROPIC_STOP[answer.finish], "stop_sequence": None},
                **usage,
            ),
            event("message_stop"),
        ],
    )


def _anthropic_error(status: int, message: str) -> dict[str, Any]:
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
        529: "overloaded_error",
    }
    kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


class _Dialect(NamedTuple):
    kind: str
    whole: Callable[[_Answer], dict[str, Any]]
    events: Callable[[_Answer], _Events]
    error: Callable[[int, str], dict[str, Any]]


_CHAT: Final = _Dialect("chat", _openai_whole, _openai_events, _openai_error)
_DIALECTS: Final = {
    ("POST", "/v1/chat/completions"): _CHAT,
    ("POST", "/v1/embeddings"): _CHAT._replace(kind="embeddings"),
    ("POST", "/v1/messages"): _Dialect("messages", _anthropic_whole, _anthropic_events, _anthropic_error),
}
