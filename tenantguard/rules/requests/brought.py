"""What a request makes a model read that is not in its bytes, or is far more tokens than bytes.

A byte-level token is at least one byte, so the bytes of a request bound its text. They do not bound a picture (one
of a few hundred bytes can be thousands of tokens), a document (pages become text and pictures), what a reference
names (a URL, a file id), or a conversation that the provider remembers.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from tenantguard.rules.requests.shapes import plain

_IMAGES: Final = frozenset({"image", "image_url", "input_image"})
_FILES: Final = frozenset({"file", "input_file", "document", "video", "video_url", "input_video", "container_upload"})
"""Values of ``type`` in the parts of OpenAI's and Anthropic's messages."""

_CONTEXTS: Final = frozenset({"previousresponseid", "conversation", "cachedcontent", "container"})
"""Members of a body that bring what was said before (Responses, Gemini, Anthropic), as ``plain`` reads them."""

_HINT: Final = re.compile(rb"\\u|image|file|document|video|inline|container|conversation|previous|ached")
"""A body without any of these, in small letters, has no such part: an escape may hide a letter."""


class Brought(NamedTuple):
    """How many pictures, how many files of other kinds, and whether an earlier conversation is meant."""

    images: int = 0
    files: int = 0
    context: bool = False


NOTHING: Final = Brought()


def read_brought(data: bytes, body: Any) -> Brought:
    """Count what is in ``body``, the parsed ``data``."""
    if _HINT.search(data.lower()) is None:
        return NOTHING
    images = files = 0
    left: list[Any] = [body]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            kind = value.get("type")
            if isinstance(kind, str):
                images += kind in _IMAGES
                files += kind in _FILES
            for name, inner in value.items():
                if isinstance(inner, (dict, list)):
                    left.append(inner)
                    more_images, more_files = _named(plain(name), inner)
                    images += more_images
                    files += more_files
    context = isinstance(body, dict) and any(
        plain(name) in _CONTEXTS and value is not None for name, value in body.items()
    )
    return Brought(images, files, context)


def form_brought(decoder: str, data: bytes) -> Brought:
    """Count the files of a form: pictures for ``openai-images``; audio has more bytes than tokens."""
    return Brought(images=data.count(b"filename")) if decoder == "openai-images" else NOTHING


def _named(name: str, inner: dict[str, Any] | list[Any]) -> tuple[int, int]:
    """The parts that are known by the name of a member: Gemini's and Bedrock's, and Ollama's lists of pictures."""
    if isinstance(inner, list):
        return (len(inner), 0) if name == "images" else (0, 0)
    if name == "inlinedata":
        kind = next((value for key, value in inner.items() if plain(key) == "mimetype"), "")
        kind = kind.lower() if isinstance(kind, str) else ""
        if kind.startswith("audio/"):  # a second of it has more bytes than tokens
            return 0, 0
        return (1, 0) if kind.startswith("image/") else (0, 1)
    if name == "filedata":
        return 0, 1
    if name in {"image", "document", "video"} and "source" in inner and "type" not in inner:
        return (1, 0) if name == "image" else (0, 1)
    return 0, 0
