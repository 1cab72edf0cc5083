"""One direction of a policy made ready once, for all the bodies that go that way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import OnError, SecretAction, Unknown
from tenantguard.rules.redaction.bodies import Terms
from tenantguard.rules.redaction.fields import Scope, compile_fields
from tenantguard.rules.redaction.lists import Allowed, Denied, Listed
from tenantguard.rules.redaction.normal import Normalized
from tenantguard.rules.redaction.operators import Operators
from tenantguard.rules.redaction.rule import Replacing
from tenantguard.rules.secrets import entropy, pem
from tenantguard.rules.secrets.catalog import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.model.redact_section import Direction
    from tenantguard.rules.redaction.operators import TenantKeys
    from tenantguard.rules.redaction.rule import Detecting

SECRETS: Final = frozenset({entropy.ENTITY, pem.PRIVATE_KEY, *(known.entity for known in FORMATS)})
"""The entities of secrets whose value nobody told."""

_KNOWN: Final = "KNOWN_"


def is_secret(entity: str) -> bool:
    """Whether an entity is that of a secret: of a format, of a key that looks random, or of a known value."""
    return entity in SECRETS or entity.startswith(_KNOWN)


class Plan:
    """A :class:`~tenantguard.model.redact_section.Direction` with its lists, paths and operators compiled.

    ``find`` is what a detector is needed for; :meth:`around` puts the rest of the search around one. ``functions``
    are those that custom operators name. A list, path or operator that cannot be is a :class:`ConfigurationError`.
    """

    def __init__(self, direction: Direction, functions: Mapping[str, Callable[[str], str]], limit_bytes: int) -> None:
        find = direction.find
        self.direction = direction
        self.find = find.searched
        self.limit_bytes = direction.limit_bytes if direction.limit_bytes is not None else limit_bytes
        self.fields = compile_fields(direction.fields, direction.skip)
        self.operators = Operators(direction.operators, functions)
        self.fails_open = direction.on_error is OnError.OPEN
        self.passes_unreadable = self.fails_open and direction.unknown is not Unknown.BLOCK
        self.scope = Scope(self.fields, direction.keys, direction.numbers)
        self.reads_heads = bool(direction.headers or direction.query or direction.path)
        self._terms = {
            is_call: Terms(
                is_call, self.fields, direction.keys, direction.numbers, self.limit_bytes, direction.unknown
            )
            for is_call in (False, True)
        }
        self._allowed = Allowed(find.allow)
        self._denied = Denied(find.deny)
        self._refused = is_secret if direction.secrets is SecretAction.REFUSE else None

    def terms(self, *, model_call: bool) -> Terms:
        """How bodies are read, those of a model's protocol or any."""
        return self._terms[model_call]

    def around(self, detector: Detecting) -> Detecting:
        """The detector with the policy's lists, of the text as it is read if the policy says so."""
        if self._allowed or self._denied:
            detector = Listed(detector, self._allowed, self._denied)
        return Normalized(detector) if self.direction.find.normalize else detector

    def replacing(self, keys: TenantKeys) -> Replacing:
        """What is done with the values of one exchange of a tenant with these keys."""
        return Replacing(self.operators, keys, self._refused)

    def __repr__(self) -> str:
        return "Plan()"
