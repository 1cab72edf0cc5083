from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
from importlib import metadata
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


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"tenantguard {metadata.version('tenantguard')}\n"


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


def test_check_tells_that_repetitions_are_not_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tenantguard.toml"
    for layers, told in (("", False), ('guard.layers = ["tenant", "rate", "charge"]', True)):
        path.write_text(f"{layers}\n{SETTINGS}")
        assert main(["check", str(path)]) == 0
        assert ("an Idempotency-Key means nothing" in capsys.readouterr().out) is told


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


def test_a_new_key_has_an_id_of_its_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    ids = []
    for tenant in ("acme", "globex"):
        assert main(["hash-key", "--new", "--tenant", tenant]) == 0
        ids += [line for line in capsys.readouterr().out.splitlines() if line.startswith("id = ")]
    assert ids == ['id = "acme-dev"', 'id = "globex-dev"']


@pytest.mark.parametrize("tenant", ["", "a b", "a\nb"])
def test_a_key_for_what_is_no_tenant_is_refused(tenant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hash-key", "--new", "--tenant", tenant]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.partition(": ")[0]) == ("", "--tenant")


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
