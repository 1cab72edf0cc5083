"""Secrets in texts, found through the cascade's own scanner, with hyperscan and without."""

from __future__ import annotations

import importlib.util
import re
import time
from functools import cache
from itertools import pairwise
from random import Random
from re import _parser as parser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.adapters.pii.finder import Budget
from tenantguard.adapters.pii.prefilter import plan
from tenantguard.adapters.pii.scanning import scanner
from tenantguard.adapters.pii.secrets import SecretSearch
from tenantguard.model.redact_section import Find
from tenantguard.rules.redaction.text.rule import NAME_CHARS_MIN
from tenantguard.rules.secrets.catalog import FORMATS
from tests.rules.secrets.corpora import NAMES, corpus
from tests.rules.secrets.examples import BASE62, example, json_web_token, run, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.model.pii import Match
    from tenantguard.rules.secrets.format import SecretFormat

KNOWN = (
    ("database", "hunter-2-x"),
    ("database url", "db://hunter-2-x@host"),
    ("phrase", "correct horse"),
    ("word", "парольчик"),
)


def detect_with(search: SecretSearch, *, fast: bool) -> Callable[[str], list[Match]]:
    plans = [plan(expression) for expression in search.expressions]
    assert None not in plans
    scan = scanner([one for one in plans if one is not None], fast=fast)
    return lambda text: search.search(text, scan.windows(text, 0), [], Budget())


@cache
def cached(*, fast: bool) -> Callable[[str], list[Match]]:
    return detect_with(SecretSearch(known=KNOWN), fast=fast)


@pytest.fixture(scope="module", params=[True, False], ids=["hyperscan", "re"])
def detect(request: pytest.FixtureRequest) -> Callable[[str], list[Match]]:
    if request.param:
        pytest.importorskip("hyperscan")
    return cached(fast=request.param)


def found(detect: Callable[[str], list[Match]], text: str) -> list[tuple[str, str]]:
    return [(match.entity, text[match.start : match.end]) for match in detect(text)]


@pytest.mark.parametrize("secret", FORMATS, ids=lambda secret: secret.entity)
def test_an_example_of_a_format_is_found_as_what_it_is(
    detect: Callable[[str], list[Match]], secret: SecretFormat
) -> None:
    """S-65, C-39."""
    random = Random(secret.entity)
    for before, after in [
        ("", ""),
        ("Use ", " now."),
        ('{"a":"', '"}'),
        ("密钥", "。"),
        ("- `", "`\n"),
        ("a=1&b= ", "\n"),
    ]:
        text = example(secret, random)
        assert (secret.entity, value_of(secret, text)) in found(detect, before + text + after)


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_false_alarm_in_a_megabyte(name: str) -> None:
    """S-64, S-65."""
    pytest.importorskip("hyperscan")
    text = corpus(name, 1_000_000)
    assert found(detect_with(SecretSearch(), fast=True), text) == []


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_false_alarm_without_hyperscan(name: str) -> None:
    assert found(detect_with(SecretSearch(), fast=False), corpus(name, 20_000, seed=9)) == []


@pytest.mark.parametrize("secret", FORMATS, ids=lambda secret: secret.entity)
def test_a_key_that_is_cut_off_is_not_found_by_its_format(
    detect: Callable[[str], list[Match]], secret: SecretFormat
) -> None:
    """S-65: bare prefixes."""
    text = example(secret, Random(3))
    assert secret.entity not in {match.entity for match in detect(text[: min(len(text) // 4, 10)])}


def test_the_specific_name_wins_over_the_general_one(detect: Callable[[str], list[Match]]) -> None:
    """C-39."""
    random = Random(4)
    stripe = "sk_" + "live_" + run(random, 40)
    token = json_web_token(random)
    text = (
        f"Authorization: Bearer {stripe}\npassword={stripe}\nAuthorization: Bearer {token}\nBearer {run(random, 60)}"
    )
    assert [entity for entity, _ in found(detect, text)] == [
        "STRIPE_SECRET_KEY",
        "STRIPE_SECRET_KEY",
        "JSON_WEB_TOKEN",
        "BEARER_TOKEN",
    ]


def test_several_secrets_in_one_text_are_all_found_and_all_covered(detect: Callable[[str], list[Match]]) -> None:
    """C-39."""
    random = Random(5)
    values = [(secret, example(secret, random)) for secret in FORMATS]
    text = "\n".join(value for _, value in values)
    covered = [(match.start, match.end) for match in detect(text)]
    assert covered == sorted(covered)
    assert all(first[1] <= second[0] for first, second in pairwise(covered))
    at = 0
    for secret, value in values:
        at = text.index(value, at)
        start = at + value.rindex(value_of(secret, value))
        end = start + len(value_of(secret, value))
        assert any(one[0] <= start and end <= one[1] for one in covered), secret.entity


def test_a_private_key_of_many_lines_is_one_secret(detect: Callable[[str], list[Match]]) -> None:
    """C-39."""
    lines = [run(Random(6), 64) for _ in range(20)]
    key = "\n".join(["-----BEGIN RSA PRIVATE" + " KEY-----", *lines, "-----END RSA PRIVATE" + " KEY-----"])
    assert found(detect, f"key:\n{key}\nthanks") == [("PRIVATE_KEY", key)]
    assert found(detect, f"key:\n{key[:500]}") == [("PRIVATE_KEY", key[:500])]
    assert found(detect, '"' + key.replace("\n", "\\n") + '"') == [("PRIVATE_KEY", key.replace("\n", "\\n"))]


def test_a_key_without_a_prefix_is_found_and_can_be_left_alone() -> None:
    """S-64."""
    key = next(key for key in (run(Random(seed), 48) for seed in range(9)) if key[0].isalpha())
    token = "glpat" + "-" + run(Random(7), 20)
    text = f"use {key} or {token} here"
    assert found(detect_with(SecretSearch(), fast=False), text) == [("RANDOM_KEY", key), ("GITLAB_TOKEN", token)]
    assert found(detect_with(SecretSearch(entropy=False), fast=False), text) == [("GITLAB_TOKEN", token)]


def test_known_values_are_found_exactly_the_longest_first(detect: Callable[[str], list[Match]]) -> None:
    text = "xhunter-2-xy, db://hunter-2-x@host, Hunter-2-x, correct  horse, correct horse; парольчик!"
    assert found(detect, text) == [
        ("KNOWN_DATABASE", "hunter-2-x"),
        ("KNOWN_DATABASE_URL", "db://hunter-2-x@host"),
        ("KNOWN_PHRASE", "correct horse"),
        ("KNOWN_WORD", "парольчик"),
    ]


def test_nothing_shows_a_known_value() -> None:
    search = SecretSearch(known=KNOWN)
    assert "hunter" not in repr(search) + repr(search.expressions) + str(search.expressions)
    assert search.reach == len("correct horse")


def test_what_overlaps_becomes_one_match_that_covers_all_of_it(detect: Callable[[str], list[Match]]) -> None:
    text = f"password=hunter-2-x{run(Random(8), 10)}9"
    assert found(detect, text) == [("KNOWN_DATABASE", text.partition("=")[2])]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com:8080/a?b=c",
        "postgres://user@localhost/db",
        "http://user:password@example.com",
        "mongodb://{user}:{password}@host",
        "password: it is secret",
        "api_key=os.environ['KEY_1']",
        "Bearer authentication-is-used",
        "Basic understanding1",
        "Authorization: Bearer <token>",
        "AKIA" + "X" * 16,
        "ghp_" + "x" * 36,
        "sk-some-long-css-class-name-that-goes-on-and-on",
        "550e8400-e29b-41d4-a716-446655440000",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ],
)
def test_clean_text_stays_as_it_is(detect: Callable[[str], list[Match]], text: str) -> None:
    """S-65, C-39."""
    assert found(detect, text) == []


def test_a_token_with_a_wrong_checksum_is_no_token_of_github_but_still_a_key_of_chance() -> None:
    body = next(body for body in (run(Random(seed), 30) for seed in range(9)) if not body.isalpha())
    (match,) = detect_with(SecretSearch(), fast=False)(f"ghp_{body}000000")
    assert match.entity == "RANDOM_KEY"


PIECES = (
    "sk-", "ghp_", "eyJ", ".eyJ", "T3BlbkFJ", "AKIA", "xoxb-", "password", "token", "=", ":", '"', "'", "\\", " ",
    "\n", "://", "@", "a", "A1", "-", "_", "/", "+", "bearer ", "basic ", "-----BEGIN PRIVATE" + " KEY-----\n",
    "A" * 16, "é", "密", "%3D", "x" * 30, "Ab1", ".", "msh", "0123456789abcdef",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_hyperscan_and_re_find_the_same(pieces: list[str]) -> None:
    pytest.importorskip("hyperscan")
    text = "".join(pieces)
    assert cached(fast=True)(text) == cached(fast=False)(text)


@pytest.mark.parametrize("piece", [*PIECES, "token:", "password=", "-ghp_", ".sk-", "://a:b", "A-", "Aa1-"])
def test_the_verification_of_hostile_text_is_bounded(piece: str) -> None:
    """20 KB of one piece: 100 ms of processor time are allowed; three times that on a busy machine."""
    text = (piece * 20_000)[:20_000]
    detect = cached(fast=importlib.util.find_spec("hyperscan") is not None)
    started = time.process_time_ns()
    detect(text)
    assert time.process_time_ns() - started < 300_000_000


@settings(max_examples=40, deadline=None)
@given(st.text(BASE62 + " .\n", max_size=80), st.integers(0, len(FORMATS) - 1), st.text(BASE62 + " .\n", max_size=80))
def test_what_stands_far_away_changes_nothing(before: str, at: int, after: str) -> None:
    secret = FORMATS[at]
    text = example(secret, Random(at))
    whole = f"{before} \n{text}\n {after}"
    assert (secret.entity, value_of(secret, text)) in found(cached(fast=False), whole)


def test_identifiers_hide_no_secret_and_chance_makes_none() -> None:
    find = Find(secrets=True, known=(("OWN", "swordfish-of-ours"),)).identifiers
    assert find is not None
    detector = detector_for(find)
    for text in ("sk-ant-api03-" + "aB3_x9Kq" * 11 + "aB3_xAA", "AKIA" + "IOSFODNN7QWERTYU", "swordfish-of-ours"):
        assert [match.start for match in detector.detect(text)] == [0], text
        assert [match.start for match in detector.detect(f"call/{text}")] == [5]
    own = [
        "gpt-4o-mini-2024-07-18", "chatcmpl-9a8B7c6D5e4F3g2H1", "msg_01XFDUDYJgAACzvnptvVoYEL",
        "toolu_01A09q90qw90lq917", "call_abc123XYZ456def789GHI012",
        "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
        "fp_44709d6fcb", "q7Vw2Zk9Tn4Xb8Lr3Jd6Hs1Gf5Mc0PyKeRu", "4111111111111111",
        "EqQBCgIYAhIM1gbcDa9GJwZA2b3h" * 20, "123e4567-e89b-42d3-a456-426614174000",
        "gAAAAABn" + "aB3_x9Kq" * 30 + "==", "accounts/acme/models/llama-v3p1",
    ]  # fmt: skip
    assert [detector.detect(text) for text in own] == [[]] * len(own)
    assert Find().identifiers is None


def test_what_is_short_and_has_no_mark_is_no_secret_of_any_format() -> None:
    """Which is why a stream's identifiers of fewer characters are read at a glance."""
    for secret in FORMATS:
        least = parser.parse(secret.expression, secret.flags).getwidth()[0]
        assert least >= NAME_CHARS_MIN or re.search(r"[=:\s]", example(secret, Random(1))), secret.entity
