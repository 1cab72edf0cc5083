"""Processes share a ledger file, crash at any moment, are silent for a while and come back; money is conserved.

Two processes apply batches to one SQLite file. A crash is a connection that fails at COMMIT, before or after the
commit happened; a lost process comes back as a new one. After every step the file must be clean and say what the pure
rule says that was given the same commands, and whose processes have the same leases.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenantguard.adapters.ledger.backend import LEASE_S, decide
from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.ledger.sqlite_backend import SQLiteBackend
from tenantguard.adapters.ledger.writer import BEAT_S
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import LayerError, PortError
from tenantguard.flow.ports import Correct, Grant, PlaceHold, Refund, ResolveHold, System
from tenantguard.model.ledger import PLAIN, CarryOver, Claim, Counted, HoldState, Leg, OnOrphan, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import Books, read_alert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.ports import LedgerCommand

LIMIT = 100
ACME = TenantId("acme")
SECOND = 10**9
START = 1_750_000_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.now_ns = START

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
class Model:
    """The pure rule in memory, with the leases of processes. ``test_books_machine.py`` is about the rule itself."""

    books: Books = field(default_factory=Books)
    owners: dict[bytes, int] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)

    def pending(self, owner: int | None = None) -> list[bytes]:
        return [
            hold.id
            for hold in self.books.holds.values()
            if hold.state is HoldState.PENDING and owner in {None, self.owners[hold.id]}
        ]

    def beat(self, owner: int, now: int) -> None:
        if now < self.due.get(owner, 0):
            return
        self.leases[owner] = now + int(LEASE_S * SECOND)
        self.due[owner] = now + int(BEAT_S * SECOND)
        for hold in self.pending():
            if self.leases.get(self.owners[hold], -1) < now:
                self.books.lose(hold, now)
        self.leases = {owner: until for owner, until in self.leases.items() if until >= now}

    def decide(self, command: LedgerCommand, owner: int, now: int) -> Any:
        answer = decide(self.books, command, now)
        if isinstance(command, PlaceHold) and command.id in self.books.holds:
            self.owners.setdefault(command.id, owner)
        return answer


LINES = {
    "a": (Period.LIFETIME, PLAIN),
    "b": (Period.MINUTE, PLAIN),
    "c": (Period.MINUTE, Terms(carry=CarryOver.UNUSED, cap=150, thresholds=(Threshold(50),))),
    "d": (Period.MINUTE, Terms(strict=False, carry=CarryOver.DEBT, thresholds=(Threshold(100),))),
    "e": (Period.parse("rolling 2 minutes / 4 buckets"), Terms(thresholds=(Threshold(80, Counted.COMMITTED),))),
}
some = st.integers(0, 60)
holds = st.integers(0, 9).map(lambda number: bytes([number]) * 16)
ops = st.integers(100, 110).map(lambda number: bytes([number]) * 16)
legs = st.builds(
    lambda line, limit, least, more: Leg(
        (line,), LINES[line][0], "USD", limit, least + more, least, LINES[line][1]
    ),
    st.sampled_from(sorted(LINES)), st.sampled_from([LIMIT, LIMIT, 60]), st.sampled_from([0, 0, 30, 60]), some,
)  # fmt: skip
places = st.builds(
    PlaceHold, holds, st.just(ACME), st.lists(legs, min_size=1, max_size=3).map(tuple), st.sampled_from(OnOrphan),
    st.one_of(st.none(), st.builds(Claim, st.just("key"), st.sampled_from([b"one", b"other"]))),
)  # fmt: skip
resolves = st.builds(
    ResolveHold, holds, st.one_of(st.none(), st.tuples(*[st.integers(0, 70)] * 3)), st.just("why"), st.just({}),
    st.just("provider"), st.one_of(st.none(), st.none(), st.sampled_from(["resp-1", "resp-2"])),
    st.sampled_from([False, False, False, True]), st.one_of(st.none(), st.just(("key", b"sealed"))),
)  # fmt: skip
bookings = st.one_of(
    st.builds(Refund, ops, holds, st.one_of(st.none(), st.tuples(*[st.integers(0, 30)] * 3)), st.just("why")),
    st.builds(
        lambda op, leg, expires: Grant(op, ACME, leg, expires, "why"),
        ops, legs, st.sampled_from([None, None, START + 30 * SECOND, START + 300 * SECOND]),
    ),
    st.builds(lambda op, leg, amount: Correct(op, ACME, leg, amount, "why"), ops, legs, st.integers(-60, 60)),
)  # fmt: skip


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

    def expect(self, process: int, commands: Sequence[LedgerCommand]) -> list[Any]:
        owner = self.processes[process][2]
        self.model.beat(owner, self.clock.now_ns)
        return [self.model.decide(command, owner, self.clock.now_ns) for command in commands]

    commands = st.lists(st.one_of(places, places, resolves, resolves, bookings), max_size=6)

    def fitted(self, commands: Sequence[LedgerCommand]) -> list[LedgerCommand]:
        """``commands`` with as many amounts as the hold has legs: callers know."""
        sizes = {hold.id: len(hold.legs) for hold in self.model.books.holds.values()}
        fitted: list[LedgerCommand] = []
        for command in commands:
            if isinstance(command, PlaceHold):
                sizes.setdefault(command.id, len(command.legs))
            elif isinstance(command, ResolveHold) and command.amounts is not None:
                command = replace(command, amounts=command.amounts[: sizes.get(command.id, 1)])  # noqa: PLW2901
            elif isinstance(command, Refund) and command.amounts is not None:
                command = replace(command, amounts=command.amounts[: sizes.get(command.hold, 1)])  # noqa: PLW2901
            fitted.append(command)
        return fitted

    @rule(process=st.integers(0, 1), commands=commands)
    def apply(self, process: int, commands: Sequence[LedgerCommand]) -> None:
        commands = self.fitted(commands)
        self.compare(process, commands)

    def compare(self, process: int, commands: Sequence[LedgerCommand]) -> None:
        answers = self.processes[process][0].apply(commands)
        for command, answer, expected in zip(commands, answers, self.expect(process, commands), strict=True):
            assert answer == expected or (isinstance(answer, LayerError) and isinstance(expected, LayerError)), (
                command
            )

    @rule(process=st.integers(0, 1), commands=commands, lost=st.booleans())
    def crash_before_the_commit(self, process: int, commands: Sequence[LedgerCommand], *, lost: bool) -> None:
        """Nothing happened; the caller asks again, perhaps in a new process."""
        self.crash(process, "before", self.fitted(commands), lost=lost)

    @rule(process=st.integers(0, 1), commands=commands, lost=st.booleans())
    def crash_after_the_commit(self, process: int, commands: Sequence[LedgerCommand], *, lost: bool) -> None:
        """All of it happened, and nobody heard; asking again must answer the same."""
        self.crash(process, "after", self.fitted(commands), lost=lost)

    def crash(self, process: int, when: str, commands: Sequence[LedgerCommand], *, lost: bool) -> None:
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
        pending = self.model.pending(owner)
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
        ledger, books = SQLiteLedger(self.path, self.system), self.model.books
        assert ledger.audit() == []
        balances = {(each.budget, each.period, each.window_starts_ns): each for each in ledger.balances()}
        assert set(balances) == {(budget, str(period), starts) for budget, period, _, starts in books.accounts}
        for (budget, period, _, starts), account in books.accounts.items():
            balance = balances[budget, str(period), starts]
            assert (balance.spent, balance.held) == (account.spent, account.held)
            assert (balance.limit, balance.carried) == (account.limit, account.carried)
            ends_ns = account.window_ends_ns
            at_ns = self.clock.now_ns if ends_ns is None else min(self.clock.now_ns, ends_ns - 1)
            assert balance.granted == account.granted(at_ns)
        entries = [(each.op, each.leg, each.kind, each.amount, each.absorbed) for each in ledger.entries(limit=1000)]
        lines = [(line.op, line.leg, line.kind, line.amount, line.absorbed) for line in books.lines]
        assert sorted(entries) == sorted(lines)
        told = [read_alert(notice.payload) for notice in ledger.notices()]
        assert sorted(told, key=repr) == sorted(books.alerts, key=repr)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
