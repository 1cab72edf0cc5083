"""Telephone numbers: what Presidio's recogniser finds, within bounds that it does not have."""

# ruff: noqa: RUF001 - signs and figures of other scripts are meant

from __future__ import annotations

import random
import re
import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import phonenumbers
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat
from phonenumbers.phonenumbermatcher import _PATTERN
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

from tenantguard.adapters.pii import phone
from tenantguard.adapters.pii.finder import WORK_MAX, Budget, Finder, Span
from tenantguard.adapters.pii.phone import PhoneSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS: Final = 500
UNLIMITED: Final = 10**9
DENSE_US_MAX: Final = 60_000

RECOGNIZERS: Final = {
    "default": PhoneRecognizer(),
    "one": PhoneRecognizer(supported_regions=("US",)),
    "another": PhoneRecognizer(supported_regions=("FR",)),
    "ruled": PhoneRecognizer(supported_regions=("AG", "AR", "JE", "MX", "BR", "AU", "XX")),
    "possible": PhoneRecognizer(supported_regions=("GB", "DE", "US"), leniency=0),
    "grouped": PhoneRecognizer(leniency=2),
    "exact": PhoneRecognizer(leniency=3),
}
SEARCHES: Final = {name: PhoneSearch(recognizer) for name, recognizer in RECOGNIZERS.items()}

_REGIONS: Final = sorted(phonenumbers.SUPPORTED_REGIONS)
_WORDS: Final = [
    "call",
    "me",
    "on",
    "or",
    "room",
    "id",
    "int",
    "ext.",
    "next",
    "x",
    "tel:",
    "é",
    "号码",
    "№",
    "доб",
    "\n",
    "",
]
_GLUE: Final = [
    " ",
    "  ",
    ", ",
    ".",
    ":",
    "\n",
    "-",
    " - ",
    "/",
    "(",
    ")",
    "",
    "\u00a0",
    "\u2013",
    "#",
    "$",
    "%",
    "x",
    "a",
]
_SIGNS: Final = " -./()[]~x\u00a0\u2010\uff0d"
_LABELS: Final = ["int", "ext", "anexo", "xtn"]
_EXTENSIONS: Final = [
    " x12",
    " ext. 345",
    "#77",
    ";ext=9",
    " - 503#",
    " int 22",
    " int. 22",
    ", extension 1234",
    "~5",
    "/x7",
]


def _figures(rng: random.Random, most: int) -> str:
    return "".join([rng.choice("0123456789") for _ in range(rng.randint(1, most))])


def _number(rng: random.Random) -> str:
    """A number of some region in some style, now and then with a wrong figure, odd signs or an extension."""
    region = rng.choice(["US", "GB", "DE", "FR", "IL", "IN", "CA", "BR"] if rng.random() < 0.7 else _REGIONS)
    kind = rng.choice([phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE])
    example = phonenumbers.example_number_for_type(region, kind) or phonenumbers.example_number(region)
    assert example is not None
    written = phonenumbers.format_number(example, rng.choice(list(PhoneNumberFormat.__dict__.values())[1:5]))
    if rng.random() < 0.3:
        written = re.sub(r"\d", lambda found: rng.choice([found[0], rng.choice("0123456789")]), written)
    if rng.random() < 0.2:
        written = re.sub(r"[ -]", lambda _: rng.choice(_SIGNS), written)
    if rng.random() < 0.1:
        written = written.replace("+", rng.choice(["", "00", "011", "+0", "++", "(+"]))
    if rng.random() < 0.1:
        written = written.translate(
            dict(zip(b"0123456789", rng.choice(["٠١٢٣٤٥٦٧٨٩", "０１２３４５６７８９"]), strict=True))
        )
    return written + (rng.choice(_EXTENSIONS) if rng.random() < 0.2 else "")


def _thing(rng: random.Random) -> str:
    """What figures are in a text when they are no telephone number; mostly."""
    return rng.choice(
        [
            lambda: (
                f"{rng.randint(1990, 2030)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} 08:{rng.randint(0, 59)}"
            ),
            lambda: f"{rng.randint(1, 31)}/{rng.randint(1, 12)}/{rng.choice([95, 2011])}",
            lambda: f"{rng.random() * 10 ** rng.randint(0, 4):.{rng.randint(1, 8)}f}",
            lambda: ".".join([str(rng.randint(0, 255)) for _ in range(4)]),
            lambda: " ".join([_figures(rng, 4) for _ in range(4)]),
            lambda: _figures(rng, 26),
            lambda: f"{rng.randint(100, 999)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",
            lambda: f"12({rng.randint(1, 9)}): 211-227 (2003).",
            lambda: f"DE{_figures(rng, 20)}",
            lambda: "".join([rng.choice("0123456789" + _SIGNS + "+ext,") for _ in range(rng.randint(1, 60))]),
            lambda: " ".join([rng.choice(["1", "12", "123"])] * rng.randint(1, 30)),
            lambda: f"{_figures(rng, 5)} {rng.choice(_LABELS)}{rng.choice([' ', '. ', ' -'])}{_figures(rng, 12)}",
            lambda: rng.choice(_WORDS),
        ]
    )()


def _text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 8)):
        parts += [rng.choice([_number, _thing])(rng), rng.choice(_GLUE), rng.choice(_WORDS), rng.choice(_GLUE)]
    return "".join(parts)


def _windows(search: PhoneSearch, text: str) -> dict[int, list[Span]]:
    """What a prefilter reports at the least: each match of an expression."""
    return {
        number: [found.span() for found in regex.finditer(expression.pattern, text, expression.flags)]
        for number, expression in enumerate(search.expressions)
    }


def _ours(name: str, text: str, claimed: Sequence[Span] = (), budget: Budget | None = None) -> list[Any]:
    search = SEARCHES[name]
    found = search.search(text, _windows(search, text), claimed, budget or Budget(UNLIMITED))
    return sorted((one.entity, one.start, one.end, one.score) for one in found)


def _presidios(name: str, text: str) -> list[Any]:
    found = RECOGNIZERS[name].analyze(text, ["PHONE_NUMBER"])
    return sorted((one.entity_type, one.start, one.end, one.score) for one in found)


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_finds_what_presidio_finds(name: str) -> None:
    rng = random.Random(f"telephone {name}")
    texts = [_text(rng) for _ in range(TEXTS if name == "default" else TEXTS // 5)]
    assert [text for text in texts if _ours(name, text) != _presidios(name, text)] == []


def test_repeats_and_order_of_regions_change_nothing() -> None:
    text = "call (415) 555-2671 or 030 901820"
    regions = ("DE", "US", "DE")
    search = PhoneSearch(PhoneRecognizer(supported_regions=regions))
    found = search.search(text, _windows(search, text), [], Budget(UNLIMITED))
    assert [(one.start, one.end) for one in found] == [(5, 19), (23, 33)]


@pytest.mark.parametrize(
    "text", ["0098 9632", "00 98 9632", "011989632", "+98 9632", "98 9632", "0049 1640", "1640", "1 242 1640"]
)
def test_short_numbers_of_other_countries_are_found_as_presidio_finds_them(text: str) -> None:
    for name in RECOGNIZERS:
        assert _ours(name, text) == _presidios(name, text)


def test_every_short_row_of_figures_is_judged_as_presidio_judges_it() -> None:
    for figures in [f"{one:04d}" for one in range(10_000)][::7] + [f"00{one:06d}" for one in range(0, 10**6, 997)]:
        assert _ours("default", figures) == _presidios("default", figures)


@given(st.text(st.characters(exclude_categories=["Nd"], exclude_characters="xX")))
def test_text_without_figures_is_not_looked_at(text: str) -> None:
    assert not any(_windows(SEARCHES["default"], text).values())


@pytest.mark.parametrize(
    "text", ["Nobody called us in June.", "3 dogs, 12 cats and 123 birds", "1, 2, 3, 4, 5, 6, 7", "exit"]
)
def test_few_figures_are_not_looked_at(text: str) -> None:
    assert not any(_windows(SEARCHES["default"], text).values())


def test_a_glued_number_stays_and_one_by_itself_is_found() -> None:
    """E-72."""
    assert _ours("default", "order2125552671 and 2125552671") == [("PHONE_NUMBER", 20, 30, 0.4)]


def test_what_ends_a_run_is_in_no_candidate() -> None:
    parser: Any = re._parser  # type: ignore[attr-defined]
    known: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, tuple) and len(node) == 2 and str(node[0]) in {"LITERAL", "RANGE", "CATEGORY"}:
            if str(node[0]) == "CATEGORY":
                assert str(node[1]) == "CATEGORY_DIGIT"
                known.update("0123456789")
            else:
                low, high = node[1] if isinstance(node[1], tuple) else (node[1], node[1])
                known.update(chr(one) for one in range(low, high + 1))
            return
        for part in node if isinstance(node, list | tuple | parser.SubPattern) else ():
            collect(part)

    collect(parser.parse(_PATTERN.pattern, _PATTERN.flags))
    written = known | {one.lower() for one in known} | {one.upper() for one in known}
    outside = {chr(one) for one in range(128) if re.fullmatch(phone._OUTSIDE, chr(one))}
    assert len(known) > 60
    assert written & outside == set()
    assert {one for one in map(chr, range(33, 127)) if one not in written} <= outside


@pytest.mark.parametrize("pad", [0, 1, 40])
def test_wider_windows_find_the_same(pad: int) -> None:
    rng = random.Random(pad)
    search = SEARCHES["default"]
    for text in [_text(rng) for _ in range(50)]:
        wide = {
            number: [(max(start - pad, 0), min(end + pad, len(text))) for start, end in spans]
            for number, spans in _windows(search, text).items()
        }
        found = search.search(text, wide, [], Budget(UNLIMITED))
        assert sorted((one.entity, one.start, one.end, one.score) for one in found) == _ours("default", text)


def test_a_candidate_within_a_larger_claimed_span_costs_nothing() -> None:
    text = "see http://example.org/2125552671/x and 212 555 2672"
    budget = Budget(UNLIMITED)
    assert _ours("default", text, [(4, 35)], budget) == [("PHONE_NUMBER", 40, 52, 0.4)]
    alone = Budget(UNLIMITED)
    _ours("default", text[36:], (), alone)
    assert budget.left == alone.left


@pytest.mark.parametrize("claimed", [(8, 20), (9, 21), (0, 12), (0, 8)])
def test_a_span_that_leaves_some_of_a_candidate_claims_nothing(claimed: Span) -> None:
    assert _ours("default", "phone   212 555 2672 is", [claimed]) == [("PHONE_NUMBER", 8, 20, 0.4)]


@pytest.mark.parametrize("left", [0, 3, 20, 60])
def test_without_budget_more_is_reported_and_counted(left: int) -> None:
    rng = random.Random(left)
    more = 0
    for text in [_text(rng) for _ in range(100)]:
        budget = Budget(left)
        exact, bounded = _presidios("default", text), _ours("default", text, (), budget)
        for _, start, end, _ in exact:
            assert any(one[1] <= start and end <= one[2] for one in bounded)
        more += bounded != exact
        assert bounded == exact or budget.passed
        assert budget.left >= 0
    assert more


HOSTILE: Final = {
    "twelves": "12 " * 6_667,
    "ones": "1 " * 10_000,
    "dashes": "1-" * 10_000,
    "floats": ", ".join([f"{random.Random(one).random() * 1000:.6f}" for one in range(1_800)]),
    "phones": "\n".join([f"(415) 555-{one:04d}" for one in range(1_300)]),
    "ids": "\n".join([f"{random.Random(one).randrange(10**10):010d}" for one in range(1_800)]),
    "plus": "+1234567 " * 2_222,
    "nowhere": "+0001234 " * 2_222,
    "extensions": "12345x12 " * 2_222,
    "letters": "1x1 " * 5_000,
    "brackets": "(((1234((( " * 1_818,
    "stamps": "2012-01-02 08:00 " * 1_176,
    "spaces": "415 555 2671" + " " * 20_000 + "x1",
    "dots": "1234." + "." * 20_000 + "5",
    "full width": "１２３４５６７ " * 2_500,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_costs_little(name: str) -> None:
    """20 KB each: 6 to 60 ms of processor time on the machine that this was written on, Presidio up to 1 s."""
    text = HOSTILE[name][:20_000]
    search = SEARCHES["default"]
    windows = _windows(search, text)
    spent = []
    for _ in range(3):
        begun = time.process_time_ns()
        search.search(text, windows, [], Budget())
        spent.append((time.process_time_ns() - begun) // 1000)
    assert median(spent) <= DENSE_US_MAX * 2


def test_the_default_budget_suffices_for_a_page_of_numbers() -> None:
    budget = Budget()
    text = "\n".join([f"Room {one}: +49 30 {901820 + one}, seen 2024-05-06 08:15" for one in range(60)])
    assert _ours("default", text, (), budget) == _presidios("default", text)
    assert budget.passed == 0
    assert budget.left > WORK_MAX // 2


def test_nothing_is_remembered_between_searches() -> None:
    search = SEARCHES["default"]
    before = {name: repr(value) for name, value in vars(search).items()}
    _ours("default", "call 212 555 2672")
    assert {name: repr(value) for name, value in vars(search).items()} == before


def test_it_is_a_late_finder_named_as_the_recogniser() -> None:
    finder: Finder = SEARCHES["default"]
    assert (finder.name, finder.entities, finder.late, finder.reach) == ("PhoneRecognizer", {"PHONE_NUMBER"}, True, 0)
    assert finder.expressions
