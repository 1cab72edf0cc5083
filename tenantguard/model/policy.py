"""One tenant's settings as a value: typed sections under a revision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, cast

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Policy:
    """A tenant's policy: sections by type, and the revision that every decision records.

    A section is any frozen dataclass. Absent means that the layer does not apply. ``of`` derives the revision from
    the ``repr`` of the sections, so equal policies have equal revisions whatever process built them, unless a section
    holds a set, whose order differs between processes.
    """

    name: str
    revision: str
    sections: Mapping[type, object] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, name: str, sections: Iterable[object] = ()) -> Policy:
        """Build a policy from section values; two of one type raise :class:`ConfigurationError`."""
        by_type: dict[type, object] = {}
        for section in sections:
            if type(section) in by_type:
                raise ConfigurationError(f"policy {name!r} has two {type(section).__name__} sections")
            by_type[type(section)] = section
        shown = repr(sorted((kind.__name__, repr(value)) for kind, value in by_type.items()))
        revision = hashlib.blake2s(shown.encode(), digest_size=6).hexdigest()
        return cls(name, revision, MappingProxyType(by_type))

    def section(self, kind: type[S]) -> S | None:
        """The section of this type, or None where the policy has none."""
        return cast("S | None", self.sections.get(kind))

    def having(self, *sections: object, name: str | None = None) -> Policy:
        """This policy with these sections instead of its own of the same types, perhaps under another name."""
        new = {type(section) for section in sections}
        kept = [section for kind, section in self.sections.items() if kind not in new]
        return Policy.of(name or self.name, [*kept, *sections])


EMPTY_POLICY = Policy.of("empty")
