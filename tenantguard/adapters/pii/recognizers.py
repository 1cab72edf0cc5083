"""Presidio's recogniser objects for what a policy wants found, each detector its own, and kept off the network.

Presidio is imported (2 s) when recognisers are built, never by importing this module. Its ``Pattern`` objects belong
to classes and are shared by all instances, and recognisers of users may hold whatever they like, so every detector
works on copies. The first e-mail address would make ``tldextract`` fetch the public suffix list; here the list in the
package is used. Some recognisers log what they could not validate; what Presidio logs while :data:`quiet` is entered
is dropped.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import logging
import threading
import warnings
from functools import cache, partial
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from presidio_analyzer import EntityRecognizer

    from tenantguard.model.redact_section import Find

_PRESIDIO_TIMEOUT_S_MIN: Final = 10
_MODULES: Final = (
    "presidio_analyzer.predefined_recognizers.generic.",
    "presidio_analyzer.predefined_recognizers.country_specific.",
)  # the others need a language model or a service
_ISO_OF: Final = {"uk": "gb"}
"""Presidio's country codes that are not ISO 3166-1 alpha-2."""


class _Quiet(logging.Filter, threading.local):
    """While it is entered, drops what this thread logs to the loggers that it filters."""

    _depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - whatever it says
        return self._depth == 0


quiet: Final = _Quiet()
"""Entered around every use of Presidio: nothing of a text reaches a log."""


def recognizers_for(find: Find, elsewhere: Collection[str] = ()) -> tuple[list[EntityRecognizer], list[str]]:
    """The recognisers that ``find`` needs, and those of its entities that they find, sorted.

    ``elsewhere`` are entities that something else finds: there need be no recogniser for them. Raises
    :class:`ConfigurationError` for names, countries and regions that Presidio does not know, and for a recogniser of
    the user's that cannot be loaded.
    """
    logging.getLogger("presidio-analyzer").addFilter(quiet)
    with quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _recognizers_for(find, elsewhere)


def known_entities(language: str = "en") -> frozenset[str]:
    """Every entity name that Presidio's pattern recognisers can find. Loads Presidio (seconds)."""
    with quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frozenset(_entities_of(one(supported_language=language) for one in _classes().values()))


def known_countries() -> frozenset[str]:
    """The countries (ISO 3166-1 alpha-2, upper case) that Presidio has recognisers for. Loads Presidio (seconds)."""
    return frozenset(country for one in _classes().values() if (country := _country(one)))


def _recognizers_for(find: Find, elsewhere: Collection[str]) -> tuple[list[EntityRecognizer], list[str]]:
    language = find.languages[0]
    if find.recognizers:
        chosen = [_named(name, language) for name in dict.fromkeys(find.recognizers)]
    else:
        chosen = _on_by_default(find.languages)
    chosen += _of_countries(find.countries, language)
    if not find.recognizers:
        missing = set(find.entities) - _entities_of(chosen)
        chosen += [one for one in _everything(language) if missing & set(one.supported_entities)] if missing else []
    chosen = _distinct(chosen)
    known = _entities_of(chosen)
    for entity in find.entities:
        if entity not in known and entity not in elsewhere:
            raise ConfigurationError(f"Presidio finds no entity {entity!r}{_suggestion(entity, known)}")
    wanted = known.intersection(find.entities) if find.entities else known
    used = [one for one in chosen if wanted & set(one.supported_entities)]
    for one in used:
        _own(one, find)
    return used, sorted(wanted)


def _on_by_default(languages: tuple[str, ...]) -> list[Any]:
    from presidio_analyzer.recognizer_registry import RecognizerRegistryProvider  # noqa: PLC0415

    configuration = {"supported_languages": list(languages)}
    registry = RecognizerRegistryProvider(registry_configuration=configuration).create_recognizer_registry()
    return [one for one in registry.recognizers if type(one).__module__.startswith(_MODULES)]


def _of_countries(countries: tuple[str, ...], language: str) -> list[EntityRecognizer]:
    if not countries:
        return []
    known = known_countries()
    for country in countries:
        if country.upper() not in known:
            raise ConfigurationError(
                f"Presidio has no recognisers for the country {country!r}; it has some for {', '.join(sorted(known))}"
            )
    wanted = {country.upper() for country in countries}
    return [one for one in _everything(language) if _country(type(one)) in wanted]


def _country(recognizer: type[Any]) -> str:
    code = (recognizer.COUNTRY_CODE or "").lower()
    return _ISO_OF.get(code, code).upper()


def _everything(language: str) -> list[EntityRecognizer]:
    return [one(supported_language=language) for one in _classes().values()]


def _named(name: str, language: str) -> EntityRecognizer:
    if ":" in name:
        return _loaded(name)
    classes = _classes()
    if name not in classes:
        raise ConfigurationError(f"Presidio has no pattern recogniser {name!r}{_suggestion(name, classes)}")
    built: EntityRecognizer = classes[name](supported_language=language)
    return built


def _loaded(name: str) -> EntityRecognizer:
    """The user's own recogniser: a class that is built without arguments, or an instance, which is copied."""
    from presidio_analyzer import EntityRecognizer  # noqa: PLC0415 - two seconds

    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        built = found() if inspect.isclass(found) else copy.deepcopy(found)
    except Exception as error:
        raise ConfigurationError(f"the recogniser {name!r} cannot be loaded: {type(error).__name__}") from error
    if not isinstance(built, EntityRecognizer):
        raise ConfigurationError(f"{name!r} is no recogniser of Presidio's (PatternRecognizer or EntityRecognizer)")
    return built


def _classes() -> dict[str, Any]:
    from presidio_analyzer import predefined_recognizers  # noqa: PLC0415 - two seconds

    return {
        name: found
        for name, found in vars(predefined_recognizers).items()
        if inspect.isclass(found) and found.__module__.startswith(_MODULES)
    }


def _distinct(recognizers: list[Any]) -> list[Any]:
    """Without those that are there in another language with the same patterns; their words for context are joined."""
    distinct: dict[Any, Any] = {}
    for one in recognizers:
        patterns = tuple((pattern.regex, pattern.score) for pattern in getattr(one, "patterns", ()))
        key = (type(one), one.name, tuple(one.supported_entities), patterns)
        first = distinct.setdefault(key, one)
        if first is not one:
            first.context = [*dict.fromkeys([*(first.context or ()), *(one.context or ())])]
    return list(distinct.values())


def _entities_of(recognizers: Iterable[EntityRecognizer]) -> set[str]:
    return {entity for recognizer in recognizers for entity in recognizer.supported_entities}


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""


def _own(recognizer: Any, find: Find) -> None:
    """Give a recogniser patterns of its own, the wanted regions, and keep it off the network."""
    from presidio_analyzer import PatternRecognizer  # noqa: PLC0415
    from presidio_analyzer.predefined_recognizers import (  # noqa: PLC0415
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
    )
    from presidio_analyzer.predefined_recognizers.generic import iban_recognizer  # noqa: PLC0415

    recognizer.supported_language = find.languages[0]
    if isinstance(recognizer, PatternRecognizer):
        patterns: list[Any] = recognizer.__dict__["patterns"]
        own: Any = recognizer
        own.patterns = [copy.copy(pattern) for pattern in patterns]
    if isinstance(recognizer, IbanRecognizer) and iban_recognizer.REGEX_TIMEOUT_SECONDS < _PRESIDIO_TIMEOUT_S_MIN:
        raise ConfigurationError(
            f"REGEX_TIMEOUT_SECONDS is less than {_PRESIDIO_TIMEOUT_S_MIN}: Presidio would let IBANs through",
        )
    if type(recognizer) is PhoneRecognizer and find.phone_regions:
        recognizer.supported_regions = _regions(find.phone_regions)
    if isinstance(recognizer, EmailRecognizer):
        recognizer.validate_result = _is_domain  # type: ignore[method-assign]
    if type(recognizer) is IpRecognizer:
        recognizer.invalidate_result = partial(_is_no_address, recognizer.invalidate_result)  # type: ignore[method-assign]


def _regions(wanted: tuple[str, ...]) -> tuple[str, ...]:
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415 - 0.2 s

    regions = tuple(dict.fromkeys(region.upper() for region in wanted))
    for region in regions:
        if region not in SUPPORTED_REGIONS:
            raise ConfigurationError(f"no telephone region {region!r}: regions are countries as in 'US', 'DE'")
    return regions


def _is_domain(pattern_text: str) -> bool:
    return bool(_extract()(pattern_text).fqdn)


def _is_no_address(judge: Callable[[str], bool], pattern_text: str) -> bool:
    """Presidio's own verdict; what the system reads as an address is one for ``ipaddress`` too, 100 times as slow."""
    try:
        inet_pton(AF_INET6 if ":" in pattern_text else AF_INET, pattern_text)
    except (OSError, ValueError):
        return judge(pattern_text)
    return False


@cache
def _extract() -> Any:
    from tldextract import TLDExtract  # noqa: PLC0415

    return TLDExtract(cache_dir=None, suffix_list_urls=())
