"""The cascade as a detector: what it finds, what it never does, and what it does where work ends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pii import patterns
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.redact_section import Find, Parity
from tests.adapters.pii.texts import USUAL, USUAL_TEXT

if TYPE_CHECKING:
    from tenantguard.model.pii import Match

OWN = "tests.adapters.pii.own_recognizers"

SENTENCES = [
    "Write to john@smith.com or josé.müller@example.co.uk today.",
    "My SSN is 856-45-6789 and my number is +1 415-555-2671 ext 22, thanks.",
    "IBAN: DE89 3704 0044 0532 0130 00 at GB82WEST12345698765432 today",
    "The host 192.168.10.7 and 2001:db8::8a2e:370:7334 answer at https://example.com/a?b=c#d again.",
]


@pytest.fixture(scope="module", params=[True, False], ids=["hyperscan", "re"])
def cascade(request: pytest.FixtureRequest) -> CascadeDetector:
    return CascadeDetector(Find(context=False), fast=request.param)


def found(detector: Any, text: str) -> list[tuple[str, str]]:
    return [(match.entity, text[match.start : match.end]) for match in detector.detect(text)]


def own(*names: str, **settings: Any) -> CascadeDetector:
    return CascadeDetector(Find(recognizers=tuple(f"{OWN}:{name}" for name in names), **settings))


def test_the_usual_personal_data_is_found(cascade: CascadeDetector) -> None:
    """E-63, E-64, E-68, C-39."""
    assert found(cascade, USUAL_TEXT) == USUAL
    assert not cascade.clears(USUAL_TEXT)


@pytest.mark.parametrize("text", ["", "The quick brown fox jumps over the lazy dog; it costs twelve euros."])
def test_clean_text_has_no_match(cascade: CascadeDetector, text: str) -> None:
    """E-67."""
    assert cascade.detect(text) == []
    assert cascade.clears(text)


@pytest.mark.parametrize(
    "card", ["4111111111111111", "4111-1111-1111-1111", "5555 5555 5555 4444", "378282246310005"]
)
def test_card_numbers_with_a_right_checksum_are_found(cascade: CascadeDetector, card: str) -> None:
    """E-71, E-73."""
    assert found(cascade, f"card {card}.") == [("CREDIT_CARD", card)]


@pytest.mark.parametrize("number", ["4111111111111112", "41111111111", "41111111111111111111", "0123456789"])
def test_other_long_numbers_are_no_cards(cascade: CascadeDetector, number: str) -> None:
    """E-71, E-73."""
    assert "CREDIT_CARD" not in [entity for entity, _ in found(cascade, f"ticket {number} is open")]


def test_a_phone_number_glued_to_a_word_stays(cascade: CascadeDetector) -> None:
    """E-72."""
    assert found(cascade, "order a650-253-0000") == []
    assert found(cascade, "order 650-253-0000") == [("PHONE_NUMBER", "650-253-0000")]


def test_a_whole_match_wins_over_what_lies_in_it(cascade: CascadeDetector) -> None:
    """E-70 gives way to Presidio's rule."""
    assert found(cascade, "write to john@smith.com now") == [("EMAIL_ADDRESS", "john@smith.com")]


def test_words_before_a_match_raise_its_score_if_the_policy_says_so() -> None:
    with_context = CascadeDetector(Find(entities=("US_BANK_NUMBER",)))
    without = CascadeDetector(Find(entities=("US_BANK_NUMBER",), context=False))
    text = "my bank account is 945456787654"
    assert found(with_context, text) == [("US_BANK_NUMBER", "945456787654")]
    assert found(without, text) == []


def test_a_long_text_is_searched_whole(cascade: CascadeDetector) -> None:
    for filler in ("lorem ipsum ", "x(", "0 ", "é"):
        text = filler * 30_000 + " john@smith.com or DE89 3704 0044 0532 0130 00 " + filler * 600
        values = [value for _, value in found(cascade, text)]
        assert {"john@smith.com", "DE89 3704 0044 0532 0130 00"} <= set(values)


def test_what_ends_before_a_place_may_be_left_out_and_nothing_else(cascade: CascadeDetector) -> None:
    text = "jane@smith.com and john@smith.com"
    assert [text[match.start : match.end] for match in cascade.detect(text, 14)] == ["john@smith.com"]
    assert len(cascade.detect(text, 13)) == 2


def test_detectors_with_other_settings_do_not_meet(cascade: CascadeDetector) -> None:
    mails = CascadeDetector(Find(entities=("EMAIL_ADDRESS",)))
    strict = CascadeDetector(Find(threshold=0.9))
    text = "john@smith.com 650-253-0000"
    assert found(mails, text) == found(strict, text) == [("EMAIL_ADDRESS", "john@smith.com")]
    assert len(found(cascade, text)) == 2
    assert mails.entities == ["EMAIL_ADDRESS"]


@pytest.mark.parametrize("parity", list(Parity))
def test_no_threshold_lets_a_secret_pass(parity: Parity) -> None:
    """A secret has no score of Presidio's."""
    text = "password=Tr0ub4dor&3x9 and q7Vw2Zk9Tn4Xb8Lr3Jd6Hs1Gf5Mc0PyKeRu"
    detector = detector_for(Find(entities=("EMAIL_ADDRESS",), threshold=1.0, secrets=True, parity=parity))
    assert {match.entity for match in detector.detect(text)} == {"PASSWORD", "RANDOM_KEY"}


def test_a_recogniser_of_the_users_is_scanned_for_like_presidios() -> None:
    detector = own("badges")
    assert found(detector, "her badge BDG-1234 and BDG-12345") == [("BADGE", "BDG-1234")]
    assert detector.clears("no such thing")
    assert detector.reach == 0


def test_what_cannot_be_scanned_for_is_searched_for_in_every_text() -> None:
    detector = own("letters", "Names")
    assert found(detector, "Ann wrote αβγ") == [("FIRST_NAME", "Ann"), ("LETTERS", "αβγ")]
    assert not detector.clears("no such thing")
    assert detector.reach == 256


def test_a_recognisers_own_thresholds_count_before_the_policys() -> None:
    assert found(own("choosy"), "it is 12345") == []
    assert [one.score for one in own("badges", threshold=0.6).detect("BDG-1234")] == [0.6]


def test_what_a_failing_validator_was_asked_about_is_reported_and_counted() -> None:
    detector = own("Failing")
    body = detector.bounded()
    assert found(body, "it is 12345 or 54321") == [("FAILING", "12345"), ("FAILING", "54321")]
    assert body.passed == 2


def test_an_expression_that_takes_too_long_is_reported_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "PATTERN_TIMEOUT_S", 0.01)
    body = own("slow").bounded()
    text = "so: " + "a" * 60 + "b"
    first, second = body.detect(text), body.detect(text)
    assert body.passed == 2
    for (match,) in (first, second):
        assert (match.entity, match.score) == ("SLOW", 1.0)
        assert "a" * 60 in text[match.start : match.end]
    assert own("slow").detect("so: bb!") == []


def test_where_the_work_of_a_body_ends_more_is_reported_never_less(cascade: CascadeDetector) -> None:
    text = ",".join(str(2_454_155_475 + 7_919 * at) for at in range(1_800))
    whole = CascadeDetector(Find(entities=("PHONE_NUMBER",)))
    body = whole.bounded()
    unbounded = [
        match for at in range(0, len(text), 1_100) for match in whole.bounded().detect(text[at : at + 1_100])
    ]
    seen = body.detect(text)
    assert body.passed
    assert sum(match.end - match.start for match in seen) > sum(match.end - match.start for match in unbounded)
    assert whole.bounded().passed == 0, "another body begins anew"
    for _ in range(3):
        before = cascade.passed
        assert cascade.detect(text)
        assert cascade.passed > before


def test_a_failure_tells_nothing_of_the_text() -> None:
    with pytest.raises(PortError) as caught:
        own("badges", "Names", "Broken").detect("john@smith.com")
    assert "ValueError" in str(caught.value)
    assert "john" not in str(caught.value)
    assert caught.value.__context__ is None


def test_fast_without_hyperscan_is_refused_and_else_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    with pytest.raises(ConfigurationError, match="extra 'fast'"):
        CascadeDetector(Find(entities=("EMAIL_ADDRESS",)), fast=True)
    assert found(CascadeDetector(Find(entities=("EMAIL_ADDRESS",))), "to john@smith.com") == [
        ("EMAIL_ADDRESS", "john@smith.com")
    ]


def test_presidio_logs_nothing_of_a_text_and_is_heard_otherwise(
    cascade: CascadeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00, ZZ00 AAAA 0000 0000, john@smith.com, 4111 1111 1111 1111"
    with caplog.at_level(logging.DEBUG):
        cascade.detect(text)
        assert caplog.records == []
        logging.getLogger("presidio-analyzer").warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


def test_a_detector_serves_several_threads(cascade: CascadeDetector) -> None:
    expected = [cascade.detect(text) for text in SENTENCES]
    seen: list[list[list[Match]]] = []
    threads = [
        threading.Thread(target=lambda: seen.append([cascade.detect(text) for text in SENTENCES * 20]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected * 20] * 3


def test_nothing_touches_the_network_and_importing_the_module_loads_no_presidio() -> None:
    script = """
import sys
from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.model.redact_section import Find, Parity
assert not any(name.startswith(("presidio", "spacy", "tldextract", "hyperscan", "regex")) for name in sys.modules)
def guard(event, args):
    local = ("socket.__new__", "socket.bind")  # urllib3 looks, when it is imported, whether ::1 can be bound
    if event.startswith("socket.") and (event not in local or (event == "socket.bind" and args[1] != ("::1", 0))):
        raise SystemExit(f"the network was touched: {event}")
sys.addaudithook(guard)
matches = detector_for(Find()).detect("write to john@smith.com or a@b.co.uk")
print([match.entity for match in matches])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "['EMAIL_ADDRESS', 'EMAIL_ADDRESS']"), done.stderr
    assert done.stderr == ""


def test_matches_and_detectors_show_no_text(cascade: CascadeDetector) -> None:
    matches = cascade.detect("john@smith.com")
    assert "john" not in repr(matches) + repr(cascade) + json.dumps(cascade.entities)
