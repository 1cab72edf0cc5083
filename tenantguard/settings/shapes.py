"""The tables of a settings file, one strict model each: no unknown key, no other type, nothing converted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from tenantguard.adapters.identity.keys import read_hash
from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.flow.http import BODY_LIMIT_BYTES
from tenantguard.model.money import Amount
from tenantguard.model.price import UnknownModel, parse_rate
from tenantguard.model.rate import Rate
from tenantguard.model.route import Dialect, OnDisconnect, OnMissingUsage, Route, Success
from tenantguard.model.sections import Period, RedactRequest, RedactResponse, Scope
from tenantguard.model.tenant import Role, TenantId
from tenantguard.rules.placeholders import KEY_BYTES_MIN
from tenantguard.rules.usage import DECODERS
from tenantguard.settings.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic_core import ErrorDetails

    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path

_QUOTED: Final = re.compile(r"'([^']*)'")
_TYPES: Final = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
}


class _UnknownNameError(ValueError):
    """A name that nothing has, and perhaps the one that was meant."""

    def __init__(self, message: str, suggestion: str | None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def _text(parse: Callable[[str], Any]) -> PlainValidator:
    """Text that ``parse`` reads; what it raises is told as it stands."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"must be text in quotes, is {kind_of(value)}")  # noqa: TRY004 - pydantic's contract
        try:
            return parse(value)
        except (ConfigurationError, BadRequestError) as wrong:
            raise ValueError(str(wrong)) from None

    return PlainValidator(read)


def _ledger_uri(text: str) -> str:
    if text != "memory://" and not (text.startswith("sqlite:///") and text != "sqlite:///"):
        raise ConfigurationError("must be 'sqlite:///<path>' or 'memory://' (which forgets everything at exit)")
    return text


def _limits_uri(text: str) -> str:
    if text != "memory://":
        raise ConfigurationError("must be 'memory://': no other store of limits is built yet")
    return text


def _decoder(text: str) -> str:
    if text not in DECODERS:
        known = f"known are {', '.join(sorted(DECODERS))}"
        raise _UnknownNameError(f"there is no usage decoder {text!r}", did_you_mean(text, DECODERS) or known)
    return text


def _match(text: str) -> str:
    return Route(text).match


def _key_hash(text: str) -> str:
    read_hash(text)
    return text


_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
_TenantId: TypeAlias = Annotated[TenantId, _text(TenantId)]
_Rate: TypeAlias = Annotated[Rate, _text(Rate.parse)]
_Amount: TypeAlias = Annotated[Amount, _text(Amount.parse)]
_TokenRate: TypeAlias = Annotated[Amount, _text(parse_rate)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=3600)]
_Count: TypeAlias = Annotated[int, Field(ge=1, le=2**53)]


class Shape(BaseModel):
    """One table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class GuardShape(Shape):
    """``[guard]``: stores, the stack, and the guard's own bounds."""

    ledger: Annotated[str, _text(_ledger_uri)] | None = None
    limits: Annotated[str, _text(_limits_uri)] = "memory://"
    layers: list[_Name] | None = Field(None, min_length=1)
    body_limit: _Count = BODY_LIMIT_BYTES
    drain_s: _Seconds = 30.0
    drains_max: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    return_wait_s: _Seconds = 10.0


class TenancyShape(Shape):
    """``[tenancy]``: where tenants come from; ``fallback`` names the policy of tenants without one of their own."""

    sources: list[_Name] = Field(["api-key"], alias="from", min_length=1)
    required: bool = True
    trust_headers: bool = False
    mode: Literal["strict", "single"] = "strict"
    fallback: _Name | None = None
    keys: list[Any] = Field([], repr=False)


class KeyShape(Shape):
    """``[[tenancy.keys]]``: the hash of an API key, the public id under which it is audited, and whose it is."""

    id: _Name
    tenant: _TenantId
    hash: Annotated[str, _text(_key_hash)]
    role: Annotated[Role, Field(strict=False)] = Role.EDITOR


class RouteShape(Shape):
    """``[[routes]]``: the fields of :class:`~tenantguard.model.route.Route`."""

    match: Annotated[str, _text(_match)]
    name: _Name | None = None
    usage: Annotated[str, _text(_decoder)] | None = None
    max_output: _Count | None = None
    dialect: Annotated[Dialect, Field(strict=False)] | None = None
    success: Annotated[Success, Field(strict=False)] = Success.ENDED
    on_missing_usage: Annotated[OnMissingUsage, Field(strict=False)] | None = None
    on_disconnect: Annotated[OnDisconnect, Field(strict=False)] | None = None
    price: _Amount | None = None
    unit: _Name | None = None
    unit_price: _Amount | None = None
    max_units: _Count | None = None
    public: bool = False


class PriceShape(Shape):
    """``[prices."model"]`` and ``[pricing.default]``: four rates, none of them derived from another."""

    input: _TokenRate
    output: _TokenRate
    cache_read: _TokenRate
    cache_write: _TokenRate


class PricingShape(Shape):
    """``[pricing]``: what becomes of models without a price."""

    unknown_model: Annotated[UnknownModel, Field(strict=False)] = UnknownModel.REFUSE
    default: Any = None


class RedactionShape(Shape):
    """``[redaction]``: the secret from which placeholders are derived; the same one for all processes."""

    key: Annotated[str, Field(min_length=KEY_BYTES_MIN)] | None = Field(None, repr=False)
    key_file: _Name | None = None


class ProxyShape(Shape):
    """``[proxy]``: what the reverse proxy does with requests that no route names; they have no price."""

    unknown_routes: Literal["refuse", "forward"] = "refuse"


class PolicyShape(Shape):
    """``[policies.<tenant>]``, its sections aside."""

    inherit: _Name | None = None


class RateShape(Shape):
    """One element of ``rate``."""

    limit: _Rate
    scope: Annotated[Scope, Field(strict=False)] = Scope.TENANT


class BudgetShape(Shape):
    """One element of ``budget``."""

    limit: _Amount
    per: Annotated[Period, Field(strict=False)]
    scope: Annotated[Scope, Field(strict=False)] = Scope.TENANT


class RedactShape(Shape):
    """``redact``."""

    request: Annotated[RedactRequest, Field(strict=False)] = RedactRequest.REPLACE
    response: Annotated[RedactResponse, Field(strict=False)] = RedactResponse.REPLACE
    entities: list[_Name] = []
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.4


S = TypeVar("S", bound=Shape)


def check(
    document: Document,
    shape: type[S],
    value: object,
    path: Path,
    *,
    known: Iterable[str] | None = None,
    partly: bool = False,
) -> S | None:
    """``value`` as that shape, or None after all that is wrong with it was noted.

    ``known`` are the keys to suggest in place of an unknown one, the shape's own by default. ``partly``: where some
    keys are wrong the others are still read; only for a shape that requires none.
    """
    if not isinstance(value, dict):
        document.problem(path, f"must be a table, is {kind_of(value)}")
        return None
    try:
        return shape.model_validate(value)
    except ValidationError as invalid:
        keys = sorted(known or (field.alias or name for name, field in shape.model_fields.items()))
        for error in invalid.errors(include_url=False):
            document.problem((*path, *error["loc"]), *_explain(error, keys))
        if not partly:
            return None
        wrong = {error["loc"][0] for error in invalid.errors(include_url=False)}
        return shape.model_validate({key: inner for key, inner in value.items() if key not in wrong})


def kind_of(value: object) -> str:
    """What TOML calls a value of this kind; never the value itself, which may be a secret."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def _explain(error: ErrorDetails, known: list[str]) -> tuple[str, str | None]:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return "unknown key", did_you_mean(name, known) or f"known are {', '.join(known)}"
    if kind == "missing":
        return "is missing", None
    if kind in _TYPES:
        remedy = None
        if isinstance(value, str):
            remedy = "write it in [brackets]" if kind == "list_type" else "write it without quotes"
        return f"must be {_TYPES[kind]}, is {kind_of(value)}", remedy
    if kind in {"enum", "literal_error"}:
        expected = str(context["expected"])
        meant = did_you_mean(value, _QUOTED.findall(expected)) if isinstance(value, str) else None
        return f"must be {expected}", meant
    if kind == "value_error":
        return str(context["error"]), getattr(context["error"], "suggestion", None)
    return error["msg"].replace("Input should", "must").replace("String should", "must"), None
