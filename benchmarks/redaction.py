"""What redaction costs: processor time a delta of an OpenAI stream and a 2 KB JSON body, and how much is held back.

    python -m benchmarks.redaction

"no detector" is everything but finding: framing, JSON, channels, holding back, writing. Six recognisers are e-mail,
card, phone, SSN, IP and IBAN; seventeen are all that Presidio has on by default. "clean" prose has no digit and no
address; "dense" prose has personal data about every 90 characters. Deltas are cut as a tokeniser cuts: at words,
long ones in pieces.
"""

from __future__ import annotations

import json
import re
import statistics
from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks.rounds import interleave, print_table, progress
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.hold import TextStream
from tenantguard.rules.redaction.json_text import LLM_JSON, rewrite_json
from tenantguard.rules.redaction.rule import RequestMask, ResponseScrub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.rules.redaction.rule import Detect

ROUNDS = 7
SIX = ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "US_SSN", "IP_ADDRESS", "IBAN_CODE")
CLEAN = (
    "Thank you for your message. The parcel left our warehouse this morning and should reach you within the week, "
    "unless the weather in the mountains gets worse again. You can always follow its way in your account, and our "
    "colleagues at the counter will be glad to answer whatever else you would like to know about it. "
)
DENSE = (
    "You can write to john.smith@example.com or call +1 415 555 2671 until noon. We charged the card 4111 1111 1111 "
    "1111 and will refund DE89 3704 0044 0532 0130 00 today. The login came from 192.168.10.7 and named the number "
    "856-45-6789, so please tell anna_lee@mail.example.org or (212) 555-0100 at once. "
)
TEXTS = {"clean": CLEAN * 12, "dense": DENSE * 12}
SMALL = {
    "two numbers, no text": b'{"done": 12, "queued": 3}',
    "five short strings": json.dumps({
        "status": "ok",
        "jobs": [{"id": "j-1", "name": "first", "done": True}, {"id": "j-2", "name": "second", "done": False}],
    }).encode(),
}  # fmt: skip


def deltas(text: str) -> list[str]:
    return re.findall(r"\s?\w{1,5}|\s|\W", text)


def event(text: str) -> bytes:
    chunk = {
        "id": "chatcmpl-CJ7x2v9QkP3mN8sT4uV6wX1yZ",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "gpt-5-mini-2025-08-07",
        "service_tier": "default",
        "system_fingerprint": "fp_1234567890",
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
        "usage": None,
        "obfuscation": "abcdefgh",
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def scrub(detect: Detect) -> ResponseScrub:
    return ResponseScrub(detect, Vault(b"k" * 32), restore=True)


def streaming(detect: Detect, text: str) -> Callable[[int], None]:
    feed = EventStream(scrub(detect), protocol=True).feed
    events = cycle([event(one) for one in deltas(text)])

    def run(count: int) -> None:
        for _ in range(count):
            feed(next(events))

    return run


def body(text: str) -> bytes:
    messages = [{"role": "system", "content": "You are the assistant of a shop."}]
    messages += [{"role": "user", "content": text[at : at + 450]} for at in range(0, 1800, 450)]
    return json.dumps({"model": "gpt-5-mini", "stream": True, "user": "u-17", "messages": messages}).encode()


def rewriting(detect: Detect, text: str) -> Callable[[int], None]:
    return rewriting_bytes(detect, body(text))


def rewriting_bytes(detect: Detect, data: bytes) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            rewrite_json(data, RequestMask(detect, Vault(b"k" * 32), escape=True), LLM_JSON)

    return run


def held(detect: Detect, text: str) -> list[int]:
    stream = TextStream(scrub(detect))
    lengths = []
    for delta in deltas(text):
        stream.feed(delta)
        lengths.append(stream.held)
    return lengths


def rows(detectors: Mapping[str, Detect], case: Callable[[Detect, str], Callable[[int], None]]) -> list[list[str]]:
    cases = {
        f"{kind}, {name}": case(detect, text) for name, detect in detectors.items() for kind, text in TEXTS.items()
    }
    samples = interleave(cases, ROUNDS)
    return [[name, f"{samples.median(name):,.0f}", f"{max(samples.rounds[name]):,.0f}"] for name in cases]


def main() -> None:
    progress("loading Presidio")
    detectors: dict[str, Detect] = {
        "no detector": lambda _: [],
        "6 recognisers": PresidioDetector(SIX).detect,
        "17 recognisers": PresidioDetector().detect,
    }
    progress("streams")
    print_table("OpenAI stream, us a delta", ("text", "median", "worst round"), rows(detectors, streaming))
    progress("bodies")
    size = len(body(TEXTS["dense"]))
    print_table(f"JSON body of {size} bytes, us", ("text", "median", "worst round"), rows(detectors, rewriting))
    small = {name: rewriting_bytes(detectors["no detector"], data) for name, data in SMALL.items()}
    samples = interleave(small, ROUNDS)
    print_table(
        "Small JSON body, no detector, us", ("body", "median"), [[n, f"{samples.median(n):.1f}"] for n in small]
    )
    table = []
    for kind, text in TEXTS.items():
        lengths = held(detectors["no detector"], text)
        cuts = statistics.quantiles(lengths, n=100)
        table.append([kind, f"{cuts[49]:.0f}", f"{cuts[89]:.0f}", f"{cuts[98]:.0f}", str(max(lengths))])
    print_table("Held back after a delta, characters", ("text", "p50", "p90", "p99", "most"), table)


if __name__ == "__main__":
    main()
