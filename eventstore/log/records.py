"""The values that travel into and out of the log."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event
from eventstore.log.leaf import stored_hashes
from eventstore.log.types import to_micros

COMPRESSION_LEVEL = 1
"""zlib level for original deliveries: 1 gives most of the saving at a third of the time of the default."""
COMPRESSION_WINDOW = 13
COMPRESSION_MEMORY = 7
"""zlib's window (as a power of two) and memory level. At its defaults it takes and clears a quarter of a megabyte for each
delivery of a kilobyte or two, which costs several times what the compression does."""


class OutcomeKind(StrEnum):
    """What became of one event handed to the log."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"


class Outcome(NamedTuple):
    """The durable answer for one event.

    `position` is where the event stands in the log: its own when appended, that of the first telling when duplicate, that of
    the event whose id it shares when in conflict, None when quarantined. `quarantine_id` names the kept evidence.
    """

    kind: OutcomeKind
    event_id: str | None
    position: int | None
    quarantine_id: int | None = None
    reason: str | None = None


class Prepared(NamedTuple):
    """An event made ready for the writer: everything that needs no lock, computed in the caller's thread.

    `original` is compressed, unless `stored_hashes` is empty: then both are left to the writer (`finish`).
    """

    site_id: str
    event_id: str
    type: str
    source: str
    entity_id: str
    coupon_id: str | None
    event_time: int
    sequence: int | None
    anonymize: bool
    payload: bytes
    original: bytes | None
    content_hash: bytes
    stored_hashes: bytes
    handler: str | None
    headers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An authenticated delivery that could not become an event: what quarantine will hold of it."""

    site_id: str
    route: str
    handler: str | None
    event_id: str | None
    reason: str
    body: bytes
    headers: dict[str, str] | None = None

    @classmethod
    def of(
        cls,
        error: UnreadableDelivery,
        *,
        site_id: str,
        route: str,
        handler: str | None,
        body: bytes,
        headers: dict[str, str] | None = None,
    ) -> Rejected:
        """The quarantine entry for a delivery that a reader refused."""
        return cls(site_id, route, handler, None, str(error), body, headers)


def prepare(
    event: Event,
    original: bytes | None = None,
    *,
    handler: str | None = None,
    headers: dict[str, str] | None = None,
    unfinished: bool = False,
) -> Prepared:
    """Encode, hash and compress an event for `Writer.submit`. `original` is the delivery's exact bytes.

    `handler` and `headers` are kept only should the event turn out to be in conflict. `unfinished` leaves the compression to
    the writer's thread: for callers in an event loop, whose time is everybody's.
    """
    payload, content_hash = event.encode()
    compressed = original if original is None or unfinished else compress(original)
    return Prepared(
        event.site_id,
        event.event_id,
        event.type,
        event.source.value,
        event.entity_id,
        event.coupon_id,
        to_micros(event.event_time),
        event.sequence,
        event.anonymize,
        payload,
        compressed,
        content_hash,
        b"" if unfinished else stored_hashes(payload, compressed),
        handler,
        headers,
    )


def finish(entry: Prepared) -> Prepared:
    """The entry as it is stored: what `prepare` left is done."""
    if entry.stored_hashes:
        return entry
    compressed = None if entry.original is None else compress(entry.original)
    return entry._replace(original=compressed, stored_hashes=stored_hashes(entry.payload, compressed))


def delivered(entry: Prepared) -> bytes | None:
    """The exact bytes that the event was delivered as; None for one built in Python."""
    if entry.original is None or not entry.stored_hashes:
        return entry.original
    return zlib.decompress(entry.original)


def compress(original: bytes) -> bytes:
    """The bytes of a delivery as the log keeps them: a zlib stream."""
    stream = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, COMPRESSION_WINDOW, COMPRESSION_MEMORY)
    return stream.compress(original) + stream.flush()


def body_hash(body: bytes) -> bytes:
    """The key under which quarantine keeps one delivery once, however often it is sent again."""
    return sha256(body).digest()


def now() -> datetime:
    """The present instant, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class RecordedEvent:
    """An event as it stands in the log: `position` from 1, when it was `recorded_at`, and the payload's own bytes."""

    position: int
    recorded_at: datetime
    payload: str
    leaf_hash: bytes

    @cached_property
    def event(self) -> Event:
        """The canonical event, decoded on first use."""
        return Event.from_payload(self.payload)
