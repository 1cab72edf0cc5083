"""``tenantguard redact``: text and questions on standard input, files, colour and the table."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import spacy

from tenantguard.adapters.encryption import ValueCipher
from tenantguard.adapters.identity.keys import hash_key
from tenantguard.cli import main

if TYPE_CHECKING:
    from pathlib import Path

KEY = "AKIA" + "IOSFODNN7" + "QWERTYU"


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def redact(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], data: bytes, *argv: str
) -> tuple[int, list[bytes], list[str]]:
    feed(monkeypatch, data)
    code = main(["redact", *argv])
    captured = capsysbinary.readouterr()
    return code, captured.out.splitlines(), captured.err.decode().splitlines()


def test_lines_of_json_are_answered_in_kind(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = [
        {"text": "Write to ann@example.com or bob@example.org"},
        {"text": "café 🙂 ann@example.com, +1 415 555 2671", "entities": ["EMAIL_ADDRESS"]},
        {"text": "NIF 12345678Z", "language": "es", "recognizers": ["EsNifRecognizer"]},
        {"text": "12345678Z ann@example.com", "threshold": 1.0},
        {"text": ""},
        {"text": "\ud800 lone"},
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    code, out, err = redact(monkeypatch, capsysbinary, data)
    assert (code, err) == (0, [])
    answers = [json.loads(line) for line in out]
    assert [answer["text"] for answer in answers] == [
        "Write to <EMAIL_ADDRESS> or <EMAIL_ADDRESS>",
        "café 🙂 <EMAIL_ADDRESS>, +1 415 555 2671",
        "NIF <ES_NIF>",
        "12345678Z <EMAIL_ADDRESS>",
        "",
        "\ud800 lone",
    ]
    assert answers[0]["matches"] == [
        {"entity": "EMAIL_ADDRESS", "start": 9, "end": 24, "score": 1.0},
        {"entity": "EMAIL_ADDRESS", "start": 28, "end": 43, "score": 1.0},
    ]
    for line, answer in zip(lines, answers, strict=True):
        for match in answer["matches"]:
            assert str(line["text"])[match["start"] : match["end"]] not in answer["text"]


def test_a_bad_line_is_told_by_its_number_and_the_others_are_answered(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    bad = [
        (b"nope", "not JSON (column 1)"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'text' must be there"),
        (b'{"text": 3}', "'text' must be there"),
        (b'{"text": "a", "entitis": []}', "unknown key 'entitis'"),
        (b'{"text": "a", "entities": "EMAIL_ADDRESS"}', "'entities' must be a list"),
        (b'{"text": "a", "recognizers": [1]}', "'recognizers' must be a list"),
        (b'{"text": "a", "language": null}', "'language' must be text"),
        (b'{"text": "a", "threshold": "0.5"}', "'threshold' must be a number"),
        (b'{"text": "a", "threshold": NaN}', "'threshold' must be a number"),
        (b'{"text": "a", "entities": ["EMAIL_ADRESS"]}', "EMAIL_ADRESS"),
        (b'{"text": "a", "recognizers": ["NoRecognizer"]}', "NoRecognizer"),
        (b"\xff", "not JSON"),
    ]
    good = b'{"text": "ann@example.com"}'
    data = b"\n".join([good, b"", *(line for line, _ in bad), good])
    code, out, err = redact(monkeypatch, capsysbinary, data)
    assert code == 1
    assert [json.loads(line)["text"] for line in out] == ["<EMAIL_ADDRESS>"] * 2
    assert len(err) == len(bad)
    for number, (told, (_, message)) in enumerate(zip(err, bad, strict=True), 3):
        assert told.startswith(f"line {number}: ")
        assert message in told


def test_text_is_one_text_over_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    key = f"-----BEGIN {'PRIVATE'} KEY-----\n{'MIIEvQIBADANBgkqhkiG9w0BAQEFAASC' * 4}\n-----END {'PRIVATE'} KEY-----"
    text = f"\nWrite to ann@example.com\r\nno end of line: {key}"
    feed(monkeypatch, text.encode())
    assert main(["redact"]) == 0
    assert capsysbinary.readouterr().out == b"\nWrite to <EMAIL_ADDRESS>\r\nno end of line: <PRIVATE_KEY>"


def test_what_is_no_text_is_told_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, _, err = redact(monkeypatch, capsysbinary, b"ann@example.com\n\xff\nbob@example.org\n")
    assert (code, err) == (1, ["standard input: the text is not in utf-8"])


def test_options_say_what_to_look_for(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    line = b'{"a": "ann@example.com, 192.0.2.1"}\n'
    code, out, _ = redact(monkeypatch, capsysbinary, line, "--format", "text", "--entities", "IP_ADDRESS")
    assert (code, out) == (0, [b'{"a": "ann@example.com, <IP_ADDRESS>"}'])
    assert redact(monkeypatch, capsysbinary, b"a\n", "--entities", "NOTHING")[0] == 2
    with pytest.raises(SystemExit):
        main(["redact", "--threshold", "2"])


def test_each_line_is_answered_before_the_next_is_sent() -> None:
    command = [sys.executable, "-c", "from tenantguard.cli import main; raise SystemExit(main(['redact']))"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in ("ann", "bob"):
            process.stdin.write(json.dumps({"text": f"{name}@example.com"}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == "<EMAIL_ADDRESS>"
        process.stdin.close()
        assert process.wait() == 0


def test_a_question_asks_for_context_and_secrets_itself(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = f"my bank account is 945456787654 and the key {KEY}"
    lines = [{"text": text}, {"text": text, "context": True}, {"text": text, "secrets": True}]
    _, out, _ = redact(monkeypatch, capsysbinary, "\n".join(map(json.dumps, lines)).encode())
    found = [[match["entity"] for match in json.loads(line)["matches"]] for line in out]
    assert found == [[], ["US_BANK_NUMBER"], ["AWS_ACCESS_KEY_ID"]]


def test_a_switch_of_a_question_is_true_or_false(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, _, err = redact(monkeypatch, capsysbinary, b'{"text": "a", "secrets": 1}')
    assert (code, err) == (1, ["line 1: 'secrets' must be true or false"])


def test_files_keep_their_shape_and_go_into_a_folder(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "a.json").write_bytes(b'{"mail" : "ann@example.com", "big": 123456789012345678901234567890}')
    (source / "deep" / "b.ndjson").write_bytes(b'{"m":"bob@example.org"}\n\n{"n":1}\n')
    (source / "c.txt").write_bytes(f"the key {KEY} is\n".encode())
    (source / "d.png").write_bytes(b"\x89PNG ann@example.com")
    (source / ".hidden").write_bytes(b"ann@example.com")
    target = tmp_path / "out"
    assert main(["redact", str(source), "--output", str(target), "--summary"]) == 0
    written = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert written == {
        "in/a.json": b'{"mail" : "<EMAIL_ADDRESS>", "big": 123456789012345678901234567890}',
        "in/deep/b.ndjson": b'{"m":"<EMAIL_ADDRESS>"}\n\n{"n":1}\n',
        "in/c.txt": b"the key <AWS_ACCESS_KEY_ID> is\n",
        "in/d.png": b"\x89PNG ann@example.com",
    }
    table = capsysbinary.readouterr().err.decode()
    assert "4 inputs" in table
    assert "EMAIL_ADDRESS" in table
    assert "not looked at" in table


def test_a_text_is_redacted_whatever_it_is_written_in_or_called(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = {
        "a.txt": "utf-16", "b.log": "utf-16", "c": "utf-32", "d.csv": "utf-8-sig", "e.ts": "utf-8", "f.svg": "utf-8",
        "g.json": "utf-16", "h.png": "utf-16",
    }  # fmt: skip
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, charset in files.items():
        (source / name).write_bytes('["Größe", "ann@example.com"]'.encode(charset))
    (source / "i.txt").write_bytes("ann@example.com".encode("utf-16-le"))
    assert main(["redact", str(source), "--output", str(target)]) == 1
    written = {path.name: path.read_bytes().decode(files[path.name]) for path in (target / "in").iterdir()}
    assert written == dict.fromkeys(files, '["Größe", "<EMAIL_ADDRESS>"]')
    told = capsysbinary.readouterr().err.decode()
    assert told.startswith(f"{source / 'i.txt'}: there are null characters in the text")


def test_a_file_that_cannot_be_redacted_is_written_nowhere_and_the_others_are(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "bad.json").write_bytes(b'{"mail": "ann@example.com",')
    (tmp_path / "good.json").write_bytes(b'{"mail": "ann@example.com"}')
    target = tmp_path / "out"
    code = main(["redact", str(tmp_path / "bad.json"), str(tmp_path / "good.json"), "--output", str(target)])
    assert code == 1
    assert [path.name for path in target.iterdir()] == ["good.json"]
    told = capsysbinary.readouterr().err.decode()
    assert told.startswith(f"{tmp_path / 'bad.json'}: ")
    assert "ann@" not in told


def test_two_files_are_not_written_over_one_another(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_bytes(b"x")
    files = [str(tmp_path / folder / "same.txt") for folder in ("a", "b")]
    assert main(["redact", *files, "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_operators_are_chosen_by_entity_and_for_the_others(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    text = b"ann@example.com, 192.0.2.1, 4111 1111 1111 1111"
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    options = ["--operator", "mask", "--operator", "IP_ADDRESS=redact", "--operator", "EMAIL_ADDRESS=hash"]
    assert redact(monkeypatch, capsysbinary, text, *options)[0] == 2
    code, out, _ = redact(monkeypatch, capsysbinary, text, *options, "--key-file", str(key))
    hashed, address, card = out[0].split(b", ")
    assert code == 0
    assert len(hashed) == 64
    assert (address, card) == (b"", b"*" * 19)


def test_a_tenants_policy_redacts_as_its_requests(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    settings = tmp_path / "tenantguard.toml"
    settings.write_text(
        f'[[tenancy.keys]]\nid = "a"\ntenant = "acme"\nhash = "{hash_key("k" * 20)}"\n'
        '[redaction]\nkey = "a key for this test alone, of 32 bytes and more"\n'
        "[policies.acme]\n"
        'redact = { entities = ["EMAIL_ADDRESS", "IP_ADDRESS"], operators = { IP_ADDRESS = "mask" } }\n'
        '[policies.plain]\nrate = "1/second"\n',
        encoding="utf-8",
    )
    options = ["--policy", str(settings), "--tenant"]
    code, out, _ = redact(
        monkeypatch, capsysbinary, b"ann@example.com 192.0.2.1 4111 1111 1111 1111", *options, "acme"
    )
    assert code == 0
    assert out[0].startswith(b"<EMAIL_ADDRESS_")
    assert out[0].endswith(b"> ********* 4111 1111 1111 1111")
    code, _, err = redact(monkeypatch, capsysbinary, b"a", *options, "plain")
    assert code == 2
    assert "'plain' has no 'redact'" in err[-1]
    assert redact(monkeypatch, capsysbinary, b"a", "--tenant", "acme")[0] == 2


def test_who_has_the_key_opens_what_the_command_encrypted(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    """As what the guard encrypted: with the key that stands in the file, and the tenant where there is one."""
    key = b"a key for this test alone, of 32 bytes and more"
    (tmp_path / "redaction.key").write_bytes(key)
    settings = tmp_path / "tenantguard.toml"
    settings.write_text(
        f'[[tenancy.keys]]\nid = "a"\ntenant = "acme"\nhash = "{hash_key("k" * 20)}"\n'
        '[redaction]\nkey_file = "redaction.key"\n'
        '[policies.acme.redact]\noperators = { EMAIL_ADDRESS = "encrypt" }\n',
        encoding="utf-8",
    )
    by_options = ["--operator", "EMAIL_ADDRESS=encrypt", "--key-file", str(tmp_path / "redaction.key")]
    for tenant, options in (("acme", ["--policy", str(settings), "--tenant", "acme"]), ("", by_options)):
        code, out, _ = redact(monkeypatch, capsysbinary, b"to ann@example.com", *options)
        assert code == 0
        assert out[0].startswith(b"to <EMAIL_ADDRESS:")
        assert ValueCipher(key, tenant).decrypt(out[0].decode()) == "to ann@example.com"


def test_a_policys_language_model_finds_names_in_files_of_every_kind(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    nlp = spacy.blank("en")
    ruler: Any = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])
    nlp.to_disk(tmp_path / "model")
    settings = tmp_path / "tenantguard.toml"
    settings.write_text(
        f'[tenancy]\nmode = "single"\n[policies.default.redact]\nner = {json.dumps(str(tmp_path / "model"))}\n'
        'operators = { PERSON = "redact" }\n',
        encoding="utf-8",
    )
    options = ["--policy", str(settings), "--tenant", "default"]
    for kind, text in (
        ("text", b"of Ada Lovelace and ann@example.com"),
        ("json", b'{"of": "Ada Lovelace"}'),
        ("sse", b'data: {"choices":[{"index":0,"delta":{"content":"of Ada Lovelace"}}]}\n\n'),
        ("form", b"of=Ada+Lovelace"),
    ):
        code, out, err = redact(monkeypatch, capsysbinary, text, "--format", kind, "--summary", *options)
        assert code == 0
        assert b"Lovelace" not in b"\n".join(out)
        assert b"ann@" not in b"\n".join(out)
        assert any("PERSON" in line for line in err)
    code, out, _ = redact(monkeypatch, capsysbinary, b"of Ada Lovelace", "--color", "always", *options)
    assert (code, out[0].startswith(b"of \x1b[")) == (0, True)


def test_what_was_replaced_is_coloured_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    _, out, _ = redact(monkeypatch, capsysbinary, b"to ann@example.com now", "--color", "always")
    assert out == [b"to \x1b[1;30;43m<EMAIL_ADDRESS>\x1b[0m now"]
    _, out, _ = redact(monkeypatch, capsysbinary, b"to ann@example.com now")
    assert out == [b"to <EMAIL_ADDRESS> now"]
