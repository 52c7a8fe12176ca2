"""Appending on SQLite, where BEGIN IMMEDIATE has locked the file already."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
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
from eventstore.log.engine import bare_driver
from eventstore.log.insert import BulkInsert
from eventstore.log.records import Prepared
from eventstore.log.tables import event_keys, events

_HEAD = "SELECT size, recorded_at FROM log_head WHERE id = 1"
_MOVE_HEAD = "UPDATE log_head SET size = ?, recorded_at = ? WHERE id = 1 AND size = ?"


class SqliteStatements(Statements):
    """See `Statements`."""

    def __init__(self, engine: Engine) -> None:
        known = known_statement(engine.dialect).compile(dialect=engine.dialect)
        assert known.positiontup == ["site", "ids"]
        self._known = str(known)
        self._insert_events = BulkInsert(insert(events), events, engine.dialect)
        self._insert_keys = BulkInsert(insert(event_keys), event_keys, engine.dialect)

    def take_turn(self, connection: Connection, entries: Sequence[Prepared]) -> Turn:
        known: dict[Key, KnownEvent] = {}
        with bare_driver(connection) as driver:
            size, recorded_at = driver.execute(_HEAD).fetchone()
            for site_id, ids in ids_by_site(entries).items():
                known |= known_of(site_id, driver.execute(self._known, (site_id, orjson.dumps(ids).decode())))
        return Turn(size, recorded_at, known)

    def insert(self, connection: Connection, new: Sequence[Prepared], turn: Turn, recorded_at: int) -> None:
        size = turn.size + len(new)
        with bare_driver(connection) as driver:
            # A row of another position than the next one is refused by a trigger.
            for inserting, rows in (
                (self._insert_events, event_rows(new, turn, recorded_at)),
                (self._insert_keys, key_rows(new, turn)),
            ):
                for sql, values in inserting.statements(list(rows)):
                    driver.execute(sql, values)
            moved = driver.execute(_MOVE_HEAD, (size, recorded_at, turn.size)).rowcount
        if moved != 1:
            raise disagrees(f"log_head did not move from {turn.size} to {size}")
