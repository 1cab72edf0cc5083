"""What ``import tenantguard`` costs in a fresh process.

python -m benchmarks.imports
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Final

from benchmarks.rounds import Target, print_table, print_targets

ROUNDS: Final = 10
HEAVY: Final = ("presidio_analyzer", "spacy", "genai_prices", "pydantic", "limits", "structlog", "moneyed")
_PROGRAM: Final = """
import sys, time
began = time.process_time_ns(), time.perf_counter_ns()
import tenantguard
{use}
loaded = (name for name in {heavy} if name in sys.modules)
print(time.process_time_ns() - began[0], time.perf_counter_ns() - began[1], *loaded)
"""


def _measure(use: str) -> tuple[float, float, set[str]]:
    cpu, wall = [], []
    loaded: set[str] = set()
    for _ in range(ROUNDS):
        program = _PROGRAM.format(use=use, heavy=HEAVY)
        printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        first, second, *names = printed.split()
        cpu.append(int(first) / 1e6)
        wall.append(int(second) / 1e6)
        loaded |= set(names)
    return statistics.median(cpu), statistics.median(wall), loaded


def run() -> list[Target]:
    """Measure and print."""
    rows = []
    targets = []
    uses = {
        "import tenantguard": "",
        "and Guard, ASGIGuard, RateLimit": "tenantguard.Guard, tenantguard.ASGIGuard, tenantguard.RateLimit",
    }
    for name, use in uses.items():
        cpu, wall, loaded = _measure(use)
        rows.append((name, f"{cpu:.0f}", f"{wall:.0f}", ", ".join(sorted(loaded)) or "none"))
        met = cpu < 150 and not loaded & {"presidio_analyzer", "spacy", "genai_prices"}
        targets.append(Target(name, "< 150 ms CPU", f"{cpu:.0f} ms", met))
    print_table("Importing, in a fresh process", ("", "CPU ms", "wall ms", "heavy packages loaded"), rows)
    return targets


if __name__ == "__main__":
    print_targets(run())
