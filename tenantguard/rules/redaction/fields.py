"""Field paths: where in a body a policy's rule looks, and where it never does.

A path is steps from the top: ``messages[*].content``, ``user.name``, ``items[0]``, ``**.email``, ``["a.b"].c``. A
leading ``$.`` is accepted. ``name`` and ``["name"]`` are a key, ``[2]`` and ``[*]`` an element of a list, ``*``
whatever is directly below, ``**`` any number of steps, none as well. A path stands for all that lies under it. The
names of a form or of the parts of a multipart body are keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Step: TypeAlias = str | int

_STEP: Final = re.compile(
    r'(?P<dot>(?:\A|(?<=.)\.)(?:(?P<deep>\*\*)|(?P<any>\*)|(?P<key>[^.\[\]*"\s]+)))'
    r'|\[(?:(?P<index>[0-9]{1,9})|(?P<each>\*)|"(?P<quoted>[^"\\]+)")\]',
)
_ACCEPTED: Final = -1
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,31}")


class State(NamedTuple):
    """How far the paths have been followed to one place of a body: those looked at, and those skipped."""

    only: int
    skip: int


@dataclass(frozen=True, slots=True)
class _Paths:
    """Paths as one automaton: a bit for each step that is waited for, the last bit of a path for its end.

    A step costs a handful of operations on integers of as many bits as the paths have steps (Baeza-Yates and Gonnet,
    "A new approach to text searching", 1992), however many of them can match.
    """

    start: int
    keys: dict[Step, int]
    any: int
    each: int
    loops: int
    ends: int

    def enter(self, state: int, step: Step) -> int:
        if state <= 0:
            return state
        hit = self.keys.get(step, 0) | self.any | (self.each if isinstance(step, int) else 0)
        moved = (state & hit) << 1
        return _ACCEPTED if moved & self.ends else moved | (state & self.loops)


@dataclass(frozen=True, slots=True)
class Fields:
    """Which places of a body are looked at. Made by :func:`compile_fields`."""

    only: _Paths
    skip: _Paths
    start: State
    everything: bool
    """Nothing is left out anywhere."""

    def enter(self, state: State, step: Step) -> State:
        """The state one step (a key or an index) below."""
        return State(self.only.enter(state.only, step), self.skip.enter(state.skip, step))

    def looks(self, state: State) -> bool:
        """Whether what stands there is looked at."""
        return state.only == _ACCEPTED and state.skip != _ACCEPTED

    def below(self, step: Step) -> Fields:
        """The same, seen from one step below."""
        return (
            self if self.everything else Fields(self.only, self.skip, self.enter(self.start, step), everything=False)
        )

    def ends_at(self, path: Iterable[Step]) -> bool:
        """Whether one of the paths looked at leads to this very place, and not above it."""
        state = self.only.start
        for step in path:
            if state <= 0:
                return False
            state = self.only.enter(state, step)
        return state == _ACCEPTED


def compile_fields(only: Sequence[str], skip: Sequence[str] = ()) -> Fields:
    """What lies under a path of ``only`` (none: everything) and under none of ``skip``.

    A path that cannot be read raises :class:`ConfigurationError` with the character where it stops being one.
    """
    wanted = _compiled(only) if only else _compiled(["**"])
    skipped = _compiled(skip)
    return Fields(wanted, skipped, State(wanted.start, skipped.start), everything=not only and not skip)


def read_path(path: str) -> list[tuple[str, Step]]:
    """The steps of a path, each with its kind: ``key``, ``index``, ``each``, ``any`` or ``deep``."""
    start = 1 if path.startswith(("$.", "$[")) else 0
    text = path[2:] if path.startswith("$.") else path[start:]
    shift = len(path) - len(text)
    steps: list[tuple[str, Step]] = []
    at = 0
    while at < len(text) or not text:
        found = _STEP.match(text, at)
        if found is None:
            raise ConfigurationError(
                f"{path!r} is no path of a field at character {at + shift}: "
                'steps are name, ["name"], [0], [*], * and **, for example messages[*].content',
            )
        at = found.end()
        if found["index"] is not None:
            steps.append(("index", int(found["index"])))
        elif (key := found["key"] or found["quoted"]) is not None:
            steps.append(("key", key))
        else:
            steps.append(("deep" if found["deep"] else "any" if found["any"] else "each", ""))
    return steps


def shown(steps: Sequence[Step], inside: str = "") -> str:
    """The path of a place as it may be told: a key that is no word, and so could be somebody's data, is ``?``.

    ``inside`` is where in the text there, if that is a body itself.
    """
    names = [f"[{step}]" if isinstance(step, int) else f".{step if _WORD.fullmatch(step) else '?'}" for step in steps]
    return "".join(names).removeprefix(".") + (f":{inside}" if inside else "")


def _compiled(paths: Iterable[str]) -> _Paths:
    start = any_step = each = loops = ends = 0
    keys: dict[Step, int] = {}
    bit = 1
    for path in paths:
        steps = read_path(path)
        while steps and steps[-1][0] == "deep":
            steps.pop()  # a path stands for all under it anyway
        if not steps:
            start = _ACCEPTED
        elif start != _ACCEPTED:
            start |= bit
        for kind, step in steps:
            if kind == "deep":
                loops |= bit
                continue
            if kind == "any":
                any_step |= bit
            elif kind == "each":
                each |= bit
            else:
                keys[step] = keys.get(step, 0) | bit
            bit <<= 1
        ends |= bit
        bit <<= 1
    return _Paths(start, keys, any_step, each, loops, ends)


ALL_FIELDS: Final = compile_fields(())
"""Every place of a body."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a structured body a rule looks at besides the texts of its values: keys (names), and numbers.

    A number in which something is found becomes a string.
    """

    fields: Fields = ALL_FIELDS
    keys: bool = False
    numbers: bool = False

    def looks_at_key(self, key: str) -> bool:
        """Whether a key at the top, a form's name for example, is looked at."""
        fields = self.fields
        return self.keys and (fields.everything or fields.looks(fields.enter(fields.start, key)))


EVERYWHERE: Final = Scope()
"""The texts of all values."""
