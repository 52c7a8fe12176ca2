"""Entries of quarantine to work with: kept by a store whose readers of the day could not read them, or in conflict."""

from __future__ import annotations

import json
import zlib
from typing import Any

from sqlalchemy import select

from eventstore import apps
from eventstore.log.records import OutcomeKind, Rejected
from eventstore.log.tables import events
from eventstore.quarantine import Entry
from eventstore.retry import Retried
from eventstore.store import EventStore
from tests.serving import CREATED, SITE, fixture
from tests.signing import APP, public_pem, webhook

HEADERS = {"content-type": "application/json", "user-agent": "Wix"}


def encoded(delivery: dict[str, Any]) -> bytes:
    return json.dumps(delivery).encode()


def keep(
    store: EventStore,
    body: bytes,
    *,
    route: str = "velo",
    handler: str | None = CREATED,
    site: str = "shop",
    event_id: str | None = None,
) -> int:
    """Keep a delivery that the readers of the day could not read; today's may."""
    entry = Rejected(site, route, handler, event_id, "an older reader could not read it", body, HEADERS)
    [outcome] = store.submit([entry]).result()
    assert outcome.quarantine_id is not None
    return outcome.quarantine_id


def conflict(store: EventStore, first: dict[str, Any], second: dict[str, Any]) -> int:
    """Two deliveries under one id; the entry of the second."""
    store.receive(encoded(first), route="velo", handler=CREATED, site="shop")
    [outcome] = store.receive(encoded(second), route="velo", handler=CREATED, site="shop")
    assert outcome.kind is OutcomeKind.CONFLICT
    assert outcome.quarantine_id is not None
    return outcome.quarantine_id


def unreadable(number: int = 0) -> bytes:
    return encoded({"metadata": {"id": f"u{number}", "entityId": "c-1", "eventTime": "no time"}, "entity": {}})


def retry(store: EventStore, *ids: int, derived_id: bool = False) -> list[Retried]:
    return list(store.retry_quarantined(ids, derived_id=derived_id))


def listed(store: EventStore) -> dict[int, Entry]:
    return {entry.id: entry for entry in store.list_quarantined(resolved=True)}


def original(store: EventStore, position: int) -> bytes:
    """The exact bytes that the event at this position was delivered as."""
    with store.engine.connect() as connection:
        kept = connection.execute(select(events.c.original).where(events.c.position == position)).scalar_one()
    return zlib.decompress(kept)


def row(store: EventStore, position: int) -> dict[str, Any]:
    """What the log holds of an event, but for where and when it was recorded."""
    with store.engine.connect() as connection:
        found = connection.execute(select(events).where(events.c.position == position)).mappings().one()
    return {name: value for name, value in found.items() if name not in ("position", "recorded_at", "leaf_hash")}


def register(store: EventStore) -> None:
    """Make the app known whose webhooks `signed` makes."""
    apps.add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])


def signed(**changes: Any) -> bytes:
    """A webhook as Wix posts it: a coupon's creation, with fields of the event changed."""
    return webhook({**json.loads(fixture("rest_coupon_created.json")), **changes})
