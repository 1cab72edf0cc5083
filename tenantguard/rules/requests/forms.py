"""Calls to models that come as forms: files beside a few text fields (images, transcriptions)."""

from __future__ import annotations

import re
from typing import Any, Final

from tenantguard.errors import BadRequestError

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"\\]{1,70})"|([^\s;",]{1,70}))\s*(?:;|\Z)', re.IGNORECASE)
_PART_NAME: Final = re.compile(rb'form-data;[ \t]*name="([^"\\\r\n]*)"(;.*)?', re.IGNORECASE)
_UNCLEAR: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\r\ncontent-transfer-encoding", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_FORM_FIELDS: Final = frozenset({"model", "stream", "n"})


def read_form(content_type: str, body: bytes) -> dict[str, Any]:
    """The text fields of a ``multipart/form-data`` body (RFC 7578), files left out, for :func:`~.calls.read_call`.

    ``n`` and ``stream`` become the number and the flag that they are in JSON. Whatever two readers may read in two
    ways is refused with :class:`BadRequestError`: a field that comes twice, a file in the place of one, a part
    without a plain name or with an encoding, bytes before the first part or after the last, two boundaries.
    """
    found = _BOUNDARY.search(content_type)
    if found is None or len(re.findall(r"boundary\s*=", content_type, re.IGNORECASE)) > 1:
        raise BadRequestError("the form has no clear boundary")
    mark = b"--" + (found[1] or found[2]).encode("ascii", "replace")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if pieces[0] or len(pieces) < 2 or pieces[-1] not in {b"--", b"--\r\n"}:
        raise BadRequestError("the form is not whole")
    fields: dict[str, Any] = {}
    for piece in pieces[1:-1]:
        name, value = _read_part(piece)
        if value is None:
            if name in _FORM_FIELDS:
                raise BadRequestError(f"the form's {name} must be text")
        elif name in fields and not name.endswith("[]"):
            raise BadRequestError("the form has one field twice")
        else:
            fields[name] = value
    if isinstance(number := fields.get("n"), str) and _DIGITS.fullmatch(number):
        fields["n"] = int(number)
    if (flag := fields.get("stream")) in {"true", "false"}:
        fields["stream"] = flag == "true"
    return fields


def _read_part(piece: bytes) -> tuple[str, str | None]:
    head, blank, content = piece.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n"):
        raise BadRequestError("the form has a part without a name")
    named = [line for line in head[2:].split(b"\r\n") if line.lower().startswith(b"content-disposition:")]
    found = _PART_NAME.fullmatch(named[0].partition(b":")[2].strip()) if len(named) == 1 else None
    if found is None or _UNCLEAR.search(head):
        raise BadRequestError("the form has a part without a plain name")
    try:
        name = found[1].decode("utf-8")
        return name, None if found[2] else content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError("the form is not UTF-8") from None
