"""What one request used: whole counts that do not overlap, so that its price is a plain sum."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from tenantguard.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNT_MAX: Final = 2**53
"""The largest count: beyond it readers of JSON in other languages lose digits (RFC 8259, section 6)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of what was used. Zero is a value; that nothing is known is ``None`` in place of a ``Usage``.

    The four token counts do not overlap: ``input_tokens`` are those neither read from nor written to a cache.
    ``requests`` and named ``units`` (pages, images, whatever the application reports) count other things than tokens.
    A count that is negative, no ``int`` or above 2**53 raises :class:`BadRequestError`: it is never mended.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    requests: int = 0
    units: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "requests"):
            if not is_count(getattr(self, name)):
                raise BadRequestError(f"usage: {name} must be a whole number from 0 to 2**53")
        units: dict[Any, Any] = dict(self.units)
        if not all(isinstance(name, str) and name and is_count(count) for name, count in units.items()):
            raise BadRequestError("usage: units must be whole numbers from 0 to 2**53 by name")
        object.__setattr__(self, "units", MappingProxyType(units))


def is_count(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is a whole number from 0 to 2**53: no bool, no float, no text."""
    return type(value) is int and 0 <= value <= COUNT_MAX
