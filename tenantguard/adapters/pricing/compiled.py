"""What the price data of others comes to, and what of it a price file cannot say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantguard.model.price import PriceRow


@dataclass(frozen=True, slots=True)
class Compiled:
    """Rows for a price file, where they come from, and, a sentence each, what was left out of it."""

    rows: tuple[PriceRow, ...]
    source: str
    source_version: str
    left_out: tuple[str, ...] = ()
