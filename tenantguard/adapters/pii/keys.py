"""Keys: short strings one of which every match of a core holds, found by a search for bytes.

A shadow is searched in simpler alphabets; each core has its keys in the one where they say most. In the first all
letters are ``A`` but ``x``, which is ``X`` (alone of all letters it may stand where a telephone number begins), in
the second they are small, in the third as they are; in these any digit is ``0``, and any white space a blank. A long
run of characters of a set is a key in an alphabet of its own, in which those are ``A`` and all others blanks.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from math import log2, prod
from string import ascii_letters, ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.adapters.pii.prefilter import (
    DIGITS,
    SPACES,
    Alt,
    Chars,
    Rep,
    Seq,
    first_of,
    last_of,
    widths,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tenantguard.adapters.pii.prefilter import Node

STRIDE: Final = 32
"""Of several places of a key within so many characters the first stands for all."""

_KEYS_MAX: Final = 64


class _Alphabet(NamedTuple):
    """What stands for each character of a shadow, how long keys of it may be, and how many one place may have."""

    images: bytes
    chars_max: int
    keys_max: int


def _images(letters: bytes) -> bytes:
    images = bytearray(range(256))
    for at in range(128):
        if DIGITS >> at & 1:
            images[at] = ord("0")
        elif SPACES >> at & 1:
            images[at] = ord(" ")
    images[65:91] = letters[:26]
    images[97:123] = letters[-26:]
    return bytes(images)


_ALPHABETS: Final = (
    _Alphabet(_images(b"A" * 23 + b"XAA"), 3, _KEYS_MAX),
    _Alphabet(_images(ascii_lowercase.encode()), 4, 4),
    _Alphabet(_images(ascii_letters.swapcase().encode()), 4, 4),
)
_KINDS: Final = 0

_MARK_BITS: Final = 6.0
_BITS: Final = {ord("0"): 4.0, ord(" "): 2.5, **dict.fromkeys(ascii_lowercase.encode(), 4.0)}
_BITS_OF: Final = (
    {**_BITS, ord("X"): 5.0, ord("A"): 0.4},
    _BITS,
    {**_BITS, **dict.fromkeys(ascii_uppercase.encode(), 5.0), **dict.fromkeys(b"ABHIMNOSTWY", 4.5)},
)
"""About what a character says; prose has some capitals more often."""


_RUN_MIN: Final = 16
_CLEAR_BITS: Final = 8.0
"""Keys that say less are given up for a long run."""


@cache
def _images_of(alphabet: int) -> bytes:
    if alphabet < len(_ALPHABETS):
        return _ALPHABETS[alphabet].images
    return bytes(ord("A") if alphabet >> at & 1 else ord(" ") for at in range(256))


class Key(NamedTuple):
    """A string in one of the alphabets: by its number, or by the set of characters of a run."""

    alphabet: int
    text: bytes


class Keys:
    """Tells which of some keys a shadow holds: 30 us for the keys of all default recognisers in 2 KB of prose."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """``keys`` as :func:`keys_of` makes them."""
        chosen = sorted(keys)
        uses = Counter(character for key in chosen for character in set(key.text))
        self._by_mark: dict[int, dict[bytes, list[bytes]]] = {}
        # By the alphabet, and by the rarest of a key's characters, which is looked for first.
        for alphabet, text in chosen:
            said = _BITS_OF[alphabet] if alphabet < len(_BITS_OF) else {}
            rarest = max(text, key=lambda one: (said.get(one, _MARK_BITS), uses[one]))
            self._by_mark.setdefault(alphabet, {}).setdefault(bytes((rarest,)), []).append(text)

    def within(self, shadow: bytes) -> dict[Key, bytes]:
        """The keys that stand in a shadow, each with the form of the shadow in its own alphabet."""
        there: dict[Key, bytes] = {}
        for alphabet, by_mark in self._by_mark.items():
            form = shadow.translate(_images_of(alphabet))
            for mark, texts in by_mark.items():
                if mark in form:
                    for text in texts:
                        if text in form:
                            there[Key(alphabet, text)] = form
        return there


def places_of(keys: Iterable[Key], there: Mapping[Key, bytes]) -> list[int]:
    """Where one of ``keys`` stands, in order; ``there`` as :meth:`Keys.within` tells it."""
    places: list[int] = []
    for key in keys:
        form = there[key]
        at = form.find(key.text)
        while at >= 0:
            places.append(at)
            at = form.find(key.text, at + STRIDE)
    return sorted(places)


class _Found(NamedTuple):
    """Keys one of which every match holds, and about how much that says, in bits."""

    bits: float
    keys: tuple[Key, ...]


def keys_of(core: Node) -> tuple[Key, ...]:
    """Keys one of which every match of ``core`` holds: those that say most."""
    found = [best for alphabet in range(len(_ALPHABETS)) if (best := _best(core, alphabet)) is not None]
    best = max(found, key=lambda one: one.bits, default=None)
    if best is None or best.bits < _CLEAR_BITS:
        runs = [item for item in (core.items if isinstance(core, Seq) else (core,)) if isinstance(item, Rep)]
        longest = max(runs, key=lambda run: run.low, default=None)
        if longest is not None and isinstance(longest.item, Chars) and longest.low >= _RUN_MIN:
            return (Key(longest.item.mask, b"A" * longest.low),)
    if best is None:
        return tuple(Key(_KINDS, bytes((kind,))) for kind in sorted(set(_ALPHABETS[_KINDS].images[:128])))
    return best.keys


def _best(node: Node, alphabet: int) -> _Found | None:
    pieces = _pieces(node, _ALPHABETS[alphabet].chars_max)
    found = [
        *(_of_branches(piece, alphabet) for piece in pieces if isinstance(piece, Alt)),
        *(_of_masks(piece, alphabet) for piece in pieces if not isinstance(piece, Alt)),
    ]
    return max([one for one in found if one is not None], key=lambda one: one.bits, default=None)


def _of_branches(piece: Alt, alphabet: int) -> _Found | None:
    branches = [_best(branch, alphabet) for branch in piece.branches]
    found = [branch for branch in branches if branch is not None]
    keys = tuple(dict.fromkeys(key for branch in found for key in branch.keys))
    if not found or len(found) < len(branches) or len(keys) > _KEYS_MAX:
        return None
    return _Found(_one_of(branch.bits for branch in found), keys)


def _of_masks(masks: Sequence[int], alphabet: int) -> _Found | None:
    table, chars_max, keys_max = _ALPHABETS[alphabet]
    said = _BITS_OF[alphabet]
    images = [sorted({table[one] for one in range(128) if mask >> one & 1}) for mask in masks]
    found: list[_Found] = []
    for size in range(1, chars_max + 1):
        for at in range(len(images) - size + 1):
            part = images[at : at + size]
            if 0 < prod(map(len, part)) <= keys_max:
                keys = [bytes(key) for key in product(*part)]
                bits = _one_of(sum(said.get(one, _MARK_BITS) for one in key) for key in keys)
                found.append(_Found(bits, tuple(Key(alphabet, key) for key in keys)))
    return max(found, key=lambda one: one.bits, default=None)


def _one_of(bits: Iterable[float]) -> float:
    """What it says that one of several is there, of which each alone would say so much."""
    return -log2(sum(2.0**-one for one in bits))


def _pieces(node: Node, most: int) -> list[list[int] | Alt]:
    """What every match has: runs of adjacent characters, each by its set, and alternatives."""
    pieces: list[list[int] | Alt] = [[]]

    def walk(node: Node) -> None:
        if isinstance(node, Chars):
            last = pieces[-1]
            if isinstance(last, Alt):
                pieces.append([node.mask])
            else:
                last.append(node.mask)
        elif isinstance(node, Seq):
            for item in node.items:
                walk(item)
        elif isinstance(node, Alt):
            certain = widths(node)[0] > 0
            if certain:
                walk(Chars(first_of(node)))
            pieces.extend((node, []))
            if certain:
                walk(Chars(last_of(node)))
        elif isinstance(node, Rep):
            for _ in range(min(node.low, most)):
                walk(node.item)
            if node.high != node.low or node.low > most:
                pieces.append([])
                for _ in range(min(node.low, most)):
                    walk(node.item)

    walk(node)
    return [piece for piece in pieces if piece]
