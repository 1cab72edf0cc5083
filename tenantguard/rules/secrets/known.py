"""Secrets whose values are known: found exactly, wherever they stand. Names and values never show in a ``repr``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.rules.secrets.format import BEGUN_CHARS_MIN
from tenantguard.rules.separators import is_parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VALUE_BYTES_MIN: Final = 4
"""What is shorter stands in ordinary text."""

_ENTITY_CHARS_MAX: Final = 40
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9]+")


class KnownSecrets:
    """Values by the entity that they become, ``KNOWN_<NAME>``, the longest first.

    A name without a letter or digit, or a value of less than four bytes (UTF-8), raises :class:`ConfigurationError`
    which tells the name alone.
    """

    __slots__ = ("_secrets",)

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        secrets = {value: known_entity(name, value) for name, value in known}
        self._secrets = tuple(sorted(secrets.items(), key=lambda secret: (-len(secret[0]), secret)))

    @property
    def values(self) -> tuple[str, ...]:
        """The values, the longest first."""
        return tuple(value for value, _ in self._secrets)

    @property
    def entities(self) -> frozenset[str]:
        """What they become."""
        return frozenset(entity for _, entity in self._secrets)

    @property
    def reach(self) -> int:
        """The most characters of a value of several words."""
        return max((len(value) for value, _ in self._secrets if is_parted(value)), default=0)

    def find(self, index: int, text: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
        """Where the value at ``index`` stands in ``text[start:end]``, maybe cut off: entity, start and end."""
        value, entity = self._secrets[index]
        at = text.find(value, start, end)
        while at >= 0:
            yield entity, at, at + len(value)
            at = text.find(value, at + 1, end)
        at = text.find(value[:BEGUN_CHARS_MIN], max(start, len(text) - len(value) + 1), end)
        while at >= 0 and len(value) > BEGUN_CHARS_MIN:
            if value.startswith(text[at:]):
                yield entity, at, len(text)
                break
            at = text.find(value[:BEGUN_CHARS_MIN], at + 1, end)

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"KnownSecrets({len(self._secrets)} values)"


def known_entity(name: str, value: str) -> str:
    """``KNOWN_<NAME>`` for a known secret; refuses what cannot be one."""
    short = _NOT_IN_A_NAME.sub("_", name.upper()).strip("_")
    if not short:
        raise ConfigurationError("redact: a known secret needs a name of letters and digits")
    if len(value.strip().encode("utf-8", "surrogatepass")) < VALUE_BYTES_MIN:
        raise ConfigurationError(f"redact: the known secret {short} is shorter than {VALUE_BYTES_MIN} bytes")
    return f"KNOWN_{short}"[:_ENTITY_CHARS_MAX].rstrip("_")
