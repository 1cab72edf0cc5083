from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import Amount
from tenantguard.model.route import DEFAULT_ROUTE, Route, RouteTable

CENT = Amount(10_000_000, "USD")

segments = st.sampled_from(["a", "b", "*"])
patterns = st.builds(
    lambda method, parts, rest: f"{method}/{'/'.join(parts)}{rest}",
    st.sampled_from(["", "GET ", "POST ", "* "]),
    st.lists(segments, max_size=3),
    st.sampled_from(["", "/**", "**"]),
)
paths = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=4).map(lambda parts: "/" + "/".join(parts))


def matches(match: str, method: str, path: str) -> bool:
    """What a pattern means, said differently: ``*`` is one non-empty segment, ``**`` anything."""
    wanted, _, pattern = match.rpartition(" ")
    if wanted not in {"", "*", method} and (wanted, method) != ("GET", "HEAD"):
        return False
    said = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]+")
    return re.fullmatch(said, path, re.DOTALL) is not None


@given(
    st.lists(patterns, max_size=6, unique_by=lambda text: "* " + text if text[0] == "/" else text),
    st.sampled_from(["GET", "POST", "HEAD"]),
    paths,
)
def test_the_first_route_that_matches_is_found(given_matches: list[str], method: str, path: str) -> None:
    table = RouteTable.of([Route(text) for text in given_matches])
    expected = next((text for text in given_matches if matches(text, method, path)), None)
    found = table.find(method, path)
    assert found is DEFAULT_ROUTE if expected is None else found.match == expected


@pytest.mark.parametrize(
    ("match", "method", "path"),
    [
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions"),
        ("/jobs/*", "*", "/jobs/*"),
        ("* /x", "*", "/x"),
        ("POST\t /x", "POST", "/x"),
    ],
)
def test_a_match_is_a_method_and_a_path(match: str, method: str, path: str) -> None:
    assert (Route(match).method, Route(match).path) == (method, path)


@pytest.mark.parametrize("match", ["", "x", "post /x", "POST x", "POST  ", "GET /a b", "GET,POST /x", "/a\n", "POST"])
def test_what_matches_nothing_is_refused(match: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the route"):
        Route(match)


def test_a_route_of_a_table_matches_once() -> None:
    with pytest.raises(ConfigurationError, match="two routes"):
        RouteTable.of([Route("GET /x"), Route("GET  /x", name="other")])
    RouteTable.of([Route("GET /x"), Route("/x")])


@pytest.mark.parametrize("path", ["/x\n", "/X", "/x/", "//x", "/xy"])
def test_an_exact_path_is_matched_exactly(path: str) -> None:
    table = RouteTable.of([Route("GET /x"), Route("GET /x*")])
    assert table.find("GET", path).match != "GET /x"


@pytest.mark.parametrize(
    "settings",
    [
        {"max_output": 0},
        {"unit": "page"},
        {"unit": "page", "unit_price": CENT},
        {"unit": "page", "max_units": 3},
        {"unit": "page", "unit_price": CENT, "max_units": 0},
        {"price": Amount(-1, "USD")},
        {"price": CENT, "unit": "page", "unit_price": Amount(1, "EUR"), "max_units": 1},
        {"public": True, "price": CENT},
        {"public": True, "usage": "openai-chat"},
        {"public": True, "unit": "page", "unit_price": CENT, "max_units": 3},
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="route 'here'"):
        Route("/x", "here", **settings)


def test_a_price_may_have_two_parts() -> None:
    route = Route("/x", price=CENT, unit="page", unit_price=Amount(1, "USD"), max_units=100)
    assert route.name == "/x"
    assert route.price == CENT


def test_a_pattern_is_tried_only_where_the_segments_before_its_star_are_there() -> None:
    """So that a request costs the same whatever the number of routes."""
    table = RouteTable.of([Route(f"/r{number}/*") for number in range(400)])
    called: list[str] = []
    sys.setprofile(
        lambda _frame, event, called_one: called.append(called_one.__name__) if event == "c_call" else None
    )
    try:
        found = table.find("GET", "/r399/x")
    finally:
        sys.setprofile(None)
    assert found.match == "/r399/*"
    assert called.count("match") == 1


def test_head_is_served_under_the_route_of_get() -> None:
    """Frameworks answer HEAD with the handler of GET; it must not be a way around a price or a limit."""
    table = RouteTable.of([Route("GET /page", name="page"), Route("/**", name="rest")])
    assert table.find("HEAD", "/page").name == "page"
    assert table.find("HEAD", "/other").name == "rest"
