"""Texts without a secret, at least so many characters of each kind, the same for the same seed."""

from __future__ import annotations

import base64
import json
import string
import sysconfig
import uuid
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WORDS = [
    "we",
    "are",
    "not",
    "sure",
    "whether",
    "this",
    "letter",
    "came",
    "with",
    "the",
    "morning",
    "train",
    "or",
    "was",
    "left",
    "here",
    "by",
    "some",
    "friend",
    "of",
    "our",
    "neighbour",
    "who",
    "likes",
    "to",
    "walk",
    "along",
    "the",
    "river",
    "before",
    "breakfast",
    "and",
    "never",
    "says",
    "a",
    "word",
    "about",
    "it",
    "although",
    "everybody",
    "in",
    "town",
    "knows",
    "that",
    "he",
    "paints",
    "boats",
    "bridges",
    "gardens",
    "old",
    "houses",
    "and",
    "quiet",
    "streets",
    "under",
    "heavy",
    "snow",
    "three",
    "winters",
    "ago",
    "his",
    "sister",
    "opened",
    "a",
    "small",
    "shop",
    "near",
    "the",
    "station",
    "where",
    "she",
    "sells",
    "paper",
    "ink",
    "lamps",
    "maps",
    "and",
    "second",
    "hand",
    "books",
    "for",
    "very",
    "little",
    "money",
    "it",
    "is",
    "a",
    "warm",
    "place",
    "password",
    "token",
    "secret",
    "key",
    "bearer",
    "basic",
    "login",
    "account",
    "server",
    "client",
    "request",
    "response",
    "handler",
    "manager",
    "factory",
    "context",
    "session",
    "buffer",
    "stream",
    "parser",
    "index",
    "value",
]
_SENTENCES = (
    "Please reset your password: it has expired.",
    "The API key: where do I find it?",
    "A bearer token is sent with each request, and basic authentication is off.",
    "Keys begin with sk-, ghp_, AKIA, xoxb- or glpat- and go on with many characters.",
    "Set password = None or token: str | None = None before you call it.",
    "Use api_key=os.environ['API_KEY'] or password=getpass.getpass() instead.",
    "It looks like sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx or ghp_" + "x" * 36 + ", they say.",
    "The file starts with -----BEGIN RSA PRIVATE KEY----- and ends with -----END RSA PRIVATE KEY-----.",
    "Open https://example.com:8443/path or postgres://localhost:5432/app or mailto:ann@example.com now.",
    "We paid 1,250.00 on 2024-11-05 at 14:30:12 for order 2024-00017-B (v2.10.3).",
    "The secret: never tell it. Password=****** and token=<your-token> and client_secret=${SECRET}.",
)


def _joined(make: Callable[[Random], str], random: Random, chars: int) -> str:
    parts: list[str] = []
    total = 0
    while total < chars:
        parts.append(make(random))
        total += len(parts[-1])
    return "".join(parts)


def prose(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(_SENTENCES) + " "
    words = random.choices(_WORDS, k=random.randint(4, 18))
    return " ".join(words).capitalize() + random.choice([". ", ", and so on. ", "!\n", "?\n\n"])


def _base64(random: Random) -> str:
    text = "".join(prose(random) for _ in range(random.randint(1, 6)))
    kind = random.randrange(6)
    if kind == 0:
        return base64.encodebytes(text.encode()).decode() + "\n"
    if kind == 1:
        return f"token {base64.urlsafe_b64encode(text.encode()).decode()} end\n"
    if kind == 2:
        document = {"id": random.randrange(10**6), "name": text[:60], "on": True, "of": [1, 2.5, None]}
        return f'{{"data": "{base64.b64encode(json.dumps(document).encode()).decode()}"}}\n'
    if kind == 3:
        return f"next_page={base64.b64encode(_protocol_buffer(random)).decode()}\n"
    if kind == 4:
        greek = "".join(random.choices("αβγδεζηθικλμνξοπρστυφχψω абвгдежзиклмнопрст", k=random.randint(30, 90)))
        return base64.b64encode(greek.encode(random.choice(["utf-8", "utf-16-le"]))).decode() + "\n"
    return base64.b64encode(text[: random.randint(24, 150)].encode()).decode() + " "


def _protocol_buffer(random: Random) -> bytes:
    data = b""
    for number in range(1, random.randint(4, 9)):
        if random.random() < 0.6 or number < 3:
            value = " ".join(random.choices(_WORDS, k=random.randint(2, 6))).encode()
            data += bytes([number << 3 | 2, len(value)]) + value
        else:
            data += bytes([number << 3, random.randrange(128)])
    return data


def _digests(random: Random) -> str:
    return random.choice([
        lambda: f"commit {random.randbytes(20).hex()}\nparent {random.randbytes(20).hex()[:12]}\n",
        lambda: f"sha256:{random.randbytes(32).hex()} ",
        lambda: f"{random.randbytes(16).hex().upper()}  file-{random.randrange(99)}.tar.gz\n",
        lambda: f"git+https://example.com/{random.choice(_WORDS)}@{random.randbytes(20).hex()}\n",
        lambda: f'"integrity": "sha512-{base64.b64encode(random.randbytes(64)).decode()}",\n',
        lambda: f"pkg/file.py,sha256={base64.urlsafe_b64encode(random.randbytes(32)).decode().rstrip('=')},1234\n",
        lambda: f'ETag: W/"{random.randbytes(16).hex()}"\nv1.2.3-14-g{random.randbytes(6).hex()}\n',
    ])()  # fmt: skip


def _uuids(random: Random) -> str:
    one = str(uuid.UUID(int=random.getrandbits(128), version=4))
    return (
        random.choice([one, one.upper(), f"{{{one}}}", f"urn:uuid:{one}", f"request_id={one}", one.replace("-", "")])
        + "\n"
    )


_ID = string.ascii_letters + string.digits + "-_"


def _urls(random: Random) -> str:
    words = random.choices(_WORDS, k=4)
    identity = "".join(random.choices(_ID, k=random.choice([11, 22, 33, 44, 64])))
    host = (
        f"{random.choice(['www.', 'docs.', '', 'api.'])}{words[0]}-{words[1]}.{random.choice(['com', 'org', 'io'])}"
    )
    path = random.choice(
        [
            f"/document/d/{identity}/edit#gid=0",
            f"/{words[2]}/{words[3]}/{random.randrange(10**9)}.html",
            f"/watch?v={identity[:11]}&list={identity}",
            f"/{words[2]}?utm_source={words[3]}&gclid={identity}{identity}",
            f"/a/{'/'.join(words)}/{identity}/?page=2&q={'+'.join(words)}",
            f":8080/{words[2]}/v{random.randrange(9)}/{words[3].title()}{words[0].title()}2Html#{words[1]}",
            f"/static/js/main.{random.randbytes(4).hex()}.chunk.js",
        ]
    )
    scheme = random.choice(["https://", "http://", "see www.", "ftp://"])
    return scheme + host + path + random.choice([" ", "\n", ") ", ", "])


def _names(random: Random) -> str:
    words = random.choices(_WORDS, k=random.randint(4, 10))
    if random.random() < 0.4:
        words[random.randrange(len(words))] += random.choice(["2", "64", "V3", "Utf8", "Sha256", "X509", "3D"])
    return random.choice([
        lambda: words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:]),
        lambda: "".join(word[:1].upper() + word[1:] for word in words),
        lambda: "_".join(words),
        lambda: "_".join(words).upper(),
        lambda: "-".join(words) + f"-{random.randrange(10**6)}",
        lambda: ".".join(words),
        lambda: "com." + ".".join(words[:3]) + "." + "".join(map(str.title, words)) + "Factory$1",
        lambda: "/usr/lib/" + "/".join(words) + "/" + "".join(map(str.title, words[:3])) + "2.so",
        lambda: "::".join(map(str.title, words)),
        lambda: "_ZN" + "".join(f"{len(word)}{word.title()}" for word in words) + "EPKcS2_i",
        lambda: "test_" + "_".join(words) + "_" + random.randbytes(4).hex(),
        lambda: "=" * 40 + "a" * 50 + "Ab1" * 20 + "-" * 40,
    ])() + random.choice([" = 1\n", "(", ", ", ";\n"])  # fmt: skip


def _source(random: Random) -> Iterator[str]:
    """Modules of the standard library, without its tests (which hold passwords and keys)."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if not {"site-packages", "test", "tests", "idle_test"} & set(path.parts):
            yield path.read_text(encoding="utf-8", errors="replace")


def source(random: Random, chars: int) -> str:
    parts: list[str] = []
    total = 0
    for text in _source(random):
        if total >= chars:
            break
        parts.append(text)
        total += len(text)
    return "\n".join(parts)


_KINDS = {
    "prose": prose,
    "base64": _base64,
    "digests": _digests,
    "UUIDs": _uuids,
    "URLs": _urls,
    "long names": _names,
}
NAMES = (*_KINDS, "source code")


def corpus(name: str, chars: int, seed: int = 7) -> str:
    """At least ``chars`` characters of what ``name`` says."""
    random = Random(seed)
    return source(random, chars) if name == "source code" else _joined(_KINDS[name], random, chars)
