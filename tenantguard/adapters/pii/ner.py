"""Names of persons, places and organisations, by a language model that the operator has installed. Off by default.

A model reads 25 to 80 KB a second and cannot read a text that has not ended, so it is for whole bodies. Nothing is
ever downloaded: a model that is not there is a configuration error.
"""

from __future__ import annotations

import inspect
import re
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.pii.recognizers import quiet
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from presidio_analyzer.nlp_engine import NlpEngine

    from tenantguard.adapters.pii.finder import Span

PART_CHARS: Final = 20_000
"""A model sees so much of a text at once: its memory grows by about 10 kB a character (spaCy's own figure)."""

_LAST_LINE: Final = re.compile(r"(?s:.*)\n")
_LAST_SPACE: Final = re.compile(r"(?s:.*)\s")
_MAPPED_TOO: Final = {"FAC": "LOCATION"}
"""What Presidio's configuration file maps beside its built-in table."""


class NerFinder:
    """Finds what a language model takes for a person, a place, an organisation, a date, ...

    ``source`` is the name of an installed spaCy package, the path of a saved pipeline, or ``module:attribute`` for an
    ``NlpEngine`` of Presidio's that is loaded, or a function that gives one. The engine maps the model's labels to
    Presidio's entities, Presidio's recogniser for it gives the results. It reads whole texts, so it is no finder of
    the cascade, which may see a text in pieces.

    Threads take turns, since an engine need not be safe to share. Raises :class:`ConfigurationError` for a model that
    is not there or cannot be loaded. Loading takes a second and 50 to 250 MB for spaCy's small and middle models.
    """

    def __init__(self, source: str, language: str = "en") -> None:
        from presidio_analyzer import RecognizerRegistry  # noqa: PLC0415 - two seconds

        with quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine, self._forgetting = _engine(source, language)
            if language not in self._engine.get_supported_languages():
                raise ConfigurationError(
                    f"redact: the language model {source!r} is not for the language {language!r}"
                )
            try:
                kind = RecognizerRegistry.get_nlp_recognizer(self._engine)
            except ValueError:
                raise ConfigurationError(f"redact: the engine {source!r} has no model that finds names") from None
            known = self._engine.get_supported_entities()
            self._recognizer = kind(supported_language=language, supported_entities=known)
        self._language = language
        self.entities = frozenset(known)
        self._lock = threading.Lock()

    def find(self, text: str) -> list[Match]:
        """What the model finds in the whole text, part by part, in linear time.

        Raises :class:`PortError` if it fails; the error tells nothing of the text.
        """
        failure = ""
        try:
            return [match for part in _parts(text) for match in self._search(text, part)]
        except Exception as error:  # noqa: BLE001 - its text may be personal
            failure = type(error).__name__
        raise PortError("detector", f"the language model failed with {failure}")

    def _search(self, text: str, part: Span) -> list[Match]:
        with self._lock, quiet, self._forgetting():
            begin, end = part
            piece = text[begin:end]
            artifacts = self._engine.process_text(piece, self._language)
            results = self._recognizer.analyze(piece, [*self.entities], artifacts)
            return [Match(str(one.entity_type), begin + one.start, begin + one.end, one.score) for one in results]

    def __repr__(self) -> str:
        return f"NerFinder({len(self.entities)} entities, {self._language})"


def _engine(source: str, language: str) -> tuple[NlpEngine, Callable[[], AbstractContextManager[object]]]:
    """The engine, and what to enter while it works so that it forgets the words it saw."""
    if ":" in source and not Path(source).exists():
        return _given(source), nullcontext
    pipeline = _pipeline(source)
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine  # noqa: PLC0415

    mapped = {**(NerModelConfiguration().model_to_presidio_entity_mapping or {}), **_MAPPED_TOO}
    mapped |= {entity: entity for entity in mapped.values()}
    labels = {label for some in pipeline.pipe_labels.values() for label in some}
    configuration = NerModelConfiguration(
        model_to_presidio_entity_mapping=mapped, labels_to_ignore=sorted(labels - mapped.keys())
    )
    engine: Any = SpacyNlpEngine([{"lang_code": language, "model_name": source}], configuration)
    engine.nlp = {language: pipeline}  # its own ``load`` would download what is not there
    return engine, pipeline.memory_zone


def _pipeline(source: str) -> Any:
    import spacy  # noqa: PLC0415 - half a second

    if not spacy.util.is_package(source) and not Path(source).exists():
        raise ConfigurationError(
            f"redact: there is no spaCy model {source!r}: install its package (for English: en_core_web_sm), "
            "or give the path of a saved pipeline",
        )
    failure = ""
    try:
        return spacy.load(source)
    except Exception as error:  # noqa: BLE001 - a package runs code of its own
        failure = type(error).__name__
    raise ConfigurationError(f"redact: the spaCy model {source!r} cannot be loaded ({failure})")


def _given(source: str) -> NlpEngine:
    from presidio_analyzer.nlp_engine import NlpEngine  # noqa: PLC0415

    module, _, attribute = source.partition(":")
    failure = ""
    found: Any = None
    try:
        found = getattr(import_module(module), attribute)
        if inspect.isclass(found) or not isinstance(found, NlpEngine):
            found = found()
    except Exception as error:  # noqa: BLE001 - code of the user's
        failure = type(error).__name__
    if failure:
        raise ConfigurationError(f"redact: the engine {source!r} cannot be loaded ({failure})")
    if not isinstance(found, NlpEngine):
        raise ConfigurationError(f"redact: {source!r} is no NlpEngine of Presidio's and gives none")
    if not found.is_loaded():
        raise ConfigurationError(f"redact: the engine {source!r} is not loaded: call its load() where it is made")
    return found


def _parts(text: str) -> Iterator[Span]:
    """Parts that a model can take, which meet at the end of a line where there is one, or at white space."""
    start = 0
    while len(text) - start > PART_CHARS:
        end = start + PART_CHARS
        middle = start + PART_CHARS // 2
        cut = _LAST_LINE.match(text, middle, end) or _LAST_SPACE.match(text, middle, end)
        end = cut.end() if cut is not None else end
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)
