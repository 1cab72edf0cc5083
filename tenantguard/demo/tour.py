"""The tour: requests of every kind over real HTTP, and after each what the model, the client and the ledger saw."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from threading import Barrier
from typing import TYPE_CHECKING, Any, Final

from tenantguard.demo.client import TIMEOUT_S, Answer, lowered, open_stream, post
from tenantguard.demo.closing import tell_buckets, tell_budgets, tell_ledger
from tenantguard.demo.expected import BURSTS, RATES_NANOS, REPORT_NANOS, Expected, usd
from tenantguard.demo.world import KEYS
from tenantguard.rules.placeholders import PLACEHOLDER
from tenantguard.testing.model_server import DELTA_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.demo.report import Report
    from tenantguard.demo.world import World

CHAT, MESSAGES, EMBEDDINGS, REPORTS = "/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/v1/reports"

CROWD: Final = 100
EMAIL: Final = "jane.roe@example.com"
CARD: Final = "4012888888881881"

_PIECES_SHOWN: Final = 7
_LINE_CHARS: Final = 72


@dataclass(frozen=True, slots=True)
class Call:
    """One request and what became of it: billionths of a dollar that it cost, and how its exchange ended."""

    tenant: str
    answer: Answer
    nanos: int
    ending: str


class Tour:
    """Walks through ``world`` and tells ``report`` what happened."""

    def __init__(self, world: World, report: Report) -> None:
        self._world = world
        self._report = report
        self._expected = Expected()
        self._spent: Counter[str] = Counter()

    def run(self) -> None:
        """Take every step; where a connection fails that is a wrong number, and the tour goes on."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("An allowed call, and what it costs", self._allowed),
            ("Personal data in an OpenAI stream: scrubbed on the way in, restored on the way out", self._openai_data),
            ("The same in an Anthropic stream, with a card number", self._anthropic_data),
            ("Embeddings: charged for what goes in", self._embeddings),
            ("Too fast: 429 with a true Retry-After", self._too_fast),
            ("Out of budget: 402 before the model is called", self._out_of_budget),
            ("The model fails, at once and in mid-stream: both cost nothing", self._upstream_fails),
            ("The client hangs up in mid-stream: it pays for what the model really used", self._hang_up),
            ("A key that nobody knows: 401", self._unknown_key),
            ("100 concurrent requests, and money for 10", self._crowd),
        )
        for number, (title, take) in enumerate(steps, 1):
            self._report.step(f"{number}. {title}")
            try:
                take()
            except (OSError, HTTPException) as broken:
                self._report.check("connection", "an answer", type(broken).__name__)
        tell_buckets(self._world, self._report, self._expected)
        tell_budgets(self._world, self._report, self._expected)
        tell_ledger(self._world, self._report, self._expected)

    # the steps

    def _allowed(self) -> None:
        text = "Say hello to our new customers"
        call = self._chat("acme", text)
        self._report.check("client got", quoted(text), quoted(call.answer.text))
        self._charged(call, "gpt-demo", words(text), words(text))

    def _openai_data(self) -> None:
        text = f"Write to {EMAIL} today"
        call = self._chat("acme", text, stream=True)
        self._check_redacted(call, text, [EMAIL])
        self._charged(call, "gpt-demo", words(text), words(text))

    def _anthropic_data(self) -> None:
        text = f"Refund {EMAIL} to card {CARD} please"
        call = self._call("acme", MESSAGES, ask("claude-demo", text, stream=True, max_tokens=50), text)
        self._check_redacted(call, text, [EMAIL, CARD])
        self._charged(call, "claude-demo", words(text), words(text))

    def _check_redacted(self, call: Call, text: str, secrets: list[str]) -> None:
        received = self._world.received
        got = str(received.body["messages"][-1]["content"])
        expected = text
        for secret, placeholder in zip(secrets, PLACEHOLDER.findall(got), strict=False):
            expected = expected.replace(secret, placeholder)
        leaked = sum(secret.encode() in received.data for secret in secrets)
        self._report.check("model received", quoted(expected), quoted(got))
        self._report.check("values leaked", 0, leaked)
        pieces = [got[start : start + DELTA_CHARS] for start in range(0, len(got), DELTA_CHARS)]
        more = f" ... {len(pieces)} pieces" if len(pieces) > _PIECES_SHOWN else ""
        self._report.tell("model streamed", " ".join(map(quoted, pieces[:_PIECES_SHOWN])) + more)
        self._report.tell("client streamed", " ".join(map(quoted, call.answer.pieces)))
        self._report.check("client got", quoted(text), quoted(call.answer.text))

    def _embeddings(self) -> None:
        texts = ["the first text", "and the second"]
        call = self._call("acme", EMBEDDINGS, {"model": "embed-demo", "input": texts}, " + ".join(texts))
        self._charged(call, "embed-demo", sum(map(words, texts)), 0)

    def _too_fast(self) -> None:
        world, report = self._world, self._report
        report.tell("rate of hasty", world.rate("hasty"))
        for text in ("one", "two"):
            self._charged(self._chat("hasty", text), "gpt-demo", 1, 1)
        sent_ns = world.clock.monotonic_ns()
        refused = self._chat("hasty", "three")
        received_ns = world.clock.monotonic_ns()
        wait_ns = world.bucket("hasty")[1]
        looked_ns = world.clock.monotonic_ns()
        # The bucket has its next unit so long after it was looked at, which was between these two instants; and the
        # refusal was decided between sending and receiving. So this is what it must have said.
        self._expected.hasty_unit_at_ns = (received_ns + wait_ns, looked_ns + wait_ns)
        least, most = millis_up(wait_ns), millis_up(looked_ns + wait_ns - sent_ns)
        wait_ms = refused.answer.number("retry-after-ms")
        self._free(refused, "429 rate.exceeded, refused")
        report.check_between("retry-after-ms", least, most, wait_ms, f"the bucket itself says {least} to {most}")
        if wait_ms is None:
            return
        report.check("retry-after", -(-wait_ms // 1000), refused.answer.number("retry-after"), "the same in seconds")
        report.tell("waiting", f"{wait_ms} ms, and not longer ...")
        time.sleep(max(0, received_ns + wait_ms * 1_000_000 - world.clock.monotonic_ns()) / 1e9)
        self._expected.taken["hasty"] -= 1  # one unit has come back
        self._charged(self._chat("hasty", "three"), "gpt-demo", 1, 1)

    def _out_of_budget(self) -> None:
        calls = self._world.calls
        call = self._chat("broke", "Could I have just one more answer?")
        self._free(call, "402 budget.exhausted, refused")
        self._report.check("bucket", self._expected.level("broke"), self._world.level("broke"), "the unit came back")
        self._report.check("model was called", 0, self._world.calls - calls, "times")
        retry = call.answer.headers.get("x-should-retry")
        self._report.check("x-should-retry", "false", retry, "the SDKs obey it")

    def _upstream_fails(self) -> None:
        self._free(self._chat("acme", "Are you there?", behaviour="error-500"), "500, failed")
        call = self._chat("acme", "Tell me a long story", stream=True, behaviour="die-mid-stream=2")
        self._report.tell("client got", f"{quoted(call.answer.text)} and a broken connection")
        complete = call.answer.whole or b"[DONE]" in call.answer.body
        self._report.check("looks complete", "no", "yes" if complete else "no")
        self._free(call, "200, failed")

    def _hang_up(self) -> None:
        text = "one two three four five six"
        body = ask("gpt-demo", text, stream=True)
        self._sent("acme", CHAT, body, text)
        with open_stream(self._world.url, CHAT, KEYS["acme"], body, "slow=20") as response:
            response.read1()
            received = self._world.received
            received.waiting.wait(TIMEOUT_S)
            answer = Answer(response.status, lowered(response), b"", whole=False)
        self._report.tell("client", "hangs up after the first event")
        self._world.provider.model.release()
        ending = self._ending()
        expected = "completed" if ending == "completed" else "left"  # the end may be faster than the news of leaving
        finished = received.answered.wait(TIMEOUT_S)
        self._report.check("model", "finishes unheard", "finishes unheard" if finished else "was stopped")
        call = Call("acme", answer, self._cost("acme"), ending)
        self._charged(call, "gpt-demo", words(text), words(text), expected)

    def _unknown_key(self) -> None:
        calls = self._world.calls
        self._report.tell("sent", f"?      POST {CHAT}   with the key sk-nobody")
        answer = post(self._world.url, CHAT, "sk-nobody", ask("gpt-demo", "hello"))
        ending = self._ending()
        self._report.check("outcome", "401 identity.invalid, refused", outcome(answer, ending))
        self._report.check("model was called", 0, self._world.calls - calls, "times")

    def _crowd(self) -> None:
        world, report = self._world, self._report
        report.tell("sent", f"crowd  POST {REPORTS}   100 at once, {usd(REPORT_NANOS)} each")
        together = Barrier(CROWD)

        def buy(number: int) -> Answer:
            together.wait()
            return post(world.url, REPORTS, KEYS["crowd"], {"report": number})

        with ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(buy, range(CROWD)))
        endings = Counter(self._ending() for _ in answers)
        statuses = Counter(f"{answer.status} {answer.code}".strip() for answer in answers)
        report.check("status 200", 10, statuses["200"])
        report.check("status 402", 90, statuses["402 budget.exhausted"])
        report.check("completed", 10, endings["completed"])
        report.check("refused", 90, endings["refused"])
        report.check("reports made", 10, world.provider.reports)
        self._expected.taken["crowd"] += 10
        self._expected.charges += [("crowd", REPORT_NANOS)] * 10
        report.check("cost", usd(10 * REPORT_NANOS), usd(self._cost("crowd")), "not one more")
        report.check("bucket", self._expected.level("crowd"), world.level("crowd"), "90 units came back")

    # one request, and what became of it

    def _chat(self, tenant: str, text: str, *, stream: bool = False, behaviour: str | None = None) -> Call:
        body = ask("gpt-demo", text, **({"stream": True} if stream else {}))
        return self._call(tenant, CHAT, body, text, behaviour)

    def _call(self, tenant: str, path: str, body: dict[str, Any], text: str, behaviour: str | None = None) -> Call:
        self._sent(tenant, path, body, text)
        answer = post(self._world.url, path, KEYS[tenant], body, behaviour)
        nanos = self._cost(tenant)  # at once: who has seen the end has a committed charge
        return Call(tenant, answer, nanos, self._ending())

    def _sent(self, tenant: str, path: str, body: dict[str, Any], text: str) -> None:
        head = f"{tenant:<6} POST {path}" + (", streamed" if body.get("stream") else "")
        if len(head) + len(text) > _LINE_CHARS:
            self._report.tell("sent", head)
            self._report.tell("", quoted(text))
        else:
            self._report.tell("sent", f"{head}   {quoted(text)}")

    def _cost(self, tenant: str) -> int:
        """What the tenant has spent since it was asked last."""
        before = self._spent[tenant]
        self._spent[tenant], _ = self._world.balance(tenant)
        return self._spent[tenant] - before

    def _ending(self) -> str:
        record = self._world.records.next()
        return record.ending if record is not None else "not at all"

    def _charged(self, call: Call, model: str, tokens_in: int, tokens_out: int, ending: str = "completed") -> None:
        """Check a call that the model answered."""
        self._report.check("outcome", f"200, {ending}", outcome(call.answer, call.ending))
        rate_in, rate_out = RATES_NANOS[model]
        nanos = tokens_in * rate_in + tokens_out * rate_out
        self._expected.charges.append((call.tenant, nanos))
        tokens = "token" if tokens_in == 1 else "tokens"
        note = f"{tokens_in} {tokens} in at {usd(rate_in)}"
        if rate_out:
            note += f", {tokens_out} out at {usd(rate_out)}"
        self._report.check("cost", usd(nanos), usd(call.nanos), note)
        self._check_left(call)

    def _free(self, call: Call, expected: str) -> None:
        """Check a call that must not cost anything."""
        self._report.check("outcome", expected, outcome(call.answer, call.ending))
        self._report.check("cost", usd(0), usd(call.nanos))
        if not expected.endswith("refused"):
            self._check_left(call)

    def _check_left(self, call: Call) -> None:
        """Check what the response says of the bucket, from which one unit was taken."""
        self._expected.taken[call.tenant] += 1
        seen = f"{call.answer.left} of {BURSTS[call.tenant]} left"
        self._report.check("bucket", self._expected.level(call.tenant), seen)


def ask(model: str, text: str, **options: Any) -> dict[str, Any]:
    """The body of a request with one message, as both providers understand it."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **options}


def words(text: str) -> int:
    """What the model server counts as tokens."""
    return len(text.split())


def quoted(text: str) -> str:
    """A text of the wire as it stands there."""
    return f'"{text}"'


def outcome(answer: Answer, ending: str) -> str:
    """The status, the code if it is a refusal, and how the exchange ended."""
    return f"{answer.status} {answer.code}".strip() + f", {ending}"


def millis_up(nanos: int) -> int:
    """Whole milliseconds, rounded up."""
    return -(-nanos // 1_000_000)
