"""Layers and how they compose: the protocol, ``stack`` with its order check, ``@check`` and ``@observe``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.effects import CALL_APP, Flow, ask
from tenantguard.model.decision import Deny

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome, Response

Handler: TypeAlias = "Callable[[Exchange], Flow[Response]]"


class Layer(Protocol):
    """Wraps everything further in.

    ``handle`` is a generator: it returns a response before ``proceed`` to answer by itself, or returns what
    ``proceed`` gave it. Optional class attributes, checked when a stack is built: ``requires`` and ``provides``
    (fact types), ``asynchronous`` (asks ``async def`` code, so it cannot run under WSGI).
    """

    def handle(self, exchange: Exchange, proceed: Handler, /) -> Flow[Response]:
        """Handle one exchange."""
        ...


def call_app(exchange: Exchange) -> Flow[Response]:
    """The innermost handler: the application itself."""
    exchange.called = True
    response: Response = yield CALL_APP
    return response


def stack(layers: Iterable[Layer], innermost: Handler = call_app) -> Handler:
    """Compose layers, outermost first, into one handler.

    Raises :class:`ConfigurationError` naming both layers where a layer needs a fact that only a layer further in
    provides, and naming the layer whose ``handle`` is not a generator function or whose fact nobody provides.
    """
    listed = list(layers)
    _check_order(listed)
    handler = innermost
    for layer in reversed(listed):
        handler = _bind(layer, handler)
    return handler


def _bind(layer: Layer, inner: Handler) -> Handler:
    handle = layer.handle

    def handler(exchange: Exchange) -> Flow[Response]:
        return handle(exchange, inner)

    return handler


def _check_order(layers: list[Layer]) -> None:
    provided_by: dict[type, str] = {}
    for position, layer in enumerate(layers):
        name = layer_name(layer)
        handle = getattr(layer, "handle", None)
        if handle is None or not inspect.isgeneratorfunction(handle):
            raise ConfigurationError(
                f"{name} is no layer: it needs a generator method handle(self, exchange, proceed) "
                "that returns (yield from proceed(exchange))",
            )
        for fact in getattr(layer, "requires", ()):
            if fact in provided_by:
                continue
            later = next((other for other in layers[position:] if fact in getattr(other, "provides", ())), None)
            if later is not None:
                raise ConfigurationError(
                    f"{name} needs {fact.__name__}, which {layer_name(later)} provides only further in: "
                    f"put {layer_name(later)} before {name}",
                )
            raise ConfigurationError(
                f"{name} needs {fact.__name__}, and no layer before it provides that: add one that does",
            )
        for fact in getattr(layer, "provides", ()):
            provided_by.setdefault(fact, name)


def layer_name(layer: object) -> str:
    """The name under which errors and decisions speak of a layer."""
    return str(getattr(layer, "name", None) or type(layer).__name__)


class _Check:
    def __init__(self, function: Callable[[Exchange], Deny | Awaitable[Deny | None] | None]) -> None:
        self.name = getattr(function, "__name__", "check")
        self.asynchronous = inspect.iscoroutinefunction(function)
        self._function = function

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        denial = yield from ask(cast("Any", lambda: self._function(exchange)), inline=True)
        if denial is not None:
            if not isinstance(denial, Deny):
                raise LayerError(f"{self.name} must return a Deny or None")
            return exchange.deny(denial)
        return (yield from proceed(exchange))


class _Observe:
    def __init__(self, function: Callable[[Exchange, Outcome], None]) -> None:
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"@observe takes a plain function, {function.__name__} is async")
        self.name = getattr(function, "__name__", "observe")
        self._function = function

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        exchange.observe(lambda outcome: self._function(exchange, outcome))
        return (yield from proceed(exchange))


def check(function: Callable[[Exchange], Deny | Awaitable[Deny | None] | None]) -> Layer:
    """Turn ``def f(exchange) -> Deny | None`` (or ``async def``) into a layer. It must not block for long."""
    return _Check(function)


def observe(function: Callable[[Exchange, Outcome], None]) -> Layer:
    """Turn ``def f(exchange, outcome) -> None`` into a layer that hears every outcome after the hand-off."""
    return _Observe(function)
