from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.settings.lines import Path, locate, nearest_line, nearest_path


class Writer:
    """Writes TOML in every notation there is, and knows on which line each thing begins."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def here(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def put(self, text: str) -> None:
        self.text += text

    def name(self, name: str) -> None:
        plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        quoted = self.pick(f'"{name}"', f"'{name}'")
        self.put(self.pick(name, quoted) if plain else quoted)

    def pairs(self, table: dict[str, Any], path: Path, ends: str = "\n") -> None:
        for index, (name, value) in enumerate(table.items()):
            self.here((*path, name))
            self.put(self.pick("", "  ") if ends == "\n" else "")
            self.name(name)
            self.put(self.pick("=", " = ", "\t=\t"))
            self.value(value, (*path, name))
            if ends == "\n":
                self.put(self.pick("", " # a = [", "\t# '''") + self.pick("\n", "\r\n", "\n\n# [no] table\n"))
            elif index < len(table) - 1:
                self.put(ends)

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self.put("{ ")
            self.pairs(value, path, ends=" , ")
            self.put(" }")
        elif isinstance(value, list):
            self.put("[")
            for index, element in enumerate(value):
                self.put(self.pick("", " ", "\n", "\n # ]\n", "\r\n\t"))
                self.here((*path, index))
                self.value(element, (*path, index))
                self.put(self.pick("", "\n", " # , [\n") + ",")
            self.put(self.pick("", "\n") + "]")
        elif isinstance(value, str):
            multi = f'"""\n{value}"\n\\"\\"{value}x""""'
            self.put(self.pick(f'"{value}"', f"'{value}'", multi, f"'''{value}'\n'''"))
        else:
            self.put(str(value).lower())

    def table(self, name: str, table: dict[str, Any], path: Path = ()) -> None:
        own = {key: value for key, value in table.items() if not isinstance(value, dict) or self.draw(st.booleans())}
        self.here((*path, name))
        self.put("[" + self.dotted((*path, name)) + "]" + self.pick("", " # x") + "\n")
        self.pairs(own, (*path, name))
        for key, value in table.items():
            if key not in own:
                self.table(key, value, (*path, name))

    def dotted(self, path: Path) -> str:
        return self.pick(".", " . ").join(f'"{name}"' for name in path if isinstance(name, str))

    def tables(self, name: str, elements: list[dict[str, Any]]) -> None:
        for index, element in enumerate(elements):
            self.here((name,))
            self.here((name, index))
            self.put(f"[[ {self.dotted((name,))} ]]\n")
            self.pairs({key: value for key, value in element.items() if not isinstance(value, dict)}, (name, index))
            for key, value in element.items():
                if isinstance(value, dict):
                    self.table(key, value, (name, index))


names = st.one_of(
    st.sampled_from(["a", "b-c", "gpt-5.1", "x y", "é", "#", "]", "=", "1"]), st.text("abc", min_size=1)
)
texts = st.text("ab #[]{}=,.", max_size=8)
leaves = st.one_of(st.integers(), st.booleans(), texts)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
tables = st.dictionaries(names, values, max_size=4)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    writer = Writer(draw)
    top = draw(tables)
    later = draw(
        st.dictionaries(
            names.filter(lambda name: name not in top), st.one_of(tables, st.lists(tables, min_size=1, max_size=3))
        )
    )
    writer.pairs(top, ())
    for name, value in later.items():
        if isinstance(value, dict):
            writer.table(name, value)
        else:
            writer.tables(name, value)
    return writer.text, writer.lines


def paths(value: Any, path: Path = ()) -> set[Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path, *(found for key, element in inner for found in paths(element, (*path, key)))}


@settings(max_examples=100, deadline=None)
@given(documents())
def test_every_key_is_found_on_its_own_line(document: tuple[str, dict[Path, int]]) -> None:
    text, lines = document
    located = locate(text)
    assert set(located) == paths(tomllib.loads(text)) - {()}
    assert located == lines


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("\n\na.b = 1", ("a", "b"), 3),
        ('s = """\n[t]\n""""\nx = 1', ("x",), 4),
        ("s = '''''''''\nx = 1".replace("'''''''''", "''''''"), ("x",), 2),
        ("[[a]]\n[[a.b]]\n[[a]]\n[[a.b]]\nc = 1", ("a", 1, "b", 0, "c"), 5),
        ("[a]\nd = 1979-05-27 07:32:00 # day\n[b]", ("b",), 3),
        ('["a.b".\'c\']\n"d" . e = 1', ("a.b", "c", "d", "e"), 2),
        ('"\\u0061" = 1', ("a",), 1),
        ("x = {a = 1, b = {c = 'd}'}}\ny = 2", ("y",), 2),
        ("[a.b]\n\n[a]\nc = 1", ("a", "c"), 4),
    ],
)
def test_notations_that_a_plain_search_gets_wrong(text: str, path: Path, line: int) -> None:
    assert locate(text)[path] == line


def test_what_is_missing_is_looked_for_in_the_nearest_table_around_it() -> None:
    lines = locate("x = 1\n[a]\nb = { c = 1 }")
    assert nearest_line(lines, ("a", "b", "limit", 0)) == 3
    assert nearest_path(lines, ("a", "b", "limit", 0)) == ("a", "b")
    assert nearest_line(lines, ("a", "z")) == 2
    assert nearest_line(lines, ("z",)) is None


def test_what_tomllib_refuses_is_refused_here_as_well_instead_of_looping() -> None:
    with pytest.raises(ValueError, match="line 2"):
        locate("a = 1\n= 2")
