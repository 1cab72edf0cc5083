"""``redact`` of a policy: what holds for both directions, one of them, one route; and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import spacy

from tenantguard.model.redact_section import (
    Direction,
    Find,
    Listing,
    OnError,
    Operator,
    OperatorKind,
    Parity,
    RedactSection,
    Restore,
    SecretAction,
    Unknown,
)
from tenantguard.settings import Problem, SettingsError, loopholes, parse_settings
from tenantguard.settings.redact import directions_of, functions_of

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
[tenancy]
mode = "single"
[[routes]]
match = "POST /v1/chat"
name = "chat"
[[routes]]
match = "/jobs/*"
[policies.default.redact]
"""


def section(text: str, folder: Path | None = None, **environ: str) -> RedactSection:
    read = parse_settings(HEAD + text, folder=folder, environ=environ)
    found = read.policies["default"].policy.section(RedactSection)
    assert found is not None
    return found


def problems(text: str, folder: Path | None = None, **environ: str) -> list[Problem]:
    with pytest.raises(SettingsError) as refused:
        parse_settings(HEAD + text, folder=folder, environ=environ)
    return refused.value.problems


def reverse(value: str) -> str:
    return value[::-1]


def test_an_empty_table_redacts_both_ways_with_secrets_and_context() -> None:
    assert section("") == RedactSection()
    request = section("").request
    assert request is not None
    assert (request.secrets, request.find.secrets, request.find.context) == (SecretAction.REDACT, True, True)
    assert (request.find.threshold, request.on_error, request.unknown) == (0.4, OnError.CLOSED, Unknown.SCRUB)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small pipeline, saved, that knows one name."""
    nlp = spacy.blank("de")
    ruler: Any = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada"}])
    path = tmp_path_factory.mktemp("model") / "names"
    nlp.to_disk(path)
    return str(path)


def test_every_key_of_a_direction_is_read(model: str) -> None:
    found = section(
        f"""
        entities = ["EMAIL_ADDRESS"]
        recognizers = ["EmailRecognizer"]
        countries = ["de"]
        languages = ["de"]
        phone_regions = ["de"]
        threshold = 0.5
        context = false
        fields = ["messages[*].content"]
        skip = ["id"]
        keys = true
        numbers = true
        headers = ["X-User"]
        query = true
        path = true
        secrets = "off"
        limit = 10
        unknown = "block"
        on_error = "open"
        normalize = true
        parity = "presidio"
        ner = "{model}"
        [policies.default.redact.allow]
        exact = ["a"]
        regex = ["b+"]
        domains = ["c.test"]
        networks = ["10.0.0.0/8"]
        [policies.default.redact.deny]
        exact = ["d"]
        [policies.default.redact.operators]
        EMAIL_ADDRESS = "hash"
        "*" = {{ kind = "mask", char = "#", count = 3, from_end = true }}
        [policies.default.redact.response]
        buffer = true
        """
    )
    find = Find(
        entities=("EMAIL_ADDRESS",),
        recognizers=("EmailRecognizer",),
        countries=("DE",),
        languages=("de",),
        phone_regions=("DE",),
        threshold=0.5,
        context=False,
        allow=Listing(("a",), ("b+",), ("c.test",), ("10.0.0.0/8",)),
        deny=Listing(("d",)),
        normalize=True,
        parity=Parity.PRESIDIO,
        ner=model,
    )
    request = Direction(
        find,
        (
            ("EMAIL_ADDRESS", Operator(OperatorKind.HASH)),
            ("*", Operator(OperatorKind.MASK, None, "#", 3, from_end=True)),
        ),
        ("messages[*].content",),
        ("id",),
        keys=True,
        numbers=True,
        headers=("x-user",),
        query=True,
        path=True,
        secrets=SecretAction.OFF,
        limit_bytes=10,
        unknown=Unknown.BLOCK,
        on_error=OnError.OPEN,
    )
    assert found == RedactSection(request, replace(request, query=False, path=False, buffer=True))


def test_keys_that_have_no_form_are_looked_for_unless_the_policy_says_other() -> None:
    both = section("entropy = false"), section("request = { entropy = false }")
    assert [one.find.entropy for found in both for one in (found.request, found.response) if one] == [
        False, False, False, True,
    ]  # fmt: skip


def test_names_need_a_language_model_and_that_it_is_there(model: str) -> None:
    named = section(f'entities = ["PERSON", "EMAIL_ADDRESS"]\nner = "{model}"\noperators = {{ PERSON = "mask" }}')
    assert named.request is not None
    assert named.request.find.entities == ("PERSON", "EMAIL_ADDRESS")
    for text, message in (
        ('entities = ["PERSON"]', "no entity 'PERSON'"),
        (f'entities = ["PERSON"]\nrequest = {{ ner = "{model}" }}', "no entity 'PERSON'"),
        ('ner = "en_core_web_nowhere"', "no spaCy model"),
        ("response = { buffer = true }", "'buffer'"),
        ("request = { buffer = true }", "buffer"),
        ("buffer = true", "buffer"),
    ):
        with pytest.raises(SettingsError, match=message):
            section(text)


def test_what_one_direction_says_takes_the_place_of_what_both_do() -> None:
    found = section("threshold = 0.5\nkeys = true\nresponse = { threshold = 0.9 }\nrequest = { keys = false }")
    assert found.request == Direction(Find(threshold=0.5))
    assert found.response == Direction(Find(threshold=0.9), keys=True)


def test_what_a_route_says_takes_the_place_of_what_the_policy_does_key_by_key() -> None:
    found = section(
        """
        threshold = 0.5
        response = { mode = "restore", numbers = true }
        [policies.default.redact.routes.chat]
        keys = true
        request = "off"
        response = { mode = "replace", threshold = 0.9 }
        [policies.default.redact.routes."/jobs/*"]
        threshold = 0.8
        """
    )
    chat, jobs = found.of("chat"), found.of("/jobs/*")
    assert (chat.request, chat.restore) == (None, Restore.NONE)
    assert chat.response == Direction(Find(threshold=0.9), keys=True, numbers=True)
    assert (jobs.request, jobs.restore) == (Direction(Find(threshold=0.8)), Restore.ALL)
    assert found.of("another") is found
    assert len(directions_of(found)) == 5


@pytest.mark.parametrize(
    ("text", "request_on", "response_on", "restore"),
    [
        ('request = "off"', False, True, Restore.NONE),
        ('response = "off"', True, False, Restore.NONE),
        ('response = "restore"', True, True, Restore.ALL),
        ('response = "restore"\nrestore = ["text"]', True, True, Restore.TEXT),
        ('response = { mode = "restore" }\nrestore = ["arguments"]', True, True, Restore.ARGUMENTS),
        ('response = "restore"\nrestore = []', True, True, Restore.NONE),
        ("request = {}\nresponse = {}", True, True, Restore.NONE),
    ],
)
def test_modes_say_what_happens_in_a_direction(
    text: str,
    request_on: bool,  # noqa: FBT001
    response_on: bool,  # noqa: FBT001
    restore: Restore,
) -> None:
    found = section(text)
    assert (found.request is not None, found.response is not None, found.restore) == (
        request_on,
        response_on,
        restore,
    )


@pytest.mark.parametrize(
    ("text", "path", "suggestion"),
    [
        ("entities = ['EMAIL_ADRESS']", "entities[0]", "did you mean 'EMAIL_ADDRESS'?"),
        ("recognizers = ['EmailRecogniser']", "recognizers[0]", None),
        ("recognizers = ['no.such:thing']", "recognizers[0]", None),
        ("countries = ['XX']", "countries[0]", "it has some for AU"),
        ("phone_regions = ['DE', 'XX']", "phone_regions[1]", None),
        ("languages = ['English']", "languages[0]", None),
        ("operators = { EMAIL_ADRESS = 'hash' }", "operators.EMAIL_ADRESS", "did you mean 'EMAIL_ADDRESS'?"),
        ("operators = { US_SSN = 'hsah' }", "operators.US_SSN.kind", "did you mean 'hash'?"),
        ("operators = { US_SSN = 7 }", "operators.US_SSN", None),
        ("operators = { US_SSN = { kind = 'mask', value = 'x' } }", "operators.US_SSN", None),
        ("operators = { US_SSN = { kind = 'custom', function = 'no.such:f' } }", "operators.US_SSN.function", None),
        ("operators = { US_SSN = { kind = 'custom', function = 'os:sep' } }", "operators.US_SSN.function", None),
        ("fields = ['a', 'b..c']", "fields[1]", None),
        ("headers = ['x user']", "headers[0]", None),
        ("allow = { regex = ['(a+)+'] }", "allow.regex[0]", None),
        ("deny = { regex = ['a+'] }", "deny.regex[0]", None),
        ("deny = { domains = ['a b'] }", "deny.domains[0]", None),
        ("deny = { exact = [' a'] }", "deny.exact[0]", None),
        ("allow = { networks = ['10.0.0.1/8'] }", "allow.networks[0]", None),
        ("allow = { exakt = [] }", "allow.exakt", "did you mean 'exact'?"),
        ("allow = []", "allow", None),
        ("response = 'restored'", "response", "did you mean 'restore'?"),
        ("request = 'restore'", "request", None),
        ("request = 7", "request", None),
        ("request = { mode = 'restore' }", "request.mode", None),
        ("response = { query = true }", "response.query", None),
        ("restore = ['text']", "", None),
        ("restore = ['txt']", "restore[0]", "did you mean 'text'?"),
        ("routes = { chta = {} }", "routes.chta", "did you mean 'chat'?"),
        ("routes = { chat = { routes = {} } }", "routes.chat.routes", None),
        ("routes = { chat = 7 }", "routes.chat", None),
        ("known = { stripe = 'sk_live_verysecret' }", "known.stripe", None),
        ("known = { stripe = { env = 'NONE' } }", "known.stripe.env", None),
        ("known = { stripe = { file = 'none' } }", "known.stripe.file", None),
        ("known = { stripe = {} }", "known.stripe", None),
        ("known = { stripe = { env = 'SHORT' } }", "known.stripe", None),
    ],
)
def test_a_mistake_is_told_where_it_stands_with_what_was_meant(
    text: str, path: str, suggestion: str | None, tmp_path: Path
) -> None:
    found = problems(text, tmp_path, SHORT="hunter2")
    (problem,) = found
    assert problem.path == ".".join(part for part in ("policies.default.redact", path) if part)
    assert problem.line is not None
    assert suggestion is None or (problem.suggestion or "").startswith(suggestion)
    told = str(found)
    assert "verysecret" not in told
    assert "hunter2" not in told


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(
        "threshold = 2\n[policies.default.redact.request]\nkeyz = 1\n[policies.default.redact.routes.chta]\nkeys = 1"
    )
    assert [problem.path.removeprefix("policies.default.redact.") for problem in found] == ["threshold"]
    found = problems("[policies.default.redact.request]\nkeyz = 1\n[policies.default.redact.routes.chta]\nkeys = 1")
    assert {problem.path.removeprefix("policies.default.redact.") for problem in found} == {
        "request.keyz",
        "routes.chta",
        "routes.chta.keys",
    }


@pytest.mark.parametrize("name", ['["chat"]', "{}"])
def test_a_route_whose_name_cannot_be_is_told_where_a_policy_names_routes(name: str) -> None:
    route = f'[[routes]]\nmatch = "/x"\nname = {name}\n'
    text = f'{route}[tenancy]\nmode = "single"\n[policies.default.redact.routes.chat]\n'
    with pytest.raises(SettingsError, match=r"routes\[0\]\.name: must be text in quotes"):
        parse_settings(text, environ={})


def test_known_secrets_come_from_the_environment_or_a_file_and_show_nowhere(tmp_path: Path) -> None:
    (tmp_path / "db.key").write_text("hunter2-hunter2\n")
    found = section(
        'known = { stripe = { env = "STRIPE" }, db = { file = "db.key" } }', tmp_path, STRIPE="verysecretvalue"
    )
    assert found.request is not None
    assert found.request.find.known == (("stripe", "verysecretvalue"), ("db", "hunter2-hunter2"))
    assert "verysecret" not in repr(found)
    assert "hunter2" not in repr(found)


def test_a_users_own_recogniser_may_have_entities_and_operators_of_its_own() -> None:
    name = "tests_redact_recognizer:EMPLOYEES"
    import sys
    import types

    from presidio_analyzer import Pattern, PatternRecognizer

    module = types.ModuleType("tests_redact_recognizer")
    pattern = Pattern("employee", "EMP-[0-9]{6}", 0.9)
    module.EMPLOYEES = PatternRecognizer("EMPLOYEE_ID", patterns=[pattern])  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        found = section(
            f"recognizers = ['{name}']\nentities = ['EMPLOYEE_ID']\noperators = {{ EMPLOYEE_ID = 'redact' }}"
        )
    finally:
        del sys.modules[module.__name__]
    assert found.request is not None
    assert found.request.find.entities == ("EMPLOYEE_ID",)


def test_the_functions_of_custom_operators_are_imported() -> None:
    found = section("operators = { US_SSN = { kind = 'custom', function = 'posixpath:basename' } }")
    assert functions_of(found)["posixpath:basename"]("/a/b") == "b"


def test_failing_open_is_told_among_what_weakens_the_guard() -> None:
    text = HEAD + 'response = { on_error = "open" }\n[policies.other]\ninherit = "default"\n'
    read = parse_settings(text, environ={})
    assert [found for found in loopholes(read) if "on_error" in found] == [
        "policies.default.redact: on_error = 'open' passes on what could not be redacted, as it is"
    ]
