"""What an append asks of a database: its turn, what is known already, and the insertion. Composed from the tables once.

`append_sqlite` and `append_postgresql` answer it; the two engines differ there and nowhere else in the writer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ARRAY, Connection, Select, Text, bindparam, func, select
from sqlalchemy.engine import Dialect

from eventstore.errors import StoreUnavailable
from eventstore.log.leaf import leaf_hash
from eventstore.log.records import Prepared
from eventstore.log.tables import event_keys, events

Key = tuple[str, str]
"""Site and event id: under these the dedup ledger knows an event."""


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


class Turn(NamedTuple):
    """The writer's turn: nobody else appends until the transaction ends.

    `size` is the last position, `recorded_at` when the event there was recorded (microseconds since the epoch), `known` those
    of the batch's events that the log has already.
    """

    size: int
    recorded_at: int
    known: dict[Key, KnownEvent]


class Statements(ABC):
    """The statements of an append on one engine."""

    @abstractmethod
    def take_turn(self, connection: Connection, entries: Sequence[Prepared]) -> Turn:
        """Make this the writer's turn, if beginning the transaction has not done so, and look the entries up in the ledger.

        However it does both, `Turn.known` is complete: nothing is appended between the look and the end of the turn.
        """

    @abstractmethod
    def insert(self, connection: Connection, new: Sequence[Prepared], turn: Turn, recorded_at: int) -> None:
        """Insert finished events into `events` and `event_keys` at the next positions, and move the head to the last of them.

        Raises StoreUnavailable if the database did other than it was asked to: then nothing may be committed.
        """


def event_rows(new: Sequence[Prepared], turn: Turn, recorded_at: int) -> Iterator[tuple[object, ...]]:
    """The rows of `events`, in the order of the table's columns."""
    for position, entry in enumerate(new, turn.size + 1):
        yield (
            position,
            entry.event_id,
            entry.site_id,
            entry.type,
            entry.source,
            entry.entity_id,
            entry.coupon_id,
            entry.event_time,
            recorded_at,
            entry.sequence,
            entry.anonymize,
            entry.payload.decode(),
            entry.original,
            leaf_hash(
                entry.site_id,
                entry.event_id,
                entry.type,
                entry.source,
                entry.entity_id,
                entry.coupon_id,
                entry.event_time,
                recorded_at,
                entry.sequence,
                entry.anonymize,
                entry.stored_hashes,
            ),
        )


def key_rows(new: Sequence[Prepared], turn: Turn) -> Iterator[tuple[object, ...]]:
    """The rows of `event_keys`, in the order of the table's columns."""
    for position, entry in enumerate(new, turn.size + 1):
        yield entry.site_id, entry.event_id, position, entry.content_hash


@lru_cache(maxsize=2)
def known_statement(dialect: Dialect) -> Select[Any]:
    """Looks ids of one site up in the dedup ledger. All of them travel as one parameter, so that the statement never changes."""
    ids: Select[Any] = (
        select(func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value)
        if dialect.name == "sqlite"
        else select(func.unnest(bindparam("ids", type_=ARRAY(Text))))
    )
    return (
        select(event_keys.c.event_id, event_keys.c.position, event_keys.c.content_hash, events.c.sequence)
        .join(events, events.c.position == event_keys.c.position)
        .where(event_keys.c.site_id == bindparam("site"), event_keys.c.event_id.in_(ids))
    )


def known(connection: Connection, entries: Iterable[Prepared]) -> dict[Key, KnownEvent]:
    """Those of the entries' ids that the log has already."""
    statement = known_statement(connection.dialect)
    found: dict[Key, KnownEvent] = {}
    for site_id, ids in ids_by_site(entries).items():
        given = orjson.dumps(ids).decode() if connection.dialect.name == "sqlite" else ids
        found |= known_of(site_id, connection.execute(statement, {"site": site_id, "ids": given}))
    return found


def known_of(site_id: str, rows: Iterable[Any]) -> dict[Key, KnownEvent]:
    """What the rows of `known_statement` say of one site."""
    return {(site_id, event_id): KnownEvent(*rest) for event_id, *rest in rows}


def ids_by_site(entries: Iterable[Prepared]) -> dict[str, list[str]]:
    """The event ids of the entries, by site."""
    ids: dict[str, list[str]] = {}
    for entry in entries:
        ids.setdefault(entry.site_id, []).append(entry.event_id)
    return ids


def disagrees(told: str) -> StoreUnavailable:
    """The database did other than it was asked to, as where the log and its head disagree. No event is to blame."""
    return StoreUnavailable(f"the log does not take events: {told}; `eventstore verify --guards` may tell more")
