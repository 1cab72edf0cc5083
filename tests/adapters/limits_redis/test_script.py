"""The script against the pure rule: every number of every bucket, after every command."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.limits.redis import wire
from tenantguard.adapters.redis.script import NOW_SIZE, TICKS_PER_MICRO, argument, instant, read_now
from tenantguard.flow.ports import Take
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import Overdrawn, dipped, draw_all, settled

from .conftest import linked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.rules.bucket import Dips

RATES = (
    Rate(3, 10**9, 6),
    Rate(7, 3 * 10**9),
    Rate(1, 86_400 * 10**9, 40),
    Rate(999_983, 60 * 10**9, 50_000),
    Rate(10**12, 10**9, 10**12),
)
START_NS = 1_790_000_000 * 10**9
COMMANDS = 12_000
TOGETHER = 40


@pytest.fixture
def link(redis: Any) -> Iterator[Link]:
    with linked(redis, wire.SCRIPT) as (connection, client):
        yield Link(connection, client)


class Link:
    def __init__(self, connection: Any, client: Any) -> None:
        self.connection = connection
        self.client = client

    def ask(self, commands: list[tuple[list[bytes], bytes]], now_ns: int | None, last_us: int | None = None) -> bytes:
        keys = [argument(key) for keys, _ in commands for key in keys]
        now = b"" if now_ns is None else instant(now_ns)
        packed = wire.SCRIPT.call(keys, len(keys), [command for _, command in commands], last_us, now)
        self.connection.send_packed_command([packed], check_health=False)
        reply: bytes = self.connection.read_response(disable_decoding=True)
        return reply

    def bucket(self, key: bytes) -> tuple[int, int, Dips]:
        raw = self.client.get(key)
        if raw is None:
            return 0, 0, ()
        numbers = struct.unpack(f"<{len(raw) // 8}d", raw)
        pairs = [int(hi) * TICKS_PER_MICRO + int(lo) for hi, lo in zip(numbers[::2], numbers[1::2], strict=True)]
        if len(pairs) == 1:
            return pairs[0], 0, ()
        return pairs[0], int(numbers[2]), tuple(zip(pairs[2::2], pairs[3::2], strict=True))


class Rule:
    """The pure rule, with what a store keeps around it."""

    def __init__(self) -> None:
        self.buckets: dict[str, tuple[int, int, Dips]] = {}
        self.grants: dict[bytes, tuple[int, list[Take | None]]] = {}
        self.barred: set[bytes] = set()

    def bucket(self, key: str) -> tuple[int, int, Dips]:
        return self.buckets.get(key, (0, 0, ()))

    def take(self, taking: bytes | None, takes: list[Take], now: int) -> tuple[int, list[int]]:
        before = [self.bucket(take.bucket)[0] for take in takes]
        if taking in self.barred:
            return wire.ENDED, before
        if taking in self.grants:
            return wire.TAKEN, before
        drawn = draw_all(
            [(take.bucket, tat, take.rate, take.cost, take.shadow) for take, tat in zip(takes, before, strict=True)],
            now,
        )
        if isinstance(drawn, Overdrawn):
            return wire.REFUSED, before
        ends, shadowed = drawn
        kept: list[Take | None] = []
        for index, (take, end) in enumerate(zip(takes, ends, strict=True)):
            if take.cost == 0 or index in shadowed:
                kept.append(None)
                continue
            kept.append(take)
            tat, takings, dips = self.bucket(take.bucket)
            if takings:
                dips = dipped(dips, tat, now, takings)
            self.buckets[take.bucket] = end, takings + (taking is not None), dips
        if taking is not None:
            self.grants[taking] = now, kept
        return wire.TAKEN, ends

    def settle(self, taking: bytes, used: list[int | None], now: int) -> None:
        grant = self.grants.pop(taking, None)
        if grant is None:
            self.barred.add(taking)
            return
        at, kept = grant
        for take, units in zip(kept, used, strict=True):
            if take is not None and units is not None and units != take.cost:
                tat, takings, dips = self.bucket(take.bucket)
                unit = take.rate.unit_ticks
                tat, dips = settled(take.cost * unit, units * unit, at, tat, dips, now, take.rate, takings)
                self.buckets[take.bucket] = tat, takings, dips
        for take in kept:
            if take is not None:
                tat, takings, dips = self.bucket(take.bucket)
                self.buckets[take.bucket] = tat, takings - 1, dips if takings > 1 else ()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_twelve_thousand_commands_leave_every_number_as_the_rule_does(link: Link, seed: int) -> None:
    chance = random.Random(seed)
    rule = Rule()
    now_ns = START_NS
    names = {f"t{number % 2}|{number}": RATES[number % len(RATES)] for number in range(8)}
    keys = {name: wire.redis_key(name) for name in names}
    open_ids: dict[bytes, list[Take]] = {}
    taken = refused = 0
    for batch in range(COMMANDS // TOGETHER):
        now_ns += chance.choice([0, 1, chance.randrange(10**6), chance.randrange(10**9)])
        now = now_ns * TICKS_PER_NANO
        commands: list[tuple[list[bytes], bytes]] = []
        expected: list[tuple[int, list[int]]] = []
        for number in range(TOGETHER):
            if open_ids and chance.random() < 0.4:
                ending = chance.choice(list(open_ids))
                takes = open_ids.pop(ending) if chance.random() < 0.9 else open_ids[ending]
                used = [chance.choice([None, 0, take.cost, chance.randrange(3 * take.cost + 1)]) for take in takes]
                beside = keys[takes[0].bucket]
                settles = [(take.rate, take.cost, units) for take, units in zip(takes, used, strict=True)]
                commands.append(
                    (
                        [wire.id_key(beside, ending), *[keys[take.bucket] for take in takes]],
                        wire.settle_command(settles),
                    )
                )
                rule.settle(ending, used, now)
                expected.append((0, [rule.bucket(take.bucket)[0] for take in takes]))
                continue
            takes = []
            for name in chance.choices(list(names), k=chance.randrange(1, 5)):
                cost = chance.choice([0, 1, 1, 2, chance.randrange(1 + names[name].burst)])
                takes.append(Take(name, names[name], cost, chance.random() < 0.1))
            taking = None if chance.random() < 0.2 else struct.pack(">QQ", batch, number)
            if open_ids and chance.random() < 0.03:
                taking = chance.choice(list(open_ids))
                takes = open_ids[taking]
            beside = keys[takes[0].bucket]
            answer = rule.take(taking, takes, now)
            taken, refused = taken + (answer[0] == wire.TAKEN), refused + (answer[0] == wire.REFUSED)
            expected.append(answer)
            if taking is not None and answer[0] != wire.REFUSED:
                open_ids[taking] = takes
            beginning = [] if taking is None else [wire.id_key(beside, taking)]
            commands.append(
                (
                    [*beginning, *[keys[take.bucket] for take in takes]],
                    wire.take_command(wire.draws(takes), with_id=taking is not None),
                )
            )
        reply = link.ask(commands, now_ns)
        assert read_now(reply) == now
        at = NOW_SIZE
        for status, tats in expected:
            if status:
                assert reply[at] == status
            assert wire.read_tats(reply, at, len(tats)) == tats
            at += wire.size(len(tats))
        assert at == len(reply)
        for name, key in keys.items():
            assert link.bucket(key) == rule.bucket(name)
    assert min(taken, refused) > 200


def test_three_hundred_open_takes_come_back_whole_or_less(link: Link) -> None:
    """Beyond 256 dips the latest stands for those after it: less comes back, never more."""
    rate, key = Rate(1, 3600 * 10**9, 10_000), wire.redis_key("acme|hour")
    draws = wire.take_command(wire.draws([Take("acme|hour", rate, 10)]), with_id=True)
    ids = [struct.pack(">QQ", 0, number) for number in range(300)]
    for number, taking in enumerate(ids):
        link.ask([([wire.id_key(key, taking), key], draws)], START_NS + number)
    tat, takings, dips = link.bucket(key)
    assert (takings, len(dips)) == (300, 256)
    for taking in ids:
        link.ask([([wire.id_key(key, taking), key], wire.settle_command([(rate, 10, 0)]))], START_NS + 300)
    left = link.bucket(key)[0] - (START_NS + 300) * TICKS_PER_NANO
    assert 0 <= left <= 44 * 10 * rate.unit_ticks
    assert tat > left


def test_nothing_is_taken_after_the_last_moment_and_ends_still_count(link: Link) -> None:
    """What a server that hung reads late was given up long ago."""
    rate, key = Rate(1, 10**9, 5), wire.redis_key("acme|late")
    taking = b"0" * 16
    take = ([wire.id_key(key, taking), key], wire.take_command(wire.draws([Take("acme|late", rate)]), with_id=True))
    last_us = START_NS // 1000
    assert link.ask([take], START_NS + 1000, last_us)[NOW_SIZE] == wire.LATE
    assert link.bucket(key) == (0, 0, ())
    assert link.ask([take], START_NS, last_us)[NOW_SIZE] == wire.TAKEN
    end = ([wire.id_key(key, taking), key], wire.settle_command([(rate, 1, 0)]))
    link.ask([end], START_NS + 2000, last_us)
    assert link.bucket(key)[0] <= (START_NS + 2000) * TICKS_PER_NANO


def test_a_bucket_expires_when_it_is_full_and_an_id_in_an_hour(link: Link) -> None:
    """Idle tenants cost nothing; with the server's own time."""
    rate, key = Rate(1, 10**9, 60), wire.redis_key("acme|idle")
    final = wire.take_command(wire.draws([Take("acme|idle", rate, 10)]), with_id=False)
    link.ask([([key], final)], None)
    assert 10_000 < link.client.pttl(key) <= 11_000
    taking = wire.id_key(key, b"1" * 16)
    link.ask([([taking, key], wire.take_command(wire.draws([Take("acme|idle", rate)]), with_id=True))], None)
    assert 3_590_000 < link.client.pttl(taking) <= 3_600_000
    assert link.client.pttl(key) > 3_590_000  # while something can be given back to it
    link.ask([([taking, key], wire.settle_command([(rate, 1, None)]))], None)
    assert link.client.pttl(key) <= 12_000
    assert not link.client.exists(taking)


def test_chunks_are_as_many_units_as_there_are_and_never_more(link: Link) -> None:
    chance = random.Random(5)
    for number in range(300):
        rate = Rate(chance.randrange(1, 10**6), chance.choice([10**9, 60 * 10**9, 1001]), chance.randrange(1, 10**9))
        name = f"t|{number}"
        key = wire.redis_key(name)
        before = chance.randrange(rate.burst + 1)
        first = wire.take_command(wire.draws([Take(name, rate, before)]), with_id=False)
        least = chance.randrange(1, 100)
        most = least + chance.randrange(10**9)
        id_key = wire.id_key(key, struct.pack(">QQ", 9, number))
        reply = link.ask([([key], first), ([id_key, key], wire.chunk_command(rate, least, most))], START_NS)
        at = NOW_SIZE + wire.size(1)
        fits = min(most, rate.burst - before)
        if fits < least:
            assert reply[at] == wire.REFUSED
        else:
            assert (reply[at], wire.read_units(reply, at)) == (wire.TAKEN, fits)
            (tat,) = wire.read_tats(reply, at, 1)
            assert tat == START_NS * TICKS_PER_NANO + (before + fits) * rate.unit_ticks
