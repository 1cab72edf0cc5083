"""Texts that cost a detector far more than others of their size: known ones, and a search for worse.

    python -m tests.adapters.pii.adversarial --minutes 10 [--no-fast] [--size 20000]

A candidate is a few short fragments, repeated: what is quadratic or backtracks shows in repetition. The search keeps
the dearest that it saw and changes it (hill climbing, begun anew where it stands still), on processor time at a fifth
of the size and then at the size itself.
"""

# ruff: noqa: RUF001, T201 - digits of other scripts are meant; a command line

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.model.redact_section import Find
from tests.adapters.pii.values import VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE: Final = 20_000
CPU_MS_MAX: Final = 100.0
"""What a text of ``SIZE`` characters may cost."""

_NEAR: Final = 0.7
_STILL: Final = 25
_SMALLER: Final = 5
_KEPT: Final = 10
_FRAGMENTS_MAX: Final = 5
_PARTS: Final = (
    *"0123456789abxyzABDEGHRXZ.-_@:/+()[]#,;'\"= \n\t",
    "a.",
    "1.",
    "1.22.",
    "12 ",
    "1 1 ",
    "a@",
    "@a.",
    "::",
    "ffff:",
    "1:",
    "00-",
    "DE89",
    "GB",
    " 0532",
    "http://",
    "https://a.",
    "www.",
    ".com",
    ".co",
    "a.com/",
    "+1",
    "+49 ",
    "(2",
    ") ",
    "415",
    "555",
    "-01",
    "bc1q",
    "1A1z",
    "3J",
    "T10:",
    "-07",
    "4111",
    " 1111",
    "5-",
    "é",
    "я",
    "٣",
    "７",
    "一",
    "\u00a0",
    "\u3000",
    "%",
    "a-",
    "-a",
    "\\",
    "x",
    " x ",
    "ext",
    "//",
    "..",
    "--",
    "@@",
    "1,",
    "0.5, ",
    "9" * 9,
    "A" * 8,
    "a1",
    "claim",
    "rx # ",
    "\r\n",
    "{",
    "}",
    "&",
    "~",
    "!",
    "*",
    "$",
    "ß",
    "İ",
    "\u200b",
    "0x",
    "e-",
    "Z",
    "JAN",
    "/20",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Fragments that are repeated in turn, each so many times, after a beginning and before an end."""

    fragments: tuple[tuple[str, int], ...]
    begin: str = ""
    end: str = ""

    def text(self, size: int) -> str:
        """The text of this shape, cut to ``size``."""
        unit = "".join([part * times for part, times in self.fragments]) or "a"
        room = max(size - len(self.begin) - len(self.end), 0)
        return (self.begin + (unit * (room // len(unit) + 1))[:room] + self.end)[:size]


def _random_numbers(separator: str, digits: int) -> Callable[[int], str]:
    def text(size: int) -> str:
        rng = Random(digits)
        count = size // (digits + len(separator)) + 1
        return separator.join([f"{rng.randrange(10**digits):0{digits}d}" for _ in range(count)])[:size]

    return text


def _floats(size: int) -> str:
    rng = Random(1)
    return ", ".join([repr(rng.random() * 100) for _ in range(size // 18 + 10)])[:size]


def _of(alphabet: str) -> Callable[[int], str]:
    return lambda size: "".join(Random(2).choices(alphabet, k=size))


def _values(entity: str, separator: str) -> Callable[[int], str]:
    def text(size: int) -> str:
        rng = Random(entity)
        made: list[str] = []
        length = 0
        while length < size:
            made.append(VALUES[entity](rng))
            length += len(made[-1]) + len(separator)
        return separator.join(made)[:size]

    return text


def _repeated(unit: str, end: str = "") -> Callable[[int], str]:
    return Candidate(((unit, 1),), end=end).text


_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
KNOWN: Final[dict[str, Callable[[int], str]]] = {
    "a.a.a": _repeated("a."),
    "1.22.": _repeated("1.22."),
    "a.a.@": _repeated("a.", "@"),
    "a@a.a@": _repeated("a@a."),
    "a@1.22.1.22.": Candidate((("1.22.", 1),), begin="a@", end="\r\n").text,
    "@5///-01-01": Candidate((("5", 1), ("/", 3), ("-01", 8), ("4111", 1)), begin="@").text,
    " 0532::4": _repeated(" 0532::4"),
    "a.a.a.GB$": Candidate((("GB", 2), ("$", 1), ("a.", 300))).text,
    "zz.zz.gb": Candidate((("zz.", 95), ("gb ", 1))).text,
    "'a.gb/'a.gb/": _repeated("'a.gb/"),
    "....@a.claim0000": Candidate(((".", 300), ("@a.", 1), ("claim", 2), ("0", 300))).text,
    "+48 562 603 800+48": _repeated("+48 562 603 800"),
    "41114111x----": Candidate((("1:", 30), ("٣", 1), ("4111", 2), ("x", 1), ("--", 30)), begin="é").text,
    "a-a-a.": _repeated("a-"),
    "12 12 12": _repeated("12 "),
    "1 1 1": _repeated("1 "),
    "1-1-1": _repeated("1-"),
    "((((": _repeated("("),
    "+1+1": _repeated("+1"),
    "::1::1": _repeated("::1"),
    "1:1:1": _repeated("1:"),
    "999...": _repeated("9"),
    "AAA...": _repeated("A"),
    "DE89 DE89": _repeated("DE89 "),
    "http://http://": _repeated("http://"),
    "www.www.": _repeated("www."),
    "a.com/a.com/": _repeated("a.com/"),
    "é.é.é": _repeated("é."),
    "é.é.@": _repeated("é.", "@"),
    "٣ ٣ ٣": _repeated("٣ "),
    "floats": _floats,
    "nine digits": _random_numbers(" ", 9),
    "four digits": _random_numbers(" ", 4),
    "ten digits, commas": _random_numbers(",", 10),
    "sixteen digits": _random_numbers("\n", 16),
    "telephone numbers": _values("PHONE_NUMBER", "\n"),
    "cards": _values("CREDIT_CARD", " "),
    "IBANs": _values("IBAN_CODE", " "),
    "addresses": _values("IP_ADDRESS", " "),
    "e-mail": _values("EMAIL_ADDRESS", " "),
    "URLs": _values("URL", " "),
    "dates": _values("DATE_TIME", " "),
    "base64": _of(_BASE64),
    "base64, white space": _of(_BASE64 + "   "),
    "hex": _of("0123456789abcdef"),
    "hex, capitals": _of("0123456789ABCDEF"),
    "digits": _of("0123456789"),
    "digits, separators": _of("0123456789 -.()+"),
    "letters, dots": _of("abc.@-"),
}  # fmt: skip
"""By name, what makes such a text of a size."""


def cpu_ms(run: Callable[[str], object], text: str, times: int = 1) -> float:
    """The least processor time of some runs: other programs only ever make one slower."""
    least = float("inf")
    for _ in range(times):
        began = time.process_time_ns()
        run(text)
        least = min(least, time.process_time_ns() - began)
    return least / 1e6


@dataclass
class Search:
    """Looks for dear candidates; ``worst`` holds those seen, by processor time at the full size, dearest first."""

    run: Callable[[str], object]
    rng: Random
    size: int = SIZE
    tried: int = 0
    worst: list[tuple[float, Candidate]] = field(default_factory=list)

    def climb(self) -> Iterator[float]:
        """Try one candidate after another, without end; yields the dearest cost in ms at the full size so far."""
        while True:
            here = self._drawn()
            cost = self._small(here)
            still = 0
            while still < _STILL:
                there = self._changed(here)
                new = self._small(there)
                if new > cost:
                    here, cost, still = there, new, 0
                else:
                    still += 1
                yield self.worst[0][0] if self.worst else 0.0
            self._keep(here)

    def _small(self, candidate: Candidate) -> float:
        self.tried += 1
        cost = cpu_ms(self.run, candidate.text(self.size // _SMALLER))
        least = self.worst[-1][0] if len(self.worst) == _KEPT else 0.0
        if cost * _SMALLER > max(_NEAR * least, CPU_MS_MAX / 4):
            self._keep(candidate)
        return cost

    def _keep(self, candidate: Candidate) -> None:
        if any(candidate == seen for _, seen in self.worst):
            return
        self.worst.append((cpu_ms(self.run, candidate.text(self.size), 2), candidate))
        self.worst.sort(key=lambda one: -one[0])
        del self.worst[_KEPT:]

    def _drawn(self) -> Candidate:
        rng = self.rng
        fragments = tuple((self._part(), rng.choice((1, 1, 1, 2, 5))) for _ in range(rng.randint(1, 3)))
        return Candidate(
            fragments, self._part() if rng.random() < 0.2 else "", self._part() if rng.random() < 0.3 else ""
        )

    def _part(self) -> str:
        rng = self.rng
        if rng.random() < 0.1:
            return VALUES[rng.choice(tuple(VALUES))](rng)
        return rng.choice(_PARTS)

    def _changed(self, candidate: Candidate) -> Candidate:
        rng = self.rng
        fragments = list(candidate.fragments)
        kind = rng.randrange(6)
        at = rng.randrange(len(fragments)) if fragments else 0
        if kind == 0 and len(fragments) < _FRAGMENTS_MAX:
            fragments.insert(at, (self._part(), 1))
        elif kind == 1 and len(fragments) > 1:
            del fragments[at]
        elif kind == 2:
            fragments[at] = (self._part(), fragments[at][1])
        elif kind == 3:
            fragments[at] = (fragments[at][0], rng.choice((1, 1, 2, 3, 8, 30, 300)))
        elif kind == 4:
            rng.shuffle(fragments)
        else:
            return Candidate(tuple(fragments), rng.choice(("", self._part())), rng.choice(("", self._part())))
        return Candidate(tuple(fragments), candidate.begin, candidate.end)


def main() -> int:
    """Search for some minutes; 1 if a text of ``SIZE`` characters costs more than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.adapters.pii.adversarial", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--no-fast", action="store_true", help="without hyperscan")
    chosen = parser.parse_args()
    cascade = CascadeDetector(Find(), fast=not chosen.no_fast)
    cascade.detect("warm")
    dearest = 0.0
    for name, make in KNOWN.items():
        passed = cascade.passed
        cost = cpu_ms(cascade.detect, make(chosen.size), 3)
        dearest = max(dearest, cost)
        print(f"{name:<22}{cost:>9.2f} ms{'  past a budget' if cascade.passed > passed else ''}", flush=True)
    search = Search(cascade.detect, Random(chosen.seed), chosen.size)
    end = time.perf_counter() + chosen.minutes * 60
    shown = time.perf_counter()
    for worst in search.climb():
        now = time.perf_counter()
        if now > end:
            break
        if now - shown > 10:
            shown = now
            print(
                f"  ... {end - now:.0f} s left, {search.tried} tried, dearest {worst:.1f} ms",
                file=sys.stderr,
                flush=True,
            )
    print(f"\n{search.tried} candidates; dearest at {chosen.size} characters:")
    for cost, candidate in search.worst:
        print(f"{cost:>9.2f} ms  {candidate.fragments!r} begin {candidate.begin!r} end {candidate.end!r}")
        dearest = max(dearest, cost)
    return 1 if dearest > CPU_MS_MAX * chosen.size / SIZE else 0


if __name__ == "__main__":
    sys.exit(main())
