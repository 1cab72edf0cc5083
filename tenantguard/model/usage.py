"""What one request used: whole counts that do not overlap, so that its price is a plain sum."""

from __future__ import annotations

from dataclasses import field
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from tenantguard.errors import BadRequestError
from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.money import Amount

COUNT_MAX: Final = 2**53
"""The largest count: beyond it readers of JSON in other languages lose digits (RFC 8259, section 6)."""
_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "requests",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "reasoning_tokens",
    "image_input_tokens",
)
_counts_of: Final = attrgetter(*_COUNTS)
_NO_UNITS: Final[Mapping[str, int]] = MappingProxyType({})


@frozen
class Usage:
    """Counts of what was used. Zero is a value; that nothing is known is ``None`` in place of a ``Usage``.

    Eight token counts do not overlap, and what a request costs is a sum over them. In: ``input_tokens`` (neither read
    from nor written to a cache, no audio), ``cache_read_tokens``, ``cache_write_tokens`` (kept for as long as the
    provider keeps by default: five minutes at Anthropic), ``cache_write_1h_tokens`` (kept for an hour) and
    ``audio_input_tokens``. Out: ``output_tokens`` (reasoning included, no audio, no images), ``audio_output_tokens``
    and ``image_output_tokens``.

    Two counts are inside another: ``reasoning_tokens`` in ``output_tokens``, ``image_input_tokens`` in
    ``input_tokens``. They cost nothing on top, unless a price has a rate of its own for them.

    ``requests`` and named ``units`` (pages, images, searches, whatever is reported) count other things than tokens.
    ``service_tier`` is how the request was served, in the provider's word (``priority``, ``flex``, ``fast``), where
    it said so; ``reported_cost`` what the provider itself says that the request costs.

    A count that is negative, no ``int`` or above 2**53, or a part larger than what it is inside of, raises
    :class:`BadRequestError`: it is never mended.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    requests: int = 0
    units: Mapping[str, int] = field(default_factory=lambda: _NO_UNITS, hash=False)
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    reasoning_tokens: int = 0
    image_input_tokens: int = 0
    service_tier: str | None = None
    reported_cost: Amount | None = None

    def __post_init__(self) -> None:
        for count in _counts_of(self):
            if type(count) is not int or not 0 <= count <= COUNT_MAX:
                name = next(name for name in _COUNTS if not is_count(getattr(self, name)))
                raise BadRequestError(f"usage: {name} must be a whole number from 0 to 2**53")
        if self.reasoning_tokens > self.output_tokens:
            raise BadRequestError("usage: reasoning_tokens are a part of output_tokens")
        if self.image_input_tokens > self.input_tokens:
            raise BadRequestError("usage: image_input_tokens are a part of input_tokens")
        if self.units is not _NO_UNITS:
            units: dict[Any, Any] = dict(self.units)
            if not all(isinstance(name, str) and name and is_count(count) for name, count in units.items()):
                raise BadRequestError("usage: units must be whole numbers from 0 to 2**53 by name")
            object.__setattr__(self, "units", MappingProxyType(units) if units else _NO_UNITS)
        if self.service_tier == "":
            raise BadRequestError("usage: service_tier must not be empty")
        if self.reported_cost is not None and self.reported_cost.nanos < 0:
            raise BadRequestError("usage: reported_cost must not be negative")


def is_count(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is a whole number from 0 to 2**53: no bool, no float, no text."""
    return type(value) is int and 0 <= value <= COUNT_MAX
