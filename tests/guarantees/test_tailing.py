"""Whoever tails the log is given every event once and in order, however many processes write it and whatever goes wrong.

Eight processes append, one event at a time and 200 at a time; others tail, some that only poll and some that also listen.
Every reader's sequence must be 1, 2, 3 … to the head, with the very events that the writers were told stand there.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from tests.stores import ENGINES, PostgresqlServer, text_of
from tests.tailing import READERS, WRITERS, Run, faults, running

MAIN_SECONDS = 5.0
"""How long the writers write in the run that nothing disturbs."""
VARIANT_SECONDS = 2.0
"""The same where something does."""
KILL_EVERY = 0.7
"""Seconds between two deaths of a writer."""
CUT_EVERY = 0.25
"""Seconds between two ends of the listening connections."""
FEW_READERS = ("poll", "listen")

MainRuns = dict[str, Future[None]]


def address(url: str) -> str:
    return text_of(make_url(url).set(drivername="postgresql"))


def let_write(run: Run, seconds: float = VARIANT_SECONDS) -> None:
    """Leave a run alone for so long; longer, on a slow machine, until every writer has been heard."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or not all(writer.heard for writer in run.writers):
        time.sleep(0.1)


def undisturbed(url: str, folder: Path) -> None:
    folder.mkdir()
    with running(url, folder, writers=WRITERS, readers=READERS) as run:
        let_write(run, MAIN_SECONDS)
        run.finish()


@pytest.fixture(scope="module")
def main_runs(
    template: Path, postgresql_server: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MainRuns]:
    """The long run of each engine, both at the same time."""
    folder = tmp_path_factory.mktemp("main")
    file = shutil.copyfile(template, folder / "log.db")
    with postgresql_server.new() as url, ThreadPoolExecutor(2) as threads:
        yield {
            "sqlite": threads.submit(undisturbed, f"sqlite:///{file}", folder / "sqlite"),
            "postgresql": threads.submit(undisturbed, url, folder / "postgresql"),
        }


@pytest.mark.parametrize("engine", ENGINES)
def test_every_reader_of_a_log_written_by_eight_processes_is_given_each_event_once_and_in_order(
    engine: str, main_runs: MainRuns
) -> None:
    main_runs[engine].result()


def test_readers_of_a_log_whose_writers_are_killed_in_the_midst_of_it_miss_nothing(
    store_url: str, tmp_path: Path
) -> None:
    with running(store_url, tmp_path, readers=FEW_READERS) as run:
        deadline = time.monotonic() + VARIANT_SECONDS
        while time.monotonic() < deadline or len(run.killed) < WRITERS:
            time.sleep(KILL_EVERY)
            run.replace_a_writer()
        let_write(run, 0)
        run.finish()
    assert len(run.killed) >= WRITERS


def test_readers_of_a_sqlite_log_miss_nothing_while_a_stranger_reads_in_one_long_transaction(
    path: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT size FROM log_head").fetchone() == (0,)
        with running(f"sqlite:///{path}", tmp_path, readers=FEW_READERS) as run:
            let_write(run)
            run.finish()
        # It has stood at its beginning all the while.
        assert other.execute("SELECT size FROM log_head").fetchone() == (0,)
        other.execute("ROLLBACK")
        assert other.execute("SELECT size FROM log_head").fetchone() > (0,)


@contextmanager
def long_transaction(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A stranger's transaction that listens, has written, and holds on to its first snapshot, while everything goes on."""
    with psycopg.connect(address(url)) as other:
        other.execute("SET default_transaction_isolation = 'repeatable read'")
        other.execute("CREATE TABLE notes (note text)")
        other.execute("LISTEN eventstore_public")
        other.commit()
        # From the first statement on, what it waits to be told piles up in the server's queue.
        other.execute("INSERT INTO notes VALUES ('a while ago')")
        assert other.execute("SELECT size FROM log_head").fetchone() == (0,)
        [xid] = other.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() or (None,)
        assert xid is not None
        yield other
        assert other.execute("SELECT size FROM log_head").fetchone() == (0,)
        other.rollback()
        assert (other.execute("SELECT size FROM log_head").fetchone() or (0,)) > (0,)


def test_readers_of_a_postgresql_log_miss_nothing_while_a_stranger_s_transaction_stays_open(
    postgresql_url: str, tmp_path: Path
) -> None:
    with long_transaction(postgresql_url), running(postgresql_url, tmp_path, readers=FEW_READERS) as run:
        let_write(run)
        run.finish()


def cut(admin: psycopg.Connection[Any], ended: list[int], enough: threading.Event) -> None:
    """End every connection that listens, over and over."""
    while not enough.wait(CUT_EVERY):
        ended += [
            pid
            for pid, done in admin.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'eventstore listener'"
            ).fetchall()
            if done
        ]


def test_readers_whose_listening_connections_are_ended_again_and_again_miss_nothing(
    postgresql_url: str, tmp_path: Path
) -> None:
    ended: list[int] = []
    enough = threading.Event()
    with (
        psycopg.connect(address(postgresql_url), autocommit=True) as admin,
        running(postgresql_url, tmp_path, readers=FEW_READERS) as run,
    ):
        cutting = threading.Thread(target=cut, args=(admin, ended, enough))
        cutting.start()
        try:
            let_write(run)
        finally:
            enough.set()
            cutting.join()
        run.finish()
    # Each was another connection: the reader has listened anew every time.
    assert len(set(ended)) >= 5


# What catches what


def sequence_log(admin: psycopg.Connection[Any]) -> None:
    """A log as it is often written: positions from a sequence, writers side by side."""
    admin.execute(
        "CREATE TABLE naive (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text NOT NULL)"
    )


class NaiveReader:
    """Tails it as ours is tailed: what stands above the last position read is what is new."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.given: list[int] = []

    def poll(self) -> None:
        after = self.given[-1] if self.given else 0
        rows = self._connection.execute("SELECT position FROM naive WHERE position > %s ORDER BY position", [after])
        self.given += [position for (position,) in rows]


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty store on PostgreSQL."""
    with postgresql_server.new() as url:
        yield url


@pytest.fixture
def naive(postgresql_url: str) -> str:
    """The address of a database with such a log."""
    with psycopg.connect(address(postgresql_url), autocommit=True) as admin:
        sequence_log(admin)
    return address(postgresql_url)


def test_a_log_whose_positions_come_from_a_sequence_is_caught(naive: str) -> None:
    with (
        psycopg.connect(naive) as slow,
        psycopg.connect(naive) as quick,
        psycopg.connect(naive, autocommit=True) as third,
    ):
        reader = NaiveReader(third)
        slow.execute("INSERT INTO naive (event_id) VALUES ('first')")
        quick.execute("INSERT INTO naive (event_id) VALUES ('second')")
        quick.commit()
        reader.poll()
        slow.commit()
        reader.poll()
        assert third.execute("SELECT position FROM naive ORDER BY position").fetchall() == [(1,), (2,)]
        assert faults(reader.given, 2) == ["1 was never given"]
        # Without the luck of the slow one there is nothing to see: that is why tests of it must try.
        slow.execute("INSERT INTO naive (event_id) VALUES ('third')")
        slow.commit()
        reader.poll()
        assert faults(reader.given, 3) == ["1 was never given"]


def test_a_log_whose_positions_come_from_a_sequence_is_caught_under_load_too(naive: str) -> None:
    """Nobody arranges who commits when: writers at work are enough."""
    enough = threading.Event()

    def write(number: int) -> None:
        with psycopg.connect(naive) as connection:
            while not enough.is_set():
                connection.execute("INSERT INTO naive (event_id) VALUES (%s)", [f"w{number}"])
                time.sleep(0.001 * number)
                connection.commit()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    with psycopg.connect(naive, autocommit=True) as connection:
        reader = NaiveReader(connection)
        for writer in writers:
            writer.start()
        try:
            deadline = time.monotonic() + MAIN_SECONDS * 3
            while time.monotonic() < deadline and not faults(reader.given, max(reader.given, default=0)):
                reader.poll()
        finally:
            enough.set()
            for writer in writers:
                writer.join()
        reader.poll()
        [(head,)] = connection.execute("SELECT max(position) FROM naive").fetchall()
    assert any("was never given" in fault for fault in faults(reader.given, head))


@pytest.mark.parametrize(
    ("given", "head", "fault"),
    [
        pytest.param([1, 2, 4], 4, "3 was never given", id="a gap"),
        pytest.param([1, 2], 3, "3 was never given", id="the end is missing"),
        pytest.param([1, 2, 2, 3], 3, "2 was given twice", id="a repetition"),
        pytest.param([1, 3, 2], 3, "2 was given after 3", id="disorder"),
        pytest.param([1, 2, 3], 2, "3 is past the end, 2", id="an event that is not there"),
        pytest.param([], 1, "1 was never given", id="nothing"),
    ],
)
def test_a_sequence_that_is_not_one_to_the_head_is_caught(given: list[int], head: int, fault: str) -> None:
    assert faults(given, head) == [fault]


def test_a_sequence_from_one_to_the_head_is_not_caught() -> None:
    assert faults(range(1, 1_001), 1_000) == []
    assert faults([], 0) == []
