"""The tables of a settings file, one strict model each: no unknown key, no other type, nothing converted."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from tenantguard.adapters.identity.keys import read_hash
from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.flow.http import BODY_LIMIT_BYTES
from tenantguard.model.concurrency import SLOTS_MAX, WEIGHT_MAX, WhenFull
from tenantguard.model.ledger import UNITS_MAX, Counted, OnOrphan
from tenantguard.model.money import Amount, known_currency
from tenantguard.model.period import Period, PeriodError
from tenantguard.model.price import UnknownModel, parse_rate
from tenantguard.model.pricing_section import parse_percent
from tenantguard.model.rate import Rate
from tenantguard.model.rate import parse_rate as parse_rate_and_unit
from tenantguard.model.redact_section import OnError as RedactOnError
from tenantguard.model.redact_section import OperatorKind, Parity, SecretAction, Unknown
from tenantguard.model.route import (
    DEFAULT_ROUTE,
    Dialect,
    Idempotency,
    OnDisconnect,
    OnMissingUsage,
    Route,
    Success,
)
from tenantguard.model.sections import (
    PERCENT_MAX,
    Combine,
    Mode,
    OnError,
    Scope,
    Signals,
    Strategy,
)
from tenantguard.model.tenant import Role, TenantId
from tenantguard.rules.placeholders import KEY_BYTES_MIN
from tenantguard.rules.rates import RateTable
from tenantguard.rules.usage import DECODERS, UnitSource
from tenantguard.settings.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic_core import ErrorDetails

    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path

SQLITE: Final = "sqlite:///"
POSTGRES: Final = "postgresql://"
_REDIS_URI: Final = re.compile(
    r"\A(?P<scheme>(?:redis|valkey)(?P<kind>s|\+unix|\+sentinel|\+cluster)?://)(?:[^\s/?#@]*@)?(?P<place>[^\s?#@]+)"
    r"(?:\?\S*)?\Z"
)

UNIT_SOURCES: Final = ("header:", "json:")
"""How ``usage`` begins where it says where a response has its units, rather than names a function that reads them."""

_QUOTED: Final = re.compile(r"'([^']*)'")
_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#@,\[\]]*)(?::[0-9]{1,5})?"
_POSTGRES_URI: Final = re.compile(
    rf"\A{POSTGRES}(?:(?P<user>[^\s:/?#@]*)(?::[^\s:/?#@]*)?@)?(?P<host>{_HOST}(?:,{_HOST})*)(?P<name>/[^\s/?#@]+)"
    r"(?:\?[^\s#@]*)?\Z"
)
_REDIS_PLACES: Final = {
    "": re.compile(rf"\A{_HOST}(?:/[0-9]{{0,9}})?\Z"),
    "s": re.compile(rf"\A{_HOST}(?:/[0-9]{{0,9}})?\Z"),
    "+unix": re.compile(r"\A/"),
    "+sentinel": re.compile(rf"\A{_HOST}(?:,{_HOST})*/[^/]+\Z"),
    "+cluster": re.compile(rf"\A{_HOST}(?:,{_HOST})*/?\Z"),
}
_PORT: Final = re.compile(r":([0-9]{1,5})(?=[,/]|\Z)")
_PORT_MAX: Final = 65_535
_HEADER: Final = re.compile(r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")  # a token, RFC 9110 5.6.2
_UNQUOTED: Final = re.compile(r"\A(?:true|false|-?[0-9][0-9_]*(?:\.[0-9]+)?)\Z")
_DECIMAL: Final = re.compile(r"\A[0-9]{1,10}(?:\.[0-9]{1,9})?\Z")
_TYPES: Final = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
}


class _MistakenError(ValueError):
    """A value that cannot be, and perhaps what was meant, or what to write instead."""

    def __init__(self, message: str, suggestion: str | None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def _text(parse: Callable[[str], Any], example: str | None = None) -> PlainValidator:
    """Text that ``parse`` reads; what it raises is told as it stands. ``example`` is for what is no text."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            remedy = None if example is None else f'write for example "{example}"'
            raise _MistakenError(f"must be text in quotes, is {kind_of(value)}", remedy)
        try:
            return parse(value)
        except (ConfigurationError, BadRequestError) as wrong:
            raise ValueError(str(wrong)) from None

    return PlainValidator(read)


def _ledger_uri(text: str) -> str:
    if text.startswith(POSTGRES):
        found = _POSTGRES_URI.match(text)
        if found is None or not _has_ports(found["host"]):
            raise ConfigurationError(
                "must be 'postgresql://<user>:<password>@<host>/<database>'; in a name or password '@' is written "
                "'%40', and likewise ':' '%3A', '/' '%2F', '?' '%3F', '#' '%23' and '%' '%25'"
            )
    elif text != "memory://" and not (text.startswith(SQLITE) and text != SQLITE):
        raise ConfigurationError(
            "must be 'sqlite:///<path>', 'postgresql://<user>:<password>@<host>/<database>' or 'memory://' (which "
            "forgets everything at exit)"
        )
    return text


def shown_ledger(uri: str) -> str:
    """A ledger's URI as it may be shown and logged: without a password, and without the options that may hold one."""
    found = _POSTGRES_URI.match(uri)
    if found is None:
        return POSTGRES if uri.startswith(POSTGRES) else uri
    user = f"{found['user']}@" if found["user"] else ""
    return f"{POSTGRES}{user}{found['host']}{found['name']}"


def _limits_uri(text: str) -> str:
    found = _REDIS_URI.match(text)
    place = "" if found is None else found["place"]
    known = found is not None and _REDIS_PLACES[found["kind"] or ""].match(place) and _has_ports(place)
    if text != "memory://" and not known:
        raise ConfigurationError(
            "must be 'memory://', or of Redis 'redis://<user>:<password>@<host>:<port>/<database>', 'rediss://', "
            "'redis+unix://<path>', 'redis+sentinel://<host>:<port>,.../<name>' or "
            "'redis+cluster://<host>:<port>,...', or the same with 'valkey'; in a name or password '@' is written "
            "'%40', ':' '%3A' and '/' '%2F'"
        )
    return text


def _has_ports(place: str) -> bool:
    """Whether there can be servers at the ports of all these hosts."""
    return all(0 < int(port) <= _PORT_MAX for port in _PORT.findall(place))


def shown_limits(uri: str) -> str:
    """The URI of a store of limits as it may be shown and logged: without names, passwords and options."""
    found = _REDIS_URI.match(uri)
    return uri if found is None else f"{found['scheme']}{found['place']}"


def _period(value: object) -> Period:
    if not isinstance(value, (str, dict)):
        raise _MistakenError(f"must be text in quotes, is {kind_of(value)}", 'write for example "month"')
    try:
        return Period.parse(value)
    except PeriodError as wrong:
        raise _MistakenError(wrong.problem, wrong.suggestion) from None


def _usage(text: str) -> str:
    if text.startswith(UNIT_SOURCES):
        UnitSource.parse(text)
    elif ":" not in text and text not in DECODERS:
        known = f"known are {', '.join(sorted(DECODERS))}, 'header:<name>', 'json:<path>' and 'module:attr'"
        raise _MistakenError(f"there is no usage decoder {text!r}", did_you_mean(text, DECODERS) or known)
    return text


def _takes(units: dict[str, int]) -> dict[str, int]:
    if "" in units:
        raise ValueError("a unit has a name")
    return units


def _multiplier(text: str) -> Fraction:
    if not _DECIMAL.match(text):
        raise ConfigurationError("must be a decimal with at most nine decimals, like '0.5'")
    return Fraction(text)


def _rates_version(text: str) -> str:
    return RateTable(text, "XXX", {}).version


def _webhook(text: str) -> str:
    try:
        parts = urlsplit(text)
        right = parts.scheme in {"https", "http"} and parts.hostname and parts.port != 0
    except ValueError:  # no host, or no port
        right = False
    if not right:
        raise ConfigurationError("must be 'https://<host>/<path>'")
    return text


def _match(text: str) -> str:
    return Route(text).match


def _header(text: str) -> str:
    if not _HEADER.match(text):
        raise ConfigurationError("must be the name of a header, like 'x-request-timeout-ms'")
    return text.lower()


def _key_hash(text: str) -> str:
    read_hash(text)
    return text


_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
_TenantId: TypeAlias = Annotated[TenantId, _text(TenantId)]
_Rate: TypeAlias = Annotated[tuple[Rate, str], _text(parse_rate_and_unit, "10/second")]
_Amount: TypeAlias = Annotated[Amount, _text(Amount.parse, "250.00 USD")]
_Period: TypeAlias = Annotated[Period, PlainValidator(_period)]
_TokenRate: TypeAlias = Annotated[Amount, _text(parse_rate, "0.25 USD/1M")]
_Percent: TypeAlias = Annotated[Fraction, _text(parse_percent, "15%")]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=3600)]
_Count: TypeAlias = Annotated[int, Field(ge=1, le=2**53)]
_Tokens: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]


_AccountScope: TypeAlias = Literal["global", "tenant", "route", "identity"]


class Shape(BaseModel):
    """One table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class GuardShape(Shape):
    """``[guard]``: stores, the stack, and the guard's own bounds."""

    ledger: Annotated[str, _text(_ledger_uri)] | None = Field(None, repr=False)  # it may hold a password
    limits: Annotated[str, _text(_limits_uri)] = Field("memory://", repr=False)  # it may hold a password
    slots: Annotated[str, _text(_limits_uri)] | None = Field(None, repr=False)
    layers: list[_Name] | None = Field(None, min_length=1)
    body_limit: _Count = BODY_LIMIT_BYTES
    deadline_header: Annotated[str, _text(_header)] | None = None
    drain_s: _Seconds = 30.0
    drains_max: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    return_wait_s: _Seconds = 10.0


class LedgerShape(Shape):
    """``[ledger]``: the bounds of a ledger in a database, and how holds are admitted."""

    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    queue_max: _Count = 10_000
    admission: Literal["exact", "lease"] = "exact"


class LimitsShape(Shape):
    """``[limits]``: the bounds of stores of limits and slots that processes share."""

    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 50
    processes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    lease: Annotated[int, Field(ge=0, le=10**9)] = 0
    coalesce: bool = True
    slot_lease_s: Annotated[float, Field(ge=1, le=3600)] = 20.0


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
    usage: Annotated[str, _text(_usage)] | None = None
    max_output: _Count | None = None
    min_output: _Count = DEFAULT_ROUTE.min_output
    image_tokens: _Tokens = DEFAULT_ROUTE.image_tokens
    file_tokens: _Tokens | None = None
    context_tokens: _Tokens | None = None
    dialect: Annotated[Dialect, Field(strict=False)] | None = None
    success: Annotated[Success, Field(strict=False)] = Success.ENDED
    on_missing_usage: Annotated[OnMissingUsage, Field(strict=False)] | None = None
    on_disconnect: Annotated[OnDisconnect, Field(strict=False)] | None = None
    price: _Amount | None = None
    unit: _Name | None = None
    unit_price: _Amount | None = None
    max_units: _Count | None = None
    takes: Annotated[dict[str, _Count], AfterValidator(_takes)] = {}
    idempotency: Annotated[Idempotency, Field(strict=False)] = Idempotency.REFUSE
    charge_once: bool = True
    charge_reported: bool = False
    on_orphan: Annotated[OnOrphan, Field(strict=False)] = OnOrphan.VOID
    public: bool = False


class TokenRatesShape(Shape):
    """The rates of :class:`~tenantguard.model.token_price.Rates`."""

    input: _TokenRate
    output: _TokenRate
    cache_read: _TokenRate
    cache_write: _TokenRate
    cache_write_1h: _TokenRate | None = None
    audio_input: _TokenRate | None = None
    image_input: _TokenRate | None = None
    audio_output: _TokenRate | None = None
    image_output: _TokenRate | None = None
    reasoning: _TokenRate | None = None
    request: _Amount | None = None


class TierShape(TokenRatesShape):
    """One element of ``tiers``: the rates of a long context."""

    above: Annotated[int, Field(ge=0, le=2**53)]


class ServiceShape(TokenRatesShape):
    """One of ``services`` with rates of its own."""

    tiers: list[Any] = []


class MultiplierShape(Shape):
    """One of ``services`` that costs so many times the standard price."""

    multiplier: Annotated[Fraction, _text(_multiplier, "0.5")]


class PriceShape(ServiceShape):
    """``[prices."model"]`` and ``[pricing.default]``."""

    services: dict[str, Any] = {}


class PricingShape(Shape):
    """``[pricing]``: the price file, and what becomes of models without a price."""

    file: _Name | None = None
    providers: list[_Name] = []
    unknown_model: Annotated[UnknownModel, Field(strict=False)] = UnknownModel.REFUSE
    default: Any = None


class ExchangeShape(Shape):
    """``[rates]``, its currencies aside."""

    version: Annotated[str, _text(_rates_version)]
    base: Annotated[str, _text(known_currency)]


class SecretShape(Shape):
    """A secret of at least 32 bytes, or the file that it is in; the same one for all processes."""

    key: Annotated[str, Field(min_length=KEY_BYTES_MIN)] | None = Field(None, repr=False)
    key_file: _Name | None = None


class RedactionShape(SecretShape):
    """``[redaction]``: the secret from which placeholders are derived."""


class IdempotencyShape(SecretShape):
    """``[idempotency]``: the secret with which kept responses are encrypted."""


class AlertsShape(Shape):
    """``[alerts]``: whom the alerts of budgets and quotas are told, beside the log."""

    webhook: Annotated[str, _text(_webhook)] | None = Field(None, repr=False)
    secret: Annotated[str, Field(min_length=KEY_BYTES_MIN)] | None = Field(None, repr=False)
    secret_file: _Name | None = None
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    allow_http: bool = False


class ProxyShape(Shape):
    """``[proxy]``: what the reverse proxy does with requests that no route names; they have no price."""

    unknown_routes: Literal["refuse", "forward"] = "refuse"


class PolicyShape(Shape):
    """``[policies.<tenant>]``, its sections aside."""

    inherit: _Name | None = None


class RatesShape(Shape):
    """``rate`` with more to say than its rules."""

    rules: Any
    combine: Annotated[Combine, Field(strict=False)] = Combine.ALL
    on_error: Annotated[OnError, Field(strict=False)] = OnError.LOCAL
    signals: Annotated[Signals, Field(strict=False)] = Signals.AUTO


class RateShape(Shape):
    """One element of ``rate``."""

    limit: _Rate
    scope: Annotated[Scope, Field(strict=False)] = Scope.TENANT
    unit: _Name | None = None
    group: Any = None
    shadow: bool = False
    name: _Name | None = None
    strategy: Annotated[Strategy, Field(strict=False)] = Strategy.TOKEN_BUCKET


class GroupShape(Shape):
    """``group`` of a rate or concurrency."""

    routes: list[_Name] = []
    models: list[_Name] = []


class ConcurrenciesShape(Shape):
    """``concurrency`` with more to say than its rules."""

    rules: Any
    combine: Annotated[Combine, Field(strict=False)] = Combine.ALL
    on_error: Annotated[OnError, Field(strict=False)] = OnError.LOCAL


class ConcurrencyShape(Shape):
    """One element of ``concurrency``."""

    limit: Annotated[int, Field(ge=1, le=SLOTS_MAX)]
    scope: Annotated[Scope, Field(strict=False)] = Scope.TENANT
    when_full: Annotated[WhenFull, Field(strict=False)] = WhenFull.QUEUE
    queue: Annotated[int, Field(ge=1, le=SLOTS_MAX)] = 100
    wait_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    by: list[_Name] = []
    weight: Annotated[int, Field(ge=1, le=WEIGHT_MAX)] = 1
    group: Any = None
    name: _Name | None = None


class BudgetShape(Shape):
    """One element of ``budget``."""

    limit: _Amount
    per: _Period
    scope: _AccountScope = "tenant"
    mode: Annotated[Mode, Field(strict=False)] = Mode.STRICT
    carry: Any = "none"
    alerts: list[Any] = []


class QuotaShape(Shape):
    """One element of ``quota``."""

    unit: _Name
    limit: Annotated[int, Field(ge=0, le=UNITS_MAX)]
    per: _Period | None = None
    scope: _AccountScope = "tenant"
    mode: Annotated[Mode, Field(strict=False)] = Mode.STRICT
    carry: Any = "none"
    alerts: list[Any] = []
    returned: bool = False


class CarryMoneyShape(Shape):
    """``carry`` of a budget, where it has a cap."""

    unused: _Amount


class CarryUnitsShape(Shape):
    """``carry`` of a quota, where it has a cap."""

    unused: Annotated[int, Field(ge=1, le=UNITS_MAX)]


class AlertShape(Shape):
    """One element of ``alerts``."""

    percent: Annotated[int, Field(ge=1, le=PERCENT_MAX)]
    of: Annotated[Counted, Field(strict=False)] = Counted.SPENT


class MarkupShape(Shape):
    """``pricing`` of a policy."""

    markup: _Percent | None = None
    discount: _Percent | None = None


class RedactTermsShape(Shape):
    """What is found in a direction and what becomes of it."""

    entities: list[_Name] = []
    recognizers: list[_Name] = []
    countries: list[_Name] = []
    languages: list[_Name] = Field(["en"], min_length=1)
    phone_regions: list[_Name] = []
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.4
    context: bool = True
    allow: Any = Field({}, repr=False)
    deny: Any = Field({}, repr=False)
    operators: dict[str, Any] = {}
    fields: list[_Name] = []
    skip: list[_Name] = []
    keys: bool = False
    numbers: bool = False
    headers: list[_Name] = []
    query: bool = False
    path: bool = False
    secrets: Annotated[SecretAction, Field(strict=False)] = SecretAction.REDACT
    entropy: bool = True
    known: dict[str, Any] = Field({}, repr=False)
    limit: _Count | None = None
    unknown: Annotated[Unknown, Field(strict=False)] = Unknown.SCRUB
    on_error: Annotated[RedactOnError, Field(strict=False)] = RedactOnError.CLOSED
    normalize: bool = False
    parity: Annotated[Parity, Field(strict=False)] = Parity.CASCADE
    ner: _Name | None = None


class RedactRequestShape(RedactTermsShape):
    """``request`` of ``redact``, where it is a table."""

    mode: Literal["off", "replace"] = "replace"


class RedactResponseShape(RedactTermsShape):
    """``response`` of ``redact``, where it is a table."""

    buffer: bool = False
    mode: Literal["off", "replace", "restore"] = "replace"


class RedactRouteShape(RedactTermsShape):
    """``redact``, and one of its ``routes``. The keys of both directions, and what only one of them has."""

    request: Any = "replace"
    response: Any = "replace"
    restore: list[Literal["text", "arguments"]] = ["text", "arguments"]


class RedactShape(RedactRouteShape):
    """``redact``."""

    routes: dict[str, Any] = {}


class ListingShape(Shape):
    """``allow`` and ``deny``."""

    exact: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field([], repr=False)
    regex: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field([], repr=False)
    domains: list[_Name] = Field([], repr=False)
    networks: list[_Name] = Field([], repr=False)


class OperatorShape(Shape):
    """One of ``operators``, where it is a table."""

    kind: Annotated[OperatorKind, Field(strict=False)]
    value: str | None = None
    char: str = "*"
    count: Annotated[int, Field(ge=0)] | None = None
    from_end: bool = False
    function: _Name | None = None


class KnownShape(Shape):
    """One of ``known``: where a secret is written, never the secret itself."""

    file: _Name | None = None
    env: _Name | None = None


S = TypeVar("S", bound=Shape)


def check(
    document: Document,
    shape: type[S],
    value: object,
    path: Path,
    *,
    known: Iterable[str] | None = None,
    partly: bool = False,
    expected: str = "a table",
    example: str | None = None,
) -> S | None:
    """``value`` as that shape, or None after all that is wrong with it was noted.

    ``known`` are the keys to suggest in place of an unknown one, the shape's own by default. ``partly``: where some
    keys are wrong the others are still read; only for a shape that requires none. ``expected`` and ``example`` are
    for who wrote no table.
    """
    if not isinstance(value, dict):
        remedy = None if example is None else f"write for example {example}"
        document.problem(path, f"must be {expected}, is {kind_of(value)}", remedy)
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
        if _TYPES[kind] == "a list":
            remedy = "write its name in [[two brackets]]" if isinstance(value, dict) else "write it in [brackets]"
        elif isinstance(value, str) and _UNQUOTED.match(value):
            remedy = "write it without quotes"
        return f"must be {_TYPES[kind]}, is {kind_of(value)}", remedy
    if kind == "too_short":
        return "is empty", "leave the key out, or name at least one"
    if kind in {"enum", "literal_error"}:
        expected = str(context["expected"])
        meant = did_you_mean(value, _QUOTED.findall(expected)) if isinstance(value, str) else None
        return f"must be {expected}", meant
    if kind == "value_error":
        return str(context["error"]), getattr(context["error"], "suggestion", None)
    return error["msg"].replace("Input should", "must").replace("String should", "must"), None
