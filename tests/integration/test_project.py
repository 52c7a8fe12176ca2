"""`eventstore project`: following the log as a process of its own; one of several is at work, and another takes over."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventstore.api.metrics import Metric, text_of
from eventstore.log.records import now
from eventstore.projections import lag, leader
from eventstore.store import EventStore
from tests.commands import Command
from tests.processes import Program
from tests.rows import Stranger, change, rows
from tests.serving import CREATED, NewServer, created, environment, ndjson, serving, settled, wrapped
from tests.slow_model import project, shown

PATIENCE = 60.0
"""Seconds until a test gives up waiting for what must come."""


def coupon(name: str) -> dict[str, Any]:
    """A line that tells of a coupon."""
    return wrapped(CREATED, created(name, name))


def append(store: EventStore, *names: str) -> None:
    store.ingest((number, ndjson(coupon(name))) for number, name in enumerate(names))


class Follower:
    """An `eventstore project` at work."""

    def __init__(self, url: str, folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        self.process = Program(
            ["--store", url, "project"],
            cwd=folder,
            env=environment(EVENTSTORE_LOG_LEVEL="debug"),
            errors=self._log,
        )
        self._ended: tuple[int, str] | None = None
        assert next(self.process.lines()).startswith("following ")

    @property
    def events(self) -> list[str]:
        """What it has logged of following."""
        lines = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [line["event"] for line in lines if line["logger"] == "eventstore.projections"]

    def end(self, how: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
        """End it: its exit status and what it printed last."""
        if self._ended is None:
            self.process.send_signal(how)
            self._ended = self.process.ended(PATIENCE)
        return self._ended


@contextmanager
def followers(url: str, folder: Path, *names: str) -> Iterator[list[Follower]]:
    """Several, one after the other."""
    started: list[Follower] = []
    try:
        for name in names:
            started.append(Follower(url, folder, name))
            eventually(lambda: started[-1].events)
        yield started
    finally:
        for each in started:
            each.end()


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_of_two_followers_one_is_at_work_and_when_it_is_killed_the_other_takes_over(
    new_server: NewServer, tmp_path: Path
) -> None:
    with new_server("--no-projections") as server, server.client() as client:
        with followers(server.store, tmp_path, "first", "second") as (first, second):
            assert first.events[0] == "this process follows the log now"
            assert second.events[0] == "another process follows the log; this one stands by"
            body = ndjson(*[coupon(f"a{number}") for number in range(20)])
            assert client.post("/v1/events", content=body).status_code == 200
            assert settled(client, 20, "/v1/coupons/a7")["coupon_id"] == "a7"
            [(worker, state)] = rows(server.store, "SELECT worker, state FROM projection_work WHERE name = 'runner'")
            assert f"process {first.process.pid} on " in worker
            assert follows(client) == 0
            first.end()
            client.post("/v1/events", content=ndjson(coupon("b")))
            assert settled(client, 21, "/v1/coupons/b")["coupon_id"] == "b"
            assert second.events[-1] == "this process follows the log now"
            with EventStore.open(server.store) as store:
                who = store.status().following
                assert who is not None
                assert who.active
                assert f"process {second.process.pid} on " in who.worker
                assert shown(store.engine) == project(record.event for record in store.stream())
            assert second.end(signal.SIGTERM) == (0, "stopped\n")
        # Nobody follows now: the server takes events in, and says so where it is asked for them.
        client.post("/v1/events", content=ndjson(coupon("c")))
        assert client.get("/v1/coupons/c").status_code == 404
        assert server.complaints == []
        assert isinstance(state, str)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_server_stands_by_while_a_follower_is_at_work_and_takes_over_from_it(
    new_server: NewServer, tmp_path: Path
) -> None:
    with (
        new_server("--no-projections") as idle,
        followers(idle.store, tmp_path, "first") as [first],
        serving(tmp_path, url=idle.store, token=idle.token) as server,
        server.client() as client,
    ):
        client.post("/v1/events", content=ndjson(coupon("a")))
        assert settled(client, 1, "/v1/coupons/a")["coupon_id"] == "a"
        assert follows(client) == 0
        first.end()
        client.post("/v1/events", content=ndjson(coupon("b")))
        assert settled(client, 2, "/v1/coupons/b")["coupon_id"] == "b"
        eventually(lambda: follows(client) == 1)


def follows(client: httpx.Client) -> int:
    """What a server's metrics say of whether it follows the log."""
    [value] = re.findall(r'^eventstore_follows\{pid="\d+"\} (\d)$', client.get("/metrics").text, re.MULTILINE)
    return int(value)


def test_a_follower_at_rest_writes_nothing_to_the_store(store_url: str, tmp_path: Path) -> None:
    with followers(store_url, tmp_path, "only"):
        before = (
            rows(store_url, "SELECT * FROM projection_work"),
            rows(store_url, "SELECT * FROM projection_checkpoints"),
        )
        time.sleep(leader.LOOK_SECONDS * 1.5)
        after = (
            rows(store_url, "SELECT * FROM projection_work"),
            rows(store_url, "SELECT * FROM projection_checkpoints"),
        )
        assert before == after
        assert len(before[0]) == 1


def test_once_catches_up_and_ends(eventstore: Command) -> None:
    with EventStore.open(eventstore.url) as store:
        append(store, *[f"a{number}" for number in range(5)])
    assert eventstore.json("project", "--once")["events"] == 5
    assert eventstore("project", "--once").startswith("the projections are at position 5, by 0 events in ")
    with EventStore.open(eventstore.url) as store:
        assert shown(store.engine) == project(record.event for record in store.stream())
    assert eventstore.run("project", "--json").returncode == 2


# Standing still


def test_projections_that_do_not_move_although_an_old_event_waits_stand_still(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, "a")
    found = lag.lag(store.engine, store.catalogue)
    assert (found.events, found.stands_still) == (1, ())
    assert found.seconds >= 0.0
    with monkeypatch.context() as patch:
        patch.setattr(lag, "now", lambda: now() + timedelta(seconds=2 * lag.STANDSTILL_SECONDS))
        found = lag.lag(store.engine, store.catalogue)
        assert "coupons" in found.stands_still
        assert found.seconds > lag.STANDSTILL_SECONDS
        store.project()
        found = lag.lag(store.engine, store.catalogue)
        assert (found.events, found.seconds, found.stands_still) == (0, 0.0, ())


def test_a_server_whose_projections_stand_still_is_not_ready_and_says_why(new_server: NewServer) -> None:
    with new_server("--no-projections") as server, server.client() as client:
        client.post("/v1/events", content=ndjson(coupon("a")))
        assert client.get("/readyz").json()["lag_events"] == 1
        # An hour passes.
        change(server.store, "UPDATE projection_checkpoints SET updated_at = updated_at - 3600000000")
        with_old_event(server.store)
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert "these projections do not move: coupons" in refused.json()["detail"]
        assert client.get("/healthz").json()["status"] == "degraded"
        told = server.run("status")
        assert "STAND STILL" in told.stderr
        assert server.run("project", "--once").returncode == 0
        ready = client.get("/readyz").json()
        assert ready.pop("behind") == ready.pop("stands_still") == []
        assert ready == {"head": 1, "projected": 1, "lag_events": 0, "lag_seconds": 0.0, "parked": 0}
        text = client.get("/metrics").text
        assert 'eventstore_projection_position{projection="coupons"} 1\n' in text
        assert "eventstore_events_total 1\n" in text
        assert "eventstore_projection_lag_events 0\n" in text


def with_old_event(url: str) -> None:
    """Make the events an hour older, past the guards, as only time can."""
    with Stranger(url) as stranger:
        stranger.drop_guards()
        stranger.execute("UPDATE events SET recorded_at = recorded_at - 3600000000")


def test_metrics_are_written_as_prometheus_reads_them() -> None:
    found = text_of(
        [
            Metric("a_total", "counter", "All\\of it.\n", [({}, 12_345_678_901.0)]),
            Metric("b", "gauge", "One.", [({"projection": 'my "own"\\\n'}, 0.25), ({"x": "1", "y": "2"}, 3.0)]),
        ]
    )
    assert found == (
        "# HELP a_total All\\\\of it.\\n\n# TYPE a_total counter\na_total 12345678901\n"
        '# HELP b One.\n# TYPE b gauge\nb{projection="my \\"own\\"\\\\\\n"} 0.25\nb{x="1",y="2"} 3\n'
    )
