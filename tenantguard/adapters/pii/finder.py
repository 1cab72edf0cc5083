"""What the cascade is made of: finders, the expressions that tell where they must look, and the work they may do.

A *finder* knows one kind of data exactly: one of Presidio's recognisers, telephone numbers, secrets. Its expressions
are a superset, cheap to scan for all finders at once: every match of the finder is, or holds, a match of one of its
expressions. Where none matches there is nothing to find; where one does, the finder looks at a *window* around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenantguard.model.pii import Match


Span: TypeAlias = tuple[int, int]
"""``text[start:end]``, as a plain pair: a long text has many, and the collector of cycles leaves pairs alone."""


class Expression(NamedTuple):
    """A regular expression in the syntax of Presidio (the package ``regex``), with its flags.

    What cannot be scanned for (look-around, back-references, word boundaries) is stripped by the prefilter, which
    makes it a superset.
    """

    pattern: str
    flags: int = 0


WORK_MAX: Final = 4_000
"""What the texts of one body may have at once: so many steps of about 10 us each."""

WORK_CHARS: Final = 10
"""Every so many characters of a text that is searched earn a body one step more."""


class Budget:
    """The work that the texts of one body may still cost, and how often it did not suffice.

    A finder takes steps before what is dear and not linear (a telephone number costs about 100 us a region). Where
    nothing is left it reports what it would have had to look at, unchecked: more is replaced, never less.
    """

    __slots__ = ("left", "passed", "slow")

    def __init__(self, left: int = WORK_MAX) -> None:
        self.left = left
        self.passed = 0
        self.slow: set[object] = set()
        """Compiled expressions that took too long once, and are not tried again."""

    def earn(self, chars: int) -> None:
        """A text of so many characters will be searched."""
        self.left = min(self.left + chars // WORK_CHARS, WORK_MAX)

    def take(self, steps: int = 1) -> bool:
        """Take steps; False, and counted, if there are not so many."""
        if self.left < steps:
            self.passed += 1
            return False
        self.left -= steps
        return True


class Finder(Protocol):
    """Finds one kind of data exactly, in the windows that its expressions open."""

    name: str
    entities: frozenset[str]
    expressions: tuple[Expression, ...]
    """Empty: the finder looks at every text as a whole."""

    reach: int
    """The most characters that a match goes on after a word that ends in white space; 0 where none does so unless a
    digit, ``@``, ``+``, a bracket or at most four capitals say it (see ``rules/redaction/text/hold.py``)."""

    late: bool
    """Runs after the others and is told what they claimed."""

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """Every match in ``text`` that lies in a window, in any order.

        ``windows`` holds, by the index of the expression, spans in order that do not overlap. ``claimed`` are the
        spans that earlier finders found with a score of at least 0.5; for a ``late`` finder only.
        """
        ...
