"""What `append` is measured beside: the event store that Python has had for years, and the engine's bare driver.

Both get what costs the store its time ready-made: payloads already encoded, rows already hashed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from eventsourcing.persistence import ApplicationRecorder, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from eventstore.log.engine import is_sqlite, make_engine, sqlite_path
from eventstore.log.records import Prepared
from tests.benchmarks.harness import Stores, raw_connection

PATIENCE_SECONDS = 60
"""How long a caller of eventsourcing waits for a connection or a lock: its default of 5 is too short for 64 callers that each
wait for the ones before them on a slow disk."""

Rows = list[tuple[Any, ...]]


def stored_events(entries: list[Prepared]) -> list[StoredEvent]:
    """The entries as eventsourcing's: a sequence of versions for each coupon or reward, the very payload bytes as state."""
    versions: Counter[str] = Counter()
    stored = []
    for entry in entries:
        originator = f"{entry.site_id}/{entry.entity_id}"
        versions[originator] += 1
        stored.append(StoredEvent(uuid5(NAMESPACE_OID, originator), versions[originator], entry.type, entry.payload))
    return stored


@contextmanager
def eventsourcing_recorder(fresh: Stores, callers: int, *, bulk: bool = False) -> Iterator[ApplicationRecorder]:
    """eventsourcing's recorder on an empty database of its own, in its default mode, a pooled connection for each caller.

    That mode is its safe one: positions are handed out in the order of commits, as the store's are. On SQLite it lets one
    writer at a time have a connection; on PostgreSQL it locks the table.

    `bulk`: on PostgreSQL through its database function, which is not its default, locks nothing and is faster. The default
    sends a call's events in psycopg's pipeline mode, and a call of some hundred kilobytes can wait there for ever
    (psycopg's issue 685).
    """
    url = fresh.empty()
    engine = make_engine(url)
    datastore: SQLiteDatastore | PostgresDatastore
    recorder: SQLiteApplicationRecorder | PostgresApplicationRecorder
    if is_sqlite(engine):
        datastore = SQLiteDatastore(
            str(sqlite_path(engine)),
            pool_size=callers,
            pool_timeout=PATIENCE_SECONDS,
            lock_timeout=PATIENCE_SECONDS,
        )
        recorder = SQLiteApplicationRecorder(datastore)
        recorder.create_table()
        with datastore.transaction(commit=False) as cursor:
            cursor.execute("PRAGMA journal_mode")
            _require_durable("journal_mode", str(cursor.fetchone()[0]), "wal")
            cursor.execute("PRAGMA synchronous")
            _require_durable("synchronous", str(cursor.fetchone()[0]), "2")
    else:
        given = engine.url
        datastore = PostgresDatastore(
            dbname=given.database or "",
            host=given.host or str(given.query["host"]),
            port=given.port or str(given.query.get("port", "")),
            user=given.username or "",
            password=given.password or "",
            pool_size=callers,
            connect_timeout=PATIENCE_SECONDS,
            enable_db_functions=bulk,
        )
        recorder = PostgresApplicationRecorder(datastore)
        recorder.create_table()
        datastore.pool.wait(PATIENCE_SECONDS)
    engine.dispose()
    try:
        yield recorder
    finally:
        datastore.close()
    fresh.discard(url)


def _require_durable(name: str, found: str, wanted: str) -> None:
    """Its SQLite is as durable as the library that Python links makes it by default: FULL on all but Apple's."""
    if found != wanted:
        raise AssertionError(
            f"eventsourcing's SQLite has {name}={found}, the store's {wanted}: no comparison of like with like"
        )


@contextmanager
def raw_inserts(fresh: Stores, tables: dict[str, Rows]) -> Iterator[Callable[[int], None]]:
    """On a new store without triggers: a function that inserts the tables' rows by the bare driver, so many to a commit.

    In bulk by the driver's fastest way: `executemany` on SQLite, COPY on PostgreSQL.
    """
    url = fresh.without_guards()
    [count] = {len(rows) for rows in tables.values()}
    with raw_connection(url) as raw:
        statements = {table: raw.insert(table, len(rows[0])) for table, rows in tables.items()}

        def insert(in_transaction: int) -> None:
            for start in range(0, count, in_transaction):
                with raw.transaction() as cursor:
                    for table, rows in tables.items():
                        if in_transaction == 1:
                            cursor.execute(statements[table], rows[start])
                        else:
                            raw.insert_many(cursor, table, rows[start : start + in_transaction])

        yield insert
        for table in tables:
            cursor = raw.driver.cursor()
            found = cursor.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            cursor.close()
            require_all(found, count)
    fresh.discard(url)


def require_all(found: int, given: int) -> None:
    """Raise AssertionError unless everything that was given was written."""
    if found != given:
        raise AssertionError(f"{found} events were written where {given} were given")
