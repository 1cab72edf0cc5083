"""What finding secrets costs, what it finds of random keys, and false alarms: processor time for each 2 KB.

    python -m benchmarks.secrets

"scan" is one pass for all triggers over text without a secret; "re" is the scanner without the package hyperscan.
"scan, of n" has only the first n formats. False alarms are counted over generated and real text without a secret,
"found" over random keys without a prefix, which nothing but chance tells from a name.
"""

from __future__ import annotations

import base64
import importlib.util
import re
import sys
import sysconfig
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.rounds import interleave, print_table, progress
from tenantguard.adapters.pii.finder import Budget
from tenantguard.adapters.pii.prefilter import plan
from tenantguard.adapters.pii.scanning import scanner
from tenantguard.adapters.pii.secrets import SecretSearch
from tenantguard.rules.secrets.catalog import FORMATS
from tenantguard.rules.secrets.entropy import RUN, random_key
from tests.rules.secrets.corpora import NAMES, corpus
from tests.rules.secrets.examples import example, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.model.pii import Match

ROUNDS = 7
SIZE = 2048
CORPUS_CHARS = 2_000_000
CLEAN = (
    "Thank you for your message. The parcel left our warehouse this morning and should reach you within the week, "
    "unless the weather in the mountains gets worse again. You can always follow its way in your account, and our "
    "colleagues at the counter will be glad to answer whatever else you would like to know about it. "
)
FAST = importlib.util.find_spec("hyperscan") is not None


def scan_of(search: SecretSearch, count: int, *, fast: bool) -> Any:
    plans = [plan(expression) for expression in search.expressions[:count]]
    return scanner([one for one in plans if one is not None], fast=fast)


def detector(search: SecretSearch, *, fast: bool) -> Callable[[str], list[Match]]:
    scan = scan_of(search, len(search.expressions), fast=fast)

    def detect(text: str) -> list[Match]:
        windows = scan.windows(text, 0)
        return search.search(text, windows, [], Budget()) if windows else []

    return detect


def repeated(work: Callable[[], object]) -> Callable[[int], None]:
    def times(operations: int) -> None:
        for _ in range(operations):
            work()

    return times


def costs(search: SecretSearch) -> None:
    clean = (CLEAN * 9)[:SIZE]
    random = Random(1)
    dense = " ".join(example(secret, random) for secret in FORMATS)[:SIZE]
    code = corpus("source code", SIZE)[:SIZE]
    cases: dict[str, Callable[[int], None]] = {}
    for fast in (True, False) if FAST else (False,):
        name = "hyperscan" if fast else "re"
        detect = detector(search, fast=fast)
        for kind, text in (("clean", clean), ("source code", code), ("dense", dense)):
            cases[f"{name}: {kind}"] = repeated(lambda detect=detect, text=text: detect(text))
        for count in (50, 100, len(FORMATS)):
            scan = scan_of(search, count, fast=fast)
            cases[f"{name}: scan, of {count}"] = repeated(lambda scan=scan: scan.clears(clean))
    samples = interleave(cases, ROUNDS)
    print_table("What 2 KB cost", ["text", "us CPU"], [[name, f"{samples.median(name):,.1f}"] for name in cases])


def real_texts() -> dict[str, str]:
    """The standard library without its tests, and what stands in the licences of what is installed."""
    paths = sysconfig.get_paths()
    modules = [
        path
        for path in Path(paths["stdlib"]).glob("**/*.py")
        if not {"site-packages", "test", "tests", "idle_test"} & set(path.parts)
    ]
    licences = [
        path for path in Path(paths["purelib"]).glob("*.dist-info/**/*") if re.search("LICEN[CS]E", path.name)
    ]
    return {
        "standard library": "\n".join(path.read_text(errors="replace") for path in modules),
        "licences": "\n".join(path.read_text(errors="replace") for path in licences if path.is_file()),
        "RECORD files": "\n".join(path.read_text() for path in Path(paths["purelib"]).glob("*.dist-info/RECORD")),
    }


def false_alarms(search: SecretSearch) -> int:
    detect = detector(search, fast=FAST)
    texts = {name: corpus(name, CORPUS_CHARS) for name in NAMES} | real_texts()
    counts = {name: len(detect(text)) for name, text in texts.items()}
    print_table(
        "False alarms",
        ["text", "MB", "found"],
        [[n, f"{len(texts[n]) / 1e6:.1f}", str(c)] for n, c in counts.items()],
    )
    return sum(counts.values())


def found_of_random() -> None:
    random = Random(2)
    makes: dict[str, Callable[[], str]] = {
        f"{length} letters and digits": lambda length=length: run(random, length) for length in (32, 40, 64, 128)
    }
    for size in (24, 32, 48, 64):
        makes[f"base64 of {size} bytes"] = lambda size=size: base64.b64encode(random.randbytes(size)).decode()
    rows = []
    for name, make in makes.items():
        hits = 0
        for _ in range(2000):
            text = f"key: {make()} ok"
            hits += any(random_key(text, *one.span()) for one in RUN.finditer(text))
        rows.append([name, f"{hits / 20:.1f} %"])
    print_table("Random keys without a prefix", ["key", "found"], rows)


def main() -> int:
    search = SecretSearch()
    print(f"{len(FORMATS)} formats, hyperscan {'installed' if FAST else 'missing'}")
    costs(search)
    progress("looking for false alarms")
    alarms = false_alarms(search)
    found_of_random()
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
