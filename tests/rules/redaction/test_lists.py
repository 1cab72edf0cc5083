"""Allow and deny lists around a detector."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Listing
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.hold import TextStream, join
from tenantguard.rules.redaction.text.lists import DENIED, Allowed, Denied, Listed
from tenantguard.rules.redaction.text.rule import RequestMask, ResponseScrub, apply, text_edits

NOTHING = Listing()
WORDS = st.sampled_from(
    ["ann", "Ann Lee", "lee", "bluebird", "Project Bluebird", "a.b", "10.1.2.3", "x@corp.test", " ", ", "]
)


def found(text: str, **listing: tuple[str, ...]) -> list[str]:
    """What a deny list finds in a text, and that it does not say before that nothing can be there."""
    denied = Denied(Listing(**listing))
    matches = denied.find(text)
    if matches:
        assert not denied.clears(text)
    assert {match.entity for match in matches} <= {DENIED}
    assert all(match.score == 1.0 for match in matches)
    return [text[match.start : match.end] for match in matches]


def left(tools: Any, text: str, **listing: tuple[str, ...]) -> list[str]:
    """The values of a text that an allow list leaves to be replaced."""
    listed = Listed(tools.detecting(tools.detect), Allowed(Listing(**listing)), Denied(NOTHING))
    return [text[match.start : match.end] for match in listed.detect(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ask ANN LEE.", ["ANN LEE"]),
        ("ask ann, lee", ["ann"]),
        ("annual plan", []),
        ("joann", []),
        ("ann_x ann-x", ["ann"]),
        ("#42 and #421", ["#42"]),
        ("a\u0130ann ann", ["ann"]),  # a letter whose small form is two characters moves nothing
        ("", []),
    ],
)
def test_exact_values_are_found_as_words_whatever_their_case_and_the_longest_first(
    text: str, expected: list[str]
) -> None:
    assert found(text, exact=("Ann", "Ann Lee", "#42")) == expected


def test_many_exact_values_are_found_too() -> None:
    values = tuple(f"customer {number}" for number in range(5000))
    assert found("for customer 4711, not customer 47110", exact=values) == ["customer 4711"]
    assert Denied(Listing(exact=values)).clears("nothing of the kind " * 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see corp.test", ["corp.test"]),
        ("mail Ann.Lee+x@CORP.test now", ["Ann.Lee+x@CORP.test"]),
        ("https://wiki.corp.test/page", ["wiki.corp.test"]),
        ("notcorp.test corp.testing corp.test.example my-corp.test", []),
        ("corp.test.", ["corp.test"]),
    ],
)
def test_a_domain_takes_in_what_is_under_it(text: str, expected: list[str]) -> None:
    assert found(text, domains=("corp.test",)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at 10.1.2.3, 11.1.2.3 and 110.1.2.3", ["10.1.2.3"]),
        ("10.1.2.3:80 10.1.2.3.4 v10.1.2.3 10.1.2.300", ["10.1.2.3"]),
        ("[2001:db8::1]:443 and 2001:db9::1", ["2001:db8::1"]),
        ("12:30:45 a::b::c", []),
        ("192.0.2.7 192.0.2.8", ["192.0.2.7"]),
    ],
)
def test_addresses_of_a_network_are_found(text: str, expected: list[str]) -> None:
    assert found(text, networks=("10.0.0.0/8", "2001:db8::/32", "192.0.2.7")) == expected


def test_expressions_are_found_and_overlaps_are_one() -> None:
    assert found("EMP-123456 emp-1", regex=("EMP-[0-9]{6}", r"\b123456\b")) == ["EMP-123456"]


@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        ({"regex": ("a+",)}, "more than 256"),
        ({"regex": ("[a-z]{257}",)}, "more than 256"),
        ({"regex": ("(?:a{1,9}b{0,9}){1,9}",)}, "very long"),
        ({"regex": ("a?",)}, "empty"),
        ({"domains": ("corp test",)}, "no domain"),
        ({"networks": ("10.0.0.1/8",)}, "no network"),
        ({"exact": (" ",)}, "empty"),
        ({"exact": (" ann",)}, "white space"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(listing: dict[str, tuple[str, ...]], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Denied(Listing(**listing))


def test_an_allowed_value_stays_if_all_of_it_is_on_the_list(tools: Any) -> None:
    text = "ann@example.com bob@example.com ann@example.com.evil.org"
    assert left(tools, text, exact=("ann@example.com",)) == ["bob@example.com", "ann@example.com.evil.org"]
    assert left(tools, text, regex=(r"\w+@example\.com",)) == ["ann@example.com.evil.org"]
    assert left(tools, text, domains=("example.com",)) == ["ann@example.com.evil.org"]


@pytest.mark.parametrize(
    ("value", "stays"),
    [
        ("ann@example.com", True),
        ("ann@mail.Example.com", True),
        ("https://example.com", True),
        ("http://example.com:8080/path?q=1", True),
        ("example.com", True),
        ("ann@evil.org", False),
        ("ann@notexample.com", False),
        ("https://example.com@evil.org/", False),
        ("https://ann:pw@example.com/", False),
        ("https://evil.org/@example.com", False),
        ("https://evil.org\\@example.com", False),
        ("https://evil.org#@example.com", False),
        ("a@evil.org/b@example.com", False),
        ("example.com.evil.org", False),
    ],
)
def test_the_domain_of_a_value_is_that_of_its_host(value: str, stays: bool) -> None:  # noqa: FBT001
    assert (Allowed(Listing(domains=("example.com",))).host(value) is not None) is stays


def test_what_stands_in_a_url_of_an_allowed_domain_is_looked_at_by_itself(tools: Any) -> None:
    def detect(text: str) -> list[Match]:
        if text.startswith("https://"):
            return [Match("URL", 0, len(text), 0.6)]
        return tools.detect(text)  # type: ignore[no-any-return]

    listed = Listed(tools.detecting(detect), Allowed(Listing(domains=("example.com",))), Denied(NOTHING))
    text = "https://example.com/?to=bob@evil.org&cc=ann@example.com"
    assert [text[match.start : match.end] for match in listed.detect(text)] == ["bob@evil.org", "ann@example.com"]


def test_addresses_of_an_allowed_network_stay() -> None:
    allowed = Allowed(Listing(networks=("10.0.0.0/8", "::1")))
    assert [allowed.whole(value) for value in ("10.1.2.3", "11.1.2.3", "::1", "10.0.0.0/8")] == [
        True,
        False,
        True,
        False,
    ]


def test_what_is_on_both_lists_is_denied_and_takes_what_it_meets(tools: Any) -> None:
    listing = Listing(domains=("example.com",))
    listed = Listed(tools.detecting(tools.detect), Allowed(listing), Denied(listing))
    text = "to ann@example.com"
    assert [(match.entity, match.start, match.end) for match in listed.detect(text)] == [(DENIED, 3, len(text))]
    listed = Listed(tools.detecting(tools.detect), Allowed(NOTHING), Denied(Listing(exact=("ann",))))
    assert [(match.entity, match.start, match.end) for match in listed.detect(text)] == [(DENIED, 3, len(text))]


def test_an_expression_is_not_asked_of_a_very_long_value() -> None:
    allowed = Allowed(Listing(regex=("a+b?a+",)))
    assert allowed.whole("a" * 256)
    assert not allowed.whole("a" * 257)


def test_a_longer_value_is_waited_for_in_a_stream(tools: Any) -> None:
    denied = Denied(Listing(exact=("Ann", "Project Bluebird"), regex=("EMP-[0-9]{6}", r"room\s[0-9]{3}")))
    assert denied.reach == len("Project Bluebird")
    assert Denied(Listing(exact=("张三，李四",))).reach == len("张三，李四")  # noqa: RUF001 - so punctuation is
    assert Denied(Listing(exact=("Ann",), regex=("EMP-[0-9]{6}",))).reach == 0
    assert Listed(tools.detecting(tools.detect, 40), Allowed(NOTHING), denied).reach == 40


@given(st.lists(WORDS, max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=6))
def test_a_stream_denies_what_the_whole_text_does_whatever_its_pieces(
    tools: Any, text: str, places: list[int]
) -> None:
    listing = Listing(
        exact=("Ann Lee", "Project Bluebird", "a.b"),
        domains=("corp.test",),
        networks=("10.0.0.0/8",),
        regex=("[xy]@",),
    )

    def rule() -> ResponseScrub:
        detector = Listed(tools.detecting(tools.detect), Allowed(NOTHING), Denied(listing))
        return ResponseScrub(detector, Vault(b"k" * 32), restore=False)

    stream = TextStream(rule())
    out = [join(stream.feed(piece)) for piece in tools.cut(text, places)]
    assert "".join(out) + join(stream.finish()) == apply(text, text_edits(rule(), text))


@given(st.lists(WORDS, max_size=6).map("".join), st.integers(0, 60), st.integers(0, 60))
def test_a_text_that_is_cleared_has_nothing_in_any_part(text: str, start: int, length: int) -> None:
    denied = Denied(
        Listing(
            exact=("Ann Lee", "lee"), domains=("corp.test",), networks=("10.0.0.0/8",), regex=(r"\bblue[a-z]{0,4}\b",)
        )
    )
    if denied.clears(text):
        assert denied.find(text[start : start + length]) == []


@pytest.mark.parametrize("text", ["corp.test" * 3000, "a." * 12_000, "1." * 12_000, ":" * 24_000, "ann " * 6000])
def test_a_hostile_text_takes_linear_time(text: str) -> None:
    denied = Denied(
        Listing(exact=("Ann Lee",), domains=("corp.test",), networks=("10.0.0.0/8",), regex=("a.{0,40}z",))
    )
    begun = time.process_time_ns()
    denied.find(text)
    assert time.process_time_ns() - begun < 400e6


def test_a_list_shows_how_long_it_is_and_no_entry() -> None:
    shown = repr(Listing(exact=("Ann Lee",), domains=("corp.test",)))
    assert "2 entries" in shown
    assert "Ann" not in shown
    assert "corp" not in shown
    assert shown != repr(Listing(exact=("Bob Lee",), domains=("corp.test",)))


def test_a_request_replaces_what_is_denied_by_a_placeholder_of_its_entity(tools: Any) -> None:
    detector = Listed(tools.detecting(lambda _: []), Allowed(NOTHING), Denied(Listing(exact=("bluebird",))))
    vault = Vault(b"k" * 32)
    rule = RequestMask(detector, vault, escape=False)
    assert apply("on Bluebird", text_edits(rule, "on Bluebird")) == f"on {vault.mask(DENIED, 'Bluebird')}"
    assert rule.replaced == {DENIED: 1}
