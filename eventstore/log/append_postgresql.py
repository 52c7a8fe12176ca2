"""Appending on PostgreSQL: the head row's lock is the writer's turn, taken last and held for two round trips.

What can be looked up before is looked up before. Should another process have appended between the look and the lock, the look
is repeated. The rows of a batch go in statements of `ROWS_IN_A_STATEMENT` each (`BulkInsert`), all down one pipeline: the server
inserts one while the next is made, which COPY would not let those that follow it do, and each gives back the positions that it
filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, insert

from eventstore.log.append import (
    Key,
    KnownEvent,
    Statements,
    Turn,
    disagrees,
    event_rows,
    ids_by_site,
    key_rows,
    known_of,
    known_statement,
)
from eventstore.log.engine import DURABLE_COMMIT, bare_driver
from eventstore.log.insert import BulkInsert, columns
from eventstore.log.records import Prepared
from eventstore.log.tables import event_keys, events

Driver = psycopg.Connection[Any]

ROWS_IN_A_STATEMENT = 250
"""Rows of `events` in one INSERT: the server is at work on one of them while the next is made."""
IDLE_SECONDS = 15
"""How long a session may hold the head and say nothing before the server ends it: a machine that has vanished, or a process that
stands still, would otherwise keep everybody from appending until the system's own patience is over, which is hours."""

_SETTLE_BEFORE_17 = f"""
SELECT set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS}s', true),
    set_config('synchronous_commit', {DURABLE_COMMIT}, true)
"""
"""For this transaction alone, whatever the session is: a pooler may have given it to others meanwhile."""
_SETTLE = _SETTLE_BEFORE_17.rstrip() + f", set_config('transaction_timeout', '{IDLE_SECONDS}s', true)"
"""Behind a pipeline a server does not count the seconds in which a session says nothing; those of a transaction it does, from
version 17 on."""
_COUNTS_TRANSACTIONS = 17_00_00
_LOCK_HEAD = "SELECT size, recorded_at FROM log_head WHERE id = 1 FOR UPDATE"
_HEAD = "SELECT size FROM log_head WHERE id = 1"
_MOVE_HEAD = "UPDATE log_head SET size = %b, recorded_at = %b WHERE id = 1 AND size = %b"


class PostgresqlStatements(Statements):
    """See `Statements`."""

    def __init__(self, engine: Engine) -> None:
        self._known = str(known_statement(engine.dialect).compile(dialect=engine.dialect))
        self._insert_events = BulkInsert(insert(events).returning(events.c.position), events, engine.dialect).sql
        self._insert_keys = BulkInsert(insert(event_keys), event_keys, engine.dialect).sql

    def take_turn(self, connection: Connection, entries: Sequence[Prepared]) -> Turn:
        with bare_driver(connection) as driver:
            sites = ids_by_site(entries)
            with driver.pipeline():
                counts = driver.info.server_version >= _COUNTS_TRANSACTIONS
                driver.execute(_SETTLE if counts else _SETTLE_BEFORE_17)
                # In this order: what is appended after the first is noticed by the last.
                seen = driver.execute(_HEAD)
                looks = self._look_up(driver, sites)
                locked = driver.execute(_LOCK_HEAD)
            [before] = seen.fetchone() or (None,)
            size, recorded_at = locked.fetchone() or (0, 0)
            known = _found(looks)
            if size != before:
                known |= _found(self._look_up(driver, sites))
        return Turn(size, recorded_at, known)

    def _look_up(self, driver: Driver, sites: dict[str, list[str]]) -> list[tuple[str, psycopg.Cursor[Any]]]:
        return [(site, driver.execute(self._known, {"site": site, "ids": ids})) for site, ids in sites.items()]

    def insert(self, connection: Connection, new: Sequence[Prepared], turn: Turn, recorded_at: int) -> None:
        size = turn.size + len(new)
        rows = event_rows(new, turn, recorded_at)
        with bare_driver(connection) as driver:
            with driver.pipeline():
                inserted = [driver.execute(self._insert_events, columns(part)) for part in _parts(rows)]
                keyed = driver.execute(self._insert_keys, columns(key_rows(new, turn)))
                moved = driver.execute(_MOVE_HEAD, (size, recorded_at, turn.size))
            positions = sorted(position for cursor in inserted for (position,) in cursor.fetchall())
        if positions != list(range(turn.size + 1, size + 1)) or keyed.rowcount != len(new) or moved.rowcount != 1:
            raise disagrees(f"events did not take the positions {turn.size + 1} to {size}")


def _parts(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    while part := list(islice(rows, ROWS_IN_A_STATEMENT)):
        yield part


def _found(looks: list[tuple[str, psycopg.Cursor[Any]]]) -> dict[Key, KnownEvent]:
    known: dict[Key, KnownEvent] = {}
    for site, cursor in looks:
        known |= known_of(site, cursor)
    return known
