"""A durable hold and charge of ours against LiteLLM's reservation and reconciliation, which are in memory only.

    python -m benchmarks.litellm [--litellm PYTHON] [--rounds N]

LiteLLM lives in an environment of its own, whose interpreter the option or the variable ``LITELLM_PYTHON`` names. It
runs in a process of its own (``litellm_peer.py``), without a network, a database or Redis. The two processes take
turns, and each tells the processor time that its own round took. The request is the same on both sides: a chat of 200
bytes with 64 tokens of output at most. LiteLLM counts the tokens of its input; our bound is its bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import select
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.ledger import EVIDENCE, LIMIT, Grouped
from benchmarks.proxy_app import request_bytes
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.adapters.system import real_system
from tenantguard.flow.ports import Held, Leg, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.price import PriceBook
from tenantguard.model.tenant import TenantId
from tenantguard.model.token_price import TokenPrice
from tenantguard.model.usage import Usage
from tenantguard.rules.requests import prepare, read_call

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

ROUNDS: Final = 7
CALLERS: Final = 100
EACH: Final = 20
ALONE: Final = 200
IMPORT_S: Final = 300.0
"""LiteLLM has taken a minute to import on a busy machine."""

ROUND_S: Final = 60.0
MODEL: Final = "gpt-4o"
DECODER: Final = "openai-chat"
BODY: Final[dict[str, Any]] = json.loads(request_bytes(stream=False).partition(b"\r\n\r\n")[2]) | {"model": MODEL}
PRICE: Final = TokenPrice(2_500_000_000, 10_000_000_000, 1_250_000_000, 2_500_000_000, currency="USD")
SENT: Final = json.dumps(BODY).encode()
INSTALL: Final = """\
LiteLLM is not measured: it needs an environment of its own, for example

    python3 -m venv litellm-venv && litellm-venv/bin/pip install 'litellm[proxy]'
    python -m benchmarks.litellm --litellm litellm-venv/bin/python"""

PAIR: Final = "LiteLLM, reserve and reconcile, in memory"
COUNT: Final = "  of which it counts tokens"
OURS: Final = "ours, hold and charge, durable"
WHOLE: Final = "  with bounding and pricing the request"
ONE: Final = ", one at a time"


@dataclass
class Peer:
    """LiteLLM's process."""

    process: subprocess.Popen[bytes]

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text.encode() + b"\n")
        except BrokenPipeError:
            raise SystemExit("LiteLLM's process has ended") from None

    def hear(self, within_s: float, begin: str) -> str:
        """The next line that begins so: LiteLLM prints lines of its own."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        line = b""
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = self.process.stdout.readline()
            if not line or line.startswith(begin.encode()):
                break
        if not line.startswith(begin.encode()) or not line:
            raise SystemExit("LiteLLM's process has not answered")
        return line.decode().strip()

    def us_each(self, kind: str, callers: int, each: int) -> float:
        self.say(f"{kind} {callers} {each}")
        return int(self.hear(ROUND_S, "took ").split()[1]) / (callers * each) / 1000


@contextmanager
def litellm(python: str) -> Iterator[Peer]:
    """Start it; at the end it checks that all it was asked for is on its counter."""
    process = subprocess.Popen(
        [python, "-m", "benchmarks.litellm_peer"],
        bufsize=0,  # what was read but not asked for would be unknown to select
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
    )
    try:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()
        if process.wait(ROUND_S):
            raise SystemExit("LiteLLM's process failed")
    finally:
        process.kill()
        process.wait()


class Ours:
    """The ledger on a SQLite file, with ``synchronous=FULL``, and what comes before it."""

    def __init__(self, path: Path) -> None:
        self._system = real_system()
        self._ledger = SQLiteLedger(path, self._system)
        self._perform = Grouped(self._ledger)
        self._tenant = TenantId("acme")
        self._prices = PriceTable(PriceBook({MODEL: PRICE}))
        self._legs = (self._leg(2_500_000),)
        self.charged = 0

    def _leg(self, most: int) -> Leg:
        return Leg(("tenant", self._tenant, "month"), Period.MONTH, "USD", LIMIT, most, most)

    async def pair(self) -> None:
        await self._charge(self._legs, 1_250_000)

    async def whole(self) -> None:
        """The request is read as it will be sent, and priced before and after."""
        call = read_call(DECODER, BODY, "/v1/chat/completions")
        prepared = prepare(DECODER, SENT, BODY, call, 4096)
        quote = self._prices.quote(call.model)
        assert quote is not None
        bound = quote.bound_nanos(len(prepared.body), prepared.output_tokens or 0, service_tier=call.service_tier)
        cost = quote.cost_nanos(Usage(input_tokens=40, output_tokens=20))
        await self._charge((self._leg(bound),), cost)

    async def _charge(self, legs: tuple[Leg, ...], cost: int) -> None:
        hold_id = self._system.ids.new()
        held = await self._perform(PlaceHold(hold_id, self._tenant, legs))
        if not isinstance(held, Held):
            raise TypeError(held)
        await self._perform(ResolveHold(hold_id, (cost,), "completed", EVIDENCE))
        self.charged += cost

    def us_each(self, act: Callable[[], Coroutine[Any, Any, None]], callers: int, each: int) -> float:
        async def caller() -> None:
            for _ in range(each):
                await act()

        async def all_at_once() -> None:
            await asyncio.gather(*(caller() for _ in range(callers)))

        gc.collect()
        began = time.process_time_ns()
        asyncio.run(all_at_once())
        return (time.process_time_ns() - began) / (callers * each) / 1000

    def close(self) -> None:
        """It must have charged exactly that."""
        self._ledger.close()
        if broken := self._ledger.audit():
            raise SystemExit(f"the ledger is broken: {broken[0]}")
        spent = sum(balance.spent for balance in self._ledger.balances())
        if spent != self.charged:
            raise SystemExit(f"{spent} was spent, {self.charged} charged")


def measure(peer: Peer, path: Path, rounds: int) -> Samples:
    samples = Samples()
    ours = Ours(path)
    for number in range(-1, rounds):
        progress(f"round {number + 1} of {rounds}" if number >= 0 else "warming up")
        seen = {
            PAIR: peer.us_each("pair", CALLERS, EACH),
            OURS: ours.us_each(ours.pair, CALLERS, EACH),
            COUNT: peer.us_each("count", CALLERS, EACH),
            WHOLE: ours.us_each(ours.whole, CALLERS, EACH),
            PAIR + ONE: peer.us_each("pair", 1, ALONE),
            OURS + ONE: ours.us_each(ours.pair, 1, ALONE),
        }
        if number >= 0:
            for name, us in seen.items():
                samples.add(name, us)
    ours.close()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litellm")
    parser.add_argument("--litellm", metavar="PYTHON", default=os.environ.get("LITELLM_PYTHON"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.litellm is None:
        print(INSTALL)
        return
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd()) as folder, litellm(options.litellm) as peer:
        progress("importing LiteLLM")
        peer.say(json.dumps(BODY))
        version = peer.hear(IMPORT_S, "ready ").split()[1]
        samples = measure(peer, Path(folder, "ledger.db"), options.rounds)
    order = (PAIR, COUNT, OURS, WHOLE, PAIR + ONE, OURS + ONE)
    print_table(
        f"CPU of one pair, {CALLERS} at once; LiteLLM {version}",
        ("", "us", "to LiteLLM"),
        [[name, f"{samples.median(name):.1f}", f"{samples.ratio(name, PAIR):.2f}"] for name in order],
    )
    plain, whole = samples.ratio(OURS, PAIR), samples.ratio(WHOLE, PAIR)
    uncounted = samples.median(PAIR) - samples.median(COUNT)
    print(f"\nWithout counting tokens LiteLLM's pair costs {uncounted:.0f} us.")
    print_targets(
        [
            Target("hold and charge, durable, to LiteLLM's pair", "<= 0.25x", f"{plain:.2f}x", plain <= 0.25),
            Target("  with bounding and pricing the request", "<= 0.25x", f"{whole:.2f}x", whole <= 0.25),
        ]
    )


if __name__ == "__main__":
    main()
