"""Checks that a format's own facts allow: checksums, and what a part decodes to. None of them raises."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from typing import Any, Final

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_JSON_PART: Final = re.compile(r"eyJ[A-Za-z0-9+/=-]*")
_PARAMETER: Final = re.compile(rb'"(?:alg|typ|kid|nonce|x5[tcu]|jwk|jku|cty|enc)"\s*:')
"""Registered parameters of a token's header (RFC 7515 section 4.1), and Microsoft's."""

_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def base62_crc32(text: str) -> str:
    """The CRC-32 of ASCII text in six base62 digits (``0-9A-Za-z``), as GitHub and npm end their tokens."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def github_checksum(token: str) -> bool:
    """Whether a token of 30 characters and six of checksum has the right one; longer ones have another form.

    Vendor documentation: "Behind GitHub's new authentication token formats" (GitHub blog), and "npm has a new access
    token format" (GitHub changelog), which is the same.
    """
    body = token.partition("_")[2]
    return len(body) != 36 or base62_crc32(body[:30]) == body[30:]


def bech32_checksum(text: str) -> bool:
    """Whether the last six characters are the checksum that BIP 173 asks for."""
    prefix, _, data = text.lower().rpartition("1")
    if any(character not in _BECH32 for character in data):
        return False
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + [_BECH32.index(c) for c in data]
    return bech32_polymod(values) == 1


def bech32_polymod(values: list[int]) -> int:
    """The remainder that BIP 173 defines; values of 5 bits."""
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_BECH32_GENERATOR):
            if top >> bit & 1:
                remainder ^= generator
    return remainder


def decoded(text: str) -> bytes | None:
    """What base64 stands for, of either alphabet and with or without padding; None if it is none."""
    text = text.rstrip("=")
    if len(text) % 4 == 1:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_" if "-" in text or "_" in text else None)
    except (binascii.Error, ValueError):
        return None


def _json(text: str) -> Any:
    data = decoded(text)
    if data is None or data[:1] != b"{":
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def json_web_token(token: str) -> bool:
    """Whether the header is JSON that names an algorithm (RFC 7515 section 4.1.1), or some of one that is cut off."""
    head, dot, _ = token.partition(".")
    header = _json(head)
    if header is None and not dot:
        begun = decoded(head[: len(head) // 4 * 4])
        return begun is not None and _PARAMETER.search(begun) is not None
    return isinstance(header, dict) and isinstance(header.get("alg"), str)


def json_inside(token: str) -> bool:
    """Whether the first part that begins like the base64 of a JSON object is one, or begins one and is cut off."""
    found = _JSON_PART.search(token)
    if found is None or isinstance(_json(found[0]), dict):
        return found is not None
    begun = decoded(found[0][: (found.end() - found.start()) // 4 * 4])
    return found.end() == len(token) and begun is not None and begun.startswith(b'{"') and begun.isascii()


def decodes(token: str) -> bool:
    """Whether what follows the first ``-`` is base64."""
    return decoded(token.partition("-")[2]) is not None


def discord_user(token: str) -> bool:
    """Whether the first part is the base64 of a number, the bot's user (Discord: "Reference", "Snowflakes")."""
    user = decoded(token.partition(".")[0])
    return user is not None and user.isdigit()


def user_and_password(text: str) -> bool:
    """Whether base64 stands for ``user:password`` (RFC 7617)."""
    data = decoded(text)
    return data is not None and b":" in data[:-1] and all(byte >= 0x20 and byte != 0x7F for byte in data)


def mixed(token: str) -> bool:
    """Whether there is a digit and a letter behind the prefix: no name of something, though it looks like a key."""
    return any(map(str.isdigit, token[3:])) and any(map(str.isalpha, token[3:]))


def varied(token: str) -> bool:
    """Whether the last 16 characters are at least five different ones: ``xxxx`` and ``....`` stand for a key only.

    Of 16 random hexadecimal digits fewer than five are different once in a million.
    """
    return len(set(token[-16:])) >= min(5, len(token) // 2)
