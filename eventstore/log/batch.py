"""One batch into the log, inside the caller's transaction: what is new is appended, what is known is compared.

Repetitions are told apart from contradictions, contradictions and what could not be read are kept in quarantine, and what the
log itself does not hold is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, Engine, insert, select

from eventstore.event import Event
from eventstore.log import counts
from eventstore.log.append import Key, KnownEvent, Statements
from eventstore.log.counts import Counted, day_of
from eventstore.log.engine import is_sqlite
from eventstore.log.leaf import leaf_hash
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, body_hash, delivered
from eventstore.log.tables import events, quarantine
from eventstore.log.types import from_micros

Entry = Prepared | Rejected


def statements(engine: Engine) -> Statements:
    """The statements of an append on this engine."""
    if is_sqlite(engine):
        from eventstore.log.append_sqlite import SqliteStatements

        return SqliteStatements(engine)
    from eventstore.log.append_postgresql import PostgresqlStatements

    return PostgresqlStatements(engine)


class Batches:
    """Appends batches to the log of one engine, for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._statements = statements(engine)

    def append(self, connection: Connection, entries: Sequence[Entry]) -> tuple[list[Outcome], int | None]:
        """One outcome for each finished entry, in order, and the last position appended, if any was.

        Nothing of it is so until the transaction is committed.
        """
        prepared = [entry for entry in entries if isinstance(entry, Prepared)]
        turn = self._statements.take_turn(connection, prepared)
        # A clock that is set back must not make recorded_at run backwards with position.
        recorded_at = max(time.time_ns() // 1000, turn.recorded_at)
        appended: list[Prepared] = []
        positions: dict[Key, int] = {}
        rows: list[tuple[object, ...]] = []
        keys: list[tuple[object, ...]] = []
        outcomes: list[Outcome] = []
        for entry in entries:
            if isinstance(entry, Rejected):
                outcomes.append(_keep(connection, OutcomeKind.QUARANTINED, entry, recorded_at))
                continue
            key: Key = (entry.site_id, entry.event_id)
            earlier = turn.known.get(key)
            if earlier is None and key in positions:
                first = appended[positions[key] - turn.size - 1]
                earlier = KnownEvent(positions[key], first.content_hash, first.sequence)
            if earlier is not None:
                outcomes.append(_repeated(connection, entry, earlier, recorded_at))
                continue
            appended.append(entry)
            position = positions[key] = turn.size + len(appended)
            rows.append(_row(position, recorded_at, entry))
            keys.append((entry.site_id, entry.event_id, position, entry.content_hash))
            outcomes.append(Outcome(OutcomeKind.APPENDED, entry.event_id, position))
        if len(rows) < len(entries):
            counts.add(connection, _others(entries, outcomes, recorded_at))
        if not rows:
            return outcomes, None
        self._statements.insert(connection, rows, keys, turn, recorded_at)
        return outcomes, turn.size + len(rows)


def _others(entries: Sequence[Entry], outcomes: list[Outcome], received_at: int) -> Counter[Counted]:
    """What is to be counted because the log does not hold it."""
    day = day_of(from_micros(received_at))
    found: Counter[Counted] = Counter()
    for entry, outcome in zip(entries, outcomes, strict=True):
        if outcome.kind is not OutcomeKind.APPENDED:
            route = entry.source if isinstance(entry, Prepared) else entry.route
            found[Counted(day, entry.site_id, route, outcome.kind.value)] += 1
    return found


def _repeated(connection: Connection, entry: Prepared, earlier: KnownEvent, received_at: int) -> Outcome:
    if earlier.same_as(entry) or earlier._replace(
        content_hash=_content_hash_today(connection, earlier.position)
    ).same_as(entry):
        return Outcome(OutcomeKind.DUPLICATE, entry.event_id, earlier.position)
    reason = earlier.contradicts(entry)
    return _keep(connection, OutcomeKind.CONFLICT, evidence(entry, reason), received_at, earlier.position)


def _content_hash_today(connection: Connection, position: int) -> bytes:
    """The content hash of the event at a position as it would be made now: other than the one in the ledger where the
    event was appended before times were compared to the millisecond. None of this batch has a position yet."""
    payload = connection.execute(select(events.c.payload).where(events.c.position == position)).scalar()
    return b"" if payload is None else Event.from_payload(payload).encode()[1]


def _keep(
    connection: Connection,
    kind: OutcomeKind,
    kept: Rejected,
    received_at: int,
    position: int | None = None,
) -> Outcome:
    """Keep a delivery in quarantine, under the id that it already has if this very body was kept before."""
    digest = body_hash(kept.body)
    there = connection.execute(
        select(quarantine.c.id).where(
            quarantine.c.site_id == kept.site_id,
            quarantine.c.body_hash == digest,
            quarantine.c.kind == kind.value,
        )
    ).scalar()
    if there is None:
        made = connection.execute(
            insert(quarantine).values(
                site_id=kept.site_id,
                kind=kind.value,
                route=kept.route,
                handler=kept.handler,
                event_id=kept.event_id,
                position=position,
                reason=kept.reason,
                body=kept.body,
                body_hash=digest,
                headers=kept.headers,
                received_at=from_micros(received_at),
            )
        ).inserted_primary_key
        assert made is not None
        there = made[0]
    return Outcome(kind, kept.event_id, position, int(there), kept.reason)


def evidence(entry: Prepared, reason: str) -> Rejected:
    """What quarantine holds of an event that cannot go into the log: the bytes it was delivered as, else its payload."""
    original = delivered(entry)
    body = entry.payload if original is None else original
    return Rejected(entry.site_id, entry.source, entry.handler, entry.event_id, reason, body, entry.headers)


def _row(position: int, recorded_at: int, entry: Prepared) -> tuple[object, ...]:
    """The `events` row, in the order of the table's columns."""
    return (
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
