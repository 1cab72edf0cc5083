"""What a detector must find when it is built: one that silently finds nothing would let everything pass.

For each of Presidio's recognisers that are on by default there is one made-up value, of the published form of its
kind, and the score that it has without context. The detector is asked for them as it is for any text, so whatever
stands between a text and its matches (the scanner, windows, validators, thresholds) is asked too. Recognisers that
are off by default, and a user's own, have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.errors import ConfigurationError
from tenantguard.rules.secrets.known import known_entity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.model.pii import Match
    from tenantguard.model.redact_section import Find


class Probe(NamedTuple):
    """All of ``value`` is an ``entity``. Known secrets are among them, so its ``repr`` shows the entity alone."""

    entity: str
    value: str

    def __repr__(self) -> str:
        return f"Probe({self.entity})"


_VALUES: Final[dict[str, tuple[Probe, float]]] = {
    "CreditCardRecognizer": (Probe("CREDIT_CARD", "4111111111111111"), 1.0),
    "CryptoRecognizer": (Probe("CRYPTO", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2"), 1.0),
    "DateRecognizer": (Probe("DATE_TIME", "2024-05-06"), 0.6),
    "EmailRecognizer": (Probe("EMAIL_ADDRESS", "a@example.com"), 1.0),
    "IbanRecognizer": (Probe("IBAN_CODE", "DE89370400440532013000"), 1.0),
    "IpRecognizer": (Probe("IP_ADDRESS", "192.0.2.1"), 0.6),
    "MacAddressRecognizer": (Probe("MAC_ADDRESS", "00:00:5E:00:53:01"), 0.6),
    "MedicalLicenseRecognizer": (Probe("MEDICAL_LICENSE", "AB1234563"), 1.0),
    "NhsRecognizer": (Probe("UK_NHS", "943 476 5919"), 1.0),
    "PhoneRecognizer": (Probe("PHONE_NUMBER", "+1 415 555 2671"), 0.4),
    "UrlRecognizer": (Probe("URL", "https://example.com/a"), 0.6),
    "UsItinRecognizer": (Probe("US_ITIN", "911-70-1234"), 0.5),
    "UsSsnRecognizer": (Probe("US_SSN", "856-45-6789"), 0.5),
    "UuidRecognizer": (Probe("UUID", "123e4567-e89b-42d3-a456-426614174000"), 0.5),
}
"""By the name of the class, with the score. Entities whose values are below the usual threshold
(bank numbers, driver's licences, passports of the US) are told by words beside them alone."""

_SECRETS: Final = (
    Probe("PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHh4\n-----END PRIVATE KEY-----"),
    Probe("GITLAB_TOKEN", "glpat-" + "a1B2c3D4e5F6g7H8i9J0"),
)
_RANDOM_KEY: Final = Probe("RANDOM_KEY", "q7Vw2Zk9Tn4Xb8Lr3Jd6Hs1Gf5Mc0PyKeRu")


def probes_of(recognizers: Iterable[Any], find: Find, *, secrets: bool) -> list[Probe]:
    """What a detector of these recognisers must find for ``find``; ``secrets`` if those too."""
    probes: list[Probe] = []
    for one in recognizers:
        kind = type(one)
        if not kind.__module__.startswith("presidio_analyzer.") or kind.__name__ not in _VALUES:
            continue
        probe, score = _VALUES[kind.__name__]
        wanted = not find.entities or probe.entity in find.entities
        least = one.score_thresholds.get(probe.entity, one.score_thresholds.get("default", find.threshold))
        if wanted and probe.entity in one.supported_entities and score >= least:
            probes.append(probe)
    if secrets:
        probes += _SECRETS
        probes += [_RANDOM_KEY] if find.entropy else []
        probes += [Probe(known_entity(name, value), value) for value, name in {v: n for n, v in find.known}.items()]
    return probes


def prove(probes: Iterable[Probe], search: Callable[[str], Iterable[Match]]) -> None:
    """Raise :class:`ConfigurationError` if ``search`` does not find a probe as what it is, from end to end."""
    missing = set()
    for entity, value in probes:
        found = [one for one in search(value) if one.entity == entity]
        if not any(one.start == 0 and one.end == len(value) for one in found):
            missing.add(entity)
    if missing:
        raise ConfigurationError(f"redact: a detector was built that does not find {', '.join(sorted(missing))}")
