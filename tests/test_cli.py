from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.cli import main
from tenantguard.settings import parse_settings

HASH = hash_key("k" * 20)

SETTINGS = f"""
guard.ledger = "memory://"
[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "{HASH}"
[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 4096
[[routes]]
match = "/jobs/*"
price = "0.01 USD"
[[routes]]
match = "GET /healthz"
public = true
[prices."gpt-5-mini"]
input = "0.25 USD/1M"
output = "2.00 USD/1M"
cache_read = "0.025 USD/1M"
cache_write = "0 USD/1M"
[policies.default]
rate = "10/second burst 20"
[policies.acme]
inherit = "default"
budget = {{ limit = "250.00 USD", per = "month" }}
[policies.bare]
"""


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("argv", [["--help"], ["check", "--help"], ["hash-key", "--help"], ["redact", "--help"]])
def test_help_teaches_by_examples(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 0
    assert "tenantguard " in capsys.readouterr().out.split("usage: ")[1].partition("\n")[2]


def test_a_command_that_nobody_knows_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["chekc"])
    assert left.value.code == 2
    assert "check" in capsys.readouterr().err


# check


def test_check_shows_the_policy_of_each_tenant_and_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(SETTINGS)
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"{file} is right."
    for expected in [
        "layers audit > tenant > idempotency > rate > charge",
        "ledger memory://",
        "tenants from api-key; required",
        "without a policy of their own: refused",
        "keys acme-dev (editor)",
        "rate 10 per second, burst 20, for each tenant from default",
        "budget 250.00 USD in each month, for each tenant",
        "rate 10 per second, burst 20, for each tenant",
        "nothing is limited, charged to a budget or redacted",
        "POST /v1/chat/completions usage openai-chat, at most 4096 tokens out",
        "/jobs/* 0.01 USD a request",
        "GET /healthz public",
        "gpt-5-mini 0.25 USD 2.00 USD 0.025 USD 0.00 USD",
        "any other: refuse",
        "weakens the guard: routes: 'GET /healthz' is public",
    ]:
        assert expected in lines
    revision = parse_settings(SETTINGS, environ={}).policies["acme"].policy.revision
    assert f"policy acme (revision {revision}, inherits default)" in lines
    assert HASH not in out


def test_check_tells_every_problem_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(SETTINGS.replace("10/second", "10/secnd").replace("inherit", "inherits"))
    assert main(["check", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{file} has 2 problems:" in captured.err
    assert "policies.acme.inherits: unknown key; did you mean 'inherit'?" in captured.err
    assert main(["check", str(tmp_path / "nowhere.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_check_shows_what_the_environment_made_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(SETTINGS)
    monkeypatch.setenv(
        "TENANTGUARD__POLICIES__ACME__BUDGET", '{ limit = "7.00 USD", per = "day", scope = "identity" }'
    )
    monkeypatch.setenv("TENANTGUARD__TENANCY__FALLBACK", "default")
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "7.00 USD in each day, for each identity" in out
    assert "without a policy of their own: policy 'default'" in out


def test_check_finds_the_layers_and_sections_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(
        "from dataclasses import dataclass\n"
        "class Ours:\n"
        "    def handle(self, exchange, proceed):\n"
        "        return (yield from proceed(exchange))\n"
        "@dataclass(frozen=True)\n"
        "class CurfewSection:\n"
        "    begin: int\n",
    )
    (tmp_path / "tenantguard.toml").write_text(
        'guard.layers = ["ours:Ours", "tenant"]\n[tenancy]\nmode = "single"\n'
        "[policies.default]\ncurfew = { begin = 22 }\n",
    )
    command = [sys.executable, "-c", "from tenantguard.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "check", "tenantguard.toml", "--section", "ours:CurfewSection"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "ours:Ours > tenant" in done.stdout
    assert "CurfewSection(begin=22)" in done.stdout


# hash-key


def test_a_new_key_comes_with_the_lines_for_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hash-key", "--new", "--id", 'dev "1"', "--tenant", "globex"]) == 0
    told, _, toml = capsys.readouterr().out.partition("\n\n")
    key = told.removeprefix("key, shown only now: ")
    (entry,) = tomllib.loads(toml)["tenancy"]["keys"]
    assert entry == {"id": 'dev "1"', "tenant": "globex", "hash": hash_key(key)}
    assert key not in toml


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_key_on_standard_input_is_hashed(
    end: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"k" * 20 + end)
    assert main(["hash-key"]) == 0
    assert capsys.readouterr().out == f"{HASH}\n"


def test_a_key_is_asked_for_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "k" * 20)
    assert main(["hash-key"]) == 0
    assert capsys.readouterr().out == f"{HASH}\n"


@pytest.mark.parametrize("key", [b"hunter2", b"", b"a key with several spaces in it"])
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused(
    key: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, key)
    assert main(["hash-key"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not key or key.decode() not in captured.err


# redact


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


def test_text_is_redacted_line_by_line_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "\nWrite to ann@example.com\r\nno end of line: bob@example.org"
    feed(monkeypatch, text.encode())
    assert main(["redact"]) == 0
    assert capsysbinary.readouterr().out == b"Write to <EMAIL_ADDRESS>\r\nno end of line: <EMAIL_ADDRESS>"
    code, out, err = redact(monkeypatch, capsysbinary, b"ann@example.com\n\xff\nbob@example.org\n")
    assert (code, out, err) == (1, [b"<EMAIL_ADDRESS>"] * 2, ["line 2: not UTF-8"])


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


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    command = [
        sys.executable,
        "-c",
        "from tenantguard.cli import main; raise SystemExit(main(['hash-key', '--new']))",
    ]
    reader, writer = os.pipe()
    os.close(reader)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environ, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# what a store's failure becomes


@pytest.mark.parametrize("command", [["proxy", "--upstream", "http://127.0.0.1:9"], ["ledger", "balance"]])
def test_a_ledger_out_of_reach_is_told_with_a_remedy_and_without_its_password(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "guard.toml").write_text(
        '[guard]\nledger = "postgresql://tg:hunter2@127.0.0.1:1/ledger"\n'
        '[tenancy]\nmode = "single"\nfallback = "acme"\n'
        '[[routes]]\nmatch = "/x"\nprice = "1 USD"\n[policies.acme]\n'
    )
    program = "from tenantguard.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--config", "guard.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Connection refused; start the server, or mend guard.toml: guard.ledger" in done.stderr
    assert "'postgresql://tg@127.0.0.1:1/ledger'" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
