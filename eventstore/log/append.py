"""The statements of an append, composed once from the tables; the two engines differ here and nowhere else in the writer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ARRAY, Connection, Engine, Select, Text, bindparam, func, insert, select, update

from eventstore.event import Event
from eventstore.log.engine import BulkInsert, is_sqlite
from eventstore.log.records import Prepared
from eventstore.log.tables import event_keys, events, log_head, quarantine
from eventstore.log.types import from_micros, to_micros


class KnownEvent(NamedTuple):
    """What the log already has under an event id."""

    position: int
    content_hash: bytes
    sequence: int | None

    def same_as(self, entry: Prepared) -> bool:
        """Whether the entry tells the same event again.

        A route that carries no sequence (Velo) tells the same event as one that does; two different sequences never do.
        """
        if self.content_hash != entry.content_hash:
            return False
        return self.sequence is None or entry.sequence is None or self.sequence == entry.sequence

    def contradicts(self, entry: Prepared) -> str:
        """Why an entry of that id that is not the same is kept aside."""
        return f"event id {entry.event_id} stands at position {self.position} with other content"


def _known_statement(sqlite: bool) -> Select[Any]:
    """Looks ids up in the dedup ledger; all of them travel as one parameter, so that the statement never changes."""
    ids = (
        select(func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value)
        if sqlite
        else select(func.unnest(bindparam("ids", type_=ARRAY(Text))))
    )
    return (
        select(event_keys.c.event_id, event_keys.c.position, event_keys.c.content_hash, events.c.sequence)
        .join(events, events.c.position == event_keys.c.position)
        .where(event_keys.c.site_id == bindparam("site"), event_keys.c.event_id.in_(ids))
    )


class AppendStatements:
    """One instance an engine."""

    def __init__(self, engine: Engine) -> None:
        self._sqlite = is_sqlite(engine)
        self._insert_events = BulkInsert(insert(events), events, engine.dialect)
        self._insert_keys = BulkInsert(insert(event_keys), event_keys, engine.dialect)
        self._known = _known_statement(self._sqlite)
        self._head = select(log_head.c.size, log_head.c.recorded_at).where(log_head.c.id == 1).with_for_update()
        self._move_head = (
            update(log_head)
            .where(log_head.c.id == 1)
            .values(size=bindparam("new_size"), recorded_at=bindparam("new_recorded_at"))
        )

    def lock_head(self, connection: Connection) -> tuple[int, int]:
        """Take the writer's turn: `(size, recorded_at of the last event in microseconds)`.

        PostgreSQL locks the row; SQLite has locked the database at BEGIN IMMEDIATE.
        """
        size, recorded_at = connection.execute(self._head).one()
        return size, to_micros(recorded_at)

    def known(self, connection: Connection, entries: Iterable[Prepared]) -> dict[tuple[str, str], KnownEvent]:
        """Those of the entries' ids that the log has already."""
        ids_of_site: dict[str, list[str]] = {}
        for entry in entries:
            ids_of_site.setdefault(entry.site_id, []).append(entry.event_id)
        known: dict[tuple[str, str], KnownEvent] = {}
        for site_id, ids in ids_of_site.items():
            given = orjson.dumps(ids).decode() if self._sqlite else ids
            for event_id, *rest in connection.execute(self._known, {"site": site_id, "ids": given}):
                known[site_id, event_id] = KnownEvent(*rest)
        return known

    def content_hash_today(self, connection: Connection, position: int) -> bytes:
        """The content hash of the event at a position as it would be made now: other than the one in the ledger where the
        event was appended before times were compared to the millisecond. None of this batch has a position yet."""
        payload = connection.execute(select(events.c.payload).where(events.c.position == position)).scalar()
        return b"" if payload is None else Event.from_payload(payload).encode()[1]

    def insert(
        self, connection: Connection, rows: Sequence[tuple[object, ...]], keys: Sequence[tuple[object, ...]]
    ) -> None:
        """Insert a batch into `events` and `event_keys`; columns in declared order."""
        self._insert_events.execute(connection, rows)
        self._insert_keys.execute(connection, keys)

    def move_head(self, connection: Connection, size: int, recorded_at: int) -> None:
        connection.execute(self._move_head, {"new_size": size, "new_recorded_at": from_micros(recorded_at)})

    def keep(self, connection: Connection, **entry: Any) -> int:
        """Keep a delivery in quarantine and return its id: the one it already has, if this very body was kept before."""
        there = connection.execute(
            select(quarantine.c.id).where(
                quarantine.c.site_id == entry["site_id"],
                quarantine.c.body_hash == entry["body_hash"],
                quarantine.c.kind == entry["kind"],
            )
        ).scalar()
        if there is not None:
            return int(there)
        entry["received_at"] = from_micros(entry["received_at"])
        made = connection.execute(insert(quarantine).values(**entry)).inserted_primary_key
        assert made is not None
        return int(made[0])
