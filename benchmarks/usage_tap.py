"""What reading usage costs a stream: microseconds a chunk and JSON parses, beside parsing every event.

``python -m benchmarks.usage_tap``. One chunk is one event of a stream of 1000, as the providers write them, unless a
line says otherwise.
"""

from __future__ import annotations

import json
import statistics
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any
from unittest import mock

from tenantguard.rules.sse import SSEFramer
from tenantguard.rules.usage import UnitSource, make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.rules.usage import UsageDecoder

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


def responses_stream() -> list[bytes]:
    def event(kind: str, **members: Any) -> bytes:
        text = json.dumps({"type": kind, "sequence_number": 7, **members}, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode()

    item = {"item_id": "msg_68af1f04b6f481a2b1c1d0f2a7e9", "output_index": 0, "content_index": 0}
    response = {"id": "resp_68af1f03c2d481a2a9b0c1d2e3f4", "model": "gpt-5-mini", "service_tier": "default"}
    usage = {"input_tokens": 9, "output_tokens": 996, "total_tokens": 1005}
    return [
        event("response.created", response={**response, "status": "in_progress", "usage": None}),
        event("response.in_progress", response={**response, "status": "in_progress", "usage": None}),
        *(
            event("response.output_text.delta", **item, delta=f" word{number}", logprobs=[], obfuscation="Qm3xTzR8a")
            for number in range(EVENTS - 3)
        ),
        event("response.completed", response={**response, "status": "completed", "usage": usage}),
    ]


def vllm_stream() -> list[bytes]:
    def event(choices: list[Any], output: int) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
        members = {
            "id": "chatcmpl-2d1b0c6f7a8e4f3d9c5b",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": "Qwen/Qwen3-8B",
            "choices": choices,
            "usage": usage,
        }
        return b"data: " + json.dumps(members, separators=(",", ":")).encode() + b"\n\n"

    def choice(text: str) -> list[Any]:
        return [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]

    return [
        *(event(choice(f" word{number}"), number) for number in range(EVENTS - 2)),
        event([], EVENTS - 2),
        b"data: [DONE]\n\n",
    ]


def gemini_chunks() -> list[dict[str, Any]]:
    def chunk(number: int) -> dict[str, Any]:
        candidate: dict[str, Any] = {
            "content": {"parts": [{"text": f" word{number}"}], "role": "model"},
            "index": 0,
        }
        if number == EVENTS - 1:
            candidate["finishReason"] = "STOP"
        counts = {
            "promptTokenCount": 9,
            "candidatesTokenCount": number,
            "totalTokenCount": 9 + number,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 9}],
        }
        names = {"modelVersion": "gemini-2.5-flash", "responseId": "mAitaLmkHPPlz7IPvtfUqQ4"}
        return {"candidates": [candidate], "usageMetadata": counts, **names}

    return [chunk(number) for number in range(EVENTS)]


def gemini_stream() -> list[bytes]:
    return [b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in gemini_chunks()]


def gemini_array() -> list[bytes]:
    chunks = [json.dumps(chunk, indent=2).encode() for chunk in gemini_chunks()]
    return [b"[" + chunks[0], *(b",\r\n" + chunk for chunk in chunks[1:]), b"]"]


def bedrock_stream() -> list[bytes]:
    padding = "abcdefghijklmnopqrstuvwxyzABCDEFGH"
    usage = {"inputTokens": 9, "outputTokens": 996, "totalTokens": 1005}
    return [
        bedrock_message("messageStart", {"role": "assistant", "p": padding}),
        *(
            bedrock_message(
                "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": f" word{number}"}, "p": padding}
            )
            for number in range(EVENTS - 4)
        ),
        bedrock_message("contentBlockStop", {"contentBlockIndex": 0, "p": padding}),
        bedrock_message("messageStop", {"stopReason": "end_turn", "p": padding}),
        bedrock_message("metadata", {"usage": usage, "metrics": {"latencyMs": 900}, "p": padding}),
    ]


def bedrock_message(name: str, payload: dict[str, Any]) -> bytes:
    said = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\7" + len(value).to_bytes(2, "big") + value.encode()
        for key, value in said.items()
    )
    body = json.dumps(payload, separators=(",", ":")).encode()
    lengths = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def ollama_stream() -> list[bytes]:
    def line(text: str, **members: Any) -> bytes:
        whole = {
            "model": "llama3.2",
            "created_at": "2026-01-01T00:00:00.123456789Z",
            "message": {"role": "assistant", "content": text},
            "done": False,
            **members,
        }
        return json.dumps(whole, separators=(",", ":")).encode() + b"\n"

    return [
        *(line(f" word{number}") for number in range(EVENTS - 1)),
        line("", done=True, done_reason="stop", prompt_eval_count=9, eval_count=996),
    ]


def transcription_stream() -> list[bytes]:
    def event(kind: str, **members: Any) -> bytes:
        return b"data: " + json.dumps({"type": kind, **members}, separators=(",", ":")).encode() + b"\n\n"

    usage = {"type": "tokens", "input_tokens": 900, "output_tokens": 996, "total_tokens": 1896}
    return [
        *(event("transcript.text.delta", delta=f" word{number}") for number in range(EVENTS - 1)),
        event("transcript.text.done", text="word " * EVENTS, usage=usage),
    ]


def image_stream() -> list[bytes]:
    """Pictures of 300 kB in pieces of 64 kB, as sockets give them; a chunk is a piece."""

    def event(kind: str, **members: Any) -> bytes:
        text = json.dumps({"type": kind, "b64_json": "iVBORw0K" * 37_500, **members}, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode()

    usage = {"input_tokens": 9, "output_tokens": 4160, "total_tokens": 4169}
    events = [event("image_generation.partial_image", partial_image_index=number) for number in range(3)]
    return in_odd_pieces([*events, event("image_generation.completed", usage=usage)], 65_536)


def reported_stream() -> list[bytes]:
    def event(**members: Any) -> bytes:
        return b"data: " + json.dumps(members, separators=(",", ":")).encode() + b"\n\n"

    return [*(event(page=number, text="row " * 20) for number in range(EVENTS - 1)), event(usage={"total": 999})]


def tap(name: str, chunks: list[bytes], content_type: str = "text/event-stream", *, strip: bool = False) -> None:
    decoder = make_decoder(name, content_type=content_type, strip_usage=strip)
    read(decoder, chunks)


def read(decoder: UsageDecoder, chunks: list[bytes]) -> None:
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
    responses, vllm, gemini, array = responses_stream(), vllm_stream(), gemini_stream(), gemini_array()
    bedrock, lines, heard, images = bedrock_stream(), ollama_stream(), transcription_stream(), image_stream()
    reported, source = reported_stream(), UnitSource.parse("json:usage.total")
    runs: dict[str, tuple[int, Callable[[], None]]] = {
        "openai-chat, forwarded": (EVENTS, lambda: tap("openai-chat", openai)),
        "openai-chat, usage stripped": (EVENTS, lambda: tap("openai-chat", openai, strip=True)),
        "openai-chat, 1000-byte pieces": (EVENTS, lambda: tap("openai-chat", odd)),
        "openai-chat, vLLM running totals": (EVENTS, lambda: tap("openai-chat", vllm)),
        "openai, every event parsed": (EVENTS, lambda: parse_everything(openai)),
        "openai-responses": (EVENTS, lambda: tap("openai-responses", responses)),
        "openai-audio": (EVENTS, lambda: tap("openai-audio", heard)),
        "openai-images, a piece of 64 kB": (len(images), lambda: tap("openai-images", images)),
        "anthropic-messages": (EVENTS, lambda: tap("anthropic-messages", anthropic)),
        "anthropic, every event parsed": (EVENTS, lambda: parse_everything(anthropic)),
        "gemini-generate, events": (EVENTS, lambda: tap("gemini-generate", gemini)),
        "gemini-generate, JSON array": (EVENTS, lambda: tap("gemini-generate", array, "application/json")),
        "bedrock-converse": (EVENTS, lambda: tap("bedrock-converse", bedrock, "application/vnd.amazon.eventstream")),
        "ollama": (EVENTS, lambda: tap("ollama", lines, "application/x-ndjson")),
        "json:usage.total": (
            EVENTS,
            lambda: read(source.decoder("rows", content_type="text/event-stream"), reported),
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # interleaved, so that a noisy moment hits all alike
        for name, (chunks, run) in runs.items():
            began = time.process_time_ns()
            for _ in range(PASSES):
                run()
            taken[name].append((time.process_time_ns() - began) / 1000 / PASSES / chunks)
    print(f"{'':34}{'CPU us/chunk, best':>20}{'median':>10}{'JSON parses':>14}")
    for name, (_, run) in runs.items():
        print(f"{name:34}{min(taken[name]):>20.2f}{statistics.median(taken[name]):>10.2f}{count_parses(run):>14}")


if __name__ == "__main__":
    main()
