"""``tenantguard proxy`` as a process: what it writes where."""

from __future__ import annotations

import gc
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tenantguard.cli import main
from tenantguard.commands.proxy import headers_from, keep_for_good
from tenantguard.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0

SETTINGS = """
[guard]
ledger = "memory://"
{layers}
[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[[routes]]
match = "POST /v1/chat/completions"
[policies.acme]
"""

LAYER = """
import structlog
structlog.configure(logger_factory=structlog.WriteLoggerFactory(open("own.log", "w")))
class Mine:
    name = "mine"
    def handle(self, exchange, proceed):
        return (yield from proceed(exchange))
"""


def one_refusal(folder: Path, layers: str = "") -> tuple[str, str]:
    """Standard output and error of a proxy that refused one request and was then told to stop."""
    (folder / "tenantguard.toml").write_text(SETTINGS.format(layers=layers))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from tenantguard.cli import main; raise SystemExit(main())", "proxy"]
    command += ["--config", "tenantguard.toml", "--upstream", "http://127.0.0.1:9", "--port", str(port)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(int(PATIENCE_S / 0.05)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                connection.request(
                    "POST", "/v1/chat/completions", headers={"authorization": "Bearer sk-a-secret-key"}
                )
                assert connection.getresponse().status == 401
                break
            except ConnectionRefusedError:
                threading.Event().wait(0.05)
            finally:
                connection.close()
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def test_standard_output_has_a_line_of_json_for_every_warning_and_every_exchange(tmp_path: Path) -> None:
    out, err = one_refusal(tmp_path)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["settings.loopholes", "exchange"]
    assert lines[0]["level"] == "warning"
    assert (lines[1]["reason"], lines[1]["status"]) == ("identity.invalid", 401)
    assert "guarding http://127.0.0.1:9" in err
    assert "sk-a-secret-key" not in out + err


def test_who_configures_structlog_says_where_everything_goes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LAYER)
    out, _ = one_refusal(tmp_path, 'layers = ["audit", "tenant", "mine:Mine"]')
    assert not out
    told = (tmp_path / "own.log").read_text()
    assert "settings.loopholes" in told
    assert "identity.invalid" in told


def test_what_is_there_at_the_start_is_never_looked_at_again() -> None:
    before = gc.get_threshold()
    try:
        keep_for_good()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold()[1:] == before[1:]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_a_header_of_the_upstream_has_its_value_from_the_environment() -> None:
    assert headers_from(["x-key=KEY", "b=_2"], {"KEY": "hunter2", "_2": ""}) == {"x-key": "hunter2", "b": ""}


@pytest.mark.parametrize(
    "pair",
    ["authorization=Bearer hunter2", "x-key=hunter2", "authorization: hunter2", "authorization", "=KEY", "hunter2 ="],
)
def test_a_secret_in_the_place_of_its_variable_is_not_repeated(pair: str) -> None:
    with pytest.raises(ConfigurationError, match="--header-env: ") as refused:
        headers_from([pair], {"KEY": "x"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "99999"), ("--port", "-1"), ("--grace", "-5"), ("--grace", "1.5")]
)
def test_a_number_that_cannot_be_is_refused_before_anything_is_served(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["proxy", "--config", "nowhere.toml", "--upstream", "http://127.0.0.1:9", f"{option}={value}"])
    assert left.value.code == 2
    assert f"argument {option}: must be a whole number from 0 to" in capsys.readouterr().err
