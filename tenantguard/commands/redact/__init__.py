"""``tenantguard redact``: find and replace personal data and secrets in files or on standard input."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from tenantguard.commands.redact import answers, documents, rules, view
from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import OTHERS, THRESHOLD, Find, Operator, OperatorKind

_EPILOG: Final = """\
examples:
  echo 'Write to ann@example.com' | tenantguard redact
  tenantguard redact letter.txt chat.json log.ndjson --output redacted/
  tenantguard redact dump.txt --operator mask --operator EMAIL_ADDRESS=hash --key-file redaction.key
  tenantguard redact chat.json --policy tenantguard.toml --tenant acme
  echo '{"text": "Write to ann@example.com", "entities": ["EMAIL_ADDRESS"]}' | tenantguard redact

What a file is follows from its name: JSON, lines of JSON, forms, event streams (.sse) and HTML keep their shape and
every byte that is not replaced; anything else is text, in UTF-8 or in what its byte order mark says. Pictures, sound
and other binary files pass as they are, counted. Standard input is text, unless --format says otherwise or its first
line is a JSON object.

JSON Lines on standard input are questions. Each has "text", and may have "language", "entities", "threshold",
"recognizers" (class names of Presidio's recognizers, those of the country packs too), "context" and "secrets" (true
or false), which win over the options. It is answered by
  {"text": "Write to <EMAIL_ADDRESS>", "matches": [{"entity": "EMAIL_ADDRESS", "start": 9, "end": 24, "score": 1.0}]}
where start and end count characters of the text that was given. Each line is answered before the next is read. Unless
a question asks for them, context does not count and secrets are not looked for: the answer is Presidio's own.

What cannot be redacted is told by its name or line on standard error, the rest is answered, and the exit code is 1.
"""


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "redact",
        help="replace personal data and secrets in files, text or JSON Lines",
        description="Replace personal data, found by Presidio's pattern recognizers, and secrets.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="files and folders; none: standard input")
    what = parser.add_argument_group("what is looked for")
    what.add_argument("--entities", type=_names, default=(), help="comma-separated; all that are known by default")
    what.add_argument("--recognizers", type=_names, default=(), help="comma-separated class names of Presidio")
    what.add_argument("--countries", type=_names, default=(), help="country packs by ISO code, for example DE,FR")
    what.add_argument("--phone-regions", type=_names, default=(), help="for example US,DE; Presidio's by default")
    what.add_argument("--language", default="en", help="the language of the text (en)")
    what.add_argument(
        "--threshold", type=_share, default=THRESHOLD, help=f"the least score of a match, 0 to 1 ({THRESHOLD})"
    )
    what.add_argument("--no-context", action="store_true", help="words before a match do not raise its score")
    what.add_argument("--no-secrets", action="store_true", help="look for personal data alone")
    what.add_argument("--normalize", action="store_true", help="see through full-width and zero-width characters")
    becomes = parser.add_argument_group("what becomes of it")
    becomes.add_argument(
        "--operator",
        action="append",
        default=[],
        type=_operator,
        metavar="[ENTITY=]KIND",
        help="replace (by <ENTITY>, the default), mask, hash, redact, keep, encrypt; for one entity or all others",
    )
    becomes.add_argument("--key-file", type=Path, help="32 bytes or more: the key for hash and encrypt")
    becomes.add_argument("--policy", type=Path, metavar="TOML", help="redact as the policy of --tenant in this file")
    becomes.add_argument("--tenant", help="the tenant whose policy counts")
    becomes.add_argument(
        "--direction", choices=("request", "response"), default="request", help="which part of the policy (request)"
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--format",
        choices=documents.FORMATS,
        default="auto",
        help="what the input is; auto (the default) takes it from the file's name or the first line",
    )
    shown.add_argument("--output", type=Path, metavar="PATH", help="a file, or a folder for several; else printed")
    shown.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="mark what was replaced")
    shown.add_argument(
        "--summary",
        action=argparse.BooleanOptionalAction,
        help="a table of what was found, on standard error (default: on a terminal)",
    )


def run(args: argparse.Namespace) -> int:
    """Redact every input; 1 if one could not be."""
    if bool(args.policy) != bool(args.tenant):
        raise ConfigurationError("--policy and --tenant belong together: whose policy should count?")
    find = Find(
        entities=args.entities,
        recognizers=args.recognizers,
        countries=args.countries,
        languages=(args.language,),
        phone_regions=args.phone_regions,
        threshold=args.threshold,
        context=not args.no_context,
        secrets=not args.no_secrets,
        normalize=args.normalize,
    )
    inputs: list[documents.Input]
    if args.files:
        inputs = documents.files(args.files, args.format, args.output)
    else:
        kind, source = documents.kind_of(sys.stdin.buffer, args.format)
        if kind == "jsonl":
            return answers.answer(source, find)
        inputs = [documents.Input("standard input", source, kind, args.output)]
    if args.policy is not None:
        redactor = rules.of_policy(args.policy, args.tenant, args.direction)
    else:
        redactor = rules.of_options(find, args.operator, args.key_file)
    shown = view.View(args.color, summary=args.summary, printing=args.output is None)
    return 0 if documents.redact(inputs, redactor, shown) else 1


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def _operator(text: str) -> tuple[str, Operator]:
    entity, _, kind = text.rpartition("=")
    kinds = [known.value for known in OperatorKind if known is not OperatorKind.CUSTOM]
    if kind not in kinds:
        raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(kinds)}")
    return entity or OTHERS, Operator(OperatorKind(kind))
