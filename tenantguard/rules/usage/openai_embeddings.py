"""OpenAI embeddings: one document, counted by its input alone."""

from __future__ import annotations

from typing import Any, Final

from tenantguard.rules.usage.decoder import Decoding, DocumentDecoder
from tenantguard.rules.usage.openai_chat import read_document


class _Document(DocumentDecoder):
    __slots__ = ()

    def read(self, document: dict[str, Any]) -> None:
        read_document(self, document, writes=False)


DECODING: Final = Decoding(_Document)
