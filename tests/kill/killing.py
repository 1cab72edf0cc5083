"""Load servers that share a ledger, kill at random moments, and compare what clients were told with what is booked.

A round: callers load one or two servers; at a random moment what is to be killed is killed; the callers hear the last
answers of what lives; leases lapse, since the clock is moved on, and new servers take the place of the dead. Then
nothing is on its way, and everything must be right. What no client heard the end of is asked again under its key.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tenantguard.flow.ports import HoldState, OnOrphan, ResolveHold
from tests.kill.load import Load
from tests.kill.world import FITS, KINDS, PRICE, SMALL_LIMIT, SharedClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.conftest import Postgres

ROOT: Final = Path(__file__).parents[2]
FATES: Final = {kind.tenant: kind.on_orphan for kind in KINDS}
DECIDED: Final = "decided by an operator"
ENDS: Final[dict[OnOrphan, list[set[str]]]] = {
    OnOrphan.VOID: [set()],
    OnOrphan.CHARGE_HOLD: [{"orphaned"}],
    OnOrphan.REVIEW: [set(), {DECIDED}],
}
"""The reasons of the entries that a hold may have whose process was lost."""

LEASE_STEP_S: Final = 8.0
"""Shorter than a lease less a beat; three of them are longer than a lease, 20 s."""

BACK_S: Final = 60.0
SERVED: Final = 5
"""Before so many were served, nothing is killed."""

PAGE: Final = 1_000_000


@dataclass
class Figures:
    """What was seen. ``lost`` and ``doubled`` are to be 0, ``broken`` empty."""

    kills: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    retried: int = 0
    orphans: Counter[OnOrphan] = field(default_factory=Counter)
    charges: int = 0
    lost: int = 0
    doubled: int = 0
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing doubled, nothing broken."""
        return not (self.lost or self.doubled or self.broken)

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        orphans = ", ".join(f"{number} {fate}" for fate, number in sorted(self.orphans.items()))
        return [
            ("kills", f"{self.kills}"),
            ("requests", ", ".join(f"{number} {what}" for what, number in sorted(self.answers.items()))),
            ("acknowledged charges", f"{self.acknowledged}"),
            ("charged in all", f"{self.charges}"),
            ("keys that were asked again", f"{self.retried}"),
            ("orphan holds, ended as they said", orphans or "0"),
            ("acknowledged and lost", f"{self.lost}"),
            ("charged twice", f"{self.doubled}"),
            ("broken invariants", f"{len(self.broken)}"),
            ("seconds", f"{self.seconds:.0f}"),
        ]


class Site:
    """Servers of one ledger, made and killed by a process of their own."""

    def __init__(self, folder: Path, where: str) -> None:
        self._folder = folder
        self._where = where
        self.living: dict[int, int] = {}  # number of the process: port

    async def __aenter__(self) -> Self:
        with (self._folder / "errors").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.kill.site", str(self._folder), self._where),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        await self._process.wait()

    async def serve(self) -> None:
        """One more server."""
        port, number = await self._say("serve")
        self.living[int(number)] = int(port)

    async def kill(self, number: int) -> None:
        """End one with SIGKILL, and wait until it is dead."""
        del self.living[number]
        await self._say(f"kill {number}")

    async def _say(self, line: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        answer = await self._process.stdout.readline()
        if not answer:
            raise RuntimeError((self._folder / "errors").read_text()[-4000:])
        return answer.decode().split()


class Killing:
    """One run over one ledger, at ``where``; of ``postgres`` where the database is killed as well."""

    def __init__(self, folder: Path, where: str, seed: int, postgres: Postgres | None = None) -> None:
        self._folder = folder
        self._where = where
        self._postgres = postgres
        self._random = random.Random(seed)
        self._load = Load(self._random)
        self._clock = SharedClock(folder / "clock")
        self._ledger = open_ledger(where, self._clock)
        self._ledger.open()
        self._site = Site(folder, where)
        self._charged: dict[str, str] = {}  # exchange: hold
        self._orphaned: set[str] = set()  # holds that were charged because their process was lost
        self._last_seq = 0
        self.figures = Figures()

    async def servers(self, kills: int, told: Callable[[int], None] = lambda _: None) -> Figures:
        """Kill ``kills`` servers: sometimes all that live, sometimes one of two."""
        async with self._site:
            while self.figures.kills < kills:
                while len(self._site.living) < 1 + self.figures.kills % 2:
                    await self._site.serve()
                await self._loaded()
                numbers = list(self._site.living)
                victims = numbers if self._random.random() < 0.5 else [self._random.choice(numbers)]
                for victim in victims:
                    await self._site.kill(victim)
                self.figures.kills += len(victims)
                await self._round_ends()
                told(self.figures.kills)
            return await self._finish()

    async def databases(self, kills: int, told: Callable[[int], None] = lambda _: None) -> Figures:
        """Kill the database ``kills`` times under two servers, which live on."""
        assert self._postgres is not None
        async with self._site:
            await self._site.serve()
            await self._site.serve()
            while self.figures.kills < kills:
                await self._loaded()
                crash = partial(kill_all, self._postgres) if self.figures.kills % 2 else self._postgres.crash
                await asyncio.to_thread(crash)  # requests go on coming meanwhile
                self.figures.kills += 1
                await asyncio.to_thread(self._postgres.start)
                await self._load.pause()
                await self._ask_again()
                await self._rest()
                told(self.figures.kills)
            return await self._finish()

    async def _loaded(self) -> None:
        """Some load, for some time."""
        self._began = time.perf_counter()
        self._load.addresses[:] = self._site.living.values()
        self._load.go()
        if not await _became(lambda: len(self._load.fresh) >= SERVED):
            raise RuntimeError(f"nothing is served: {(self._folder / 'errors').read_text()[-4000:]}")
        await asyncio.sleep(self._random.random() * 0.25)

    async def _round_ends(self) -> None:
        self._load.addresses[:] = self._site.living.values()
        await self._load.pause()
        orphans = {hold.id.hex(): hold for hold in self._ledger.holds()}
        for _ in range(3):
            self._clock.advance(LEASE_STEP_S)
            for port in self._site.living.values():  # whoever lives lets its heart beat, and sees who does not
                await self._load.ask(port, self._load.key(KINDS[0]))
        if not self._site.living:
            await self._site.serve()
            self._load.addresses[:] = self._site.living.values()
            await self._load.ask(self._load.addresses[0], self._load.key(KINDS[0]))
        entries = await self._rest()
        self._check_orphans(orphans, entries)

    async def _ask_again(self) -> None:
        """Until nothing is unresolved."""
        end = time.perf_counter() + BACK_S
        while self._load.unresolved and time.perf_counter() < end:
            self._load.go(new=False)
            await self._load.rest()

    async def _rest(self) -> list[Any]:
        """Nothing is on its way: everything must be right. The entries of this round."""
        await _became(lambda: all(hold.state is not HoldState.PENDING for hold in self._ledger.holds()))
        self._resolve_reviews()
        broken, figures = self.figures.broken, self.figures
        broken += self._ledger.audit()
        for balance in self._ledger.balances():
            if balance.held:
                broken.append(f"{balance.held} {balance.unit} of {balance.budget} are held at rest")
            if balance.limit is not None and balance.spent > balance.limit:
                broken.append(f"{balance.spent} {balance.unit} of {balance.budget} are spent of {balance.limit}")
        entries = self._ledger.entries(limit=PAGE, after_seq=self._last_seq)
        for entry in entries:
            self._last_seq = max(self._last_seq, entry.seq)
            exchange = entry.evidence.get("exchange")
            if exchange is None:
                self._orphaned.add(entry.op.hex())
            else:
                figures.doubled += self._charged.setdefault(exchange, entry.op.hex()) != entry.op.hex()
        for key in self._load.fresh:
            if key.acknowledged not in self._charged:
                figures.lost += 1
                broken.append(f"{key} was acknowledged and is not charged")
        figures.acknowledged += len(self._load.fresh)
        self._load.fresh.clear()
        figures.seconds += time.perf_counter() - self._began
        return list(entries)

    def _resolve_reviews(self) -> None:
        """An operator decides what waits for one: by turns it is charged and voided."""
        for hold in self._ledger.holds():
            if hold.state is not HoldState.REVIEW:
                continue
            amounts = tuple(leg.held for leg in hold.legs) if self._random.random() < 0.5 else None
            promise = self._ledger.submit(ResolveHold(hold.id, amounts, DECIDED))
            assert promise.wait(BACK_S)
            promise.result()
            key = self._load.reviews.pop(hold.id.hex(), None)
            if key is not None:
                self._load.unresolved.append(key)
        self._load.unresolved.extend(self._load.reviews.values())
        self._load.reviews.clear()

    def _check_orphans(self, orphans: dict[str, Any], entries: Iterable[Any]) -> None:
        """What dead processes held must have ended as its route says."""
        figures = self.figures
        ends: dict[str, set[str]] = {}
        for entry in entries:
            ends.setdefault(entry.op.hex(), set()).add(entry.reason)
        for number, hold in orphans.items():
            fate = FATES[str(hold.tenant)]
            reasons = ends.get(number, set())
            figures.orphans[fate] += 1
            if reasons not in ENDS[fate]:
                figures.broken.append(f"the orphan {number} was to be {fate} and ended as {reasons or 'nothing'}")

    async def _finish(self) -> Figures:
        """Resolve what is unresolved, use up the small budget, and compare every key with the books."""
        figures, load = self.figures, self._load
        self._began = time.perf_counter()
        if not self._site.living:
            await self._site.serve()
        load.addresses[:] = self._site.living.values()
        await self._ask_again()
        await self._rest()
        await self._ask_again()  # what an operator voided
        for _ in range(FITS + 1):
            last = load.key(KINDS[-1])
            await load.ask(load.addresses[0], last)
            if last.refused:
                break
        await self._rest()
        self._compare()
        figures.retried = sum(key.tries > 1 for key in load.keys)
        figures.answers = load.answers
        self._ledger.close()
        return figures

    def _compare(self) -> None:
        """Of every key exactly one try is charged, or none where it was refused; nothing else is in the books."""
        figures = self.figures
        served: dict[str, str] = {}
        for line in (self._folder / "runs").read_text().splitlines():
            exchange, of = line.split()
            served[exchange] = of
        holds: dict[str, set[str]] = {}
        for exchange, hold in self._charged.items():
            holds.setdefault(served.get(exchange, "nobody"), set()).add(hold)
        unexplained = set(self._orphaned)
        spent: Counter[str] = Counter()
        for key in self._load.keys:
            own = holds.pop(key.key, set())
            if key.charged:
                own.add(key.charged)
            unexplained -= own
            figures.doubled += len(own) > 1
            if len(own) != (not key.refused):
                figures.broken.append(f"{key} has {len(own)} charges")
            spent[key.kind.tenant] += key.kind.cost * len(own)
        figures.charges = len(set(self._charged.values()) | self._orphaned)
        figures.broken += [f"the charge {hold} is of no key" for hold in unexplained]
        figures.broken += [f"the charges {found} are of no key" for found in holds.values()]
        for balance in self._ledger.balances():
            if balance.unit == "USD" and balance.spent != spent[str(balance.tenant)]:
                figures.broken.append(f"{balance.tenant} has spent {balance.spent} for {spent[str(balance.tenant)]}")
        if spent["small"] != FITS * PRICE or spent["small"] > SMALL_LIMIT:
            figures.broken.append(f"the small budget carried {spent['small'] / PRICE} requests of {FITS}")


async def _became(true: Callable[[], bool]) -> bool:
    """Look until it is so; False if it is not in ``BACK_S``."""
    end = time.perf_counter() + BACK_S
    while time.perf_counter() < end:
        if true():
            return True
        await asyncio.sleep(0.01)
    return False


def kill_all(postgres: Postgres) -> None:
    """SIGKILL for every process of a server; the first is stopped before, so that it makes no others."""
    first = postgres.pid
    os.kill(first, signal.SIGSTOP)
    processes = [first, *children_of(first)]
    for number in processes:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    while any(Path(f"/proc/{number}").exists() for number in processes):
        time.sleep(0.002)


def children_of(parent: int) -> list[int]:
    """The numbers of its child processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found
