"""Keys: what the scanner without hyperscan looks for first stands in every match of a core."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pii.finder import Expression
from tenantguard.adapters.pii.keys import STRIDE, Key, Keys, keys_of, places_of
from tenantguard.adapters.pii.prefilter import boundless, plan, written
from tenantguard.adapters.pii.recognizers import recognizers_for
from tenantguard.adapters.pii.secrets import SecretSearch
from tenantguard.model.redact_section import Find
from tests.adapters.pii.parity import recognizer_names
from tests.adapters.pii.sampled import drawn, parsed
from tests.adapters.pii.texts import Density, chat

if TYPE_CHECKING:
    from tenantguard.adapters.pii.prefilter import Node

DRAWN = 30


def core_of(pattern: str, flags: int = 0) -> Node:
    made = plan(Expression(pattern, flags))
    assert made is not None
    return made.core


def cores() -> list[Node]:
    found: list[Any] = [*recognizers_for(Find(recognizers=recognizer_names()))[0]]
    expressions = [
        *(Expression(one.regex, int(each.global_regex_flags or 0)) for each in found for one in _patterns(each)),
        *SecretSearch().expressions,
    ]
    return [made.core for made in map(plan, expressions) if made is not None]


def _patterns(recognizer: Any) -> list[Any]:
    return getattr(recognizer, "patterns", None) or []


def test_every_match_of_a_core_holds_one_of_its_keys() -> None:
    made = cores()
    assert len(made) > 300
    every = {core: keys_of(core) for core in made}
    together = Keys({key for keys in every.values() for key in keys})
    rng = Random(1)
    for core, keys in every.items():
        tree = parsed(written(boundless(core)))
        for _ in range(DRAWN):
            text = drawn(rng, tree)
            shadow = text.encode()
            if re.fullmatch(written(boundless(core)).encode(), shadow):
                there = together.within(b"so " + shadow + b" ")
                assert any(key in there for key in keys), (written(core), text)


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (r"\b\d{3}-\d{2}\b", {Key(1, b"000-")}),
        (r"(?i)\d(?:xt|int)", {Key(1, b"xt"), Key(1, b"int")}),
        (r"AKIA[A-Z]{4}", {Key(2, b"AKIA")}),
        (r"[a-c]{16}", {Key(0b111 << 97, b"A" * 16)}),
        (r"\d?[a-z]\d?", {Key(0, b"A"), Key(0, b"X")}),
        (r"\d?[ab]\d?", {Key(1, b"a"), Key(1, b"b")}),
    ],
)
def test_keys_are_those_that_say_most(pattern: str, keys: set[Key]) -> None:
    assert set(keys_of(core_of(pattern))) == keys


def test_prose_holds_few_keys_of_what_is_looked_for() -> None:
    every = [keys_of(core) for core in cores()]
    together = Keys({key for keys in every for key in keys})
    text = chat(Random(2), 2_000, Density.CLEAN).encode()
    there = together.within(text)
    assert len([keys for keys in every if not there.keys().isdisjoint(keys)]) < len(every) / 10


def test_places_are_told_once_a_stride() -> None:
    key = Key(0, b"0-0")
    text = b"1-2 3-4" + b" " * STRIDE + b"5-6"
    assert places_of([key], Keys([key]).within(text)) == [0, STRIDE + 7]
