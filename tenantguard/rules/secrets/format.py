"""What one kind of secret looks like, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ALNUM: Final = "A-Za-z0-9"
URL_SAFE: Final = "A-Za-z0-9_-"
BASE64: Final = "A-Za-z0-9+/"
HEX: Final = "0-9a-f"
UPPER: Final = "A-Z0-9"
LOWER: Final = "a-z0-9"
UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

BEGUN_CHARS_MIN: Final = 64
"""So much of a secret that is cut off is one. A stream never lets go of less (see ``redaction/hold.py``)."""

_TRIGGER_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class SecretFormat:
    """A secret that ``expression`` describes; its first group is the secret if it has groups, else all of it.

    ``trigger`` is cheap to scan for: every match of ``expression`` holds a match of it, which begins at most
    ``before`` characters behind the start of the match. Neither uses look-around, so that every engine takes them;
    what may stand around a secret is the adapter's to say: before it no letter, digit, ``_`` or ``-``, and after it
    no character of ``alphabet`` (the inside of a class) either. ``check`` tells a secret from what only looks like
    one: a checksum, or what it decodes to. ``generic`` formats say nothing of who issued the secret: others win.
    ``begun`` describes what stands at the end of a text that is cut off within a long one (in a stream, more may
    follow), at least ``BEGUN_CHARS_MIN`` characters; without it such a part is none.
    """

    entity: str
    label: str
    expression: str
    trigger: str
    before: int = 0
    alphabet: str = "A-Za-z0-9_"
    check: Callable[[str], bool] | None = None
    flags: int = 0
    generic: bool = False
    begun: str = ""


def key(
    entity: str,
    label: str,
    prefix: str,
    alphabet: str,
    least: int,
    most: int = 0,
    *,
    check: Callable[[str], bool] | None = None,
) -> SecretFormat:
    """A prefix (an expression) and ``least`` to ``most`` characters of ``alphabet``; no ``most``: exactly so many."""
    count = f"{{{least},{most}}}" if most else f"{{{least}}}"
    return SecretFormat(
        entity,
        label,
        f"{prefix}[{alphabet}]{count}",
        f"{prefix}[{alphabet}]{{{min(least, _TRIGGER_CHARS)}}}",
        alphabet=f"A-Za-z0-9_{alphabet}",
        check=check,
        begun=f"{prefix}[{alphabet}]{{1,{most or least}}}+" if least > BEGUN_CHARS_MIN else "",
    )


def built(
    entity: str,
    label: str,
    begin: str,
    rest: str,
    *,
    alphabet: str = "A-Za-z0-9_",
    check: Callable[[str], bool] | None = None,
    flags: int = 0,
) -> SecretFormat:
    """A secret of several parts: ``begin`` is scanned for, and what follows it has the form ``rest``."""
    return SecretFormat(entity, label, begin + rest, begin, alphabet=alphabet, check=check, flags=flags)


def named(
    entity: str,
    label: str,
    name: str,
    value: str,
    count: str,
    *,
    end: str = "",
    flags: int = 0,
) -> SecretFormat:
    """A secret that its name tells: ``name``, then ``count`` (a quantifier) characters of ``value``, and ``end``.

    The name stays; the secret is what follows it.
    """
    return SecretFormat(
        entity,
        label,
        f"{name}([{value}]{count}{end})",
        f"{name}[{value}]{{{_TRIGGER_CHARS}}}",
        alphabet=f"A-Za-z0-9_{value}",
        flags=flags,
    )


def marked(
    entity: str,
    label: str,
    before: str,
    chars: int,
    mark: str,
    after: str,
    *,
    alphabet: str = "A-Za-z0-9_",
    check: Callable[[str], bool] | None = None,
) -> SecretFormat:
    """A secret with a mark inside: ``before``, which is at most ``chars`` long, then the mark, then ``after``."""
    return SecretFormat(entity, label, before + mark + after, mark, chars, alphabet, check)
