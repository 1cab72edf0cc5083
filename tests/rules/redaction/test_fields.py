"""Field paths: what they mean, and what is no path."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.rules.redaction.fields import ALL_FIELDS, compile_fields, read_path, shown


def looks(only: list[str], skip: list[str], path: tuple[Any, ...]) -> bool:
    fields = compile_fields(only, skip)
    state = fields.start
    for step in path:
        state = fields.enter(state, step)
    return fields.looks(state)


@pytest.mark.parametrize(
    ("path", "inside", "outside"),
    [
        ("messages[*].content", [("messages", 3, "content"), ("messages", 0, "content", 0, "text")],
         [("messages",), ("messages", "x", "content"), ("messages", 0, "role"), ("a", "messages", 0, "content")]),
        ("$.user.name", [("user", "name"), ("user", "name", "first")], [("user",), ("user", 0), ("name",)]),
        ("**.email", [("email",), ("a", 1, "email"), ("email", "x")], [("a",), ("emails",)]),
        ("a.**.b", [("a", "b"), ("a", 0, "c", "b")], [("b",), ("x", "b")]),
        ("items[0]", [("items", 0)], [("items", 1), ("items", "0")]),
        ("$[1].x", [(1, "x")], [(0, "x"), ("x",)]),
        ("*.x", [("a", "x"), (0, "x")], [("x",)]),
        ('["a.b"]["c d"]', [("a.b", "c d")], [("a", "b")]),
        ("a.**", [("a",), ("a", "b")], [("b",)]),
        ("**", [(), ("a",), (0,)], []),
    ],
)  # fmt: skip
def test_a_path_stands_for_what_lies_under_it(path: str, inside: list[Any], outside: list[Any]) -> None:
    for place in inside:
        assert looks([path], [], place)
        assert not looks([], [path], place)
    for place in outside:
        assert not looks([path], [], place)
        assert looks([], [path], place)


def test_what_is_skipped_is_skipped_also_inside_of_what_is_looked_at() -> None:
    assert looks(["a"], ["a.b"], ("a", "c"))
    assert not looks(["a"], ["a.b"], ("a", "b", "c"))
    assert not looks(["a.b"], ["a"], ("a", "b"))
    assert ALL_FIELDS.everything
    assert not compile_fields([], ["a"]).everything


@given(
    paths=st.lists(st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=5), min_size=1, max_size=4),
    place=st.lists(st.sampled_from("abc"), max_size=6),
)
def test_paths_mean_what_patterns_of_files_mean(paths: list[list[str]], place: list[str]) -> None:
    def matches(steps: list[str], rest: list[str]) -> bool:
        if not steps:
            return True
        if steps[0] == "**":
            return any(matches(steps[1:], rest[at:]) for at in range(len(rest) + 1))
        return bool(rest) and fnmatchcase(rest[0], steps[0]) and matches(steps[1:], rest[1:])

    assert looks([".".join(path) for path in paths], [], tuple(place)) == any(matches(path, place) for path in paths)


def test_fields_seen_from_below_are_the_same_fields() -> None:
    below = compile_fields(["form.mail", "note"], []).below("form")
    assert below.looks(below.enter(below.start, "mail"))
    assert not below.looks(below.enter(below.start, "note"))
    assert ALL_FIELDS.below("x") is ALL_FIELDS


def test_an_end_is_the_place_itself() -> None:
    fields = compile_fields(["a.b", "[*].a"])
    assert [fields.ends_at(path) for path in (("a", "b"), ("a",), ("a", "b", "c"), (7, "a"), ())] == [
        True, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "at"),
    [("", 0), ("a..b", 1), ("a[", 1), ("a[x]", 1), ("a.b c", 3), ("$.a[-1]", 3), ("**a", 2), ("a**", 1), (".a", 0),
     ("$.", 2), ("a.", 1), ('a["b]', 1), ("a[*", 1), ("[0]a", 3)],
)  # fmt: skip
def test_what_is_no_path_is_an_error_that_tells_the_character(path: str, at: int) -> None:
    with pytest.raises(ConfigurationError, match=f"no path of a field at character {at}:"):
        compile_fields([path])
    with pytest.raises(ConfigurationError):
        compile_fields([], [path])
    with pytest.raises(ConfigurationError):
        read_path(path)


def test_a_place_is_told_without_keys_that_could_be_data() -> None:
    assert shown(("messages", 0, "content")) == "messages[0].content"
    assert shown((0, "john@smith.com", "sk_live_1234", "a")) == "[0].?.?.a"
    assert shown(("arguments",), "to") == "arguments:to"
