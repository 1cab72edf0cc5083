"""JSON redacted in place: values found through every escape, every other byte kept."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64decode, b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.redaction import json_text
from tenantguard.rules.redaction.fields import EVERYWHERE, Scope, compile_fields
from tenantguard.rules.redaction.json_text import (
    ANY_JSON,
    DEPTH_MAX,
    LLM_JSON,
    RPC_JSON,
    Kind,
    Shape,
    _read_quickly,
    decode,
    escape,
    json_edits,
    places,
    rewrite_json,
    rewrite_text,
    rpc_or_any,
)
from tenantguard.rules.redaction.text.rule import (
    MalformedTextError,
    RequestMask,
    ResponseScrub,
    SecretFoundError,
    TextRule,
    apply,
    text_edits,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
)


class Replacing:
    """Replaces one word, literally."""

    def __init__(self, word: str, new: str) -> None:
        self.replaced: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.reach = 0
        self._word = word
        self._new = new

    @property
    def arguments(self) -> Replacing:
        return self

    def clears(self, text: str) -> bool:
        return self._word not in text

    def find(self, text: str, after: int = 0) -> list[Match]:
        at = text.find(self._word)
        return [Match("X", at, at + len(self._word), 1.0)] if at >= 0 else []

    def own(self, text: str) -> list[Match]:
        return []

    def replace(self, entity: str, value: str) -> str:
        return self._new


@given(value=JSON, ascii_only=st.booleans(), indent=st.sampled_from([None, 1, "\t"]))
def test_places_are_what_a_json_reader_finds(value: Any, *, ascii_only: bool, indent: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)

    def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[Kind, tuple[str | int, ...], Any]]:
        if isinstance(value, dict):
            inner = [one for key, item in value.items() for one in (
                (Kind.KEY, (*path, key), key), *leaves(item, (*path, key)),
            )]  # fmt: skip
            return [*inner, (Kind.CONTAINER, path, None)]
        if isinstance(value, list):
            inner = [one for index, item in enumerate(value) for one in leaves(item, (*path, index))]
            return [*inner, (Kind.CONTAINER, path, None)]
        return [(Kind.STRING if isinstance(value, str) else Kind.SCALAR, path, value)]

    def short(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        return path if len(path) <= 9 else (*path[:8], path[-1])

    found = list(places(text))
    expected = leaves(value)
    assert [(place.kind, place.path) for place in found] == [(kind, short(path)) for kind, path, _ in expected]
    for place, (kind, _, leaf) in zip(found, expected, strict=True):
        literal = text[place.start : place.end]
        if kind in {Kind.STRING, Kind.KEY}:
            assert decode(literal) == leaf
        elif kind is Kind.CONTAINER:
            assert literal[0] + literal[-1] in {"{}", "[]"}


@given(st.text(), st.sampled_from('{}[],:"\\ \n01e.-tfn'), st.integers(min_value=0))
def test_what_python_refuses_is_refused_too(text: str, letter: str, at: int) -> None:
    for broken in (text, json.dumps({"a": [1, text]})[: at % 20], letter.join(json.dumps([text, {"k": 1.5}]))):
        try:
            json.loads(broken)
        except ValueError:
            with pytest.raises(MalformedTextError):
                list(places(broken))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "[1,]", '{"a":1,}', "{'a':1}", '{"a" 1}', "[1 2]", '"\n"', '"\\q"', "01", "nul", "[}", "1 1",
        '{"a"}', "\ufeff{}", "+1", ".5", '"\\u12g4"', '"',
    ],
)  # fmt: skip
def test_text_that_is_no_json_is_an_error_that_repeats_none_of_it(text: str) -> None:
    with pytest.raises(MalformedTextError, match=r"no JSON at character \d+$"):
        list(places(text))


KEYS = st.sampled_from(["a", "id", "type", "arguments", "input", "logprobs", "content", "jsonrpc", "@", "k:", '"'])
WORDS = st.sampled_from([
    "", "john@smith.com", "call_1", "a@b", '{"mail":"john@smith.com"}', '{"john@smith.com":[1,"a@b"]}', "[", ':"@",',
    "\\", "\n@", "é@", "<EMAIL_ADDRESS_k7f3q2abcd>", "2.0", '{"a":"john\\u0040smith.com"}', "aB3/" * 80,
    b64encode(b"write to john@smith.com now " * 9).decode(), b64encode(b"nothing to be seen in here " * 9).decode(),
    "data:text/plain;base64," + b64encode(b'{"m":"john\\u0040smith.com"}').decode(), "data:;base64,", "data:x",
    b64encode(b64encode(b"write to john@smith.com now " * 12)).decode(),
    json.dumps({"file": b64encode(b"write to john@smith.com now " * 9).decode(), "image": "aB3/" * 80}),
    json.dumps({"file": b64encode(b"nothing to be seen in here " * 9).decode(), "image": "aB3/" * 80}),
])  # fmt: skip
BODIES = st.recursive(
    st.none() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(tuple),
    max_leaves=12,
)


def written(value: Any, space: str, *, ascii_only: bool) -> str:
    """JSON text; an object is a tuple of pairs, so that keys can occur twice."""
    if isinstance(value, tuple):
        pairs = [
            f"{json.dumps(key)}{space}:{space}{written(item, space, ascii_only=ascii_only)}" for key, item in value
        ]
        return f"{{{space}{f'{space},{space}'.join(pairs)}{space}}}"
    if isinstance(value, list):
        items = [written(item, space, ascii_only=ascii_only) for item in value]
        return f"[{space}{f'{space},{space}'.join(items)}]"
    return json.dumps(value, ensure_ascii=ascii_only).replace("@", "\\u0040" if ascii_only else "@")


def in_place(text: str, rule: TextRule, shape: Shape) -> bytes:
    shape = rpc_or_any(places(text), text) if shape is ANY_JSON else shape
    return apply(text, json_edits(places(text), text, rule, shape)).encode()


@given(value=BODIES, space=st.sampled_from(["", " ", "\r\n\t"]), ascii_only=st.booleans())
def test_a_small_text_becomes_what_a_large_one_becomes(
    tools: Any, value: Any, space: str, *, ascii_only: bool
) -> None:
    text = space + written(value, space, ascii_only=ascii_only) + space
    for shape in (ANY_JSON, LLM_JSON):
        small, large = tools.mask(), tools.mask()
        asked = None if shape is ANY_JSON else shape
        assert rewrite_json(text.encode(), small, asked) == in_place(text, large, shape)
        assert small.replaced == large.replaced
        assert small.skipped == large.skipped


@given(text=st.text(), letter=st.sampled_from('{}[],:"\\ \n01e.-tfn'), at=st.integers(min_value=0))
def test_a_small_text_that_is_no_json_is_refused_as_a_large_one_is(
    tools: Any, text: str, letter: str, at: int
) -> None:
    whole = json.dumps({"a": [1, "john@smith.com", text]})
    broken = whole[: at % len(whole)] + letter + whole[at % len(whole) + 1 :]
    rule = tools.mask()
    try:
        expected = in_place(broken, tools.mask(), ANY_JSON)
    except MalformedTextError:
        with pytest.raises(MalformedTextError):
            rewrite_json(broken.encode(), rule)
    else:
        assert rewrite_json(broken.encode(), rule) == expected


def test_a_text_is_one_text_whatever_its_size(tools: Any) -> None:
    small = b'{"a":"john@smith.com","n":[1,2]}'
    large = small[:-2] + b",3" * 140_000 + small[-2:]
    assert rewrite_json(large, tools.mask())[:40] == rewrite_json(small, tools.mask())[:40]


class Asked(Replacing):
    """Keeps what it was asked."""

    def __init__(self, word: str, new: str) -> None:
        super().__init__(word, new)
        self.looked: list[str] = []
        self.searched: list[str] = []

    def clears(self, text: str) -> bool:
        self.looked.append(text)
        return super().clears(text)

    def find(self, text: str, after: int = 0) -> list[Match]:
        self.searched.append(text)
        return super().find(text, after)


def test_a_clean_body_is_looked_at_once_and_a_string_only_where_the_whole_is_not_clear() -> None:
    data = b'{"":"","a":["",1,null,"b"],"x":"y\\u007a"}'
    rule = Asked("x", "y")
    assert rewrite_json(data, rule) is data
    (looked,) = rule.looked
    assert looked.split("\n\0\n") == ["b", "yz"]
    assert rule.searched == []
    rule = Asked("z", "")
    assert rewrite_json(data, rule) == data.replace(b"\\u007a", b"")
    assert rule.searched == ["yz"]


def test_what_the_protocol_owns_or_no_text_is_not_looked_at() -> None:
    rule = Asked("@", "")
    image = "data:image/png;base64," + "aB3/" * 30
    data = json.dumps({"id": "call_1", "role": "user", "content": "hello", "image": image}).encode()
    assert rewrite_json(data, rule, LLM_JSON) is data
    assert rule.looked == ["hello"]
    assert rule.skipped == {"base64": 1}


def test_bytes_that_are_not_utf8_are_an_error(tools: Any) -> None:
    for data in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16")):
        with pytest.raises(MalformedTextError):
            rewrite_json(data, tools.mask())


def test_every_byte_that_is_no_personal_data_stays(tools: Any) -> None:
    data = (
        b'{ "n":12345678901234567890.10, "n" : 1e400,\t"a":"caf\\u00e9 \\/ x",\r\n"b":["mail a@b.io!",'
        b'"\\ud83d\\ude00"], "c":"\xc3\xa9", "dup":"a@b.io","dup":"a@b.io", "nan":NaN }  '
    )
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io").encode()
    assert rewrite_json(data, tools.mask(vault)) == data.replace(b"a@b.io", token)


def test_clean_json_is_returned_as_it_came(tools: Any) -> None:
    """E-67."""
    data = b'{"messages":[{"role":"user","content":"hello"}]}'
    assert rewrite_json(data, tools.mask()) is data


@pytest.mark.parametrize(
    "literal",
    [
        r"\u006aohn\u0040smith.com",
        r"john@smith.c\u006fm",
        r"\"john@smith.com\"",
        r"\ud83d\ude00 john@smith.com \u00e9",
    ],
)
def test_escapes_hide_nothing_and_those_around_a_value_stay(tools: Any, literal: str) -> None:
    vault = tools.vault()
    redacted = rewrite_json(f'["{literal}"]'.encode(), tools.mask(vault)).decode()
    (value,) = json.loads(redacted)
    assert "smith" not in redacted
    token = vault.mint("EMAIL_ADDRESS", "john@smith.com")
    assert value == json.loads(f'["{literal}"]')[0].replace("john@smith.com", token)
    assert redacted.endswith(r"\u00e9" + '"]') == literal.endswith(r"\u00e9")


@pytest.mark.parametrize("new", ["$1", r"\1", r"\g<0>", '"', "\\", "\n", "\ud800", "é"])
def test_what_is_inserted_is_literal_and_escaped_for_json(new: str) -> None:
    """E-14, E+14."""
    redacted = rewrite_json(b'{"a":"x word y","b":"\\u0077ord\\u0021"}', Replacing("word", new))
    assert json.loads(redacted) == {"a": f"x {new} y", "b": f"{new}!"}
    assert b"\\u0021" in redacted


@given(st.text(st.characters(codec=None)))
def test_an_escaped_text_is_read_back_as_it_was(text: str) -> None:
    literal = f'"{escape(text)}"'
    assert literal.encode()
    assert [ord(letter) for letter in json.loads(literal)] == [ord(letter) for letter in json.loads(json.dumps(text))]


def test_keys_and_numbers_are_redacted_by_option(tools: Any) -> None:
    """E+16: a number becomes a string."""
    data = b'{"a@b.io":4111111111111111,"x":[-4111111111111111.50, 12, 1e999]}'
    assert rewrite_json(data, tools.mask()) is data
    keys = rewrite_json(data, tools.mask(), scope=Scope(keys=True))
    assert keys.startswith(b'{"<EMAIL_ADDRESS_')
    assert keys.endswith(data[9:])
    vault = tools.vault()
    token = vault.mint("CREDIT_CARD", "4111111111111111").encode()
    numbers = rewrite_json(data, tools.mask(vault), scope=Scope(numbers=True))
    assert numbers == b'{"a@b.io":"%s","x":["-%s.50", 12, 1e999]}' % (token, token)
    restored = rewrite_json(numbers, tools.scrub(vault, restore=True))
    assert restored == data.replace(b"4111111111111111", b'"4111111111111111"', 1).replace(
        b"-4111111111111111.50", b'"-4111111111111111.50"'
    )
    clean = b'{"a":[1,-2.5,12345678901234567890]}'
    assert rewrite_json(clean, tools.mask(), scope=Scope(keys=True, numbers=True)) is clean


@pytest.mark.parametrize(
    ("only", "skip", "left"),
    [
        (["messages[*].content"], [], ["user", "name"]),
        (["**.content"], ["messages[1]"], ["user", "name", "second"]),
        ([], ["user", "**.name"], ["user", "name"]),
        (["nothing"], [], ["user", "name", "first", "second"]),
        (["messages"], [], ["user"]),
    ],
)
def test_only_the_fields_of_the_policy_are_looked_at(tools: Any, only: Any, skip: Any, left: list[str]) -> None:
    text = json.dumps({
        "user": "user@b.io",
        "messages": [{"content": "first@b.io", "name": "name@b.io"}, {"content": [{"text": "second@b.io"}]}],
    })  # fmt: skip
    redacted = rewrite_text(text, tools.mask(), scope=Scope(compile_fields(only, skip)))
    assert [name for name in ("user", "name", "first", "second") if f"{name}@b.io" in redacted] == left
    keyed = f'{{"{text[2:6]}@b.io":1,"messages":[{{"content":{{"first@b.io":1}}}}]}}'
    scope = Scope(compile_fields(["messages[*].content"]), keys=True, numbers=True)
    assert rewrite_text(keyed, tools.mask(), scope=scope).count("@b.io") == 1


def test_a_field_is_found_however_deep_it_lies(tools: Any) -> None:
    text = '{"a":' * 50 + '{"mail":"a@b.io","note":"a@b.io"}' + "}" * 50
    redacted = rewrite_text(text, tools.mask(), scope=Scope(compile_fields(["**.mail"])))
    assert redacted.count("a@b.io") == 1


def test_a_text_as_deep_as_is_allowed_is_redacted(tools: Any) -> None:
    levels = DEPTH_MAX - 1
    data = b'{"a":' * levels + b'["a@b.io"]' + b"}" * levels
    assert b"a@b.io" not in rewrite_json(data, tools.mask())


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 10_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"1}"), (b"[", b"")])
def test_depth_is_no_danger(tools: Any, depth: int, opening: bytes, closing: bytes) -> None:
    """E+17: what nests more deeply is refused where that is seen, before memory is spent on the rest."""
    with pytest.raises(MalformedTextError, match="too deeply"):
        rewrite_json(opening * depth + closing * depth, tools.mask())


def test_system_prompt_messages_and_tool_results_are_all_redacted(tools: Any) -> None:
    """E-63, E-65, E-78, C-40: every role, and the parts of a message."""
    body = {
        "model": "gpt-5-mini",
        "user": "a@b.io",
        "messages": [
            {"role": "system", "content": "you serve a@b.io"},
            {"role": "user", "content": [{"type": "text", "text": "I am a@b.io"}]},
            {"role": "assistant", "content": "hello a@b.io"},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"mail":"a@b.io"}'},
        ],
    }
    rule = tools.mask()
    assert b"a@b.io" not in rewrite_json(json.dumps(body).encode(), rule, LLM_JSON)
    assert rule.replaced == {"EMAIL_ADDRESS": 5}


def test_tool_arguments_stay_json_whatever_is_replaced_in_them() -> None:
    """E-66 gives way: arguments are redacted."""
    arguments = {'k"word': 'say "word", now', "n": 1}
    data = json.dumps({"function": {"arguments": json.dumps(arguments)}}).encode()
    redacted = json.loads(rewrite_json(data, Replacing("word", '"\\'), LLM_JSON))
    assert json.loads(redacted["function"]["arguments"]) == {'k""\\': 'say ""\\", now', "n": 1}


def test_arguments_that_are_no_json_are_plain_text(tools: Any) -> None:
    for arguments in ("write to a@b.io", '{"to":"a@b.io', '"a@b.io"', "{a@b.io}"):
        data = json.dumps({"arguments": arguments}).encode()
        assert b"a@b.io" not in rewrite_json(data, tools.mask(), LLM_JSON)


@pytest.mark.parametrize(
    ("cut", "hidden"),
    [
        ('{"to":"john\\u0040smith.com', "john\\u0040smith.com"),
        ('["\\/ john\\u0040smith\\u002ecom \\q \\n', "john\\u0040smith\\u002ecom"),
        ("{ \\u006aohn@smith.com }", "\\u006aohn@smith.com"),
        ('{"a":"\\ud83d\\ude00","b":"john\\u0040smith.com"', "john\\u0040smith.com"),
    ],
)
def test_arguments_that_are_cut_short_hide_nothing_in_escapes(tools: Any, cut: str, hidden: str) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "john@smith.com")
    redacted = rewrite_json(json.dumps({"arguments": cut}).encode(), tools.mask(vault), LLM_JSON)
    assert json.loads(redacted)["arguments"] == cut.replace(hidden, token)


def test_a_protocols_own_identifiers_stay_and_nothing_else_under_their_keys_does(tools: Any) -> None:
    number = "4111-1111-1111-1111"
    named = f"call-{number}"
    data = json.dumps({"id": named, "call_id": number, "type": "a@b.io", "x": number, "role": "7"}).encode()
    redacted = json.loads(rewrite_json(data, tools.mask(), LLM_JSON))
    assert (redacted["id"], redacted["role"]) == (named, "7")
    assert redacted["call_id"].startswith("<CREDIT_CARD_")
    assert redacted["x"].startswith("<CREDIT_CARD_")
    assert redacted["type"].startswith("<EMAIL_ADDRESS_")
    assert "<CREDIT_CARD_" in json.loads(rewrite_json(data, tools.mask(), ANY_JSON))["id"]


@pytest.mark.parametrize("key", ["input", "args", "arguments"])
@pytest.mark.parametrize("depth", [1, 3])
def test_in_the_arguments_of_a_tool_no_key_is_the_protocols(tools: Any, key: str, depth: int) -> None:
    inner: Any = {"id": "card-4111-1111-1111-1111", "model": "m"}
    for _ in range(depth):
        inner = {"type": inner}
    redacted = rewrite_json(
        json.dumps({"content": [{"type": "tool_use", key: inner}]}).encode(), tools.mask(), LLM_JSON
    )
    assert b"4111" not in redacted
    assert b'"type": "tool_use"' in redacted


@pytest.mark.parametrize("shape", [ANY_JSON, LLM_JSON])
def test_json_inside_of_a_string_is_read_as_json(tools: Any, shape: Shape) -> None:
    inner = json.dumps({"u": "x\njohn@smith.com", "hidden": "john@smith.com"}).replace("hn@", "hn\\u0040", 1)
    redacted = json.loads(rewrite_json(json.dumps({"t": inner}).encode(), tools.mask(), shape))
    assert "smith" not in redacted["t"]
    assert json.loads(redacted["t"])["u"].startswith("x\n<EMAIL_ADDRESS_")


def test_token_probabilities_are_dropped_with_the_text_that_they_repeat(tools: Any) -> None:
    def choice(text: str) -> dict[str, Any]:
        tokens = [{"token": part, "bytes": list(part.encode()), "logprob": -1.0} for part in text.split("@")]
        return {"message": {"content": text}, "logprobs": {"content": tokens}}

    data = json.dumps({"choices": [choice("clean"), choice("a@b.io")]}).encode()
    redacted = json.loads(rewrite_json(data, tools.scrub(), LLM_JSON))
    assert redacted["choices"][0] == choice("clean")
    assert redacted["choices"][1]["logprobs"] is None


@pytest.mark.parametrize(
    ("value", "opaque"),
    [
        ("data:image/png;base64," + "4111111111111111" * 4, True),
        ("data:text/plain;base64," + "4111111111111111" * 4, False),
        ("data:image/png;base64,4111 1111 1111 1111", False),
        ("aB3/" * 64 + "4111111111111111" + "=" * 0, True),
        ("4111111111111111/" * 16, False),
        ("aB3/4111111111111111", False),
    ],
)
def test_a_binary_value_in_base64_passes_like_a_binary_body(value: str, *, opaque: bool) -> None:
    data = json.dumps([value]).encode()
    assert (rewrite_json(data, Replacing("1111", "-")) == data) is opaque


@pytest.mark.parametrize(
    "head", ["", "data:text/plain;charset=utf-8;base64,", "data:;base64,", "DATA:application/pdf;base64,"]
)
def test_a_text_in_base64_is_seen_through(tools: Any, head: str) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    text = "é write to a@b.io, or do not. " * 9
    sent = json.loads(
        rewrite_json(json.dumps([head + b64encode(text.encode()).decode()]).encode(), tools.mask(vault))
    )[0]
    assert sent.startswith(head)
    assert b64decode(sent[len(head) :]).decode() == text.replace("a@b.io", token)
    back = rewrite_json(json.dumps([sent]).encode(), tools.scrub(vault, restore=True))
    assert b64decode(json.loads(back)[0][len(head) :]).decode() == text


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("more", ["", "?", "??"])
def test_a_text_in_base64_for_urls_is_seen_through(tools: Any, more: str, *, pad: bool) -> None:
    """Such a one, or one without padding, is only what says a text: anything else is looked at as it stands."""
    text = "Größe? write to john@smith.com?>?" + "~~~???>>>" * 30 + more

    def coded(text: str) -> str:
        padded = urlsafe_b64encode(text.encode()).decode()
        return padded if pad else padded.rstrip("=")

    assert "_" in coded(text)
    said = json.loads(rewrite_json(json.dumps({"raw": coded(text)}).encode(), tools.scrub()))["raw"]
    assert said == coded(apply(text, text_edits(tools.scrub(), text)))
    assert rewrite_json(json.dumps({"raw": said}).encode(), tools.scrub()) == json.dumps({"raw": said}).encode()
    binary = f"{'a-B_3' * 52}-4111-1111-1111-1111"
    assert b"CREDIT_CARD" in rewrite_json(json.dumps([binary]).encode(), tools.scrub())


def test_a_clean_text_in_base64_stays(tools: Any) -> None:
    data = json.dumps([b64encode(b'{"a":"nothing of interest"}' * 20).decode()]).encode()
    rule = tools.mask()
    assert rewrite_json(data, rule) is data
    assert rule.skipped == {}


RPC_CALL = {
    "jsonrpc": "2.0", "id": "4111-1111-1111-1111", "method": "tools/call",
    "params": {
        "name": "4111-1111-1111-1111",
        "arguments": {"name": "4111-1111-1111-1111", "id": "a@b.io", "type": "4111-1111-1111-1111"},
        "_meta": {"progressToken": "4111-1111-1111-1111", "who": "a@b.io"},
    },
}  # fmt: skip
RPC_RESULT = {
    "jsonrpc": "2.0", "id": 4111111111111111, "result": {
        "content": [
            {"type": "text", "text": "a@b.io"}, {"type": "image", "data": "aB3/" * 80, "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "mailto:a@b.io", "mimeType": "text/x", "text": "a@b.io"}},
        ],
        "structuredContent": {"type": "4111-1111-1111-1111", "jsonrpc": "a@b.io"}, "isError": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("batch", [False, True])
def test_of_tool_traffic_in_json_rpc_the_identifiers_stay_and_nothing_else(tools: Any, *, batch: bool) -> None:
    call, result = tools.mask(), tools.scrub()
    sent = json.loads(rewrite_json(json.dumps([RPC_CALL] if batch else RPC_CALL).encode(), call, None))
    sent = sent[0] if batch else sent
    assert {key: sent[key] for key in ("jsonrpc", "id", "method")} == {
        key: RPC_CALL[key] for key in ("jsonrpc", "id", "method")
    }
    assert sent["params"]["name"] == sent["params"]["_meta"]["progressToken"] == "4111-1111-1111-1111"
    assert call.replaced == {"CREDIT_CARD": 2, "EMAIL_ADDRESS": 2}
    back = rewrite_json(json.dumps([RPC_RESULT] if batch else RPC_RESULT).encode(), result, None)
    assert result.replaced == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 4}
    assert result.skipped == {"base64": 1}
    assert b'"id": 4111111111111111' in back


def test_what_does_not_say_that_it_is_json_rpc_has_no_identifiers(tools: Any) -> None:
    for text in (
        '{"id":"4111-1111-1111-1111","x":{"jsonrpc":"2.0"}}',
        '{"jsonrpc":"1.0","id":"4111-1111-1111-1111"}',
    ):
        assert b"4111" not in rewrite_json(text.encode(), tools.mask(), None)
        assert rpc_or_any(places(text), text) is ANY_JSON
    for text in ('{"a":1,"jsonrpc":"2.0"}', '[{"jsonrpc":"2.0"}]'):
        assert rpc_or_any(places(text), text) is RPC_JSON


def test_tool_arguments_follow_their_own_rule_whether_they_are_a_string_or_an_object(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    body = {
        "choices": [{"message": {"content": token, "tool_calls": [{"function": {"arguments": f'["{token}"]'}}]}}],
        "content": [{"type": "text", "text": token}, {"type": "tool_use", "name": "send", "input": {"to": [token]}}],
        "candidates": [{"content": {"parts": [{"functionCall": {"name": "send", "args": {"to": token}}}]}}],
        "input": [{"role": "user", "content": token}],
    }  # fmt: skip
    data = json.dumps(body).encode()
    for told, arguments, left in ((True, False, 3), (False, True, 3), (True, True, 0), (False, False, 6)):
        rule = ResponseScrub(tools.detecting(tools.detect), vault, restore=told, restore_arguments=arguments)
        back = rewrite_json(data, rule, LLM_JSON)
        assert back.count(token.encode()) == left
    only_text = rewrite_json(
        data, ResponseScrub(tools.detecting(tools.detect), vault, restore=True, restore_arguments=False), LLM_JSON
    )
    assert json.loads(only_text)["input"][0]["content"] == "a@b.io"
    assert json.loads(only_text)["content"][1]["input"]["to"] == [token]


class Refusing(RequestMask):
    def replace(self, entity: str, value: str) -> str:
        raise SecretFoundError(entity)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": [{"content": "x"}, {"content": "a@b.io"}]}, "messages[1].content"),
        ({"a@b.io": "a@b.io"}, "?"),
        (["x", {"k": ["x", "a@b.io"]}], "[1].k[1]"),
        ({"arguments": '{"to":{"mail":"a@b.io"}}'}, "arguments:to.mail"),
        ({"arguments": '{"a@b.io":1}'}, "arguments:?"),
    ],
)
def test_a_secret_is_told_with_its_place_and_never_with_itself(tools: Any, body: Any, place: str) -> None:
    """S+7."""
    for scope in (Scope(), Scope(compile_fields(["**"]))):
        rule = Refusing(tools.detecting(tools.detect), tools.vault(), escape=False)
        with pytest.raises(SecretFoundError) as caught:
            rewrite_json(json.dumps(body).encode(), rule, LLM_JSON, scope)
        assert caught.value.location == place
        assert "b.io" not in str(caught.value)


@pytest.mark.parametrize("start", ['["', '{"arguments":"{\\"'])
@pytest.mark.parametrize("part", ['\\"', '"\\q', '\\\\\\"', "\\u00"])
def test_a_hostile_text_costs_linear_time(tools: Any, start: str, part: str) -> None:
    with pytest.raises(MalformedTextError):
        rewrite_text(start + part * 200_000, tools.mask(), LLM_JSON)
    rewrite_text(json.dumps({"arguments": start + part * 100_000}), tools.mask(), LLM_JSON)


@pytest.mark.parametrize("size", [262_144, 900_000])
@pytest.mark.parametrize("part", ['"",', "1,", "1000,", "0.5,", "[],", '{"a":"b"},', '"\\u0041",'])
def test_a_hostile_text_costs_little_memory_to_read(part: str, size: int) -> None:
    text = f"[{part * (size // len(part))}1]"
    tracemalloc.start()
    try:
        _read_quickly(text, None, EVERYWHERE)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_a_list_of_many_numbers_is_read_without_looking_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "places", None)
    text = json.dumps({"data": [{"embedding": [0.5, -1e-9, 12345] * 50_000, "object": "embedding"}]})
    assert rewrite_text(text, Replacing("x", "y"), LLM_JSON) is text


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_string_that_is_json_of_a_string_hides_nothing(tools: Any, times: int) -> None:
    text = json.dumps({"a": "x"})
    for _ in range(times - 1):
        text = json.dumps(text)
    coded = text.replace("x", "a\\u0040b.io")
    for data in (json.dumps({"t": coded}), json.dumps({"t": coded, "u": "c@d.io"})):
        assert "b.io" not in rewrite_json(data.encode(), tools.mask()).decode()
