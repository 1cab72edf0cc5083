"""Many rows in few statements.

A statement of many rows costs a third of as many statements, and it gives the interpreter's lock away once: beside a
busy event loop each such moment can cost the writer a turn of the other thread.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_SIZES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Statements are prepared for these numbers of rows: few texts to keep, few steps for a batch."""

_MOST: Final = _SIZES[-1]


def select(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of ``query`` with ``values`` in the place of every ``{}`` in it; none for no values."""
    if not values:
        return []
    if len(values) <= _MOST:
        return db.execute(*_of_values(query, values)).fetchall()
    return select(db, query, values[:_MOST]) + select(db, query, values[_MOST:])


def delete(db: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
    """Run ``statement`` with ``values`` in the place of its ``{}``."""
    for start in range(0, len(values), _MOST):
        db.execute(*_of_values(statement, values[start : start + _MOST]))


def write(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run ``statement`` with ``rows`` in the place of its ``{}``."""
    start, left = 0, len(rows)
    while left:
        size = _SIZES[bisect_right(_SIZES, left) - 1]
        values = rows[start] if size == 1 else tuple(chain.from_iterable(rows[start : start + size]))
        db.execute(_rows_text(statement, size, len(rows[start])), values)
        start += size
        left -= size


def _of_values(statement: str, values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """``statement`` for ``values``, which are filled up with the last of them to one of ``_SIZES``."""
    size = _SIZES[bisect_left(_SIZES, len(values))]
    if size > len(values):
        values = [*values, *[values[-1]] * (size - len(values))]
    return _values_text(statement, size), values


@lru_cache(maxsize=256)
def _rows_text(statement: str, rows: int, columns: int) -> str:
    return statement.format(", ".join([f"({', '.join('?' * columns)})"] * rows))


@lru_cache(maxsize=256)
def _values_text(statement: str, values: int) -> str:
    return statement.replace("{}", ", ".join(f"?{number}" for number in range(1, values + 1)))
