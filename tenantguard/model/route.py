"""Routes: which requests share settings, and in which shape a refusal is written for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import OnOrphan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.model.money import Amount

_MATCH: Final = re.compile(r"\A(?:(?P<method>[A-Z]+|\*)\s+)?(?P<path>/\S*)\Z")


class Dialect(StrEnum):
    """The shape of a refusal: RFC 9457 problem details, or the provider's own error object."""

    PROBLEM = "problem"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Success(StrEnum):
    """When a response counts as ended: at its own end, or only once the application has returned."""

    ENDED = "ended"
    RETURNED = "returned"


class OnMissingUsage(StrEnum):
    """What a completed response without decoded usage costs.

    Nothing; what the bytes of request and response say at a usual rate; the whole hold; or nothing until an operator
    has looked at it, and the hold stays.
    """

    VOID = "void"
    ESTIMATE = "estimate"
    CHARGE_HOLD = "charge_hold"
    REVIEW = "review"


class Idempotency(StrEnum):
    """What an ``Idempotency-Key`` does: nothing, refuse the second request under it, or answer it as the first."""

    OFF = "off"
    REFUSE = "refuse"
    REPLAY = "replay"


class OnDisconnect(StrEnum):
    """What happens when the client leaves before the end: see ``docs/charging.md``."""

    DRAIN = "drain"
    VOID = "void"
    OBSERVED = "observed"


IMAGE_TOKENS: Final = 50_000
"""What one picture can be at most: gpt-4o-mini counts up to 48 169 (2 833, and 5 667 for each of eight tiles)."""


@dataclass(frozen=True, slots=True)
class Route:
    """Settings of the requests that ``match`` (``"POST /v1/chat/completions"``, ``"/jobs/*"``, ``"/**"``).

    ``usage`` names a usage decoder, or says where an application's response has the number of its ``unit``
    (``"header:x-pages"``, ``"json:usage.pages"``, or ``"module:attr"``, a function that reads it); ``max_output``
    is the output cap in tokens that is injected where the request has none. Where a budget does not cover that
    much, the cap is lowered to what it does cover, never below ``min_output`` tokens a choice. ``None`` for
    ``dialect``, ``on_missing_usage`` and ``on_disconnect`` means the default that follows from ``usage``: the
    provider's shape, ``charge_hold`` and ``drain`` for a model's protocol, else problem details and ``void``.
    Without ``usage`` none can be missing.

    What a successful request costs adds up: ``price`` for the request itself, ``unit_price`` for each unit (named
    ``unit``) that the application reports, and the tokens that ``usage`` decodes at their model's price. At most
    ``max_units`` may be reported: the hold is placed for that many. ``takes`` are the units of quotas that a request
    takes on top of one of ``requests``.

    What a request makes a model read beside its text is bounded by ``image_tokens`` for each picture and
    ``file_tokens`` for each document, video or reference to a file; ``context_tokens`` bounds an earlier conversation
    that it refers to. Where the last two are None, such requests are refused.

    With ``charge_reported`` the cost that the provider itself reports is charged where it does (OpenRouter), in place
    of the one computed; its price still makes the hold, and bounds it.

    A response id of the provider is charged once for ever, unless ``charge_once`` is False (for a server whose ids
    repeat). ``on_orphan`` is what becomes of a hold whose process was lost.

    A ``public`` route (a health check, a login page) is served to anybody, as tenant ``default`` under no policy.
    """

    match: str = "/**"
    name: str = ""
    usage: str | None = None
    max_output: int | None = None
    min_output: int = 64
    image_tokens: int = IMAGE_TOKENS
    file_tokens: int | None = None
    context_tokens: int | None = None
    dialect: Dialect | None = None
    success: Success = Success.ENDED
    on_missing_usage: OnMissingUsage | None = None
    on_disconnect: OnDisconnect | None = None
    price: Amount | None = None
    unit: str | None = None
    unit_price: Amount | None = None
    max_units: int | None = None
    takes: tuple[tuple[str, int], ...] = ()
    idempotency: Idempotency = Idempotency.REFUSE
    charge_once: bool = True
    charge_reported: bool = False
    on_orphan: OnOrphan = OnOrphan.VOID
    public: bool = False

    def __post_init__(self) -> None:
        matched = _MATCH.match(self.match)
        if matched is None:
            raise ConfigurationError(
                f"cannot read the route {self.match!r}: write for example 'POST /v1/chat/completions' or '/jobs/*'",
            )
        if not self.name:
            object.__setattr__(self, "name", self.match)
        if self.max_output is not None and self.max_output < 1:
            raise ConfigurationError(f"route {self.name!r}: max_output must be at least 1")
        if min(self.image_tokens, self.file_tokens or 0, self.context_tokens or 0) < 0:
            raise ConfigurationError(f"route {self.name!r}: numbers of tokens are never negative")
        if self.min_output < 1:
            raise ConfigurationError(f"route {self.name!r}: min_output must be at least 1")
        if len({self.unit is None, self.unit_price is None, self.max_units is None}) > 1:
            raise ConfigurationError(f"route {self.name!r}: unit, unit_price and max_units come together")
        if self.max_units is not None and self.max_units < 1:
            raise ConfigurationError(f"route {self.name!r}: max_units must be at least 1")
        if self.counts_units and self.unit is None:
            raise ConfigurationError(f"route {self.name!r}: usage = {self.usage!r} counts a unit: name and price it")
        if len(dict(self.takes)) < len(self.takes) or any(count < 1 for _, count in self.takes):
            raise ConfigurationError(f"route {self.name!r}: takes names each unit once, at least 1 of it")
        if "requests" in dict(self.takes):
            raise ConfigurationError(f"route {self.name!r}: every request takes one of 'requests' already")
        amounts = [amount for amount in (self.price, self.unit_price) if amount is not None]
        if any(amount.nanos < 0 for amount in amounts):
            raise ConfigurationError(f"route {self.name!r}: a price is never negative")
        if len({amount.currency for amount in amounts}) > 1:
            raise ConfigurationError(f"route {self.name!r}: price and unit_price must be in one currency")
        if self.public and (amounts or self.usage):
            raise ConfigurationError(f"route {self.name!r}: a public route has no tenant that could be charged")

    @property
    def is_priced(self) -> bool:
        """Whether a request can cost anything."""
        return self.usage is not None or self.price is not None or self.unit_price is not None

    @property
    def counts_units(self) -> bool:
        """Whether ``usage`` says where a response has a number of units, rather than a model's protocol."""
        return self.usage is not None and ":" in self.usage

    @property
    def method(self) -> str:
        """The HTTP method, ``*`` for any."""
        return self.match.split()[0] if not self.match.startswith("/") else "*"

    @property
    def path(self) -> str:
        """The path pattern: ``*`` is one segment, a closing ``**`` is the rest."""
        return self.match.split()[-1]


DEFAULT_ROUTE: Final = Route()

_Pattern: TypeAlias = tuple[int, str, re.Pattern[str], Route]
"""Where a route stands among all, its method, what its path must match, and the route."""


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Finds the first route that matches, whatever their number.

    Exact paths take one look-up; patterns one for each segment before their first star, and then only those that have
    the same segments there are tried.
    """

    routes: tuple[Route, ...] = ()
    _exact: dict[str, list[tuple[int, str, Route]]] = field(init=False, repr=False, compare=False)
    _patterns: dict[str, list[_Pattern]] = field(init=False, repr=False, compare=False)
    _depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        exact: dict[str, list[tuple[int, str, Route]]] = {}
        patterns: dict[str, list[_Pattern]] = {}
        for index, route in enumerate(self.routes):
            fixed, star, _ = route.path.partition("*")
            if star:
                pattern = (index, route.method, _compile(route.path), route)
                patterns.setdefault(fixed[: fixed.rindex("/")], []).append(pattern)
            else:
                exact.setdefault(route.path, []).append((index, route.method, route))
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_patterns", patterns)
        object.__setattr__(self, "_depth", max([1 + fixed.count("/") for fixed in patterns], default=0))

    @classmethod
    def of(cls, routes: Iterable[Route]) -> RouteTable:
        """Build from routes, in order of precedence; two equal matches raise :class:`ConfigurationError`."""
        listed = tuple(routes)
        seen: set[tuple[str, str]] = set()
        for route in listed:
            if (route.method, route.path) in seen:
                raise ConfigurationError(f"two routes match {route.match!r}")
            seen.add((route.method, route.path))
        return cls(listed)

    def find(self, method: str, path: str) -> Route:
        """The first matching route in the order given, else a default one. A GET route is for HEAD too.

        A method in small letters counts as the same one: some servers hand it on, and frameworks and HTTP clients
        write it in capitals before they act on it.
        """
        method = method.upper()
        found: tuple[int, Route] | None = None
        for index, wanted, route in self._exact.get(path, ()):
            if wanted in ("*", method) or (wanted == "GET" and method == "HEAD"):
                found = index, route
                break
        end = 0
        for _ in range(self._depth):
            for index, wanted, pattern, route in self._patterns.get(path[:end], ()):
                if found is not None and found[0] < index:
                    break
                if (wanted in {"*", method} or (wanted == "GET" and method == "HEAD")) and pattern.match(path):
                    found = index, route
                    break
            end = path.find("/", end + 1)
            if end < 0:
                break
        return found[1] if found is not None else DEFAULT_ROUTE

    def ways_around(self) -> list[tuple[Route, Route]]:
        """Routes that cost something, each with one that costs nothing and whose pattern takes in their paths too.

        What is meant for the first may then pass by the second, under a spelling that the application reads alike: a
        slash at the end, ``%2F``, capital letters.
        """
        free = [(_compile(route.path), route) for route in self.routes if "*" in route.path and not route.is_priced]
        return [
            (route, wider)
            for route in self.routes
            for pattern, wider in free
            if route.is_priced
            and (wider.method in {"*", route.method} or route.method == "*")
            and pattern.match(route.path)
        ]


def _compile(path: str) -> re.Pattern[str]:
    wild = {"**": ".*", "*": "[^/]+"}
    pieces = re.split(r"(\*\*|\*)", path)
    return re.compile(r"\A" + "".join(wild.get(piece) or re.escape(piece) for piece in pieces) + r"\Z", re.DOTALL)
