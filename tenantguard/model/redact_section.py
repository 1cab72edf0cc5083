"""The ``redact`` section of a policy: what is looked for in each direction, where, and what becomes of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from enum import Flag, StrEnum, auto
from typing import Final

from tenantguard.errors import ConfigurationError

THRESHOLD: Final = 0.4
"""A telephone number that nothing else speaks for has this score."""

OTHERS: Final = "*"
"""In place of an entity: the operator of all that have none of their own."""


class OperatorKind(StrEnum):
    """What becomes of a value; the names are Presidio's."""

    REPLACE = "replace"
    MASK = "mask"
    HASH = "hash"
    REDACT = "redact"
    KEEP = "keep"
    ENCRYPT = "encrypt"
    CUSTOM = "custom"


class Parity(StrEnum):
    """Who searches: the cascade, or Presidio's engine unchanged."""

    CASCADE = "cascade"
    PRESIDIO = "presidio"


class SecretAction(StrEnum):
    """What becomes of a secret (a key, a token, a known value)."""

    OFF = "off"
    REDACT = "redact"
    REFUSE = "refuse"


class Unknown(StrEnum):
    """What happens to a body or an event of a shape that nobody knows."""

    SCRUB = "scrub"
    BLOCK = "block"
    PASS = "pass"  # noqa: S105 - no password


class OnError(StrEnum):
    """What happens where redaction itself fails: nothing passes, or everything does as it is."""

    CLOSED = "closed"
    OPEN = "open"


class Restore(Flag):
    """Where a response's placeholders become the request's own values again."""

    NONE = 0
    TEXT = auto()
    ARGUMENTS = auto()
    """The arguments of tool calls, which are JSON inside of JSON."""

    ALL = TEXT | ARGUMENTS


@dataclass(frozen=True, slots=True)
class Operator:
    """What becomes of the values of one entity.

    ``replace`` without a ``value`` makes a placeholder, the only one that can be restored. ``mask`` writes ``char``
    over ``count`` characters (None: all) from the start or the end. ``hash`` and ``encrypt`` use keys derived for the
    tenant. ``custom`` calls ``function`` (``"module:attribute"``) with the value.
    """

    kind: OperatorKind = OperatorKind.REPLACE
    value: str | None = None
    char: str = "*"
    count: int | None = None
    from_end: bool = False
    function: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and self.kind is not OperatorKind.REPLACE:
            raise ConfigurationError("redact: only the operator 'replace' has a value")
        if (self.count is not None or self.from_end or self.char != "*") and self.kind is not OperatorKind.MASK:
            raise ConfigurationError("redact: only the operator 'mask' has char, count and from_end")
        if len(self.char) != 1 or (self.count is not None and self.count < 0):
            raise ConfigurationError("redact: 'mask' writes one character over a number of characters")
        if bool(self.function) != (self.kind is OperatorKind.CUSTOM):
            raise ConfigurationError("redact: the operator 'custom', and no other, has a function")


@dataclass(frozen=True, slots=True, repr=False)
class Listing:
    """Values by what they are: exactly so, by expression, by domain (with what is under it), by network (CIDR).

    Its ``repr`` tells how many there are and a digest, never what they are: a value may be personal.
    """

    exact: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = (self.exact, self.regex, self.domains, self.networks)
        digest = hashlib.blake2s(repr(parts).encode(), digest_size=6).hexdigest()
        return f"Listing({sum(map(len, parts))} entries, {digest})"


NOTHING_LISTED: Final = Listing()


@dataclass(frozen=True, slots=True)
class Kept:
    """The entities whose values stay as they are: those named, or with ``others`` all but those."""

    entities: frozenset[str] = frozenset()
    others: bool = False

    def __contains__(self, entity: str) -> bool:
        return (entity in self.entities) is not self.others

    def __bool__(self) -> bool:
        return bool(self.entities) or self.others


NOTHING_KEPT: Final = Kept()


@dataclass(frozen=True, slots=True)
class Find:
    """What is looked for. A detector is built once for each, so it is hashable.

    Empty ``entities``: all that the recognisers know. Empty ``recognizers``: those that Presidio has on by default
    for ``languages``, with those of ``countries`` (ISO 3166-1 alpha-2) and of ``entities`` that need others.
    A recogniser is a class of Presidio's or ``"module:attribute"``. ``secrets`` are formats, names and values that
    are ``known``, and with ``entropy`` keys that have no form but chance. ``ner`` is a language model, for names.
    Without ``personal``, secrets are all that is looked for.
    What is ``kept`` hides nothing that stands in it.
    """

    entities: tuple[str, ...] = ()
    recognizers: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    phone_regions: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    context: bool = True
    allow: Listing = NOTHING_LISTED
    deny: Listing = NOTHING_LISTED
    secrets: bool = False
    entropy: bool = True
    known: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    normalize: bool = False
    parity: Parity = Parity.CASCADE
    ner: str = ""
    personal: bool = True
    kept: Kept = NOTHING_KEPT
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError("redact: threshold must be between 0 and 1")
        object.__setattr__(self, "_hash", hash(tuple(getattr(self, name) for name in _FIND_FIELDS)))

    def __hash__(self) -> int:
        """Kept, since the detector of every body is looked up by it."""
        return self._hash

    @property
    def searched(self) -> Find:
        """This without what is done around the search (lists, normalisation): equal ones share a detector."""
        entropy = self.entropy or not self.secrets
        return replace(self, allow=NOTHING_LISTED, deny=NOTHING_LISTED, normalize=False, entropy=entropy)

    @property
    def identifiers(self) -> Find | None:
        """What is looked for in what a protocol has of its own: secrets, but of chance alone."""
        return (
            Find(context=False, secrets=True, entropy=False, known=self.known, personal=False)
            if self.secrets
            else None
        )


_FIND_FIELDS: Final = tuple(one.name for one in fields(Find) if one.compare)


@dataclass(frozen=True, slots=True)
class Direction:
    """What is done to what goes one way.

    ``operators`` by entity, ``"*"`` for all others. ``fields`` are paths in JSON and names in forms
    (``messages[*].content``): only what lies under one of them is looked at, none means all; ``skip`` is never looked
    at. ``headers`` by name; ``query`` and ``path`` of requests. ``limit_bytes`` bounds a body that must be whole
    (None: the layer's bound). ``buffer`` keeps the streams of responses whole too, so that a language model can read
    them. Whether ``find`` looks for secrets follows from ``secrets``; known ones need it.
    """

    find: Find = Find()
    operators: tuple[tuple[str, Operator], ...] = ()
    fields: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    keys: bool = False
    numbers: bool = False
    headers: tuple[str, ...] = ()
    query: bool = False
    path: bool = False
    secrets: SecretAction = SecretAction.REDACT
    limit_bytes: int | None = None
    buffer: bool = False
    unknown: Unknown = Unknown.SCRUB
    on_error: OnError = OnError.CLOSED

    def __post_init__(self) -> None:
        looks = self.looks_for_secrets
        if self.find.known and not looks:
            raise ConfigurationError("redact: known secrets are found with the others, and secrets are 'off'")
        if self.find.secrets is not looks:
            object.__setattr__(self, "find", replace(self.find, secrets=looks))
        if len(dict(self.operators)) < len(self.operators):
            raise ConfigurationError("redact: an entity has one operator")
        if self.buffer and not self.find.ner:
            raise ConfigurationError("redact: 'buffer' keeps streams for a language model: name one in 'ner'")

    @property
    def looks_for_secrets(self) -> bool:
        """Whether secrets are found at all."""
        return self.secrets is not SecretAction.OFF


@dataclass(frozen=True, slots=True)
class RedactSection:
    """Both directions of a policy (None: left as it is), and those of routes that differ, by the route's name."""

    request: Direction | None = Direction()
    response: Direction | None = Direction()
    restore: Restore = Restore.NONE
    routes: tuple[tuple[str, RedactSection], ...] = ()

    def __post_init__(self) -> None:
        if self.restore and (self.request is None or self.response is None):
            raise ConfigurationError("redact: restoring a response needs redaction in both directions")
        if any(section.routes for _, section in self.routes):
            raise ConfigurationError("redact: a route has no routes")

    @property
    def off(self) -> bool:
        """Whether neither direction is redacted (routes aside: see :meth:`of`)."""
        return self.request is None and self.response is None

    def of(self, route: str) -> RedactSection:
        """What applies to the route of this name."""
        for name, section in self.routes:
            if name == route:
                return section
        return self
