"""Exactly once: whoever follows the log may be killed at any point, as often as one likes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from os import kill

from eventstore.demo import month
from eventstore.store import EventStore
from tests.serving import environment
from tests.slow_model import Rows, project, shown, stored

DEATHS = {"sqlite": 50, "postgresql": 6}
"""How often the follower is killed. What a death leaves behind differs little between the engines; there it is dearer."""
EVENTS = 12
"""Deliveries that arrive while one follower lives."""
PATIENCE = 60.0
"""Seconds until a test gives up waiting for what must come."""

FOLLOWERS = """
import os, signal, sys
from eventstore.projections import leader, runner
from eventstore.store import EventStore
runner.LIVE_STEP_EVENTS = 3
runner.POLL_SECONDS = 0.01
runner.REST_SECONDS = 0.0
leader.LOOK_SECONDS = 0.05
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        with EventStore.open(sys.argv[1], create=False) as store:
            store.start_projections()
            signal.pause()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Follows the log once for each line that it reads, in a process of its own: what is imported is so once for all of them."""


class Followers:
    """Makes processes that follow a log in steps of three events."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FOLLOWERS, url],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> int:
        """The process number of a new one."""
        assert self._process.stdin is not None
        self._process.stdin.write("follow\n")
        self._process.stdin.flush()
        return int(self._said())

    def wait(self) -> int:
        """How the last one has ended."""
        return int(self._said())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def followers(url: str) -> Iterator[Followers]:
    made = Followers(url)
    try:
        yield made
    finally:
        made.close()


def test_a_follower_killed_at_random_points_fifty_times_takes_each_event_once(store_url: str, dialect: str) -> None:
    chance = random.Random(20260901)
    deliveries = ((number, delivery.line()) for number, delivery in enumerate(month()))
    on_its_way = 0
    with EventStore.open(store_url) as store, followers(store_url) as all_of_them, ThreadPoolExecutor(1) as pool:
        store.ingest(islice(deliveries, 100))
        for death in range(1, DEATHS[dialect] + 1):
            before = store.runner.position()
            arriving = pool.submit(store.ingest, list(islice(deliveries, EVENTS)))
            follower = all_of_them.start()
            if chance.random() < 0.8:
                # Somewhere behind its first step; else while it begins.
                deadline = time.monotonic() + PATIENCE
                while store.runner.position() == before:
                    assert time.monotonic() < deadline, "the follower takes nothing in"
                    time.sleep(0.004)
            time.sleep(chance.uniform(0.0, 0.05))
            kill(follower, signal.SIGKILL)
            assert all_of_them.wait() == -signal.SIGKILL
            arriving.result()
            at = store.runner.position()
            on_its_way += before < at < store.head()
            if death % 10 == 0:
                # PostgreSQL may yet finish what the killed one has asked of it last.
                at, found = settled(store)
                assert found == project([record.event for record in store.stream(until=at)])
        assert on_its_way >= DEATHS[dialect] // 2, "most must have died on their way"
        store.project()
        assert shown(store.engine) == project([record.event for record in store.stream()])
        live = stored(store.engine)
        store.rebuild_projections()
        assert stored(store.engine) == live


def settled(store: EventStore) -> tuple[int, dict[str, Rows]]:
    """The position of the projections and their rows, of one and the same moment."""
    while True:
        before, found = store.runner.position(), shown(store.engine)
        if store.runner.position() == before:
            return before, found
