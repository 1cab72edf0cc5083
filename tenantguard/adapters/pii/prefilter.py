"""From a recogniser's own regular expression, what can be scanned for cheaply, and where a match then can lie.

A pattern is parsed and lowered to sets of ASCII characters, sequences, choices and repetitions. A text is scanned
as its *shadow* (``shadow.py``): every character that is not ASCII is replaced by one that is, so that offsets stay.
What is lowered matches the shadow of whatever the pattern matches, and more:

* sets hold, for each character that they matched, its shadow; with IGNORECASE both cases;
* look-around and anchors are dropped, a back-reference becomes a copy of its group, a condition both its branches;
  greed, laziness and atomic groups do not matter to a superset. Word boundaries can be kept, since a character is a
  word's exactly if its shadow is.

Of that only the *core* is scanned for: a part that every match holds. What stands before it (the *head*) and after it
(the *tail*) may be long or unbounded, and only its characters and widths are remembered.

**Why windows lose nothing.** Every match M of the pattern holds a core, so the scan reports it, and the window that
this opens covers M with as much on both sides as look-around can see (the text before a window is seen anyway). So no
match reaches over the border of a window: it would have opened one there, which would have been merged with this one.
At the start of a window a search over the whole text is therefore in no match either, and tries the same positions
from there on. What it finds there the search of the window finds as well, since M and what M's look-around sees lie
in the window. And what the search of the window finds, M', exists in the whole text: M' holds a core too, whose
window covers M' and all that its look-around sees, so the window's end was not mistaken for that of the text. (Of a
core that keeps word boundaries that is true only if no word goes on over the window's end, so it ends with a word.)
"""

from __future__ import annotations

import re
import warnings
from functools import reduce
from operator import or_
from re import _constants as code  # type: ignore[attr-defined] # the parse tree has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from tenantguard.adapters.pii.shadow import CASED, shadow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.adapters.pii.finder import Expression

REACH_MAX: Final = 256
"""The reach of a pattern without an upper width; a stream holds back no more anyway."""

_LARGE: Final = 64
"""A part that may be wider is no part of the core if it stands at an end of the pattern."""

_CORE_BITS_MIN: Final = 12.0
"""What a core should at least say, in bits: chance finds it in one of 4,096 places of prose, roughly."""

_FLAGS: Final = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE | re.UNICODE
"""The flags that the packages ``regex`` and ``re`` both have, under the same numbers."""

_HOISTED: Final = re.compile(r"(?<!\\)\(\?([imsux]+)\)")
_FUZZY: Final = re.compile(r"(?<!\\)\{[^}]*[isde]")  # `regex` alone reads these braces as "so many errors"


def mask_of(characters: Iterable[int]) -> int:
    """The set of ASCII characters as the bits of a number."""
    return reduce(or_, (1 << character for character in characters), 0)


ALL: Final = (1 << 128) - 1
DIGITS: Final = mask_of(range(48, 58))
UPPER: Final = mask_of(range(65, 91))
LOWER: Final = mask_of(range(97, 123))
WORD: Final = DIGITS | UPPER | LOWER | mask_of(b"_")
SPACES: Final = mask_of(b"\t\n\v\f\r ")
FOREIGN: Final = DIGITS | mask_of(b"_ \x01sSkKiI")
"""All that a character which is not ASCII can have as its shadow, with both cases."""


class Chars(NamedTuple):
    """One character of a set."""

    mask: int


class Boundary(NamedTuple):
    r"""``\b``."""


class Seq(NamedTuple):
    """One after the other."""

    items: tuple[Node, ...]


class Alt(NamedTuple):
    """One of several."""

    branches: tuple[Node, ...]


class Rep(NamedTuple):
    """So many times; None: without an upper bound."""

    item: Node
    low: int
    high: int | None


Node: TypeAlias = "Chars | Boundary | Seq | Alt | Rep"

_EMPTY: Final = Seq(())


class Part(NamedTuple):
    """What is known of a head or a tail: which characters it has, and how many at most (None: any number)."""

    mask: int
    width: int | None
    first: int
    """What it can begin with."""
    nullable: bool


class Plan(NamedTuple):
    """How one expression is scanned for, and where its matches lie around a core."""

    core: Node
    low: int
    high: int | None
    """The widths of the core."""
    mask: int
    """The characters of the core."""
    head: Part
    tail: Part
    ahead: Part
    """What look-ahead sees beyond a match."""
    by_word: bool
    """Whether the core has word boundaries."""
    reach: int


class NotParsedError(Exception):
    """Only the package ``regex`` knows this syntax, or it can match nothing at all: it has no superset."""


def plan(expression: Expression) -> Plan | None:
    """How to scan for an expression; None if it must be searched for in every text as a whole."""
    try:
        lowered = _Lowering(expression)
    except NotParsedError:
        return None
    tree = lowered.tree
    low, high = widths(tree)
    if low == 0:
        return None
    head, core, tail = _split(tree)
    core_low, core_high = widths(core)
    if core_low == 0:
        return None
    ahead = _part(lowered.ahead)
    reach = 0
    if _goes_on_after_a_word(tree) or ahead.mask & SPACES:
        reach = REACH_MAX if high is None or ahead.width is None else min(high + ahead.width, REACH_MAX)
    return Plan(
        core=core,
        low=core_low,
        high=core_high,
        mask=_mask(core),
        head=_part(head),
        tail=_part(tail),
        ahead=ahead,
        by_word=boundless(core) != core,
        reach=reach,
    )


class _Lowering:
    """One expression, parsed and lowered."""

    def __init__(self, expression: Expression) -> None:
        pattern, flags = expression
        if flags & ~_FLAGS or _FUZZY.search(pattern):
            raise NotParsedError
        for found in _HOISTED.finditer(pattern):  # `regex` applies them to all of the pattern wherever they stand
            flags |= reduce(or_, (parser.FLAGS[letter] for letter in found[1]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of sets that `regex` and `re` read differently
                parsed = parser.parse(_HOISTED.sub("", pattern), flags)
        except (re.error, Warning, RecursionError, OverflowError):
            raise NotParsedError from None
        self._groups: dict[int, Node] = {}
        self._ahead: list[Node] = []
        self.tree: Node = self._sequence(parsed, parsed.state.flags)
        self.ahead: Node = Alt((_EMPTY, *self._ahead))

    def _sequence(self, parsed: Any, flags: int) -> Node:
        return _sequence(self._node(op, argument, flags) for op, argument in parsed)

    def _node(self, op: Any, argument: Any, flags: int) -> Node:
        if op is code.LITERAL:
            return Chars(_literal(argument, flags))
        if op is code.NOT_LITERAL:
            return Chars(ALL & ~_exact([(code.LITERAL, argument)], flags) | FOREIGN)
        if op is code.ANY:
            return Chars(ALL if flags & re.DOTALL else ALL & ~mask_of(b"\n"))
        if op is code.IN:
            return Chars(_set(argument, flags))
        if op is code.BRANCH:
            return _alternatives(self._sequence(branch, flags) for branch in argument[1])
        if op is code.SUBPATTERN:
            group, added, removed, inner = argument
            node = self._sequence(inner, (flags | added) & ~removed)
            if group is not None:
                self._groups[group] = node
            return node
        if op is code.ATOMIC_GROUP:
            return self._sequence(argument, flags)
        if op in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
            low, high, inner = argument
            return _repetition(self._sequence(inner, flags), int(low), None if high == code.MAXREPEAT else int(high))
        if op is code.AT:
            return self._at(argument)
        if op in (code.ASSERT, code.ASSERT_NOT):
            direction, inner = argument
            seen = self._sequence(inner, flags)
            if direction > 0:
                self._ahead.append(seen)
            return _EMPTY
        if op is code.GROUPREF and argument in self._groups:
            return self._groups[argument]
        if op is code.GROUPREF_EXISTS:
            _, yes, no = argument
            return _alternatives((self._sequence(yes, flags), self._sequence(no, flags) if no else _EMPTY))
        raise NotParsedError

    def _at(self, where: Any) -> Node:
        if where is code.AT_BOUNDARY:
            return Boundary()
        if where in (code.AT_END, code.AT_END_STRING):
            self._ahead.append(Seq((Chars(ALL), Chars(ALL))))  # a line's end that may be the text's
        return _EMPTY


def _literal(character: int, flags: int) -> int:
    if not flags & re.IGNORECASE:
        return 1 << _shadow_of(character)
    text = chr(character)
    others = {form for form in (text.lower(), text.upper(), text.casefold()) if len(form) == 1}
    mask = mask_of(_shadow_of(ord(form)) for form in {text, *others})
    return mask | mask_of(ord(chr(CASED[character]).upper()) for _ in (0,) if character in CASED)


def _shadow_of(character: int) -> int:
    return character if character < 128 else shadow(chr(character))[0]


def _set(items: Any, flags: int) -> int:
    if items and items[0][0] is code.NEGATE:
        foreign = FOREIGN
        for op, argument in items[1:]:
            if op is code.CATEGORY:
                foreign &= ~_FOREIGN_OF[argument]
        return ALL & ~_exact(items[1:], flags) | foreign
    mask = _exact(items, flags)
    for op, argument in items:
        if op is code.LITERAL:
            mask |= _literal(argument, flags)
        elif op is code.RANGE and argument[1] > 127:
            mask |= FOREIGN
        elif op is code.CATEGORY:
            mask |= _FOREIGN_OF[argument]
    return mask


_CATEGORIES: Final = {
    code.CATEGORY_DIGIT: DIGITS,
    code.CATEGORY_NOT_DIGIT: ALL & ~DIGITS,
    code.CATEGORY_SPACE: SPACES,
    code.CATEGORY_NOT_SPACE: ALL & ~SPACES,
    code.CATEGORY_WORD: WORD,
    code.CATEGORY_NOT_WORD: ALL & ~WORD,
}

_FOREIGN_OF: Final = {
    code.CATEGORY_DIGIT: DIGITS,
    code.CATEGORY_NOT_DIGIT: FOREIGN & ~DIGITS,
    code.CATEGORY_SPACE: mask_of(b" "),
    code.CATEGORY_NOT_SPACE: FOREIGN & ~SPACES,
    code.CATEGORY_WORD: FOREIGN & WORD,
    code.CATEGORY_NOT_WORD: FOREIGN & ~WORD,
}


def _exact(items: Any, flags: int) -> int:
    """The ASCII characters of a set, exactly: what it leaves out may be matched by its opposite."""
    mask = 0
    for op, argument in items:
        if op is code.LITERAL:
            mask |= mask_of(range(argument, min(argument + 1, 128)))
        elif op is code.RANGE:
            mask |= mask_of(range(argument[0], min(argument[1] + 1, 128)))
        elif op is code.CATEGORY:
            mask |= _CATEGORIES[argument]
        else:
            raise NotParsedError
    if flags & re.IGNORECASE:
        mask |= (mask & UPPER) << 32 | (mask & LOWER) >> 32
    return mask


def _sequence(nodes: Iterable[Node]) -> Node:
    items: list[Node] = []
    for node in nodes:
        items += node.items if isinstance(node, Seq) else (node,)
    return items[0] if len(items) == 1 else Seq(tuple(items))


def _alternatives(branches: Iterable[Node]) -> Node:
    """Alternatives without repetitions, those that begin alike brought together (many top-level domains do)."""
    distinct = list(dict.fromkeys(branches))
    if all(isinstance(branch, Chars) for branch in distinct):
        return Chars(reduce(or_, (_mask(branch) for branch in distinct)))
    by_first: dict[Node, list[Node]] = {}
    for branch in distinct:
        items = branch.items if isinstance(branch, Seq) else (branch,)
        by_first.setdefault(items[0] if items else _EMPTY, []).append(_sequence(items[1:]))
    joined: list[Node] = []
    for first, rests in by_first.items():
        if first == _EMPTY:
            joined.append(_EMPTY)
        elif len(rests) == 1:
            joined.append(_sequence((first, *rests)))
        else:
            joined.append(_sequence((first, _alternatives(rests))))
    return joined[0] if len(joined) == 1 else Alt(tuple(joined))


def _repetition(item: Node, low: int, high: int | None) -> Node:
    if high == 0 or item == _EMPTY:
        return _EMPTY
    return item if low == high == 1 else Rep(item, low, high)


def widths(node: Node) -> tuple[int, int | None]:
    """The fewest and the most (None: any number of) characters."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Boundary):
        return 0, 0
    if isinstance(node, Rep):
        low, high = widths(node.item)
        return low * node.low, None if high is None or node.high is None else high * node.high
    parts = [widths(child) for child in _children(node)]
    lows, highs = [low for low, _ in parts], [high for _, high in parts]
    known = [high for high in highs if high is not None]
    if isinstance(node, Alt):
        return min(lows, default=0), None if None in highs else max(known, default=0)
    return sum(lows), None if None in highs else sum(known)


def _children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Seq):
        return node.items
    if isinstance(node, Alt):
        return node.branches
    return (node.item,) if isinstance(node, Rep) else ()


def _mask(node: Node) -> int:
    if isinstance(node, Chars):
        return node.mask
    return reduce(or_, (_mask(child) for child in _children(node)), 0)


def first_of(node: Node) -> int:
    """What it can begin with."""
    if isinstance(node, Seq):
        mask = 0
        for item in node.items:
            mask |= first_of(item)
            if widths(item)[0]:
                break
        return mask
    return node.mask if isinstance(node, Chars) else reduce(or_, (first_of(child) for child in _children(node)), 0)


def last_of(node: Node) -> int:
    """What it can end with."""
    if isinstance(node, Seq):
        mask = 0
        for item in reversed(node.items):
            mask |= last_of(item)
            if widths(item)[0]:
                break
        return mask
    return node.mask if isinstance(node, Chars) else reduce(or_, (last_of(child) for child in _children(node)), 0)


def _part(node: Node) -> Part:
    low, high = widths(node)
    return Part(_mask(node), high, first_of(node), low == 0)


def _is_large(node: Node) -> bool:
    high = widths(node)[1]
    return high is None or high > _LARGE


def _split(tree: Node) -> tuple[Node, Node, Node]:
    """Head, core and tail of a pattern.

    The core ends before a last part that is optional or large, of which it keeps the mandatory beginning. It begins
    at its last part that is large but bounded (a host name before a domain: scanning for it would be dear, and what
    follows it says whether there is a match at all) if what follows says enough, else after a first unbounded part.
    """
    items = tree.items if isinstance(tree, Seq) else (tree,)
    wide = [at for at, item in enumerate(items) if widths(item)[1] != 0]  # the others are word boundaries
    last = wide[-1]
    kept: tuple[Node, ...] = items
    rest: Node = _EMPTY
    if _is_large(items[last]):
        beginning = _beginning(items[last])
        if beginning is not None:
            kept = (*items[:last], beginning)
            rest = items[last]
            if beginning != _EMPTY:
                rest = Rep(Chars(_mask(rest)), 0, widths(rest)[1])  # what is left of it, roughly
    starts = [at for at, item in enumerate(kept[:-1]) if _is_large(item)]
    bounded = [at for at in starts if widths(kept[at])[1] is not None]
    unbounded = [at for at in starts if widths(kept[at])[1] is None]
    for start in (*bounded[-1:], *unbounded[:1]):
        head = _sequence(kept[: start + 1])
        before = (Chars(last_of(head)),) if widths(head)[0] else ()
        core, tail = _cut((*before, *kept[start + 1 :]), rest)
        if bits(core) >= _CORE_BITS_MIN:
            return head, core, tail
    return _EMPTY, *_cut(kept, rest)


def _cut(items: tuple[Node, ...], rest: Node) -> tuple[Node, Node]:
    """A core that ends before the first large part where that says enough, and what is then its tail.

    Else ``re`` would follow such a part from every core to its end, to look for what comes after it.
    """
    for at, item in enumerate(items):
        if _is_large(item) and bits(_sequence(items[:at])) >= _CORE_BITS_MIN:
            return _sequence(items[:at]), _sequence((*items[at:], rest))
    return _sequence(items), rest


def _beginning(node: Node) -> Node | None:
    """What a large part surely begins with; None if it must be kept as it is."""
    if isinstance(node, Rep):
        if not node.low:
            return _EMPTY
        inner = node.item
        if isinstance(inner, Chars):
            return Rep(inner, node.low, node.low) if node.low > 1 else inner
        return _beginning(inner) or inner
    if isinstance(node, Seq):
        for at, item in enumerate(node.items):
            if _is_large(item):
                low = widths(item)[0]
                return _sequence((*node.items[:at], Chars(first_of(item)))) if low else _sequence(node.items[:at])
    return None


def bits(node: Node) -> float:
    """About how much a match says, in bits: 0 what may be empty, 5 a letter, 6 a digit, 7 a mark, each of a kind."""
    if isinstance(node, Chars):
        return _BITS_ALL - min(_weight(node.mask), _BITS_ALL)
    if isinstance(node, Rep):
        return bits(node.item) * node.low
    parts = [bits(child) for child in _children(node)]
    return min(parts, default=0.0) if isinstance(node, Alt) else sum(parts)


_BITS_ALL: Final = 7.0


def _weight(mask: int) -> float:
    return float((mask.bit_count() or 1).bit_length() - 1)


def _goes_on_after_a_word(tree: Node) -> bool:
    """Whether a match can go on after a plain word and white space, which a stream takes for its end.

    A word is plain unless it has a digit, ``@``, ``+`` or a bracket, or at most four capitals and no other letter,
    which are plain all the same where a small letter follows (``rules/redaction/text/hold.py``). The state is what
    the running word can be: -1 open by one of those marks, 0..4 so many capitals, 5 plain, 6 plain and over, 7 gone
    on, 8 capitals and over.
    """
    return 7 in _states(tree, frozenset((0,)))


_OPEN: Final = DIGITS | mask_of(b"@+()[]")
_PLAIN: Final = LOWER | mask_of(b"_")


def _states(node: Node, before: frozenset[int]) -> frozenset[int]:
    if isinstance(node, Chars):
        return frozenset(after for state in before for after in _step(state, node.mask))
    if isinstance(node, Seq):
        for item in node.items:
            before = _states(item, before)
        return before
    if isinstance(node, Alt):
        return frozenset().union(*(_states(branch, before) for branch in node.branches))
    if isinstance(node, Rep):
        after = before if node.low == 0 else frozenset[int]()
        for count in range(1, min(node.high or 10, 10) + 1):  # ten states, so nothing changes after ten rounds
            before = _states(node.item, before)
            if count >= min(node.low, 10):
                after |= before
        return after
    return before


def _step(state: int, mask: int) -> Iterator[int]:
    if state in {6, 7}:
        yield 7
        return
    if state == 8:
        if mask & LOWER:
            yield 7
        if mask & SPACES:
            yield 8
        mask &= ~(LOWER | SPACES)
        state = 0
    if mask & SPACES:
        yield 6 if state == 5 else 8 if state > 0 else 0
    if mask & _OPEN or state == -1:
        yield -1
    if state >= 0:
        if mask & _PLAIN:
            yield 5
        if mask & UPPER:
            yield min(state + 1, 5)
        if mask & ~(SPACES | _OPEN | _PLAIN | UPPER):
            yield state


def boundless(node: Node) -> Node:
    """The same without word boundaries."""
    if isinstance(node, Boundary):
        return _EMPTY
    if isinstance(node, Seq):
        return _sequence(boundless(item) for item in node.items)
    if isinstance(node, Alt):
        return _alternatives(boundless(branch) for branch in node.branches)
    return _repetition(boundless(node.item), node.low, node.high) if isinstance(node, Rep) else node


def written(node: Node) -> str:
    """A node as an expression without flags, over ASCII, that ``re`` (for bytes) and hyperscan both read."""
    if isinstance(node, Chars):
        return set_of(node.mask)
    if isinstance(node, Boundary):
        return r"\b"
    if isinstance(node, Seq):
        return "".join(map(written, node.items))
    if isinstance(node, Alt):
        return f"(?:{'|'.join(map(written, node.branches))})"
    inner = written(node.item)
    inner = inner if isinstance(node.item, Chars | Alt) else f"(?:{inner})"
    high = node.high
    if (node.low, high) in _SIGNS:
        return inner + _SIGNS[node.low, high]
    return f"{inner}{{{node.low}}}" if node.low == high else f"{inner}{{{node.low},{'' if high is None else high}}}"


_SIGNS: Final[dict[tuple[int, int | None], str]] = {(0, 1): "?", (0, None): "*", (1, None): "+"}


def set_of(mask: int) -> str:
    """A set of characters as an expression."""
    characters = [at for at in range(128) if mask >> at & 1]
    if len(characters) == 1:
        return _written(characters[0])
    ranges: list[list[int]] = []
    for at in characters:
        if ranges and ranges[-1][1] == at - 1:
            ranges[-1][1] = at
        else:
            ranges.append([at, at])
    return f"[{''.join([_range_of(*bounds) for bounds in ranges])}]" if ranges else "[^\\x00-\\x7f]"


def _range_of(low: int, high: int) -> str:
    return _written(low) if low == high else f"{_written(low)}-{_written(high)}"


def _written(character: int) -> str:
    return chr(character) if chr(character).isalnum() else f"\\x{character:02x}"
