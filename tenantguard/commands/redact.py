"""``tenantguard redact``: find and replace personal data in lines of text or of JSON."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import json
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.errors import BadRequestError, TenantGuardError
from tenantguard.rules.redaction.rule import Edit, apply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.flow.ports import Detector
    from tenantguard.model.pii import Match

_EPILOG: Final = """\
examples:
  echo 'Write to ann@example.com' | tenantguard redact
  echo '{"text": "Write to ann@example.com", "entities": ["EMAIL_ADDRESS"]}' | tenantguard redact

A line of JSON has "text", and may have "language", "entities", "threshold" and "recognizers" (class names of
Presidio's recognizers, those of the country packs too), which win over the options. It is answered by
  {"text": "Write to <EMAIL_ADDRESS>", "matches": [{"entity": "EMAIL_ADDRESS", "start": 9, "end": 24, "score": 1.0}]}
where start and end count characters of the text that was given. Each line is answered before the next is read.

A line that cannot be answered is told by its number on standard error, the others are answered,
and the exit code is 1.
"""
_LISTS: Final = ("entities", "recognizers")
_DETECTORS_MAX: Final = 16


class _Wish(NamedTuple):
    """What to look for; the arguments of a detector."""

    entities: tuple[str, ...]
    threshold: float
    language: str
    recognizers: tuple[str, ...]


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "redact",
        help="replace personal data in text or JSON Lines on standard input",
        description="Replace personal data, found by Presidio's pattern recognizers, line by line.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--format",
        choices=("auto", "jsonl", "text"),
        default="auto",
        help="what the input is; auto (the default) takes it for JSON Lines if its first line begins with '{'",
    )
    parser.add_argument("--entities", type=_names, default=(), help="comma-separated; all that are known by default")
    parser.add_argument("--recognizers", type=_names, default=(), help="comma-separated class names of Presidio")
    parser.add_argument("--threshold", type=_share, default=0.4, help="the least score of a match, 0 to 1 (0.4)")
    parser.add_argument("--language", default="en", help="the language of the text (en)")


def run(args: argparse.Namespace) -> int:
    """Answer every line of standard input on standard output."""
    usual = _Wish(args.entities, args.threshold, args.language, args.recognizers)
    as_json: bool | None = {"auto": None, "jsonl": True, "text": False}[args.format]
    failed = False
    for number, line in enumerate(sys.stdin.buffer, 1):
        if as_json is None:
            if not line.strip():
                continue
            as_json = line.lstrip().startswith(b"{")
        if not as_json:
            _detector(usual)  # wrong options end the command, not a line
        try:
            answer = _answer_json(line, usual) if as_json else _answer_text(line, usual)
        except TenantGuardError as wrong:
            failed = True
            print(f"line {number}: {wrong}", file=sys.stderr)
            continue
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    return 1 if failed else 0


def _answer_text(line: bytes, wish: _Wish) -> bytes:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise BadRequestError("not UTF-8") from None
    return _redact(text, _detector(wish).detect(text)).encode()


def _answer_json(line: bytes, usual: _Wish) -> bytes:
    if not line.strip():
        return b""
    text, wish = _read(line, usual)
    matches = _detector(wish).detect(text)
    found = [
        {"entity": match.entity, "start": match.start, "end": match.end, "score": match.score} for match in matches
    ]
    return json.dumps({"text": _redact(text, matches), "matches": found}).encode() + b"\n"


def _read(line: bytes, usual: _Wish) -> tuple[str, _Wish]:
    try:
        wanted = json.loads(line)
    except (ValueError, RecursionError) as broken:
        place = f" (column {broken.colno})" if isinstance(broken, json.JSONDecodeError) else ""
        raise BadRequestError(f"not JSON{place}") from None
    if not isinstance(wanted, dict):
        raise BadRequestError("must be a JSON object")
    unknown = wanted.keys() - {"text", *_Wish._fields}
    if unknown:
        raise BadRequestError(f"unknown key {min(unknown)!r}: known are text, {', '.join(_Wish._fields)}")
    text = wanted.pop("text", None)
    if not isinstance(text, str):
        raise BadRequestError("'text' must be there, and text")
    for name, value in wanted.items():
        if name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
                raise BadRequestError(f"{name!r} must be a list of names")
            wanted[name] = tuple(value)
    if not isinstance(wanted.get("language", ""), str):
        raise BadRequestError("'language' must be text, like \"en\"")
    threshold = wanted.get("threshold", 0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise BadRequestError("'threshold' must be a number from 0 to 1")
    return text, usual._replace(**wanted)


@lru_cache(_DETECTORS_MAX)
def _detector(wish: _Wish) -> Detector:
    from tenantguard.adapters.pii.presidio import PresidioDetector  # noqa: PLC0415 - takes seconds

    return PresidioDetector(**wish._asdict())


def _redact(text: str, matches: Iterable[Match]) -> str:
    return apply(text, [Edit(match.start, match.end, f"<{match.entity}>") for match in matches])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value
