"""A tenant's statement: what every account of a stretch of time began with, what was booked, and what it ended with.

Rules of this file
1. An entry counts where its window does: one that was booked after the window's end (a stream over midnight, a late
   settling, a refund) counts in the window's last moment. So the statements of months that follow one another have
   every entry once, and that of a whole window has exactly what its account says.
2. Nothing is believed: for each account, what was booked before, in and after the stretch must come to what the
   account says is spent. Where it does not, the statement says so.
3. Entries are read once, in any order, and none is kept: memory grows with windows and groups, up to ``GROUPS_MAX``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import EntryKind
from tenantguard.model.period import UTC_NAME, Period, Step
from tenantguard.model.usage import is_count
from tenantguard.rules.pricing import WITHHELD
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tenantguard.model.ledger import Balance, Entry

GROUPS_MAX: Final = 100_000
BY: Final = ("day", "model", "route")
"""What entries can be grouped by."""

_DAY_NS: Final = 86_400_000_000_000
_INPUT: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input")
_OUTPUT: Final = ("output", "audio_output", "image_output")

LineKey: TypeAlias = "tuple[tuple[str, ...], str, str]"
"""Budget, period and unit: what the windows of one account have in common."""

GroupKey: TypeAlias = "tuple[int | str | None, ...]"
"""For each thing that is grouped by: the first nanosecond of a day, or a name, None where an entry has none."""


def tokens(evidence: Mapping[str, Any]) -> tuple[int, int]:
    """All tokens in and all tokens out that an entry's evidence tells of."""
    usage = evidence.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    counted = [sum(count for name in names if is_count(count := usage.get(name, 0))) for names in (_INPUT, _OUTPUT)]
    return counted[0], counted[1]


def model_of(evidence: Mapping[str, Any]) -> str | None:
    """The model that served, as far as it said so, else the one that was asked for; None for what is no model."""
    for key in ("served_model", "model"):
        name = evidence.get(key)
        if isinstance(name, str) and name and name != WITHHELD:
            return name
    return None


@dataclass(slots=True)
class Sums:
    """What entries come to, in the unit of their account. Refunds and corrections are signed: what they add."""

    entries: int = 0
    charged: int = 0
    refunded: int = 0
    corrected: int = 0
    granted: int = 0
    absorbed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def spent(self) -> int:
        """What they add to what is spent; grants raise the limit instead."""
        return self.charged + self.refunded + self.corrected

    def add(self, entry: Entry) -> None:
        """Count one."""
        self.entries += 1
        self.absorbed += entry.absorbed
        if entry.kind is EntryKind.CHARGE:
            self.charged += entry.amount
            read, written = tokens(entry.evidence)
            self.input_tokens += read
            self.output_tokens += written
        elif entry.kind is EntryKind.REFUND:
            self.refunded += entry.amount
        elif entry.kind is EntryKind.CORRECTION:
            self.corrected += entry.amount
        else:
            self.granted += entry.amount


@dataclass(slots=True)
class Part:
    """One window of an account: spent ``before`` the stretch, booked in it, spent ``after`` it.

    ``balance`` is the account as it stands now; None where several tenants share it, of which this is one's part.
    Where the account ``rolls``, others count beside it.
    """

    starts_ns: int | None
    ends_ns: int | None
    balance: Balance | None = None
    rolls: bool = False
    before: int = 0
    booked: Sums = field(default_factory=Sums)
    after: int = 0

    @property
    def closing(self) -> int:
        """What was spent at the end of the stretch."""
        return self.before + self.booked.spent

    @property
    def difference(self) -> int:
        """What the account says is spent, less what its entries say: 0 unless something is wrong."""
        return 0 if self.balance is None else self.balance.spent - self.closing - self.after

    @property
    def left(self) -> int | None:
        """What the account has left now; None without a limit, or where that is not its own to say."""
        balance = self.balance
        if balance is None or balance.limit is None or self.rolls:
            return None
        return balance.limit + balance.granted + balance.carried - balance.spent - balance.held


@dataclass(slots=True)
class Section:
    """One account with its windows, by their starts, and the sums of its groups."""

    budget: tuple[str, ...]
    period: str
    unit: str
    parts: dict[int | None, Part] = field(default_factory=dict)
    groups: dict[GroupKey, Sums] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """Whether other tenants have a part in it."""
        return all(part.balance is None for part in self.parts.values())

    @property
    def booked(self) -> Sums:
        """What was booked in the stretch, over all windows."""
        total = Sums()
        for sums in self.groups.values():
            for name in Sums.__slots__:
                setattr(total, name, getattr(total, name) + getattr(sums, name))
        return total


class Statement:
    """From ``from_ns`` on to before ``until_ns``, entries grouped ``by`` some of :data:`BY`, by the days of ``zone``.

    Give it the tenant's balances, every entry from :attr:`reads_from_ns` on, and the balances once more: if nothing
    was booked between, :meth:`problems` is empty.
    """

    def __init__(self, from_ns: int, until_ns: int, *, by: tuple[str, ...] = ("day",), zone: str = UTC_NAME) -> None:
        if from_ns >= until_ns:
            raise ConfigurationError("a statement's stretch of time ends after it begins")
        if not set(by) <= set(BY):
            raise ConfigurationError(f"a statement is grouped by some of {', '.join(BY)}")
        self.from_ns, self.until_ns, self.by = from_ns, until_ns, by
        self.sections: dict[LineKey, Section] = {}
        self._day = Period(Step.DAY, zone=zone)
        self._groups = 0

    @property
    def reads_from_ns(self) -> int | None:
        """From when on entries are needed; None: all of them. A day early, for a clock may have been set back."""
        starts = [part.starts_ns for section in self.sections.values() for part in section.parts.values()]
        found = self.from_ns
        for start in starts:
            if start is None:
                return None
            found = min(found, start)
        return max(found - _DAY_NS, 0)

    def look(self, balances: Iterable[Balance]) -> None:
        """Take accounts as they stand: again, and later, replaces what was seen before."""
        for balance in balances:
            if self._overlaps(balance.window_starts_ns, balance.window_ends_ns):
                section = self._section(balance.budget, balance.period, balance.unit)
                starts_ns = balance.window_starts_ns
                part = section.parts.setdefault(starts_ns, Part(starts_ns, balance.window_ends_ns))
                part.balance, part.rolls = balance, bool(Period.parse(balance.period).buckets)

    def add(self, entry: Entry) -> None:
        """Count one entry of the tenant."""
        section = self.sections.get((entry.budget, entry.period, entry.unit))
        part = section.parts.get(entry.window_starts_ns) if section is not None else None
        if section is None or part is None:
            starts_ns = entry.window_starts_ns
            ends_ns = None if starts_ns is None else window(Period.parse(entry.period), starts_ns)[1]
            if not self._overlaps(starts_ns, ends_ns):
                return
            section = self._section(entry.budget, entry.period, entry.unit)
            part = section.parts[starts_ns] = Part(starts_ns, ends_ns)
        at_ns = entry.at_ns
        if part.ends_ns is not None:
            at_ns = min(at_ns, part.ends_ns - 1)
        if part.starts_ns is not None:
            at_ns = max(at_ns, part.starts_ns)
        adds = 0 if entry.kind is EntryKind.GRANT else entry.amount
        if at_ns < self.from_ns:
            part.before += adds
        elif at_ns >= self.until_ns:
            part.after += adds
        else:
            part.booked.add(entry)
            self._group(section, entry, at_ns).add(entry)

    def problems(self) -> list[str]:
        """Every account whose entries do not come to what it says, as a sentence without names of persons."""
        return [
            f"{'/'.join(section.budget)} in {section.unit}: the account says that "
            f"{part.balance.spent} is spent and its entries {part.balance.spent - part.difference}"
            for section in self.sections.values()
            for part in section.parts.values()
            if part.balance is not None and part.difference
        ]

    def _overlaps(self, starts_ns: int | None, ends_ns: int | None) -> bool:
        return (starts_ns is None or starts_ns < self.until_ns) and (ends_ns is None or ends_ns > self.from_ns)

    def _section(self, budget: tuple[str, ...], period: str, unit: str) -> Section:
        return self.sections.setdefault((budget, period, unit), Section(budget, period, unit))

    def _group(self, section: Section, entry: Entry, at_ns: int) -> Sums:
        key: list[int | str | None] = []
        for what in self.by:
            if what == "day":
                key.append(window(self._day, at_ns)[0])
            elif what == "model":
                key.append(model_of(entry.evidence))
            else:
                route = entry.evidence.get("route")
                key.append(route if isinstance(route, str) else None)
        found = section.groups.get(tuple(key))
        if found is None:
            self._groups += 1
            if self._groups > GROUPS_MAX:
                raise ConfigurationError(
                    f"the statement has more than {GROUPS_MAX} groups: group by less, or choose a shorter time"
                )
            found = section.groups[tuple(key)] = Sums()
        return found
