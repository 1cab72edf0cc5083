"""Keys without a prefix: long runs of characters that nothing but chance puts beside one another.

A run of letters, digits, ``+ / _ -`` is such a key if it is neither short nor very long, its Shannon entropy is near
to what it could be at most, it has all of capitals, small letters and digits, it jumps between them as chance does
and no name does, and it is nothing that is known to look alike: base64 of a text or of a protocol buffer, a digest, a
public key, a line of a certificate, a part of an address or path. The numbers are tuned on at least a megabyte each
of prose, source code, base64 text, digests, UUIDs, addresses and long names, with no false alarm; what they cost in
random keys that are not found is measured by ``python -m benchmarks.secrets``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from operator import add
from typing import Final

from tenantguard.rules.secrets.checks import decoded

ENTITY: Final = "RANDOM_KEY"

LENGTH_MIN: Final = 32
LENGTH_MAX: Final = 200
"""What is longer is data. Less than a stream holds back, so that a stream sees that a run is longer."""

ENTROPY_MIN: Final = 0.80
"""Of the most that is possible, ``log2`` of the length or of 64; equal is enough."""

_JUMPS_MIN: Final = 0.24
_ODDS_MIN: Final = 0.20
"""Of all neighbours. Chance gives 0.45 of either kind (62 characters), names at most half of the least."""
_PART_MIN: Final = 12
"""Characters of the longest part between ``+ / - _``: what is cut into words has shorter ones."""
_WORD_MAX: Final = 9
"""Letters of one case in a row: chance has ten in one of 1 000 keys."""

_TEXT_SHARE: Final = 0.85
_BYTES_A_CUT: Final = 16  # for so many bytes one may be of a character of UTF-8 that is cut
RUN: Final = re.compile(r"(?<![A-Za-z0-9])[+/_-]{0,3}[A-Za-z0-9][A-Za-z0-9+/_-]{31,}+={0,2}+")
TRIGGER: Final = r"(?:\b|_)[A-Za-z0-9][A-Za-z0-9+/_-]{31}"
"""Matches where a run begins and behind each ``+ / - _`` in it, not at all of its characters: data are long. In what
is scanned, ``_`` stands for letters of other scripts too, which may stand right before a key."""

_PARTS: Final = re.compile(r"[A-Za-z0-9]+")
_WORD: Final = re.compile(r"[a-z]+|[A-Z]+")
_NOT_A_KEY: Final = re.compile(
    r"AAAA[BCE]3NzaC|MI[A-Z]{2}[A-Za-z0-9+/]{28}|sha(?:1|224|256|384|512)-|_{1,3}Z[A-Z]|[/_-]?[a-z]{3,}/"
    r"|H4sI|iVBORw0KGgo|/9j/|R0lGOD|JVBERi|UEsDB|YnBsaXN0"
)
"""Public keys (RFC 4253), DER (X.690), digests (W3C "Subresource Integrity"), mangled names (Itanium C++ ABI), paths;
gzip, PNG, JPEG, GIF, PDF, ZIP and property lists by their magic numbers."""

_ADDRESS: Final = re.compile(r"://|www\.|[A-Za-z0-9]\.[A-Za-z]{2,12}/|[?&]|(?:^|[\s\"'(=])(?:\.{1,2}|~)(?:/|\Z)|@")
_DIGEST: Final = re.compile(
    r"(?:sha-?[0-9]{0,3}|md5|digest|hash|checksum|integrity|fingerprint|etag|revision)[\"']?\s?[=:-]\s?[\"']?\Z",
    re.IGNORECASE,
)
_WITHIN: Final = re.compile(r"[A-Za-z0-9][+/_-]{0,4}\Z")
_LINE_BEFORE: Final = re.compile(r"(?:-----|[A-Za-z0-9+/]{56,76})[\"' +\\]{0,4}(?:\n|\\n)[\sb\"'#>*]{0,24}\Z")
"""The line before is the label of a block or a whole line of base64, from 56 characters to the 76 of RFC 2045."""

_CONTEXT_CHARS: Final = 90
"""Less than a stream keeps of what has left before."""


def normalised_entropy(text: str) -> float:
    """Shannon's entropy (1948) of the characters, of the most that a text of this length from 64 characters has."""
    if len(text) < 2:
        return 0.0
    total = len(text)
    entropy = math.log2(total) - sum(count * math.log2(count) for count in Counter(text).values()) / total
    return entropy / math.log2(min(total, 64))


def random_key(text: str, start: int, end: int) -> bool:
    """Whether the run ``text[start:end]``, a match of ``RUN``, is a key that chance made."""
    run = text[start:end].rstrip("=")
    if not LENGTH_MIN <= len(run) <= LENGTH_MAX:
        return False
    if not (any(map(str.isupper, run)) and any(map(str.islower, run)) and any(map(str.isdigit, run))):
        return False
    if normalised_entropy(run) < ENTROPY_MIN or _NOT_A_KEY.match(run) or not _jumps(run):
        return False
    before = text[max(start - _CONTEXT_CHARS, 0) : start]
    if _in_address(before) or _DIGEST.search(before) or _LINE_BEFORE.search(before) or _WITHIN.search(before):
        return False
    return not any(_is_content(run[skipped:]) for skipped in range(4))


def _jumps(run: str) -> bool:
    """Whether a run changes between capitals, small letters and digits as often as chance does.

    From a capital to a small letter does not count, since words in names begin so. Short words in names change often
    too, but no name often has capitals beside capitals and digits beside letters: those are counted by themselves.
    """
    parts = _PARTS.findall(run)
    if len(max(parts, key=len)) < _PART_MIN or max(map(len, _WORD.findall(run))) > _WORD_MAX:
        return False
    kinds = "".join("0" if c.isdigit() else "A" if c.isupper() else "a" if c.islower() else "-" for c in run)
    pairs = Counter(map(add, kinds, kinds[1:]))
    beside_digits = pairs["a0"] + pairs["0a"] + pairs["A0"] + pairs["0A"]
    whole = len(run) - 1 - kinds.count("-")
    return beside_digits + pairs["aA"] >= _JUMPS_MIN * whole and beside_digits + pairs["AA"] >= _ODDS_MIN * whole


def _in_address(before: str) -> bool:
    """Whether the run goes on with an address or a path that begins in what stands before it."""
    token = before[max(before.rfind(" "), before.rfind("\n"), before.rfind("\t")) + 1 :]
    return _ADDRESS.search(token) is not None


def _is_content(run: str) -> bool:
    data = decoded(run[: len(run) - len(run) % 4])
    return data is not None and (_is_text(data) or _is_protocol_buffer(data))


def _is_text(data: bytes) -> bool:
    """Whether bytes are text for the most part: ASCII, UTF-8 that may be cut, or UTF-16."""
    if min(len(set(data[::2])), len(set(data[1::2]))) <= len(data) // 8:
        return True
    if sum(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in data) >= _TEXT_SHARE * len(data):
        return True
    return data.decode(errors="replace").count("\ufffd") <= len(data) // _BYTES_A_CUT


def _is_protocol_buffer(data: bytes) -> bool:
    """Whether bytes are fields of a protocol buffer, at least two, with a text among them; the last may be cut.

    Encoding: protobuf.dev, "Encoding". Numbers of fields up to 63.
    """
    at, fields, texts = 0, 0, 0
    while at < len(data):
        number, wire = data[at] >> 3, data[at] & 7
        at += 1
        if wire == 2:
            if number >= 16:
                return False
            size = data[at] if at < len(data) else 0
            value = data[at + 1 : at + 1 + size]
            texts += len(value) >= 4 and all(0x20 <= byte < 0x7F for byte in value)
            at += 1 + size
        elif wire == 0:
            while at < len(data) and data[at] >= 0x80:
                at += 1
            at += 1
        elif wire in {1, 5}:
            at += 8 if wire == 1 else 4
        else:
            return False
        if not 1 <= number < 64:
            return False
        fields += 1
    return fields >= 2 and texts >= 1
