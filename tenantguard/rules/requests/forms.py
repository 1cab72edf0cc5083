"""Calls to models that come as forms: files beside a few text fields (images, transcriptions)."""

from __future__ import annotations

import re
from typing import Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.rules.media import read_type

_LINE: Final = re.compile(rb"([\w!#$%&'*+.^`|~-]+):([^\r\n\0]*)", re.ASCII)
_NAMED: Final = re.compile(
    rb'[ \t]*form-data;[ \t]*name="([^"\\]*)"((?:[ \t]*;[ \t]*filename\*?=(?:"[^"]*"|[^\s;"]*+))*)[ \t]*',
    re.IGNORECASE,
)
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_FORM_FIELDS: Final = frozenset({"model", "stream", "n"})


def read_form(content_type: str, body: bytes) -> dict[str, Any]:
    """The text fields of a ``multipart/form-data`` body (RFC 7578), files left out, for :func:`~.calls.read_call`.

    ``n`` and ``stream`` become the number and the flag that they are in JSON. Whatever two readers may read in two
    ways is refused with :class:`BadRequestError`: a field that comes twice, a file in the place of one, a part
    without a plain name, with a second one or with an encoding, bytes before the first part or after the last, two
    boundaries, one within a part.
    """
    boundary = read_type(content_type).boundary
    if not boundary:
        raise BadRequestError("the form has no clear boundary")
    mark = b"--" + boundary.encode("ascii")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if pieces[0] or len(pieces) < 2 or pieces[-1] not in {b"--", b"--\r\n"}:
        raise BadRequestError("the form is not whole")
    if body.count(mark) >= len(pieces):
        raise BadRequestError("the form has its boundary within a part")
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
    lines: dict[bytes, bytes] = {}
    for line in head[2:].split(b"\r\n"):
        said = _LINE.fullmatch(line)
        if said is None or said[1].lower() in lines:
            raise BadRequestError("the form has a part whose head is not clear")
        lines[said[1].lower()] = said[2]
    found = _NAMED.fullmatch(lines.get(b"content-disposition", b""))
    if found is None or b"content-transfer-encoding" in lines:
        raise BadRequestError("the form has a part without a plain name")
    try:
        name = found[1].decode("utf-8")
        return name, None if found[2] else content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError("the form is not UTF-8") from None
