"""What must be known of a call to a model before it is made, and how its body is bounded before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

from tenantguard.errors import BadRequestError
from tenantguard.model.frozen import frozen
from tenantguard.model.usage import is_count
from tenantguard.rules.jsonedit import add_member, set_member
from tenantguard.rules.requests.shapes import CAPS, plain, shape_of

if TYPE_CHECKING:
    from tenantguard.rules.requests.shapes import Shape

_IDS: Final = frozenset({"id", "rid", "requestid", "responseid"})


@frozen
class Call:
    """One call of a model as its request says it.

    ``caps`` are the explicit caps of the output, in tokens a choice, by the member that sets them (dotted where it
    stands in an object inside the body); ``choices`` is how many answers are wanted. ``include_usage``: the caller
    asked a stream to report its usage. ``service_tier`` is the one that the call can be billed at beside the standard
    one, None where that is not known. ``names_response``: the request says an id, which some servers (vLLM, SGLang)
    give the response.
    """

    model: str
    stream: bool = False
    caps: tuple[tuple[str, int], ...] = ()
    choices: int = 1
    include_usage: bool = False
    service_tier: str | None = None
    names_response: bool = False

    @property
    def output_cap(self) -> int | None:
        """The largest explicit cap (providers differ in which of several they obey), None where there is none."""
        return max([cap for _, cap in self.caps]) if self.caps else None


class Prepared(NamedTuple):
    """A body ready to be sent: the most tokens that all its choices together can put out, None for no bound.

    ``strip_usage``: the stream will report usage that the caller did not ask for.
    """

    body: bytes
    output_tokens: int | None
    strip_usage: bool


def read_call(decoder: str, body: Any, path: str = "") -> Call:
    """Read what the protocol of ``decoder`` says in a parsed body, and in the ``path`` of the URL.

    :class:`BadRequestError` names the member whose type or value is impossible, or what is spelled unlike a member
    that counts. :class:`ConfigurationError` for an unknown decoder.
    """
    shape = shape_of(decoder)
    if not isinstance(body, dict):
        raise BadRequestError("the body must be an object")
    names_response = _refuse_spellings(body, shape)
    for name in shape.parents:
        _refuse_spellings(_object(body, name), shape)
    if shape.passed_on is not None:
        _refuse_caps(_object(body, shape.passed_on), shape.passed_on)
    way = None
    model = body.get("model")
    if shape.path is not None:
        found = shape.path.search(path)
        if found is None:
            raise BadRequestError("the URL is none of those that this route can price")
        way = found["call"]
        model = unquote(found["model"]) if shape.model_in_path else model
    if not isinstance(model, str) or not model:
        raise BadRequestError("model must be a non-empty string")
    if not shape.bounds_output:
        return Call(model)
    caps = tuple(
        [
            (".".join(place), cap)
            for place in shape.caps
            if (cap := _read_cap(body, place, shape.cap_least)) is not None
        ]
    )
    choices = _read_cap(body, shape.several, 1) if shape.several is not None else None
    stream = way in shape.streams if shape.streams else _read_flag(body, "stream", default=shape.stream_default)
    asks = False
    if shape.reports_usage_on_demand and body.get("stream_options") is not None:
        asks = _read_flag(_object(body, "stream_options"), "include_usage", default=False)
    return Call(model, stream, caps, choices or 1, asks, shape.tier(body), names_response)


def caps_output(decoder: str) -> bool:
    """Whether the protocol has an output cap at all, which can be lowered."""
    return bool(shape_of(decoder).caps)


def prepare(decoder: str, body: bytes, parsed: dict[str, Any], call: Call, max_output: int | None) -> Prepared:
    """Bound the output of ``call`` and make its stream report usage, in place. ``parsed`` was read from ``body``.

    ``max_output`` is the route's cap in tokens a choice: written where the request has none, and in place of every
    explicit cap above it. Without either the body has no bound, and the caller of this function refuses it. Where
    the protocol has no cap, nothing is written, and ``max_output`` is only what is believed.
    """
    shape = shape_of(decoder)
    if not shape.bounds_output:
        return Prepared(body, 0, strip_usage=False)
    cap = call.output_cap
    if max_output is not None:
        if cap is None and not shape.uncapped:
            body = add_member(body, parsed, shape.caps[0], max_output)
        for name, explicit in call.caps:
            if explicit > max_output:
                body = set_member(body, tuple(name.split(".")), max_output)
        cap = max_output if cap is None else min(cap, max_output)
    strip_usage = shape.reports_usage_on_demand and call.stream and not call.include_usage
    if strip_usage:
        body = add_member(body, parsed, ("stream_options", "include_usage"), value=True)
    return Prepared(body, None if cap is None else cap * call.choices, strip_usage)


def _refuse_spellings(parent: dict[str, Any], shape: Shape) -> bool:
    """Refuse what a lenient server may take for a member that counts. Tells whether one of the others is an id."""
    says_id = False
    sensitive, spellings = shape.sensitive, shape.spellings
    for name in parent:
        if name not in sensitive:
            read = plain(name)
            meant = spellings.get(read)
            if meant is None:
                says_id = says_id or read in _IDS
                continue
            if meant in shape.refused:
                raise BadRequestError(f"{meant} has no price and no bound here: leave it out")
            raise BadRequestError(f"a member of the body must be written {meant!r}")
    return says_id


def _refuse_caps(passed_on: dict[str, Any], where: str) -> None:
    left: list[Any] = [passed_on]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            if any(plain(name) in CAPS for name in value):
                raise BadRequestError(f"{where} must not say how much is put out: use the protocol's own member")
            left += value.values()


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{name} must be an object")
    return value


def _read_cap(body: dict[str, Any], place: tuple[str, ...], least: int) -> int | None:
    for parent in place[:-1]:
        body = _object(body, parent)
    name = place[-1]
    value = body.get(name)
    if value is None or (least == 0 and type(value) is int and value < 0):  # Ollama's -1 and -2: without end
        return None
    if not is_count(value) or value < least:
        raise BadRequestError(f"{name} must be a whole number of at least {least}")
    return int(value)


def _read_flag(body: dict[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false")
    return value
