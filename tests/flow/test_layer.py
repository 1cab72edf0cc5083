"""Composition: order, the facts that layers need and leave, and layers made of functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.effects import Ask, CallApp, Compute, ReadBody, ask, compute
from tenantguard.flow.http import Ending, Outcome, Response
from tenantguard.flow.layer import call_app, check, layer_name, observe, stack
from tenantguard.model.decision import Deny
from tenantguard.testing import Script, make_exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.layer import Layer


@dataclass(frozen=True)
class Colour:
    name: str = "red"


class Passing:
    def __init__(self, name: str = "passing") -> None:
        self.name = name

    def handle(self, exchange: Any, proceed: Any) -> Any:
        response = yield from proceed(exchange)
        response.headers.add("x-passed", self.name)
        return response


class Leaves(Passing):
    provides = (Colour,)


class Needs(Passing):
    requires = (Colour,)


def test_a_stack_runs_outermost_first_and_unwinds_innermost_first() -> None:
    script = Script(stack([Passing("a"), Passing("b"), Passing("c")])(make_exchange()))
    assert isinstance(script.effect, CallApp)
    script.answer(Response(200))
    assert script.result.headers.all("x-passed") == ["c", "b", "a"]


def test_an_empty_stack_calls_the_application() -> None:
    script = Script(stack([])(make_exchange()))
    assert repr(script.effect) == "CallApp()"
    response = Response(204)
    script.answer(response)
    assert script.result is response


def test_a_stack_may_end_in_another_handler() -> None:
    def canned(exchange: Any) -> Any:
        return Response(418)
        yield

    script = Script(stack([Passing()], innermost=canned)(make_exchange()))
    assert (script.done, script.result.status) == (True, 418)


def test_one_stack_serves_many_exchanges_at_a_time() -> None:
    handler = stack([Passing("a")])
    scripts = [Script(handler(make_exchange())) for _ in range(3)]
    for number, script in enumerate(scripts):
        script.answer(Response(200 + number))
    assert [script.result.status for script in scripts] == [200, 201, 202]


def test_a_layer_that_needs_a_fact_from_further_in_is_refused_and_both_are_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        stack([Needs("rate"), Passing(), Leaves("tenant")])
    assert str(caught.value) == "rate needs Colour, which tenant provides only further in: put tenant before rate"


def test_a_layer_that_needs_a_fact_that_nobody_leaves_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rate needs Colour, and no layer before it provides that"):
        stack([Passing(), Needs("rate")])


def test_a_layer_may_need_what_it_provides_itself_only_from_further_out() -> None:
    class Both(Passing):
        requires = (Colour,)
        provides = (Colour,)

    with pytest.raises(ConfigurationError):
        stack([Both("both")])
    stack([Leaves(), Both()])


@given(st.lists(st.sampled_from([Leaves, Needs, Passing]), max_size=6))
def test_exactly_the_orders_that_work_are_accepted(kinds: list[Callable[[], Layer]]) -> None:
    left = False
    works = True
    for kind in kinds:
        works = works and (kind is not Needs or left)
        left = left or kind is Leaves
    layers = [kind() for kind in kinds]
    if works:
        stack(layers)
    else:
        with pytest.raises(ConfigurationError):
            stack(layers)


@pytest.mark.parametrize(
    "broken",
    [
        object(),
        type("Plain", (), {"handle": lambda self, exchange, proceed: proceed(exchange)})(),
        type("Async", (), {"handle": staticmethod(lambda: None)})(),
    ],
)
def test_what_is_no_layer_is_refused_by_name(broken: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{type(broken).__name__} is no layer"):
        stack([broken])


def test_an_async_handle_is_refused() -> None:
    class Async:
        async def handle(self, exchange: Any, proceed: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="Async is no layer"):
        stack([Async()])  # type: ignore[list-item]


def test_a_class_in_the_place_of_a_layer_is_refused_as_long_as_it_has_no_handle() -> None:
    with pytest.raises(ConfigurationError):
        stack([int])  # type: ignore[list-item]


def test_a_layer_is_called_by_its_name_or_its_class() -> None:
    assert layer_name(Passing("mine")) == "mine"
    assert layer_name(object()) == "object"


def test_call_app_is_the_innermost_handler() -> None:
    assert isinstance(Script(call_app(make_exchange())).effect, CallApp)


# --- @check ---


@pytest.mark.parametrize("answer", [True, False, Response(403)])
def test_a_check_that_answers_neither_a_denial_nor_none_is_its_authors_fault(answer: Any) -> None:
    @check
    def wrong(exchange: Any) -> Any:
        return answer

    script = Script(wrong.handle(make_exchange(), call_app))
    with pytest.raises(LayerError, match="wrong must return a Deny or None"):
        script.answer(answer)


DENIAL = Deny("door", "door.closed", 403, "Closed.")


def test_a_check_lets_on() -> None:
    @check
    def door(exchange: Any) -> Deny | None:
        return None

    exchange = make_exchange()
    script = Script(stack([door])(exchange))
    question = script.effect
    assert isinstance(question, Ask)
    assert question.inline
    script.answer(question.call())
    assert isinstance(script.effect, CallApp)
    assert exchange.decisions == []


def test_a_check_refuses() -> None:
    @check
    def door(exchange: Any) -> Deny | None:
        return DENIAL

    exchange = make_exchange()
    script = Script(stack([door])(exchange))
    question = script.effect
    assert isinstance(question, Ask)
    script.answer(question.call())
    assert script.result.status == 403
    assert exchange.decisions == [DENIAL]
    assert layer_name(door) == "door"


def test_an_async_check_knows_that_it_cannot_run_under_wsgi() -> None:
    @check
    async def door(exchange: Any) -> Deny | None:
        return None

    @check
    def plain(exchange: Any) -> Deny | None:
        return None

    assert getattr(door, "asynchronous", None) is True
    assert getattr(plain, "asynchronous", None) is False


# --- @observe ---


def test_an_observer_hears_the_outcome_with_its_exchange() -> None:
    told: list[Any] = []

    @observe
    def tell(exchange: Any, outcome: Outcome) -> None:
        told.append((exchange, outcome))

    exchange = make_exchange()
    Script(stack([tell])(exchange)).answer(Response(200))
    outcome = Outcome(Ending.COMPLETED)
    for observer in exchange.observers:
        assert observer(outcome) is None
    assert told == [(exchange, outcome)]
    assert layer_name(tell) == "tell"


def test_an_async_observer_is_refused() -> None:
    async def tell(exchange: Any, outcome: Outcome) -> None: ...

    with pytest.raises(ConfigurationError, match="@observe takes a plain function, tell is async"):
        observe(tell)  # type: ignore[arg-type]


# --- effects ---


def test_effects_say_what_they_ask() -> None:
    def layer() -> Any:
        first = yield from ask(int)
        second = yield from ask(int, inline=True)
        third = yield from compute(int, 7)
        fourth = yield from ReadBody(9)
        return first, second, third, fourth

    script = Script(layer())
    assert script.effect == Ask(int, inline=False)
    assert script.answer(1) == Ask(int, inline=True)
    assert script.answer(2) == Compute(int, 7)
    assert script.answer(3) == ReadBody(9)
    script.answer(4)
    assert script.result == (1, 2, 3, 4)


def test_a_failing_effect_is_raised_in_the_layer() -> None:
    def layer() -> Any:
        try:
            yield from ask(int)
        except LayerError:
            return "caught"

    script = Script(layer())
    script.fail(LayerError("x"))
    assert script.result == "caught"
