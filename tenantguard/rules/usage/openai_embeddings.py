"""OpenAI embeddings: one document, counted by its input alone."""

from __future__ import annotations

from typing import Any

from tenantguard.rules.usage.decoder import DocumentDecoder, UsageDecoder
from tenantguard.rules.usage.openai_chat import read_document


def make(stream: bool, strip_usage: bool) -> UsageDecoder:  # noqa: ARG001, FBT001 - the registry's signature
    """A decoder for one response; embeddings are not streamed."""
    return _Document()


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        read_document(self, document, writes=False)
