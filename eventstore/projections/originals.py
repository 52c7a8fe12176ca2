"""Deliveries of the log, read once more: what today's readers make of the bytes that an event was delivered as.

The log keeps neither the handler nor the door that a delivery came by; the event's own type, source and time say as much.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
from sqlalchemy import Engine

from eventstore import wix
from eventstore.errors import EventStoreError, UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.ingest import Route, read_delivery
from eventstore.log.arrow import EVENT_SCHEMA, query_batches
from eventstore.log.records import Prepared, Rejected, prepare
from eventstore.log.types import from_micros
from eventstore.wix.jwt import is_jwt, unverified

PROBLEMS_TOLD = 10
"""Of so many events that can no longer be read it is told why; the others are counted."""
_SCHEMA = EVENT_SCHEMA.append(pa.field("original", pa.binary()))
_HANDLERS = {type_: handler for handler, type_ in wix.HANDLERS.items()}
_DERIVED = "sha256:"
"""Begins the id of an event that came without one, or whose own was taken."""


@dataclass(slots=True)
class Reread:
    """What reading the originals once more came to, in events.

    `read`: were read again, and `differed` of those say something else than the log's payload. Kept as the log has them were
    `without_original`, built in Python, and `unreadable`, which today's readers make no such event of; `problems` says why.
    """

    read: int = 0
    differed: int = 0
    without_original: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Reread) -> None:
        """Count in what another part of the log came to."""
        self.read += other.read
        self.differed += other.differed
        self.without_original += other.without_original
        self.unreadable += other.unreadable
        self.problems += other.problems[: PROBLEMS_TOLD - len(self.problems)]


@contextmanager
def with_originals(engine: Engine, *, after: int, until: int) -> Iterator[pa.RecordBatchReader]:
    """As `arrow.event_batches`, with the compressed bytes of each delivery; null for an event that was built in Python."""
    columns = ", ".join(_SCHEMA.names)
    where = f"position > {int(after)} AND position <= {int(until)}"
    with query_batches(engine, f"SELECT {columns} FROM events WHERE {where} ORDER BY position", _SCHEMA) as reader:
        yield reader


def read_again(batches: pa.Table) -> tuple[pa.Table, Reread]:
    """The same rows, in EVENT_SCHEMA, as today's readers would have made them; and how many differ."""
    told = Reread()
    times: list[int] = []
    payloads: list[str] = []
    rows = zip(
        batches["position"].to_pylist(),
        batches["event_time"].to_pylist(),
        batches["payload"].to_pylist(),
        batches["original"].to_pylist(),
        strict=True,
    )
    for position, event_time, payload, original in rows:
        read = None
        if original is None:
            told.without_original += 1
        else:
            try:
                read = read_original(orjson.loads(payload), event_time, zlib.decompress(original))
            except EventStoreError as error:
                told.unreadable += 1
                if len(told.problems) < PROBLEMS_TOLD:
                    told.problems.append(f"position {position}: {error}")
            else:
                told.read += 1
                told.differed += read != (event_time, payload)
        times.append(event_time if read is None else read[0])
        payloads.append(payload if read is None else read[1])
    columns = {
        "position": batches["position"],
        "event_time": pa.array(times, pa.int64()),
        "recorded_at": batches["recorded_at"],
        "payload": pa.array(payloads, pa.string()),
    }
    return pa.table(columns, schema=EVENT_SCHEMA), told


def read_original(known: dict[str, Any], event_time: int, body: bytes) -> tuple[int, str]:
    """`(event_time, payload)` of the event that the log knows as `known`, as today's readers read its delivery.

    Raises EventStoreError where they make no such event of it.
    """
    found = [entry for entry in _entries(known, event_time, body) if entry.site_id == known["site_id"]]
    same = [entry for entry in found if entry.event_id == known["event_id"]]
    if not same and known["event_id"].startswith(_DERIVED):
        # An id made of the content is another as soon as the content is read otherwise; the event is the same.
        same = [entry for entry in found if entry.entity_id == known["entity_id"]]
    if len(same) != 1:
        raise UnreadableDelivery(f"its delivery no longer holds the event {known['event_id']}")
    entry = same[0]
    payload = entry.payload
    if entry.event_id != known["event_id"]:
        payload, _ = Event.from_payload(payload).model_copy(update={"event_id": known["event_id"]}).encode()
    return entry.event_time, payload.decode()


def _entries(known: dict[str, Any], event_time: int, body: bytes) -> list[Prepared]:
    # What only its receipt dates has that as its time in the log.
    received_at = from_micros(event_time)
    if is_jwt(body):
        # Its signature was checked when it came, and can be again: `eventstore event ID --check-signature`.
        return [prepare(wix.read_envelope(wix.open_claims(unverified(body)[1]), received_at=received_at))]
    source = known["source"]
    document = wix.decode(body)
    # A line of a batch is kept with the wrapper that said how it came, which a door that knows takes for what it is not.
    opened = document.get("route") == source and isinstance(document.get("body"), dict)
    handler = _HANDLERS.get(known["type"]) if source == Source.VELO else None
    entries = read_delivery(body, Route(source, handler, received_at), lambda _: str(known["site_id"]), may_wrap=opened)
    refused = [entry.reason for entry in entries if isinstance(entry, Rejected)]
    if refused and len(refused) == len(entries):
        raise UnreadableDelivery(refused[0])
    return [entry for entry in entries if isinstance(entry, Prepared)]
