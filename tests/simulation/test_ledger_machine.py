"""Processes share a ledger file, crash at any moment, are silent for a while and come back; money is conserved.

Two processes apply batches to one SQLite file. A crash is a connection that fails at COMMIT, before or after the
commit happened; a lost process comes back as a new one. After every step the file must be clean and say what an
independent model says, which keeps a list of holds and adds up sums where the ledger keeps running ones.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.adapters.ledger.sqlite import LEASE_S, SQLiteBackend, SQLiteLedger
from tenantguard.adapters.ledger.writer import BEAT_S
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import LayerError, PortError
from tenantguard.flow.ports import (
    Barred,
    Exhausted,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    PlaceHold,
    Resolved,
    ResolveHold,
    System,
)
from tenantguard.model.sections import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 100
ACME = TenantId("acme")
SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_750_000_000 * SECOND

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


class ShakyConnection:
    """Fails at COMMIT as told: ``before`` it happened, or ``after``."""

    def __init__(self, db: sqlite3.Connection, file: ShakyFile) -> None:
        self._db = db
        self._file = file

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        fails, self._file.fails = (self._file.fails, "") if statement == "COMMIT" else ("", self._file.fails)
        if fails == "before":
            raise sqlite3.OperationalError("crashed before the commit")
        cursor = self._db.execute(statement, *values)
        if fails == "after":
            raise sqlite3.OperationalError("crashed after the commit")
        return cursor

    def close(self) -> None:
        self._db.close()


class ShakyFile(LedgerFile):
    fails = ""

    def connect(self) -> Any:
        return ShakyConnection(super().connect(), self)


@dataclass
class Kept:
    """A hold as the model knows it."""

    legs: list[tuple[Any, int]]
    on_orphan: OnOrphan
    owner: int
    state: HoldState = HoldState.PENDING
    charged: tuple[int, ...] = ()


@dataclass
class Model:
    """What must be true, computed the slow and obvious way."""

    holds: dict[bytes, Kept] = field(default_factory=dict)
    limits: dict[Any, int] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    leases: dict[int, int] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)

    def spent(self, account: Any) -> int:
        return sum(
            amount
            for kept in self.holds.values()
            for (other, _), amount in zip(kept.legs, kept.charged or (0,) * len(kept.legs), strict=True)
            if other == account
        )

    def held(self, account: Any) -> int:
        return sum(
            amount
            for kept in self.holds.values()
            if kept.state in {HoldState.PENDING, HoldState.REVIEW}
            for other, amount in kept.legs
            if other == account
        )

    def left(self, account: Any, limit: int) -> int:
        return max(limit - self.spent(account) - self.held(account), 0)

    def beat(self, owner: int, now: int) -> None:
        if now < self.due.get(owner, 0):
            return
        self.leases[owner] = now + int(LEASE_S * SECOND)
        self.due[owner] = now + int(BEAT_S * SECOND)
        for kept in self.holds.values():
            if kept.state is HoldState.PENDING and self.leases.get(kept.owner, -1) < now:
                if kept.on_orphan is OnOrphan.VOID:
                    kept.state = HoldState.EXPIRED
                elif kept.on_orphan is OnOrphan.REVIEW:
                    kept.state = HoldState.REVIEW
                else:
                    kept.state, kept.charged = HoldState.SETTLED, tuple(amount for _, amount in kept.legs)
        self.leases = {owner: until for owner, until in self.leases.items() if until >= now}

    def decide(self, command: PlaceHold | ResolveHold, owner: int, now: int) -> Any:
        kept = self.holds.get(command.id)
        if isinstance(command, ResolveHold):
            if kept is None:
                self.holds[command.id] = Kept([], OnOrphan.VOID, -1, HoldState.VOIDED)
                return Resolved(HoldState.VOIDED, ())
            if not self.resolve(kept, command):
                return LayerError
            return Resolved(kept.state, kept.charged or (0,) * len(kept.legs))
        if kept is not None:
            return Barred() if kept.owner == -1 else Held(tuple(amount for _, amount in kept.legs))
        legs: list[tuple[Any, int]] = []
        for index, leg in enumerate(command.legs):
            assert leg.limit is not None
            start, end = window(leg.period, now)
            account = (leg.budget, start)
            left = max(self.left(account, leg.limit) - sum(amount for other, amount in legs if other == account), 0)
            if left < leg.least:
                return Exhausted(index, leg.least, left, self.spent(account), self.held(account), end)
            legs.append((account, min(leg.most, left)))
        for (account, _), leg in zip(legs, command.legs, strict=True):
            assert leg.limit is not None
            self.limits[account] = leg.limit
        self.holds[command.id] = Kept(legs, command.on_orphan, owner)
        return Held(tuple(amount for _, amount in legs))

    def resolve(self, kept: Kept, command: ResolveHold) -> bool:
        """False where the amounts are not for the legs of this hold."""
        if kept.state in {HoldState.SETTLED, HoldState.VOIDED}:
            return True
        if command.amounts is not None and len(command.amounts) != len(kept.legs):
            return False
        if command.amounts is None or command.external_id in self.outside:
            kept.state = HoldState.VOIDED
            return True
        late, kept.state = kept.state is HoldState.EXPIRED, HoldState.SETTLED
        for (account, held), asked in zip(kept.legs, command.amounts, strict=True):
            fits = min(asked, held)
            if late:
                fits = min(fits, self.left(account, self.limits[account]))
            kept.charged += (fits,)
        if any(command.amounts) and command.external_id is not None:
            self.outside.add(command.external_id)
        return True


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.path = Path(self.folder, "ledger.db")
        self.clock = Clock()
        self.system = System(self.clock, TimeOrderedIds())
        self.model = Model()
        self.owners = 0
        self.processes = [self.new_process(), self.new_process()]

    def new_process(self) -> tuple[SQLiteBackend, ShakyFile, int]:
        file = ShakyFile(self.path, 5.0)
        self.owners += 1
        return SQLiteBackend(file, self.system), file, self.owners

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for backend, _, _ in self.processes:
                backend.close()
            shutil.rmtree(self.folder)

    def expect(self, process: int, commands: Sequence[PlaceHold | ResolveHold]) -> list[Any]:
        owner = self.processes[process][2]
        self.model.beat(owner, self.clock.now_ns)
        return [self.model.decide(command, owner, self.clock.now_ns) for command in commands]

    commands = st.lists(
        st.one_of(
            st.builds(
                lambda number, least, more, budgets, limit, on_orphan: PlaceHold(
                    bytes([number]) * 16,
                    ACME,
                    tuple(Leg((budget,), period, "USD", limit, least + more, least) for budget, period in budgets),
                    on_orphan,
                ),
                st.integers(0, 9),
                st.integers(0, 60),
                st.integers(0, 60),
                st.lists(
                    st.sampled_from([("a", Period.LIFETIME), ("b", Period.LIFETIME), ("b", Period.MINUTE)]),
                    min_size=1,
                    max_size=3,
                ),
                st.sampled_from([LIMIT, LIMIT, 60]),
                st.sampled_from(OnOrphan),
            ),
            st.builds(
                lambda number, amounts, external_id: ResolveHold(
                    bytes([number]) * 16, amounts, "why", {}, "provider", external_id
                ),
                st.integers(0, 9),
                st.one_of(st.none(), st.tuples(*[st.integers(0, 70)] * 3)),
                st.one_of(st.none(), st.sampled_from(["resp-1", "resp-2"])),
            ),
        ),
        max_size=6,
    )

    def fitted(self, commands: Sequence[PlaceHold | ResolveHold]) -> list[PlaceHold | ResolveHold]:
        """``commands`` with as many amounts as the hold has legs, mostly: callers know."""
        sizes = {hold_id: len(kept.legs) for hold_id, kept in self.model.holds.items()}
        fitted: list[PlaceHold | ResolveHold] = []
        for command in commands:
            if isinstance(command, PlaceHold):
                sizes.setdefault(command.id, len(command.legs))
                fitted.append(command)
            elif command.amounts is None:
                fitted.append(command)
            else:
                amounts = command.amounts[: sizes.get(command.id, 1)]
                fitted.append(
                    ResolveHold(command.id, amounts, command.reason, {}, command.source, command.external_id)
                )
        return fitted

    @rule(process=st.integers(0, 1), commands=commands)
    def apply(self, process: int, commands: Sequence[PlaceHold | ResolveHold]) -> None:
        commands = self.fitted(commands)
        self.compare(process, commands)

    def compare(self, process: int, commands: Sequence[PlaceHold | ResolveHold]) -> None:
        answers = self.processes[process][0].apply(commands)
        for command, answer, expected in zip(commands, answers, self.expect(process, commands), strict=True):
            assert answer == expected or (isinstance(answer, LayerError) and expected is LayerError), command

    @rule(process=st.integers(0, 1), commands=commands, lost=st.booleans())
    def crash_before_the_commit(
        self, process: int, commands: Sequence[PlaceHold | ResolveHold], *, lost: bool
    ) -> None:
        """Nothing happened; the caller asks again, perhaps in a new process."""
        self.crash(process, "before", self.fitted(commands), lost=lost)

    @rule(process=st.integers(0, 1), commands=commands, lost=st.booleans())
    def crash_after_the_commit(
        self, process: int, commands: Sequence[PlaceHold | ResolveHold], *, lost: bool
    ) -> None:
        """All of it happened, and nobody heard; asking again must answer the same."""
        self.crash(process, "after", self.fitted(commands), lost=lost)

    def crash(self, process: int, when: str, commands: Sequence[PlaceHold | ResolveHold], *, lost: bool) -> None:
        backend, file, owner = self.processes[process]
        file.fails = when
        if not commands and self.clock.now_ns < self.model.due.get(owner, 0):
            assert backend.apply(commands) == []
            file.fails = ""
            return
        with pytest.raises(PortError, match=f"crashed {when}"):
            backend.apply(commands)
        if when == "after":
            self.expect(process, commands)
        self.model.due[owner] = 0
        if lost:
            self.processes[process] = self.new_process()
        self.compare(process, commands)

    @rule(process=st.integers(0, 1))
    def lose(self, process: int) -> None:
        """A process dies silently, with what it holds."""
        backend, _, _ = self.processes[process]
        backend.forget()
        for db in backend._inherited:
            db.close()
        self.processes[process] = self.new_process()

    @rule(process=st.integers(0, 1))
    def close(self, process: int) -> None:
        """A process ends in order; its pending holds stay its own until the lease lapses."""
        backend, _, owner = self.processes[process]
        pending = any(kept.owner == owner and kept.state is HoldState.PENDING for kept in self.model.holds.values())
        backend.close()
        self.model.due[owner] = 0
        if not pending:
            self.model.leases.pop(owner, None)

    @rule(process=st.integers(0, 1))
    def beat(self, process: int) -> None:
        self.apply(process, ())

    @rule(seconds=st.sampled_from([1, 6, 19, 21, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.now_ns += seconds * SECOND

    @invariant()
    def money_is_conserved(self) -> None:
        if not hasattr(self, "path") or not self.path.exists():
            return
        ledger = SQLiteLedger(self.path, self.system)
        assert ledger.audit() == []
        seen = set()
        for balance in ledger.balances():
            account = (balance.budget, balance.window_starts_ns)
            seen.add(account)
            assert (balance.spent, balance.held) == (self.model.spent(account), self.model.held(account))
            assert balance.limit == self.model.limits[account]
            assert balance.spent + balance.held <= LIMIT
        assert seen == set(self.model.limits)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
