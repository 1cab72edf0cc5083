"""All formats, the specific ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.rules.secrets.clouds import CLOUDS
from tenantguard.rules.secrets.code import CODE
from tenantguard.rules.secrets.generic import GENERIC
from tenantguard.rules.secrets.models import MODELS
from tenantguard.rules.secrets.services import MESSAGES, PAYMENTS, SERVICES

if TYPE_CHECKING:
    from tenantguard.rules.secrets.format import SecretFormat

FORMATS: Final[tuple[SecretFormat, ...]] = (*MODELS, *CLOUDS, *CODE, *PAYMENTS, *MESSAGES, *SERVICES, *GENERIC)
