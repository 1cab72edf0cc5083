"""Windows: with hyperscan and without they cover every match of every expression, and little else."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.pii.finder import Expression
from tenantguard.adapters.pii.prefilter import plan
from tenantguard.adapters.pii.scanning import FastScanner, KeyScanner, scanner

FLAGS = int(regex.DOTALL | regex.MULTILINE)
PATTERNS = (
    r"\b\d{3}-\d{2}\b",
    r"(?<!\d)\d{4}(?!\d)",
    r"\b[a-c]+(?:\.[a-c]+)*@[a-c]+\.[a-c]{2}\b",
    r"ab\s*\d{1,3}",
    r"[a-c.]{1,70}[.](?:aa|ab)(?:/\S*)?",
    r"(?=.*9)c1",
    r"(['-])a\1",
    r"x[ab]{2,100}x",
    r"\b(?!01)\d\d\b",
)
PLANS = [made for made in (plan(Expression(pattern, FLAGS)) for pattern in PATTERNS) if made is not None]
BACKENDS = {fast: scanner(PLANS, fast=fast) for fast in (True, False)}
TEXTS = st.text(st.sampled_from("aaabc01299-.@/' x\néØ٣"), max_size=120)


def test_every_pattern_has_a_plan() -> None:
    assert len(PLANS) == len(PATTERNS)
    assert isinstance(BACKENDS[True], FastScanner)
    assert isinstance(BACKENDS[False], KeyScanner)


@pytest.mark.parametrize("fast", [True, False])
@settings(max_examples=400, deadline=None)
@given(text=TEXTS, after=st.integers(0, 120))
def test_a_search_of_the_windows_finds_what_a_search_of_the_text_finds(*, fast: bool, text: str, after: int) -> None:
    windows = BACKENDS[fast].windows(text, after)
    for at, pattern in enumerate(PATTERNS):
        compiled = regex.compile(pattern, FLAGS)
        whole = {found.span() for found in compiled.finditer(text)}
        spans = windows.get(at, [])
        seen = {found.span() for window in spans for found in compiled.finditer(text, *window)}
        assert seen <= whole
        assert {span for span in whole - seen if span[1] > after} == set()
        assert all(one[1] < other[0] for one, other in pairwise(spans))
        assert all(0 <= start < end <= len(text) for start, end in spans)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(0, 120), st.integers(0, 120))
def test_nothing_is_found_in_a_part_of_a_text_that_is_clear(text: str, start: int, end: int) -> None:
    for one in BACKENDS.values():
        if one.clears(text):
            assert not any(regex.search(pattern, text[start:end], FLAGS) for pattern in PATTERNS)


def test_a_clear_text_opens_no_window() -> None:
    text = "Nothing here, said the fox. And so it was! " * 50
    for one in BACKENDS.values():
        assert one.clears(text)
        assert one.windows(text, 0) == {}


def test_windows_are_small_beside_the_text() -> None:
    rng = Random(1)
    text = " ".join("".join(rng.choices("defgh", k=6)) for _ in range(2_000)) + " 123-45 aa@bb.cc x.aa/rest "
    for one in BACKENDS.values():
        for spans in one.windows(text, 0).values():
            assert sum(end - start for start, end in spans) < 100


def test_a_text_full_of_hits_is_scanned_within_bounds() -> None:
    text = "123-45 " * 20_000
    assert BACKENDS[True].windows(text, 0).keys() == BACKENDS[False].windows(text, 0).keys()


def test_what_hyperscan_refuses_is_scanned_for_without_it() -> None:
    words = ["".join(Random(at).choices("defgh", k=12)) for at in range(2_000)]
    large = plan(Expression(rf"\d(?:{'|'.join(words)})", FLAGS))
    assert large is not None
    mixed = scanner([PLANS[0], large, PLANS[3]], fast=True)
    assert isinstance(mixed, FastScanner)
    assert mixed._refused is not None
    assert mixed.windows("123-45 ab 7", 0).keys() == {0, 2}
    assert mixed.windows(f"7{words[9]} ab 7", 0).keys() == {1, 2}
    assert not mixed.clears(f"7{words[9]}")
    assert mixed.clears("nothing")
