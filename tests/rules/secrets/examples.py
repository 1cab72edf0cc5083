"""Secrets made by chance from a format's own facts, with valid checksums; nothing here is anybody's key."""

from __future__ import annotations

import base64
import json
import re
import string
from re import _constants as code
from re import _parser as parser
from typing import TYPE_CHECKING, Any

from tenantguard.rules.secrets.checks import base62_crc32, bech32_polymod

if TYPE_CHECKING:
    from random import Random

    from tenantguard.rules.secrets.format import SecretFormat

BASE62 = string.ascii_letters + string.digits
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def example(secret: SecretFormat, random: Random) -> str:
    """What ``secret`` describes, in full: the name before it too, where it is found by a name."""
    make = _MADE.get(secret.entity)
    if make is not None:
        return make(random)
    while True:
        text = _walk(parser.parse(secret.expression, secret.flags), random)
        value = value_of(secret, text)
        if secret.check is None or secret.check(value):
            return text


def value_of(secret: SecretFormat, text: str) -> str:
    """The secret itself in what ``example`` made."""
    found = re.fullmatch(secret.expression, text, secret.flags)
    assert found is not None
    return found[found.lastindex or 0]


def run(random: Random, length: int, alphabet: str = BASE62) -> str:
    return "".join(random.choices(alphabet, k=length))


def _walk(parsed: Any, random: Random) -> str:
    return "".join(_one(op, argument, random) for op, argument in parsed)


def _one(op: Any, argument: Any, random: Random) -> str:
    if op is code.LITERAL:
        return chr(argument)
    if op is code.ANY:
        return random.choice(BASE62)
    if op is code.IN:
        return random.choice(_members(argument))
    if op is code.BRANCH:
        return _walk(random.choice(argument[1]), random)
    if op is code.SUBPATTERN:
        return _walk(argument[3], random)
    if op is code.MAX_REPEAT:
        low, high, inner = argument
        return "".join(_walk(inner, random) for _ in range(random.randint(low, min(int(high), low + 12))))
    assert op is code.AT
    return ""


def _members(items: Any) -> list[str]:
    negated = items[0][0] is code.NEGATE
    members: set[str] = set()
    for op, argument in items:
        if op is code.LITERAL:
            members.add(chr(argument))
        elif op is code.RANGE:
            members |= set(map(chr, range(argument[0], argument[1] + 1)))
        elif op is code.CATEGORY:
            members |= set(string.whitespace if argument is code.CATEGORY_SPACE else BASE62 + "_")
    printable = set(BASE62 + "-_.:/+=@#!%&")
    return sorted(printable - members if negated else members)


def _base64(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def _with_crc(prefix: str) -> Any:
    def make(random: Random) -> str:
        body = run(random, 30)
        return prefix + body + base62_crc32(body)

    return make


def _age(random: Random) -> str:
    prefix = "age-secret-key-"
    data = [random.randrange(32) for _ in range(52)]
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    remainder = bech32_polymod([*expanded, *data, *[0] * 6]) ^ 1
    data += [remainder >> 5 * (5 - i) & 31 for i in range(6)]
    return (prefix + "1" + "".join(_BECH32[value] for value in data)).upper()


def json_web_token(random: Random) -> str:
    claims = {"sub": run(random, 10), "exp": random.randrange(2**31)}
    return f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64(claims)}.{run(random, 43)}"


def _discord(random: Random) -> str:
    user = base64.urlsafe_b64encode(str(random.randrange(10**17, 10**18)).encode()).decode().rstrip("=")
    return f"{user}.{run(random, 6)}.{run(random, 38)}"


def _basic(random: Random) -> str:
    return "Basic " + base64.b64encode(f"{run(random, 6)}:{run(random, 12)}".encode()).decode()


_MADE: dict[str, Any] = {
    "GITHUB_TOKEN": _with_crc("ghp_"),
    "GITHUB_OAUTH_TOKEN": _with_crc("gho_"),
    "GITHUB_APP_TOKEN": _with_crc("ghs_"),
    "GITHUB_REFRESH_TOKEN": _with_crc("ghr_"),
    "NPM_TOKEN": _with_crc("npm_"),
    "AGE_SECRET_KEY": _age,
    "JSON_WEB_TOKEN": json_web_token,
    "DISCORD_BOT_TOKEN": _discord,
    "BASIC_CREDENTIALS": _basic,
    "ONEPASSWORD_SERVICE_TOKEN": lambda random: "ops_" + _base64({"signInAddress": run(random, 200)}),
    "GRAFANA_CLOUD_TOKEN": lambda random: "glc_" + _base64({"o": "12345", "n": "name", "k": run(random, 24)}),
    "SENTRY_ORG_TOKEN": lambda random: f"sntrys_{_base64({'iat': 1.5, 'url': run(random, 40)})}_{run(random, 43)}",
    "MAPBOX_SECRET_TOKEN": lambda random: (
        f"sk.{_base64({'u': run(random, 8), 'a': run(random, 25)})}.{run(random, 22)}"
    ),
}
