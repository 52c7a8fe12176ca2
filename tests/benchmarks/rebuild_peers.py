"""What `rebuild` is measured beside: the projection runner of the event store that Python has had for years.

It is given the very payloads, and a projection as its handbook shows them: a function that is called with each event, and a
materialised view that records what the event says together with its position, in a transaction of its own. It keeps less than
the store's models do: the latest state of each coupon, and each use once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import DomainEvent, datetime_now_with_tzinfo
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment
from psycopg.sql import SQL

from eventstore.log.engine import is_sqlite, make_engine, sqlite_path
from tests.benchmarks.harness import Sample, note

PATIENCE_SECONDS = 3_600
INSERT_EVENTS = 50
"""Events handed to eventsourcing's recorder at a time, which is no part of what is measured: more can wait for ever on PostgreSQL
(psycopg's issue 685)."""
PAGE_EVENTS = 1_000
"""Events in a page of its notification log."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS coupon_state (site_id TEXT, coupon_id TEXT, state TEXT, PRIMARY KEY (site_id, coupon_id))",
    (
        "CREATE TABLE IF NOT EXISTS coupon_uses (site_id TEXT, coupon_id TEXT, order_id TEXT, event_time TEXT, "
        "PRIMARY KEY (site_id, coupon_id, order_id))"
    ),
)
_STATE = (
    "INSERT INTO coupon_state VALUES (?, ?, ?) ON CONFLICT (site_id, coupon_id) DO UPDATE SET state = excluded.state"
)
_USE = "INSERT INTO coupon_uses VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


class Told(DomainEvent):
    """An event of the log: the canonical JSON, as it stands there."""

    payload: str


class Shop(Application[UUID]):
    """The application whose events are projected."""


def _statements(payload: str) -> list[tuple[str, tuple[Any, ...]]]:
    event = json.loads(payload)
    coupon_id = event.get("coupon_id") or event["entity_id"]
    if event["type"] == "coupon.applied":
        order = event.get("order_id") or event["event_id"]
        return [(_USE, (event["site_id"], coupon_id, order, event["event_time"]))]
    if event.get("coupon") is None:
        return []
    return [(_STATE, (event["site_id"], coupon_id, json.dumps(event["coupon"])))]


class SqliteView(SQLiteTrackingRecorder):
    """The materialised view in a SQLite file."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), *_TABLES]

    def record(self, payload: str, tracking: Tracking) -> None:
        """What an event says, and that it was seen, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            for statement, values in _statements(payload):
                cursor.execute(statement, values)


class PostgresqlView(PostgresTrackingRecorder):
    """The materialised view in a PostgreSQL database."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sql_create_statements.extend(SQL(each).format() for each in _TABLES)

    def record(self, payload: str, tracking: Tracking) -> None:
        """What an event says, and that it was seen, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            for statement, values in _statements(payload):
                cursor.execute(statement.replace("?", "%s").encode(), values, prepare=True)


class Coupons(Projection[Any]):
    """Hands each event to the view."""

    name: ClassVar[str] = "coupons"  # type: ignore[misc]

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Called by the runner, event after event."""
        self.view.record(domain_event.payload, tracking)


def measure_eventsourcing(url: str, peer_url: str, count: int) -> Sample:
    """The first `count` events of the log, put into eventsourcing's own store at `peer_url`, and then projected by its runner."""
    from eventstore.log.reader import stream

    engine = make_engine(url)
    payloads = [record.payload for record in stream(engine, until=count)]
    engine.dispose()
    took = projected(payloads, peer_url, Coupons, SqliteView, PostgresqlView)
    return {"eventsourcing_events_per_second": len(payloads) / took}


def projected(
    payloads: list[str], peer_url: str, projection: type[Any], sqlite_view: type[Any], postgresql_view: type[Any]
) -> float:
    """Seconds that eventsourcing takes to project events that were put into its own store at `peer_url`."""
    env, on_sqlite = _environment(peer_url)
    app: Shop = Shop(env=env)
    _insert(app, payloads)
    app.close()
    note(f"eventsourcing: {len(payloads):,} events are in its store")
    if on_sqlite:
        return _pull(env, projection, sqlite_view, len(payloads))
    return _run(env, projection, postgresql_view, len(payloads))


def _run(env: dict[str, str], projection: type[Any], view: type[Any], count: int) -> float:
    """Seconds that the projection runner takes."""
    start = time.perf_counter()
    with ProjectionRunner(application_class=Shop, projection_class=projection, view_class=view, env=env) as runner:
        runner.wait(count, timeout=PATIENCE_SECONDS)
        return time.perf_counter() - start


def _pull(env: dict[str, str], projection: type[Any], view: type[Any], count: int) -> float:
    """Seconds that the projection takes where the runner cannot be had: its SQLite has no subscriptions. The same is done with
    what the notification log gives, a page at a time."""
    app: Shop = Shop(env=env)
    recorder = InfrastructureFactory.construct(Environment("coupons", env)).tracking_recorder(view)
    at_work = projection(view=recorder)
    start = time.perf_counter()
    last = 0
    while last < count:
        for notification in app.recorder.select_notifications(
            start=last, limit=INSERT_EVENTS, inclusive_of_start=False
        ):
            at_work.process_event(app.mapper.to_domain_event(notification), Tracking(app.name, notification.id))
            last = notification.id
    took = time.perf_counter() - start
    app.close()
    return took


def _environment(url: str) -> tuple[dict[str, str], bool]:
    engine = make_engine(url)
    try:
        if is_sqlite(engine):
            return {
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(sqlite_path(engine)),
            }, True
        given = engine.url
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": given.database or "",
            "POSTGRES_HOST": given.host or str(given.query["host"]),
            "POSTGRES_PORT": str(given.port or given.query.get("port", "")),
            "POSTGRES_USER": given.username or "",
            "POSTGRES_PASSWORD": given.password or "",
        }, False
    finally:
        engine.dispose()


def _insert(app: Shop, payloads: list[str]) -> None:
    versions: dict[UUID, int] = {}
    now = datetime_now_with_tzinfo()
    stored = []
    for payload in payloads:
        event = json.loads(payload)
        originator = uuid5(NAMESPACE_OID, f"{event['site_id']}/{event['entity_id']}")
        versions[originator] = versions.get(originator, 0) + 1
        told = Told(originator_id=originator, originator_version=versions[originator], timestamp=now, payload=payload)  # type: ignore[call-arg]
        stored.append(app.mapper.to_stored_event(told))
    insert: Callable[..., Any] = app.recorder.insert_events
    for start in range(0, len(stored), INSERT_EVENTS):
        insert(stored[start : start + INSERT_EVENTS])
