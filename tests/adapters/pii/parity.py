"""The cascade against Presidio's own engine on generated texts: equal results, equal anonymised texts.

    python -m tests.adapters.pii.parity --texts 100000 --jobs 2 [--no-fast] [--recognizers default|each|all]

Each text is searched by Presidio once and by the cascade twice, with hyperscan and without (or as asked for).
``default`` compares the 17 recognisers that Presidio has on by default for English, ``each`` every other one alone,
all of them on every text, ``all`` the whole lot at once. Context scoring is off on our side; Presidio's, over an
engine without a language model, has no words to look at. The exit code is 1 if a text differs; the seed of a text
that does is enough to make it again (``texts.any_text`` through ``text_of``).
"""

# ruff: noqa: T201 - a command line

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.errors import PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Find
from tests.adapters.pii.sampled import drawn, parsed
from tests.adapters.pii.texts import any_text
from tests.adapters.pii.values import DEFAULT, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from presidio_analyzer import AnalyzerEngine, EntityRecognizer
    from presidio_anonymizer import AnonymizerEngine

CLAIMING: Final = 0.5
"""A telephone number inside of a span that another result of this score covers need not be searched for."""

_MODULES: Final = (
    "presidio_analyzer.predefined_recognizers.generic.",
    "presidio_analyzer.predefined_recognizers.country_specific.",
)
_DRAWN: Final = 40
_CHUNK: Final = 50
_PHONE: Final = "PHONE_NUMBER"


class Difference(NamedTuple):
    """One text on which the two disagree: what is missing, what is too much, or what became of the text."""

    recognizers: str
    what: str
    theirs: str
    ours: str


@cache
def recognizer_names() -> tuple[str, ...]:
    """Every recogniser class of Presidio's that needs neither a model nor a service."""
    from presidio_analyzer import predefined_recognizers

    return tuple(
        name
        for name, found in sorted(vars(predefined_recognizers).items())
        if isinstance(found, type) and found.__module__.startswith(_MODULES)
    )


def others() -> tuple[str, ...]:
    """Those that are not on by default for English."""
    on = {type(one).__name__ for one in _on_by_default()}
    return tuple(name for name in recognizer_names() if name not in on)


def _on_by_default() -> list[EntityRecognizer]:
    from presidio_analyzer.recognizer_registry import RecognizerRegistryProvider

    configuration = {"supported_languages": ["en"]}
    registry = RecognizerRegistryProvider(registry_configuration=configuration).create_recognizer_registry()
    return [one for one in registry.recognizers if type(one).__module__.startswith(_MODULES)]


def _recognizers(names: Sequence[str]) -> list[EntityRecognizer]:
    from presidio_analyzer import predefined_recognizers

    if not names:
        return _on_by_default()
    return [getattr(predefined_recognizers, name)(supported_language="en") for name in names]


class Presidio:
    """``AnalyzerEngine`` over ``NoOpNlpEngine`` with some recognisers (none named: those on by default), as it is.

    All that is changed is that ``tldextract`` reads the list in its package instead of fetching one.
    """

    def __init__(self, names: Sequence[str] = (), threshold: float = 0.0) -> None:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NoOpNlpEngine
        from presidio_analyzer.predefined_recognizers import EmailRecognizer
        from tldextract import TLDExtract

        extract = TLDExtract(cache_dir=None, suffix_list_urls=())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.recognizers = _recognizers(names)
            for one in self.recognizers:
                if isinstance(one, EmailRecognizer):
                    one.validate_result = lambda text: extract(text).fqdn != ""  # type: ignore[method-assign]
            self._engine: AnalyzerEngine = AnalyzerEngine(
                registry=RecognizerRegistry(recognizers=self.recognizers, supported_languages=["en"]),
                nlp_engine=NoOpNlpEngine([{"lang_code": "en", "model_name": "no_op"}]),
                supported_languages=["en"],
                default_score_threshold=threshold,
            )

    def analyze(self, text: str) -> list[Match] | None:
        """Its results, in its order; None where one of its validators fails (the Italian one, on Arabic digits)."""
        try:
            found = self._engine.analyze(text, "en")
        except Exception:  # noqa: BLE001 - whatever it is, there is nothing to compare with
            return None
        return [Match(one.entity_type, one.start, one.end, one.score) for one in found]


class Pair:
    """Presidio and the cascade, with and without hyperscan, with the same recognisers (none named: the default)."""

    def __init__(self, names: Sequence[str] = (), backends: Sequence[bool] = (True, False)) -> None:
        self.title = "default" if not names else names[0] if len(names) == 1 else f"{len(names)} recognisers"
        self.theirs = Presidio(names)
        find = Find(recognizers=tuple(names), threshold=0.0, context=False)
        self.ours = {fast: CascadeDetector(find, fast=fast) for fast in backends}

    def compare(self, text: str, figures: Figures) -> list[Difference]:
        """Every difference on one text, and what it cost."""
        began = time.process_time_ns()
        theirs = self.theirs.analyze(text)
        figures.theirs_ns += time.process_time_ns() - began
        figures.texts += 1
        figures.chars += len(text)
        if theirs is None:
            figures.failed += 1
            return [Difference(self.title, "failed", "", one) for one in self._failures(text)]
        figures.results += len(theirs)
        wholes = (anonymised(text, theirs), anonymised(text, theirs, settled=True)) if theirs else (text, text)
        differences = []
        for fast, cascade in self.ours.items():
            title = self.title if fast else f"{self.title}, no hyperscan"
            for what, expected, seen in self._differences(text, theirs, wholes, cascade, figures):
                differences.append(Difference(title, what, expected, seen))
        return differences

    def _failures(self, text: str) -> Iterator[str]:
        """What the cascade raises, other than the error of a port, where Presidio fails."""
        for cascade in self.ours.values():
            try:
                cascade.analyze(text)
            except PortError:
                continue
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                yield type(error).__name__

    def _differences(
        self, text: str, theirs: list[Match], wholes: tuple[str, str], cascade: CascadeDetector, figures: Figures
    ) -> Iterator[tuple[str, str, str]]:
        passed = cascade.passed
        began = time.process_time_ns()
        ours = cascade.analyze(text)
        figures.ours_ns += time.process_time_ns() - began
        if cascade.passed > passed:
            figures.passed += 1
            if less := [one for one in theirs if not covered(one, ours)]:
                yield "not covered", repr(less), repr(ours)
            return
        missing, more = unequal(theirs, ours)
        if missing or more:
            yield "results", repr(missing), repr(more)
        merged, settled = wholes
        if (seen := anonymised(text, ours)) != merged:
            yield "anonymised", repr(merged), repr(seen)
        if (seen := replaced(text, cascade.detect(text))) != settled:
            yield "settled", repr(settled), repr(seen)


def unequal(theirs: Iterable[Match], ours: Iterable[Match]) -> tuple[list[Match], list[Match]]:
    """What only Presidio found and need not be skipped, and what only we found."""
    expected, seen = set(theirs), set(ours)
    claims = [one for one in expected if one.entity != _PHONE and one.score >= CLAIMING]
    missing = [
        one for one in expected - seen if not (one.entity == _PHONE and any(_inside(one, big) for big in claims))
    ]
    return sorted(missing, key=_place), sorted(seen - expected, key=_place)


def covered(match: Match, by: Iterable[Match]) -> bool:
    """Whether every character of a match lies in a result of ``by``."""
    at = match.start
    for one in sorted(by, key=_place):
        if one.start <= at < one.end:
            at = one.end
    return at >= match.end


def anonymised(text: str, found: Iterable[Match], *, settled: bool = False) -> str:
    """What Presidio's anonymiser makes of a text by these results, with or without intersections left over.

    Of results with equal spans and scores the last one wins, so they are brought into the engine's own order.
    """
    from presidio_anonymizer.entities import ConflictResolutionStrategy, RecognizerResult

    ordered = sorted(found, key=lambda one: (-one.score, one.start, one.start - one.end, one.entity))
    results = [RecognizerResult(one.entity, one.start, one.end, one.score) for one in ordered]
    if not settled:
        return str(_anonymizer().anonymize(text, results).text)
    strategy = ConflictResolutionStrategy.REMOVE_INTERSECTIONS
    engine = _anonymizer()
    return str(engine.anonymize(text, results, conflict_resolution=strategy, merge_entities_with_spaces=False).text)


@cache
def _anonymizer() -> AnonymizerEngine:
    from presidio_anonymizer import AnonymizerEngine

    return AnonymizerEngine()


def replaced(text: str, matches: Sequence[Match]) -> str:
    """``text`` with the name of its entity in place of each match."""
    for match in reversed(matches):
        text = f"{text[: match.start]}<{match.entity}>{text[match.end :]}"
    return text


def _inside(one: Match, other: Match) -> bool:
    return other.start <= one.start and one.end <= other.end


def _place(match: Match) -> tuple[int, int, str]:
    return match.start, match.end, match.entity


def text_of(seed: int, entities: Sequence[str] = (), names: Sequence[str] = ()) -> str:
    """The text that belongs to a seed: with values of ``entities``, else of all or of three drawn ones.

    A quarter of the values are drawn from the expressions of the recognisers themselves (``names``, else all).
    """
    rng = Random(seed)
    kind = rng.random()
    chosen = entities or (DEFAULT if kind < 0.5 else tuple(VALUES) if kind < 0.75 else rng.sample(tuple(VALUES), 3))
    return any_text(seed, chosen, pool(tuple(names)))


@cache
def pool(names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Strings drawn from the expressions of recognisers (none named: of all)."""
    values: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in _recognizers(names or recognizer_names()):
            rng = Random(type(one).__name__)
            for pattern in getattr(one, "patterns", ()):
                tree = parsed(pattern.regex)
                values += [drawn(rng, tree) for _ in range(_DRAWN)]
    return tuple(values)


@dataclass
class Figures:
    """What a run saw. ``passed`` counts searches in which a work budget ended, ``failed`` failures of Presidio."""

    texts: int = 0
    chars: int = 0
    results: int = 0
    passed: int = 0
    failed: int = 0
    theirs_ns: int = 0
    ours_ns: int = 0
    differing: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        """Add another run's figures."""
        for name in ("texts", "chars", "results", "passed", "failed", "theirs_ns", "ours_ns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differing.update(other.differing)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.differing.items())) or "none"
        ratio = self.theirs_ns / max(self.ours_ns, 1)
        return (
            f"{self.texts:,} comparisons, {self.chars / 1e6:.2f} M chars, {self.results:,} results of Presidio's, "
            f"{self.passed} past a budget, {self.failed} failures of Presidio's; {ratio:.1f}x; differences: {kinds}"
        )


def pairs(recognizers: str, backends: Sequence[bool]) -> list[Pair]:
    """What a run compares."""
    if recognizers == "each":
        return [Pair((name,), backends) for name in others()]
    return [Pair(recognizer_names() if recognizers == "all" else (), backends)]


_PAIRS: list[Pair] = []


def _start(recognizers: str, backends: Sequence[bool]) -> None:
    logging.disable(logging.CRITICAL)
    _PAIRS[:] = pairs(recognizers, backends)


def _run(seeds: range) -> tuple[Figures, list[tuple[int, Difference]]]:
    figures = Figures()
    differences: list[tuple[int, Difference]] = []
    for seed in seeds:
        text = text_of(seed)
        for pair in _PAIRS:
            for difference in pair.compare(text, figures):
                figures.differing[difference.what] += 1
                differences.append((seed, difference))
    return figures, differences


def _chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, _CHUNK):
        yield range(start, min(start + _CHUNK, first + count))


def main() -> int:
    """Run the comparison; 1 if a text differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.adapters.pii.parity", description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    backends = parser.add_mutually_exclusive_group()
    backends.add_argument("--no-fast", action="store_true", help="without hyperscan only")
    backends.add_argument("--only-fast", action="store_true", help="with hyperscan only")
    parser.add_argument("--recognizers", choices=("default", "each", "all"), default="default")
    parser.add_argument("--write", type=Path, help="append differing texts to this file (generated texts only)")
    chosen = parser.parse_args()
    used = (False,) if chosen.no_fast else (True,) if chosen.only_fast else (True, False)
    total = Figures()
    began = shown = time.perf_counter()
    context: Any = multiprocessing.get_context("spawn")
    with context.Pool(chosen.jobs, _start, (chosen.recognizers, used)) as workers:
        for figures, differences in workers.imap_unordered(_run, _chunks(chosen.first, chosen.texts)):
            total.add(figures)
            for seed, difference in differences:
                print(f"seed {seed} [{difference.recognizers}] {difference.what}", flush=True)
                if chosen.write is not None:
                    _append(chosen.write, seed, difference)
            if time.perf_counter() - shown > 5:
                shown = time.perf_counter()
                print(f"  ... {shown - began:.0f} s: {total}", file=sys.stderr, flush=True)
    named = " and ".join("hyperscan" if fast else "re" for fast in used)
    print(f"{chosen.recognizers}, {named}, seeds from {chosen.first}: {total}")
    return 1 if total.differing else 0


def _append(path: Path, seed: int, difference: Difference) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(
            f"seed {seed} [{difference.recognizers}] {difference.what}\n  text   {text_of(seed)!r}\n"
            f"  theirs {difference.theirs}\n  ours   {difference.ours}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
