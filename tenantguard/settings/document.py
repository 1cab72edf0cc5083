"""A TOML document with what the environment overrides in it, and the place of everything that it says.

An environment variable ``TENANTGUARD__GUARD__LEDGER`` sets ``guard.ledger``: keys follow the prefix, joined by two
underscores, without regard to case; a character that no variable's name can have is an underscore there
(``TENANTGUARD__PRICES__GPT_5_MINI__INPUT``). A value is text, or TOML where it is ``true``, ``false`` or a plain
number, or begins with ``[``, ``{`` or a quote.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.settings.lines import locate, nearest_line
from tenantguard.settings.problems import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.settings.lines import Path

T = TypeVar("T")

PREFIX: Final = "TENANTGUARD__"
_TYPED: Final = re.compile(r"\A(?:true|false|-?[0-9][0-9_]*(?:\.[0-9]+)?|[\[{\"'].*)\Z", re.DOTALL)
_BARE: Final = re.compile(r"\A[A-Za-z0-9_-]+\Z")
_UNSAID: Final = re.compile(r"[^A-Za-z0-9_]")
_ERROR_PLACE: Final = re.compile(r" \(at (?:line (?P<line>[0-9]+), column (?P<column>[0-9]+)|end of document)\)\Z")


class Document:
    """``data`` as it holds, ``problems`` found in it so far. Raises :class:`SettingsError` for what is no TOML.

    Relative paths count from ``folder``.
    """

    def __init__(self, text: str, source: str, environ: Mapping[str, str], folder: FilePath | None = None) -> None:
        self.source = source
        self.environ = environ
        self.folder = folder if folder is not None else FilePath()
        self.problems: list[Problem] = []
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as broken:
            raise SettingsError(source, [_syntax_problem(broken, text)]) from None
        except (RecursionError, ValueError):
            message = "cannot be read: a number has thousands of digits, or tables and lists are nested too deep"
            raise SettingsError(source, [Problem(None, "", message)]) from None
        self._lines = locate(text)
        self._variables: dict[Path, str] = {}
        named = [variable for variable in environ if variable.startswith(PREFIX)]
        for variable in sorted(named, key=lambda name: (name.count("__"), name)):  # tables before what is in them
            try:
                self._override(variable, environ[variable])
            except ConfigurationError as unclear:
                self.problems.append(Problem(None, "", str(unclear), variable=variable))

    def problem(self, path: Path, message: str, suggestion: str | None = None) -> None:
        """Note that something is wrong with what stands at ``path``, or should."""
        variable = self._variable(path)
        line = None if variable is not None else self.line(path)
        self.problems.append(Problem(line, show_path(path), message, suggestion, variable))

    def has(self, *path: str) -> bool:
        """Whether anything stands at ``path``, right or wrong."""
        value: Any = self.data
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def attempt(self, make: Callable[[], T], path: Path) -> T | None:
        """What ``make`` returns; None after what it raised was noted."""
        try:
            return make()
        except (ConfigurationError, BadRequestError) as wrong:
            self.problem(path, str(wrong))
            return None

    def line(self, path: Path) -> int | None:
        """The line of ``path`` or of the nearest table around it; None where the environment alone speaks of it."""
        return nearest_line(self._lines, path)

    def raise_problems(self) -> None:
        """Raise :class:`SettingsError` if anything is wrong."""
        if self.problems:
            raise SettingsError(self.source, self.problems)

    def _variable(self, path: Path) -> str | None:
        """The variable that set ``path`` or a table around it, or the only one that speaks of it."""
        for known, variable in self._variables.items():
            if known == path[: len(known)] or (known[: len(path)] == path and path not in self._lines):
                return variable
        return None

    def _override(self, variable: str, text: str) -> None:
        path: Path = ()
        table: dict[str, Any] = self.data
        *tables, last = variable.removeprefix(PREFIX).split("__")
        for part in tables:
            name = _named(table, part)
            path = (*path, name)
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                self._variables[path] = variable
                self.problem(path, "is no table, so nothing can be set in it")
                return
            table = inner
        name = _named(table, last)
        path = (*path, name)
        if path in self._variables:
            raise ConfigurationError(f"sets {show_path(path)}, as {self._variables[path]} does; unset one of them")
        self._variables[path] = variable
        if not _TYPED.match(text):
            table[name] = text
            return
        try:
            parsed = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):
            parsed = {}
        if parsed.keys() == {"value"}:
            table[name] = parsed["value"]
        else:
            self.problem(path, "begins like TOML, but is none", "put text that begins so in quotes")


def show_path(path: Path) -> str:
    """Write a path as TOML would: ``prices."gpt-5.1".input``, ``tenancy.keys[0].hash``."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if _BARE.match(part) else f'"{part}"')
    return shown


def _named(table: dict[str, Any], part: str) -> str:
    """The key of ``table`` that this part of a variable's name means; a new one in lower case."""
    wanted = part.upper()
    meant = [name for name in table if _UNSAID.sub("_", name).upper() == wanted]
    if len(meant) > 1:
        raise ConfigurationError(f"{part} means {' and '.join(map(repr, meant))}; write it into the file instead")
    return meant[0] if meant else part.lower()


def _syntax_problem(broken: tomllib.TOMLDecodeError, text: str) -> Problem:
    place = _ERROR_PLACE.search(str(broken))
    message = str(broken)[: place.start()] if place else str(broken)
    line = int(place["line"]) if place and place["line"] else text.count("\n") + 1
    column = f" (column {place['column']})" if place and place["column"] else ""
    return Problem(line, "", f"this is not TOML: {message}{column}")
