"""What must be known of a model call before it is made, and how its body is bounded before it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.model.usage import is_count
from tenantguard.rules.jsonedit import set_member


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a protocol calls things. The first of ``caps`` is the one that is written where a request has none."""

    caps: tuple[str, ...] = ()
    cap_least: int = 1
    several: bool = False
    reports_usage_on_demand: bool = False
    sensitive: frozenset[str] = field(default_factory=frozenset)


_SHAPES: Final = {
    "openai-chat": _Shape(
        caps=("max_completion_tokens", "max_tokens"),
        several=True,
        reports_usage_on_demand=True,
        sensitive=frozenset({"model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"}),
    ),
    "openai-embeddings": _Shape(sensitive=frozenset({"model"})),
    # 0 fills the provider's prompt cache and writes nothing
    "anthropic-messages": _Shape(
        caps=("max_tokens",),
        cap_least=0,
        sensitive=frozenset({"model", "stream", "max_tokens"}),
    ),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model as its request says it.

    ``caps`` are the explicit caps of the output, in tokens a choice, by the member that sets them; ``choices`` is how
    many answers are wanted. ``include_usage``: the caller asked a stream to report its usage.
    """

    model: str
    stream: bool = False
    caps: tuple[tuple[str, int], ...] = ()
    choices: int = 1
    include_usage: bool = False

    @property
    def output_cap(self) -> int | None:
        """The largest explicit cap (providers differ in which of several they obey), None where there is none."""
        return max((cap for _, cap in self.caps), default=None)


class Prepared(NamedTuple):
    """A body ready to be sent: the most tokens that all its choices together can put out, None for no bound.

    ``strip_usage``: the stream will report usage that the caller did not ask for.
    """

    body: bytes
    output_tokens: int | None
    strip_usage: bool


def read_call(decoder: str, body: Any) -> Call:
    """Read what the protocol of ``decoder`` says in a parsed body.

    :class:`BadRequestError` names the member whose type or value is impossible, or whose name differs from one that
    counts in nothing but case: some servers read both alike. :class:`ConfigurationError` for an unknown decoder.
    """
    shape = _shape(decoder)
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    for name in body:
        if name not in shape.sensitive and name.casefold() in shape.sensitive:
            raise BadRequestError(f"a member of the body must be written {name.casefold()!r}")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("model must be a non-empty string")
    if not shape.caps:
        return Call(model)
    caps = tuple(
        (name, cap) for name in shape.caps if (cap := _read_count(body, name, least=shape.cap_least)) is not None
    )
    choices = (_read_count(body, "n", least=1) or 1) if shape.several else 1
    include_usage = False
    if shape.reports_usage_on_demand:
        options = body.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise BadRequestError("stream_options must be an object")
        include_usage = _read_flag(options or {}, "include_usage")
    return Call(model, _read_flag(body, "stream"), caps, choices, include_usage)


def prepare(decoder: str, body: bytes, call: Call, max_output: int | None) -> Prepared:
    """Bound the output of ``call`` and make its stream report usage, in place.

    ``max_output`` is the route's cap in tokens a choice: written where the request has none, and in place of every
    explicit cap above it. Without either the body has no bound, and the caller of this function refuses it.
    """
    shape = _shape(decoder)
    if not shape.caps:
        return Prepared(body, 0, strip_usage=False)
    cap = call.output_cap
    if max_output is not None:
        if cap is None:
            body = set_member(body, (shape.caps[0],), max_output)
        for name, explicit in call.caps:
            if explicit > max_output:
                body = set_member(body, (name,), max_output)
        cap = max_output if cap is None else min(cap, max_output)
    strip_usage = shape.reports_usage_on_demand and call.stream and not call.include_usage
    if strip_usage:
        body = set_member(body, ("stream_options", "include_usage"), value=True)
    return Prepared(body, None if cap is None else cap * call.choices, strip_usage)


def _shape(decoder: str) -> _Shape:
    try:
        return _SHAPES[decoder]
    except KeyError:
        raise ConfigurationError(f"no usage decoder is called {decoder!r}: there are {', '.join(_SHAPES)}") from None


def _read_count(body: dict[str, Any], name: str, *, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not is_count(value) or value < least:
        raise BadRequestError(f"{name} must be a whole number of at least {least}")
    return int(value)


def _read_flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false")
    return value is True
