"""Presidio's engine as a detector: its own answers, quiet, and closed where it fails."""

from __future__ import annotations

import json
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pii import presidio
from tenantguard.adapters.pii.presidio import WINDOW_CHARS, PresidioDetector
from tenantguard.errors import PortError
from tenantguard.model.redact_section import Find
from tests.adapters.pii.texts import USUAL, USUAL_TEXT

if TYPE_CHECKING:
    from tenantguard.model.pii import Match

SENTENCES = [
    "Write to john@smith.com or josé.müller@example.co.uk today.",
    "My SSN is 856-45-6789 and my number is +1 415-555-2671 ext 22, thanks.",
    "Pay with 4111 1111 1111 1111 or 5555-5555-5555-4444 before 01/02/2027.",
    "IBAN: DE89 3704 0044 0532 0130 00 at GB82WEST12345698765432 today",
    "The host 192.168.10.7 and 2001:db8::8a2e:370:7334 answer at https://example.com/a?b=c#d again.",
    "请联系张三，电话是 +86 138 0013 8000，邮箱是 zhang@example.com。谢谢",  # noqa: RUF001
    "Звоните: +44 20 7946 0958, почта ivan@пример.рф пожалуйста",
    "اتصل بنا على ‎+1 (212) 555-0100‎ أو mail@example.org",
    "Ticket 1234567890123456 and order 0123456789 are fine, so are C4, S3 and 3.14 | 12 | 13 |",
    "UUID 550e8400-e29b-41d4-a716-446655440000 from 00:1b:44:11:3a:b7 in 12-JAN-2024 (see 415-555-2671).",
]


@pytest.fixture(scope="module")
def detector() -> PresidioDetector:
    return PresidioDetector()


def found(detector: PresidioDetector, text: str) -> list[tuple[str, str]]:
    return [(match.entity, text[match.start : match.end]) for match in detector.detect(text)]


def test_the_usual_personal_data_is_found(detector: PresidioDetector) -> None:
    """E-63, E-64, E-68, C-39."""
    assert found(detector, USUAL_TEXT) == USUAL
    assert len(detector.entities) >= 4


def test_another_language_has_its_own_recognisers() -> None:
    italian = PresidioDetector(Find(languages=("it",)))
    assert "IT_FISCAL_CODE" in italian.entities
    assert ("EMAIL_ADDRESS", "a@esempio.it") in found(italian, "scrivi a a@esempio.it")


def test_a_pattern_that_takes_too_long_closes(detector: PresidioDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presidio, "PATTERN_TIMEOUT_S", 0.05)
    with pytest.raises(PortError, match="took too long"):
        detector.detect("a." * 5_000 + " john@smith.com")


def test_the_texts_of_one_body_may_take_so_much_of_the_processor_together(detector: PresidioDetector) -> None:
    """Numbers in long rows take a hundred times as long as prose, and a few thousand short texts as well."""
    ticks = count(step=400_000_000)  # each look at the clock, 0.4 s later
    bounded = detector.bounded(processor_s=1.0, processor_ns=lambda: next(ticks))
    for _ in range(3):
        assert [match.entity for match in bounded.detect("john@smith.com")] == ["EMAIL_ADDRESS"]
    with pytest.raises(PortError, match="took too long") as failed:
        bounded.detect("jane@smith.com")
    assert "jane" not in str(failed.value)
    assert detector.bounded().detect("john@smith.com"), "another body begins anew"


def test_a_text_that_takes_long_is_given_up_between_two_windows(detector: PresidioDetector) -> None:
    ticks = count(step=1_000_000_000)
    bounded = detector.bounded(processor_s=2.0, processor_ns=lambda: next(ticks))
    with pytest.raises(PortError, match="took too long"):
        bounded.detect("word " * WINDOW_CHARS)
    assert next(ticks) == 4_000_000_000, "two of the five windows were searched"


def test_a_failure_tells_nothing_of_the_text(detector: PresidioDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str, *_: Any, **__: Any) -> None:
        raise ValueError(text)

    monkeypatch.setattr(detector._analyzer, "analyze", fail)
    with pytest.raises(PortError) as caught:
        detector.detect("john@smith.com")
    assert "john" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_detector_serves_several_threads(detector: PresidioDetector) -> None:
    expected = [detector.detect(text) for text in SENTENCES]
    seen: list[list[list[Match]]] = []
    threads = [threading.Thread(target=lambda: seen.append([*map(detector.detect, SENTENCES)])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 3


def test_a_text_longer_than_a_window_is_searched_whole(detector: PresidioDetector) -> None:
    mails = PresidioDetector(Find(entities=("EMAIL_ADDRESS", "IBAN_CODE")))
    for filler in ("lorem ipsum ", "x(", "0 "):
        for at in (WINDOW_CHARS - 20, WINDOW_CHARS - 10, WINDOW_CHARS - 1, WINDOW_CHARS, 2 * WINDOW_CHARS):
            text = (filler * WINDOW_CHARS)[:at] + " john@smith.com or DE89 3704 0044 0532 0130 00 " + filler * 600
            assert [value for _, value in found(mails, text)] == ["john@smith.com", "DE89 3704 0044 0532 0130 00"]


def test_matches_and_detectors_show_no_text(detector: PresidioDetector) -> None:
    matches = detector.detect("john@smith.com")
    assert "john" not in repr(matches) + repr(detector) + json.dumps(detector.entities)


def test_it_clears_nothing_and_honours_where_a_text_is_new(detector: PresidioDetector) -> None:
    text = "jane@smith.com and john@smith.com"
    assert not detector.clears("")
    assert [text[match.start : match.end] for match in detector.detect(text, 14)] == ["john@smith.com"]
    assert [text[match.start : match.end] for match in detector.bounded().detect(text, 14)] == ["john@smith.com"]
    assert detector.bounded().reach == detector.reach
