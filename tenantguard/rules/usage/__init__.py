"""Usage decoders: what a model server's own response says was used, and whether it is whole."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.rules.usage import anthropic_messages, openai_chat, openai_embeddings
from tenantguard.rules.usage.decoder import UsageDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["DECODERS", "UsageDecoder", "make_decoder"]

DECODERS: Final[Mapping[str, Callable[[bool, bool], UsageDecoder]]] = MappingProxyType(
    {
        "openai-chat": openai_chat.make,
        "openai-embeddings": openai_embeddings.make,
        "anthropic-messages": anthropic_messages.make,
    },
)
"""Decoders by the name that a route gives as ``usage``. Each is built by ``(stream, strip_usage)``."""


def make_decoder(name: str, *, content_type: str | None, strip_usage: bool = False) -> UsageDecoder:
    """A fresh decoder for one response: a stream if ``content_type`` is ``text/event-stream``, else one document.

    ``strip_usage`` takes the usage event out of an OpenAI stream whose caller did not ask for it. An unknown name
    raises :class:`ConfigurationError`.
    """
    try:
        build = DECODERS[name]
    except KeyError:
        raise ConfigurationError(f"no usage decoder is called {name!r}: there are {', '.join(DECODERS)}") from None
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return build(media_type == "text/event-stream", strip_usage)
