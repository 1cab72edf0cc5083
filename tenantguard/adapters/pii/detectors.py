"""The detector that fits what is looked for."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakValueDictionary

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.ner import NerFinder
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import NOTHING_KEPT, Parity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.adapters.pii.finder import Finder
    from tenantguard.flow.ports import Detector
    from tenantguard.model.pii import Match
    from tenantguard.model.redact_section import Find, Kept

    Built: TypeAlias = "CascadeDetector | PresidioDetector | NamingDetector"

_MODELS_MAX: Final = 8
"""So many language models are kept: one has 50 to 250 MB."""

_building: Final = threading.Lock()
_built: Final[WeakValueDictionary[tuple[Find, bool | None], Built]] = WeakValueDictionary()


def detector_for(find: Find, *, fast: bool | None = None) -> Built:
    """The detector for ``find``, ready for use (seconds): Presidio's engine if it asks for parity, else the cascade.

    Secrets are found beside either, and names by a language model where ``find`` has one. Those that differ in what
    is kept alone are one as long as any of them is in use, and threads that ask at once wait for one another.
    ``fast`` as for :class:`CascadeDetector`. Raises :class:`ConfigurationError` for what cannot work.
    """
    shared = replace(find, kept=NOTHING_KEPT)
    with _building:
        built = _built.get((shared, fast))
        if built is None:
            built = _built[shared, fast] = _build(shared, fast)
    return built.keeping(find.kept) if find.kept else built


@lru_cache(_MODELS_MAX)
def names_by(source: str, language: str) -> NerFinder:
    """What finds names by this language model, loaded once for all who use it."""
    return NerFinder(source, language)


def _build(find: Find, fast: bool | None) -> Built:  # noqa: FBT001 - as in the public function
    if find.known and not find.secrets:
        raise ConfigurationError("redact: known secrets are found with the others, which are not looked for")
    names = names_by(find.ner, find.languages[0]) if find.ner else None
    elsewhere = names.entities if names is not None else frozenset()
    others: list[Finder] = []
    if find.secrets:
        from tenantguard.adapters.pii.secrets import SecretSearch  # noqa: PLC0415 - 200 expressions

        others.append(SecretSearch(entropy=find.entropy, known=find.known))
    detector: CascadeDetector | PresidioDetector
    if find.parity is Parity.PRESIDIO:
        beside = CascadeDetector(find, fast=fast, others=others, recognizers=False) if others else None
        detector = PresidioDetector(find, beside, elsewhere)
    else:
        detector = CascadeDetector(find, fast=fast, others=others, recognizers=find.personal, elsewhere=elsewhere)
    return NamingDetector(detector, names, find) if names is not None else detector


class NamingDetector:
    """A detector that also finds names by a language model, in whole texts.

    What it is for the texts of one body, which may come in pieces, does not look for names: :meth:`names` does.
    """

    def __init__(self, detector: CascadeDetector | PresidioDetector, finder: NerFinder, find: Find) -> None:
        self.reach = detector.reach
        self.entities: Sequence[str] = sorted({*detector.entities, *(set(find.entities) or finder.entities)})
        self._detector = detector
        self._finder = finder
        self._wanted = finder.entities.intersection(self.entities)
        self._threshold = find.threshold

    @property
    def passed(self) -> int:
        """As the detector's."""
        return self._detector.passed

    def clears(self, text: str) -> bool:  # noqa: ARG002 - there is no cheap look
        """Never: a model must read the text."""
        return False

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """Matches in ``text``, which is whole, by start, not overlapping; those up to ``after`` are left out."""
        return [match for match in self.settle([*self.analyze(text)]) if match.end > after]

    def analyze(self, text: str) -> list[Match]:
        """Every match in ``text`` of a sufficient score, in any order, before conflicts are settled."""
        return [*self._detector.analyze(text), *self.names(text)]

    def names(self, text: str) -> list[Match]:
        """What the model finds in ``text``, which is whole, in any order."""
        if not self._wanted:
            return []
        found = self._finder.find(text)
        return [one for one in found if one.entity in self._wanted and one.score >= self._threshold]

    def settle(self, matches: Sequence[Match]) -> list[Match]:
        """Conflicts settled; the result is by start and does not overlap."""
        return self._detector.settle(matches)

    def keeping(self, kept: Kept) -> NamingDetector:
        """This detector where other entities are kept. What is costly is shared."""
        other = object.__new__(NamingDetector)
        other.__dict__ |= self.__dict__ | {"_detector": self._detector.keeping(kept)}
        return other

    def bounded(self) -> Detector:
        """This detector for the texts of one body, with the model's names apart."""
        return _NamingBody(self._detector.bounded(), self)

    def __repr__(self) -> str:
        return f"NamingDetector({len(self.entities)} entities)"


class _NamingBody:
    __slots__ = ("_body", "_detector", "reach")

    def __init__(self, body: Detector, detector: NamingDetector) -> None:
        self.reach = body.reach
        self._body = body
        self._detector = detector

    @property
    def passed(self) -> int:
        return self._body.passed

    def clears(self, text: str) -> bool:
        return self._body.clears(text)

    def detect(self, text: str, after: int = 0) -> list[Match]:
        return self._body.detect(text, after)

    def names(self, text: str) -> list[Match]:
        return self._detector.names(text)
