"""`append`: what group commit gains over a commit an event, and what a bulk append costs beside the bare driver."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from eventstore import wix
from eventstore.demo import SITE_ID, documented
from eventstore.event import Event
from eventstore.log.records import now, prepare
from eventstore.log.writer import BATCH_EVENTS, Writer
from eventstore.store import EventStore
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Stores,
    interleaved,
    medians,
    note,
    raw_connection,
    seconds,
    stores,
)

THREADS = 64
RAW_TRANSACTION_EVENTS = 2_000
"""Events in one transaction of the bare driver."""
SINGLES_SHARE = 4
"""One event in so many is appended singly: those are slow enough that fewer give as steady a figure."""

Rows = list[tuple[Any, ...]]


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = options.events or BENCHMARK.events
    with stores(options) as fresh:
        note(f"preparing {count:,} events")
        bulk = _prepared_lot(fresh, count)
        singles = bulk.first(max(THREADS, count // SINGLES_SHARE))
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: {"group_commit_events_per_second": _callers(fresh, singles.events, BATCH_EVENTS)},
            lambda: {"one_commit_per_event_per_second": _callers(fresh, singles.events, 1)},
            lambda: {"raw_driver_commits_per_second": _raw_driver(fresh, singles, 1)},
            lambda: {"bulk_events_per_second": _bulk(fresh, bulk.events)},
            lambda: {"raw_driver_events_per_second": _raw_driver(fresh, bulk, RAW_TRANSACTION_EVENTS)},
        )
    return BENCHMARK.result(
        medians(
            samples,
            group_commit_ratio=("group_commit_events_per_second", "one_commit_per_event_per_second"),
            group_commit_vs_raw_driver=("group_commit_events_per_second", "raw_driver_commits_per_second"),
            bulk_vs_raw_driver=("bulk_events_per_second", "raw_driver_events_per_second"),
        )
    )


@dataclass(frozen=True, slots=True)
class _Lot:
    """The same events for both sides: as a caller holds them, and as the rows that the store makes of them."""

    events: list[Event]
    event_rows: Rows
    key_rows: Rows

    def first(self, count: int) -> _Lot:
        return _Lot(self.events[:count], self.event_rows[:count], self.key_rows[:count])


def _prepared_lot(fresh: Stores, count: int) -> _Lot:
    observed_at = now()
    events = [
        wix.read(delivery.body, route=delivery.route, handler=None, site_id=SITE_ID, observed_at=observed_at)[0]
        for delivery in documented(max(count, THREADS))
    ]
    url = fresh.fresh()
    with EventStore.open(url) as store:
        deque(store.append_many(events), maxlen=0)
    with raw_connection(url) as raw:
        cursor = raw.driver.cursor()
        event_rows = cursor.execute("SELECT * FROM events ORDER BY position").fetchall()
        key_rows = cursor.execute("SELECT * FROM event_keys ORDER BY position").fetchall()
        cursor.close()
    fresh.discard(url)
    return _Lot(events, event_rows, key_rows)


def _callers(fresh: Stores, events: list[Event], batch_events: int) -> float:
    """Events a second of many threads that each wait for one event's commit before they append the next.

    `batch_events` is the most that one commit takes: 1 is a commit an event.
    """
    url = fresh.fresh()
    together = threading.Barrier(THREADS + 1)
    with EventStore.open(url) as store, ThreadPoolExecutor(THREADS) as pool:
        writer = Writer(store.engine, batch_events=batch_events)

        def appending(share: list[Event]) -> None:
            together.wait()
            for event in share:
                writer.submit([prepare(event)]).result()

        callers = [pool.submit(appending, events[number::THREADS]) for number in range(THREADS)]

        def until_all_are_durable() -> None:
            together.wait()
            for caller in callers:
                caller.result()

        took = seconds(until_all_are_durable)
        writer.close()
        _require(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _bulk(fresh: Stores, events: list[Event]) -> float:
    """Events a second of `EventStore.append_many`, until the last is durable."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        took = seconds(lambda: deque(store.append_many(events), maxlen=0))
        _require(store.head(), len(events))
    fresh.discard(url)
    return len(events) / took


def _raw_driver(fresh: Stores, lot: _Lot, in_transaction: int) -> float:
    """Events a second of the bare driver, given finished rows, `in_transaction` events to a commit."""
    url = fresh.without_guards()
    with raw_connection(url) as raw:
        into_events = raw.insert("events", len(lot.event_rows[0]))
        into_keys = raw.insert("event_keys", len(lot.key_rows[0]))

        def in_batches() -> None:
            for start in range(0, len(lot.event_rows), in_transaction):
                with raw.transaction() as cursor:
                    cursor.executemany(into_events, lot.event_rows[start : start + in_transaction])
                    cursor.executemany(into_keys, lot.key_rows[start : start + in_transaction])

        def one_by_one() -> None:
            for event_row, key_row in zip(lot.event_rows, lot.key_rows, strict=True):
                with raw.transaction() as cursor:
                    cursor.execute(into_events, event_row)
                    cursor.execute(into_keys, key_row)

        took = seconds(one_by_one if in_transaction == 1 else in_batches)
        cursor = raw.driver.cursor()
        _require(cursor.execute("SELECT count(*) FROM events").fetchone()[0], len(lot.event_rows))
        cursor.close()
    fresh.discard(url)
    return len(lot.event_rows) / took


def _require(found: int, expected: int) -> None:
    if found != expected:
        raise AssertionError(f"{found} events were written where {expected} were given")


BENCHMARK = Benchmark(
    name="append",
    about="appending canonical events of about 1.1 kB, by many callers at once and in bulk",
    peer="for group commit, the same writer and callers with one commit an event; else the engine's own driver, given "
    "finished rows (payload and hashes already made), on the same tables and indexes with the same durability and without "
    f"the append-only triggers: one commit an event by one caller, and executemany in transactions of "
    f"{RAW_TRANSACTION_EVENTS:,}",
    events=20_000,
    rounds=5,
    figures=(
        Described("group_commit_ratio", "x", f"{THREADS} callers, grouped over one commit an event", Goal(4)),
        Described("group_commit_events_per_second", "events/s", f"{THREADS} threads, each appending single events"),
        Described("one_commit_per_event_per_second", "events/s", "the same, each event in a commit of its own"),
        Described("group_commit_vs_raw_driver", "x", "group commit over the driver's commits, one caller"),
        Described("raw_driver_commits_per_second", "events/s", "the driver, one transaction an event, one caller"),
        Described("bulk_vs_raw_driver", "x", "append_many over the driver's executemany", Goal(0.6)),
        Described("bulk_events_per_second", "events/s", "EventStore.append_many of built events"),
        Described("raw_driver_events_per_second", "events/s", "the driver's executemany of finished rows"),
    ),
    run=run,
)
