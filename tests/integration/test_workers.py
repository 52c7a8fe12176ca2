"""`serve --workers N`: several processes behind one address, that come back, follow the log once and end together."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rows import Stranger
from tests.serving import (
    APPLIED,
    PATIENCE,
    NewServer,
    Serving,
    applied,
    cli,
    command,
    environment,
    head,
    only,
    serving,
    settled,
)

WORKERS = 3
VELO = f"/v1/velo/{APPLIED}"
LONGER_THAN_A_STEP = 1.0
"""Seconds in which a process that follows the log would have taken in an event: it looks four times a second."""

processes = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
"""For what is between the processes and asks nothing of the store: on one engine."""


def wait_until(reached: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def logged(server: Serving, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    return [line for line in lines if line["event"] == event]


def pids(server: Serving) -> dict[int, int]:
    """The process of each worker, by its number, as the log tells."""
    return {line["worker"]: line["worker_pid"] for line in logged(server, "a worker is started")}


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended may stay in the list for as long as nobody asks how."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@contextmanager
def clients(server: Serving) -> Iterator[dict[int, httpx.Client]]:
    """A connection that stays, to each worker, by the worker's process."""
    wanted = set(pids(server).values())
    found: dict[int, httpx.Client] = {}
    with ExitStack() as stack:

        def connect() -> bool:
            client = stack.enter_context(server.client())
            found.setdefault(client.get("/healthz").json()["pid"], client)
            return found.keys() >= wanted

        wait_until(connect, "not every worker answers")
        assert found.keys() == wanted
        yield found


def append(client: httpx.Client, event_id: str) -> int:
    answer = client.post(VELO, json=applied(event_id, f"order-{event_id}")).json()
    assert answer["outcome"] == "appended", answer
    position: int = answer["position"]
    return position


@processes
def test_all_workers_answer_at_one_address_that_is_told_once_and_end_in_good_order(new_server: NewServer) -> None:
    with new_server("--workers", str(WORKERS)) as server:
        assert server.process is not None
        with clients(server) as workers:
            assert len(workers) == WORKERS
            assert server.process.pid not in workers
            positions = [append(client, f"x-{pid}") for pid, client in workers.items()]
            assert positions == [1, 2, 3]
        status, said = server.stop(signal.SIGTERM)
        assert status == 0
        # What was told before, the address and the token, is not told again.
        assert said.splitlines()[-1] == "stopped; everything acknowledged is in the log"
        assert not any("listening" in line for line in said.splitlines())
        assert not any(is_running(pid) for pid in workers)
        assert server.complaints == []


def test_control_c_reaches_every_process_and_ends_them_in_good_order(tmp_path: Path) -> None:
    with serving(tmp_path, EVENTSTORE_WORKERS="2") as server:
        assert sorted(pids(server)) == [1, 2]
        for pid in pids(server).values():
            os.kill(pid, signal.SIGINT)
        assert server.stop(signal.SIGINT)[0] == 0
        assert server.complaints == []
        # As of one process: the file alone is the whole store.
        assert {path.name for path in tmp_path.iterdir()} == {"log.db", "stderr.txt"}


@processes
def test_one_worker_follows_the_log_and_every_worker_can_wait_for_it(new_server: NewServer) -> None:
    with new_server("--workers", str(WORKERS)) as server:
        leader = pids(server)[1]
        with clients(server) as workers:
            others = [client for pid, client in workers.items() if pid != leader]
            assert len(others) == WORKERS - 1
            settled(others[0], append(others[0], "x-1"), "/v1/coupons/c-1")
            os.kill(leader, signal.SIGSTOP)
            try:
                position = append(others[0], "x-2")
                time.sleep(LONGER_THAN_A_STEP)
                assert others[1].get("/healthz").json()["projected"] < position
            finally:
                os.kill(leader, signal.SIGCONT)
            for client in workers.values():
                coupon = settled(client, position, "/v1/coupons/c-1")
                assert coupon["usage"]["times_used"] == 2


@processes
def test_what_keeps_the_projections_from_following_is_told_by_every_worker(new_server: NewServer) -> None:
    with new_server("--workers", "2") as server, clients(server) as workers:
        with Stranger(server.store) as stranger:
            stranger.execute("ALTER TABLE redemptions RENAME TO gone")
            append(next(iter(workers.values())), "x-1")
            for client in workers.values():
                wait_until(lambda: client.get("/healthz").json()["status"] == "degraded", "no word of it")  # noqa: B023
            told = {client.get("/healthz").json()["problem"] for client in workers.values()}
            assert len(told) == 1
            stranger.execute("ALTER TABLE gone RENAME TO redemptions")
        for client in workers.values():
            assert settled_at_last(client, 1)["usage"]["times_used"] == 1
            wait_until(lambda: client.get("/healthz").json()["status"] == "ok", "it is told for ever")  # noqa: B023


def settled_at_last(client: httpx.Client, position: int) -> Any:
    """As `settled`, of a server that may say that it is not well."""
    wait_until(lambda: client.get("/healthz").json()["projected"] >= position, "the projections do not follow")
    return client.get("/v1/coupons/c-1", params={"wait_for": position}).json()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_worker_that_dies_is_started_again_and_follows_the_log_as_the_one_before(new_server: NewServer) -> None:
    with new_server("--workers", "2") as server:
        before = pids(server)
        for times in (1, 2):
            died = pids(server)[1]
            os.kill(died, signal.SIGKILL)
            wait_until(lambda: pids(server)[1] != died, "it is not started again")  # noqa: B023
            with clients(server) as workers:
                for pid, client in workers.items():
                    position = append(client, f"x-{pid}-{times}")
                    settled_at_last(client, position)
                    wait_until(lambda: client.get("/healthz").json()["status"] == "ok", "it is not well")  # noqa: B023
        assert pids(server)[2] == before[2]
        deaths = logged(server, "a worker has died and is started again")
        assert [(line["worker"], line["end"], line["level"]) for line in deaths] == [(1, "SIGKILL", "ERROR")] * 2
        assert deaths[0]["worker_pid"] == before[1]
        assert [line["in_seconds"] for line in deaths] == [0.0, 0.5]
        assert all(line["pid"] == deaths[0]["pid"] for line in deaths)
        assert server.stop()[0] == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits a running process")
def test_a_supervisor_that_cannot_start_a_worker_goes_on_and_starts_it_once_it_can(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        before = pids(server)
        assert server.process is not None
        supervisor = server.process.pid
        soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        # It may wait for as many as it does, and open none beside those that it has.
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (6, hard))
        try:
            os.kill(before[2], signal.SIGKILL)
            failed = "a worker could not be started and is tried again"
            wait_until(lambda: len(logged(server, failed)) >= 2, "it does not say that it could not")
        finally:
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (soft, hard))
        wait_until(lambda: pids(server)[2] != before[2], "it is not started again")
        with clients(server) as workers:
            assert [append(client, f"x-{pid}") for pid, client in workers.items()] == [1, 2]
        told = logged(server, failed)
        assert {(line["worker"], line["reason"], line["level"]) for line in told} == {
            (2, "Too many open files", "ERROR")
        }
        pauses = [line["in_seconds"] for line in told]
        assert pauses == sorted(pauses)
        assert server.stop()[0] == 0


def test_workers_end_when_their_supervisor_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        workers = pids(server).values()
        with server.client() as client:
            assert append(client, "x-1") == 1
        server.kill()
        wait_until(lambda: not any(is_running(pid) for pid in workers), "orphans serve for ever")
        with pytest.raises(httpx.ConnectError), server.client() as client:
            client.get("/healthz")
        assert {line["pid"] for line in logged(server, "the supervisor is gone; this worker ends")} == {*workers}
        server.start()
        with server.client() as client:
            assert head(client) == 1


def test_a_worker_that_cannot_start_ends_the_command_with_an_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("serve", "--port", "0", "--workers", "2"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        os.kill(started["worker_pid"], signal.SIGKILL)
        said, complained = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "listening" not in said
    *_, error = complained.splitlines()
    assert error == "error: worker 1 could not start: it ended with SIGKILL"


@pytest.mark.parametrize("given", ["0", "-1", "many", "1000"])
def test_a_wrong_number_of_workers_is_refused(tmp_path: Path, given: str) -> None:
    done = cli("serve", "--port", "0", "--workers", given, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "workers" in only(done.stderr.splitlines()[-1:])
    assert "Traceback" not in done.stderr
