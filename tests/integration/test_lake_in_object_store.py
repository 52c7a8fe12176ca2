"""A lake in an object store, over HTTP: written to by whoever comes, read from copies of files that never change."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import pytest

import analytics
from analytics.lake import copies
from eventstore.errors import StoreUnavailable
from eventstore.store import EventStore
from tests.integration.test_own_projections import STORY
from tests.lakes import assert_shows, lake_of, small
from tests.processes import FORKING
from tests.serving import PATIENCE, PROJECTIONS

OWN = [PROJECTIONS / "app_weeks", PROJECTIONS / "coupon_days"]
TWO_DAYS = timedelta(days=2).total_seconds()


def serve_s3(told: Connection) -> None:
    """Speak S3 on a free port, of objects in memory, and tell which; to the end of the process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    told.send(server.get_host_and_port())
    with suppress(EOFError):
        told.recv()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3, known from the environment as such servers are."""
    ours, theirs = FORKING.Pipe()
    process = FORKING.Process(target=serve_s3, args=(theirs,), name="s3", daemon=True)
    process.start()
    theirs.close()
    assert ours.poll(PATIENCE), "the server does not start"
    host, port = ours.recv()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        assert httpx.put(f"http://{host}:{port}/lakes").status_code == 200
        yield f"http://{host}:{port}"
    process.kill()
    process.join()
    ours.close()


@pytest.fixture
def store(sqlite_store: EventStore, path: Path) -> Iterator[EventStore]:
    """A store with a few uses and two projections of its owner's."""
    with EventStore.open(path, projections=OWN) as opened:
        list(opened.append_many(STORY[:5]))
        yield opened


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copied(cache: Path) -> dict[Path, int]:
    """The copies of a lake's files, and which they are."""
    return {path: path.stat().st_ino for path in cache.rglob("*.parquet")}


def test_it_is_brought_up_to_date_there_and_asked_from_copies_that_are_made_once(
    s3: str, store: EventStore, cache: Path
) -> None:
    location = "s3://lakes/shops/one"
    lake = lake_of(store, location)
    with small():
        lake.catch_up(store.engine)
    assert_shows(lake, store)
    assert all(file.startswith(f"{location}/") for file in lake.snapshot(bring=False).files)
    count = "SELECT count(*), max(position), (SELECT sum(times_used) FROM app_weeks) FROM events"
    with analytics.connect(store.engine, lake=location, projections=store.catalogue) as db:
        assert db.execute(count).fetchall() == [(5, 5, 4)]
        first = copied(cache)
        with analytics.connect(lake=location, projections=store.catalogue):
            assert copied(cache) == first
        list(store.append_many(STORY[5:]))
        with analytics.connect(store.engine, lake=location, projections=store.catalogue) as later:
            assert later.execute(count).fetchall() == [(7, 7, 5)]
        # Whoever connected before still reads.
        lake.compact(keep=timedelta(0))
        assert_shows(lake, store)
        assert db.execute(count).fetchall() == [(5, 5, 4)]
    second = copied(cache)
    assert first.items() <= second.items()
    long_ago = time.time() - TWO_DAYS
    for path in second:
        os.utime(path, (long_ago, long_ago))
    found = lake.snapshot()
    assert copied(cache).keys() == {Path(file) for file in found.files}
    assert all(file.startswith(str(copies.copies_of(location))) for file in found.files)


def test_several_that_write_at_once_bring_every_event_once(s3: str, store: EventStore) -> None:
    location = "s3://lakes/shops/busy"

    def catch_up(_: int) -> int:
        return lake_of(store, location).catch_up(store.engine)

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(catch_up, range(3))) == {5}
        list(store.append_many(STORY[5:]))
        assert set(pool.map(catch_up, range(3))) == {7}
    assert_shows(lake_of(store, location), store)


def test_a_bucket_that_is_not_there_is_said_to_be(s3: str, store: EventStore) -> None:
    with pytest.raises(StoreUnavailable, match=r"the lake's table s3://nowhere/lake/\w+ cannot be (read|written)"):
        lake_of(store, "s3://nowhere/lake").catch_up(store.engine)
