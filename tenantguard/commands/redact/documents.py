"""Files and standard input, redacted piece by piece; a file is written whole or not at all."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import codecs
import io
import itertools
import mimetypes
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from tenantguard.commands.redact.view import CLOSE, OPEN
from tenantguard.errors import BadRequestError, ConfigurationError, TenantGuardError
from tenantguard.model.redact_section import Unknown
from tenantguard.rules.media import content_of
from tenantguard.rules.redaction.bodies import Passing, Refused, Terms, body_for
from tenantguard.rules.redaction.buffered import with_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.commands.redact.rules import Redactor
    from tenantguard.commands.redact.view import View
    from tenantguard.rules.redaction.text.rule import Detecting, RequestMask

_TYPES: Final = {
    "text": "text/plain",
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "form": "application/x-www-form-urlencoded",
    "sse": "text/event-stream",
    "binary": "application/octet-stream",
}
FORMATS: Final = ("auto", "text", "json", "ndjson", "form", "sse", "jsonl")
_SUFFIXES: Final = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".sse": "sse"}
_CHUNK_BYTES: Final = 65_536
_PROBE_BYTES: Final = 8192
_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # one of them begins UTF-32-LE's


class Input(NamedTuple):
    """What is to be redacted: its name, where its bytes come from, what they are, where they go (None: printed)."""

    name: str
    source: Path | IO[bytes]
    kind: str
    target: Path | None


def files(paths: Sequence[Path], kind: str, output: Path | None) -> list[Input]:
    """Inputs for files and the files of folders; several go into the folder ``output``.

    Raises :class:`ConfigurationError` for what is not there, and where two would be written to one place.
    """
    if kind == "jsonl":
        raise ConfigurationError("--format jsonl answers questions on standard input: write ndjson for files")
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_dir():
            found += [(file, Path(path.name, file.relative_to(path))) for file in sorted(_under(path))]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise ConfigurationError(
                f"{path} is not there, or no file; standard input is read where no file is named"
            )
    several = len(found) > 1 or any(path.is_dir() for path in paths)
    targets: dict[Path, Path] = {}
    inputs = []
    for file, name in found:
        target = output
        if output is not None and (several or output.is_dir()):
            target = output / name
        if target is not None and targets.setdefault(target, file) != file:
            raise ConfigurationError(f"{targets[target]} and {file} would both be written to {target}")
        inputs.append(Input(str(file), file, _kind_of_file(file) if kind == "auto" else kind, target))
    return inputs


def kind_of(source: IO[bytes], kind: str) -> tuple[str, IO[bytes]]:
    """What standard input is, and the whole of it; ``auto`` reads the lines up to the first that is not blank."""
    if kind != "auto":
        return kind, source
    read: list[bytes] = []
    for line in source:
        read.append(line)
        if line.strip():
            break
    begun = b"".join(read)
    kind = "jsonl" if begun.lstrip().startswith(b"{") else "text"
    return kind, _Resumed(itertools.chain(read, source))


class _Resumed(io.BytesIO):
    """Lines that were read already, then the rest."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        super().__init__()
        self._lines = iter(lines)

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def read1(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002 - a line at a time
        return next(self._lines, b"")


def redact(inputs: Sequence[Input], redactor: Redactor, view: View) -> bool:
    """Redact them all; whether each could be. What could not is told on standard error and written nowhere."""
    good = True
    sizes = [one.source.stat().st_size for one in inputs if isinstance(one.source, Path)]
    with view:
        view.begin(sum(sizes))
        for one in inputs:
            try:
                _redact(one, redactor, view)
            except (TenantGuardError, OSError) as failure:
                good = False
                told = failure.strerror if isinstance(failure, OSError) else failure
                print(f"{one.name}: {told}", file=sys.stderr)
    return good


def _redact(one: Input, redactor: Redactor, view: View) -> None:
    plan = redactor.plan
    detector = redactor.detector()
    marks = view.marks and one.target is None

    def rule_over(detector: Detecting) -> RequestMask | _Marked:
        rule = redactor.rule(detector)
        return _Marked(rule) if marks else rule

    terms = Terms(
        fields=plan.fields,
        keys=plan.direction.keys,
        numbers=plan.direction.numbers,
        limit=plan.limit_bytes,
        unknown=Unknown.SCRUB,
    )
    content = content_of([(b"content-type", _TYPES[one.kind].encode())])
    rule = rule_over(plan.around(detector))
    body = body_for(content, rule, terms)
    if isinstance(body, Refused):
        raise BadRequestError(body.problem)
    if plan.find.ner and not isinstance(body, Passing):
        rule, body = with_names(rule_over, plan, detector, content, terms)
    with _reading(one.source) as source, _writing(one.target) as target:
        for chunk in _chunks(source):
            view.advance(len(chunk))
            target.write(view.shown(chunk if isinstance(body, Passing) else body.feed(chunk)))
            if one.target is None:
                target.flush()
        if not isinstance(body, Passing):
            target.write(view.shown(body.finish()))
        target.flush()
    view.tell(rule.replaced, rule.kept, rule.skipped, rule.passed)


class _Marked:
    """A rule whose replacements are marked, to be shown in colour."""

    def __init__(self, rule: RequestMask) -> None:
        self._rule = rule
        self.replaced = rule.replaced
        self.kept = rule.kept
        self.skipped = rule.skipped
        self.reach = rule.reach
        self.name_chars_min = rule.name_chars_min
        self.clears = rule.clears
        self.find = rule.find
        self.own = rule.own

    @property
    def passed(self) -> int:
        return self._rule.passed

    @property
    def arguments(self) -> _Marked:
        return self

    def replace(self, entity: str, value: str) -> str:
        return f"{OPEN}{self._rule.replace(entity, value)}{CLOSE}"


def _under(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _kind_of_file(path: Path) -> str:
    known = _SUFFIXES.get(path.suffix.lower())
    if known is not None:
        return known
    with path.open("rb") as file:
        head = file.read(_PROBE_BYTES)
    guessed = mimetypes.guess_type(path.name)[0] or ""
    if head.startswith(_MARKS) or guessed.startswith("text/"):
        return "text"
    if guessed.startswith(("image/", "audio/", "video/", "font/")):  # or SVG, TypeScript (.ts), ...
        return "text" if _is_utf8(head) else "binary"
    return "binary" if b"\0" in head else "text"


def _is_utf8(head: bytes) -> bool:
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False


@contextmanager
def _reading(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source


@contextmanager
def _writing(target: Path | None) -> Iterator[IO[bytes]]:
    """Where redacted bytes go; a file takes its place only when it is whole."""
    if target is None:
        yield sys.stdout.buffer
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    read = getattr(source, "read1", source.read)
    while chunk := read(_CHUNK_BYTES):
        yield chunk
