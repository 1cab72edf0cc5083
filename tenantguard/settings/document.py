"""A TOML document with what the environment overrides in it, and the place of everything that it says.

An environment variable ``TENANTGUARD__GUARD__LEDGER`` sets ``guard.ledger``: keys follow the prefix, joined by two
underscores, without regard to case; a character that no variable's name can have is an underscore there
(``TENANTGUARD__PRICES__GPT_5_MINI__INPUT``). A value is text, or TOML where it is ``true``, ``false``, a plain number,
or begins with ``[``, ``{`` or a quote.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from tenantguard.rules.tomllines import locate, nearest_line, nearest_path
from tenantguard.settings.problems import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.rules.tomllines import Path

PREFIX: Final = "TENANTGUARD__"
_TYPED: Final = re.compile(r"\A(?:true|false|-?[0-9]+(?:\.[0-9]+)?|[\[{\"'].*)\Z", re.DOTALL)
_ERROR_PLACE: Final = re.compile(r" \(at (?:line (?P<line>[0-9]+), column (?P<column>[0-9]+)|end of document)\)\Z")


class Document:
    """``data`` as it holds, ``problems`` found in it so far. Raises :class:`SettingsError` for what is no TOML."""

    def __init__(self, text: str, source: str, environ: Mapping[str, str]) -> None:
        self.source = source
        self.problems: list[Problem] = []
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as broken:
            raise SettingsError(source, [_syntax_problem(broken, text)]) from None
        self._lines = locate(text)
        self._variables: dict[Path, str] = {}
        for variable in sorted(environ):
            if variable.startswith(PREFIX):
                self._override(variable, environ[variable])

    def problem(self, path: Path, message: str, suggestion: str | None = None) -> None:
        """Note that something is wrong with what stands at ``path``, or should."""
        covering = [known for known in self._variables if known == path[: len(known)]]
        variable = self._variables[max(covering, key=len)] if covering else None
        shown = path if path[:-1] == nearest_path(self._lines, path) else self._nearest(path)
        line = None if variable is not None else nearest_line(self._lines, path)
        self.problems.append(Problem(line, show_path(shown), message, suggestion, variable))

    def line(self, path: Path) -> int | None:
        """The line of ``path`` or of the nearest table around it; None where the environment alone speaks of it."""
        return nearest_line(self._lines, path)

    def raise_problems(self) -> None:
        """Raise :class:`SettingsError` if anything is wrong."""
        if self.problems:
            raise SettingsError(self.source, self.problems)

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
        self._variables[path] = variable
        try:
            table[name] = tomllib.loads(f"value = {text}")["value"] if _TYPED.match(text) else text
        except tomllib.TOMLDecodeError:
            self.problem(path, "begins like TOML, but cannot be read as such", "text needs quotes there")
