"""The long run: ``python -m tests.kill --kills 300 --ledger sqlite`` (or ``postgres``; ``--victim database``).

A loaded server is killed with SIGKILL as often as that, by the code that the tests run; with ``--victim database`` it
is PostgreSQL itself, by turns all of its processes with SIGKILL and an immediate shutdown. Everything is in a
directory of its own, and the PostgreSQL is started for the run. It exits with 1 where anything was lost, doubled or
broken. Three hundred kills take some five minutes; SIGINT ends it early.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import Postgres
from tests.kill.killing import Figures, Killing


def run(kills: int, ledger: str, victim: str, seed: int) -> Figures:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True)))
        postgres = None
        if ledger == "postgres":
            postgres = Postgres(folder / "pg")
            stack.callback(postgres.end)
        where = postgres.uri if postgres is not None else str(folder / "ledger.db")
        killing = Killing(folder, where, seed, postgres)
        rounds = killing.servers if victim == "server" else killing.databases
        shown = 0

        def told(done: int) -> None:
            nonlocal shown
            if done >= shown + 10 or done >= kills:
                shown = done
                print(f"  ... {done} of {kills} kills", file=sys.stderr, flush=True)  # noqa: T201 - a command

        return asyncio.run(rounds(kills, told))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description="Kill loaded servers again and again.")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--ledger", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--victim", choices=("server", "database"), default="server")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.victim == "database" and asked.ledger == "sqlite":
        parser.error("SQLite has no processes of its own: --ledger postgres")
    figures = run(asked.kills, asked.ledger, asked.victim, asked.seed)
    rows = [("ledger, what is killed", f"{asked.ledger}, {asked.victim}"), *figures.rows()]
    width = max(len(name) for name, _ in rows)
    for name, shown in rows:
        print(f"{name.ljust(width)}  {shown}")  # noqa: T201
    for sentence in figures.broken[:20]:
        print(sentence)  # noqa: T201
    return 0 if figures.sound else 1


if __name__ == "__main__":
    sys.exit(main())
