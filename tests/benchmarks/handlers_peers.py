"""What `handlers` is measured beside: eventsourcing's projection runner with a function that does nothing.

It reads its notification log, or on PostgreSQL its subscription, calls the function with each event and records the position that
it has come to in a transaction for each, which is how it survives a crash.
"""

from __future__ import annotations

from typing import Any, ClassVar

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteTrackingRecorder

from eventstore.log.engine import make_engine
from eventstore.log.reader import stream
from tests.benchmarks.harness import Sample
from tests.benchmarks.rebuild_peers import projected


class SqlitePlace(SQLiteTrackingRecorder):
    """Its place, in a SQLite file."""

    def seen(self, tracking: Tracking) -> None:
        """Record that an event was handled."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)


class PostgresqlPlace(PostgresTrackingRecorder):
    """Its place, in a PostgreSQL database."""

    def seen(self, tracking: Tracking) -> None:
        """Record that an event was handled."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)


class Nothing(Projection[Any]):
    """Does nothing with an event but record that it did."""

    name: ClassVar[str] = "nothing"  # type: ignore[misc]

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # noqa: ARG002 - the signature is theirs
        """Called by the runner, event after event."""
        self.view.seen(tracking)


def measure_eventsourcing(url: str, peer_url: str, count: int) -> Sample:
    """The first `count` events of the log through eventsourcing's runner and a function that does nothing."""
    engine = make_engine(url)
    payloads = [record.payload for record in stream(engine, until=count)]
    engine.dispose()
    took = projected(payloads, peer_url, Nothing, SqlitePlace, PostgresqlPlace)
    return {"eventsourcing_events_per_second": len(payloads) / took}
