"""A detector that silently finds nothing is refused when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pii import cascade
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.adapters.pii.probes import Probe, probes_of, prove
from tenantguard.adapters.pii.recognizers import recognizers_for
from tenantguard.errors import ConfigurationError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Find

if TYPE_CHECKING:
    from collections.abc import Iterable

MAILS = Find(entities=("EMAIL_ADDRESS",))


def _nothing(*_: Any, **__: Any) -> Iterable[Any]:
    return []


def test_a_cascade_whose_recogniser_finds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantguard.adapters.pii.patterns.PatternFinder.search", _nothing)
    with pytest.raises(ConfigurationError, match="does not find EMAIL_ADDRESS"):
        CascadeDetector(MAILS)


@pytest.mark.parametrize("fast", [True, False])
def test_a_cascade_whose_scanner_finds_nothing_is_refused(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    real = cascade.scanner

    def blind(*given: Any, **named: Any) -> Any:
        made = real(*given, **named)
        monkeypatch.setattr(type(made), "windows", lambda *_: {})
        return made

    monkeypatch.setattr(cascade, "scanner", blind)
    with pytest.raises(ConfigurationError, match="does not find EMAIL_ADDRESS"):
        CascadeDetector(MAILS, fast=fast)


def test_a_search_for_secrets_that_finds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantguard.adapters.pii.secrets.SecretSearch.search", _nothing)
    with pytest.raises(ConfigurationError) as refused:
        detector_for(Find(entities=("UUID",), secrets=True, known=(("db", "hunter2-hunter2"),)))
    assert str(refused.value).endswith("does not find GITLAB_TOKEN, KNOWN_DB, PRIVATE_KEY, RANDOM_KEY")


def test_a_presidio_that_finds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presidio_analyzer.AnalyzerEngine.analyze", _nothing)
    with pytest.raises(ConfigurationError, match="does not find EMAIL_ADDRESS"):
        PresidioDetector(MAILS)


def test_every_recogniser_that_is_on_by_default_is_asked_where_the_threshold_lets_it_answer() -> None:
    def asked(find: Find) -> set[str]:
        return {probe.entity for probe in probes_of(recognizers_for(find)[0], find, secrets=False)}

    entities = set(recognizers_for(Find())[1])
    told_by_words_alone = {"US_BANK_NUMBER", "US_DRIVER_LICENSE", "US_PASSPORT"}
    assert asked(Find()) == entities - told_by_words_alone
    assert asked(MAILS) == {"EMAIL_ADDRESS"}
    assert "PHONE_NUMBER" not in asked(Find(threshold=0.5))
    assert asked(Find(recognizers=("tests.adapters.pii.own_recognizers:badges",))) == set()


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.55, 0.85, 1.0])
def test_no_threshold_makes_a_sound_detector_look_broken(threshold: float) -> None:
    detector_for(Find(threshold=threshold, context=False, secrets=True))


def test_a_probe_is_found_only_as_a_whole_and_shows_no_value() -> None:
    probe = Probe("KNOWN_DB", "hunter2-hunter2")
    assert "hunter2" not in repr(probe)
    prove([probe], lambda text: [Match("KNOWN_DB", 0, len(text), 1.0)])
    for match in (Match("KNOWN_DB", 0, 3, 1.0), Match("PASSWORD", 0, 15, 1.0)):
        with pytest.raises(ConfigurationError, match="KNOWN_DB") as refused:
            prove([probe], lambda _, match=match: [match])  # type: ignore[misc]
        assert "hunter2" not in str(refused.value)
