"""Secrets as a finder of the cascade: vendors' formats, private keys, known values, and keys of pure chance."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.adapters.pii.finder import Expression
from tenantguard.model.pii import Match
from tenantguard.rules.secrets import entropy as chance
from tenantguard.rules.secrets import pem
from tenantguard.rules.secrets.catalog import FORMATS
from tenantguard.rules.secrets.checks import varied
from tenantguard.rules.secrets.format import BEGUN_CHARS_MIN
from tenantguard.rules.secrets.known import KnownSecrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tenantguard.adapters.pii.finder import Budget, Span
    from tenantguard.rules.secrets.format import SecretFormat

_WIDTH_MAX: Final = 400
"""Characters that a match whose mark stands inside may go on after the mark."""

_INSIDE: Final = re.compile(r"[A-Za-z0-9_-]\Z")
_ESCAPED: Final = re.compile(r"(?:\\[nrt]|%[0-9A-Fa-f]{2})\Z")

_KNOWN, _SPECIFIC, _GENERIC, _CHANCE = range(4)
_SCORES: Final = (1.0, 1.0, 0.9, 0.8)


class _HiddenExpression(Expression):
    """The beginning of a known value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Expression(hidden)"


class _Found(NamedTuple):
    start: int
    end: int
    kind: int
    entity: str


class _FormatSearch:
    """One format, compiled."""

    __slots__ = ("_before", "_begun", "_check", "_entity", "_kind", "_pattern", "_trigger", "_whole")

    def __init__(self, secret: SecretFormat) -> None:
        end = f"(?![{secret.alphabet}])" if secret.alphabet else ""
        self._pattern = re.compile(f"(?:{secret.expression}){end}", secret.flags)
        self._begun = re.compile(rf"(?:{secret.begun})\Z", secret.flags) if secret.begun else None
        self._trigger = re.compile(secret.trigger, secret.flags)
        self._whole = bool(secret.alphabet)
        self._before = secret.before
        self._check = secret.check
        self._entity = secret.entity
        self._kind = _GENERIC if secret.generic else _SPECIFIC

    def search(self, text: str, window: Span) -> Iterator[_Found]:
        for trigger in self._trigger.finditer(text, *window):
            found = self._match(text, trigger.start())
            if found is None:
                continue
            start, end = found.span(found.lastindex or 0)
            value = text[start:end].rstrip("\\")
            if (self._kind == _GENERIC or varied(value)) and (self._check is None or self._check(value)):
                yield _Found(start, start + len(value), self._kind, self._entity)

    def _match(self, text: str, mark: int) -> re.Match[str] | None:
        """The match whose mark stands there."""
        if not self._before:
            if self._whole and not _begins(text, mark):
                return None
            found = self._pattern.match(text, mark)
            if found is None and self._begun is not None and len(text) - mark >= BEGUN_CHARS_MIN:
                return self._begun.match(text, mark)
            return found
        start = max(mark - self._before, 0)
        while (found := self._pattern.search(text, start, mark + _WIDTH_MAX)) is not None and found.start() <= mark:
            if not self._whole or _begins(text, found.start()):
                return found
            start = found.start() + 1
        return None


def _begins(text: str, start: int) -> bool:
    """Whether a secret may begin there: not inside a name, save behind an escaped line end or percent-encoding."""
    before = text[max(start - 3, 0) : start]
    return _INSIDE.search(before) is None or _ESCAPED.search(before) is not None


class SecretSearch:
    """Finds secrets (implements ``Finder``): a :class:`Match` for each says of what kind, never what it is.

    ``known`` are names and exact values, found as ``KNOWN_<NAME>``; what cannot be one raises
    :class:`ConfigurationError`. ``entropy`` also finds keys that have no form but chance, as ``RANDOM_KEY``. Secrets
    that overlap become one match, under the most specific name: a known one, then a vendor's, then a general one.
    """

    name = "secrets"
    late = False

    def __init__(self, *, entropy: bool = True, known: tuple[tuple[str, str], ...] = ()) -> None:
        self._known = KnownSecrets(known)
        self._formats = tuple(map(_FormatSearch, FORMATS))
        self.expressions: tuple[Expression, ...] = (
            *(Expression(secret.trigger, secret.flags) for secret in FORMATS),
            Expression(pem.TRIGGER),
            *(_HiddenExpression(re.escape(value[:BEGUN_CHARS_MIN])) for value in self._known.values),
            *([Expression(chance.TRIGGER)] if entropy else []),
        )
        self.entities = frozenset({secret.entity for secret in FORMATS} | {pem.PRIVATE_KEY} | self._known.entities)
        if entropy:
            self.entities |= {chance.ENTITY}
        self.reach = self._known.reach

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """Every secret that begins in a window or holds one, by start, not overlapping. Linear; takes no budget."""
        del claimed, budget
        found = {one for index, spans in windows.items() for span in spans for one in self._look(index, text, span)}
        return [Match(one.entity, one.start, one.end, _SCORES[one.kind]) for one in _united(found)]

    def _look(self, index: int, text: str, window: Span) -> Iterator[_Found]:
        if index < len(self._formats):
            yield from self._formats[index].search(text, window)
            return
        index -= len(self._formats)
        if index == 0:
            yield from _private_keys(text, window)
        elif index <= len(self._known):
            longest = len(self._known.values[index - 1])
            for entity, start, end in self._known.find(index - 1, text, window[0], window[1] + longest):
                yield _Found(start, end, _KNOWN, entity)
        else:
            yield from _random_keys(text, window)

    def __repr__(self) -> str:
        return f"SecretSearch({len(self._formats)} formats, {self._known!r})"


def _private_keys(text: str, window: Span) -> Iterator[_Found]:
    at = text.find(pem.MARK, *window)
    while at >= 0:
        end = at + 1
        if pem.BEGIN.match(text, at):
            end = pem.block_end(text, at)
            yield _Found(at, end, _SPECIFIC, pem.PRIVATE_KEY)
        at = text.find(pem.MARK, end, window[1])


def _random_keys(text: str, window: Span) -> Iterator[_Found]:
    first, last = window
    margin = chance.LENGTH_MAX + 1  # a run that goes beyond the margin is too long whatever follows
    for run in chance.RUN.finditer(text, max(first - margin, 0), last + margin):
        if run.start() >= last:
            break
        start, end = run.span()
        if start and text[start - 1] == "\\":
            start += 1  # a line end that is escaped
        if end > first and chance.random_key(text, start, end):
            yield _Found(start, end, _CHANCE, chance.ENTITY)


def _united(found: set[_Found]) -> list[_Found]:
    """What overlaps as one, with the entity of the most specific, or of the longest among those."""
    united: list[_Found] = []
    for one in sorted(found):
        if not united or one.start >= united[-1].end:
            united.append(one)
            continue
        last = united[-1]
        best = min(last, one, key=lambda either: (either.kind, either.start - either.end))
        united[-1] = _Found(last.start, max(last.end, one.end), best.kind, best.entity)
    return united
