"""Presidio's recognisers behind the detector port: its own answers, offline, quiet, and closed where it fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.pii import presidio
from tenantguard.adapters.pii.presidio import WINDOW_CHARS, PresidioDetector, resolve
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.hold import TextStream, join
from tenantguard.rules.redaction.rule import ResponseScrub, apply, text_edits

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    text = "john@smith.com, 4111 1111 1111 1111, DE89370400440532013000, 856-45-6789, 10.0.0.1, +1 415 555 2671"
    assert found(detector, text) == [
        ("EMAIL_ADDRESS", "john@smith.com"),
        ("CREDIT_CARD", "4111 1111 1111 1111"),
        ("IBAN_CODE", "DE89370400440532013000"),
        ("US_SSN", "856-45-6789"),
        ("IP_ADDRESS", "10.0.0.1"),
        ("PHONE_NUMBER", "+1 415 555 2671"),
    ]
    assert len(detector.entities) >= 4


def test_clean_text_has_no_match(detector: PresidioDetector) -> None:
    """E-67."""
    assert detector.detect("The quick brown fox jumps over the lazy dog; it costs 12 euros.") == []
    assert detector.detect("") == []


@pytest.mark.parametrize(
    "card", ["4111111111111111", "4111-1111-1111-1111", "5555 5555 5555 4444", "378282246310005"]
)
def test_card_numbers_with_a_right_checksum_are_found(detector: PresidioDetector, card: str) -> None:
    """E-71, E-73."""
    assert found(detector, f"card {card}.") == [("CREDIT_CARD", card)]


@pytest.mark.parametrize("number", ["4111111111111112", "41111111111", "41111111111111111111", "0123456789"])
def test_other_long_numbers_are_no_cards(detector: PresidioDetector, number: str) -> None:
    """E-71, E-73."""
    assert "CREDIT_CARD" not in [entity for entity, _ in found(detector, f"ticket {number} is open")]


def test_a_phone_number_glued_to_a_word_stays(detector: PresidioDetector) -> None:
    """E-72."""
    assert found(detector, "order a650-253-0000") == []
    assert found(detector, "order 650-253-0000") == [("PHONE_NUMBER", "650-253-0000")]


def test_a_whole_match_wins_over_what_lies_in_it(detector: PresidioDetector) -> None:
    """E-70 gives way to Presidio's rule."""
    assert found(detector, "write to john@smith.com now") == [("EMAIL_ADDRESS", "john@smith.com")]


def test_detectors_with_other_settings_do_not_meet(detector: PresidioDetector) -> None:
    mails = PresidioDetector(entities=("EMAIL_ADDRESS",))
    strict = PresidioDetector(threshold=0.9)
    text = "john@smith.com 650-253-0000"
    assert found(mails, text) == [("EMAIL_ADDRESS", "john@smith.com")]
    assert found(strict, text) == [("EMAIL_ADDRESS", "john@smith.com")]
    assert len(found(detector, text)) == 2
    assert mails.entities == ["EMAIL_ADDRESS"]


def test_patterns_are_no_detectors_own_class_attributes(detector: PresidioDetector) -> None:
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer

    (used,) = [one for one in detector._analyzer.registry.recognizers if isinstance(one, CreditCardRecognizer)]
    assert used.patterns[0] is not CreditCardRecognizer.PATTERNS[0]
    assert not isinstance(CreditCardRecognizer.PATTERNS[0].compiled_regex, presidio._StrictPattern)


def test_country_packs_are_used_by_class_or_by_entity() -> None:
    text = "my NRIC is S2740116C and mail a@b.io"
    by_class = PresidioDetector(recognizers=("SgFinRecognizer",))
    by_entity = PresidioDetector(entities=("SG_NRIC_FIN",))
    assert found(by_class, text) == found(by_entity, text) == [("SG_NRIC_FIN", "S2740116C")]


def test_another_language_has_its_own_recognisers() -> None:
    italian = PresidioDetector(language="it")
    assert "IT_FISCAL_CODE" in italian.entities
    assert ("EMAIL_ADDRESS", "a@esempio.it") in found(italian, "scrivi a a@esempio.it")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": ("EMAIL_ADRESS",)}, "did you mean 'EMAIL_ADDRESS'"),
        ({"entities": ("PERSON",)}, "no entity 'PERSON'"),
        ({"recognizers": ("SgFinRecogniser",)}, "did you mean 'SgFinRecognizer'"),
        ({"recognizers": ("SpacyRecognizer",)}, "no pattern recogniser"),
        ({"threshold": 1.5}, "between 0 and 1"),
    ],
)
def test_names_and_numbers_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    """E-69."""
    with pytest.raises(ConfigurationError, match=message):
        PresidioDetector(**settings)


def test_nothing_touches_the_network_and_importing_the_module_loads_no_presidio() -> None:
    script = """
import sys
from tenantguard.adapters.pii.presidio import PresidioDetector
assert not any(name.startswith(("presidio", "spacy", "tldextract")) for name in sys.modules)
def guard(event, args):
    local = ("socket.__new__", "socket.bind")  # urllib3 looks, when it is imported, whether ::1 can be bound
    if event.startswith("socket.") and (event not in local or (event == "socket.bind" and args[1] != ("::1", 0))):
        raise SystemExit(f"the network was touched: {event}")
sys.addaudithook(guard)
matches = PresidioDetector().detect("write to john@smith.com or a@b.co.uk")
print([match.entity for match in matches])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "['EMAIL_ADDRESS', 'EMAIL_ADDRESS']"), done.stderr
    assert done.stderr == ""


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


def test_a_presidio_that_would_skip_a_slow_pattern_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from presidio_analyzer.predefined_recognizers.generic import iban_recognizer

    monkeypatch.setattr(iban_recognizer, "REGEX_TIMEOUT_SECONDS", 1)
    with pytest.raises(ConfigurationError, match="REGEX_TIMEOUT_SECONDS"):
        PresidioDetector()


def test_a_failure_tells_nothing_of_the_text(detector: PresidioDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str, *_: Any, **__: Any) -> None:
        raise ValueError(text)

    monkeypatch.setattr(detector._analyzer, "analyze", fail)
    with pytest.raises(PortError) as caught:
        detector.detect("john@smith.com")
    assert "john" not in str(caught.value)
    assert caught.value.__context__ is None


def test_presidio_logs_nothing_of_a_text_during_a_detection_and_is_heard_otherwise(
    detector: PresidioDetector, caplog: pytest.LogCaptureFixture
) -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00, ZZ00 AAAA 0000 0000, john@smith.com, 4111 1111 1111 1111"
    with caplog.at_level(logging.DEBUG):
        detector.detect(text)
        assert caplog.records == []
        logging.getLogger("presidio-analyzer").warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


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
    mails = PresidioDetector(entities=("EMAIL_ADDRESS", "IBAN_CODE"))
    for filler in ("lorem ipsum ", "x(", "0 "):
        for at in (WINDOW_CHARS - 20, WINDOW_CHARS - 10, WINDOW_CHARS - 1, WINDOW_CHARS, 2 * WINDOW_CHARS):
            text = (filler * WINDOW_CHARS)[:at] + " john@smith.com or DE89 3704 0044 0532 0130 00 " + filler * 600
            assert [value for _, value in found(mails, text)] == ["john@smith.com", "DE89 3704 0044 0532 0130 00"]


SPANS = st.lists(
    st.builds(
        lambda entity, start, length, score: Match(entity, start, start + length, score),
        st.sampled_from("ABC"),
        st.integers(0, 30),
        st.integers(1, 12),
        st.sampled_from([0.4, 0.6, 1.0]),
    ),
    max_size=12,
)


@given(SPANS)
def test_settled_matches_do_not_overlap_and_cover_all_that_was_found(matches: list[Match]) -> None:
    settled = resolve(matches)
    assert all(one.end <= other.start for one, other in pairwise(settled))
    assert {at for match in settled for at in range(match.start, match.end)} == {
        at for match in matches for at in range(match.start, match.end)
    }
    assert resolve(settled[::-1]) == settled


@settings(deadline=None)  # the first example imports Presidio's anonymizer
@given(SPANS)
def test_conflicts_are_settled_as_presidios_anonymizer_settles_them(matches: list[Match]) -> None:
    from presidio_anonymizer import AnonymizerEngine
    from presidio_anonymizer.entities import ConflictResolutionStrategy, OperatorConfig, RecognizerResult

    text = "".join(map(chr, range(200, 245)))
    results = [RecognizerResult(one.entity, one.start, one.end, one.score) for one in matches]
    operators = {entity: OperatorConfig("replace", {"new_value": f"<{entity}>"}) for entity in "ABC"}
    theirs = AnonymizerEngine().anonymize(
        text, results, operators, conflict_resolution=ConflictResolutionStrategy.REMOVE_INTERSECTIONS
    )
    ours = text
    for match in reversed(resolve(matches)):
        ours = f"{ours[: match.start]}<{match.entity}>{ours[match.end :]}"
    assert ours == theirs.text


@pytest.mark.parametrize("text", SENTENCES)
def test_a_streamed_text_is_redacted_like_the_whole_at_every_split(detector: PresidioDetector, text: str) -> None:
    """E+9, E+10."""

    def rule() -> ResponseScrub:
        return ResponseScrub(detector.detect, Vault(b"k" * 32), restore=False)

    def streamed(pieces: Iterator[str]) -> str:
        stream = TextStream(rule())
        return "".join([*(join(stream.feed(piece)) for piece in pieces), join(stream.finish())])

    whole = apply(text, text_edits(rule(), text))
    assert streamed(iter(text)) == whole
    for at in range(0, len(text), 3):
        assert streamed(iter((text[:at], text[at:]))) == whole


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3), st.lists(st.integers(1, 30), min_size=1))
def test_any_split_of_any_sentences_is_redacted_like_the_whole(
    detector: PresidioDetector, sentences: list[str], lengths: list[int]
) -> None:
    text = " ".join(sentences)
    vault = Vault(b"k" * 32)
    stream = TextStream(ResponseScrub(detector.detect, vault, restore=False))
    out, at = [], 0
    while at < len(text):
        length = lengths[at % len(lengths)]
        out.append(join(stream.feed(text[at : at + length])))
        at += length
    out.append(join(stream.finish()))
    assert "".join(out) == apply(text, text_edits(ResponseScrub(detector.detect, vault, restore=False), text))


def test_matches_and_detectors_show_no_text(detector: PresidioDetector) -> None:
    matches = detector.detect("john@smith.com")
    assert "john" not in repr(matches) + repr(detector) + json.dumps(detector.entities)
