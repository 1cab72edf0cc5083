"""Formats of secrets: each is a superset of its trigger, tells its own examples, and no bare prefix."""

from __future__ import annotations

import base64
import re
from random import Random
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.redaction.text.rule import FORMAT_CHARS_MIN
from tenantguard.rules.secrets import pem
from tenantguard.rules.secrets.catalog import FORMATS
from tenantguard.rules.secrets.checks import (
    base62_crc32,
    bech32_checksum,
    decoded,
    discord_user,
    github_checksum,
    json_inside,
    json_web_token,
    mixed,
    user_and_password,
    varied,
)
from tenantguard.rules.secrets.generic import bearer, credential, url_password
from tests.rules.secrets.examples import BASE62, example, run, value_of

if TYPE_CHECKING:
    from tenantguard.rules.secrets.format import SecretFormat

each_format = pytest.mark.parametrize("secret", FORMATS, ids=lambda secret: secret.entity)


def test_there_are_formats_of_many_vendors() -> None:
    assert len(FORMATS) >= 110
    assert len({secret.entity for secret in FORMATS}) == len(FORMATS)


@each_format
def test_an_entity_can_stand_in_a_placeholder(secret: SecretFormat) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,39}", secret.entity)
    assert secret.label


@each_format
def test_every_expression_compiles(secret: SecretFormat) -> None:
    """S-65."""
    for expression in (secret.expression, secret.trigger):
        assert re.compile(expression, secret.flags)
        assert regex.compile(expression, secret.flags)
        assert "(?=" not in expression
        assert "(?!" not in expression
        assert "(?<" not in expression


@each_format
def test_no_secret_is_shorter_than_the_shortest_name_that_is_searched(secret: SecretFormat) -> None:
    assert parser.parse(secret.expression, secret.flags).getwidth()[0] >= FORMAT_CHARS_MIN
    assert len(pem.MARK) >= FORMAT_CHARS_MIN


@each_format
def test_hyperscan_takes_every_expression(secret: SecretFormat) -> None:
    """S-65."""
    hyperscan = pytest.importorskip("hyperscan")
    for expression in (secret.expression, secret.trigger):
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(expressions=[expression.encode()], ids=[0], flags=[0])


@each_format
def test_a_trigger_stands_in_every_example_where_it_is_said_to(secret: SecretFormat) -> None:
    random = Random(11)
    for _ in range(20):
        text = example(secret, random)
        assert value_of(secret, text)
        trigger = re.search(secret.trigger, text, secret.flags)
        assert trigger is not None
        assert trigger.start() <= secret.before


@given(st.text(BASE62, min_size=30, max_size=30))
def test_a_token_of_github_has_one_checksum(body: str) -> None:
    assert github_checksum(f"ghp_{body}{base62_crc32(body)}")
    assert not github_checksum(f"ghp_{body}{base62_crc32(body + 'x')}")


def test_the_checksum_is_the_one_that_github_writes() -> None:
    """A revoked token's parts, published with the description of the format."""
    assert base62_crc32("zQWBuTSOoRi4A9spHcVY5" + "ncnsDkxkJ") == "0mLq17"


def test_a_bech32_string_has_one_checksum() -> None:
    """The first is a test vector of BIP 173."""
    assert bech32_checksum("A12UEL5L")
    assert not bech32_checksum("A12UEL5Q")
    assert not bech32_checksum("A1bbbbbb")


@given(st.text(max_size=60))
def test_no_check_raises(text: str) -> None:
    for check in (
        *(secret.check for secret in FORMATS if secret.check),
        bech32_checksum, decoded, discord_user, json_inside, json_web_token, mixed, user_and_password, varied,
    ):  # fmt: skip
        check(text)


def test_deep_json_in_a_token_is_no_error() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' * 100_000).decode()
    assert not json_web_token(f"{deep}.eyJ.x")


@pytest.mark.parametrize("value", ["x" * 40, "****************", "0000000000000000", "abababababababab"])
def test_repeated_characters_are_no_key(value: str) -> None:
    """S-65."""
    assert not varied(value)


@pytest.mark.parametrize(
    "value",
    [
        "hunter22",
        "c0rrect-h0rse",
        "Tr0ub4dor&3",
        "a1b2c3d4",
        "p@ssword!",
        "9f86d081884c7d65",
        "it's:4me",
    ],
)
def test_what_looks_like_a_password_is_a_credential(value: str) -> None:
    assert credential(value)


@pytest.mark.parametrize(
    "value",
    [
        "None", "required", "self.password", "getpass.getpass", "os.environ", "<password>", "${PASSWORD}", "******",
        "$PASSWORD", "your-api-key-1", "changeme123", "settings.DB2", "X509_KEY_FILE_2", "aaaa1", "12345678",
        "args.token2", ":Secret::Value64", "https://a.example/1",
    ],
)  # fmt: skip
def test_what_looks_like_code_or_a_placeholder_is_none(value: str) -> None:
    assert not credential(value)


def test_a_bearer_token_has_digits_and_letters() -> None:
    assert bearer(run(Random(1), 20) + "4a")
    assert not bearer("authentication-scheme")


@pytest.mark.parametrize("value", ["password", "PASS", "{password}", "%s", "xxxx", "<token>", "***"])
def test_a_sample_password_of_an_address_is_none(value: str) -> None:
    assert not url_password(value)
    assert url_password("tiger")
