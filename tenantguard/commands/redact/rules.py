"""What the command replaces and by what: from its options, or as a tenant's policy says."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import Direction, OperatorKind, RedactSection, SecretAction
from tenantguard.rules.placeholders import KEY_BYTES_MIN, Vault, tenant_key
from tenantguard.rules.redaction.plan import Plan
from tenantguard.rules.redaction.text.operators import TenantKeys
from tenantguard.rules.redaction.text.rule import RequestMask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tenantguard.flow.ports import Detector
    from tenantguard.model.redact_section import Find, Operator
    from tenantguard.rules.redaction.text.rule import Detecting

_KEYED: Final = frozenset({OperatorKind.HASH, OperatorKind.ENCRYPT})
_LIMIT_BYTES: Final = 1 << 30


class Redactor(Protocol):
    """Makes the rule for one input."""

    plan: Plan

    def detector(self) -> Detector:
        """A detector with bounds on work of its own."""
        ...

    def rule(self, detector: Detecting) -> RequestMask:
        """A rule over a detector, with counters of its own."""
        ...


class _Labels(Vault):
    """Replaces by the entity's name alone, as Presidio does: nothing is to be restored."""

    def mint(self, entity: str, value: str) -> str:  # noqa: ARG002 - it is gone
        return f"<{entity}>"


class _Redactor:
    def __init__(self, plan: Plan, vault: Callable[[], Vault], keys: TenantKeys) -> None:
        self.plan = plan
        self.detector = _detectors(plan.find)
        self._identifiers = _detectors(plan.identifiers) if plan.identifiers is not None else None
        self._vault = vault
        self._keys = keys

    def rule(self, detector: Detecting) -> RequestMask:
        """A rule for one input."""
        identifiers = self.plan.identifying(self._identifiers) if self._identifiers is not None else None
        replacing = self.plan.replacing(self._keys)
        return RequestMask(detector, self._vault(), escape=False, replacing=replacing, identifiers=identifiers)


def of_options(find: Find, operators: Iterable[tuple[str, Operator]], key_file: Path | None) -> Redactor:
    """As the options say: ``<ENTITY>`` where no operator says other."""
    table = tuple(dict(operators).items())
    if key_file is None and any(operator.kind in _KEYED for _, operator in table):
        raise ConfigurationError("--operator hash and encrypt need a key: name its file with --key-file")
    key = _read_key(key_file) if key_file is not None else secrets.token_bytes(KEY_BYTES_MIN)
    action = SecretAction.REDACT if find.secrets else SecretAction.OFF
    plan = Plan(Direction(find, operators=table, secrets=action), {}, _LIMIT_BYTES)
    return _Redactor(plan, lambda: _Labels(key), _keys(plan, key, ""))


def of_policy(path: Path, tenant: str, direction: str) -> Redactor:
    """As the policy of ``tenant`` in a settings file says, with its placeholders."""
    from tenantguard.settings.reading import read_settings  # noqa: PLC0415 - pydantic
    from tenantguard.settings.redact import functions_of  # noqa: PLC0415

    settings = read_settings(path)
    resolved = settings.policies.get(tenant)
    section = resolved.policy.section(RedactSection) if resolved is not None else None
    if section is None:
        raise ConfigurationError(f"{path}: the policy of {tenant!r} has no 'redact'")
    chosen: Direction | None = getattr(section, direction)
    if chosen is None:
        raise ConfigurationError(f"{path}: the policy of {tenant!r} leaves a {direction} as it is")
    plan = Plan(chosen, functions_of(section), _LIMIT_BYTES)
    key = settings.redaction_key or secrets.token_bytes(KEY_BYTES_MIN)
    own = tenant_key(key, tenant)
    return _Redactor(plan, lambda: Vault(own), _keys(plan, key, tenant))


def _detectors(find: Find) -> Callable[[], Detector]:
    from tenantguard.adapters.pii.detectors import detector_for  # noqa: PLC0415 - takes seconds

    detector: Any = detector_for(find)
    bounded: Callable[[], Detector] = detector.bounded
    return bounded


def _keys(plan: Plan, key: bytes, tenant: str) -> TenantKeys:
    """The keys of a tenant that follow from the guard's."""
    own = tenant_key(key, tenant)
    if not plan.operators.encrypts:
        return TenantKeys.of(own)
    from tenantguard.adapters.encryption import ValueCipher  # noqa: PLC0415 - only who encrypts

    return TenantKeys.of(own, ValueCipher(key, tenant))


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"--key-file: cannot read {path}: {error.strerror}") from None
    if len(key) < KEY_BYTES_MIN:
        raise ConfigurationError(f"--key-file: {path} has {len(key)} bytes: it needs at least {KEY_BYTES_MIN}")
    return key
