"""The entities of secrets: what tells a secret from personal data once both are matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.secrets import entropy, pem
from tenantguard.rules.secrets.catalog import FORMATS
from tenantguard.rules.secrets.known import KnownSecrets

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRETS: Final = frozenset({entropy.ENTITY, pem.PRIVATE_KEY, *(known.entity for known in FORMATS)})
"""Those of secrets whose value nobody told."""


def secret_entities(known: Iterable[tuple[str, str]] = ()) -> frozenset[str]:
    """:data:`SECRETS`, and those of ``known`` names and values: these very ones, not whatever is called ``KNOWN_``.

    A name or value that cannot be a known secret's is a :class:`ConfigurationError`.
    """
    return SECRETS | KnownSecrets(known).entities
