"""Statements of many rows do what as many statements of one row would do."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.ledger.rows import delete, select, write

sizes = st.one_of(st.integers(0, 20), st.integers(0, 400))


@given(sizes, sizes)
def test_however_many_rows_each_is_written_found_and_deleted_once(many: int, few: int) -> None:
    rows = [(number, f"row {number}") for number in range(many)]
    named = list(range(min(few, many)))
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        write(db, "INSERT INTO t VALUES {}", rows)
        assert db.execute("SELECT * FROM t ORDER BY id").fetchall() == rows
        twice = "SELECT id FROM t WHERE id IN ({}) UNION SELECT -1 - id FROM t WHERE id IN ({})"
        assert sorted(select(db, twice, named)) == [(-1 - number,) for number in reversed(named)] + [
            (number,) for number in named
        ]
        delete(db, "DELETE FROM t WHERE id IN ({})", named)
        assert db.execute("SELECT * FROM t ORDER BY id").fetchall() == rows[len(named) :]


@given(st.lists(st.integers(1, 600), min_size=5, max_size=20))
def test_few_statements_are_prepared_and_few_run(sizes: list[int]) -> None:
    """SQLite keeps 256 prepared statements; a batch of 512 rows takes four steps."""
    texts: set[str] = set()
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (id INTEGER)")
        for size in sizes:
            run: list[str] = []
            db.set_trace_callback(run.append)
            write(db, "INSERT INTO t VALUES {}", [(1,)] * size)
            db.set_trace_callback(None)
            inserts = [text for text in run if text.startswith("INSERT")]
            assert len(inserts) <= size // 128 + 3
            texts.update(inserts)
    assert len(texts) <= 16
