"""The whole demo: the world, the tour through it and, if wanted, an endpoint to try by hand."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.system import real_system
from tenantguard.demo.expected import usd
from tenantguard.demo.report import Report
from tenantguard.demo.tour import CHAT, EMBEDDINGS, MESSAGES, REPORTS, Tour, ask
from tenantguard.demo.world import KEYS, SETTINGS, open_world

if TYPE_CHECKING:
    from tenantguard.demo.world import World
    from tenantguard.model.audit import AuditRecord

_LOOK_EVERY_S: Final = 0.5
_SHOWN_BYTES: Final = 500


def show(*, serve: bool = False) -> int:
    """Take the tour and return the exit code: 0 if every number was right. With ``serve``, then serve until Ctrl-C.

    Raises :class:`~tenantguard.errors.ConfigurationError` where the extra ``proxy`` is missing.
    """
    clock = real_system().clock
    begun_ns = clock.monotonic_ns()
    logging.getLogger("tenantguard").addHandler(logging.NullHandler())  # failures are part of the tour
    report = Report(sys.stdout, os.environ)
    report.step("TenantGuard in front of a language model: a tour on this machine alone")
    with tempfile.TemporaryDirectory(prefix="tenantguard-demo-") as folder, open_world(Path(folder), report) as world:
        report.step("What runs here")
        report.tell("model server", f"{world.model_url}   speaks OpenAI and Anthropic, and repeats what it is told")
        report.tell("guarded proxy", world.url)
        report.tell("settings", SETTINGS)
        report.tell("ledger", world.ledger_path)
        Tour(world, report).run()
        code = report.end(f"{(clock.monotonic_ns() - begun_ns) / 1e9:.1f} s")
        report.step("Where to go on")
        report.line(f"   cp {SETTINGS} tenantguard.toml")
        report.line("   tenantguard check tenantguard.toml    what each tenant gets by these settings")
        if serve:
            _serve(world, report)
        else:
            report.line("   tenantguard demo --serve              this endpoint, to try with curl")
    return code


def _serve(world: World, report: Report) -> None:
    """Print commands to paste, then what became of each request, until SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    for title, command in _commands(world.url):
        report.step(title)
        report.line(command)
    report.line(f"\nserving on {world.url}; Ctrl-C ends it")
    told = world.calls
    try:
        while True:
            record = world.records.next(_LOOK_EVERY_S)
            for received in world.provider.model.requests[told:]:
                told += 1
                report.line(f"the model received {received.data[:_SHOWN_BYTES].decode(errors='replace')}")
            if record is not None:
                report.line(_became(record, world))
    except KeyboardInterrupt:
        report.line("\nstopped")


def _became(record: AuditRecord, world: World) -> str:
    told = f"{record.tenant or '?'}   {record.route}   {record.status} {record.ending}"
    reasons = [str(decision.reason) for decision in record.decisions if decision.kind == "deny"]
    if reasons:
        told += f" ({reasons[-1]})"
    if record.tenant is not None:
        told += f"   spent so far {usd(world.balance(record.tenant)[0])}"
    return told


def _commands(url: str) -> list[tuple[str, str]]:
    """Commands to paste into a shell, and what each shows."""

    def curl(options: str, path: str, key: str, body: object) -> str:
        header = f"x-api-key: {key}" if path == MESSAGES else f"authorization: Bearer {key}"
        return (
            f"curl {options} {url}{path} \\\n  -H '{header}' -H 'content-type: application/json' \\\n"
            f"  -d '{json.dumps(body)}'"
        )

    acme, hello = KEYS["acme"], ask("gpt-demo", "hello")
    personal = "Write to jane.roe@example.com"
    failing, slow = "-i -H 'x-behaviour: error-500'", "-N --max-time 1 -H 'x-behaviour: slow=3'"
    fast = curl("-s -o /dev/null -D -", CHAT, KEYS["hasty"], hello)
    program = f"OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={acme} python your_program.py"
    return [
        ("A chat in a stream, with personal data", curl("-N", CHAT, acme, ask("gpt-demo", personal, stream=True))),
        ("The same for Anthropic", curl("-i", MESSAGES, acme, ask("claude-demo", personal, max_tokens=50))),
        ("Embeddings", curl("-i", EMBEDDINGS, acme, {"model": "embed-demo", "input": "some text"})),
        ("Three at once: the third is too fast", f"for n in 1 2 3; do {fast}; done"),
        ("Out of budget", curl("-i", CHAT, KEYS["broke"], hello)),
        ("Out of money for reports, since the tour", curl("-i", REPORTS, KEYS["crowd"], {})),
        ("A model that fails: free", curl(failing, CHAT, acme, hello)),
        (
            "Hang up after a second: charged all the same",
            curl(slow, CHAT, acme, ask("gpt-demo", "one two", stream=True)),
        ),
        ("A program of yours that uses the openai SDK", program),
    ]
