"""What is said to the script of slots and what it answers: bytes, without a connection. See ``slots.lua``."""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.adapters.redis.script import Script, argument
from tenantguard.flow.ports import Crowded, Entered, NotEntered, Standing
from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tenantguard.flow.ports import EnterSlot, SlotClaim

SCRIPT: Final = Script(files(__package__).joinpath("slots.lua").read_bytes())

KEY: Final = b"tg:{slots}"
"""The hash of all slots. They are in one hash slot, since one script decides on all of a request's."""

KEYS: Final = argument(KEY)

ID_BYTES: Final = 16
_OWNED_BYTES: Final = 40
_SHOWN: Final = 200
_REASONS: Final = (
    NotEntered.FULL,
    NotEntered.QUEUE_FULL,
    NotEntered.DEADLINE,
    NotEntered.WAITED,
    NotEntered.ENDED,
)

_ENTER: Final = struct.Struct("<B16sd16s16sddddB")
_CLAIM: Final = struct.Struct("<16sdddd")
_LENGTH: Final = struct.Struct("<H")
_COUNT: Final = struct.Struct("<I")
_ASKED: Final = struct.Struct("<16sd")
_NUMBER: Final = struct.Struct("<d")
_TWO: Final = struct.Struct("<dd")
_CROWDED: Final = struct.Struct("<BBd")
_ROW: Final = struct.Struct("<Bd")


@frozen
class Waits:
    """It waits, as the store's ``number``, and gives up after ``left_ns``."""

    number: int
    left_ns: int


class Late:
    """The command was given up before it was decided, and nothing came of it."""


class Unknown:
    """The server has no such ticket."""


Outcome: TypeAlias = Entered | Crowded | Waits | Late | Unknown
LATE: Final = Late()
UNKNOWN: Final = Unknown()


class News(NamedTuple):
    """What was decided of a ticket that waited as ``number``."""

    id: bytes
    number: int
    outcome: Outcome


class Caller:
    """What every command says of its process: who it is, and for how long it is believed to live."""

    def __init__(self, process: bytes, lease_ns: int) -> None:
        self.process = process
        self.lease_us = lease_ns // 1000
        self.asked = _ASKED.pack(process, self.lease_us)


@lru_cache(maxsize=16_384)
def place_of(key: str) -> bytes:
    """What a place is called: keys may be long, and hold anything."""
    return _hashed(key.encode("utf-8", "surrogatepass"))


def news_key(process: bytes) -> bytes:
    """The list of what was decided of a process's tickets by others."""
    return KEY + b":news:" + process


def enter_command(
    caller: Caller, command: EnterSlot, waiting_max: int, *, fence: int | None = None, age_ns: int = 0
) -> bytes:
    """Enter, or, with a ``fence``, be inside already for ``age_ns``, whatever the limits."""
    claims = command.claims
    owner = command.owner.encode("utf-8", "surrogatepass")
    places = [place_of(claim.key) for claim in claims]
    line = _hashed(owner + b"\0" + b"".join(places))
    deadline_ns = math.nan if command.deadline_ns is None else command.deadline_ns
    held, fence = (0, 0) if fence is None else (1, fence)
    packed = b"e" + _ENTER.pack(
        held, caller.process, caller.lease_us, command.id, line, waiting_max, deadline_ns, age_ns // 1000, fence,
        len(claims),
    )  # fmt: skip
    rows = [
        _CLAIM.pack(place, claim.limit, claim.queue, -(-claim.wait_ns // 1000), claim.weight)
        for place, claim in zip(places, claims, strict=True)
    ]
    return b"".join([packed, _sized(owner), _sized(_shown(claims)), *rows])


def leave_command(caller: Caller, leaving: bytes) -> bytes:
    """End a ticket."""
    return b"l" + caller.asked + leaving


def beat_command(caller: Caller, ids: Sequence[bytes]) -> bytes:
    """Say that a process lives, and ask where these of its tickets stand."""
    return b"b" + caller.asked + _sized(b"".join(ids))


def view_command(most: int, after: bytes) -> bytes:
    """List tickets, those after ``after``."""
    return b"v" + _NUMBER.pack(most) + _sized(after)


def read_news(reply: bytes, at: int) -> tuple[list[News], int]:
    """What the script tells of other tickets of the caller before an answer, and where that begins."""
    (count,) = _COUNT.unpack_from(reply, at)
    at += _COUNT.size
    found = []
    for _ in range(count):
        news, at = _read_one(reply, at)
        found.append(news)
    return found, at


def read_message(message: bytes) -> Iterator[News]:
    """What another process's command decided."""
    at = 0
    while at < len(message):
        news, at = _read_one(message, at)
        yield news


def read_outcome(reply: bytes, at: int) -> tuple[Outcome, int]:
    """An outcome, and where it ends."""
    kind = reply[at : at + 1]
    at += 1
    if kind in b"ew":
        first, second = _TWO.unpack_from(reply, at)
        at += _TWO.size
        outcome = Entered(int(first), int(second) * 1000) if kind == b"e" else Waits(int(first), int(second) * 1000)
        return outcome, at
    if kind == b"c":
        reason, count, expected = _CROWDED.unpack_from(reply, at)
        at += _CROWDED.size
        return Crowded(_REASONS[reason - 1], tuple(reply[at : at + count]), int(expected) or None), at + count
    return (LATE if kind == b"l" else UNKNOWN), at


def read_number(reply: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    return int(_NUMBER.unpack_from(reply, at)[0]), at + _NUMBER.size


def read_view(reply: bytes, at: int) -> tuple[list[tuple[int, Standing]], bytes, int]:
    """Tickets, one row for each of their keys, with their number; after which the next ones are; where it ends."""
    (count,) = _COUNT.unpack_from(reply, at)
    at += _COUNT.size
    found: list[tuple[int, Standing]] = []
    after = b""
    for _ in range(count):
        after = reply[at : at + _OWNED_BYTES]
        holds, for_us = _ROW.unpack_from(reply, at + _OWNED_BYTES)
        owner, at = _read_sized(reply, at + _OWNED_BYTES + _ROW.size)
        shown, at = _read_sized(reply, at)
        number = int.from_bytes(after[16:24], "big")
        for key in _keys(shown):
            row = Standing(key, owner.decode("utf-8", "surrogatepass"), after[24:], bool(holds), int(for_us) * 1000)
            found.append((number, row))
    return found, after, at


def _read_one(data: bytes, at: int) -> tuple[News, int]:
    asked = data[at : at + ID_BYTES]
    number, at = read_number(data, at + ID_BYTES)
    outcome, at = read_outcome(data, at)
    return News(asked, number, outcome), at


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length], at + length


def _shown(claims: Sequence[SlotClaim]) -> bytes:
    """The keys for who looks at them; of a long one, which a request may have made so, the beginning and a hash."""
    return b"".join([_sized(_short(claim.key.encode("utf-8", "surrogatepass"))) for claim in claims])


def _short(key: bytes) -> bytes:
    if len(key) <= _SHOWN:
        return key
    return key[:_SHOWN].decode("utf-8", "ignore").encode() + b"#" + _hashed(key).hex().encode()


def _keys(shown: bytes) -> Iterator[str]:
    at = 0
    while at < len(shown):
        key, at = _read_sized(shown, at)
        yield key.decode("utf-8", "surrogatepass")


def _hashed(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
