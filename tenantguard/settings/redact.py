"""``redact`` of a policy: the keys of both directions, those of one, and those of one route, laid over one another.

A key that is written for one direction takes the place of the common one, and what is written for a route that of
what is written beside it; a list or table replaces the other whole.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import (
    OTHERS,
    Direction,
    Find,
    Listing,
    Operator,
    OperatorKind,
    RedactSection,
    Restore,
)
from tenantguard.rules.redaction.fields import compile_fields
from tenantguard.rules.redaction.text.lists import DENIED, allow_expression, deny_expression, domain, network
from tenantguard.rules.secrets.entities import SECRETS
from tenantguard.settings.problems import did_you_mean
from tenantguard.settings.routes import route_names
from tenantguard.settings.shapes import (
    KnownShape,
    ListingShape,
    OperatorShape,
    RedactRequestShape,
    RedactResponseShape,
    RedactRouteShape,
    RedactShape,
    check,
    kind_of,
)
from tenantguard.settings.targets import import_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path
    from tenantguard.settings.shapes import RedactTermsShape

    _Terms = dict[str, Any]
    """Keys of a direction that are written, read; ``mode`` and ``restore`` beside them."""

KNOWN_CHARS_MIN: Final = 8
"""A shorter known secret would be found in ordinary words."""

_LANGUAGE: Final = re.compile(r"[a-z]{2}")
_FIND: Final = ("entities", "recognizers", "countries", "languages", "phone_regions")
_ONLY_REQUEST: Final = ("query", "path")
_MODES: Final[dict[str, tuple[str, ...]]] = {
    "request": ("off", "replace"),
    "response": ("off", "replace", "restore"),
}


_SIDES: Final[tuple[tuple[str, type[RedactRequestShape | RedactResponseShape]], ...]] = (
    ("request", RedactRequestShape),
    ("response", RedactResponseShape),
)


class _Written(NamedTuple):
    """What one table says: of both directions, and of each."""

    common: _Terms
    request: _Terms
    response: _Terms


def read_redact(document: Document, value: object, path: Path) -> RedactSection | None:
    """The section that ``redact`` of a policy describes; None after what is wrong with it was noted."""
    before = len(document.problems)
    shape = check(document, RedactShape, value, path, example='{ response = "restore" }')
    if shape is None or not isinstance(value, dict):
        return None
    own = _own_entities(value)
    whole = _read_table(document, shape, path, own)
    routes: dict[str, _Written] = {}
    for name, table in shape.routes.items():
        at = (*path, "routes", name)
        known = route_names(document)
        if name not in known:
            remedy = did_you_mean(name, known) or "a route is known by its name, or by its match"
            document.problem(at, f"there is no route {name!r}", remedy)
        inner = check(document, RedactRouteShape, table, at)
        if inner is not None:
            routes[name] = _read_table(document, inner, at, own)
    if len(document.problems) > before:
        return None
    sections = []
    for name, route in routes.items():
        section = document.attempt(partial(_section, [whole, route]), (*path, "routes", name))
        sections += [(name, section)] if section is not None else []
    return document.attempt(partial(_section, [whole], tuple(sections)), path)


def functions_of(section: RedactSection) -> dict[str, Callable[[str], str]]:
    """The functions that the section's custom operators name, by that name."""
    operators = [operator for direction in directions_of(section) for _, operator in direction.operators]
    return {operator.function: import_target(operator.function) for operator in operators if operator.function}


def directions_of(section: RedactSection) -> list[Direction]:
    """Every direction that the section redacts, those of its routes with them."""
    sections = [section, *(route for _, route in section.routes)]
    return [direction for one in sections for direction in (one.request, one.response) if direction is not None]


# tables


def _read_table(document: Document, shape: RedactRouteShape, path: Path, own: frozenset[str]) -> _Written:
    common = _read_terms(document, shape, path, own)
    if "restore" in shape.model_fields_set:
        common["restore"] = shape.restore
    sides: dict[str, _Terms] = {}
    for side, kind in _SIDES:
        sides[side] = {}
        if side not in shape.model_fields_set:
            continue
        value, at = getattr(shape, side), (*path, side)
        if isinstance(value, dict):
            inner = check(document, kind, value, at)
            if inner is None:
                continue
            sides[side] = _read_terms(document, inner, at, own)
            if "mode" in inner.model_fields_set:
                sides[side]["mode"] = inner.mode
        elif value in _MODES[side]:
            sides[side] = {"mode": value}
        else:
            modes = ", ".join(map(repr, _MODES[side]))
            meant = did_you_mean(value, _MODES[side]) if isinstance(value, str) else None
            told = "" if isinstance(value, str) else f", is {kind_of(value)}"
            document.problem(at, f"must be one of {modes}, or a table{told}", meant)
    for key in _ONLY_REQUEST:
        if key in sides["response"]:
            document.problem((*path, "response", key), "is never looked at: only requests have one")
    return _Written(common, sides["request"], sides["response"])


def _read_terms(document: Document, shape: RedactTermsShape, path: Path, own: frozenset[str]) -> _Terms:
    """What a table writes of a direction's keys, as the model has it. ``own`` are entities of the user's own."""
    written = shape.model_fields_set
    terms: _Terms = {}
    for key in ("threshold", "context", "keys", "numbers", "query", "path", "secrets", "entropy", "unknown",
                "on_error", "normalize", "parity", "limit", "buffer"):  # fmt: skip
        if key in written:
            terms[key] = getattr(shape, key)
    for key in ("fields", "skip"):
        if key in written:
            terms[key] = tuple(getattr(shape, key))
            _check_each(document, getattr(shape, key), (*path, key), _check_field)
    if "headers" in written:
        terms["headers"] = tuple(name.lower() for name in shape.headers)
        _check_each(document, shape.headers, (*path, "headers"), _check_header)
    if "ner" in written:
        terms["ner"] = shape.ner or ""
    for key in _FIND:
        if key in written:
            terms[key] = tuple(_names(document, key, getattr(shape, key), (*path, key), own))
    for key in ("allow", "deny"):
        if key in written:
            terms[key] = _read_listing(document, getattr(shape, key), (*path, key), denies=key == "deny")
    if "operators" in written:
        terms["operators"] = _read_operators(document, shape.operators, (*path, "operators"), own)
    if "known" in written:
        terms["known"] = _read_known(document, shape.known, (*path, "known"))
    return terms


def _check_each(document: Document, texts: Iterable[str], path: Path, read: Callable[[str], object]) -> None:
    for index, text in enumerate(texts):
        document.attempt(partial(read, text), (*path, index))


def _check_header(name: str) -> None:
    if not (name.isascii() and name.isprintable()) or any(char in name for char in ' :"(),/;<=>?@[]{}\\'):
        raise ConfigurationError("this is no name of a header")


def _check_field(text: str) -> None:
    compile_fields((text,), ())


def _read_listing(document: Document, value: object, path: Path, *, denies: bool) -> Listing:
    shape = check(document, ListingShape, value, path)
    if shape is None:
        return Listing()
    expression = deny_expression if denies else allow_expression
    _check_each(document, shape.regex, (*path, "regex"), expression)
    _check_each(document, shape.domains, (*path, "domains"), domain)
    _check_each(document, shape.networks, (*path, "networks"), network)
    for index, text in enumerate(shape.exact):
        if denies and text.strip() != text:
            document.problem((*path, "exact", index), "begins or ends with white space, and is found as a word")
    return Listing(tuple(shape.exact), tuple(shape.regex), tuple(shape.domains), tuple(shape.networks))


def _read_operators(
    document: Document, table: Mapping[str, Any], path: Path, own: frozenset[str]
) -> tuple[tuple[str, Operator], ...]:
    operators = []
    for entity, value in table.items():
        at = (*path, entity)
        if (
            entity != OTHERS
            and not entity.startswith("KNOWN_")
            and entity not in (known := _replaced_entities() | own)
        ):
            document.problem(at, f"nobody finds an entity {entity!r}", did_you_mean(entity, known))
        written = {"kind": value} if isinstance(value, str) else value
        if not isinstance(written, dict):
            document.problem(at, f"must be the name of an operator or a table, is {kind_of(value)}")
            continue
        shape = check(document, OperatorShape, written, at)
        if shape is None:
            continue
        make = partial(
            Operator, shape.kind, shape.value, shape.char, shape.count, shape.from_end, shape.function or ""
        )
        operator = document.attempt(make, at)
        if operator is not None and operator.kind is OperatorKind.CUSTOM:
            document.attempt(partial(_function, operator.function), (*at, "function"))
        operators += [(entity, operator)] if operator is not None else []
    return tuple(operators)


def _function(target: str) -> None:
    if not callable(import_target(target)):
        raise ConfigurationError(f"{target!r} is no function that makes one text of another")


def _read_known(document: Document, table: Mapping[str, Any], path: Path) -> tuple[tuple[str, str], ...]:
    """Names and values of known secrets. What is wrong with one is told without a character of it."""
    known = []
    for name, value in table.items():
        at = (*path, name)
        shape = check(document, KnownShape, value, at)
        if shape is None:
            continue
        if (shape.file is None) is (shape.env is None):
            document.problem(at, "must say where the secret is", 'write { env = "<name>" } or { file = "<path>" }')
            continue
        secret = _known(document, shape, at)
        if secret is None:
            continue
        if len(secret) < KNOWN_CHARS_MIN:
            document.problem(at, f"has fewer than {KNOWN_CHARS_MIN} characters, and would be found in other words")
        known.append((name, secret))
    return tuple(known)


def _known(document: Document, shape: KnownShape, path: Path) -> str | None:
    if shape.env is not None:
        secret = document.environ.get(shape.env)
        if secret is None:
            document.problem((*path, "env"), "there is no such environment variable")
        return secret
    assert shape.file is not None
    try:
        return (document.folder / shape.file).read_text(encoding="utf-8").strip()
    except OSError as failed:
        document.problem((*path, "file"), f"cannot be read: {failed.strerror}")
    except UnicodeDecodeError:
        document.problem((*path, "file"), "is not UTF-8")
    return None


# names


def _names(document: Document, key: str, names: list[str], path: Path, own: frozenset[str]) -> list[str]:
    """The names as they are written, in capitals where they are codes of countries; unknown ones are noted."""
    if key in {"countries", "phone_regions"}:
        names = [name.upper() for name in names]
    for index, name in enumerate(names):
        if not (key == "entities" and name in own):
            _check_name(document, key, name, (*path, index))
    return names


def _check_name(document: Document, key: str, name: str, path: Path) -> None:
    """Note what Presidio does not know. It is loaded to tell, which takes seconds."""
    from tenantguard.adapters.pii.recognizers import known_countries, known_entities, recognizers_for  # noqa: PLC0415

    if key == "entities" and name not in known_entities():
        document.problem(path, f"Presidio finds no entity {name!r}", did_you_mean(name, known_entities()))
    elif key == "countries" and name not in known_countries():
        remedy = f"it has some for {', '.join(sorted(known_countries()))}"
        document.problem(path, f"Presidio has no recognisers for the country {name!r}", remedy)
    elif key == "languages" and _LANGUAGE.fullmatch(name) is None:
        document.problem(path, f"{name!r} is no code of a language (ISO 639-1)", "write for example 'en'")
    elif key in {"recognizers", "phone_regions"}:
        only: dict[str, Any] = {key: (name,)}
        document.attempt(partial(recognizers_for, Find(**only)), path)


def _replaced_entities() -> frozenset[str]:
    """Every entity that may have an operator, those of the user's own recognisers and known secrets aside."""
    from tenantguard.adapters.pii.recognizers import known_entities  # noqa: PLC0415

    return known_entities() | SECRETS | {DENIED}


_NAMED: Final = frozenset({"PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME"})
"""What a language model finds, as Presidio calls it, if it cannot be asked."""


def _names_of(source: str, language: str) -> frozenset[str]:
    """The entities of a language model, which is loaded to tell."""
    from tenantguard.adapters.pii.detectors import names_by  # noqa: PLC0415 - Presidio

    return names_by(source, language).entities


def _check_names(find: Find) -> None:
    """Refuse a language model that is not there, and entities that neither it nor Presidio's patterns find."""
    from tenantguard.adapters.pii.recognizers import known_entities, recognizers_for  # noqa: PLC0415

    if find.ner:
        recognizers_for(find, _names_of(find.ner, find.languages[0]))
    elif not known_entities().issuperset(find.entities):
        recognizers_for(find)


def _own_entities(table: Mapping[str, Any]) -> frozenset[str]:
    """What the user's own recognisers and models find, wherever in the section they are named.

    Of those that cannot be loaded that alone is told, elsewhere.
    """
    inner = [table.get("request"), table.get("response")]
    routes = table.get("routes")
    inner += routes.values() if isinstance(routes, dict) else []
    entities: set[str] = set()
    for one in inner:
        entities |= _own_entities(one) if isinstance(one, dict) else set()
    model, languages = table.get("ner"), table.get("languages")
    if isinstance(model, str) and model:
        named = _NAMED
        language = languages[0] if isinstance(languages, list) and languages else "en"
        with suppress(ConfigurationError):
            named = _names_of(model, str(language))
        entities |= named
    names = table.get("recognizers")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and ":" in name:
            from tenantguard.adapters.pii.recognizers import recognizers_for  # noqa: PLC0415

            with suppress(ConfigurationError):  # told where it stands
                entities.update(recognizers_for(Find(recognizers=(name,)))[1])
    return frozenset(entities)


# sections


def _section(tables: list[_Written], routes: tuple[tuple[str, RedactSection], ...] = ()) -> RedactSection:
    """The section that tables describe, later ones laid over earlier ones."""
    request: _Terms = {}
    response: _Terms = {}
    for table in tables:
        request |= table.common | table.request
        response |= table.common | table.response
    restore = Restore.NONE
    if response.get("mode") == "restore":
        for name in response.get("restore", ["text", "arguments"]):
            restore |= Restore[name.upper()]
    elif "restore" in tables[-1].common:
        raise ConfigurationError("redact: 'restore' is never looked at: write response = \"restore\" as well")
    inward = None if request.get("mode") == "off" else _direction(request)
    outward = None if response.get("mode") == "off" else _direction({**response, "query": False, "path": False})
    return RedactSection(inward, outward, restore, routes)


def _direction(terms: _Terms) -> Direction:
    find = Find(**{key: terms[key] for key in (*_FIND, *_FIND_TOO) if key in terms})
    _check_names(find)
    others = {key: terms[key] for key in _DIRECTION if key in terms}
    return Direction(find, limit_bytes=terms.get("limit"), **others)


_FIND_TOO: Final = ("threshold", "context", "allow", "deny", "entropy", "known", "normalize", "parity", "ner")
_DIRECTION: Final = (
    "operators", "fields", "skip", "keys", "numbers", "headers", "query", "path", "secrets", "buffer", "unknown",
    "on_error",
)  # fmt: skip
