"""``limits`` of a guard: where they are kept, and within which bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.cli import main
from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.settings import SettingsError, build, parse_settings, shown_limits

if TYPE_CHECKING:
    from pathlib import Path

SINGLE = '[tenancy]\nmode = "single"\n[policies.default]\nrate = "5/s"\n'


def text(uri: str, more: str = "") -> str:
    return f'[guard]\nlimits = "{uri}"\n{more}\n{SINGLE}'


def test_limits_are_in_memory_or_in_a_server_with_its_bounds(redis: Any) -> None:
    assert isinstance(build(parse_settings(SINGLE, environ={})).ports.limits, MemoryLimits)
    bounds = "[limits]\ndeadline_ms = 2000\nprocesses = 3\nlease = 8\ncoalesce = false\n"
    guard = build(parse_settings(text(redis.uri, bounds), environ={}))
    store = guard.ports.limits
    assert isinstance(store, RedisLimits)
    assert (store.deadline_s, store.processes, store._lease) == (1.8, 3, 8)
    promise = store.execute(TakeTokens(None, (Take("|settings", Rate(1, 10**9)),)))
    assert promise.wait(5)
    assert isinstance(promise.result(), Taken)
    guard.ports.close()


def test_a_password_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "rediss://app:hunter2@limits.internal:6380/2?client_name=hunter2"
    read = parse_settings(text("memory://"), environ={"TENANTGUARD__GUARD__LIMITS": uri})
    assert read.guard.limits == uri
    assert "hunter2" not in repr(read)
    path = tmp_path / "tenantguard.toml"
    path.write_text(text(uri, "[limits]\nlease = 64\n"), encoding="utf-8")
    assert main(["check", str(path)]) == 0
    told = capsys.readouterr().out
    assert "hunter2" not in told
    assert "rediss://limits.internal:6380/2" in told
    assert "64 units" in told


@pytest.mark.parametrize(
    "uri",
    [
        "redis://localhost",
        "redis://:secret@localhost:6379/0",
        "redis+unix:///run/redis.sock",
        "redis+sentinel://:secret@a:26379,b:26379/limits",
        "valkey+cluster://a:6379,b:6379",
        "valkeys://localhost:6380",
    ],
)
def test_every_address_of_limits_can_be_written(uri: str) -> None:
    assert "secret" not in shown_limits(uri)
    assert parse_settings(text(uri), environ={}).guard.limits == uri


@pytest.mark.parametrize(
    "uri",
    [
        "redis:/localhost",
        "mysql://localhost",
        "redis://user:p@ss/word@host",
        "memory",
        "redis://localhost:6379/limits",
        "rediss://localhost:99999",
        "redis://localhost:port",
        "redis+sentinel://a:26379,b:26379",
        "redis+unix://run",
        "redis+cluster://a:6379,b:0",
    ],
)
def test_what_is_no_address_is_refused_with_those_that_are(uri: str) -> None:
    with pytest.raises(SettingsError, match="redis\\+sentinel"):
        parse_settings(text(uri), environ={})


@pytest.mark.parametrize("bound", ["deadline_ms = 0", "processes = 0", "lease = -1", "queue = 1"])
def test_impossible_bounds_of_limits_are_refused(bound: str) -> None:
    with pytest.raises(SettingsError, match=bound.partition(" ")[0]):
        parse_settings(text("redis://localhost", f"[limits]\n{bound}\n"), environ={})


def test_windows_are_counted_in_one_process() -> None:
    rate = 'rate = { limit = "5/s", strategy = "fixed-window" }'
    with pytest.raises(
        SettingsError, match=r"policies\.default\.rate: has windows, which are counted in one process"
    ):
        parse_settings(text("redis://localhost").replace('rate = "5/s"', rate), environ={})


def test_slots_are_where_limits_are_unless_the_settings_say_otherwise(redis: Any) -> None:
    bounds = "[limits]\ndeadline_ms = 2000\nprocesses = 3\nslot_lease_s = 8\n"
    followed = build(parse_settings(text(redis.uri, bounds), environ={})).ports
    slots = followed.slots
    assert isinstance(slots, RedisSlots)
    assert (slots.deadline_s, slots._processes, slots._lease_ns) == (1.8, 3, 8 * 10**9)
    assert slots.standing("settings|") == []
    followed.close()
    own = f'[guard]\nlimits = "{redis.uri}"\nslots = "memory://"\n{SINGLE}'
    assert isinstance(build(parse_settings(own, environ={})).ports.slots, MemorySlots)
    only = f'[guard]\nslots = "{redis.uri}"\n{SINGLE}'
    alone = build(parse_settings(only, environ={})).ports
    assert isinstance(alone.slots, RedisSlots)
    assert isinstance(alone.limits, MemoryLimits)
    with pytest.raises(ConfigurationError, match=r"guard\.slots"):
        build(parse_settings(f'[guard]\nslots = "redis+sentinel://localhost"\n{SINGLE}', environ={}))


@pytest.mark.parametrize("store", ["limits", "slots"])
def test_a_guard_that_cannot_be_built_leaves_no_ledger_open(store: str, tmp_path: Path) -> None:
    text = f'[guard]\nledger = "sqlite:///x.db"\n{store} = "redis://localhost?no_such_option=1"\n{SINGLE}'
    with pytest.raises(ConfigurationError, match=rf"guard\.{store}: .*an option"):
        build(parse_settings(text, folder=tmp_path, environ={}))
    assert list(tmp_path.iterdir()) == []


def test_check_says_where_slots_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tenantguard.toml"
    for slots, told in (
        ("", "come back after 20 s"),
        ('slots = "memory://"', "of each process for itself"),
        ('slots = "redis://:hunter2@slots.internal/1"', "redis://slots.internal/1"),
    ):
        path.write_text(f'[guard]\nlimits = "redis://limits.internal"\n{slots}\n{SINGLE}', encoding="utf-8")
        assert main(["check", str(path)]) == 0
        out = capsys.readouterr().out
        assert told in out
        assert "hunter2" not in out
