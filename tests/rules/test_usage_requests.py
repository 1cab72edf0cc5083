"""What is read of requests in other protocols: the model, the stream, the output cap, wherever they stand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.rules.requests import Call, Prepared, prepare, read_call, read_form

GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent"
ARN = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.claude/converse"


@pytest.mark.parametrize(
    ("decoder", "path", "body", "call"),
    [
        ("openai-responses", "", {"model": "m"}, Call("m")),
        (
            "openai-responses",
            "",
            {"model": "m", "stream": True, "max_output_tokens": 9},
            Call("m", stream=True, caps=(("max_output_tokens", 9),)),
        ),
        ("openai-images", "", {"model": "m", "n": 3, "stream": False}, Call("m", choices=3)),
        ("openai-audio", "", {"model": "m", "input": "hi", "voice": "alloy"}, Call("m")),
        (
            "mistral-chat",
            "",
            {"model": "m", "max_tokens": 9, "n": 2},
            Call("m", caps=(("max_tokens", 9),), choices=2),
        ),
        ("gemini-generate", GEMINI, {}, Call("gemini-2.5-pro")),
        ("gemini-generate", VERTEX, {"generationConfig": None}, Call("gemini-2.5-pro", stream=True)),
        (
            "gemini-generate",
            GEMINI,
            {"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}},
            Call("gemini-2.5-pro", caps=(("generationConfig.maxOutputTokens", 9),), choices=2),
        ),
        ("bedrock-converse", "/model/us.claude/converse-stream", {}, Call("us.claude", stream=True)),
        (
            "bedrock-converse",
            ARN,
            {"inferenceConfig": {"maxTokens": 9}},
            Call("arn:aws:bedrock:us-east-1:1:inference-profile/us.claude", caps=(("inferenceConfig.maxTokens", 9),)),
        ),
        ("ollama", "/api/chat", {"model": "m"}, Call("m", stream=True)),
        (
            "ollama",
            "/ollama/api/generate",
            {"model": "m", "stream": False, "options": {"num_predict": 0}},
            Call("m", caps=(("options.num_predict", 0),)),
        ),
        ("ollama", "/api/chat", {"model": "m", "options": {"num_predict": -1}}, Call("m", stream=True)),
        ("ollama-embed", "/api/embed", {"model": "m", "input": "x"}, Call("m")),
    ],
)
def test_a_request_is_read_where_its_protocol_says_it(decoder: str, path: str, body: Any, call: Call) -> None:
    assert read_call(decoder, body, path) == call


@pytest.mark.parametrize(
    ("decoder", "path", "body", "named"),
    [
        ("openai-responses", "", [], "object"),
        ("openai-responses", "", {}, "model"),
        ("openai-responses", "", {"model": ""}, "model"),
        ("openai-responses", "", {"model": "m", "stream": "true"}, "stream"),
        ("openai-responses", "", {"model": "m", "max_output_tokens": 0}, "max_output_tokens"),
        ("openai-responses", "", {"model": "m", "max_output_tokens": True}, "max_output_tokens"),
        ("openai-responses", "", {"model": "m", "Max_Output_Tokens": 9}, "max_output_tokens"),
        ("openai-images", "", {"model": "m", "n": -1}, "n must be"),
        ("gemini-generate", "/v1beta/models/m:countTokens", {}, "URL"),
        ("gemini-generate", "/v1beta/models/m:generateContent/x", {}, "URL"),
        ("gemini-generate", GEMINI, {"generation_config": {}}, "generationConfig"),
        ("gemini-generate", GEMINI, {"generationConfig": {"max_output_tokens": 9}}, "maxOutputTokens"),
        ("gemini-generate", GEMINI, {"generationConfig": 7}, "generationConfig"),
        ("gemini-generate", GEMINI, {"generationConfig": {"candidateCount": 0}}, "candidateCount"),
        ("bedrock-converse", "/model//converse", {}, "URL"),
        ("bedrock-converse", "/model/m/invoke", {}, "URL"),
        ("bedrock-converse", "/model/m/converse", {"inferenceConfig": {"maxTokens": -1}}, "maxTokens"),
        ("ollama", "/api/pull", {"model": "m"}, "URL"),
        ("ollama", "/api/chat", {"model": "m", "Options": {}}, "options"),
        ("ollama", "/api/chat", {"model": "m", "options": {"num_predict": 1.5}}, "num_predict"),
        ("ollama-embed", "/api/chat", {"model": "m"}, "URL"),
    ],
)
def test_what_is_impossible_or_spelled_otherwise_is_refused(decoder: str, path: str, body: Any, named: str) -> None:
    with pytest.raises(BadRequestError, match=named):
        read_call(decoder, body, path)


def test_an_unknown_decoder_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="gemini-generate"):
        read_call("gemini", {})
    with pytest.raises(ConfigurationError, match="gemini-generate"):
        prepare("gemini", b"{}", {}, Call("m"), 5)


@pytest.mark.parametrize(
    ("decoder", "path", "body", "sent", "bound"),
    [
        ("openai-responses", "", {"model": "m"}, {"model": "m", "max_output_tokens": 50}, 50),
        ("gemini-generate", GEMINI, {}, {"generationConfig": {"maxOutputTokens": 50}}, 50),
        (
            "gemini-generate",
            GEMINI,
            {"generationConfig": {"candidateCount": 2, "maxOutputTokens": 90}},
            {"generationConfig": {"candidateCount": 2, "maxOutputTokens": 50}},
            100,
        ),
        ("bedrock-converse", ARN, {"inferenceConfig": {"maxTokens": 9}}, {"inferenceConfig": {"maxTokens": 9}}, 9),
        (
            "ollama",
            "/api/chat",
            {"model": "m", "options": {"num_predict": -2}},
            {"model": "m", "options": {"num_predict": 50}},
            50,
        ),
        ("ollama-embed", "/api/embed", {"model": "m"}, {"model": "m"}, 0),
        ("openai-images", "", {"model": "m", "n": 3}, {"model": "m", "n": 3}, 150),
        ("mistral-chat", "", {"model": "m", "stream": True}, {"model": "m", "stream": True, "max_tokens": 50}, 50),
    ],
)
def test_the_output_is_bounded_in_place(decoder: str, path: str, body: Any, sent: Any, bound: int) -> None:
    """A stream is asked for usage only in OpenAI's own protocol: Mistral refuses members that it does not know."""
    prepared = prepare(decoder, json.dumps(body).encode(), body, read_call(decoder, body, path), 50)
    assert json.loads(prepared.body) == sent
    assert prepared[1:] == (bound, False)


def test_without_a_cap_of_its_own_or_the_routes_a_request_has_no_bound() -> None:
    for decoder, path in (("openai-responses", ""), ("openai-images", ""), ("ollama", "/api/chat")):
        assert prepare(decoder, b"{}", {}, read_call(decoder, {"model": "m"}, path), None) == Prepared(
            b"{}", None, strip_usage=False
        )


# forms


def form(*parts: tuple[str, bytes], boundary: str = "xYz", end: bytes = b"--\r\n") -> bytes:
    mark = b"--" + boundary.encode()
    pieces = [mark + b"\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts]
    return b"".join(pieces) + mark + end


def field(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


TYPE = "multipart/form-data; boundary=xYz"
FILE = (field("file", '; filename="a.wav"\r\nContent-Type: audio/wav'), b"RIFF\r\n--xY\xff")
NAMED_TWICE = (field("image", "; filename=\"a;b.png\"; filename*=utf-8''%C3%A4.png"), b"\x89PNG")


def test_the_text_fields_of_a_form_are_read_and_its_files_are_not() -> None:
    parts = [
        FILE,
        NAMED_TWICE,
        (field("model"), b"gpt-4o-transcribe"),
        (field("stream"), b"true"),
        (field("n"), b"2"),
        (field("prompt"), "é".encode()),
        (field("include[]"), b"logprobs"),
        (field("include[]"), b"other"),
    ]
    fields = read_form(TYPE, form(*parts))
    assert (fields["model"], fields["stream"], fields["n"], fields["prompt"]) == ("gpt-4o-transcribe", True, 2, "é")
    assert not {"file", "image"} & fields.keys()
    assert read_call("openai-audio", fields) == Call("gpt-4o-transcribe", stream=True)
    assert read_form('Multipart/Form-Data; charset=utf-8; Boundary="xYz"', form(FILE, end=b"--")) == {}


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n-"), max_size=20),
    )
)
def test_every_form_is_read_as_it_was_written(fields: dict[str, str]) -> None:
    parts = [(field(name), value.encode()) for name, value in fields.items()]
    assert read_form(TYPE, form(*parts)) == fields


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form(FILE)),
        (TYPE + "; boundary=other", form(FILE)),
        ("multipart/form-data; boundary=other", form(FILE)),
        (TYPE, b""),
        (TYPE, form(FILE)[:-4]),
        (TYPE, b"before\r\n" + form(FILE)),
        (TYPE, form(FILE) + b"after"),
        (TYPE, form(FILE).replace(b"\r\n", b"\n")),
        (TYPE, form((field("model"), b"a"), (field("model"), b"b"))),
        (TYPE, form((field("model", '; filename="a"'), b"a"))),
        (TYPE, form((field("model", '; name="other"'), b"a"))),
        (TYPE, form(("Content-Disposition: form-data; name=model", b"a"))),
        (TYPE, form(("Content-Disposition: form-data; name*=utf-8''model", b"a"))),
        (TYPE, form(("Content-Type: text/plain", b"a"))),
        (TYPE, form((field("model") + "\r\n" + field("n"), b"a"))),
        (TYPE, form((field("model") + "\r\nContent-Transfer-Encoding: base64", b"YQ=="))),
        (TYPE, form((field("model") + "\r\n folded: x", b"a"))),
        (TYPE, form((field("model") + "\nX: y", b"a"))),
        (TYPE, form((field("model"), b"\xff"))),
        # what werkzeug, and others, take for a field ``n``
        (TYPE, form((field("other", '; name="n"'), b"10"))),
        (TYPE, form((field("other", "; name*=utf-8''n"), b"10"))),
        (TYPE, form((field("other", '; filename="a"; name="n"'), b"10"))),
        (TYPE, form(("Content-Disposition : form-data; name=n\r\n" + field("other"), b"10"))),
        *[
            (TYPE, form((field("prompt"), end + b"--xYz" + end + field("n").encode() + 2 * end + b"10")))
            for end in (b"\n", b"\r")
        ],
        (TYPE + "; boundary*=utf-8''zZz", form((field("prompt"), form((field("n"), b"10"), boundary="zZz")))),
        ("multipart/form-data; boundary=xYz/z", form((field("model"), b"a"), boundary="xYz/z")),
        (TYPE, b"--xYz\r\n--xYz--\r\n"),
        (TYPE, b"--xYz \r\n" + form(FILE)[7:]),
    ],
)
def test_a_form_that_can_be_read_in_two_ways_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(BadRequestError, match="form"):
        read_form(content_type, body)


def test_a_number_or_flag_that_is_none_is_refused_by_name() -> None:
    for name, value in (("n", b"two"), ("stream", b"yes")):
        fields = read_form(TYPE, form((field("model"), b"m"), (field(name), value)))
        with pytest.raises(BadRequestError, match=name):
            read_call("openai-images", fields)
