"""A flow resumed for as long as its questions are answered at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.errors import PortError
from tenantguard.flow.effects import CALL_APP, COMPUTE_IN_PLACE_BYTES, Compute, compute
from tenantguard.flow.ports import PortEffect
from tenantguard.flow.walk import begin, is_awaited, walk
from tenantguard.testing import memory_ports

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.ports import Ports

PORTS = memory_ports()


class Tell(PortEffect[Any]):
    """A port that answers with what it is given, or fails with it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def perform(self, ports: Ports) -> Any:
        assert ports is PORTS
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def start(flow: Flow[Any]) -> Any:
    return walk(flow, flow.send(None), PORTS)


def test_what_ports_answer_at_once_is_answered_and_the_application_is_the_drivers() -> None:
    seen: list[object] = []

    def flow() -> Flow[None]:
        seen.append((yield from Tell(1)))
        seen.append((yield from Tell(None)))
        yield CALL_APP

    assert start(flow()) is CALL_APP
    assert seen == [1, None]


def test_an_answer_that_comes_later_is_handed_to_the_driver() -> None:
    promise = LedgerPromise(deadline_s=1.0)

    async def later() -> None:
        """Never awaited."""

    coroutine = later()
    for answer in (promise, coroutine):

        def flow(answer: object = answer) -> Flow[None]:
            yield from Tell(answer)

        assert start(flow()) is answer
        assert is_awaited(answer)
    coroutine.close()
    assert not is_awaited(None)
    assert not is_awaited((1, 2))


def test_a_promise_that_is_kept_already_is_answered_at_once() -> None:
    """Also one that another promise answered, and one that was broken: its failure is the flow's."""
    kept, turn, broken = (LedgerPromise(deadline_s=1.0) for _ in range(3))
    kept.keep(7)
    turn.keep(kept)
    broken.fail(PortError("ledger", "down"))
    seen: list[object] = []

    def flow() -> Flow[None]:
        seen.append((yield from Tell(kept)))
        seen.append((yield from Tell(turn)))
        with pytest.raises(PortError):
            yield from Tell(broken)
        yield CALL_APP

    assert start(flow()) is CALL_APP
    assert seen == [7, 7]


def test_of_a_promise_that_another_answers_the_driver_waits_for_that() -> None:
    turn, later = LedgerPromise(deadline_s=1.0), LedgerPromise(deadline_s=1.0)
    turn.keep(later)

    def flow() -> Flow[None]:
        yield from Tell(turn)

    assert start(flow()) is later


def test_what_a_port_raises_is_raised_in_the_flow() -> None:
    def flow() -> Flow[str]:
        try:
            yield from Tell(PortError("store", "down"))
        except PortError as failure:
            return failure.port
        return "no failure"

    with pytest.raises(StopIteration) as ended:
        start(flow())
    assert ended.value.value == "store"


def test_small_work_is_done_in_place_and_what_it_raises_is_the_flows() -> None:
    def flow() -> Flow[tuple[int, str]]:
        answer = yield from compute(partial(int, "7"), COMPUTE_IN_PLACE_BYTES)
        try:
            yield from compute(partial(int, "x"), 0)
        except ValueError as failure:
            return answer, type(failure).__name__
        return answer, "no failure"

    with pytest.raises(StopIteration) as ended:
        start(flow())
    assert ended.value.value == (7, "ValueError")


def test_large_work_is_the_drivers() -> None:
    asked = start(compute(partial(int, "7"), COMPUTE_IN_PLACE_BYTES + 1))
    assert isinstance(asked, Compute)


def test_a_resolvers_flow_that_never_waits_is_over_when_it_has_begun() -> None:
    def flow() -> Flow[None]:
        yield from Tell(1)

    def waiting() -> Flow[None]:
        yield CALL_APP

    assert begin(flow(), PORTS) is None
    assert begin(waiting(), PORTS) is CALL_APP
