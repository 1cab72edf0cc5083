"""What finding personal data costs before the first text: time to build a detector, and memory.

    python -m benchmarks.pii_start

Each figure comes from a fresh interpreter. Resident memory is read from ``/proc``, so this needs Linux.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Final

from benchmarks.rounds import print_table, progress

RUNS: Final = 3
SCRIPT: Final = """
import json, re, sys, time
from pathlib import Path

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

began, empty = time.perf_counter(), resident()
import tenantguard
from tenantguard.model.redact_section import Find
from tenantguard.adapters.pii.cascade import CascadeDetector
imported, light = time.perf_counter(), resident()
detector = CascadeDetector(Find(), fast=sys.argv[1] == "fast")
built, full = time.perf_counter(), resident()
detector.detect("Write to a.b@example.com or +1 415 555 0199 from 192.0.2.1.")
first = time.perf_counter()
again = CascadeDetector(Find(threshold=0.5), fast=sys.argv[1] == "fast")
second = time.perf_counter()
for at in range(300):
    detector.detect(f"Card 4242 4242 4242 {at:04d}, call +1 415 555 {at:04d}, see 10.0.0.{at % 256} in 2026. " * 8)
print(json.dumps([imported - began, built - imported, first - built, second - first, empty, light, full, resident()]))
"""


def started(mode: str) -> list[float]:
    """The medians of some fresh interpreters."""
    runs = []
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, check=True, text=True)
        runs.append(json.loads(done.stdout))
    return [statistics.median(figures) for figures in zip(*runs, strict=True)]


def report() -> None:
    """Print the table."""
    table = []
    for name, mode in (("hyperscan", "fast"), ("re", "slow")):
        progress(f"starting, {name}")
        figures = started(mode)
        table.append([name, *(f"{one:.3f}" for one in figures[:4]), *(f"{one:.0f}" for one in figures[4:])])
    columns = (
        "backend", "import, s", "build, s", "first text, s", "another, s",
        "RSS empty, MiB", "imported", "built", "warm",
    )  # fmt: skip
    print_table("A detector of the 17 default recognisers, wall time in a fresh interpreter", columns, table)


if __name__ == "__main__":
    report()
