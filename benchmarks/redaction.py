"""What redaction costs: searching beside Presidio's engine, bodies, streams, hostile texts, start and memory.

    python -m benchmarks.redaction

"no detector" is everything but finding: framing, JSON, channels, holding back, writing. "clean", "natural" and
"dense" chats are those of ``pii_search``; bodies are a chat request of five messages.
"""

from __future__ import annotations

import json
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks import pii_search, pii_start, pii_streams
from benchmarks.pii_streams import KEY, deltas
from benchmarks.rounds import Target, interleave, print_table, print_targets, progress
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.model.redact_section import Find
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.json_text import LLM_JSON, rewrite_json
from tenantguard.rules.redaction.text.rule import RequestMask, ResponseScrub
from tests.adapters.pii.texts import Density, chat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.model.pii import Match
    from tenantguard.rules.redaction.text.rule import Detecting

ROUNDS: Final = 7
BODIES: Final = 40
"""Distinct bodies, in turn, so that what a search remembers of one helps little."""

BODY_US_MAX: Final = 100.0
SMALL: Final = {
    "two numbers, no text": b'{"done": 12, "queued": 3}',
    "five short strings": json.dumps({
        "status": "ok",
        "jobs": [{"id": "j-1", "name": "first", "done": True}, {"id": "j-2", "name": "second", "done": False}],
    }).encode(),
}  # fmt: skip


class Nothing:
    """A detector that finds nothing, and must be asked to know it."""

    reach = 0
    passed = 0

    def clears(self, text: str) -> bool:
        """Never sure."""
        return not text

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """Nothing."""
        del text, after
        return []


def event(text: str) -> bytes:
    """One event of an OpenAI stream."""
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


def streaming(detector: Detecting, density: Density) -> Callable[[int], None]:
    """Feeds events of one long stream."""
    rule = ResponseScrub(detector, Vault(KEY), restore=True)
    feed = EventStream(rule, protocol=True).feed
    events = cycle([event(one) for one in deltas(chat(Random(5), 20_000, density))])

    def run(count: int) -> None:
        for _ in range(count):
            feed(next(events))

    return run


def body(seed: int, density: Density) -> bytes:
    """A chat request of about 2 300 bytes."""
    text = chat(Random(seed), 2_000, density)
    messages = [{"role": "system", "content": "You are the assistant of a shop."}]
    messages += [{"role": "user", "content": text[at : at + 500]} for at in range(0, 2_000, 500)]
    return json.dumps({"model": "gpt-5-mini", "stream": True, "user": "u-17", "messages": messages}).encode()


def rewriting(detector: Detecting, bodies: list[bytes]) -> Callable[[int], None]:
    """Masks one request after another, each with a vault of its own."""
    data = cycle(bodies)

    def run(count: int) -> None:
        for _ in range(count):
            rewrite_json(next(data), RequestMask(detector, Vault(KEY), escape=True), LLM_JSON)

    return run


def rows(cases: Mapping[str, Callable[[int], None]]) -> tuple[list[list[str]], dict[str, float]]:
    """Lines of a table, and the medians."""
    samples = interleave(cases, ROUNDS)
    lines = [[name, f"{samples.median(name):,.1f}", f"{max(samples.rounds[name]):,.1f}"] for name in cases]
    return lines, {name: samples.median(name) for name in cases}


def through_the_rules() -> list[Target]:
    """Bodies and event streams, end to end."""
    detectors: dict[str, Detecting] = {
        "no detector": Nothing(),
        "hyperscan": CascadeDetector(Find(), fast=True).bounded(),
        "re": CascadeDetector(Find(), fast=False).bounded(),
    }
    progress("streams of events")
    pairs = [(density, name) for density in Density for name in detectors]
    lines, _ = rows({f"{kind.value}, {name}": streaming(detectors[name], kind) for kind, name in pairs})
    print_table("OpenAI stream, us an event", ("text", "median", "worst round"), lines)
    progress("bodies")
    bodies = {density: [body(seed, density) for seed in range(BODIES)] for density in Density}
    lines, medians = rows({f"{kind.value}, {name}": rewriting(detectors[name], bodies[kind]) for kind, name in pairs})
    size = len(bodies[Density.CLEAN][0])
    print_table(f"JSON body of {size:,} bytes, us", ("text", "median", "worst round"), lines)
    lines, _ = rows({name: rewriting(detectors["hyperscan"], [data]) for name, data in SMALL.items()})
    print_table("Small JSON body, hyperscan, us", ("body", "median", "worst round"), lines)
    seen = medians["clean, hyperscan"]
    return [
        Target(
            f"clean JSON body of {size:,} bytes", f"<= {BODY_US_MAX:.0f} us", f"{seen:.0f} us", seen <= BODY_US_MAX
        )
    ]


def main() -> None:
    """Print everything, and the aims beside what was seen."""
    targets = [*pii_search.report(), *through_the_rules(), *pii_streams.report()]
    pii_start.report()
    print_targets(targets)


if __name__ == "__main__":
    main()
