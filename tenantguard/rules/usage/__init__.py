"""Usage decoders: what a model server's own response says was used, and whether it is whole."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.rules.usage import (
    anthropic_messages,
    bedrock_converse,
    gemini_generate,
    ollama,
    openai_audio,
    openai_chat,
    openai_embeddings,
    openai_images,
    openai_responses,
)
from tenantguard.rules.usage.decoder import UsageDecoder
from tenantguard.rules.usage.generic import CallableDecoder, UnitSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.rules.usage.decoder import Decoding

__all__ = ["DECODERS", "CallableDecoder", "UnitSource", "UsageDecoder", "make_decoder", "stream_types"]

DECODERS: Final[Mapping[str, Decoding]] = MappingProxyType(
    {
        "openai-chat": openai_chat.DECODING,
        "openai-responses": openai_responses.DECODING,
        "openai-embeddings": openai_embeddings.DECODING,
        "openai-images": openai_images.DECODING,
        "openai-audio": openai_audio.DECODING,
        "anthropic-messages": anthropic_messages.DECODING,
        "gemini-generate": gemini_generate.DECODING,
        "bedrock-converse": bedrock_converse.DECODING,
        "ollama": ollama.DECODING,
        "ollama-embed": ollama.EMBED_DECODING,
        "mistral-chat": openai_chat.DECODING,
    },
)
"""How responses are decoded, by the name that a route gives as ``usage``."""


def make_decoder(
    name: str,
    *,
    content_type: str | None,
    strip_usage: bool = False,
    streamed: bool = False,
) -> UsageDecoder:
    """A fresh decoder for one response: a stream if ``content_type`` is one of the protocol's, else one document.

    ``streamed``: the request asked for a stream, which decides where the response names no type. ``strip_usage``
    takes the usage event out of an OpenAI stream whose caller did not ask for it. An unknown name raises
    :class:`ConfigurationError`.
    """
    stream = _stream(name, content_type or "", streamed)
    return stream(strip_usage) if stream is not None else _decoding(name).document()


@lru_cache(maxsize=256)  # of an upstream's own types, a few
def _stream(name: str, content_type: str, streamed: bool) -> Callable[[bool], UsageDecoder] | None:  # noqa: FBT001 - a key
    """What decodes a response of this type as a stream, None where it is a document."""
    decoding = _decoding(name)
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type and streamed:
        media_type = next(iter(decoding.streams), "")
    return decoding.streams.get(media_type)


def stream_types(name: str) -> frozenset[str]:
    """The media types, in small letters, of the streams that the decoder of this name reads beside JSON documents."""
    return frozenset(_decoding(name).streams)


def _decoding(name: str) -> Decoding:
    try:
        return DECODERS[name]
    except KeyError:
        raise ConfigurationError(f"no usage decoder is called {name!r}: there are {', '.join(DECODERS)}") from None
