"""What is replaced in one text, and by what: the request's rule and the response's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenantguard.errors import BadRequestError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import OperatorKind
from tenantguard.rules.placeholders import LITERAL, PLACEHOLDER
from tenantguard.rules.redaction.text.matches import checked, outside, united
from tenantguard.rules.redaction.text.operators import Operators, TenantKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from tenantguard.model.redact_section import Operator
    from tenantguard.rules.placeholders import Vault


class Detecting(Protocol):
    """A detector (:class:`~tenantguard.flow.ports.Detector`), as rules see it."""

    reach: int

    @property
    def passed(self) -> int:
        """How often a bound on the work made it report more than it could look at."""
        ...

    def clears(self, text: str) -> bool:
        """Whether certainly nothing is found in any part of ``text``."""
        ...

    def detect(self, text: str, after: int = 0) -> Sequence[Match]:
        """Matches by start, not overlapping; those that end at or before ``after`` may be missing."""
        ...


BETWEEN: Final = "\n\0\n"
"""Between texts that are looked at together: no pattern takes both a line's end and this character for its own."""

FORMAT_CHARS_MIN: Final = 10
"""No secret of a format is shorter, with all that tells it (``pwd=`` for example)."""

NAME_CHARS_MIN: Final = 16
"""None that is letters, digits and ``_ . / + -`` alone is shorter."""

_MINTED: Final = "PLACEHOLDER"
_OPAQUE_CHARS_MIN: Final = 256
_TOKEN_CHARS_MAX: Final = 8192
_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_DATA_URL: Final = re.compile(
    r"data:(?:(?:image|audio|video|font)/[\w.+-]+|application/(?:pdf|octet-stream))(?:;[\w.=+-]+)*;base64," + _BASE64,
    re.ASCII | re.IGNORECASE,
)
_BLOB: Final = re.compile(r"(?=[^a-z ]*+[a-z])(?=[^A-Z ]*+[A-Z])(?=[^0-9 ]*+[0-9])" + _BASE64)


class MalformedTextError(BadRequestError):
    """Bytes are not what their type says (JSON, UTF-8, an event stream), or more than may be read."""


class SecretFoundError(BadRequestError):
    """A secret stands where the policy refuses secrets. It tells the kind and the place, never the secret.

    ``location`` is filled in on the way out, by whoever knows the place: ``messages[0].content``, a form's field.
    """

    def __init__(self, kind: str, location: str = "") -> None:
        super().__init__("there is a secret")
        self.kind = kind
        self.location = location


class Edit(NamedTuple):
    """``text[start:end]`` becomes ``new``."""

    start: int
    end: int
    new: str


class TextRule(Protocol):
    """Finds what to replace in a text, and says by what.

    ``replaced`` counts by entity, ``skipped`` by the kind of what was not looked at; never values. ``reach`` is the
    detector's (:class:`~tenantguard.flow.ports.Detector`). ``arguments`` is the rule for the arguments of tool calls.
    ``own`` finds nothing in letters, digits and ``_ . / + -`` alone that are fewer than ``name_chars_min``.
    """

    replaced: dict[str, int]
    skipped: dict[str, int]
    reach: int

    @property
    def name_chars_min(self) -> int:
        """See above."""
        ...

    @property
    def arguments(self) -> TextRule:
        """The rule for the arguments of tool calls; often this one."""
        ...

    def clears(self, text: str) -> bool:
        """Whether certainly nothing in any part of ``text`` is replaced."""
        ...

    def find(self, text: str, after: int = 0) -> list[Match]:
        """What to replace, by start, not overlapping; what ends at or before ``after`` may be missing."""
        ...

    def own(self, text: str) -> list[Match]:
        """Secrets in what a protocol has of its own, by start, not overlapping."""
        ...

    def replace(self, entity: str, value: str) -> str:
        """What stands in place of ``value``."""
        ...


class Replacing:
    """What is done with the values of one exchange's entities, and how often it was.

    ``operators`` by entity, with the tenant's ``keys``; without one a value becomes a placeholder. Entities that
    ``refused`` names may not be there at all: :class:`SecretFoundError`.
    """

    __slots__ = ("_keys", "_operators", "_refused", "kept", "replaced")

    def __init__(
        self,
        operators: Operators | None = None,
        keys: TenantKeys | None = None,
        refused: Callable[[str], bool] | None = None,
    ) -> None:
        self.replaced: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self._operators = operators if operators is not None else _PLACEHOLDERS
        self._keys = keys if keys is not None else _NO_KEYS
        self._refused = refused

    def operator(self, entity: str) -> Operator | None:
        """The operator of a value that was found, counted; None: a placeholder."""
        if self._refused is not None and self._refused(entity):
            raise SecretFoundError(entity)
        operator = self._operators.of(entity) if entity != LITERAL else None
        counts = self.kept if operator is not None and operator.kind is OperatorKind.KEEP else self.replaced
        counts[entity] = counts.get(entity, 0) + 1
        return operator

    def found(self, detector: Detecting, text: str, after: int) -> list[Match]:
        """What the detector finds, beside values that were hashed or encrypted here: a history brings them back."""
        matches = checked(detector.detect(text, after), text)
        made = self._keys.made(text) if matches else []
        return outside(matches, made) if made else matches

    def text(self, operator: Operator, entity: str, value: str) -> str:
        """What the operator makes of a value."""
        return self._operators.text(operator, entity, value, self._keys)


class Identifiers:
    """Finds ``secrets`` in what a protocol has of its own, by a detector that is made when there is such a thing.

    No known secret has less than ``known_chars_min`` characters.
    """

    __slots__ = ("_chars_min", "_detector", "_making", "_secrets", "name_chars_min")

    def __init__(
        self, making: Callable[[], Detecting], secrets: Container[str], known_chars_min: int = NAME_CHARS_MIN
    ) -> None:
        self._making = making
        self._secrets = secrets
        self._chars_min = min(FORMAT_CHARS_MIN, known_chars_min)
        self.name_chars_min = min(NAME_CHARS_MIN, known_chars_min)
        self._detector: Detecting | None = None

    def find(self, text: str) -> list[Match]:
        """The secrets in ``text``, or in texts with :data:`BETWEEN` between them, by start, not overlapping."""
        least = self._chars_min
        if len(text) < least or (BETWEEN in text and max(map(len, text.split(BETWEEN))) < least):
            return []
        if self._detector is None:
            self._detector = self._making()
        if self._detector.clears(text):
            return []
        return [match for match in checked(self._detector.detect(text), text) if match.entity in self._secrets]


_PLACEHOLDERS: Final = Operators()
_NO_KEYS: Final = TenantKeys(b"", None)


class _ExchangeRule:
    """What the rules of the two directions of an exchange have in common."""

    __slots__ = ("_detector", "_identifiers", "_replacing", "_vault", "kept", "reach", "replaced", "skipped")

    def __init__(
        self, detector: Detecting, vault: Vault, replacing: Replacing | None, identifiers: Identifiers | None
    ) -> None:
        self._detector = detector
        self._vault = vault
        self._replacing = replacing = replacing if replacing is not None else Replacing()
        self._identifiers = identifiers
        self.reach = detector.reach
        self.replaced = replacing.replaced
        self.kept = replacing.kept
        self.skipped: dict[str, int] = {}

    @property
    def passed(self) -> int:
        """As the detector's."""
        return self._detector.passed

    @property
    def name_chars_min(self) -> int:
        """As that of ``identifiers``."""
        return self._identifiers.name_chars_min if self._identifiers is not None else NAME_CHARS_MIN

    def own(self, text: str) -> list[Match]:
        """Secrets in what a protocol has of its own."""
        return self._identifiers.find(text) if self._identifiers is not None else []


class RequestMask(_ExchangeRule):
    """Replaces personal data of the request, by placeholders that the vault can undo unless ``replacing`` says other.

    With ``escape``, text that looks like a placeholder is replaced too, so that a restored response holds the user's
    own text again and nobody can ask for a value by writing its placeholder. ``identifiers`` finds secrets in what a
    protocol has of its own.
    """

    __slots__ = ("_escape",)

    def __init__(
        self,
        detector: Detecting,
        vault: Vault,
        *,
        escape: bool,
        replacing: Replacing | None = None,
        identifiers: Identifiers | None = None,
    ) -> None:
        super().__init__(detector, vault, replacing, identifiers)
        self._escape = escape

    @property
    def arguments(self) -> RequestMask:
        """This rule."""
        return self

    def clears(self, text: str) -> bool:
        """Whether nothing is found, and nothing looks like a placeholder."""
        return not (self._escape and "<" in text) and self._detector.clears(text)

    def find(self, text: str, after: int = 0) -> list[Match]:
        """Detected matches and, with ``escape``, what looks like a placeholder."""
        matches = self._replacing.found(self._detector, text, after)
        if not self._escape or "<" not in text:
            return matches
        literals = [Match(LITERAL, *found.span(), 1.0) for found in PLACEHOLDER.finditer(text)]
        return united(matches, literals) if literals else matches

    def replace(self, entity: str, value: str) -> str:
        """The value's placeholder, which can be restored, or what its operator makes of it."""
        operator = self._replacing.operator(entity)
        if operator is None:
            return self._vault.mint(entity, value)
        return self._replacing.text(operator, entity, value)


class ResponseScrub(_ExchangeRule):
    """Replaces personal data that the application wrote and, with ``restore``, puts the request's own values back.

    A placeholder minted in this exchange is opaque: nothing is looked for in it, and what is restored for it is not
    looked at again. Any other placeholder is text like any other. ``restore_arguments`` is for the arguments of tool
    calls; None: as ``restore``. ``identifiers`` as for :class:`RequestMask`.
    """

    __slots__ = ("_arguments", "_restore")

    def __init__(
        self,
        detector: Detecting,
        vault: Vault,
        *,
        restore: bool,
        restore_arguments: bool | None = None,
        replacing: Replacing | None = None,
        identifiers: Identifiers | None = None,
    ) -> None:
        super().__init__(detector, vault, replacing, identifiers)
        self._restore = restore
        self._arguments: ResponseScrub | None = None
        if restore_arguments is not None and restore_arguments is not restore:
            self._arguments = ResponseScrub(
                detector, vault, restore=restore_arguments, replacing=self._replacing, identifiers=identifiers
            )
            self._arguments.skipped = self.skipped

    @property
    def arguments(self) -> ResponseScrub:
        """The rule for the arguments of tool calls: this one, unless other things are restored there."""
        return self if self._arguments is None else self._arguments

    def clears(self, text: str) -> bool:
        """Whether nothing is found, and no placeholder can stand in it."""
        return not (self._vault.count and "<" in text) and self._detector.clears(text)

    def find(self, text: str, after: int = 0) -> list[Match]:
        """Detected matches outside minted placeholders, and those placeholders."""
        matches = self._replacing.found(self._detector, text, after)
        if not self._vault.count or "<" not in text:
            return matches
        minted = [
            Match(_MINTED, *found.span(), 1.0)
            for found in PLACEHOLDER.finditer(text)
            if self._vault.value(found[0]) is not None
        ]
        return sorted([*outside(matches, minted), *minted], key=_start) if minted else matches

    def replace(self, entity: str, value: str) -> str:
        """The request's value of a minted placeholder, else what takes the place of what was found."""
        token = value if entity == _MINTED else self._vault.mask(entity, value)
        minted = self._vault.value(token) if self._restore else None
        if minted is not None:
            return minted
        if entity == _MINTED:
            return token
        operator = self._replacing.operator(entity)
        return token if operator is None else self._replacing.text(operator, entity, value)


def own_edits(rule: TextRule, text: str) -> list[Edit]:
    """Every change in what a protocol has of its own, an identifier for example: of secrets alone."""
    return [
        Edit(match.start, match.end, rule.replace(match.entity, text[match.start : match.end]))
        for match in rule.own(text)
    ]


def text_edits(rule: TextRule, text: str) -> list[Edit]:
    """Every change that ``rule`` makes in a whole text.

    Base64 that is a picture, a sound or another blob (a ``data:`` URL of such a type, or at least 256 characters of
    nothing else) is left alone, as a binary body is: what patterns find in it is noise, and replacing destroys it. Of
    one that is short enough to be a token, secrets are replaced all the same.
    """
    if not text:
        return []
    if is_opaque(text):
        return opaque_edits(rule, text)
    edits: list[Edit] = []
    for match in rule.find(text):
        value = text[match.start : match.end]
        new = rule.replace(match.entity, value)
        if new != value:
            edits.append(Edit(match.start, match.end, new))
    return edits


def opaque_edits(rule: TextRule, text: str) -> list[Edit]:
    """Every change in a binary value in base64: of secrets, where it is no longer than these can be."""
    return own_edits(rule, text) if may_be_token(text) else []


def may_be_token(opaque: str) -> bool:
    """Whether a binary value in base64 may be a secret itself: of its own accord or as one that is known."""
    return len(opaque) <= _TOKEN_CHARS_MAX


def is_opaque(text: str) -> bool:
    """Whether the whole text is a binary value in base64."""
    if text[:5].lower() == "data:":
        return _DATA_URL.fullmatch(text) is not None
    return len(text) >= _OPAQUE_CHARS_MIN and _BLOB.fullmatch(text) is not None


def apply(text: str, edits: Sequence[Edit]) -> str:
    """``text`` with ``edits``, which are in order and do not overlap, inserted literally."""
    pieces: list[str] = []
    at = 0
    for start, end, new in edits:
        pieces += (text[at:start], new)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def _start(match: Match) -> int:
    return match.start
