"""The detector that fits what is looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.model.redact_section import Parity

if TYPE_CHECKING:
    from tenantguard.adapters.pii.finder import Finder
    from tenantguard.model.redact_section import Find


def detector_for(find: Find, *, fast: bool | None = None) -> CascadeDetector | PresidioDetector:
    """The detector for ``find``, ready for use (seconds): Presidio's engine if it asks for parity, else the cascade.

    ``fast`` as for :class:`CascadeDetector`. Secrets and known values are the cascade's alone. Raises
    :class:`ConfigurationError` for what cannot work.
    """
    if find.parity is Parity.PRESIDIO:
        return PresidioDetector(find)
    others: list[Finder] = []
    if find.secrets or find.known:
        from tenantguard.adapters.pii.secrets import SecretSearch  # noqa: PLC0415 - 200 expressions

        others.append(SecretSearch(entropy=find.secrets, known=find.known))
    return CascadeDetector(find, fast=fast, others=others)
