"""What a request makes a model read beside its bytes: pictures, files, earlier conversations, in every protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError
from tenantguard.rules.requests import Brought, form_brought, read_brought, read_call

URL = "https://example.com/x"


def brought(body: Any) -> Brought:
    return read_brought(json.dumps(body).encode(), body)


def said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "what"}, *parts]}]}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (said(), Brought()),
        (said({"type": "image_url", "image_url": {"url": URL}}), Brought(images=1)),
        (said({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}), Brought(images=1)),
        (said(*[{"type": "image", "source": {"type": "base64", "data": "aGk="}}] * 3), Brought(images=3)),
        (said({"type": "document", "source": {"type": "url", "url": URL}}), Brought(files=1)),
        (said({"type": "file", "file": {"file_id": "file-1"}}), Brought(files=1)),
        (said({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}), Brought()),
        ({"model": "m", "input": [{"content": [{"type": "input_file", "file_url": URL}]}]}, Brought(files=1)),
        ({"model": "m", "input": [{"content": [{"type": "input_image", "file_id": "f"}]}]}, Brought(images=1)),
        ({"model": "m", "input": "go on", "previous_response_id": "resp_1"}, Brought(context=True)),
        ({"model": "m", "input": "go on", "previous_response_id": None}, Brought()),
        ({"model": "m", "input": "go on", "conversation": "conv_1"}, Brought(context=True)),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}]}, Brought(images=1)),
        ({"contents": [{"parts": [{"inline_data": {"mime_type": "video/mp4", "data": "aGk="}}]}]}, Brought(files=1)),
        ({"contents": [{"parts": [{"inline_data": {"mime_type": "audio/wav", "data": "aGk="}}]}]}, Brought()),
        ({"contents": [{"parts": [{"fileData": {"fileUri": URL}}]}]}, Brought(files=1)),
        ({"contents": [], "cachedContent": "cachedContents/1"}, Brought(context=True)),
        ({"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": "aGk="}}}]}]}, Brought(images=1)),
        ({"messages": [{"content": [{"document": {"source": {"s3Location": {}}}}]}]}, Brought(files=1)),
        (
            {"model": "m", "messages": [{"role": "user", "content": "x", "images": ["aGk=", "aGk="]}]},
            Brought(images=2),
        ),
    ],
)
def test_every_protocol_s_pictures_files_and_references_are_counted(body: Any, wanted: Brought) -> None:
    assert brought(body) == wanted


def test_words_about_pictures_are_no_pictures() -> None:
    tools = [{"function": {"parameters": {"type": "object", "properties": {"image": {"type": "string"}}}}}]
    assert brought({**said({"type": "text", "text": "an image of a file"}), "tools": tools}) == Brought()


def test_an_escaped_name_is_seen_through() -> None:
    body = said({"type": "image_url", "image_url": {"url": URL}})
    text = json.dumps(body).replace("image", "im\\u0061ge")
    assert json.loads(text) == body
    assert read_brought(text.encode(), json.loads(text)) == Brought(images=1)


def test_a_form_s_pictures_are_its_files() -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\nPNG\r\n--x--'
    assert form_brought("openai-images", form) == Brought(images=1)
    assert form_brought("openai-audio", form) == Brought()


@given(
    st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_nothing_in_a_body_makes_the_count_fail(body: Any) -> None:
    brought(body)


@pytest.mark.parametrize("name", ["max_tokens", "maxTokens", "MAX_TOKENS", "max_new_tokens", "maxGenLen", "n"])
def test_what_bedrock_passes_on_must_not_hide_a_cap(name: str) -> None:
    body = {"messages": [], "additionalModelRequestFields": {"textGenerationConfig": [{name: 100_000}]}}
    with pytest.raises(BadRequestError, match="must not say how much"):
        read_call("bedrock-converse", body, "/model/m/converse")
    harmless = {"messages": [], "additionalModelRequestFields": {"top_k": 5}}
    assert read_call("bedrock-converse", harmless, "/model/m/converse").model == "m"
