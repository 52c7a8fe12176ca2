"""While the database cannot be written the server says 503, loses nothing that it acknowledged, and recovers by itself."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from tests.outages import (
    BATCH,
    COUPONS,
    VELO,
    WEBHOOKS,
    assert_come_again,
    assert_nothing_lost_and_nothing_twice,
    delivery,
    load_on,
    locked,
    log_of,
    register,
    use_of_coupon,
)
from tests.serving import APPLIED, SITE, Serving, answers, ndjson, serving, settled, wrapped
from tests.signing import webhook
from tests.stores import PostgresqlServer, text_of

WIX_WAITS = 1.25
"""Seconds after which Wix counts a webhook as failed."""
BEFORE = 30
"""Events acknowledged before something is made to fail: enough that every sender is in the midst of it."""
ROOM = 48 * 1024
"""Bytes that are left on a disk about to be full: some commits more fit, and one does not."""
TMPFS_SIZE = "48m"

Databases = Callable[[], URL]


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    """A running server that knows the senders' app: once on each engine."""
    url = None
    if request.param == "postgresql":
        databases: Databases = request.getfixturevalue("postgresql")
        url = databases().render_as_string(hide_password=False)
    with serving(tmp_path, url=url) as running:
        register(running)
        yield running


def pid(server: Serving) -> int:
    assert server.process is not None
    return server.process.pid


def answered(client: httpx.Client, token: bytes) -> tuple[httpx.Response, float]:
    """The answer to a webhook, and the seconds that it took."""
    start = time.perf_counter()
    answer = client.post(WEBHOOKS, content=token)
    return answer, time.perf_counter() - start


def test_while_the_database_is_locked_webhooks_are_told_in_time_to_come_again_and_reads_go_on(server: Serving) -> None:
    with server.client() as client:
        assert client.post(WEBHOOKS, content=webhook(use_of_coupon("first-1"))).json()["position"] == 1
        settled(client, 1, "/v1/usage", site=SITE)
        tokens = {f"late-{number}": webhook(use_of_coupon(f"late-{number}")) for number in range(6)}
        with locked(server), ThreadPoolExecutor() as threads:
            # Once before the clock counts: connections are opened.
            for ids in ([*tokens][:2], [*tokens][2:4]):
                found = [*threads.map(lambda event_id: answered(client, tokens[event_id]), ids)]
                assert [answer.status_code for answer, _ in found] == [503] * len(ids)
                for answer, _ in found:
                    assert_come_again(answer)
                assert client.get("/healthz").json()["head"] == 1
                assert client.get(f"/v1/coupons/c-1/history?site={SITE}").status_code == 200
            # Of the last, at least one: on a busy machine any single one may be late.
            took = [seconds for _, seconds in found]
            assert min(took) < WIX_WAITS, took
        # Nobody has said what became of these: sent again, each is found or taken, and none is there twice.
        for event_id, token in tokens.items():
            answer = client.post(WEBHOOKS, content=token).json()
            assert answer["outcome"] in ("appended", "duplicate"), answer
            assert answer["event_id"] == event_id
    assert log_of(server).keys() == {"first-1", *tokens}


def test_while_the_database_is_locked_a_relay_is_told_to_come_again(server: Serving) -> None:
    lines = ndjson(*[wrapped(APPLIED, delivery(f"batch-{number}")) for number in range(3)])
    with server.client() as client, ThreadPoolExecutor() as threads:
        with locked(server):
            velo = threads.submit(client.post, VELO, json=delivery("velo-1"))
            time.sleep(0.2)  # so that it is what the writer is at
            batch = threads.submit(client.post, BATCH, content=lines)
            assert_come_again(velo.result())
        told = batch.result()
        if told.status_code != 200:
            assert_come_again(told)
        # Sent again, each is found or taken, and none is there twice.
        assert client.post(VELO, json=delivery("velo-1")).json()["outcome"] in ("appended", "duplicate")
        again = answers(client.post(BATCH, content=lines))
        assert {answer["outcome"] for answer in again} <= {"appended", "duplicate"}
    assert log_of(server).keys() == {"velo-1", "batch-0", "batch-1", "batch-2"}


def test_a_database_locked_under_load_loses_nothing_and_the_server_goes_on_once_it_is_released(server: Serving) -> None:
    process = pid(server)
    with load_on(server) as load:
        for _ in range(2):
            load.wait_for_more(BEFORE)
            webhooks = load.senders[0]
            with locked(server):
                told_off = webhooks.refused
                load.wait_until(lambda: webhooks.refused > told_off, "no webhook is refused")  # noqa: B023
        load.wait_for_more(BEFORE)
    assert load.senders[0].taken_after_refusal
    assert pid(server) == process
    assert_nothing_lost_and_nothing_twice(server, load)
    assert "Traceback" not in server.stderr


# A full disk


@contextmanager
def files_end_here(server: Serving) -> Iterator[None]:
    """The server's files cannot grow: what a full disk or a quota does, for one process and without root."""
    largest = max(path.stat().st_size for path in server.path.parent.iterdir())
    soft, hard = resource.prlimit(pid(server), resource.RLIMIT_FSIZE)
    resource.prlimit(pid(server), resource.RLIMIT_FSIZE, (largest + ROOM, hard))
    try:
        yield
    finally:
        resource.prlimit(pid(server), resource.RLIMIT_FSIZE, (soft, hard))


def goes_through_a_full_disk(server: Serving, full: AbstractContextManager[None]) -> None:
    """Load on the server before, while and after its disk is full."""
    process = pid(server)
    with load_on(server) as load, server.client() as client:
        load.wait_for_more(BEFORE)
        load.wait_until(lambda: len(load.senders[0].acknowledged) > COUPONS, "no webhook is taken")
        settled(client, max(load.senders[0].acknowledged.values()), "/v1/coupons")
        with full:
            load.wait_for_refusals(3)
            assert client.get("/healthz").json()["head"] >= BEFORE
            coupons = client.get("/v1/coupons", params={"site": SITE}).json()["coupons"]
            assert len(coupons) == COUPONS
        load.wait_for_more(BEFORE)
    assert all(sender.taken_after_refusal for sender in load.senders)
    assert pid(server) == process
    assert_nothing_lost_and_nothing_twice(server, load)
    with server.client() as client:
        assert client.get("/v1/coupons/c-1", params={"site": SITE}).json()["coupon_id"] == "c-1"
    assert server.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the files of a running process")
def test_a_server_whose_files_cannot_grow_refuses_and_goes_on_once_they_can(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        register(server)
        goes_through_a_full_disk(server, files_end_here(server))
        assert server.stop()[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if not sys.platform.startswith("linux") or mount is None:
        pytest.skip("needs Linux and mount(8)")
    options = ["-t", "tmpfs", "-o", f"size={TMPFS_SIZE}", "tmpfs", str(folder)]
    done = subprocess.run([mount, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is free on the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (64 * 1024, 512):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def test_a_server_on_a_full_disk_refuses_and_goes_on_once_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    with serving(tmp_path, url=f"sqlite:///{small_disk / 'log.db'}") as server:
        server.path = small_disk / "log.db"
        register(server)
        goes_through_a_full_disk(server, filled(small_disk))
        assert server.stop()[0] == 0


# PostgreSQL gone and back


@contextmanager
def administrator(databases: Databases) -> Iterator[tuple[psycopg.Connection[Any], str, str]]:
    """`(a connection to another database, a new database's name, its URL)`."""
    database = databases()
    address = database.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with closing(psycopg.connect(address, autocommit=True)) as connection:
        assert database.database is not None
        yield connection, database.database, database.render_as_string(hide_password=False)


def end_all_connections(connection: psycopg.Connection[Any], database: str) -> int:
    ended = connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
        [database],
    )
    return len(ended.fetchall())


def test_a_postgresql_that_ends_all_connections_under_load_loses_nothing(tmp_path: Path, postgresql: Databases) -> None:
    with administrator(postgresql) as (admin, name, url), serving(tmp_path, url=url) as server:
        register(server)
        with load_on(server) as load:
            for _ in range(8):
                load.wait_for_more(40)
                assert end_all_connections(admin, name) > 0
            load.wait_for_more(BEFORE)
        assert sum(sender.refused for sender in load.senders)
        assert_nothing_lost_and_nothing_twice(server, load)


def test_a_postgresql_that_is_gone_for_a_while_is_used_again_once_it_is_back(
    tmp_path: Path, postgresql: Databases
) -> None:
    with administrator(postgresql) as (admin, name, url), serving(tmp_path, url=url) as server:
        register(server)
        process = pid(server)
        with load_on(server) as load:
            load.wait_for_more(BEFORE)
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                end_all_connections(admin, name)
                load.wait_for_refusals(5)
                with server.client() as client:
                    assert_come_again(client.get("/healthz"))
                    assert_come_again(client.get("/v1/coupons"))
            finally:
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            load.wait_for_more(BEFORE)
        assert all(sender.taken_after_refusal for sender in load.senders)
        assert pid(server) == process
        assert_nothing_lost_and_nothing_twice(server, load)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_postgresql_restarted_under_load_loses_nothing_and_every_server_goes_on(
    tmp_path: Path, postgresql_server: PostgresqlServer, how: signal.Signals
) -> None:
    with postgresql_server.new() as url:
        durable(url)
        with (
            serving(tmp_path / "one", url=url) as one,
            serving(tmp_path / "several", "--workers", "2", url=url, token=one.token) as several,
        ):
            register(one)
            processes = pid(one), pid(several)
            with load_on(one, "one-") as first, load_on(several, "several-") as second:
                loads = (first, second)
                for load in loads:
                    load.wait_for_more(BEFORE)
                with postgresql_server.gone(how):
                    for load in loads:
                        load.wait_for_refusals(2)
                    with one.client() as client:
                        assert_come_again(client.get("/healthz"))
                for load in loads:
                    load.wait_for_more(BEFORE)
            assert all(sender.taken_after_refusal for load in loads for sender in load.senders)
            assert (pid(one), pid(several)) == processes
            assert_nothing_lost_and_nothing_twice(one, *loads)
            assert "Traceback" not in one.stderr + several.stderr
            assert "a worker has died" not in several.stderr


def durable(url: str) -> None:
    """Have this database keep its commits, as every one does by default, but for those of the tests."""
    address = make_url(url).set(drivername="postgresql")
    with psycopg.connect(text_of(address), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {address.database} SET synchronous_commit = on")
