"""Texts of many kinds, made up from a seed: prose in 16 languages, code, JSON, logs, tables, and hostile mixtures.

The same seed gives the same text on every machine. Word lists, sentences and templates are this file's own; the
values in them come from ``values.py``. ``chat`` is what benchmarks are made of, ``any_text`` what recognisers are
compared on: it puts values where they are hard to tell, beside one another, glued to words, cut off and changed.
"""

# ruff: noqa: RUF001 - letters and marks of other scripts are meant

from __future__ import annotations

import json
from enum import Enum
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Final

from tests.adapters.pii.values import DEFAULT, VALUES, near_miss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USUAL: Final = [
    ("EMAIL_ADDRESS", "john@smith.com"),
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("IBAN_CODE", "DE89370400440532013000"),
    ("US_SSN", "856-45-6789"),
    ("IP_ADDRESS", "10.0.0.1"),
    ("PHONE_NUMBER", "+1 415 555 2671"),
]
"""What every detector finds, with its entity."""

USUAL_TEXT: Final = ", ".join(value for _, value in USUAL)


class Density(Enum):
    """How much a chat tells: nothing at all, what people write about their day, or a value every 450 characters.

    A natural chat has a small number (a time, a price, a count) about every 300 characters and a value of some
    entity about every 5 000.
    """

    CLEAN = "clean"
    NATURAL = "natural"
    DENSE = "dense"


DENSE_CHARS: Final = 450
NATURAL_CHARS: Final = 5_000
NUMBER_CHARS: Final = 300
SIZE_MAX: Final = 20_000

_WHO: Final = (
    "The neighbour",
    "My sister",
    "Our new colleague",
    "The gardener",
    "Somebody from the office",
    "The baker",
    "She",
    "He",
    "The whole team",
    "A friend of mine",
    "The landlord",
    "Your letter",
    "The old ferry",
    "Nobody",
    "The driver",
)
_DOES: Final = (
    "talked about",
    "forgot",
    "is looking for",
    "would like to see",
    "has finally mended",
    "cannot stand",
    "wrote down",
    "brought along",
    "asked me about",
    "was waiting for",
    "painted",
    "dreams of",
    "has sold",
    "wants to keep",
    "lost",
)
_WHAT: Final = (
    "the broken umbrella",
    "a quiet afternoon",
    "the long way home",
    "some bread and cheese",
    "the plan for the garden",
    "that strange noise in the kitchen",
    "the last chapter",
    "a cup of tea",
    "the blue bicycle",
    "our summer holiday",
    "the meeting",
    "a recipe for plum cake",
    "the bill",
    "everything that happened",
    "the piano upstairs",
)
_WHEN: Final = (
    "after lunch",
    "before it got dark",
    "again",
    "without saying why",
    "as usual",
    "on the train",
    "in the rain",
    "for the first time",
    "while the others slept",
    "with great care",
    "although nobody had asked",
    "near the harbour",
)
_ENDS: Final = (".", ".", ".", ".", "!", "?", ", I think.", ", you know.", "; that was all.", ".\n", " :)\n")
_SAID: Final = (
    "Thanks, that helps.",
    "Could you explain it once more?",
    "I am not sure what to do.",
    "Let me think about it.",
    "What would you recommend?",
    "That sounds good to me.",
    "Sorry for the late answer.",
    "Here is what I have so far:",
)
_SMALL: Final = (
    "It was about {} degrees outside.",
    "See you at {}:30 then.",
    "That makes {} euros.",
    "Only {} people came.",
    "Chapter {} was the best one.",
    "We walked {}.5 kilometres.",
    "Add {} g of flour.",
    "It is {} percent done.",
)
_TELLS: Final = (
    "You can reach me under {}.",
    "My number is {}, as always.",
    "Please use {} from now on.",
    "It says {} on the form.",
    "They wrote to {} last week.",
    "The reference was {}.",
    "I think it is {}, but please check.",
    "Send it to {} today.",
    "Our account: {}.",
    "Somebody logged in from {} at night.",
    "Is {} still right?",
    "He left {} on the table.",
)
_FOREIGN: Final = (
    (
        "Der Zug kommt heute später, weil es auf der Strecke geschneit hat.",
        "Bitte überweisen Sie das Geld auf {}.",
        "Meine Steuernummer lautet {}, der Ausweis liegt bei.",
        "Wir treffen uns wie immer an der großen Brücke.",
    ),
    (
        "El pan estaba todavía caliente cuando volvimos a casa.",
        "Mi número es {} y vivo cerca del puerto.",
        "¿Puede usted enviarlo a {} antes del viernes?",
        "La reunión empezó tarde y nadie sabía por qué.",
    ),
    (
        "Nous avons marché longtemps sous la pluie.",
        "Vous pouvez me joindre au {} le matin.",
        "L'adresse est {}, je crois.",
        "Elle a oublié son parapluie dans le train.",
    ),
    (
        "La nonna prepara il caffè mentre fuori piove.",
        "Il codice fiscale è {}.",
        "Scrivimi a {} quando arrivi.",
        "Abbiamo perso l'ultimo traghetto.",
    ),
    ("Wczoraj długo padał deszcz i nikt nie wyszedł z domu.", "Mój numer to {}.", "Proszę pisać na {}."),
    ("Вчера весь день шёл снег, и поезд опоздал.", "Мой телефон {}, звоните вечером.", "Пишите на {}, пожалуйста."),
    ("今天下午我们在公园里散步，天气很好。", "我的号码是{}，请记下来。", "请发邮件到{}谢谢"),
    ("昨日は友達と海へ行きました。", "電話番号は{}です。", "メールは{}までお願いします。"),
    ("어제는 친구와 함께 바다에 갔습니다.", "제 번호는 {}입니다.", "메일은 {}로 보내 주세요."),
    ("ذهبنا أمس إلى السوق واشترينا الخبز.", "رقمي هو {} شكرا.", "راسلني على {}"),
    ("कल हम नदी के किनारे टहलने गए थे।", "मेरा नंबर {} है।", "कृपया {} पर लिखें।"),
    ("เมื่อวานฝนตกทั้งวัน", "เบอร์ของฉันคือ {} ค่ะ", "ส่งมาที่ {} ได้เลย"),
    ("Dün akşam uzun uzun yürüdük.", "Kimlik numaram {}.", "Bana {} adresinden yazın."),
    ("Igår regnade det hela dagen.", "Mitt personnummer är {}.", "Skriv till {} så svarar jag."),
    ("Eilen satoi koko päivän.", "Tunnukseni on {}.", "Kirjoita osoitteeseen {}."),
)
_CODE: Final = (
    "def load(path: str) -> dict[str, int]:\n    return {k: v for k, v in read(path)}\n",
    "x = {}  # from the form\n",
    "if (user.id === '{}') {{ return null; }}\n",
    "SELECT * FROM orders WHERE ref = '{}';\n",
    "export TOKEN={}\n",
    'assert parse("{}") == [0.5, 12, 0x1F, 1e-9]\n',
    "for (int i = 0; i < 10; i++) sum += a[i] * 3.14159;\n",
    "const re = /^[a-z0-9._-]+@[a-z]+$/i;\n",
    '#define VERSION "1.22.333"\n',
    'print(f"{{x:.2f}} {}")\n',
    "<a href=\"{}\" data-id='{}'>link</a>\n",
    "git clone {} && cd x\n",
    "import os.path, a.b.c  # {}\n",
)
_LOGS: Final = (
    "2026-03-07T08:15:42.117Z INFO [worker-3] handled {} in 12.7 ms\n",
    '{} - - [07/Mar/2026:08:15:42 +0000] "GET /a?id={} HTTP/1.1" 200 512\n',
    "Mar  7 08:15:42 host app[4711]: login failed for {} from {} port 50122\n",
    "level=warn ts=1772871342 caller=x.go:88 user={}\n",
    "[   12.345678] usb 1-1.2: new device {}\n",
    "E 0x7f3a9c001b20 at 00000000deadbeef: {}\n",
)
_GLUE: Final = (
    *(" ",) * 8,
    "",
    "",
    ",",
    ", ",
    ":",
    ": ",
    ";",
    "(",
    ")",
    "[",
    '"',
    "'",
    "\n",
    "\r\n",
    "\t",
    "-",
    "--",
    "/",
    "<",
    ">",
    "=",
    "_",
    "|",
    ".",
    ". ",
    "@",
    "#",
    "+",
    "*",
    "~",
    "\\",
    "&",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\u2028",
    "，",
    "。",
    "、",
    "a",
    "Z",
    "7",
    "é",
    "я",
    "一",
    "x.",
    "ext ",
    "no. ",
    "№",
    "id:",
    "tel",
    "\x00",
    "\U0001f600",
)
_JUNK: Final = (
    "a.",
    "1.22.",
    "12 ",
    "1 1 ",
    "0.5,",
    "a@",
    "@",
    "::",
    "1:2:",
    "-1-",
    "DE",
    "GB29",
    "A1 ",
    "http://",
    "www.",
    ".com",
    "()",
    "+1",
    "+",
    "0000",
    "bc1",
    "3",
    "ffff:",
    "T10:",
    "99999",
    "é1",
    "٣",
    "７",
    "x" * 30,
    "9" * 25,
    "1-2-",
    "ab-",
    "_1_",
)


def chat(rng: Random, size: int, density: Density, entities: Sequence[str] = DEFAULT) -> str:
    """English chat of ``size`` characters. Without values it has no digit and no ``@``."""
    pieces: list[str] = []
    length = 0
    number, value = NUMBER_CHARS // 2, rng.randrange(DENSE_CHARS if density is Density.DENSE else NATURAL_CHARS)
    while length < size:
        sentence = rng.choice(_SAID) if rng.random() < 0.1 else rng.choice(_sentences())
        if density is not Density.CLEAN and length >= value:
            sentence = rng.choice(_TELLS).replace("{}", VALUES[rng.choice(entities)](rng))
            value += DENSE_CHARS if density is Density.DENSE else NATURAL_CHARS
        elif density is not Density.CLEAN and length >= number:
            sentence = rng.choice(_SMALL).format(rng.randrange(2, 60))
            number += NUMBER_CHARS
        pieces.append(sentence)
        length += len(sentence) + 1
    return " ".join(pieces)[:size]


@cache
def _sentences() -> tuple[str, ...]:
    rng = Random(4)
    parts = (_WHO, _DOES, _WHAT, _WHEN)
    return tuple(" ".join(map(rng.choice, parts)) + rng.choice(_ENDS) for _ in range(3_000))


def any_text(seed: int, entities: Sequence[str] = DEFAULT, pool: Sequence[str] = ()) -> str:
    """The text of a seed: 0 to 20 000 characters, seven in ten below 300.

    Values are of ``entities``, a quarter of them from ``pool`` where it is not empty, and a third changed a little.
    """
    rng = Random(seed)

    def value() -> str:
        made = rng.choice(pool) if pool and rng.random() < 0.25 else VALUES[rng.choice(entities)](rng)
        return near_miss(rng, made) if rng.random() < 0.33 else made

    shape = rng.choices(_SHAPES, _SHARES)[0]
    return shape(rng, value, _size(rng))


def _size(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.02:
        return rng.randrange(4)
    for share, most in ((0.72, 300), (0.94, 1_200), (0.995, 4_000)):
        if kind < share:
            return rng.randrange(most)
    return rng.randrange(4_000, SIZE_MAX)


def _prose(rng: Random, value: Callable[[], str], size: int) -> str:
    density = rng.choice((0.02, 0.1, 0.4))
    language = rng.choice((None, None, None, *_FOREIGN))
    pieces: list[str] = []
    length = 0
    while length < size:
        told = rng.random() < density
        sentence = rng.choice(language or (_TELLS if told else _sentences()))
        if "{}" in sentence:
            sentence = sentence.replace("{}", value())
        pieces.append(sentence)
        length += len(sentence) + 1
    return rng.choice((" ", " ", "\n", "")).join(pieces)


def _lines(templates: Sequence[str]) -> Callable[[Random, Callable[[], str], int], str]:
    def text(rng: Random, value: Callable[[], str], size: int) -> str:
        pieces: list[str] = []
        length = 0
        while length < size:
            pieces.append(rng.choice(templates).replace("{{", "{").replace("}}", "}").replace("{}", value()))
            length += len(pieces[-1])
        return "".join(pieces)

    return text


def _json(rng: Random, value: Callable[[], str], size: int) -> str:
    items: list[object] = []
    length = 0
    while length < size:
        item = {
            "id": rng.randrange(10 ** rng.randrange(1, 14)),
            "score": rng.random() * 100,
            "note": rng.choice(_sentences()),
            rng.choice(("value", "ref", "contact", "ssn")): value(),
            "ok": rng.random() < 0.5,
            "at": [rng.random(), None],
        }
        items.append(item)
        length += 180
    return json.dumps(items, ensure_ascii=rng.random() < 0.3, indent=rng.choice((None, None, 2)))


def _table(rng: Random, value: Callable[[], str], size: int) -> str:
    separator = rng.choice((",", ";", "\t", " | ", ", ", "  "))
    columns = rng.randrange(1, 6)
    rows: list[str] = []
    length = 0
    while length < size:
        cells = [value() if rng.random() < 0.4 else str(rng.randrange(100_000)) for _ in range(columns)]
        rows.append(separator.join(cells))
        length += len(rows[-1]) + 1
    return "\n".join(rows)


def _hostile(rng: Random, value: Callable[[], str], size: int) -> str:
    size = min(size, 1_500)
    pieces: list[str] = []
    length = 0
    while length < size:
        kind = rng.random()
        if kind < 0.6:
            piece = value()
        elif kind < 0.8:
            piece = rng.choice(_JUNK) * rng.choice((1, 1, 2, 5))
        elif kind < 0.9:
            piece = rng.choice(_sentences()).split(" ", 1)[0]
        else:
            first, second = value(), value()
            at = rng.randrange(len(first) + 1)
            piece = first[:at] + second + first[at:]
        pieces += (piece, rng.choice(_GLUE))
        length += len(piece) + 1
    return "".join(pieces)


def _alone(rng: Random, value: Callable[[], str], size: int) -> str:
    return value()


_SHAPES: Final = (_prose, _lines(_CODE), _lines(_LOGS), _json, _table, _hostile, _alone)
_SHARES: Final = (30, 8, 8, 8, 8, 33, 5)
