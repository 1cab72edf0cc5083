"""A flow resumed for as long as its questions are answered at once: what both drivers share of running one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from tenantguard.flow.effects import COMPUTE_IN_PLACE_BYTES, Compute, Promise
from tenantguard.flow.ports import PortEffect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.ports import Ports

Asked: TypeAlias = "Effect[Any] | Promise[Any] | Awaitable[Any]"
"""What a driver has to see to: an effect that no port answers, or what a port gave in place of an answer."""


def walk(flow: Flow[Any], effect: Effect[Any], ports: Ports) -> Asked:
    """Answer ``effect``, and what ``flow`` asks next, for as long as ports answer at once and work is small.

    Raises what ``flow`` raises: StopIteration where it returns. What a port raises is raised in ``flow``.
    """
    while True:
        try:
            if isinstance(effect, PortEffect):
                answer = effect.perform(ports)
            elif isinstance(effect, Compute) and effect.size <= COMPUTE_IN_PLACE_BYTES:
                answer = effect.call()
            else:
                return effect
            kind: Any = type(answer)
            while answer is not None and _comes_later(kind):  # in place, where a call of its own is felt
                if not isinstance(answer, Promise) or not answer.wait(0):
                    return cast("Asked", answer)
                answer = answer.result()
                kind = type(answer)
        except Exception as failure:  # noqa: BLE001 - the flow decides what a failure means
            effect = flow.throw(failure)
        else:
            effect = flow.send(answer)


def begin(flow: Flow[None], ports: Ports) -> Asked | None:
    """Start the flow of a resolver or an observer: what it asks first that has to be waited for, None at its end."""
    try:
        return walk(flow, flow.send(None), ports)
    except StopIteration:
        return None


def is_awaited(answer: object) -> TypeGuard[Promise[Any] | Awaitable[Any]]:
    """Whether an answer comes later."""
    kind: Any = type(answer)
    return answer is not None and _comes_later(kind)


@lru_cache(maxsize=256)
def _comes_later(kind: Any) -> bool:
    """By type, as ``await`` does: looking for a method that is not there costs more than remembering."""
    return issubclass(kind, Promise) or hasattr(kind, "__await__")
