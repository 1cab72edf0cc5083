"""How the vocabulary is made: ``@frozen`` for what a request makes dozens of, frozen dataclasses for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A slotted dataclass, compared and hashed by its fields, frozen for the type checker.

    ``frozen=True`` would freeze it at run time too, at six times the cost of making one (1.2 instead of 0.2 us for
    six fields), and a request makes about thirty.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
