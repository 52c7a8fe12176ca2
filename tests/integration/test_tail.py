"""Tailing the log: what wakes a tail, what ends it, and what it outlives."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from eventstore.errors import InputError, StoreUnavailable
from eventstore.log.announce import CHANNEL_BYTES, Line
from eventstore.log.reader import Filter
from eventstore.log.tail import Tail
from eventstore.store import EventStore
from tests.stores import PostgresqlServer, text_of
from tests.tailing import event

NEVER = 3_600.0
"""A tail that polls this seldom is woken by a hint, or the test fails."""
PATIENCE = 60.0

Connection = psycopg.Connection[Any]


class Follower(threading.Thread):
    """Tails a store in a thread of its own."""

    def __init__(self, store: EventStore, **options: Any) -> None:
        super().__init__(daemon=True)
        self.given: list[int] = []
        self.error: BaseException | None = None
        self._tail = store.tail(**options)
        self.start()

    def run(self) -> None:
        try:
            for record in self._tail:
                self.given.append(record.position)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def wait_for(self, position: int) -> None:
        """Wait until the event at this position is given, after all before it."""
        wait_until(lambda: (bool(self.given) and self.given[-1] >= position) or self.error is not None)
        assert self.error is None
        assert self.given == [*range(1, position + 1)]

    def wait_for_the_end(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def append(store: EventStore, *numbers: int) -> None:
    list(store.append_many(event(f"e{number}", number) for number in numbers))


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A stranger's connection to a PostgreSQL store, in autocommit."""
    with closing(psycopg.connect(text_of(make_url(url).set(drivername="postgresql")), autocommit=True)) as connection:
        yield connection


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty store on PostgreSQL."""
    with postgresql_server.new() as url:
        yield url


@pytest.fixture
def two(postgresql_url: str) -> Iterator[tuple[EventStore, EventStore, Connection]]:
    """A store opened twice, as two processes would, and a stranger's connection to its database."""
    with (
        EventStore.open(postgresql_url) as one,
        EventStore.open(postgresql_url) as other,
        connected(postgresql_url) as admin,
    ):
        yield one, other, admin


def lines(admin: Connection, name: str) -> list[int]:
    """The server processes of a store's connections that hear or give hints."""
    rows = admin.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
        [f"eventstore {name}"],
    )
    return [pid for (pid,) in rows]


# Hints


def test_a_commit_wakes_the_tails_of_its_own_store_at_once(store: EventStore) -> None:
    followers = [Follower(store, poll=NEVER, listen=False) for _ in range(3)]
    for number in range(1, 6):
        append(store, number)
        for follower in followers:
            follower.wait_for(number)


def test_a_commit_of_another_process_wakes_a_listening_tail_on_postgresql(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, _ = two
    follower = Follower(one, poll=NEVER)
    for number in range(1, 6):
        append(other, number)
        follower.wait_for(number)


def test_a_tail_that_does_not_listen_looks_again_after_each_poll(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, admin = two
    follower = Follower(one, listen=False)
    for number in range(1, 4):
        append(other, number)
        follower.wait_for(number)
    assert lines(admin, "listener") == []


def test_all_listening_tails_of_a_store_share_one_connection_which_goes_with_the_last(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, admin = two
    enough = threading.Event()
    first = Follower(one, poll=NEVER, stop=enough)
    rest = [Follower(one, poll=NEVER) for _ in range(20)]
    append(other, 1)
    for follower in [first, *rest]:
        follower.wait_for(1)
    wait_until(lambda: len(lines(admin, "listener")) == 1)
    enough.set()
    first.wait_for_the_end()
    append(other, 2)
    for follower in rest:
        follower.wait_for(2)
    one.close()
    for follower in rest:
        follower.wait_for_the_end()
    wait_until(lambda: lines(admin, "listener") == [])


def test_a_tail_whose_listening_connection_is_ended_listens_again(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, admin = two
    follower = Follower(one, poll=NEVER)
    for number in range(1, 6):
        append(other, number)
        follower.wait_for(number)
        wait_until(lambda: len(lines(admin, "listener")) == 1)
        [listening] = lines(admin, "listener")
        admin.execute("SELECT pg_terminate_backend(%s)", [listening])
        wait_until(lambda: lines(admin, "listener") not in ([], [listening]))  # noqa: B023


def test_an_announcing_connection_that_is_ended_costs_no_append_and_is_made_again(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, admin = two
    follower = Follower(one, poll=NEVER)
    for number in range(1, 6):
        append(other, number)
        follower.wait_for(number)
        wait_until(lambda: len(lines(admin, "announcer")) == 1)
        [announcing] = lines(admin, "announcer")
        admin.execute("SELECT pg_terminate_backend(%s)", [announcing])
        wait_until(lambda: announcing not in lines(admin, "announcer"))  # noqa: B023


def test_what_strangers_announce_is_no_more_than_a_reason_to_look(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, other, admin = two
    follower = Follower(one, poll=NEVER)
    append(other, 1)
    follower.wait_for(1)
    for payload in ("", "nonsense", "-1", "0", "1" * 30, "9" * 19, "²", "1.5", "x" * 7_000):
        admin.execute("SELECT pg_notify('eventstore_public', %s)", [payload])
    append(other, 2)
    follower.wait_for(2)
    assert len(lines(admin, "listener")) == 1


def test_announcements_come_after_the_commit_and_the_last_is_the_head(
    two: tuple[EventStore, EventStore, Connection],
) -> None:
    one, _, admin = two
    admin.execute("LISTEN eventstore_public")
    for number in range(200):
        append(one, number)
    one.close()
    heard: list[int] = []
    for notification in admin.notifies(timeout=PATIENCE):
        heard.append(int(notification.payload))
        if heard[-1] == 200:
            break
    assert heard == sorted(heard)
    assert heard[-1] == 200
    assert len(heard) <= 200


def test_nothing_is_announced_or_heard_on_sqlite(sqlite_store: EventStore) -> None:
    follower = Follower(sqlite_store)
    append(sqlite_store, 1)
    follower.wait_for(1)
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"eventstore-announcer", "eventstore-listener"}


@pytest.mark.parametrize("schema", ["shop", "Ünïque schema", "s" * 63], ids=["plain", "strange", "longest"])
def test_each_schema_of_a_database_has_a_channel_of_its_own(postgresql_url: str, schema: str) -> None:
    database = make_url(postgresql_url).database
    with connected(postgresql_url) as admin:
        admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        with EventStore.open(postgresql_url) as public:
            admin.execute(f'CREATE SCHEMA "{schema}"')
            admin.execute(f'ALTER DATABASE {database} SET search_path TO "{schema}"')
            with EventStore.open(postgresql_url) as one, EventStore.open(postgresql_url) as other:
                with Line(public.engine, "x") as line:
                    public_channel = line.channel
                with Line(one.engine, "x") as line:
                    assert line.channel != public_channel
                    assert len(line.channel.encode()) <= CHANNEL_BYTES
                follower = Follower(one, poll=NEVER)
                append(other, 1, 2, 3)
                follower.wait_for(3)


# What a tail reads


def test_a_tail_that_wants_little_does_not_read_the_same_stretch_twice(store: EventStore) -> None:
    append(store, *range(40))
    tail = Tail(store.engine, store.hints, Filter(coupon_id="c3"), page=2)
    at = []
    while page := tail.read():
        at += [record.event.sequence for record in page]
    assert at == [3, 10, 17, 24, 31, 38]
    assert tail.position == 40
    nothing = Tail(store.engine, store.hints, Filter(site_id="nowhere"))
    assert nothing.read() == []
    assert nothing.position == 40


@pytest.mark.parametrize(
    ("options", "named"),
    [({"after": -1}, "after"), ({"poll": 0}, "poll"), ({"idle_timeout": -0.5}, "idle_timeout"), ({"page": 0}, "page")],
    ids=["after", "poll", "idle_timeout", "page"],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_read(
    sqlite_store: EventStore, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        sqlite_store.tail_pages(**options)


# What ends a tail


def test_closing_the_store_ends_its_tails_and_leaves_nothing_of_them(path: Path) -> None:
    store = EventStore.open(path)
    followers = [Follower(store, poll=poll) for poll in (0.001, 0.001, NEVER)]
    append(store, 1)
    for follower in followers:
        follower.wait_for(1)
    store.close()
    for follower in followers:
        follower.wait_for_the_end()
        assert follower.error is None
    # Nobody has opened the file again: it alone is the whole store.
    assert [each.name for each in path.parent.iterdir() if each.name.startswith("log.db")] == ["log.db"]
    with pytest.raises(StoreUnavailable, match="closed"):
        store.tail()


def test_a_tail_that_is_left_is_forgotten_at_once(two: tuple[EventStore, EventStore, Connection]) -> None:
    one, other, admin = two
    append(other, 1, 2)
    for _ in range(3):
        for record in one.tail(poll=NEVER):
            if record.position == 2:
                break
    wait_until(lambda: not any(thread.name == "eventstore-listener" for thread in threading.enumerate()))
    wait_until(lambda: lines(admin, "listener") == [])
    assert one.engine.pool.status().endswith("Current Checked out connections: 0")


# What it outlives


@contextmanager
def closed_to_all(url: str) -> Iterator[None]:
    """A database that has ended every connection and takes no new one."""
    database = make_url(url).database
    with connected(text_of(make_url(url).set(database="postgres"))) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        try:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
                [database],
            )
            yield
        finally:
            admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")


def test_a_tail_waits_for_a_database_that_is_away_and_says_so_once(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with EventStore.open(postgresql_url) as one, EventStore.open(postgresql_url) as other:
        caplog.set_level(logging.INFO, logger="eventstore.tail")
        follower = Follower(one, poll=0.02)
        append(other, 1)
        follower.wait_for(1)
        with closed_to_all(postgresql_url):
            wait_until(lambda: bool(caplog.records))
            time.sleep(0.5)  # so that it has tried more than once
            said = [record for record in caplog.records if record.name.startswith("eventstore")]
            assert [(record.levelname, record.getMessage()) for record in said] == [
                ("WARNING", "the log cannot be read for now")
            ]
            # A tail that would have ended by now has not seen the end of the log.
            with pytest.raises(StoreUnavailable, match="position 0"):
                list(other.tail(idle_timeout=0.3))
        append(other, 2, 3)
        follower.wait_for(3)
        assert "the log can be read again" in [record.getMessage() for record in caplog.records]


def test_what_is_no_outage_is_raised(store: EventStore) -> None:
    append(store, 1)
    tail = store.tail(poll=0.02)
    assert next(tail).position == 1
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE log_head RENAME TO another_head")
    with pytest.raises(DBAPIError, match="log_head"):
        next(tail)


def test_a_sqlite_file_that_cannot_be_opened_for_a_while_is_read_on(path: Path) -> None:
    with EventStore.open(path) as writer, EventStore.open(path) as store:
        append(writer, 1)
        store.engine.dispose()
        hidden = path.with_name("elsewhere")
        with closing(sqlite3.connect(path)) as keeps_the_log_open:
            keeps_the_log_open.execute("SELECT size FROM log_head").fetchone()
            path.rename(hidden)
            path.mkdir()
            tail = store.tail(poll=0.02)
            given: list[int] = []
            reading = threading.Thread(target=lambda: given.extend(record.position for record in islice(tail, 1)))
            reading.start()
            time.sleep(0.3)
            assert given == []
            path.rmdir()
            hidden.rename(path)
            reading.join(PATIENCE)
        assert given == [1]


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server that a test may stop, with the smallest queue for notifications that it can have."""
    server = PostgresqlServer()
    try:
        with server.new() as url, connected(url) as admin:
            admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        server.restart()
        yield server
    finally:
        server.end()


def test_a_tail_goes_on_after_the_server_was_restarted(own_server: PostgresqlServer) -> None:
    with own_server.new() as url, EventStore.open(url) as one, EventStore.open(url) as other:
        polling = Follower(one, poll=0.05, listen=False)
        listening = Follower(one)
        append(other, 1)
        polling.wait_for(1)
        listening.wait_for(1)
        for number in (2, 3):
            own_server.restart()
            append(other, number)
            polling.wait_for(number)
            listening.wait_for(number)


def fill_the_queue(connection: Connection) -> None:
    """Notify of large things until that fails."""
    while True:
        connection.execute("SELECT pg_notify('anything', repeat('x', 7000) || n) FROM generate_series(1, 20) n")


def test_a_full_notification_queue_fails_no_append_and_keeps_no_tail_from_reading(
    own_server: PostgresqlServer,
) -> None:
    with own_server.new() as url, EventStore.open(url) as one, EventStore.open(url) as other:
        follower = Follower(one, poll=0.05)
        append(other, 1)
        follower.wait_for(1)
        with connected(url) as sleeper, connected(url) as noisy:
            sleeper.execute("LISTEN anything")
            sleeper.execute("BEGIN")
            sleeper.execute("SELECT 1")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="queue"):
                fill_the_queue(noisy)
            # Nobody can announce anything now, and nobody needs to.
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                noisy.execute("SELECT pg_notify('eventstore_public', repeat('x', 7999))")
            for number in range(2, 12):
                append(other, number)
                follower.wait_for(number)
            sleeper.execute("ROLLBACK")
        append(other, 12)
        follower.wait_for(12)
