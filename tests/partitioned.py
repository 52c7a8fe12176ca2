"""Stores on PostgreSQL with partitions so small that a test can fill them."""

from __future__ import annotations

import time
from collections.abc import Callable

from eventstore.event import Event
from eventstore.log.partitions import PARTITION_POSITIONS, Partition, list_partitions
from eventstore.store import EventStore
from tests.serving import PATIENCE

FIRST = ["events_from_1", f"events_from_{PARTITION_POSITIONS + 1}", f"events_from_{2 * PARTITION_POSITIONS + 1}"]
"""The partitions of a new store."""


def event(number: int) -> Event:
    """A use of a coupon, another one for each number."""
    return Event.model_validate(
        {
            "event_id": f"e-{number}",
            "type": "coupon.applied",
            "source": "rest",
            "site_id": "site",
            "entity_id": "c-1",
            "coupon_id": "c-1",
            "event_time": "2026-09-01T10:00:00Z",
            "order_id": f"o-{number}",
        }
    )


def some(count: int, after: int = 0) -> list[Event]:
    return [event(number) for number in range(after + 1, after + count + 1)]


def partitions_of(store: EventStore) -> list[Partition]:
    with store.engine.connect() as connection:
        return list_partitions(connection)


def shrink(store: EventStore, positions: int, ahead: int = 0) -> None:
    """Give an empty store partitions of so few positions that they can be filled."""
    with store.engine.begin() as connection:
        for name in FIRST:
            connection.exec_driver_sql(f"DROP TABLE {name}")
    store.maintain(ahead=ahead, positions=positions)
    assert [(each.start, each.end) for each in partitions_of(store)] == [
        (1 + number * positions, 1 + (number + 1) * positions) for number in range(ahead + 1)
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, however long that takes on this machine."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
