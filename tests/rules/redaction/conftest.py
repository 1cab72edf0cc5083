"""A cheap detector for volume, the rules over it, and texts full of personal data in several scripts."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.matches import united
from tenantguard.rules.redaction.text.rule import Identifiers, Replacing, RequestMask, ResponseScrub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATTERN = re.compile(
    r"(?P<EMAIL_ADDRESS>\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b)"
    r"|(?P<IBAN_CODE>(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,6}(?![A-Z0-9]))"
    r"|(?P<CREDIT_CARD>\b\d{4}(?:[ -]?\d{4}){3}\b)"
    r"|(?P<PHONE_NUMBER>(?<![\w+])(?:\+\d{1,3}[ -])?\(?\d{3}\)?[ -]\d{3}[ -]\d{4}(?: ext\.? \d{1,4})?\b)"
    r"|(?P<URL>https?://[^\s\"'<>()]+)",
)


WORDS = st.sampled_from([
    "hello", "write", "to", "a", "I", "call", "ext.", "ext", "U.S.", "don't", "e-mail:", "(see", "below)", "|",
    "\u2013", "Größe", "привет", "مرحبا", "नमस्ते", "สวัสดีครับ", "联系", "电话", "こんにちは", "🎉", "x", "{", "}",
])  # fmt: skip
SECRETS = st.sampled_from([
    "john@smith.com", "josé.müller@example.co.uk", "张三@example.com", "4111 1111 1111 1111", "5500-0000-0000-0004",
    "+1 415 555-2671", "(415) 555-2671 ext 12", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432",
    "https://example.com/a?b=c&d=%20#e", "12", "2024-05-06", "3.14", "4111", "1111", "WEST", "@", "+1",
    "mailto:a@b.io", "<EMAIL_ADDRESS_k7f3q2abcd>",
])  # fmt: skip
SEPARATORS = st.sampled_from([
    " ", " ", " ", "  ", "\n", "\t", ", ", ". ", "，", "。", "：", "；", "", "/", "\u00a0", "\u200b",  # noqa: RUF001
])  # fmt: skip
PROSE = st.lists(st.tuples(WORDS | SECRETS, SEPARATORS)).map(lambda parts: "".join("".join(part) for part in parts))
LONG = st.sampled_from([
    "a" * 300, "字" * 400, "12 " * 120, "Ab1/" * 90, "a.b" * 100 + "@example.com ", "x@" + "y." * 200, "WEST " * 60,
    "https://e.com/" + "p" * 500, "4111 1111 1111 1111 " * 16, "a@b.io;" * 50, " " * 300, "(" * 270,
])  # fmt: skip


PLACES = st.lists(st.integers(min_value=0))


class Detecting:
    """A detector that is a function."""

    def __init__(self, search: Callable[[str], list[Match]], reach: int = 0) -> None:
        self.reach = reach
        self.passed = 0
        self._search = search

    def clears(self, text: str) -> bool:
        return not self._search(text)

    def detect(self, text: str, after: int = 0) -> list[Match]:
        return [match for match in self._search(text) if match.end > after]


def _keys(text: str) -> list[Match]:
    return [Match("API_KEY", *found.span(), 1.0) for found in re.finditer(r"\bsk-\w{16}\b", text)]


class Tools:
    """What the tests of this folder share."""

    detecting = Detecting

    prose = PROSE
    long = st.lists(PROSE | LONG, max_size=5).map("".join)
    places = PLACES

    def detect(self, text: str) -> list[Match]:
        return [Match(str(found.lastgroup), *found.span(), 0.9) for found in _PATTERN.finditer(text)]

    def vault(self) -> Vault:
        return Vault(b"k" * 32)

    def mask(self, vault: Vault | None = None, *, escape: bool = True) -> RequestMask:
        return RequestMask(Detecting(self.detect), vault or self.vault(), escape=escape)

    def scrub(
        self, vault: Vault | None = None, *, restore: bool = False, identifiers: Identifiers | None = None
    ) -> ResponseScrub:
        return ResponseScrub(Detecting(self.detect), vault or self.vault(), restore=restore, identifiers=identifiers)

    def refusing(self, kind: str) -> RequestMask:
        """The request's rule that refuses this entity."""
        replacing = Replacing(refused=lambda entity: entity == kind)
        found = Identifiers(lambda: Detecting(_keys), {"API_KEY"})
        return RequestMask(
            Detecting(self._with_keys), self.vault(), escape=False, replacing=replacing, identifiers=found
        )

    def guarding(self) -> ResponseScrub:
        """The response's rule that also looks for keys in what a protocol has of its own."""
        found = Identifiers(lambda: Detecting(_keys), {"API_KEY"})
        return ResponseScrub(Detecting(self._with_keys), self.vault(), restore=False, identifiers=found)

    def _with_keys(self, text: str) -> list[Match]:
        return united(self.detect(text), _keys(text))

    def phrases(self, *listed: str) -> ResponseScrub:
        """A rule that finds these values and, as a deny list does, these phrases."""
        longest = sorted(listed, key=len, reverse=True)
        pattern = re.compile(r"\b(?=(" + "|".join(map(re.escape, longest)) + r")\b)")

        def search(text: str) -> list[Match]:
            return united(
                self.detect(text), [Match("DENY_LIST", *one.span(1), 1.0) for one in pattern.finditer(text)]
            )

        return ResponseScrub(Detecting(search, len(longest[0])), self.vault(), restore=False)

    def cut(self, whole: Any, places: Sequence[int]) -> list[Any]:
        edges = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
        return [whole[start:end] for start, end in pairwise(edges)]


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
