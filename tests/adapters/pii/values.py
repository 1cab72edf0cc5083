"""Made-up values of every entity that Presidio knows, with right checksums, and near misses of them.

Nothing here is anybody's: every value is drawn from a seeded generator by the published rule of its kind. The rules
are those of the standards (ISO 7812 for cards, ISO 13616 for IBANs, BIP 173 for bech32, ...) and of the authorities
that issue the numbers; each is named beside its function.
"""

from __future__ import annotations

import hashlib
import string
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

Value: TypeAlias = "Callable[[Random], str]"

_LETTERS: Final = string.ascii_uppercase
_ALNUM: Final = string.digits + _LETTERS
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CLASSES: Final = {
    "#": string.digits,
    "@": _LETTERS,
    "*": _ALNUM,
    "~": string.ascii_lowercase,
    "%": "0123456789abcdef",
}
_MONTHS: Final = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]


def fill(rng: Random, template: str) -> str:
    """``template`` with ``#`` a digit, ``@`` a capital, ``*`` either, ``~`` a small letter, ``%`` a hex digit."""
    return "".join([rng.choice(_CLASSES[one]) if one in _CLASSES else one for one in template])


def _templates(*templates: str) -> Value:
    return lambda rng: fill(rng, rng.choice(templates))


def _digits(rng: Random, count: int) -> str:
    return f"{rng.randrange(10**count):0{count}d}"


def _luhn(body: str) -> str:
    """The check digit of ISO/IEC 7812-1."""
    total = 0
    for at, one in enumerate(reversed(body)):
        value = int(one) * (1 + (at % 2 == 0))
        total += value - 9 * (value > 9)
    return str(-total % 10)


def _weighted(body: str, weights: Sequence[int]) -> int:
    return sum(int(one) * weight for one, weight in zip(body, weights, strict=True))


def _iso7064_11_10(body: str) -> str:
    """The check digit of ISO/IEC 7064, MOD 11,10."""
    product = 10
    for one in body:
        product = ((int(one) + product) % 10 or 10) * 2 % 11
    return str((11 - product) % 10)


def _drawn(make: Callable[[Random], str | None]) -> Value:
    """Draw until there is one: some checksums exist for ten of eleven bodies only."""

    def value(rng: Random) -> str:
        while (made := make(rng)) is None:
            pass
        return made

    return value


def _grouped(digits: str, sizes: Sequence[int], separator: str) -> str:
    groups, at = [], 0
    for size in sizes:
        groups.append(digits[at : at + size])
        at += size
    return separator.join([*groups, digits[at:]] if at < len(digits) else groups)


def card(rng: Random) -> str:
    """ISO/IEC 7812: the issuer's prefix, a body and the check digit."""
    prefix, length, sizes = rng.choice(
        (
            ("4", 16, (4, 4, 4)),
            ("4", 13, ()),
            ("51", 16, (4, 4, 4)),
            ("55", 16, (4, 4, 4)),
            ("34", 15, (4, 6)),
            ("37", 15, (4, 6)),
            ("6011", 16, (4, 4, 4)),
            ("36", 14, (4, 6)),
            ("3528", 16, (4, 4, 4)),
            ("1", 15, (4, 5)),
        )
    )
    body = prefix + _digits(rng, length - len(prefix) - 1)
    return _grouped(body + _luhn(body), sizes, rng.choice(("", " ", "-")) if sizes else "")


_IBANS: Final = {
    "DE": "##################",
    "GB": "@@@@##############",
    "FR": "##########***********##",
    "NL": "@@@@##########",
    "ES": "####################",
    "IT": "@##########************",
    "PL": "########################",
    "BE": "############",
    "CH": "#####************",
    "AT": "################",
    "SE": "####################",
    "NO": "###########",
    "MT": "@@@@#####******************",
    "AE": "###################",
    "SA": "##******************",
    "IE": "@@@@##############",
    "PT": "#####################",
    "DK": "##############",
    "FI": "##############",
}


def iban(rng: Random) -> str:
    """ISO 13616: two check digits modulo 97 over the rearranged number."""
    country = rng.choice(tuple(_IBANS))
    body = fill(rng, _IBANS[country])
    number = int("".join(str(int(one, 36)) for one in f"{body}{country}00"))
    whole = f"{country}{98 - number % 97:02d}{body}"
    return _grouped(whole, (4,) * (len(whole) // 4), rng.choice(("", " ", " ", "-")))


def _base58check(rng: Random) -> str:
    payload = bytes([rng.choice((0, 5))]) + rng.randbytes(20)
    data = payload + hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = _BASE58[rest] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def _polymod(values: Sequence[int]) -> int:
    state = 1
    for value in values:
        top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            state ^= term if top >> bit & 1 else 0
    return state


def _bech32(rng: Random) -> str:
    """BIP 173 and BIP 350: witness version 0 with 20 or 32 bytes, or version 1 with 32."""
    version, groups, constant = rng.choice(((0, 32, 1), (0, 52, 1), (1, 52, 0x2BC830A3)))
    data = [version, *(rng.randrange(32) for _ in range(groups - 1)), 16 if groups == 52 else rng.randrange(32)]
    prefix = [3, 3, 0, 2, 3]  # of "bc": high bits, zero, low bits
    check = _polymod([*prefix, *data, *[0] * 6]) ^ constant
    return "bc1" + "".join(_BECH32[one] for one in (*data, *((check >> 5 * (5 - at)) & 31 for at in range(6))))


def crypto(rng: Random) -> str:
    """A Bitcoin address."""
    return rng.choice((_base58check, _bech32))(rng)


_NAMES: Final = [
    "anna",
    "ben",
    "carla",
    "dmitri",
    "elif",
    "farid",
    "grace",
    "hugo",
    "inés",
    "jörg",
    "kenji",
    "lucía",
    "maja",
    "noor",
    "olga",
    "piotr",
]
_HOSTS: Final = [
    "harbour",
    "orchard",
    "lantern",
    "meadow",
    "quarry",
    "bakery",
    "tidewater",
    "copperleaf",
    "north-star",
    "blue_hill",
    "x1",
    "müller",
]
_TLDS: Final = [
    "com",
    "org",
    "net",
    "io",
    "de",
    "co.uk",
    "fr",
    "dev",
    "museum",
    "xyz",
    "info",
    "com.au",
    "pl",
    "invalid",
    "local",
    "app",
    "travel",
    "cc",
    "c0m",
    "рф",
]


def email(rng: Random) -> str:
    """RFC 5322 mailboxes, plain to strange."""
    name = rng.choice(_NAMES)
    local = rng.choice(
        (
            name,
            f"{name}.{rng.choice(_NAMES)}",
            f"{name}{rng.randrange(100)}",
            f"{name}+tag",
            f"o'{name}",
            f"{name[0]}_{name}",
            name.upper(),
            f"{name}..x",
            f"#{name}",
            f"{name}.",
            f"x/{name}=y",
        )
    )
    host = rng.choice(_HOSTS)
    middle = rng.choice(("", "", "", "mail.", "eu-1.", "a.b.c."))
    return f"{local}@{middle}{host}.{rng.choice(_TLDS)}"


def url(rng: Random) -> str:
    """Addresses with and without scheme, port, path and quotes."""
    host = f"{rng.choice(('', 'www.', 'api.', 'WWW2.', 'a-b.'))}{rng.choice(_HOSTS)}.{rng.choice(_TLDS)}"
    head = rng.choice(("", "", "http://", "https://", "HTTPS://", "ftp://"))
    path = rng.choice(
        ("", "", "/", "/a/b.html", "/x?q=1&r=%20y", "/p#frag", "/~me/", "/a,b;c", "/end.", "/(x)", ":8080/v1")
    )
    quote = rng.choice(("", "", "", '"', "'"))
    return f"{quote}{head}{host}{path}{quote}"


def ip(rng: Random) -> str:
    """RFC 791 and RFC 4291, with prefixes, compressed and IPv4-mapped."""
    four = ".".join(str(rng.randrange(rng.choice((10, 256, 256, 300)))) for _ in range(4))
    six = [f"{rng.randrange(1 << rng.choice((4, 8, 16, 16))):x}" for _ in range(8)]
    cut = rng.randrange(7)
    short = ":".join(six[:cut]) + "::" + ":".join(six[cut + rng.randrange(1, 3) :])
    mapped = rng.choice((f"::ffff:{four}", f"::{four}", f"{':'.join(six[:6])}:{four}", f"{six[0]}::{six[1]}:{four}"))
    whole = rng.choice((four, four, four, ":".join(six), short, short.upper(), "::", "::1", mapped))
    return whole + rng.choice(("", "", "", f"/{rng.randrange(140)}"))


def date(rng: Random) -> str:
    """ISO 8601 and the usual written forms, some of no real day."""
    y, m, d = rng.randrange(1900, 2100), rng.randrange(1, 14), rng.randrange(1, 33)
    sep = rng.choice("/-.")
    clock = f"{rng.randrange(25):02d}:{rng.randrange(61):02d}"
    zone = rng.choice(("Z", "+01:00", "-0500", ""))
    month = rng.choice(_MONTHS)
    return rng.choice(
        (
            f"{y}-{m:02d}-{d:02d}",
            f"{y}{sep}{m}{sep}{d}",
            f"{d}{sep}{m}{sep}{y}",
            f"{m:02d}{sep}{d:02d}{sep}{y % 100:02d}",
            f"{y}-{m:02d}-{d:02d}T{clock}{zone}",
            f"{y}-{m:02d}-{d:02d}T{clock}:07.125{zone}",
            f"{d:02d}-{month}-{y}",
            f"{month}-{y % 100:02d}",
            f"{d}-{month.title()}",
            f"{m}/{y}",
            f"{m:02d}/{y % 100:02d}",
        )
    )


_PHONES: Final = (
    "+1 ### ###-####",
    "(###) ###-####",
    "###-###-####",
    "###.###.####",
    "+1 (2##) 555-01## ext ##",
    "1-800-###-####",
    "+1415555####",
    "+44 20 7### ####",
    "020 7### ####",
    "07### ######",
    "+44 (0)7### ######",
    "+49 30 ########",
    "030/#######",
    "+49 (0)151 ########",
    "0151 ########",
    "+33 6 ## ## ## ##",
    "06 ## ## ## ##",
    "+39 06 #### ####",
    "+39 3## ### ####",
    "+972 5#-###-####",
    "05#-#######",
    "+91 9#### #####",
    "09########",
    "+55 11 9####-####",
    "(11) 9####-####",
    "+1 514 ### ####",
    "+81 3-####-####",
    "+86 138 #### ####",
    "+7 (495) ###-##-##",
    "+90 5## ### ## ##",
    "+27 82 ### ####",
    "082 ### ####",
    "011 ### ####",
    "+27 11 ### ####",
    "0861 ### ###",
    "+61 4## ### ###",
    "+48 ### ### ###",
    "+82 10-####-####",
    "+46 70-### ## ##",
    "2## ### #### x###",
    "tel:+1-###-###-####",
    "+### ### ###",
)
phone: Final[Value] = _templates(*_PHONES)
"""National and international spellings of many numbering plans (ITU-T E.123, E.164)."""


def ssn(rng: Random) -> str:
    """SSA: area, group, serial."""
    digits = f"{rng.randrange(1, 900):03d}{rng.randrange(100):02d}{rng.randrange(10_000):04d}"
    return _grouped(digits, rng.choice(((3, 2), (3, 2), (3, 2), (5,), (3,))), rng.choice(("-", "-", " ", ".", "")))


def dea(rng: Random) -> str:
    """DEA registration: two letters, six digits, a check digit of the weighted sum."""
    digits = _digits(rng, 6)
    return (
        rng.choice("ABCDEFGHJKLMPRSTUXab")
        + rng.choice((*_LETTERS, "9"))
        + digits
        + str(_weighted(digits, (1, 2, 1, 2, 1, 2)) % 10)
    )


def _nhs(rng: Random) -> str | None:
    body = _digits(rng, 9)
    check = 11 - _weighted(body, range(10, 1, -1)) % 11
    return None if check == 10 else _grouped(f"{body}{check % 11}", (3, 3), rng.choice(("", " ", "-")))


def _tin(rng: Random) -> str | None:
    body = _digits(rng, 8)
    check = _weighted(body, range(9, 1, -1)) % 11
    branch = rng.choice(("", _digits(rng, 3)))
    return None if check == 10 else _grouped(f"{body}{check}{branch}", (3, 3, 3), rng.choice(("", "-")))


def _npi(rng: Random) -> str:
    body = rng.choice("12") + _digits(rng, 8)
    return _grouped(body + _luhn(f"80840{body}"), (4, 3), rng.choice(("", " ", "-")))


def _aba(rng: Random) -> str:
    body = rng.choice("0123") + _digits(rng, 7)
    whole = f"{body}{-_weighted(body, (3, 7, 1, 3, 7, 1, 3, 7)) % 10}"
    return rng.choice((whole, f"{whole[:4]}-{whole[4:8]}-{whole[8]}"))


def _abn(rng: Random) -> str | None:
    whole = f"{rng.randrange(10, 100)}{_digits(rng, 9)}"
    reduced = f"{int(whole[0]) - 1}{whole[1:]}"
    missing = -_weighted(reduced, (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)) % 89
    last = int(whole[-1]) + missing * pow(19, -1, 89) % 89
    return None if last > 9 else _grouped(f"{whole[:-1]}{last}", (2, 3, 3), rng.choice(("", " ")))


def _acn(rng: Random) -> str:
    body = _digits(rng, 8)
    return _grouped(f"{body}{-_weighted(body, range(8, 0, -1)) % 10}", (3, 3), rng.choice(("", " ")))


def _tfn(rng: Random) -> str | None:
    body = _digits(rng, 8)
    last = _weighted(body, (1, 4, 3, 7, 5, 8, 6, 9)) % 11  # weight 10 is -1 modulo 11
    return None if last == 10 else _grouped(f"{body}{last}", (3, 3), rng.choice(("", " ")))


def _medicare(rng: Random) -> str:
    body = rng.choice("23456") + _digits(rng, 7)
    whole = f"{body}{_weighted(body, (1, 3, 7, 9, 1, 3, 7, 9)) % 10}{rng.randrange(1, 10)}"
    return rng.choice((whole, f"{whole[:4]} {whole[4:9]} {whole[9]}"))


def _verhoeff(body: str) -> str:
    """J. Verhoeff, 1969: the dihedral group of ten elements and its permutation."""

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 + 5 * (b >= 5)
        return (a - b) % 5 + 5 * (b < 5)

    check = 0
    for at, one in enumerate(reversed(body), 1):
        value = int(one)
        for _ in range(at % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        check = times(check, value)
    return str(check if check >= 5 else -check % 5)


def _aadhaar(rng: Random) -> str:
    body = str(rng.randrange(2, 10)) + _digits(rng, 10)
    return _grouped(body + _verhoeff(body), (4, 4), rng.choice(("", " ", "-", ":")))


def _gstin(rng: Random) -> str:
    body = f"{rng.randrange(1, 38):02d}" + fill(rng, "@@@P@####@") + rng.choice("123") + "Z"
    total = sum(sum(divmod(int(one, 36) * (1 + at % 2), 36)) for at, one in enumerate(body))
    return body + _ALNUM[-total % 36]


def _sin(rng: Random) -> str:
    body = rng.choice("123456789") + _digits(rng, 7)
    body = body if body[0] != "8" else f"9{body[1:]}"
    return _grouped(body + _luhn(body), (3, 3), rng.choice(("", " ", "-")))


def _born(rng: Random, *, years: int = 2) -> str:
    year = rng.randrange(1930, 2020)
    return f"{year:04d}"[4 - years :] + f"{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"


def _pesel(rng: Random) -> str:
    body = _born(rng) + _digits(rng, 4)
    return f"{body}{-_weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"


def _za_id(rng: Random) -> str:
    body = _born(rng) + _digits(rng, 4) + rng.choice("01") + "8"
    return body + _luhn(body)


def _personnummer(rng: Random) -> str:
    body = _born(rng) + _digits(rng, 3)
    whole = body + _luhn(body)
    return rng.choice(("", "19")) + whole[:6] + rng.choice(("", "-", "+")) + whole[6:]


def _organisation(rng: Random) -> str:
    body = "55" + str(rng.randrange(2, 10)) + _digits(rng, 6)
    whole = body + _luhn(body)
    return whole[:6] + rng.choice(("", "-")) + whole[6:]


def _finnish(rng: Random) -> str:
    born, serial = _born(rng), f"{rng.randrange(2, 900):03d}"
    born = born[4:] + born[2:4] + born[:2]
    return born + rng.choice("-+AY") + serial + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(born + serial) % 31]


def _thai(rng: Random) -> str:
    body = rng.choice("12345678") + rng.choice(("10", "20", "31", "50", "73", "84")) + _digits(rng, 9)
    return f"{body}{(11 - _weighted(body, range(13, 1, -1)) % 11) % 10}"


def _turkish(rng: Random) -> str:
    body = rng.choice("123456789") + _digits(rng, 8)
    odd, even = sum(map(int, body[::2])), sum(map(int, body[1::2]))
    tenth = (odd * 7 - even) % 10
    return f"{body}{tenth}{(odd + even + tenth) % 10}"


def _resident(rng: Random, sex: str) -> str:
    body = _born(rng) + rng.choice(sex) + f"{rng.randrange(96):02d}" + _digits(rng, 3)
    check = (11 - _weighted(body, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    whole = f"{body}{check}"
    return whole[:6] + rng.choice(("", "-")) + whole[6:]


def _brn(rng: Random) -> str:
    body = f"{rng.randrange(101, 1000)}{_digits(rng, 6)}"
    total = _weighted(body, (1, 3, 7, 1, 3, 7, 1, 3, 5)) + int(body[8]) * 5 // 10
    return _grouped(f"{body}{-total % 10}", (3, 2), rng.choice(("", "-")))


def _nif(rng: Random) -> str:
    digits = _digits(rng, 8)
    return digits + rng.choice(("", "-")) + "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23]


def _nie(rng: Random) -> str:
    first, digits = rng.randrange(3), _digits(rng, 7)
    return f"{'XYZ'[first]}{digits}{rng.choice(('', '-'))}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(f'{first}{digits}') % 23]}"


_ODD: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def _fiscal(rng: Random) -> str:
    """Italy, decree of 23 December 1976: odd places by table, even ones by value, modulo 26."""
    consonants = "BCDFGLMNPRSTVZ"
    name = "".join(rng.choice(consonants) for _ in range(6))
    body = name + f"{rng.randrange(100):02d}{rng.choice('ABCDEHLMPRST')}{rng.randrange(1, 29):02d}"
    body += rng.choice("ABCDEFGHIL") + f"{rng.randrange(100, 999)}"
    values = [int(one) if one.isdigit() else ord(one) - 65 for one in body]
    total = sum(_ODD[value] if at % 2 == 0 else value for at, value in enumerate(values))
    return body + _LETTERS[total % 26]


def _partita(rng: Random) -> str:
    body = _digits(rng, 7) + f"{rng.randrange(1, 101):03d}"
    whole = body + _luhn(body)
    return rng.choice((whole, whole, _grouped(whole, (5, 3), " "), _grouped(whole, (5, 3), "_")))


def _steuer_id(rng: Random) -> str:
    """Germany, section 139b AO: of the first ten digits one occurs twice; ISO 7064."""
    digits = rng.sample(string.digits, 9)
    digits.insert(rng.randrange(9), rng.choice(digits))
    while digits[0] == "0" or any(a == b == c for a, b, c in zip(digits, digits[1:], digits[2:], strict=False)):
        rng.shuffle(digits)
    body = "".join(digits)
    return body + _iso7064_11_10(body)


def _ust_id(rng: Random) -> str:
    body = rng.choice("123456789") + _digits(rng, 7)
    whole = body + _iso7064_11_10(body)
    separator = rng.choice(("", "", " ", ".", "-"))
    return "DE" + separator + _grouped(whole, (3, 3), separator)


def _versicherten(rng: Random) -> str:
    letter, digits = rng.choice(_LETTERS), _digits(rng, 8)
    values = f"{ord(letter) - 64:02d}{digits}"
    total = sum(sum(divmod(int(one) * (1 + at % 2), 10)) for at, one in enumerate(values))
    return f"{letter}{digits}{total % 10}"


def _rente(rng: Random) -> str:
    letter = rng.choice(_LETTERS)
    born = _born(rng)
    head, serial = _digits(rng, 2) + born[4:] + born[2:4] + born[:2], _digits(rng, 2)
    values = f"{head}{ord(letter) - 64:02d}{serial}"
    total = sum(
        sum(divmod(int(one) * weight, 10))
        for one, weight in zip(values, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True)
    )
    return f"{head}{letter}{serial}{total % 10}"


def _mrz(rng: Random) -> str:
    """ICAO 9303: weights 7, 3, 1 over letters from ten upwards."""
    body = rng.choice("CFGHJKLMNPRTVWXYZ") + "".join(rng.choice("CFGHJKLMNPRTVWXYZ0123456789") for _ in range(7))
    return f"{body}{sum(int(one, 36) * (7, 3, 1)[at % 3] for at, one in enumerate(body)) % 10}"


def _lanr(rng: Random) -> str:
    body = _digits(rng, 6)
    return f"{body}{-_weighted(body, (4, 9, 4, 9, 4, 9)) % 10}{rng.randrange(1, 100):02d}"


def _bsnr(rng: Random) -> str:
    return rng.choice(("01", "02", "17", "38", "52", "71", "83", "93", "98")) + _digits(rng, 7)


def _uen(rng: Random) -> str:
    if rng.random() < 0.5:
        body = _digits(rng, 8)
        return body + "XMKECAWLJDB"[_weighted(body, (10, 4, 9, 3, 8, 2, 7, 1)) % 11]
    if rng.random() < 0.5:
        body = f"{rng.randrange(1950, 2024)}{_digits(rng, 5)}"
        return body + "ZKCMDNERGWH"[_weighted(body, (10, 8, 6, 4, 9, 7, 5, 3, 1)) % 11]
    return fill(rng, f"{rng.choice('TSR')}##{rng.choice(('LP', 'LL', 'FC', 'PF'))}####@")


def _uk_licence(rng: Random) -> str:
    sex = rng.choice((0, 50))
    return fill(rng, rng.choice(("@@@@@", "@@@@9", "@@@99"))) + fill(
        rng, f"#{rng.randrange(1, 13) + sex:02d}{rng.randrange(1, 29):02d}#@@*@@"
    )


VALUES: Final[Mapping[str, Value]] = {
    "CREDIT_CARD": card,
    "CRYPTO": crypto,
    "DATE_TIME": date,
    "EMAIL_ADDRESS": email,
    "IBAN_CODE": iban,
    "IP_ADDRESS": ip,
    "PHONE_NUMBER": phone,
    "URL": url,
    "US_SSN": ssn,
    "MEDICAL_LICENSE": dea,
    "MAC_ADDRESS": _templates("%%:%%:%%:%%:%%:%%", "%%-%%-%%-%%-%%-%%", "%%%%.%%%%.%%%%", "%%:%%:%%-%%:%%:%%"),
    "UUID": _templates(
        "%%%%%%%%-%%%%-4%%%-a%%%-%%%%%%%%%%%%",
        "%%%%%%%%-%%%%-7%%%-8%%%-%%%%%%%%%%%%",
        "########-####-####-####-############",
    ),
    "US_BANK_NUMBER": _templates("########", "############", "#################", "##################"),
    "US_DRIVER_LICENSE": _templates(
        "@######", "@########", "@#############", "@@######", "#######@", "@#@#@", "H########"
    ),
    "US_ITIN": _templates("9##-7#-####", "9##-50-####", "9##7#####", "9## 88 ####", "9##-93-####"),
    "US_PASSPORT": _templates("#########", "@########"),
    "US_MBI": _templates("#A*#C*#DE##", "#A*#-C*#-DE##"),
    "US_HEALTH_INSURANCE_MEMBER_ID": _templates("@@@#########", "@@-A*####*##", "XYZ########"),
    "US_CLAIM_NUMBER": _templates(
        "CLM-########", "claim # ########", "claim number: CLM#######", "medical  claim ID ######"
    ),
    "US_PRESCRIPTION_NUMBER": _templates(
        "RX-#######", "rx # #######", "prescription no. ########", "Rx number: RX######"
    ),
    "US_PRIOR_AUTHORIZATION_NUMBER": _templates("PA-#######", "prior auth # #######", "authorization: PA########"),
    "US_PROVIDER_TAX_ID": _templates("12-#######", "provider tax id 45-#######", "billing provider EIN: 36-#######"),
    "US_REFERRAL_NUMBER": _templates(
        "REF-######", "referral number: ########", "INF#######", "infusion referral # INF-######"
    ),
    "US_NPI": _npi,
    "ABA_ROUTING_NUMBER": _aba,
    "UK_NHS": _drawn(_nhs),
    "UK_NINO": _templates("AB######C", "CE ## ## ## D", "jk######a", "BG######A"),
    "UK_PASSPORT": _templates("@@#######"),
    "UK_DRIVING_LICENCE": _uk_licence,
    "UK_POSTCODE": _templates("SW1A #AA", "M# #AE", "B## #TH", "CR# #XH", "DN55 #PT", "EC1A#BB", "GIR 0AA"),
    "UK_VEHICLE_REGISTRATION": _templates("AB5# CDE", "AB0#CDE", "K### LMN", "ABC ##D", "LN6#-XYZ"),
    "AU_ABN": _drawn(_abn),
    "AU_ACN": _acn,
    "AU_TFN": _drawn(_tfn),
    "AU_MEDICARE": _medicare,
    "CA_SIN": _sin,
    "CA_POSTAL_CODE": _templates("K#A #B#", "H#X#Y#", "V#C #T#"),
    "IN_AADHAAR": _aadhaar,
    "IN_GSTIN": _gstin,
    "IN_PAN": _templates("@@@P@####@", "@@@@@####@", "ab##cd1234", "x_@####~~~"),
    "IN_PASSPORT": _templates("@1#####1", "@9# ####7"),
    "IN_VOTER": _templates("@A@#######", "@@@#######"),
    "IN_VEHICLE_REGISTRATION": _templates(
        "KA##@@####", "MH#@####", "2#BH####AA", "DL#C@@####", "##A######B", "12CD1##", "@####"
    ),
    "SG_NRIC_FIN": _templates("S#######@", "T#######@", "@#######@", "g#######~"),
    "SG_UEN": _uen,
    "PH_TIN": _drawn(_tin),
    "PH_UMID": _templates("####-#######-#"),
    "PH_PASSPORT": _templates("P#######@", "@@#######"),
    "NG_NIN": lambda rng: (body := _digits(rng, 10)) + _verhoeff(body),
    "NG_VEHICLE_REGISTRATION": _templates("@@@-###@@", "@@@###@@"),
    "ZA_ID_NUMBER": _za_id,
    "ZA_PASSPORT": _templates("A########", "M########"),
    "ZA_DRIVER_LICENSE": _templates("########@@@@", "######**"),
    "ZA_COMPANY_REGISTRATION": _templates("20##/######/07", "19##/######/23", "CK2001/######"),
    "ZA_INCOME_TAX_NUMBER": lambda rng: (body := rng.choice("01239") + _digits(rng, 8)) + _luhn(body),
    "ZA_VAT_NUMBER": lambda rng: (body := "4" + _digits(rng, 8)) + _luhn(body),
    "ZA_LICENSE_PLATE": _templates("AB ## CD GP", "@@@###GP", "CA ###-### WP", "BB ## GP", "## BB EC", "ND ### ZN"),
    "ZA_TRAFFIC_REGISTER_NUMBER": _templates("#############"),
    "ZA_MOBILE_NUMBER": _templates("082 ### ####", "+27 73 ### ####", "0#########"),
    "ZA_TELEPHONE_NUMBER": _templates("011 ### ####", "+27 21 ### ####", "(031) ### ####"),
    "DE_TAX_ID": _steuer_id,
    "DE_VAT_ID": _ust_id,
    "DE_HEALTH_INSURANCE": _versicherten,
    "DE_SOCIAL_SECURITY": _rente,
    "DE_PASSPORT": _mrz,
    "DE_ID_CARD": lambda rng: rng.choice((_mrz(rng), fill(rng, "T########"))),
    "DE_LANR": _lanr,
    "DE_BSNR": _bsnr,
    "DE_PLZ": _templates("#####", "0####"),
    "DE_FUEHRERSCHEIN": _templates("@@########*"),
    "DE_KFZ": _templates("B @@ ####", "M-@@ ###", "HH-@-##E", "KÖL @@ 12H", "FÜ-A 7"),
    "DE_HANDELSREGISTER": _templates("HRB ######", "HRA####"),
    "DE_TAX_NUMBER": _templates("09###########", "###/###/#####", "##/###/#####", "###/####/####"),
    "ES_NIF": _nif,
    "ES_NIE": _nie,
    "ES_PASSPORT": _templates("@@@######"),
    "IT_FISCAL_CODE": _fiscal,
    "IT_VAT_CODE": _partita,
    "IT_DRIVER_LICENSE": _templates("@@#######@", "U1B******@", "ab#######~"),
    "IT_IDENTITY_CARD": _templates("@@ #######", "#######@@", "CA#####@@"),
    "IT_PASSPORT": _templates("YA#######"),
    "PL_PESEL": _pesel,
    "FI_PERSONAL_IDENTITY_CODE": _finnish,
    "TH_TNIN": _thai,
    "TR_NATIONAL_ID": _turkish,
    "TR_LICENSE_PLATE": _templates("34 @@ ###", "06-ABC-##", "81 K ####", "35AZ###"),
    "SE_PERSONNUMMER": _personnummer,
    "SE_ORGANISATIONSNUMMER": _organisation,
    "KR_RRN": lambda rng: _resident(rng, "1234"),
    "KR_FRN": lambda rng: _resident(rng, "5678"),
    "KR_BRN": _brn,
    "KR_DRIVER_LICENSE": _templates("11-##-######-##", "##-##-######-##", "2612######34"),
    "KR_PASSPORT": _templates("M###@####", "s########", "R########"),
}
"""How a value of each entity is drawn, right in form and, where there is one, in its checksum."""

DEFAULT: Final = (
    "CREDIT_CARD",
    "CRYPTO",
    "DATE_TIME",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "IP_ADDRESS",
    "PHONE_NUMBER",
    "URL",
    "US_SSN",
    "MEDICAL_LICENSE",
    "MAC_ADDRESS",
    "UUID",
    "US_BANK_NUMBER",
    "US_DRIVER_LICENSE",
    "US_ITIN",
    "US_PASSPORT",
    "UK_NHS",
)
"""What the 17 recognisers find that Presidio has on by default for English."""

_FULL_WIDTH: Final = {ord(one): ord(one) + 0xFEE0 for one in string.digits}
_ARABIC: Final = {48 + digit: 0x660 + digit for digit in range(10)}
_ODD_SPACES: Final = "\u00a0\u2009\u3000\n\t\u2011\u200b"


def near_miss(rng: Random, value: str) -> str:
    """``value`` changed a little: a character other, missing, doubled or foreign, or its end cut off."""
    if not value:
        return value
    at = rng.randrange(len(value))
    kind = rng.randrange(10)
    if kind == 0:
        return value[:at] + rng.choice(string.digits) + value[at + 1 :]
    if kind == 1:
        return value[:at] + value[at + 1 :]
    if kind == 2:
        return value[:at] + value[at] + value[at:]
    if kind == 3:
        return value[:at] + rng.choice(_ODD_SPACES + " -./") + value[at:]
    if kind == 4:
        return value.translate(_FULL_WIDTH) if rng.random() < 0.5 else value.translate(_ARABIC)
    if kind == 5:
        return value.swapcase()
    if kind == 6:
        return value[: at + 1]
    if kind == 7:
        return value.replace(" ", rng.choice(_ODD_SPACES)).replace("-", rng.choice((" ", "\u2013", ".", "")))
    if kind == 8:
        return value[:at] + rng.choice("éßжя一ＡＺ９İſ𝟗") + value[at + 1 :]
    return value + value[at:]
