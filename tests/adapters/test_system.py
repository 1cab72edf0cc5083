"""The real clock and ids."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from tenantguard.adapters.system import TimeOrderedIds, real_system


def test_ids_are_uuids_of_version_7_in_the_order_in_which_they_were_made() -> None:
    """RFC 9562 5.7."""
    ids = TimeOrderedIds()
    made = [ids.new() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert all(len(one) == 16 and one[6] >> 4 == 7 and one[8] >> 6 == 0b10 for one in made)
    millis = int.from_bytes(made[0][:6], "big")
    assert abs(millis - real_system().clock.wall_ns() // 1_000_000) < 60_000


def test_ids_of_several_threads_are_all_different() -> None:
    ids = TimeOrderedIds()
    with ThreadPoolExecutor(8) as pool:
        made = [one for part in pool.map(lambda _: [ids.new() for _ in range(1000)], range(8)) for one in part]
    assert len(set(made)) == 8000


def test_a_forked_child_makes_other_ids_even_while_a_thread_of_its_parent_makes_one() -> None:
    ids = TimeOrderedIds()
    ids.new()
    ids._lock.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, ids.new()[8:])
        os._exit(0)
    ids._lock.release()
    os.waitpid(child, 0)
    assert os.read(reading, 8) != ids.new()[8:]
    os.close(reading)
    os.close(writing)
