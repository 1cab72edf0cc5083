"""One direction of a policy made ready once, for all the bodies that go that way."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from tenantguard.model.redact_section import NOTHING_LISTED, OnError, SecretAction, Unknown
from tenantguard.rules.redaction.bodies import Terms
from tenantguard.rules.redaction.fields import Scope, compile_fields
from tenantguard.rules.redaction.text.conflicts import settle
from tenantguard.rules.redaction.text.lists import Allowed, Denied, Listed
from tenantguard.rules.redaction.text.normal import Normalized
from tenantguard.rules.redaction.text.operators import Operators
from tenantguard.rules.redaction.text.rule import NAME_CHARS_MIN, Identifiers, Replacing
from tenantguard.rules.secrets.entities import secret_entities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.model.pii import Match
    from tenantguard.model.redact_section import Direction, Find
    from tenantguard.rules.redaction.text.operators import TenantKeys
    from tenantguard.rules.redaction.text.rule import Detecting

F = TypeVar("F", "Find", "Find | None")

_FINDS_MAX: Final = 4096


@lru_cache(maxsize=_FINDS_MAX)
def _same(find: F) -> F:
    """One object for all that are equal: every body looks its detector up, and to compare their fields is dear."""
    return find


class Plan:
    """A :class:`~tenantguard.model.redact_section.Direction` with its lists, paths and operators compiled.

    ``find`` is what a detector is needed for, ``identifiers`` what one is for what a protocol has of its own (None:
    nothing); :meth:`around` and :meth:`identifying` put the rest of the search around them. ``functions``
    are those that custom operators name. ``ready`` is for who builds the detector: None until that was tried, then
    whether it could be. A list, path or operator that cannot be is a :class:`ConfigurationError`.
    """

    def __init__(self, direction: Direction, functions: Mapping[str, Callable[[str], str]], limit_bytes: int) -> None:
        find = direction.find
        self.direction = direction
        self.ready: bool | None = None
        secrets = secret_entities(find.known) if find.secrets else frozenset()
        refuses = direction.secrets is SecretAction.REFUSE
        self.limit_bytes = direction.limit_bytes if direction.limit_bytes is not None else limit_bytes
        self.fields = compile_fields(direction.fields, direction.skip)
        self.operators = Operators(direction.operators, functions)
        self.encrypts = self.operators.encrypts
        self.find = _same(replace(find.searched, kept=self.operators.kept(secrets if refuses else frozenset())))
        self.identifiers = _same(self.find.identifiers)
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
        self._allows = bool(self._allowed)
        self._lists = self._allows or bool(self._denied)
        self._normalizes = find.normalize
        self.secrets = secrets
        self._known_chars_min = min((len(value) for _, value in find.known), default=NAME_CHARS_MIN)
        self._refused = secrets.__contains__ if refuses else None

    def terms(self, *, model_call: bool) -> Terms:
        """How bodies are read, those of a model's protocol or any."""
        return self._terms[model_call]

    def around(self, detector: Detecting) -> Detecting:
        """The detector with the policy's lists, of the text as it is read if the policy says so."""
        if self._lists:
            detector = Listed(detector, self._allowed, self._denied)
        return Normalized(detector) if self._normalizes else detector

    def identifying(self, making: Callable[[], Detecting]) -> Identifiers:
        """What finds secrets, but what the policy allows, by a detector for :attr:`identifiers` that is made so."""
        if self._allows:
            return Identifiers(
                lambda: Listed(making(), self._allowed, Denied(NOTHING_LISTED)), self.secrets, self._known_chars_min
            )
        return Identifiers(making, self.secrets, self._known_chars_min)

    def settle(self, matches: Iterable[Match]) -> list[Match]:
        """Conflicts settled as the detector for ``find`` settles them."""
        return settle(matches, self.secrets, self.find.kept)

    def replacing(self, keys: TenantKeys) -> Replacing:
        """What is done with the values of one exchange of a tenant with these keys."""
        return Replacing(self.operators, keys, self._refused)

    def __repr__(self) -> str:
        return "Plan()"
