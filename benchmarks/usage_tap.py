"""What reading usage costs a stream: microseconds a chunk and JSON parses, beside parsing every event.

``python -m benchmarks.usage_tap``. One chunk is one event of a stream of 1000, as OpenAI and Anthropic write them.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

from tenantguard.rules.sse import SSEFramer
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = 1000
ROUNDS = 15
PASSES = 5


def openai_stream() -> list[bytes]:
    def event(choices: list[Any], usage: Any = None) -> bytes:
        members = {
            "id": "chatcmpl-CJ7x2v9QkP3mN8sT4uV6wX1yZ",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": "gpt-5-mini-2025-08-07",
            "service_tier": "default",
            "system_fingerprint": "fp_1234567890",
            "choices": choices,
            "usage": usage,
            "obfuscation": "abcdefgh",
        }
        return b"data: " + json.dumps(members, separators=(",", ":")).encode() + b"\n\n"

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    return [
        event(choice({"role": "assistant", "content": "", "refusal": None})),
        *(event(choice({"content": f" word{number}"})) for number in range(EVENTS - 4)),
        event(choice({}, "stop")),
        event([], {"prompt_tokens": 9, "completion_tokens": 996, "total_tokens": 1005}),
        b"data: [DONE]\n\n",
    ]


def anthropic_stream() -> list[bytes]:
    def event(kind: str, **members: Any) -> bytes:
        text = json.dumps({"type": kind, **members}, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode()

    usage = {"input_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": "msg_01XFDUDYJgAACzvnptvVoYEL", "model": "claude-x", "content": [], "usage": usage}
    return [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": f" word{number}"})
            for number in range(EVENTS - 5)
        ),
        event("content_block_stop", index=0),
        event(
            "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 995}
        ),
        event("message_stop"),
    ]


def tap(name: str, chunks: list[bytes], *, strip: bool = False) -> None:
    decoder = make_decoder(name, content_type="text/event-stream", strip_usage=strip)
    for chunk in chunks:
        decoder.feed(chunk)
    decoder.finish()
    if not decoder.ended or decoder.usage is None:
        raise AssertionError("the stream was not decoded")


def parse_everything(chunks: list[bytes]) -> None:
    framer = SSEFramer()
    for chunk in chunks:
        for event in framer.feed(chunk):
            if event.data != b"[DONE]":
                json.loads(event.data)


def in_odd_pieces(chunks: list[bytes], size: int = 1000) -> list[bytes]:
    whole = b"".join(chunks)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def count_parses(run: Callable[[], None]) -> int:
    with mock.patch("json.loads", side_effect=json.loads) as loads:
        run()
    return loads.call_count


def main() -> None:
    openai, anthropic = openai_stream(), anthropic_stream()
    odd = in_odd_pieces(openai)
    runs: dict[str, Callable[[], None]] = {
        "openai-chat, forwarded": lambda: tap("openai-chat", openai),
        "openai-chat, usage stripped": lambda: tap("openai-chat", openai, strip=True),
        "openai-chat, 1000-byte pieces": lambda: tap("openai-chat", odd),
        "openai, every event parsed": lambda: parse_everything(openai),
        "anthropic-messages": lambda: tap("anthropic-messages", anthropic),
        "anthropic, every event parsed": lambda: parse_everything(anthropic),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # interleaved, so that a noisy moment hits all alike
        for name, run in runs.items():
            began = time.process_time_ns()
            for _ in range(PASSES):
                run()
            taken[name].append((time.process_time_ns() - began) / 1000 / PASSES / EVENTS)
    print(f"{'':32}{'CPU us/event, best':>20}{'median':>10}{'JSON parses':>14}")
    for name, run in runs.items():
        print(f"{name:32}{min(taken[name]):>20.2f}{statistics.median(taken[name]):>10.2f}{count_parses(run):>14}")


if __name__ == "__main__":
    main()
