"""An event-sourced audit store for Wix coupon events.

`EventStore.open(url)` is the way in, `AsyncEventStore.open(url)` in an event loop; `Event` is the one type that everything
speaks. They are imported on first use, so that `eventstore --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.aio import AsyncEventStore
    from eventstore.errors import EventStoreError
    from eventstore.event import Event
    from eventstore.log.records import Outcome, OutcomeKind, RecordedEvent
    from eventstore.store import EventStore

__version__ = "0.1.0"
__all__ = [
    "AsyncEventStore",
    "Event",
    "EventStore",
    "EventStoreError",
    "Outcome",
    "OutcomeKind",
    "RecordedEvent",
    "__version__",
]

_HOMES = {
    "AsyncEventStore": "eventstore.aio",
    "Event": "eventstore.event",
    "EventStore": "eventstore.store",
    "EventStoreError": "eventstore.errors",
    "Outcome": "eventstore.log.records",
    "OutcomeKind": "eventstore.log.records",
    "RecordedEvent": "eventstore.log.records",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
