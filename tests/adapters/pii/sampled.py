"""Strings that a regular expression describes, drawn at random from its parsed form.

What is drawn does not always match: look-ahead, word boundaries and negative look-around are not honoured, and a
repetition stops early. Such strings are the near misses that nobody thinks of.
"""

from __future__ import annotations

import re
import string
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from random import Random

_REPEATS_MORE: Final = 6
"""How often more than it must a repetition is drawn at most."""

_ANY: Final = string.ascii_letters + string.digits + "-_.:/ @+é"
_CATEGORIES: Final = {
    _constants.CATEGORY_DIGIT: string.digits * 3 + "٣７",
    _constants.CATEGORY_NOT_DIGIT: string.ascii_letters + " -.",
    _constants.CATEGORY_SPACE: "    \t\n\u00a0",
    _constants.CATEGORY_NOT_SPACE: string.ascii_letters + string.digits + "-.é",
    _constants.CATEGORY_WORD: string.ascii_letters + string.digits + "_é一",
    _constants.CATEGORY_NOT_WORD: " -.:/",
}
_REPEATS: Final = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


def parsed(expression: str) -> Any:
    """The parsed form; inline flags that do not stand at the start are left out, as ``re`` refuses them there."""
    return _parser.parse(re.sub(r"\(\?[a-z]+\)", "", expression))


def drawn(rng: Random, tree: Any) -> str:
    """One string of a parsed expression."""
    return _sequence(rng, tree, {})


def _sequence(rng: Random, tree: Any, groups: dict[int, str]) -> str:
    return "".join([_node(rng, operation, argument, groups) for operation, argument in tree])


def _node(rng: Random, operation: Any, argument: Any, groups: dict[int, str]) -> str:
    if operation is _constants.LITERAL:
        one = chr(argument)
        return one.swapcase() if rng.random() < 0.05 else one
    if operation is _constants.IN:
        return _class(rng, argument)
    if operation in _REPEATS:
        least, most, inner = argument
        times = rng.randint(least, min(most, least + _REPEATS_MORE))
        return "".join([_sequence(rng, inner, groups) for _ in range(times)])
    if operation is _constants.SUBPATTERN:
        group, *_, inner = argument
        made = _sequence(rng, inner, groups)
        groups[group or 0] = made
        return made
    if operation is _constants.BRANCH:
        return _sequence(rng, rng.choice(argument[1]), groups)
    if operation is _constants.GROUPREF:
        return groups.get(argument, "")
    if operation is _constants.ASSERT:
        direction, inner = argument
        return _sequence(rng, inner, groups) if direction < 0 else ""
    if operation is _constants.ATOMIC_GROUP:
        return _sequence(rng, argument, groups)
    if operation in {_constants.ANY, _constants.NOT_LITERAL}:
        return rng.choice(_ANY)
    return ""  # positions and what must not stand beside


def _class(rng: Random, items: Any) -> str:
    negated = items[0][0] is _constants.NEGATE
    if negated:
        return rng.choice(_ANY)
    operation, argument = rng.choice(items)
    if operation is _constants.LITERAL:
        return chr(argument)
    if operation is _constants.RANGE:
        return chr(rng.randint(*argument))
    return rng.choice(_CATEGORIES[argument])
