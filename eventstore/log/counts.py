"""Counts of deliveries that are no events of the log: duplicates, conflicts, quarantined and refused ones, by day and route.

What was appended needs no counter: the log is the count.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.log.engine import write_transaction
from eventstore.log.records import now
from eventstore.log.tables import delivery_counts

REFUSED = "refused"
"""The outcome of a delivery of which nothing was kept."""


class Counted(NamedTuple):
    """What is counted apart. `day`: the UTC day of receipt, as 2026-09-01. `site_id` is "" where the site is not proved."""

    day: str
    site_id: str
    route: str
    outcome: str
    reason: str = ""


def day_of(moment: datetime) -> str:
    """The day that a delivery of this moment (aware UTC) is counted under."""
    return moment.date().isoformat()


def add(connection: Connection, counts: Mapping[Counted, int]) -> None:
    """Add to the counters inside the connection's transaction."""
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(delivery_counts)
    statement = statement.on_conflict_do_update(
        index_elements=list(delivery_counts.primary_key.columns),
        set_={"count": delivery_counts.c.count + statement.excluded.count},
    )
    # In one order everywhere, so that two processes never wait for each other's rows.
    rows = [{**key._asdict(), "count": count} for key, count in sorted(counts.items())]
    connection.execute(statement, rows)


def record(engine: Engine, counts: Counter[Counted]) -> None:
    """Add to the counters in a transaction of their own."""
    if not counts:
        return
    with write_transaction(engine) as connection:
        add(connection, counts)


class Refusals:
    """Counts refused deliveries in memory until they are flushed: one that is refused must not cost a write. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Counter[Counted] = Counter()

    def note(self, route: str, reason: str, *, site_id: str = "") -> None:
        """One delivery by this route was refused for this reason."""
        with self._lock:
            self._waiting[Counted(day_of(now()), site_id, route, REFUSED, reason)] += 1

    def flush(self, engine: Engine) -> None:
        """Write the counts down. What could not be written is kept for the next time."""
        with self._lock:
            taken, self._waiting = self._waiting, Counter()
        try:
            record(engine, taken)
        except BaseException:
            with self._lock:
                self._waiting += taken
            raise


def totals(engine: Engine) -> Counter[Counted]:
    """Every counter."""
    with engine.connect() as connection:
        rows = connection.execute(select(delivery_counts))
        return Counter({Counted(*key): count for *key, count in rows})
