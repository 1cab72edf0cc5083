"""The script against the pure rule: several processes, those that are lost, and tickets that are put back."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.redis.script import NOW_SIZE, instant
from tenantguard.adapters.slots.redis import wire
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, SlotClaim
from tenantguard.rules.slots import Slots
from tests.adapters.limits_redis.conftest import linked

if TYPE_CHECKING:
    from collections.abc import Iterator

MICRO = 1000
SECOND = 10**9
LEASE_NS = 400 * MICRO
WAITING_MAX = 40
COMMANDS = 10_000
PATIENT = [wire.Caller(letter * 16, 20 * SECOND) for letter in (b"p", b"q")]
"""Processes in real time."""

START_NS = 1_790_000_000 * SECOND
OWNERS = {"a": 1, "b": 2, "c": 5, "d": 7}


class Link:
    """A connection, and what each process was told; fences count from 1."""

    def __init__(self, connection: Any, client: Any) -> None:
        self.connection = connection
        self.client = client
        self.callers = [wire.Caller(bytes([number]) * 16, LEASE_NS) for number in range(3)]
        self.fences: list[int] = []

    def ask(self, command: bytes, now_ns: int | None = None, last_us: int | None = None) -> tuple[bytes, int]:
        now = b"" if now_ns is None else instant(now_ns)
        packed = wire.SCRIPT.call([wire.KEYS], 1, [command], last_us, now)
        self.connection.send_packed_command([packed], check_health=False)
        return self.connection.read_response(disable_decoding=True), NOW_SIZE

    def told(self, reply: bytes, at: int) -> tuple[dict[bytes, Any], int]:
        """What the command told anybody: the caller in the answer, others by their lists."""
        news, at = wire.read_news(reply, at)
        for caller in self.callers:
            while message := self.client.lpop(wire.news_key(caller.process)):
                news += wire.read_message(message)
        news.sort(key=lambda one: one.outcome.fence if isinstance(one.outcome, Entered) else 0)
        return {one.id: self.plain(one.outcome) for one in news}, at

    def plain(self, outcome: Any) -> Any:
        if isinstance(outcome, Entered):
            if outcome.fence not in self.fences:
                assert not self.fences or outcome.fence > self.fences[-1]
                self.fences.append(outcome.fence)
            return ("entered", self.fences.index(outcome.fence) + 1, outcome.waited_ns)
        return outcome


@pytest.fixture
def link(redis: Any) -> Iterator[Link]:
    with linked(redis, wire.SCRIPT) as (connection, client):
        yield Link(connection, client)


def claims_of(chance: random.Random, owner: str, limits: dict[str, int]) -> tuple[SlotClaim, ...]:
    keys = chance.choice([("|g",), (f"{owner}|t",), ("|g", f"{owner}|t"), ("|g", "|p", f"{owner}|t"), ("|p",)])
    return tuple(
        [
            SlotClaim(
                key,
                limits.setdefault(key, 3),
                queue := chance.choice([0, 3, 20, 20, 20]),
                chance.choice([3, 40, 300, 900]) * MICRO if queue else 0,
                OWNERS[owner],
            )
            for key in keys
        ]
    )


def plain(answer: Any) -> Any:
    return ("entered", answer.fence, answer.waited_ns) if isinstance(answer, Entered) else answer


class Twins:
    """The script and the rule, told the same."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.chance = random.Random(7)
        self.rule = Slots(lease_ns=LEASE_NS, waiting_max=WAITING_MAX)
        self.now = START_NS
        self.numbers = 0
        self.ids: list[set[bytes]] = [set(), set(), set()]  # of each process
        self.heard_at = [START_NS] * 3
        self.limits: dict[str, int] = {}
        self.seen = Counter[str]()

    def step(self) -> None:
        chance, now = self.chance, self.now
        process = chance.choice([0, 0, 0, 1, 1, 2]) if chance.random() < 0.97 else 2
        self.rule.tick(now)
        silent: set[bytes] = set()  # of processes that lost their lease: they ask when they come back
        for number, ids in enumerate(self.ids):
            if self.heard_at[number] + LEASE_NS <= now:
                silent |= ids
            self.seen["lapsed"] += len(ids & silent)
            self.ids[number] = {asked for asked in ids if asked in self.rule._tickets}
        self.heard_at[process] = now
        for asked in self.ids[process]:
            self.rule.renew(asked, now)
        does = chance.choice([self.enter, self.enter, self.enter, self.leave, self.leave, self.beat])
        told = does(self.link.callers[process], self.ids[process])
        expected = {asked: plain(answer) for asked, answer in self.rule.told if asked not in silent}
        self.rule.told.clear()
        assert told == expected
        self.seen["told"] += len(told)

    def enter(self, caller: wire.Caller, ids: set[bytes]) -> dict[bytes, Any]:
        chance, now = self.chance, self.now
        if chance.random() < 0.05:
            self.limits[chance.choice(sorted(self.limits) or ["|g"])] = chance.randint(1, 6)
        self.numbers += 1
        asked = self.numbers.to_bytes(16, "big")
        owner = chance.choice(sorted(OWNERS))
        deadline = chance.choice([None, None, chance.randint(-1, 600) * MICRO])
        claims = claims_of(chance, owner, self.limits)
        command = EnterSlot(asked, owner, claims, deadline)
        if chance.random() < 0.02:
            return self.hold(caller, ids, command)
        answer = self.rule.enter(asked, owner, claims, deadline, now)
        reply, at = self.link.ask(wire.enter_command(caller, command, WAITING_MAX), now)
        told, at = self.link.told(reply, at)
        outcome, end = wire.read_outcome(reply, at)
        assert end == len(reply)
        if answer is None:
            assert isinstance(outcome, wire.Waits)
            assert outcome.left_ns == self.rule.deadline(asked) - now
        else:
            assert self.link.plain(outcome) == plain(answer)
        if not isinstance(answer, Crowded):
            ids.add(asked)
        self.seen[type(answer).__name__] += 1
        return told

    def hold(self, caller: wire.Caller, ids: set[bytes], command: EnterSlot) -> dict[bytes, Any]:
        age = self.chance.randint(0, 50) * MICRO
        fence = self.link.fences[-1] if self.link.fences else 1
        self.rule.hold(command.id, command.owner, command.claims, self.now - age, 0, self.now)
        packed = wire.enter_command(caller, command, WAITING_MAX, fence=fence, age_ns=age)
        told, _ = self.link.told(*self.link.ask(packed, self.now))
        ids.add(command.id)
        return told

    def leave(self, caller: wire.Caller, ids: set[bytes]) -> dict[bytes, Any]:
        asked = self.chance.choice(sorted(ids) or [b"%016d" % self.numbers])
        ids.discard(asked)
        self.rule.leave(asked, self.now)
        reply, at = self.link.ask(wire.leave_command(caller, asked), self.now)
        told, end = self.link.told(reply, at)
        assert end == len(reply)
        return told

    def beat(self, caller: wire.Caller, ids: set[bytes]) -> dict[bytes, Any]:
        reply, at = self.link.ask(wire.beat_command(caller, sorted(ids)), self.now)
        told, at = self.link.told(reply, at)
        _, at = wire.read_number(reply, at)
        for _ in ids:
            outcome, at = wire.read_outcome(reply, at)
            assert isinstance(outcome, Entered | wire.Waits)
        return told


def test_the_script_decides_as_the_rule(link: Link) -> None:
    """S-70: guesses and deadlines too. A process that is not heard of for a lease loses what it had."""
    twins = Twins(link)
    for _ in range(COMMANDS):
        twins.now += twins.chance.choice([0, 1, 5, 20]) * MICRO
        if twins.chance.random() < 0.004:
            twins.now += twins.chance.choice([200, 390, 450]) * MICRO
        twins.step()
    assert len(twins.seen) == 5
    assert min(twins.seen.values()) > 200, twins.seen


def test_nothing_is_kept_of_what_has_ended(link: Link) -> None:
    caller = PATIENT[0]
    for number in range(50):
        command = EnterSlot(number.to_bytes(16, "big"), "acme", (SlotClaim("|g", 3, 99, SECOND),))
        link.ask(wire.enter_command(caller, command, 99))
    for number in range(50):
        link.ask(wire.leave_command(caller, number.to_bytes(16, "big")))
    assert set(link.client.keys()) == {wire.KEY, wire.KEY + b":processes"}
    assert link.client.hkeys(wire.KEY) == [b"m"]
    assert all(0 < link.client.pttl(key) <= 101_000 for key in link.client.scan_iter())


def test_a_crowd_expires_with_its_processes(link: Link) -> None:
    command = EnterSlot(b"1" * 16, "acme", (SlotClaim("|g", 1, 99, SECOND),))
    link.ask(wire.enter_command(PATIENT[0], command, 99))
    link.ask(wire.enter_command(PATIENT[1], EnterSlot(b"2" * 16, "acme", command.claims), 99))
    assert len(link.client.keys()) == 6
    assert all(0 < link.client.pttl(key) <= 101_000 for key in link.client.scan_iter())


def test_what_a_server_that_hung_reads_late_enters_nothing(link: Link) -> None:
    command = EnterSlot(b"1" * 16, "acme", (SlotClaim("|g", 1),))
    packed = wire.enter_command(PATIENT[0], command, 99)
    reply, at = link.ask(packed, START_NS, START_NS // 1000 - 1)
    assert wire.read_outcome(reply, wire.read_news(reply, at)[1])[0] is wire.LATE
    again, _ = link.ask(packed, START_NS, START_NS // 1000)
    assert isinstance(wire.read_outcome(again, wire.read_news(again, at)[1])[0], Entered)


@pytest.mark.parametrize("back_s", [59, 61])
def test_a_clock_that_was_far_ahead_holds_nothing_up_and_fences_grow_all_the_same(link: Link, back_s: int) -> None:
    """Else no lease would end until the clock is there again."""
    claims = (SlotClaim("|g", 2),)
    fences = []
    for number, now in ((1, START_NS), (2, START_NS - back_s * SECOND)):
        command = EnterSlot(number.to_bytes(16, "big"), "acme", claims)
        reply, at = link.ask(wire.enter_command(PATIENT[0], command, 99), now)
        outcome, _ = wire.read_outcome(reply, wire.read_news(reply, at)[1])
        assert isinstance(outcome, Entered)
        fences.append(outcome.fence)
    assert fences == sorted(set(fences))
    reply, at = link.ask(wire.beat_command(PATIENT[0], [(1).to_bytes(16, "big")]), START_NS - back_s * SECOND)
    _, at = wire.read_number(reply, wire.read_news(reply, at)[1])
    assert (wire.read_outcome(reply, at)[0] is wire.UNKNOWN) is (back_s > 60)


def test_long_and_strange_keys_are_told_apart_and_shown(link: Link) -> None:
    long = "acme|model|" + "é" * 500
    keys = ["a}{b|t", "a|\x00", "\ud800|t", "|", long, long + "x"]
    for number, key in enumerate(keys):
        command = EnterSlot(number.to_bytes(16, "big"), key, (SlotClaim(key, 1),))
        reply, at = link.ask(wire.enter_command(PATIENT[0], command, 99))
        assert isinstance(wire.read_outcome(reply, at + 4)[0], Entered)
    reply, at = link.ask(wire.view_command(99, b""))
    rows, _, end = wire.read_view(reply, wire.read_news(reply, at)[1])
    shown = [row.key for _, row in rows]
    assert end == len(reply)
    assert [row.owner for _, row in rows] == keys
    assert shown[:4] == keys[:4]
    assert all(key.startswith("acme|model|éé") and len(key) < 200 for key in shown[4:])
    assert len(set(shown)) == len(keys)
