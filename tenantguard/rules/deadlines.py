"""How long a request allows for its answer, as a header of it says."""

from __future__ import annotations

import re
from typing import Final

from tenantguard.errors import BadRequestError

_TIMEOUT: Final = re.compile(r"(?P<whole>[0-9]{1,9})(?:\.(?P<part>[0-9]{1,9}))?(?P<unit>[HMSmun])?")
_UNITS_NS: Final = {"H": 3600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}
"""The units of ``grpc-timeout`` (gRPC over HTTP/2, "Requests": TimeoutUnit)."""


def parse_timeout(name: str, text: str) -> int:
    """Nanoseconds of a header's value: a number, with a unit of gRPC's behind it or without one.

    Without a unit it is milliseconds where the header's name ends in ``-ms`` (``x-request-timeout-ms``, Envoy's
    ``x-envoy-upstream-rq-timeout-ms``), else seconds (the OpenAI and Anthropic SDKs' ``x-stainless-read-timeout``).
    :class:`BadRequestError` for anything else.
    """
    found = _TIMEOUT.fullmatch(text.strip())
    if found is None:
        raise BadRequestError(f"{name} must be a number, of {'milli' if name.endswith('-ms') else ''}seconds")
    unit_ns = _UNITS_NS[found["unit"] or ("m" if name.endswith("-ms") else "S")]
    whole, part = found["whole"], found["part"] or ""
    return int(whole) * unit_ns + int(part.ljust(9, "0")) * unit_ns // 10**9
