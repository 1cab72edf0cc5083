"""What headers say of a body, and what is open to two readings."""

from __future__ import annotations

import pytest

from tenantguard.rules.media import EVENT_STREAM, Content, Media, content_of, media_of, read_media


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


def test_of_a_head_only_the_lines_that_describe_the_body_count() -> None:
    head = [(b"host", b"a"), (b"Content-Type", b"text/plain"), (b"accept-ranges", b"b"), (b"x-content-t", b"c")]
    assert media_of(head) == Media("text/plain", None)
    assert media_of([*head, (b"content-encoding", b"gzip")]).problem is not None
    assert media_of([*head, (b"content-type", b"text/plain")]).problem is not None
    assert media_of([]) == Media("", None)
    assert media_of([(b"content-type", b"caf\xe9/x")]).problem is not None


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ("Text/CSV; charset=ISO-8859-1; header=present", Content("text/csv", "iso-8859-1")),
        ("text/plain;charset=Windows-1252", Content("text/plain", "cp1252")),
        ("text/plain; charset=UTF-16LE", Content("text/plain", "utf-16-le")),
        ("text/plain; charset=us-ascii", Content("text/plain", "utf-8")),
        ('multipart/form-data; boundary="a b\\\\\'x"', Content("multipart/form-data")),
        (
            'multipart/form-data; BOUNDARY="a b=x"; charset=utf-8',
            Content("multipart/form-data", "utf-8", (), "a b=x"),
        ),
        ("multipart/form-data; boundary=" + "b" * 70, Content("multipart/form-data", boundary="b" * 70)),
        ("multipart/form-data; boundary=" + "b" * 71, Content("multipart/form-data")),
        ("multipart/form-data; boundary=", Content("multipart/form-data")),
        ("multipart/form-data; boundary=a/b", Content("multipart/form-data")),
        ('multipart/form-data; boundary="a/b"', Content("multipart/form-data", boundary="a/b")),
        ('multipart/form-data; boundary="a\\b"', Content("multipart/form-data")),
        ("application/json; utf-8", Content("application/json")),
        ("text/html;", Content("text/html")),
    ],
)
def test_the_parameters_of_a_type_are_read(given: str, content: Content) -> None:
    assert content_of([(b"Content-Type", given.encode())]) == content


@pytest.mark.parametrize(
    "given",
    ["a/b; charset*=utf-8''utf-8", "a/b; boundary=x; boundary*=utf-8''y", "a/b; boundary=x; Boundary*1=y",
     "a/b; charset=utf-7", "a/b; charset=", "a/b; charset=utf-8; Charset=utf-8", "a/b; boundary=x; boundary=x",
     'a/b; charset="utf-8', "a/b; =x", "a/b; x=y z", "a/b; charset=base64", "a/b; charset=rot13"],
)  # fmt: skip
def test_parameters_that_are_open_to_two_readings_are_a_problem(given: str) -> None:
    content = content_of([(b"content-type", given.encode())])
    assert content.problem is not None
    assert content.type == content.boundary == content.charset == ""
    assert read_media([given], []).problem is not None


def test_encodings_are_told_in_the_order_in_which_they_were_applied() -> None:
    head = [(b"content-encoding", b"GZIP, identity"), (b"content-type", b"a/b"), (b"Content-Encoding", b" br ,")]
    assert content_of(head) == Content("a/b", "", ("gzip", "br"))
    assert content_of(head[:1]) == Content("", "", ("gzip",))
    assert content_of([(b"content-encoding", b"identity")]) == Content("")
