"""What can be said of a user's regular expression before it runs: how it is bounded, and what it may match.

``re`` tries one way after another to match at a place, and how many ways there are is what makes an expression
catastrophic. :func:`study` counts them from the parsed expression: a repetition of one to five characters has five,
and what follows one another multiplies. That is more than are ever tried, and it does not depend on the text, so a
bound on it bounds the work for each character of any text.
"""

from __future__ import annotations

import re
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.errors import ConfigurationError
from tenantguard.rules.separators import is_parted

if TYPE_CHECKING:
    from collections.abc import Iterable

LONG: Final = 256
"""What a repetition without a bound counts as: no longer value is matched with an expression that has one."""

_WAYS_CAP: Final = 1 << 40


class Study(NamedTuple):
    """``width``: the most characters of a match, None if unbounded. ``ways``: how many a place can be tried in.

    ``spaced``: whether a match may hold white space, or full-width punctuation that the expression names.
    """

    width: int | None
    ways: int
    spaced: bool


def study(pattern: str) -> Study:
    """Look at an expression; one that is none, may match nothing, or looks around itself is refused.

    The :class:`ConfigurationError` says what is wrong and does not quote the expression, which may be personal.
    """
    try:
        parsed = parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as wrong:
        problem = wrong.msg if isinstance(wrong, re.error) else "it is too large"
        raise ConfigurationError(f"this is no regular expression: {problem}") from None
    least, most = parsed.getwidth()
    if least == 0:
        raise ConfigurationError("the expression matches the empty text, so it would match everywhere")
    ways, spaced = _sequence(parsed)
    return Study(int(most) if most < code.MAXREPEAT else None, ways, spaced)


def _sequence(items: Iterable[tuple[Any, Any]]) -> tuple[int, bool]:
    ways, spaced = 1, False
    for operation, argument in items:
        more, space = _item(operation, argument)
        ways, spaced = min(ways * more, _WAYS_CAP), spaced or space
    return ways, spaced


def _item(operation: Any, argument: Any) -> tuple[int, bool]:
    if operation in {code.LITERAL, code.ANY, code.NOT_LITERAL, code.IN}:
        return 1, _may_be_space(operation, argument)
    if operation is code.SUBPATTERN:
        return _sequence(argument[3])
    if operation is code.ATOMIC_GROUP:
        return _sequence(argument)
    if operation is code.BRANCH:
        branches = [_sequence(branch) for branch in argument[1]]
        return min(sum(ways for ways, _ in branches), _WAYS_CAP), any(space for _, space in branches)
    if operation in {code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT}:
        least, most, body = argument
        ways, spaced = _sequence(body)
        return _repeated(ways, int(least), LONG if most is code.MAXREPEAT else int(most)), spaced
    if operation is code.AT and argument in {code.AT_BOUNDARY, code.AT_NON_BOUNDARY}:
        return 1, False
    if operation is code.AT:
        raise ConfigurationError("the expression has '^' or '$': a value has no line of its own; leave them out")
    raise ConfigurationError("the expression looks around itself or back: only what it matches may count")


def _repeated(ways: int, least: int, most: int) -> int:
    """The ways of ``least`` to ``most`` times what has so many ways: the sum of their powers."""
    if ways == 1:
        return max(most - least, 0) + 1
    total, power = 0, 1
    for count in range(most + 1):
        if count >= least:
            total += power
        power *= ways
        if total + power > _WAYS_CAP:
            return _WAYS_CAP
    return total


def _may_be_space(operation: Any, argument: Any) -> bool:
    if operation is code.LITERAL:
        return is_parted(chr(argument))
    if operation is not code.IN:
        return True
    if argument[0][0] is code.NEGATE:
        return (code.CATEGORY, code.CATEGORY_SPACE) not in argument
    return any(_holds_space(kind, what) for kind, what in argument)


def _holds_space(kind: Any, what: Any) -> bool:
    if kind is code.LITERAL:
        return is_parted(chr(what))
    if kind is code.RANGE:
        return any(map(is_parted, map(chr, range(what[0], min(what[1], 0xFFFF) + 1))))
    return what not in {code.CATEGORY_DIGIT, code.CATEGORY_WORD, code.CATEGORY_NOT_SPACE}
