"""Lists of a policy around a detector: what is never replaced (allow), and what always is (deny).

An entry is an exact value, a regular expression, a domain with what is under it, or a network. What is on both lists
is denied. Everything is linear in the text, whatever the text is: see
:mod:`tenantguard.rules.redaction.text.expressions`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.pii import Match
from tenantguard.rules.redaction.text.expressions import LONG, study
from tenantguard.rules.redaction.text.matches import united
from tenantguard.rules.separators import is_parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.model.redact_section import Listing
    from tenantguard.rules.redaction.text.rule import Detecting

    _Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DENIED: Final = "DENY_LIST"
"""The entity of what stands on a deny list; Presidio calls it so too."""

ALLOW_WAYS_MAX: Final = 4 * LONG * LONG
"""Two unbounded repetitions, as in ``.+@.+``, and a choice of four: some milliseconds for a hostile value."""

DENY_WAYS_MAX: Final = 4096
"""Two repetitions of up to 63: every character of a text may be tried so often."""

_FEW: Final = 64
"""So many values are looked up one by one in a text, more by their first characters."""

_PREFIX_CHARS: Final = 4
_ADDRESS_CHARS: Final = 320  # the longest e-mail address (RFC 3696 erratum 1690)
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62}\.)*[a-z0-9_-]{0,62}[a-z0-9]")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}://", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[^\s@/?#\\:]{1,255}@)?(?P<host>[\w.-]{1,253})(?::[0-9]{1,5})?(?=[/?#]|\Z)")
_IPV4: Final = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}+(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?![\w:])")
_SOME_ADDRESS: Final = re.compile(r"[0-9]\.[0-9]|:[0-9A-Fa-f]{0,4}:")


class Allowed:
    """Which of the values that were found stay: those that an entry of the list is, as a whole.

    An exact entry is compared as it stands, a domain and a network by what the value says: the host of an e-mail
    address or a URL, an IP address.
    """

    def __init__(self, listing: Listing) -> None:
        self._exact = frozenset(listing.exact)
        self._expressions = [allow_expression(text) for text in listing.regex]
        self._domains = frozenset(map(domain, listing.domains))
        self._networks = [network(text) for text in listing.networks]

    def __bool__(self) -> bool:
        return bool(self._exact or self._expressions or self._domains or self._networks)

    def whole(self, value: str) -> bool:
        """Whether all of the value is allowed. One of more than 256 characters is on no list by an expression."""
        if value in self._exact:
            return True
        if len(value) <= LONG and any(expression.fullmatch(value) for expression in self._expressions):
            return True
        return bool(self._networks) and _within(value, self._networks)

    def host(self, value: str) -> int | None:
        """Where an address or URL of an allowed domain goes on after its host; None where it is of no such domain."""
        if not self._domains:
            return None
        scheme = _SCHEME.match(value)
        found = _HOST.match(value, scheme.end() if scheme is not None else 0)
        if found is None or (scheme is not None and "@" in found[0]):  # a name before the host may be anybody's
            return None
        labels = _lower(found["host"]).rstrip(".").split(".")
        if any(".".join(labels[at:]) in self._domains for at in range(len(labels))):
            return found.end()
        return None


class Denied:
    """Finds what a list says. Exact entries are found as words, whatever their case; the longest where several fit.

    ``reach`` is as a detector's: a longer value may go on after white space.
    """

    def __init__(self, listing: Listing) -> None:
        values = sorted({_lower(value) for value in listing.exact}, key=len, reverse=True)
        if any(not value.strip() for value in values):
            raise ConfigurationError("an exact entry of a deny list is empty")
        self._values: dict[str, list[str]] = {}
        for value in values:
            first = _WORD.search(value)
            assert first is not None
            if first.start():
                raise ConfigurationError("an exact entry of a deny list begins with white space")
            self._values.setdefault(first[0], []).append(value)
        self._prefix = min((len(value) for value in values), default=0)
        self._prefix = min(self._prefix, _PREFIX_CHARS)
        self._prefixes = frozenset(value[: self._prefix] for value in values)
        self._few = tuple(values) if len(values) <= _FEW else ()
        self._expressions = [deny_expression(text) for text in listing.regex]
        self._somewhere = [re.compile(_unbounded(text)) for text in listing.regex]
        self._domains = tuple(map(domain, listing.domains))
        self._networks = [network(text) for text in listing.networks]
        studies = [study(text) for text in listing.regex]
        spaced = [len(value) for value in values if is_parted(value)]
        self.reach = max([0, *spaced, *(one.width or 0 for one in studies if one.spaced)])

    def __bool__(self) -> bool:
        return bool(self._values or self._expressions or self._domains or self._networks)

    def clears(self, text: str) -> bool:
        """Whether certainly nothing is found in any part of ``text``."""
        lower = _lower(text) if self._values or self._domains else ""
        return not (
            self._may_hold(lower)
            or any(name in lower for name in self._domains)
            or (self._networks and _SOME_ADDRESS.search(text))
            or any(expression.search(text) for expression in self._somewhere)
        )

    def find(self, text: str) -> list[Match]:
        """What is denied in ``text``, by start, not overlapping."""
        spans: list[tuple[int, int]] = []
        lower = _lower(text) if self._values or self._domains else ""
        if self._may_hold(lower):
            spans += self._exact(lower)
        for expression in self._expressions:
            spans += [found.span() for found in expression.finditer(text)]
        for name in self._domains:
            spans += _hosts(lower, name)
        if self._networks and _SOME_ADDRESS.search(text):
            found_in = (found for pattern in (_IPV4, _IPV6) for found in pattern.finditer(text))
            spans += [found.span() for found in found_in if _within(found[0], self._networks)]
        return [Match(DENIED, start, end, 1.0) for start, end in _union(spans)]

    def _may_hold(self, lower: str) -> bool:
        """Whether one of the exact values may stand in the text."""
        if not self._values:
            return False
        if self._few:
            return any(value in lower for value in self._few)
        size = self._prefix
        return not self._prefixes.isdisjoint([lower[at : at + size] for at in range(len(lower) - size + 1)])

    def _exact(self, lower: str) -> Iterator[tuple[int, int]]:
        for word in _WORD.finditer(lower):
            for value in self._values.get(word[0], ()):
                end = word.start() + len(value)
                if lower.startswith(value, word.start()) and not (_wordy(value[-1]) and _wordy(lower[end : end + 1])):
                    yield word.start(), end
                    break


class Listed:
    """A detector without what is allowed and with what is denied."""

    __slots__ = ("_allowed", "_denied", "_detector", "reach")

    def __init__(self, detector: Detecting, allowed: Allowed, denied: Denied) -> None:
        self._detector = detector
        self._allowed = allowed
        self._denied = denied
        self.reach = max(detector.reach, denied.reach)

    @property
    def passed(self) -> int:
        """As the detector's."""
        return self._detector.passed

    def clears(self, text: str) -> bool:
        """Whether neither the detector nor the deny list finds anything in any part of ``text``."""
        return self._denied.clears(text) and self._detector.clears(text)

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """What the detector finds and is not allowed, and what is denied, by start, not overlapping.

        A value that meets a denied one becomes part of it.
        """
        matches: Iterable[Match] = self._detector.detect(text, after)
        if self._allowed:
            matches = [left for match in matches for left in self._left(match, text[match.start : match.end])]
        denied = self._denied.find(text) if self._denied else []
        return united(matches, denied, DENIED) if denied else list(matches)

    def _left(self, match: Match, value: str) -> Iterator[Match]:
        """What is to be replaced of a match: all, nothing, or what a URL of an allowed host goes on with."""
        if self._allowed.whole(value):
            return
        end = self._allowed.host(value)
        if end is None:
            yield match
            return
        for inner in self._detector.detect(value[end:]):
            start = end + inner.start
            if not self._allowed.whole(value[start : end + inner.end]):
                yield Match(inner.entity, match.start + start, match.start + end + inner.end, inner.score)


def allow_expression(text: str) -> re.Pattern[str]:
    """An expression for an allow list, compiled; :class:`ConfigurationError` where it could take too long."""
    return _expression(text, ALLOW_WAYS_MAX)


def deny_expression(text: str) -> re.Pattern[str]:
    """An expression for a deny list, compiled. It must be bounded: a stream waits for what may become a match."""
    width = study(text).width
    if width is None or width > LONG:
        raise ConfigurationError(
            f"the expression may match more than {LONG} characters: write {{1,20}} for example, not '+'"
        )
    return _expression(text, DENY_WAYS_MAX)


def domain(text: str) -> str:
    """A domain as it is compared: in small letters, without a dot at an end."""
    name = text.lower().strip(".")
    if _DOMAIN.fullmatch(name) is None:
        raise ConfigurationError(
            "this is no domain: write for example 'example.com', which takes in what is under it"
        )
    return name


def network(text: str) -> _Network:
    """A network (``10.0.0.0/8``, ``2001:db8::/32``), or one address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ConfigurationError("this is no network: write for example '10.0.0.0/8'") from None


def _expression(text: str, ways_max: int) -> re.Pattern[str]:
    if study(text).ways > ways_max:
        raise ConfigurationError(
            "the expression could take very long: it repeats what is repeated or optional itself, or too many times"
        )
    return re.compile(text)


def _unbounded(pattern: str) -> str:
    """The expression without word boundaries, which matches wherever a part of a text does with them."""
    return _ESCAPE.sub(lambda found: "" if found[1] in "bB" else found[0], pattern)


def _lower(text: str) -> str:
    """Small letters, character by character: as long as the text, and the same wherever a word ends."""
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    return lower.replace("\u03c2", "\u03c3")  # the sigma at the end of a word


def _wordy(char: str) -> bool:
    return char == "_" or char.isalnum()


def _within(value: str, networks: Iterable[_Network]) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return any(address in one for one in networks)


def _hosts(lower: str, name: str) -> Iterator[tuple[int, int]]:
    """Where hosts of a domain stand, with what is under it and the name before an ``@``."""
    at = lower.find(name)
    while at >= 0:
        end = at + len(name)
        rest = lower[end : end + 2]
        ends = not (_wordy(rest[:1]) or rest[:1] == "-" or (rest[:1] == "." and _wordy(rest[1:])))
        if ends and not (_wordy(lower[at - 1 : at]) or lower[at - 1 : at] == "-"):
            start = at
            while start > max(at - _ADDRESS_CHARS, 0) and (_wordy(lower[start - 1]) or lower[start - 1] in ".+%@-"):
                start -= 1
            yield start, end
        at = lower.find(name, end)


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    united: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if united and start < united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((start, end))
    return united
