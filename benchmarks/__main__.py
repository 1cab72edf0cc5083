"""Run the benchmarks, or those named: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Final

BENCHMARKS: Final = {
    "imports": "what `import tenantguard` costs (5 s)",
    "overhead": "what a guard adds in process, ASGI and WSGI, and with the durable ledger (75 s)",
    "served": "the same under uvicorn (60 s)",
    "proxy": "the guarded proxy against a raw pass-through; refusals, memory, start-up (75 s)",
    "proxy_app": "the proxy without a guard against the same pass-through (30 s)",
    "ledger": "the group-commit ledger against a commit for each operation: to_thread, aiosqlite, SQLAlchemy (50 s)",
    "postgres": "the same on PostgreSQL against a transaction and a function call for each operation (60 s)",
    "overshoot": "budgets that 1, 2 and 4 processes share, on SQLite and PostgreSQL (100 s)",
    "money": "holds and charges under uvicorn: what a request costs, and waits (110 s)",
    "litellm": "a durable hold and charge against LiteLLM's in memory; LITELLM_PYTHON names its interpreter (25 s)",
    "limits": "rates in memory against a bare bucket, `limits` and throttled-py; requests; a million keys (60 s)",
    "limiters_served": "rates under uvicorn, beside slowapi, fastapi-limiter and throttled-py (150 s)",
    "redis": "rates in Redis, exact, coalesced and leased, against a bare script and `limits` (40 s)",
    "slots": "slots and queues in memory: hand-overs with up to 100 000 waiting, how soon the next is woken (15 s)",
    "usage_tap": "reading usage from a stream against parsing every event (5 s)",
    "redaction": "searching, bodies, streams, hostile texts, start; beside Presidio (6 min)",
    "secrets": "finding secrets: cost, false alarms, random keys (30 s)",
}


def main() -> int:
    """Run each in a process of its own; the worst exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure CPU time side by side with peers in one run; see benchmarks/README.md for the method.",
        epilog="\n".join(f"  {name:<16}{what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    worst = 0
    for name in names:
        print(f"\n=== {name}: {BENCHMARKS[name]}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
