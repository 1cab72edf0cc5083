"""What headers say of a body, and what is open to two readings."""

from __future__ import annotations

import pytest

from tenantguard.rules.media import EVENT_STREAM, Media, read_media


@pytest.mark.parametrize(
    ("given", "media_type", "is_json"),
    [
        ([], "", False),
        (["application/json"], "application/json", True),
        ([' Application/JSON ; charset="UTF-8"'], "application/json", True),
        (["application/problem+json;charset=us-ascii"], "application/problem+json", True),
        (["text/json"], "text/json", True),
        (["TEXT/EVENT-STREAM; charset=utf-8"], EVENT_STREAM, False),
        (["application/x-ndjson"], "application/x-ndjson", False),
        (["image/png"], "image/png", False),
    ],
)
def test_a_type_is_read_without_case_and_parameters(given: list[str], media_type: str, *, is_json: bool) -> None:
    media = read_media(given, [])
    assert media == Media(media_type, None)
    assert media.is_json is is_json


@pytest.mark.parametrize(
    "given",
    [
        [""],
        ["json"],
        ["application/json, image/png"],
        ["application/json image/png"],
        ["application/json", "application/json"],
        ["application/json; charset=utf-7"],
        ["application/json; charset = 'utf-8'"],
        ["application/json; charset=utf-8; charset=utf-16"],
    ],
)
def test_a_type_that_is_open_to_two_readings_is_a_problem(given: list[str]) -> None:
    media = read_media(given, [])
    assert media.problem is not None
    assert not media.is_json


@pytest.mark.parametrize(
    ("encodings", "plain"),
    [
        ([], True),
        ([""], True),
        (["identity"], True),
        (["gzip"], False),
        (["identity", "gzip"], False),
        (["x"], False),
    ],
)
def test_only_a_body_that_is_not_encoded_can_be_read(encodings: list[str], *, plain: bool) -> None:
    assert (read_media(["application/json"], encodings).problem is None) is plain
