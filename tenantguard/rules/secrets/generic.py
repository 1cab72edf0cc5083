"""Secrets that say what they are for but not who issued them: standards, and what stands beside a name."""

from __future__ import annotations

import re
from typing import Final

from tenantguard.rules.secrets.checks import json_web_token, user_and_password
from tenantguard.rules.secrets.format import SecretFormat
from tenantguard.rules.separators import FULL_STOPS

_ASSIGNED: Final = r"[\w-]{0,16}\\{0,2}[\"'`]?\s{0,4}(?::=|=>|[:=])\s{0,4}"
_VALUE: Final = (
    r"(?:\\{0,2}\"([^\"\s]{6,2000})\"|\\{0,2}'([^'\s]{6,2000})'|\\{0,2}`([^`\s]{6,2000})`"
    rf"|([^\s\"'`<>{{}}()\[\],;&|\\{FULL_STOPS}]{{6,512}})(?:[\s\"'`<>}}),\];&|\\{FULL_STOPS}]|$))"
)
_VALUE_BEGIN: Final = r"\\{0,2}[\"'`]?[^\s\"'`<>{}()\[\],;|]{3}"
_QUOTED_BEGIN: Final = r"\\{0,2}[\"'`]([^\"'`\s]{1,2000}+)"
_KEYWORD: Final = r"(?:password|passwd|passphrase|passwort|contrase.a|pwd)"
_OTHER_KEYWORD: Final = (
    r"(?:api[_-]?key|access[_-]?key|secret[_-]?key|auth[_-]?key|private[_-]?key|encryption[_-]?key|signing[_-]?key"
    r"|client[_-]?secret|app[_-]?secret|secret|auth[_-]?token|access[_-]?token|refresh[_-]?token|bearer[_-]?token"
    r"|api[_-]?token|token|credential)"
)
_PLACEHOLDER: Final = re.compile(
    r"[*xX.#•_-]+|urn:.*|(?:aws_)?secret_access_key.*|your[_-]?.*|my[_-]?(?:secret|password|token|key).*|.*(?:example|placeholder|change[_-]?me|redacted).*"
    r"|\$.*|%.*|<.*|.*(?:\.env\b|environ|getenv).*",
    re.IGNORECASE,
)
_NAME: Final = re.compile(r"[A-Za-z_$@*&!+-][\w$-]*(?:(?:\.|::|->|/)[\w$*-]*)*[0-9]*[:.?!]?")
_SAMPLE_PASSWORDS: Final = frozenset({
    "password", "passwd", "pass", "passw0rd", "pwd", "pw", "secret", "user", "username", "token", "key", "xxx",
    "pswd", "ppp", "foo", "bar", "host", "p",
})  # fmt: skip


def credential(value: str) -> bool:
    """Whether what stands beside ``password`` or ``api_key`` is a value, and no name, call, placeholder or word.

    A value has at least four different characters, and a letter beside a digit or a sign that no name has. What could
    be a name needs two digits, and may be neither dotted nor a constant in capitals.
    """
    if len(set(value)) < 4 or _PLACEHOLDER.fullmatch(value) or "://" in value or value[0] in ":=":
        return False
    letters = sum(map(str.isalpha, value))
    digits = sum(map(str.isdigit, value))
    signs = len(value) - letters - digits - sum(map(value.count, "_-./:"))
    if not letters:
        return False
    if not _NAME.fullmatch(value):
        return digits + signs >= 1
    return digits >= 2 and "." not in value and not (value.isupper() and "_" in value)


def bearer(value: str) -> bool:
    """Whether what follows ``Bearer`` is a token: it has digits and letters, or is too long for a word."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and len(set(value)) >= 8


def url_password(value: str) -> bool:
    """Whether what stands between ``:`` and ``@`` of an address is a password: no sample, no part of a template."""
    if value.lower() in _SAMPLE_PASSWORDS or _PLACEHOLDER.fullmatch(value):
        return False
    return len(set(value)) >= 3 and not set("{}$<>[]()*|\\,") & set(value)


GENERIC: Final[tuple[SecretFormat, ...]] = (
    # RFC 7519, RFC 7515: header, payload and signature in base64url; the first two are JSON objects
    SecretFormat(
        "JSON_WEB_TOKEN",
        "JSON web token",
        r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{4,6000}\.[A-Za-z0-9_-]{16,1400}",
        r"eyJ[A-Za-z0-9_-]{14}",
        alphabet="A-Za-z0-9_-",
        check=json_web_token,
        begun=r"eyJ[A-Za-z0-9_-]{10,2000}+(?:\.[A-Za-z0-9_-]{0,6000}+){0,2}+",
    ),
    # RFC 6750 section 2.1; RFC 7617
    SecretFormat(
        "BEARER_TOKEN",
        "bearer token",
        r"bearer\s{1,4}([A-Za-z0-9._~+/-]{16,2000}={0,2})",
        r"bearer\s{1,4}[A-Za-z0-9._~+/-]{16}",
        alphabet="A-Za-z0-9._~+/=-",
        check=bearer,
        flags=re.IGNORECASE,
        generic=True,
    ),
    SecretFormat(
        "BASIC_CREDENTIALS",
        "basic credentials",
        r"basic\s{1,4}([A-Za-z0-9+/]{8,512}={0,2})",
        r"basic\s{1,4}[A-Za-z0-9+/]{8}",
        alphabet="A-Za-z0-9+/=",
        check=user_and_password,
        flags=re.IGNORECASE,
        generic=True,
    ),
    # RFC 3986 section 3.2.1: the password of an address, of a database for example
    SecretFormat(
        "URL_PASSWORD",
        "password in an address",
        r"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/?#:@\"'<>]{0,64}:([^\s/?#@\"'<>]{3,128})@[A-Za-z0-9\[_]",
        r"://[^\s/?#:@\"'<>]{0,64}:[^\s/?#@\"'<>]{3,128}@",
        before=22,
        alphabet="",
        check=url_password,
        generic=True,
    ),
    SecretFormat(
        "PASSWORD",
        "value of a password",
        _KEYWORD + _ASSIGNED + _VALUE,
        _KEYWORD + _ASSIGNED + _VALUE_BEGIN,
        alphabet="",
        check=credential,
        flags=re.IGNORECASE,
        generic=True,
        begun=_KEYWORD + _ASSIGNED + _QUOTED_BEGIN,
    ),
    SecretFormat(
        "SECRET_VALUE",
        "value of a key, token or secret",
        _OTHER_KEYWORD + _ASSIGNED + _VALUE,
        _OTHER_KEYWORD + _ASSIGNED + _VALUE_BEGIN,
        alphabet="",
        check=credential,
        flags=re.IGNORECASE,
        generic=True,
        begun=_OTHER_KEYWORD + _ASSIGNED + _QUOTED_BEGIN,
    ),
    SecretFormat(
        "NETRC_PASSWORD",
        "password of a netrc file",
        rf"login\s{{1,4}}\S{{1,32}}\s{{1,4}}password\s{{1,4}}([^\s\"'`\\{FULL_STOPS}]{{4,128}})",
        r"login\s{1,4}\S{1,32}\s{1,4}password\s{1,4}[^\s\"'\\]{4}",
        alphabet="",
        check=credential,
        generic=True,
    ),
)
