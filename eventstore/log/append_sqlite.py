"""Appending on SQLite, where BEGIN IMMEDIATE has locked the file already."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from eventstore.log.append import Rows, Statements, Turn, disagrees, known
from eventstore.log.insert import BulkInsert
from eventstore.log.records import Prepared
from eventstore.log.tables import event_keys, events, log_head
from eventstore.log.types import from_micros, to_micros


class SqliteStatements(Statements):
    """See `Statements`."""

    def __init__(self, engine: Engine) -> None:
        self._head = select(log_head.c.size, log_head.c.recorded_at).where(log_head.c.id == 1)
        self._move_head = (
            update(log_head)
            .where(log_head.c.id == 1, log_head.c.size == bindparam("old_size"))
            .values(size=bindparam("new_size"), recorded_at=bindparam("new_recorded_at"))
        )
        self._insert_events = BulkInsert(insert(events), events, engine.dialect)
        self._insert_keys = BulkInsert(insert(event_keys), event_keys, engine.dialect)

    def take_turn(self, connection: Connection, entries: Sequence[Prepared]) -> Turn:
        size, recorded_at = connection.execute(self._head).one()
        return Turn(size, to_micros(recorded_at), known(connection, entries))

    def insert(self, connection: Connection, rows: Rows, keys: Rows, turn: Turn, recorded_at: int) -> None:
        # A row of another position than the next one is refused by a trigger.
        self._insert_events.execute(connection, rows)
        self._insert_keys.execute(connection, keys)
        size = turn.size + len(rows)
        moved = {"old_size": turn.size, "new_size": size, "new_recorded_at": from_micros(recorded_at)}
        if connection.execute(self._move_head, moved).rowcount != 1:
            raise disagrees(f"log_head did not move from {turn.size} to {size}")
