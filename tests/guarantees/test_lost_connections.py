"""A connection to PostgreSQL that is lost around COMMIT, and a server that refuses: every answer given is true.

Between the store and the server stands a proxy that understands the wire protocol far enough to see an append's transaction
and its COMMIT, and cuts there. Whoever is not told "appended" may have been appended all the same; a second telling finds out.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.event import listen

from eventstore.errors import StoreUnavailable
from eventstore.event import Event, Source
from eventstore.log.batch import Batches
from eventstore.log.engine import make_engine, write_transaction
from eventstore.log.records import Outcome, OutcomeKind, prepare
from eventstore.store import EventStore
from tests.losing import Cut, Proxy
from tests.outages import assert_nothing_lost_and_nothing_twice, load_on, log_of, register
from tests.rows import rows
from tests.serving import PATIENCE, ROOT, environment, serving
from tests.stores import PostgresqlServer, text_of

APPENDED, DUPLICATE = OutcomeKind.APPENDED, OutcomeKind.DUPLICATE


@pytest.fixture
def database(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty store, reached directly."""
    with postgresql_server.new() as url:
        yield url


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    folder = make_url(database).query["host"]
    assert isinstance(folder, str)
    opened = Proxy(f"{folder}/.s.PGSQL.5432")
    yield opened
    opened.close()


@pytest.fixture
def proxied(database: str, proxy: Proxy) -> str:
    """The same store, reached through the proxy."""
    direct = make_url(database)
    # The proxy speaks the protocol itself, and nothing that is asked for before it begins.
    plain = {"sslmode": "disable", "gssencmode": "disable", "connect_timeout": "20"}
    through = URL.create(
        "postgresql", direct.username, host="127.0.0.1", port=proxy.port, database=direct.database, query=plain
    )
    return text_of(through)


@pytest.fixture
def store(proxied: str) -> Iterator[EventStore]:
    with EventStore.open(proxied) as opened:
        yield opened


def use(event_id: str) -> Event:
    return Event(
        event_id=event_id,
        type="coupon.applied",
        entity_id="c-1",
        coupon_id="c-1",
        order_id=event_id,
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        source=Source.VELO,
        site_id="shop",
    )


def log(url: str) -> list[str]:
    """The ids in the log, once it is known that it has no gap, says what its head says, and that nothing was kept aside."""
    found = rows(url, "SELECT position, event_id FROM events ORDER BY position")
    assert [position for position, _ in found] == [*range(1, len(found) + 1)]
    assert rows(url, "SELECT size FROM log_head") == [(len(found),)]
    assert rows(url, "SELECT count(*) FROM quarantine") == [(0,)]
    return [event_id for _, event_id in found]


def outcome(kind: OutcomeKind, event_id: str, position: int) -> Outcome:
    return Outcome(kind, event_id, position)


def refused(store: EventStore, event: Event) -> str | None:
    """The SQLSTATE (None: the connection was lost) because of which the store asks for the event to be sent again."""
    with pytest.raises(StoreUnavailable) as told:
        store.append(event)
    cause: Any = told.value.__cause__
    state: str | None = cause.orig.sqlstate
    return state


# The connection


@pytest.mark.parametrize("cut", [Cut.MIDST, Cut.BEFORE])
def test_an_append_whose_commit_never_reached_the_server_is_not_acknowledged_and_appended_when_sent_again(
    store: EventStore, database: str, proxy: Proxy, cut: Cut
) -> None:
    assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    proxy.lose_next(cut)
    assert refused(store, use("second")) is None
    proxy.wait_until_lost()
    assert log(database) == ["first"]
    assert store.append(use("second")) == outcome(APPENDED, "second", 2)
    assert store.append(use("third")) == outcome(APPENDED, "third", 3)
    assert log(database) == ["first", "second", "third"]


def test_an_append_whose_commit_was_done_but_not_answered_is_not_acknowledged_and_a_duplicate_when_sent_again(
    store: EventStore, database: str, proxy: Proxy
) -> None:
    assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    proxy.lose_next(Cut.UNANSWERED)
    assert refused(store, use("second")) is None
    proxy.wait_until_lost()
    assert log(database) == ["first", "second"]
    assert store.append(use("second")) == outcome(DUPLICATE, "second", 2)
    assert store.append(use("third")) == outcome(APPENDED, "third", 3)
    assert log(database) == ["first", "second", "third"]


def test_an_append_that_was_answered_stands_though_the_connection_is_lost_right_after(
    store: EventStore, database: str, proxy: Proxy
) -> None:
    assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    proxy.lose_next(Cut.AFTER)
    assert store.append(use("second")) == outcome(APPENDED, "second", 2)
    proxy.wait_until_lost()
    assert store.append(use("second")) == outcome(DUPLICATE, "second", 2)
    assert store.append(use("third")) == outcome(APPENDED, "third", 3)
    assert log(database) == ["first", "second", "third"]


CALLERS: Final = 4
EVENTS: Final = 12
"""Events of each caller, every fifth of which finds the connection about to be lost."""


def test_callers_of_a_store_that_loses_its_connections_are_never_told_what_is_not_so(
    store: EventStore, database: str, proxy: Proxy
) -> None:
    """Nobody who tells an event for the first time hears that it was known, and nobody hears of a success that was none."""
    cuts = cycle(Cut)
    told: dict[str, int] = {}

    def call(caller: int) -> int:
        unsure = 0
        for number in range(EVENTS):
            event_id = f"{caller}-{number}"
            if number % 5 == caller:
                proxy.lose_next(next(cuts))
            answer = None
            for attempt in range(100):
                try:
                    answer = store.append(use(event_id))
                except StoreUnavailable:
                    unsure += 1
                    continue
                assert answer.kind is APPENDED or (answer.kind is DUPLICATE and attempt > 0)
                break
            assert answer is not None, "it is never taken"
            assert answer.position is not None
            told[event_id] = answer.position
        return unsure

    with ThreadPoolExecutor(CALLERS) as threads:
        assert sum(threads.map(call, range(CALLERS))) > 0
    in_order = log(database)
    assert {event_id: position for position, event_id in enumerate(in_order, 1)} == told
    assert len(told) == CALLERS * EVENTS


def test_a_server_that_loses_its_connections_around_commit_loses_nothing_and_keeps_nothing_twice(
    tmp_path: Path, proxied: str, database: str, proxy: Proxy
) -> None:
    with serving(tmp_path, url=proxied) as server:
        register(server)
        with load_on(server) as load:
            for cut in Cut:
                load.wait_for_more(10)
                proxy.lose_next(cut)
                proxy.wait_until_lost()
            load.wait_for_more(10)
        assert_nothing_lost_and_nothing_twice(server, load)
        assert sum(sender.taken_after_refusal for sender in load.senders) > 0
        found = log_of(server)
    assert log(database) == sorted(found, key=found.__getitem__)


# The server


@contextmanager
def stranger(database: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection, in autocommit."""
    direct = text_of(make_url(database).set(drivername="postgresql"))
    with psycopg.connect(direct, autocommit=True) as connection:
        yield connection


def end_sessions(connection: psycopg.Connection[Any]) -> None:
    """End every other session of the database, so that the store must make new ones."""
    connection.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def wait_for_waiters(connection: psycopg.Connection[Any], number: int = 1) -> list[int]:
    """Wait until so many sessions of the database wait for a lock; their process ids, those that came first before others."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        waiting = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "ORDER BY query_start"
        ).fetchall()
        if len(waiting) == number:
            return [pid for (pid,) in waiting]
        time.sleep(0.01)
    raise AssertionError(f"no {number} sessions wait")


class Refusal(threading.Thread):
    """An append in a thread of its own that will be refused."""

    def __init__(self, store: EventStore, event: Event) -> None:
        super().__init__(daemon=True)
        self._refused: Future[str | None] = Future()
        self._store = store
        self._event = event

    def run(self) -> None:
        try:
            self._refused.set_result(refused(self._store, self._event))
        except BaseException as error:  # noqa: BLE001 - the test is told
            self._refused.set_exception(error)

    def result(self) -> str | None:
        """The SQLSTATE, once it is refused."""
        return self._refused.result(PATIENCE)


@contextmanager
def appending(database: str, event: Event) -> Iterator[tuple[EventStore, Refusal]]:
    """A store, and an append to it that is yet to be started."""
    with EventStore.open(database) as store:
        yield store, Refusal(store, event)


def test_an_append_whose_session_the_server_ends_is_not_acknowledged_and_the_store_goes_on(database: str) -> None:
    with (
        stranger(database) as other,
        stranger(database) as observer,
        appending(database, use("first")) as (store, refusal),
    ):
        with other.transaction():
            other.execute("SELECT size FROM log_head FOR UPDATE")
            refusal.start()
            observer.execute("SELECT pg_terminate_backend(%s)", wait_for_waiters(observer))
            # Of a session that ends in the midst of a pipeline the driver may only see that it is gone.
            assert refusal.result() in ("57P01", None)
        assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    assert log(database) == ["first"]


def test_a_lock_that_is_not_released_in_time_is_no_fault_of_the_event(database: str) -> None:
    with stranger(database) as other, EventStore.open(database) as store:
        store.engine.dispose()
        listen(store.engine, "connect", lambda driver, _: driver.execute("SET lock_timeout = 200"))
        with other.transaction():
            other.execute("SELECT size FROM log_head FOR UPDATE")
            assert refused(store, use("first")) == "55P03"
        assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    assert log(database) == ["first"]


def test_a_server_that_only_reads_as_after_a_failover_is_no_fault_of_the_event(database: str) -> None:
    name = make_url(database).database
    with EventStore.open(database) as store, stranger(database) as other:
        assert store.append(use("first")) == outcome(APPENDED, "first", 1)
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_sessions(other)
        assert refused(store, use("second")) == "25006"
        assert store.read()[0].event.event_id == "first"
        other.execute("SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        end_sessions(other)
        assert store.append(use("second")) == outcome(APPENDED, "second", 2)
    assert log(database) == ["first", "second"]


def test_a_server_with_no_connection_to_spare_is_no_fault_of_the_event(postgresql_server: PostgresqlServer) -> None:
    database = postgresql_server.new_database("template0")
    with stranger(text_of(database)) as admin:
        admin.execute("CREATE ROLE limited LOGIN")
        try:
            admin.execute(f"ALTER DATABASE {database.database} OWNER TO limited")
            with EventStore.open(text_of(database.set(username="limited"))) as store:
                assert store.append(use("first")) == outcome(APPENDED, "first", 1)
                admin.execute("ALTER ROLE limited CONNECTION LIMIT 0")
                end_sessions(admin)
                with pytest.raises(StoreUnavailable, match="too many connections"):
                    store.append(use("second"))
                admin.execute("ALTER ROLE limited CONNECTION LIMIT -1")
                assert store.append(use("second")) == outcome(APPENDED, "second", 2)
            assert log(text_of(database)) == ["first", "second"]
        finally:
            admin.execute("DROP OWNED BY limited CASCADE")
            admin.execute(f"ALTER DATABASE {database.database} OWNER TO postgres")
            admin.execute("DROP ROLE limited")


def test_a_stricter_isolation_by_default_keeps_nobody_from_taking_turns(database: str) -> None:
    engine = make_engine(database)
    with stranger(database) as admin:
        admin.execute(
            f"ALTER DATABASE {make_url(database).database} SET default_transaction_isolation = 'serializable'"
        )
        with EventStore.open(database) as store, ThreadPoolExecutor(1) as thread:
            with write_transaction(engine) as connection:
                [first], _ = Batches(engine).append(connection, [prepare(use("first"))])
                second = thread.submit(store.append, use("second"))
                wait_for_waiters(admin)
            assert second.result() == outcome(APPENDED, "second", 2)
    engine.dispose()
    assert first.kind is APPENDED
    assert log(database) == ["first", "second"]


STANDS_STILL: Final = """
import os, signal, sys
from eventstore.log import append_postgresql
from eventstore.log.batch import Batches
from eventstore.log.engine import make_engine, write_transaction
from eventstore.log.records import prepare
from tests.guarantees.test_lost_connections import use

patience = f"'{append_postgresql.IDLE_SECONDS}s'"
assert patience in append_postgresql._SETTLE
append_postgresql._SETTLE = append_postgresql._SETTLE.replace(patience, "'1s'")
engine = make_engine(sys.argv[1])
with write_transaction(engine) as connection:
    Batches(engine).append(connection, [prepare(use("first"))])
    os.kill(os.getpid(), signal.SIGSTOP)
"""
"""A process that stands still with the head in its hands; the server waits for it for a second rather than for fifteen."""
TRIES: Final = 5
"""Appends that may be told to come again meanwhile, each after the seconds that a lock is waited for."""


def test_a_head_held_by_a_process_that_stands_still_is_let_go(database: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STANDS_STILL, database], cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    ) as process:
        try:
            found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert found is not None
            assert found.si_code == os.CLD_STOPPED, "it has ended"
            with EventStore.open(database) as store:
                for _ in range(TRIES):
                    with suppress(StoreUnavailable):
                        assert store.append(use("second")) == outcome(APPENDED, "second", 1)
                        break
                else:
                    raise AssertionError("nobody can append any more")
            process.send_signal(signal.SIGCONT)
            _, complained = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 1
    assert re.search(b"terminating connection due to .*timeout|the connection is lost", complained)
    assert log(database) == ["second"]


def test_a_head_that_lags_behind_the_log_is_no_fault_of_the_event(database: str) -> None:
    with EventStore.open(database) as store, stranger(database) as admin:
        store.append(use("first"))
        # What a member of the writer could do by hand: an event whose position the head does not know of.
        columns = "event_id, site_id, type, source, entity_id, coupon_id, event_time, recorded_at, anonymize, payload, leaf_hash"
        admin.execute(f"INSERT INTO events (position, {columns}) SELECT 2, {columns} FROM events")
        with pytest.raises(StoreUnavailable, match="events_from_1_pkey"):
            store.append(use("second"))
        assert admin.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
        admin.execute("UPDATE log_head SET size = 2")
        assert store.append(use("second")) == outcome(APPENDED, "second", 3)


def test_a_deadlock_that_a_stranger_causes_is_no_fault_of_the_event(database: str) -> None:
    with stranger(database) as holder, stranger(database) as other, stranger(database) as observer:
        # The stranger is patient, so that the store's session is the one that the server ends.
        other.execute("SET deadlock_timeout = '60s'")
        with ThreadPoolExecutor(1) as thread, appending(database, use("first")) as (store, refusal):
            with other.transaction():
                other.execute("LOCK TABLE event_keys IN EXCLUSIVE MODE")
                with holder.transaction():
                    holder.execute("SELECT size FROM log_head FOR UPDATE")
                    refusal.start()
                    wait_for_waiters(observer)
                    behind = thread.submit(other.execute, "SELECT size FROM log_head FOR UPDATE")
                    wait_for_waiters(observer, 2)
                assert refusal.result() == "40P01"
                behind.result()
            assert store.append(use("first")) == outcome(APPENDED, "first", 1)
    assert log(database) == ["first"]


NOT_THE_EVENT: Final = {
    "0A000": "a cached plan must not change its result type: another process has migrated the store",
    "25006": "cannot execute in a read-only transaction",
    "26000": "the prepared statement does not exist",
    "40001": "could not serialise",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "cancelled",
    "57P01": "the administrator ends the session",
    "57P03": "the database system is shutting down",
    "58030": "input/output error",
    "XX000": "internal error",
    "XX001": "data corrupted",
}
"""What a server may say of itself, by SQLSTATE: nothing of it is about an event."""
ITS_OWN_FAULT: Final = {
    "22021": "a character that the encoding does not know",
    "22003": "a number out of range",
    "23502": "a value that is not there",
    "23514": "a value that a check refuses",
}
"""What only the event can be to blame for."""


def refuse_with(connection: psycopg.Connection[Any], state: str, event_id: str = "poison") -> None:
    """Have the server refuse an event, or a batch that has it, with a SQLSTATE."""
    connection.execute("DROP TRIGGER IF EXISTS refuses ON event_keys")
    connection.execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        f"RAISE EXCEPTION 'made to fail' USING ERRCODE = '{state}', CONSTRAINT = 'made'; END$$"
    )
    connection.execute(
        "CREATE TRIGGER refuses BEFORE INSERT ON event_keys FOR EACH ROW "
        f"WHEN (NEW.event_id = '{event_id}') EXECUTE FUNCTION refuse()"
    )


def test_whatever_a_server_says_of_itself_no_event_is_blamed_and_all_are_taken_when_sent_again(database: str) -> None:
    with EventStore.open(database) as store, stranger(database) as other:
        for state in NOT_THE_EVENT:
            refuse_with(other, state)
            batch = [prepare(use(event_id)) for event_id in ("sound", "poison")]
            with pytest.raises(StoreUnavailable) as told:
                store.submit([*batch]).result()
            cause: Any = told.value.__cause__
            assert cause.orig.sqlstate == state
            assert log(database) == []
        other.execute("DROP TRIGGER refuses ON event_keys")
        assert [each.position for each in store.submit([*batch]).result()] == [1, 2]
    assert log(database) == ["sound", "poison"]


def test_what_a_server_says_of_an_event_is_that_event_s_fault_alone(database: str) -> None:
    with EventStore.open(database) as store, stranger(database) as other:
        for number, state in enumerate(ITS_OWN_FAULT, 1):
            refuse_with(other, state, f"poison-{number}")
            batch = [prepare(use(f"{kind}-{number}")) for kind in ("sound", "poison")]
            sound, poison = store.submit([*batch]).result()
            assert sound == outcome(APPENDED, f"sound-{number}", number)
            assert (poison.kind, poison.quarantine_id) == (OutcomeKind.QUARANTINED, number)
            assert poison.reason is not None
            assert "made to fail" in poison.reason


def test_a_log_without_room_for_the_next_position_is_no_fault_of_the_event(database: str) -> None:
    with EventStore.open(database) as store, stranger(database) as other:
        partitions = other.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        for (name,) in partitions.fetchall():
            other.execute(f"ALTER TABLE events DETACH PARTITION {name}")
        with pytest.raises(StoreUnavailable):
            store.append(use("first"))
    assert log(database) == []
