"""Names by a language model: from a package, a saved pipeline or an engine of the user's; never downloaded."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, NoOpNlpEngine

from tenantguard.adapters.pii import ner
from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.adapters.pii.ner import PART_CHARS, NerFinder
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.redact_section import Find, Kept, Parity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PATTERNS: Final = [
    {"label": "PERSON", "pattern": "Ada Lovelace"},
    {"label": "GPE", "pattern": "London"},
    {"label": "FAC", "pattern": "Tower Bridge"},
    {"label": "ORG", "pattern": "Acme"},
    {"label": "NORP", "pattern": "British"},
    {"label": "DATE", "pattern": "yesterday"},
    {"label": "MONEY", "pattern": "pounds"},
]
TEXT: Final = "yesterday Ada Lovelace paid British Acme in London ten pounds"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pipeline, saved: a blank one with a rule for each of a few names."""
    nlp = spacy.blank("en")
    ruler: Any = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(PATTERNS)
    path = tmp_path_factory.mktemp("model") / "names"
    nlp.to_disk(path)
    return path


@pytest.fixture(scope="module")
def finder(pipeline: Path) -> NerFinder:
    return NerFinder(str(pipeline))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("an_engine_of_ours")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def _found(finder: NerFinder, text: str) -> list[tuple[str, str]]:
    found = finder.find(text)
    return [(one.entity, text[one.start : one.end]) for one in sorted(found, key=lambda one: one.start)]


class Engine(NlpEngine):
    """Takes each word of a list for a person, in whatever text; without spaCy's objects but where it must."""

    def __init__(self, *, loaded: bool = True) -> None:
        self._loaded = loaded
        self.sizes: list[int] = []
        self._nlp = spacy.blank("en")

    def load(self) -> None:
        raise AssertionError("loading might download")

    def is_loaded(self) -> bool:
        return self._loaded

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        self.sizes.append(len(text))
        doc = self._nlp(text)
        spans = [doc[at : at + 1] for at, token in enumerate(doc) if token.text == "Grace"]
        for span in spans:
            span.label_ = "PERSON"
        return NlpArtifacts(spans, doc, [], [], self, language, [0.7] * len(spans))

    def process_batch(
        self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **_: Any
    ) -> Iterator[tuple[str, NlpArtifacts]]:
        raise NotImplementedError

    def is_stopword(self, word: str, language: str) -> bool:
        return False

    def is_punct(self, word: str, language: str) -> bool:
        return False

    def get_supported_entities(self) -> list[str]:
        return ["PERSON"]

    def get_supported_languages(self) -> list[str]:
        return ["en"]


def test_a_saved_pipeline_finds_names_by_presidios_entities(finder: NerFinder) -> None:
    assert _found(finder, TEXT) == [
        ("DATE_TIME", "yesterday"),
        ("PERSON", "Ada Lovelace"),
        ("NRP", "British"),
        ("ORGANIZATION", "Acme"),
        ("LOCATION", "London"),
    ]
    assert _found(finder, "over Tower Bridge") == [("LOCATION", "Tower Bridge")]
    assert {one.score for one in finder.find(TEXT)} == {0.85}


@pytest.mark.parametrize("parity", list(Parity))
def test_a_policys_names_are_found_beside_patterns_and_secrets(pipeline: Path, parity: Parity) -> None:
    text = "Ada Lovelace of Acme, ada@example.com, postgres://ada:s3cr3tpw9@example.com/db"

    def found(**terms: Any) -> list[tuple[str, str]]:
        detector = detector_for(Find(ner=str(pipeline), parity=parity, secrets=True, **terms))
        return [(one.entity, text[one.start : one.end]) for one in detector.detect(text)]

    assert found(entities=("PERSON", "EMAIL_ADDRESS"))[:2] == [
        ("PERSON", "Ada Lovelace"), ("EMAIL_ADDRESS", "ada@example.com"),
    ]  # fmt: skip
    assert ("URL_PASSWORD", "s3cr3tpw9") in found(entities=("PERSON", "EMAIL_ADDRESS"))
    assert found(entities=("PERSON",)) == [("PERSON", "Ada Lovelace"), ("URL_PASSWORD", "s3cr3tpw9")]
    assert {"PERSON", "ORGANIZATION", "EMAIL_ADDRESS"} <= {entity for entity, _ in found()}
    assert ("PERSON", "Ada Lovelace") not in found(threshold=0.9)


def test_an_entity_that_neither_patterns_nor_the_model_find_is_refused(pipeline: Path) -> None:
    with pytest.raises(ConfigurationError, match="no entity 'PERSONN'"):
        detector_for(Find(ner=str(pipeline), entities=("PERSONN",)))
    with pytest.raises(ConfigurationError, match="no entity 'PERSON'"):
        detector_for(Find(entities=("PERSON",)))


def test_for_the_texts_of_a_body_names_are_apart_since_texts_may_come_in_pieces(pipeline: Path) -> None:
    detector = detector_for(Find(ner=str(pipeline), entities=("PERSON", "EMAIL_ADDRESS")))
    body: Any = detector.keeping(Kept(frozenset({"URL"}))).bounded()
    text = "Ada Lovelace, ada@example.com"
    assert [one.entity for one in body.detect(text)] == ["EMAIL_ADDRESS"]
    assert [one.entity for one in body.names(text)] == ["PERSON"]
    assert body.clears("Ada Lovelace")
    assert not detector.clears("Ada Lovelace")


def test_a_model_that_fails_is_a_failure_that_tells_nothing_of_the_text(module: ModuleType) -> None:
    class Failing(Engine):
        def process_text(self, text: str, language: str) -> NlpArtifacts:
            raise ValueError(text)

    module.engine = Failing()  # type: ignore[attr-defined]
    with pytest.raises(PortError) as failed:
        NerFinder("an_engine_of_ours:engine").find("Ask Grace")
    assert "Grace" not in str(failed.value)
    assert failed.value.__context__ is None


def test_a_package_is_loaded_by_its_name(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_model_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"import spacy\n\n\ndef load(**options):\n    return spacy.load({str(pipeline)!r}, **options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metadata = tmp_path / "a_model_package-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: a_model_package\nVersion: 1.0\n")
    assert ("PERSON", "Ada Lovelace") in _found(NerFinder("a_model_package"), TEXT)


@pytest.mark.parametrize("made", [Engine(), Engine, lambda: Engine(loaded=True)])
def test_an_engine_is_taken_as_it_is_or_made_by_a_function(made: object, module: ModuleType) -> None:
    module.engine = made  # type: ignore[attr-defined]
    finder = NerFinder("an_engine_of_ours:engine")
    [found] = finder.find("Ask Grace about it")
    assert (found.entity, found.start, found.end, found.score) == ("PERSON", 4, 9, 0.7)


@pytest.mark.parametrize("source", ["en_core_web_nowhere", "/nowhere/at/all", "no_module_here:engine", "a:b:c"])
def test_a_model_that_is_not_there_is_a_configuration_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(spacy.cli, "download", connect)
    with pytest.raises(ConfigurationError, match="redact: "):
        NerFinder(source)


def test_a_model_that_is_missing_is_said_how_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r"no spaCy model 'en_core_web_lgg': install its package"):
        NerFinder("en_core_web_lgg")


def test_a_directory_without_a_pipeline_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be loaded \(OSError\)"):
        NerFinder(str(tmp_path))


def _no_op() -> NoOpNlpEngine:
    engine = NoOpNlpEngine([{"lang_code": "en", "model_name": "no_op"}])
    engine.load()
    return engine


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: 1 // 0, r"cannot be loaded \(ZeroDivisionError\)"),
        (7, r"cannot be loaded \(TypeError\)"),
        (lambda: 7, "is no NlpEngine"),
        (lambda: Engine(loaded=False), "is not loaded"),
        (_no_op, "has no model"),
    ],
)
def test_an_engine_that_is_none_is_a_configuration_error(made: Any, message: str, module: ModuleType) -> None:
    module.engine = made  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=message):
        NerFinder("an_engine_of_ours:engine")


def test_an_engine_for_another_language_is_a_configuration_error(module: ModuleType) -> None:
    module.engine = Engine()  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="not for the language 'de'"):
        NerFinder("an_engine_of_ours:engine", "de")


def test_a_long_text_is_read_in_parts_that_meet_at_white_space(module: ModuleType) -> None:
    module.engine = engine = Engine()  # type: ignore[attr-defined]
    finder = NerFinder("an_engine_of_ours:engine")
    text = "and Grace went on " * 4_000
    found = finder.find(text)
    assert [text[one.start : one.end] for one in found] == ["Grace"] * 4_000
    assert max(engine.sizes) <= PART_CHARS
    assert len(engine.sizes) <= 2 * len(text) // PART_CHARS + 1


@given(st.lists(st.tuples(st.sampled_from(["a", " ", "\n", "é"]), st.integers(1, 2_000)), max_size=40))
def test_the_parts_of_a_text_are_the_text(pieces: list[tuple[str, int]]) -> None:
    text = "".join([one * count for one, count in pieces])
    parts = [*ner._parts(text)]
    assert "".join([text[start:end] for start, end in parts]) == text
    assert all(0 < end - start <= PART_CHARS for start, end in parts)
    for start, end in parts[:-1]:
        spaces = any(one.isspace() for one in text[start + PART_CHARS // 2 : start + PART_CHARS])
        assert text[end - 1].isspace() or not spaces


def test_threads_share_a_finder(finder: NerFinder) -> None:
    texts = [f"{'so ' * count}Ada Lovelace of London" for count in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda text: _found(finder, text), texts)]
    assert found == [[("PERSON", "Ada Lovelace"), ("LOCATION", "London")]] * 40


def test_words_of_texts_are_forgotten(pipeline: Path) -> None:
    finder = NerFinder(str(pipeline))
    _found(finder, TEXT)
    engine: Any = finder._engine
    strings = engine.nlp["en"].vocab.strings
    known = len(strings)
    _found(finder, "Zweitausendundeins Wörterbuchstaben of Ada Lovelace")
    assert len(strings) == known
    assert "Wörterbuchstaben" not in strings


def test_nothing_is_found_in_nothing_and_nothing_is_shown(finder: NerFinder) -> None:
    assert finder.find("") == []
    assert "Ada" not in repr(finder)
