"""What is wrong with a settings file: everything at once, each with its place and, where there is one, a remedy."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: on which ``line`` (None: it stands nowhere yet), under which key ``path``.

    ``variable`` names the environment variable that set the value, where one did. The texts never repeat secrets.
    """

    line: int | None
    path: str
    message: str
    suggestion: str | None = None
    variable: str | None = None


class SettingsError(ConfigurationError):
    """Settings that cannot work. ``problems`` has all of them, in the order of the file's lines."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.path))
        count = len(self.problems)
        heading = f"{source} has {count} problem{'' if count == 1 else 's'}:"
        super().__init__("\n".join([heading, *(f"  {self._line(problem)}" for problem in self.problems)]))

    def _line(self, problem: Problem) -> str:
        if problem.variable is not None:
            place = f"environment variable {problem.variable}"
        else:
            place = f"{self.source}:{problem.line}" if problem.line is not None else self.source
        told = f"{place}: {problem.path}: {problem.message}" if problem.path else f"{place}: {problem.message}"
        return f"{told}; {problem.suggestion}" if problem.suggestion else told


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A suggestion of the name that was probably meant, or None."""
    names = sorted(known)
    begun = [other for other in names if name and other.startswith(name)]
    close = difflib.get_close_matches(name, names, n=1) or begun
    return f"did you mean {close[0]!r}?" if close else None
