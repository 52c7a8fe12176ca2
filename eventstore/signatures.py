"""Checking Wix's own signature on an event again, however long ago it was appended."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine

from eventstore.errors import EventStoreError, NotFound
from eventstore.event import Event
from eventstore.log import reader
from eventstore.log.records import Prepared
from eventstore.quarantine import first_received
from eventstore.webhooks import check, entries
from eventstore.wix.jwt import is_jwt


class SignatureCheck(NamedTuple):
    """Whether Wix's own signature on an event's original bytes holds: by which app and key, or why not.

    `agrees`: those bytes, read by today's readers, say what the log says.
    """

    valid: bool
    agrees: bool
    reason: str
    app: str | None = None
    key_id: str | None = None


def check_signature(engine: Engine, position: int) -> SignatureCheck:
    """Check the signature on the original bytes of the event at this position, with the keys that were valid when it was
    recorded. Raises NotFound where there is no event."""
    found = reader.read(engine, after=position - 1, limit=1)
    if not found or found[0].position != position:
        raise NotFound(f"no event stands at position {position}")
    record = found[0]
    token = reader.original(engine, position)
    if token is None or not is_jwt(token):
        route = record.event.source.value
        return SignatureCheck(False, False, f"it did not come as a signed webhook, but by the route {route}")
    # What waited in quarantine had proved itself when it came, and not when it was read at last.
    received_at = first_received(engine, record.event.site_id, token) or record.recorded_at
    try:
        signed = check(engine, token, min(received_at, record.recorded_at))
    except EventStoreError as error:
        return SignatureCheck(False, False, str(error))
    # An event that only its receipt dates has its time from there.
    [entry] = entries(signed, received_at=record.event.event_time)
    agrees = isinstance(entry, Prepared) and record.event.encode()[1] in (
        entry.content_hash,
        # Appended under a derived id, for its own was taken.
        Event.from_payload(entry.payload).with_derived_id().encode()[1],
    )
    reason = "" if agrees else "the signed bytes, as they are read today, say something else than the log"
    return SignatureCheck(True, agrees, reason, signed.app.name, signed.key.key_id)
