"""The words of slot stores: what is asked for, and what comes of it."""

from __future__ import annotations

from enum import StrEnum

from tenantguard.model.frozen import frozen


@frozen
class SlotClaim:
    """One of the ``limit`` slots of ``key``, or a place in its queue.

    ``key`` is made as a bucket's (:func:`~tenantguard.rules.bucket.bucket_key`). Of one owner at most ``queue`` wait
    for it at a time, each for ``wait_ns`` at most; with ``queue`` 0 nobody does. Where owners wait for one shared
    slot, they are served in proportion to ``weight``. A new ``limit`` counts at once, for those who wait too.
    """

    key: str
    limit: int
    queue: int = 0
    wait_ns: int = 0
    weight: int = 1


@frozen
class Entered:
    """Every claim has its slot until it is left, or its store has not heard of its process for a lease.

    ``fence`` grows with every entering of a store: whoever wrote something under a lower one of the same key may have
    lost its slot since. ``degraded``: a shared store could not be asked in time, and this was decided as ``on_error``
    says; its fence is 0.
    """

    fence: int
    waited_ns: int = 0
    degraded: bool = False


class NotEntered(StrEnum):
    """Why no slot was given.

    None is free and the claim lets nobody wait; the queue is full; the request's own deadline would pass first, as
    things stand; nothing came free in the time that was waited; or the id was ended before.
    """

    FULL = "full"
    QUEUE_FULL = "queue_full"
    DEADLINE = "deadline"
    WAITED = "waited"
    ENDED = "ended"


@frozen
class Crowded:
    """No slot is held. ``failing``: indexes of the claims that had no room.

    ``retry_after_ns`` is a guess of when there will be some, from how long those who hold the slots have had them;
    None where there is nothing to guess from. Stores may guess differently.
    """

    reason: NotEntered
    failing: tuple[int, ...]
    retry_after_ns: int | None = None
    degraded: bool = False


@frozen
class Standing:
    """One that holds (``holds``) or waits for a slot of ``key``, and for how long, for operators."""

    key: str
    owner: str
    id: bytes
    holds: bool
    for_ns: int
