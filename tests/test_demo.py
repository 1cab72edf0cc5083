"""The demo: the tour in a process of its own, its endpoint, its settings, and what it says of a wrong number."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.cli import main
from tenantguard.demo import tour
from tenantguard.demo.client import Answer, post
from tenantguard.demo.report import Report, Row
from tenantguard.demo.world import KEYS, SETTINGS
from tenantguard.settings import loopholes, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "import sys; from tenantguard.cli import main; sys.exit(main())", "demo"]


@contextmanager
def demo(*options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_every_number_of_the_tour_is_as_expected_whatever_the_environment_overrides() -> None:
    with demo(TENANTGUARD__POLICIES__ACME__RATE="1/day") as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "✗" not in out
    assert "✓ all " in out
    assert str(SETTINGS) in out
    assert "\x1b" not in out, "no colours where there is no terminal"
    assert max(map(len, out.splitlines())) <= 110
    assert "Traceback" not in out


def test_the_endpoint_stays_to_be_tried_until_it_is_interrupted() -> None:
    with demo("--serve") as process:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("serving on "):
                break
        else:
            pytest.fail("".join(told))
        url = told[-1].removeprefix("serving on ").partition(";")[0]
        assert any(line.startswith(f"curl -N {url}/v1/chat/completions ") for line in told)
        answer = post(url, "/v1/chat/completions", KEYS["acme"], tour.ask("gpt-demo", f"ask {tour.EMAIL}"))
        assert (answer.status, answer.text) == (200, f"ask {tour.EMAIL}")
        after = [process.stdout.readline(), process.stdout.readline()]
        assert after[0].startswith("the model received ")
        assert tour.EMAIL not in after[0]
        assert after[1].startswith("acme   POST /v1/chat/completions   200 completed   spent so far ")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
        assert process.returncode == 0
        assert out.endswith("stopped\n")


def test_a_wrong_number_is_told_with_the_expected_one_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tour.RATES_NANOS, "embed-demo", (101, 0))
    assert main(["demo"]) == 1
    out = capsys.readouterr().out
    assert " ✗ cost             0.0000006 USD, expected 0.000000606 USD" in out
    assert "4. Embeddings: charged for what goes in: cost: expected 0.000000606 USD, seen 0.0000006 USD" in out
    assert "Budgets: acme, spent: expected 0.000156606 USD, seen 0.0001566 USD" in out
    assert "✓ all" not in out


@pytest.mark.parametrize("module", ["uvicorn", "httptools"])
def test_without_the_extra_the_remedy_is_told(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'tenantguard[proxy]'\n")


def test_the_settings_of_the_demo_are_right_and_weaken_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(SETTINGS)]) == 0
    assert capsys.readouterr().out.startswith(f"{SETTINGS} is right.")
    settings = read_settings(SETTINGS, environ={})
    assert loopholes(settings) == []
    assert {hash_key(key): tenant for tenant, key in KEYS.items()} == {
        hashed: str(identity.tenant) for hashed, identity in settings.keys.items()
    }


# the report


class Screen(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8", *, terminal: bool = True) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def shown(self) -> str:
        return self.raw_bytes.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_there_are_colours_only_on_a_terminal_that_wants_them(
    *, terminal: bool, environ: dict[str, str], coloured: bool
) -> None:
    screen = Screen(terminal=terminal)
    report = Report(screen, environ)
    report.step("One")
    report.check("number", 1, 1, "a note")
    report.end("1 s")
    assert ("\x1b[" in screen.shown()) == coloured
    assert "✓" in screen.shown()


def test_a_screen_without_check_marks_gets_others() -> None:
    screen = Screen("ascii", terminal=False)
    report = Report(screen, {})
    report.check("number", 1, 2)
    report.check("number", 1, 1)
    assert screen.shown().splitlines() == [" x number           2, expected 1", " + number           1"]


def test_the_exit_code_is_1_once_anything_was_wrong() -> None:
    screen = Screen(terminal=False)
    report = Report(screen, {})
    report.step("One")
    assert report.check_between("wait", 1, 3, 2)
    assert not report.check_between("wait", 1, 3, 4)
    assert not report.check_between("wait", 1, 3, None)
    assert not report.compare("row", "a", "b")
    assert report.end("2 s") == 1
    assert screen.shown().endswith(
        "✗ 3 of 4 numbers are not as expected (2 s):\n"
        "  One: wait: expected 1 to 3, seen 4\n"
        "  One: wait: expected 1 to 3, seen None\n"
        "  One: row: expected a, seen b\n"
    )


def test_a_table_has_columns_as_wide_as_their_widest_cell() -> None:
    screen = Screen(terminal=False)
    Report(screen, {}).table(
        ("a", "b"), [Row(("long", "x"), right=True), Row(("y", "z"), right=False), Row(("", ""))]
    )
    assert screen.shown().splitlines() == ["   a      b", " ✓ long   x", " ✗ y      z", "   "]


# the client


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "rate.exceeded"}}', "rate.exceeded"),
        (b'{"code": "budget.exhausted"}', "budget.exhausted"),
        (b'{"error": {"code": null}}', ""),
        (b"[]", ""),
        (b"no JSON", ""),
    ],
)
def test_a_refusals_code_is_found_in_every_shape(body: bytes, code: str) -> None:
    answer = Answer(400, {"retry-after": "soon"}, body, whole=True)
    assert (answer.code, answer.text, answer.left, answer.number("retry-after")) == (code, "", None, None)
