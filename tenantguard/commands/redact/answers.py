"""Questions, a line of JSON each, answered line by line with the redacted text and the matches."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from tenantguard.errors import BadRequestError, TenantGuardError
from tenantguard.rules.redaction.text.normal import Normalized
from tenantguard.rules.redaction.text.rule import Edit, apply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.flow.ports import Detector
    from tenantguard.model.pii import Match
    from tenantguard.model.redact_section import Find

_LISTS: Final = ("entities", "recognizers")
_SWITCHES: Final = ("context", "secrets")
_KEYS: Final = ("text", "language", "threshold", *_LISTS, *_SWITCHES)
_DETECTORS_MAX: Final = 16


def answer(lines: Iterable[bytes], usual: Find) -> int:
    """Answer every line on standard output; 1 if one could not be, which is told by its number."""
    usual = replace(usual, context=False, secrets=False)
    failed = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text, find = _read(line, usual)
            matches = _detector(find).detect(text)
        except TenantGuardError as wrong:
            failed = True
            print(f"line {number}: {wrong}", file=sys.stderr)
            continue
        found = [
            {"entity": match.entity, "start": match.start, "end": match.end, "score": match.score}
            for match in matches
        ]
        sys.stdout.buffer.write(json.dumps({"text": _labelled(text, matches), "matches": found}).encode() + b"\n")
        sys.stdout.buffer.flush()
    return 1 if failed else 0


def _read(line: bytes, usual: Find) -> tuple[str, Find]:
    try:
        wanted = json.loads(line)
    except (ValueError, RecursionError) as broken:
        place = f" (column {broken.colno})" if isinstance(broken, json.JSONDecodeError) else ""
        raise BadRequestError(f"not JSON{place}") from None
    if not isinstance(wanted, dict):
        raise BadRequestError("must be a JSON object")
    unknown = wanted.keys() - set(_KEYS)
    if unknown:
        raise BadRequestError(f"unknown key {min(unknown)!r}: known are {', '.join(_KEYS)}")
    text = wanted.pop("text", None)
    if not isinstance(text, str):
        raise BadRequestError("'text' must be there, and text")
    for name, value in wanted.items():
        if name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
                raise BadRequestError(f"{name!r} must be a list of names")
            wanted[name] = tuple(value)
        if name in _SWITCHES and not isinstance(value, bool):
            raise BadRequestError(f"{name!r} must be true or false")
    language = wanted.pop("language", usual.languages[0])
    if not isinstance(language, str):
        raise BadRequestError("'language' must be text, like \"en\"")
    threshold = wanted.get("threshold", 0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise BadRequestError("'threshold' must be a number from 0 to 1")
    return text, replace(usual, languages=(language,), **wanted)


@lru_cache(_DETECTORS_MAX)
def _built(find: Find) -> Any:
    from tenantguard.adapters.pii.detectors import detector_for  # noqa: PLC0415 - takes seconds

    return detector_for(find.searched)


def _detector(find: Find) -> Detector:
    """A detector with bounds on work of its own, of the text as it is read where that is asked for."""
    detector = _built(find).bounded()
    return cast("Detector", Normalized(detector) if find.normalize else detector)


def _labelled(text: str, matches: Iterable[Match]) -> str:
    return apply(text, [Edit(match.start, match.end, f"<{match.entity}>") for match in matches])
