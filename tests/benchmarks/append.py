"""`append`: what group commit gains over a commit an event, and what a bulk append costs beside the bare driver."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from eventstore import wix
from eventstore.demo import SITE_ID, documented
from eventstore.event import Event
from eventstore.log.records import now
from eventstore.log.writer import BATCH_EVENTS
from eventstore.store import EventStore
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    Stores,
    interleaved,
    medians,
    note,
    raw_connection,
    seconds,
    stores,
)

THREADS = 64
SINGLES_SHARE = 4
"""One event in so many is appended singly: those are slow enough that fewer give as steady a figure."""

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Lot:
    """The same events for both sides: as a caller holds them, and as the rows that the store made of them."""

    events: list[Event]
    event_rows: Rows
    key_rows: Rows


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = options.events or BENCHMARK.events
    with stores(options) as fresh:
        note(f"preparing {count:,} events")
        lot = _prepared_lot(fresh, count)
        singles = _Lot(*(part[: max(THREADS, count // SINGLES_SHARE)] for part in (lot.events, lot.event_rows, lot.key_rows)))  # type: ignore[arg-type]
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: {"group_commit_events_per_second": _group_commit(fresh, singles)},
            lambda: {"one_commit_per_event_per_second": _raw(fresh, singles, 1)},
            lambda: {"bulk_events_per_second": _bulk(fresh, lot)},
            lambda: {"raw_driver_events_per_second": _raw(fresh, lot, BATCH_EVENTS)},
        )
    return BENCHMARK.result(
        medians(
            samples,
            group_commit_ratio=("group_commit_events_per_second", "one_commit_per_event_per_second"),
            bulk_vs_raw_driver=("bulk_events_per_second", "raw_driver_events_per_second"),
        )
    )
