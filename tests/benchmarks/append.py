"""`append`: appending by one caller and by many, in batches and in bulk, beside eventsourcing and the bare driver."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from eventsourcing.persistence import ApplicationRecorder, StoredEvent

from eventstore import wix
from eventstore.demo import SITE_ID, documented
from eventstore.event import Event
from eventstore.log.records import Prepared, now, prepare
from eventstore.log.writer import Writer
from eventstore.store import EventStore
from tests.benchmarks import append_grow
from tests.benchmarks.append_entries import PIECE, append_pieces
from tests.benchmarks.append_peers import Rows, eventsourcing_recorder, raw_inserts, require_all, stored_events
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    Stores,
    T,
    interleaved,
    medians,
    note,
    raw_connection,
    seconds,
    stores,
)

ONE, FEW, MANY = CALLERS = 1, 8, 64
"""Callers at once: a script, a small server, and what a server holds when a campaign starts."""
BATCH = 100
"""Events in a batch: a page of an import, or what a relay sends at once."""
BULK_CALL = 2_000
"""Events in a call of eventsourcing in bulk, and in a transaction of the bare driver. Neither is faster with more."""
SINGLES_SHARE = 4
"""One event in so many is appended singly: those are slow enough that fewer give as steady a figure."""
TABLES = ("events", "event_keys")
"""What an append fills, and the bare driver with it."""


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = max(options.events or BENCHMARK.events, MANY)
    with stores(options) as fresh:
        note(f"preparing {count:,} events")
        bulk = _Lot.of(fresh, count)
        singles = bulk.first(max(MANY, count // SINGLES_SHARE))
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            *(measure for callers in CALLERS for measure in _beside(fresh, singles, callers)),
            lambda: {"single_64_futures_per_second": _futures(fresh, singles.events)},
            lambda: {"one_commit_per_event_per_second": _one_commit_each(fresh, singles.events)},
            lambda: {"raw_driver_commits_per_second": _raw_driver(fresh, singles, 1)},
            lambda: {"batch_100_per_second": _batches(fresh, bulk.events)},
            lambda: {"eventsourcing_batch_100_per_second": _eventsourcing_calls(fresh, bulk.stored, BATCH)},
            lambda: {"bulk_events_per_second": _bulk(fresh, bulk.events)},
            lambda: {"bulk_prepared_per_second": _bulk_prepared(fresh, bulk.prepared)},
            lambda: {"eventsourcing_bulk_per_second": _eventsourcing_calls(fresh, bulk.stored, BULK_CALL)},
            lambda: {"raw_driver_events_per_second": _raw_driver(fresh, bulk, BULK_CALL)},
        )
    values = medians(
        samples,
        single_vs_eventsourcing=("group_commit_events_per_second", "eventsourcing_single_64_per_second"),
        single_8_vs_eventsourcing=("single_8_per_second", "eventsourcing_single_8_per_second"),
        single_1_vs_eventsourcing=("single_1_per_second", "eventsourcing_single_1_per_second"),
        batch_100_vs_eventsourcing=("batch_100_per_second", "eventsourcing_batch_100_per_second"),
        bulk_vs_eventsourcing=("bulk_events_per_second", "eventsourcing_bulk_per_second"),
        bulk_vs_raw_driver=("bulk_events_per_second", "raw_driver_events_per_second"),
        bulk_prepared_vs_raw_driver=("bulk_prepared_per_second", "raw_driver_events_per_second"),
        group_commit_ratio=("group_commit_events_per_second", "one_commit_per_event_per_second"),
        group_commit_vs_raw_driver=("group_commit_events_per_second", "raw_driver_commits_per_second"),
    )
    return BENCHMARK.result(values, NOTES)


@dataclass(frozen=True, slots=True)
class _Lot:
    """The same events for every side: as a caller holds them, and as what each side is given."""

    events: list[Event]
    prepared: list[Prepared]
    stored: list[StoredEvent]
    rows: dict[str, Rows]

    @classmethod
    def of(cls, fresh: Stores, count: int) -> _Lot:
        observed_at = now()
        events = [
            wix.read(delivery.body, route=delivery.route, handler=None, site_id=SITE_ID, observed_at=observed_at)[0]
            for delivery in documented(count)
        ]
        prepared = [prepare(event) for event in events]
        return cls(events, prepared, stored_events(prepared), _rows(fresh, events))

    def first(self, count: int) -> _Lot:
        rows = {table: rows[:count] for table, rows in self.rows.items()}
        return _Lot(self.events[:count], self.prepared[:count], self.stored[:count], rows)


def _rows(fresh: Stores, events: list[Event]) -> dict[str, Rows]:
    """The rows that the store makes of the events."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        deque(store.append_many(events), maxlen=0)
    with raw_connection(url) as raw, closing(raw.driver.cursor()) as cursor:
        rows = {table: cursor.execute(f"SELECT * FROM {table} ORDER BY position").fetchall() for table in TABLES}
    fresh.discard(url)
    return rows


# Single events


def _beside(fresh: Stores, lot: _Lot, callers: int) -> tuple[Callable[[], Sample], Callable[[], Sample]]:
    """The store's and eventsourcing's measure of so many callers at once."""
    ours = "group_commit_events_per_second" if callers == MANY else f"single_{callers}_per_second"
    return (
        lambda: {ours: _callers(fresh, lot.events, callers)},
        lambda: {f"eventsourcing_single_{callers}_per_second": _eventsourcing_callers(fresh, lot.stored, callers)},
    )


def _callers(fresh: Stores, events: list[Event], callers: int) -> float:
    """Events a second of `EventStore.append`, by threads that each wait for one event's commit before they append the next."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        took = _in_threads(callers, events, store.append)
        require_all(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _one_commit_each(fresh: Stores, events: list[Event]) -> float:
    """The same by MANY threads, through a writer that takes one event into a commit."""
    url = fresh.fresh()
    with EventStore.open(url) as store, closing(Writer(store.engine, batch_events=1)) as writer:
        took = _in_threads(MANY, events, lambda event: writer.submit([prepare(event)]).result())
        require_all(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _eventsourcing_callers(fresh: Stores, events: list[StoredEvent], callers: int) -> float:
    """Events a second of eventsourcing, by as many threads that wait just so."""
    with eventsourcing_recorder(fresh, callers) as recorder:
        took = _in_threads(callers, events, lambda event: recorder.insert_events([event]))
        _require_all_stored(recorder, events)
    return len(events) / took


def _in_threads(callers: int, events: Sequence[T], append: Callable[[T], object]) -> float:
    """Seconds that the callers take, each with its share of the events, one event after the other."""
    together = threading.Barrier(callers + 1)

    def appending(share: Sequence[T]) -> None:
        together.wait()
        for event in share:
            append(event)

    with ThreadPoolExecutor(callers) as pool:
        waiting = [pool.submit(appending, events[number::callers]) for number in range(callers)]

        def until_all_are_durable() -> None:
            together.wait()
            for caller in waiting:
                caller.result()

        return seconds(until_all_are_durable)


def _futures(fresh: Stores, events: list[Event]) -> float:
    """Events a second of MANY tasks of one event loop, which wait for futures: what a server's callers are."""

    async def appending(store: EventStore, share: list[Event]) -> None:
        for event in share:
            await asyncio.wrap_future(store.submit([prepare(event)]))

    async def all_of_them(store: EventStore) -> None:
        await asyncio.gather(*(appending(store, events[number::MANY]) for number in range(MANY)))

    url = fresh.fresh()
    with EventStore.open(url) as store:
        took = seconds(lambda: asyncio.run(all_of_them(store)))
        require_all(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


# Many events at a time


def _batches(fresh: Stores, events: list[Event]) -> float:
    """Events a second of one caller's batches, each durable before the next."""
    url = fresh.fresh()
    with EventStore.open(url) as store:

        def one_after_the_other() -> None:
            for start in range(0, len(events), BATCH):
                deque(store.append_many(events[start : start + BATCH]), maxlen=0)

        took = seconds(one_after_the_other)
        require_all(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _bulk(fresh: Stores, events: list[Event]) -> float:
    """Events a second of `EventStore.append_many`, until the last is durable."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        took = seconds(lambda: deque(store.append_many(events), maxlen=0))
        require_all(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _bulk_prepared(fresh: Stores, prepared: list[Prepared]) -> float:
    """Events a second of the writer alone, given entries that other processes have made."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        pieces = [prepared[start : start + PIECE] for start in range(0, len(prepared), PIECE)]
        took = seconds(lambda: append_pieces(store, pieces))
        require_all(store.head(), len(prepared))
    fresh.discard(url)
    return len(prepared) / took


def _eventsourcing_calls(fresh: Stores, events: list[StoredEvent], in_call: int) -> float:
    """Events a second of one caller of eventsourcing, so many events a call."""
    with eventsourcing_recorder(fresh, 1, bulk=in_call > BATCH) as recorder:

        def one_after_the_other() -> None:
            for start in range(0, len(events), in_call):
                recorder.insert_events(events[start : start + in_call])

        took = seconds(one_after_the_other)
        _require_all_stored(recorder, events)
    return len(events) / took


def _require_all_stored(recorder: ApplicationRecorder, events: list[StoredEvent]) -> None:
    require_all(recorder.max_notification_id() or 0, len(events))


def _raw_driver(fresh: Stores, lot: _Lot, in_transaction: int) -> float:
    """Events a second of the bare driver, given finished rows, so many events to a commit."""
    with raw_inserts(fresh, lot.rows) as insert:
        took = seconds(lambda: insert(in_transaction))
    return len(lot.events) / took


NOTES = """\
eventsourcing is in its default mode, with a connection for each caller, and is given encoded payloads. It keeps no hashes and
knows no event again that comes under another version; it has one index on SQLite and two on PostgreSQL, the store three and
four. Its bulk calls on PostgreSQL go through its database function, which is faster and locks nothing: in its default mode
calls of several hundred events of this size can wait for ever (psycopg's issue 685).
Both sides wait for the disk at each commit: SQLite in WAL mode with synchronous=FULL, PostgreSQL with fsync and
synchronous_commit on. The bare driver has one caller, and SQLite's own cache and checkpoints."""

BENCHMARK = Benchmark(
    name="append",
    about="appending canonical events of about 1.1 kB: single events by 1, 8 and 64 callers at once, each of which waits for its "
    f"event to be durable before it appends the next; batches of {BATCH} by one caller; and in bulk",
    peer="eventsourcing 9.5's application recorder, with the same payloads, callers and batches, as durable; the engine's own "
    "driver, given finished rows (payload and hashes already made), on the same tables and indexes, as durable, without the "
    f"append-only triggers: one commit an event, and executemany (PostgreSQL: COPY) in transactions of {BULK_CALL:,}; and, for "
    "group commit, the same writer and callers with one commit an event",
    events=20_000,
    rounds=5,
    figures=(
        Described("single_vs_eventsourcing", "x", f"{MANY} callers of single events, over eventsourcing's", Goal(5)),
        Described("single_8_vs_eventsourcing", "x", f"{FEW} callers"),
        Described("single_1_vs_eventsourcing", "x", "one caller"),
        Described("batch_100_vs_eventsourcing", "x", f"one caller, batches of {BATCH}"),
        Described("bulk_vs_eventsourcing", "x", f"append_many over eventsourcing, {BULK_CALL:,} a call", Goal(1)),
        Described("bulk_vs_raw_driver", "x", "append_many over the driver's bulk insert", Goal(0.6)),
        Described("bulk_prepared_vs_raw_driver", "x", "the writer alone, given prepared entries, over the same"),
        Described("group_commit_ratio", "x", f"{MANY} callers, grouped over one commit an event", Goal(4)),
        Described("group_commit_vs_raw_driver", "x", "group commit over the driver's commits, one caller"),
        Described("group_commit_events_per_second", "events/s", f"{MANY} threads, each appending single events"),
        Described("single_64_futures_per_second", "events/s", f"{MANY} tasks of one event loop instead of threads"),
        Described("single_8_per_second", "events/s", f"{FEW} threads"),
        Described("single_1_per_second", "events/s", "one caller"),
        Described("batch_100_per_second", "events/s", f"batches of {BATCH}, each durable before the next"),
        Described("bulk_events_per_second", "events/s", "EventStore.append_many of built events"),
        Described("bulk_prepared_per_second", "events/s", "entries made beforehand, as by bulk ingestion's workers"),
        Described("eventsourcing_single_64_per_second", "events/s", f"eventsourcing, {MANY} threads"),
        Described("eventsourcing_single_8_per_second", "events/s", f"eventsourcing, {FEW} threads"),
        Described("eventsourcing_single_1_per_second", "events/s", "eventsourcing, one caller"),
        Described("eventsourcing_batch_100_per_second", "events/s", f"eventsourcing, {BATCH} a call"),
        Described("eventsourcing_bulk_per_second", "events/s", f"eventsourcing, {BULK_CALL:,} a call"),
        Described("one_commit_per_event_per_second", "events/s", f"{MANY} threads, each event in a commit of its own"),
        Described("raw_driver_commits_per_second", "events/s", "the driver, one transaction an event, one caller"),
        Described("raw_driver_events_per_second", "events/s", "the driver's bulk insert of finished rows"),
    ),
    run=run,
    grown=append_grow.BENCHMARK,
)
