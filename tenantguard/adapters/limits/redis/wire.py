"""What is said to the script and what it answers: bytes, without a connection.

A command to the script is the keys that it names, already as the arguments of a Redis command, and a few packed
numbers. Of an instant or a span there are two: microseconds, and the attoseconds beyond them. ``decide.lua`` says
why.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.redis.script import KEYS_MAX, TICKS_PER_MICRO, Script
from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.rules.bucket import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.ports import Take
    from tenantguard.model.rate import Rate

HORIZON_TICKS: Final = 100 * 366 * 86_400 * 1_000_000 * TICKS_PER_MICRO
"""The longest time that a burst may take to refill: now and two of these are below 2**53 microseconds."""

PREFIX: Final = "tg:"
COUNTED: Final = b"tg:{processes}"
"""The key of the set of processes."""

UNITS_MAX: Final = 10**9
"""The most units that a chunk has: the script multiplies them exactly."""

TAKEN: Final = 0x74
REFUSED: Final = 0x72
ENDED: Final = 0x65
LATE: Final = 0x6C

_READABLE: Final = 96
_OWNER_BYTES: Final = 16
_TAKE: Final = struct.Struct("<Bdddd")
_TAKES: Final = struct.Struct("<Bd")
_CHUNK: Final = struct.Struct("<dddddd")
_SETTLED: Final = struct.Struct("<Bdddddd")
_COUNT: Final = struct.Struct("<d")
_TATS: Final = tuple(struct.Struct(f"<{2 * count}d") for count in range(33))

SCRIPT: Final = Script(files(__package__).joinpath("decide.lua").read_bytes())


def redis_key(bucket: str) -> bytes:
    """The key of a bucket: one hash tag for each tenant, and one for each bucket that tenants share.

    The tag is a hash, so an owner can call itself what it likes. What a bucket counts stays readable where it is
    short: a key's parts may come from requests, and nobody fills a server with long ones.
    """
    owner, _, rest = bucket.partition("|")
    tag = _hashed(owner if owner != SHARED else bucket)
    text = rest.encode("utf-8", "surrogatepass")
    if len(text) > _READABLE:
        return f"{PREFIX}{{{tag}}}#{_hashed(rest)}".encode()
    return f"{PREFIX}{{{tag}}}:".encode() + text


def id_key(beside: bytes, taking: bytes) -> bytes:
    """The key of what was taken under an id, in the slot of ``beside``, which is a bucket's key."""
    return beside[: beside.index(b"}") + 1] + b"=" + taking


def is_shared(bucket: str) -> bool:
    """Whether tenants share it."""
    return bucket.startswith("|")


def check(takes: Sequence[Take]) -> None:
    """Refuse what the script cannot decide.

    :class:`ConfigurationError` where a burst takes longer than a century to refill; :class:`LayerError` for a
    negative cost, and for too many takes.
    """
    if any(take.cost < 0 for take in takes):
        raise LayerError("a cost is never negative: it would mint tokens")
    if len(takes) > KEYS_MAX:
        raise LayerError(f"one decision takes from {KEYS_MAX} buckets at most")
    if any(take.rate.burst_ticks > HORIZON_TICKS for take in takes):
        raise ConfigurationError("a burst that takes more than a century to refill is too large for Redis: lower it")


def draws(takes: Sequence[Take]) -> bytes:
    """What is asked of buckets, without whether it can be given back."""
    parts = [
        _TAKE.pack(
            take.shadow,
            *_two(take.cost * take.rate.unit_ticks),
            *_two(take.rate.burst_ticks),
        )
        for take in takes
    ]
    return b"".join(parts)


def take_command(drawn: bytes, *, with_id: bool) -> bytes:
    """Take what :func:`draws` made. The keys are the id's, if there is one, and those of the takes."""
    return b"t" + _TAKES.pack(with_id, len(drawn) / _TAKE.size) + drawn


def chunk_command(rate: Rate, least: int, most: int) -> bytes:
    """Take as many units as there are, ``least`` to ``most``. The keys are the id's and the bucket's."""
    return b"c" + _CHUNK.pack(least, most, *_two(rate.unit_ticks), *_two(rate.burst_ticks))


def settle_command(taken: Sequence[tuple[Rate, int, int | None]]) -> bytes:
    """End an id: of each take its rate, the units that were taken, and those that were used (None: as many).

    The keys are the id's and those of the takes.
    """
    parts = [b"s", _COUNT.pack(len(taken))]
    for rate, cost, used in taken:
        unit = rate.unit_ticks
        parts.append(
            _SETTLED.pack(
                used is not None and used != cost,
                *_two(cost * unit),
                *_two((used or 0) * unit, 3 * HORIZON_TICKS),
                *_two(2 * rate.burst_ticks, 2 * HORIZON_TICKS),
            )
        )
    return b"".join(parts)


REFILL_COMMAND: Final = b"f"
"""Make a bucket full. The key is the bucket's."""


def count_command(process: bytes) -> bytes:
    """Say that a process of 16 bytes is there, and ask how many are. The key is :data:`COUNTED`."""
    return b"w" + process


def size(takes: int) -> int:
    """How long the answer to a command is: its status, a mark of each take, and the TAT of each bucket."""
    return 1 + 17 * takes


CHUNK_SIZE: Final = size(1) + 8
COUNT_SIZE: Final = _COUNT.size


def read_tats(reply: bytes, at: int, takes: int) -> list[int]:
    """The TATs, in ticks, in an answer that begins at ``at``: after what was taken, else as they are."""
    form = _TATS[takes] if takes < len(_TATS) else struct.Struct(f"<{2 * takes}d")
    numbers = form.unpack_from(reply, at + 1 + takes)
    return [int(numbers[index]) * TICKS_PER_MICRO + int(numbers[index + 1]) for index in range(0, 2 * takes, 2)]


def read_shadowed(reply: bytes, at: int, takes: int) -> tuple[int, ...]:
    """The indexes of the shadow takes that would have refused."""
    marks = reply[at + 1 : at + 1 + takes]
    return tuple([index for index, mark in enumerate(marks) if mark == 2]) if b"\2" in marks else ()


def read_units(reply: bytes, at: int) -> int:
    """How many units a chunk has."""
    return int(_COUNT.unpack_from(reply, at + size(1))[0])


def read_count(reply: bytes, at: int) -> int:
    """How many processes there are."""
    return int(_COUNT.unpack_from(reply, at)[0])


def _two(ticks: int, most: int = HORIZON_TICKS + 1) -> tuple[float, float]:
    micros, rest = divmod(min(ticks, most), TICKS_PER_MICRO)
    return float(micros), float(rest)


def _hashed(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_OWNER_BYTES).hexdigest()
