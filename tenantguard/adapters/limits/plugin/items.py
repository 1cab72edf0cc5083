"""What `limits` asks for, in the words of a limit store: from an item and its identifiers to a take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from limits.limits import RateLimitItemPerSecond, safe_string

from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Take, TakeTokens
from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, Rate, parse_rate
from tenantguard.rules.bucket import bucket_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from limits import RateLimitItem

    from tenantguard.model.sections import OnError

NAMESPACE: Final = "LIMITER"
"""What `limits` calls the namespace of an item that has none."""

_COMMANDS_MAX: Final = 16_384


class TokenBucketItem(RateLimitItemPerSecond):
    """A rate as an item of `limits`: ``amount`` units in ``multiples`` seconds, at most ``burst`` at once.

    Its buckets are called by namespace, period and identifiers, and not by its amount: a limit that is raised or
    lowered goes on with them as they are. So two such limits with one period need different namespaces.
    """

    __slots__ = ["burst", "identity"]

    def __init__(self, rate: Rate, namespace: str = NAMESPACE) -> None:
        seconds, rest = divmod(rate.period_ns, NANOS_PER_SECOND)
        if rest:
            raise ValueError("an item of limits counts whole seconds: give the rate a period of those")
        super().__init__(rate.amount, seconds, namespace)
        self.burst = rate.burst
        self.identity = (namespace, self.amount, self.multiples, self.burst)

    def key_for(self, *identifiers: bytes | str | float) -> str:
        """The key of its bucket."""
        return _key(identifiers, "item", self.namespace, f"{self.multiples}s")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenBucketItem) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        return f"{super().__repr__()} burst {self.burst}"


def parse(text: str, namespace: str | None = None) -> TokenBucketItem:
    """Read ``"100/minute burst 200"``, ``"1.5/second"``, ``"10/week"``, ``"100000 tokens/minute"`` as an item.

    The notation is that of :func:`~tenantguard.model.rate.parse_rate`. A unit that is named is the namespace, unless
    another is given. ``ValueError`` as `limits` raises it, for what cannot be read.
    """
    try:
        rate, unit = parse_rate(text)
    except ConfigurationError as failed:
        raise ValueError(str(failed)) from None
    return TokenBucketItem(rate, namespace or (NAMESPACE if unit == REQUESTS else unit))


class Commands:
    """What hits ask of a store, remembered where it was asked lately. ``bursts`` are those of plain items."""

    def __init__(self, bursts: Iterable[str], on_error: OnError) -> None:
        self._bursts: dict[tuple[int, int], int] = {}
        for text in bursts:
            item = parse(text)
            self._bursts[item.amount, item.get_expiry()] = item.burst
        self.on_error = on_error
        self._known: dict[Hashable, TakeTokens] = {}

    def of(self, item: RateLimitItem, identifiers: tuple[str, ...], cost: int) -> TakeTokens | None:
        """One take, final at once; None where the item lets nothing through. ``ValueError`` for a negative cost."""
        known: Hashable
        if isinstance(item, TokenBucketItem):
            known = (item.identity, cost, identifiers)
        else:
            known = (item.__class__, item.namespace, item.amount, item.multiples, cost, identifiers)
        command = self._known.get(known)
        if command is not None:
            return command
        if cost < 0:
            raise ValueError("a cost is 0 or more: a negative one would mint units")
        if item.amount < 1:
            return None
        command = TakeTokens(None, (Take(*self._bucket(item, identifiers), cost),), self.on_error)
        if all(type(part) is str for part in identifiers):  # 1, 1.0 and True are equal, and their texts are not
            if len(self._known) >= _COMMANDS_MAX:
                self._known.clear()
            self._known[known] = command
        return command

    def _bucket(self, item: RateLimitItem, identifiers: tuple[str, ...]) -> tuple[str, Rate]:
        seconds = item.get_expiry()
        if isinstance(item, TokenBucketItem):
            return item.key_for(*identifiers), Rate(item.amount, seconds * NANOS_PER_SECOND, item.burst)
        burst = self._bursts.get((item.amount, seconds), item.amount)
        limit = f"{item.amount}/{item.multiples} {item.GRANULARITY.name}"
        return _key(identifiers, "limit", item.namespace, limit), Rate(item.amount, seconds * NANOS_PER_SECOND, burst)


def _key(identifiers: tuple[bytes | str | float, ...], *rest: str) -> str:
    """A bucket's key: its owner is the first identifier, so that a cluster spreads buckets by it.

    Whatever stands in an identifier, two different lists of them never share a bucket.
    """
    if not identifiers:
        return bucket_key("limits", *rest)
    first, *others = [safe_string(identifier) for identifier in identifiers]
    return bucket_key(f"limits:{first}", *rest, *others)
