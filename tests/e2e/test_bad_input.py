"""What a broken or hostile client sends is a clear error; nothing is charged and nothing reaches the model."""

from __future__ import annotations

import json
import socket
import sqlite3
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.settings import build, parse_settings
from tests.e2e.conftest import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import World

GOOD = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]}).encode()


def talk(world: World, data: bytes) -> bytes:
    """Send raw bytes, close our side, and read to the end."""
    parts = urlsplit(world.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def head(tenant: str, *lines: str) -> bytes:
    return "\r\n".join(
        ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {KEYS[tenant]}", *lines, "", ""],
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "small", "messages": [}',
        b'{"model": "small", "messages": "\xff\xfe"}',
        b'{"model": "small", "messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model": "small", "model": "large", "messages": []}',
        b'{"model": "small", "messages": [], "max_tokens": -1}',
        b'{"model": "small", "messages": [], "max_tokens": 1e400}',
    ],
    ids=["empty", "cut", "malformed", "not-utf8", "deep", "ambiguous", "negative", "infinite"],
)
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_an_unreadable_body_is_400_and_charges_nothing(world: World, tenant: str, body: bytes) -> None:
    """E-15."""
    before, calls = world.standing(tenant), len(world.model.requests)
    headers = {"authorization": f"Bearer {KEYS[tenant]}", "content-type": "application/json"}
    response = httpx.post(f"{world.url}/v1/chat/completions", headers=headers, content=body)
    record = world.recorder.next()
    assert response.status_code == 400
    assert response.json()["error"]["code"].startswith("body.")
    assert record.ending == "refused"
    assert world.standing(tenant) == before
    assert len(world.model.requests) == calls


def test_a_declared_gigabyte_is_413_before_a_byte_of_it_is_read(world: World) -> None:
    answer = talk(world, head("plain", "content-type: application/json", f"content-length: {2**30}"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body.too_large" in answer
    assert world.recorder.next().ending == "refused"


def test_a_body_shorter_than_it_says_is_never_passed_on(world: World) -> None:
    calls, before = len(world.model.requests), world.standing("plain")
    answer = talk(world, head("plain", "content-type: application/json", f"content-length: {len(GOOD) + 10}") + GOOD)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert world.recorder.next().ending in {"left", "refused"}
    assert len(world.model.requests) == calls
    assert world.standing("plain") == before


def test_two_credentials_that_disagree_are_400(world: World) -> None:
    """E+18."""
    answer = talk(world, head("plain", f"x-api-key: {KEYS['acme']}", "connection: close", "content-length: 0"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert world.recorder.next().ending == "refused"


def _settings(ledger: str) -> Any:
    return f"""
[guard]
ledger = "sqlite:///{ledger}"
[tenancy]
mode = "single"
[[routes]]
match = "/jobs"
price = "1 USD"
[policies.default]
"""


def test_another_programs_database_is_refused_at_start(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table theirs (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(ConfigurationError, match=r"other\.db"):
        build(parse_settings(_settings("other.db"), folder=tmp_path, environ={}))
    assert (tmp_path / "other.db").read_bytes() == before


def test_what_is_no_database_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("these are notes, not a ledger\n" * 100)
    with pytest.raises(ConfigurationError, match=r"text\.db"):
        build(parse_settings(_settings("text.db"), folder=tmp_path, environ={}))


def test_unknown_keys_and_wrong_numbers_are_told_all_at_once_with_their_lines(tmp_path: Path) -> None:
    text = _settings("x.db") + '\n[polices.acme]\n\n[policies.acme]\nrate = "0/second"\n'
    with pytest.raises(ConfigurationError) as wrong:
        parse_settings(text, source="tenantguard.toml", folder=tmp_path, environ={})
    shown = str(wrong.value)
    assert "polices" in shown
    assert "policies" in shown
    assert "rate" in shown
    assert "line" in shown or "tenantguard.toml:" in shown
