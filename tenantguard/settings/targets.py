"""What settings name in code of the user's: ``"package.module:attribute"``."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

from tenantguard.errors import ConfigurationError

_TARGET: Final = re.compile(r"\A[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def import_target(target: str) -> Any:
    """What ``"package.module:attribute"`` names. :class:`ConfigurationError` if there is no such thing."""
    if not _TARGET.match(target):
        raise ConfigurationError(f"cannot read {target!r}: write 'package.module:attribute'")
    module, _, attributes = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as failed:  # whatever a user's module raises while it is imported
        raise ConfigurationError(f"cannot import {module!r}: {type(failed).__name__}: {failed}") from failed
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ConfigurationError(
                f"{module!r} has no {attributes!r}; in the module that loads the settings it stands above that line"
            )
        found = getattr(found, attribute)
    return found
