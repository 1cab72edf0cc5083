"""Bodies that are kept whole so that a language model can read them before they are redacted.

A model needs a whole text, and redaction sees a text as it comes. So such a body is gone through twice: first by a
rule that finds nothing and remembers the texts (each channel of a stream is one), in which the model then looks for
names; then by the rule itself, whose detector finds the values of those names as it finds anything else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

from tenantguard.model.pii import Match
from tenantguard.rules.redaction.bodies import Passing, Refused, body_for
from tenantguard.rules.redaction.text.rule import NAME_CHARS_MIN, MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tenantguard.rules.media import Content
    from tenantguard.rules.redaction.bodies import Terms
    from tenantguard.rules.redaction.multipart import Rewriting
    from tenantguard.rules.redaction.plan import Plan
    from tenantguard.rules.redaction.text.rule import Detecting, TextRule

    _Rule = TypeVar("_Rule", bound=TextRule)

TEXT_CHARS_MAX: Final = 1_000_000
"""The most that a model reads of one body: 15 to 40 s of a processor."""

NAMES_WORK: Final = 1024
"""A byte of such a body counts as so many when it is decided where to search it: more than 40 us."""

VALUE_CHARS_MAX: Final = 128
"""A longer name is found in parts of so many characters."""

_NOTHING: Final = re.compile(r"(?!)")


class Reading:
    """A rule that replaces nothing and remembers the texts that it is asked about.

    Its reach is that of all it may remember: a text that comes in pieces is asked about once, as a whole.
    """

    reach = TEXT_CHARS_MAX
    name_chars_min = NAME_CHARS_MIN

    def __init__(self) -> None:
        self.replaced: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.texts: dict[str, None] = {}
        self._left = TEXT_CHARS_MAX

    @property
    def arguments(self) -> Reading:
        """This rule."""
        return self

    def clears(self, text: str) -> bool:  # noqa: ARG002 - it is to be asked
        """Never."""
        return False

    def find(self, text: str, after: int = 0) -> list[Match]:  # noqa: ARG002 - a rule's method
        """Remember the text; nothing is found."""
        if text not in self.texts:
            self._left -= len(text)
            if self._left < 0:
                raise MalformedTextError("the body has more text than a language model may read")
            self.texts[text] = None
        return []

    def own(self, text: str) -> list[Match]:  # noqa: ARG002 - a rule's method
        """Nothing: no identifier is a text."""
        return []

    def replace(self, entity: str, value: str) -> str:  # noqa: ARG002 - a rule's method
        """The value itself."""
        return value

    def __repr__(self) -> str:
        return f"Reading({len(self.texts)} texts)"


@runtime_checkable
class Naming(Protocol):
    """What finds names in a whole text, in any order: a detector with a language model."""

    def names(self, text: str) -> Sequence[Match]:
        """The names in ``text``."""
        ...


class _Name(NamedTuple):
    entity: str
    score: float
    inside: bool
    """It was found as a part of a word, and counts wherever it stands; others only where no letter is beside them."""


class Named:
    """A detector that also finds the names that it has learned; ``settle`` settles what overlaps."""

    def __init__(self, detector: Detecting, settle: Callable[[Iterable[Match]], list[Match]]) -> None:
        self.reach = max(detector.reach, VALUE_CHARS_MAX)
        self._detector = detector
        self._settle = settle
        self._names: dict[str, _Name] = {}
        self._lengths: dict[str, list[int]] = {}
        self._first = _NOTHING

    @property
    def passed(self) -> int:
        """As the detector's."""
        return self._detector.passed

    def learn(self, texts: Iterable[str], naming: Naming) -> None:
        """Find from now on what ``naming`` finds in these texts, wherever it stands."""
        for text in texts:
            for match in naming.names(text):
                whole = match.end - match.start <= VALUE_CHARS_MAX
                inside = not whole or _inside(text, match.start, match.end)
                for start in range(match.start, match.end, VALUE_CHARS_MAX):
                    value = text[start : min(start + VALUE_CHARS_MAX, match.end)]
                    known = self._names.get(value)
                    if known is None or (inside, match.score) > (known.inside, known.score):
                        self._names[value] = _Name(match.entity, match.score, inside)
        lengths: dict[str, set[int]] = {}
        for value in self._names:
            lengths.setdefault(value[0], set()).add(len(value))
        self._lengths = {first: sorted(those, reverse=True) for first, those in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, lengths))}]") if lengths else _NOTHING

    def clears(self, text: str) -> bool:
        """Whether certainly nothing is found in any part of ``text``."""
        return next(self._found(text), None) is None and self._detector.clears(text)

    def detect(self, text: str, after: int = 0) -> Sequence[Match]:
        """What the detector finds and the names, by start, not overlapping; those up to ``after`` may be missing."""
        names = [
            Match(name.entity, start, end, name.score)
            for name, start, end in self._found(text)
            if end > after and (name.inside or not _inside(text, start, end))
        ]
        matches = self._detector.detect(text, after)
        return self._settle([*matches, *names]) if names else matches

    def _found(self, text: str) -> Iterator[tuple[_Name, int, int]]:
        """Where values stand, whatever is beside them."""
        for found in self._first.finditer(text):
            start = found.start()
            for length in self._lengths[found[0]]:
                name = self._names.get(text[start : start + length])
                if name is not None and start + length <= len(text):
                    yield name, start, start + length

    def __repr__(self) -> str:
        return f"Named({len(self._names)} names)"


def _inside(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` begins or ends within a word."""
    before, after = text[max(start - 1, 0) : start + 1], text[end - 1 : end + 1]
    return (start > 0 and before.isalnum()) or (len(after) == 2 and after.isalnum())


class Buffered:
    """A body of at most ``limit`` bytes that leaves once it has ended.

    ``first`` is how it is rewritten by ``reading``, ``second`` how by a rule over ``named``.
    """

    def __init__(
        self, first: Rewriting, reading: Reading, naming: Naming, named: Named, second: Rewriting, limit: int
    ) -> None:
        self.second = second
        self._first = first
        self._reading = reading
        self._naming = naming
        self._named = named
        self._limit = limit
        self._data = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Keep the next bytes."""
        if len(self._data) + len(chunk) > self._limit:
            raise MalformedTextError(f"the body has more than {self._limit} bytes")
        self._data += chunk
        return b""

    def finish(self) -> bytes:
        """The body has ended; return it rewritten."""
        data = bytes(self._data)
        self._data.clear()
        if data:
            self._first.feed(data)
        self._first.finish()
        self._named.learn(self._reading.texts, self._naming)
        self._reading.texts.clear()
        return (self.second.feed(data) if data else b"") + self.second.finish()


def with_names(
    rule_over: Callable[[Detecting], _Rule], plan: Plan, detector: Detecting, content: Content, terms: Terms
) -> tuple[_Rule, Buffered]:
    """The rule and the rewriting of a body, neither passing nor refused, in which ``detector`` finds names too."""
    assert isinstance(detector, Naming)
    named, reading = Named(detector, plan.settle), Reading()
    rule = rule_over(plan.around(named))
    first, second = body_for(content, reading, terms), body_for(content, rule, terms)
    assert not isinstance(first, Passing | Refused)
    assert not isinstance(second, Passing | Refused)
    return rule, Buffered(first, reading, detector, named, second, plan.limit_bytes)
