"""`rebuild`: every projection anew from a long log, beside a plain Python fold that does the same work.

Each side runs in a process of its own, so that their memory is their own. The fold is checked, outside the time taken, to
have made the very rows that the models make.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy import Engine
from sqlalchemy.schema import CreateIndex, CreateTable

import eventstore.projections.rebuild  # noqa: F401 - importing DuckDB shall be no part of the time taken
from eventstore.demo import SITE_ID, documented
from eventstore.errors import InputError
from eventstore.ingest import Route, read_delivery
from eventstore.log.arrow import event_batches
from eventstore.log.engine import make_engine
from eventstore.log.reader import head
from eventstore.log.records import Outcome, Prepared, Rejected
from eventstore.projections.catalogue import Projection, projections
from eventstore.store import EventStore
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    RawConnection,
    Result,
    Sample,
    Stores,
    in_child,
    interleaved,
    medians,
    note,
    peak_memory_mb,
    raw_connection,
    stores,
)
from tests.benchmarks.python_fold import Fold, Row, require_same_columns
from tests.benchmarks.rebuild_grow import multiply
from tests.benchmarks.rebuild_peers import measure_eventsourcing
from tests.processes import FORKING

SHARES = {
    "read": ("read",),
    "facts": ("facts",),
    "models": ("lift", "merge"),
    "lift": ("lift",),
    "merge": ("merge",),
    "write": ("write",),
    "swap": ("catch_up", "swap"),
}
"""The shares told of, and the stages of a rebuild that each is of."""
EVENTSOURCING_EVENTS = 5_000
"""Events that eventsourcing projects, at most: it takes a transaction for each."""
TELL_EVERY = 100_000
"""Events between two notes of a fill's progress."""
GROWN_FROM = 100
"""The largest log is so many times what is ingested; the rest of it, and of the smaller one, are copies."""
FILL_CHUNK = 2_000
"""Deliveries read at a time by a filling process: a writer's whole batch."""
CURSOR_ROWS = 10_000
"""Rows that PostgreSQL's driver fetches at a time, as many as the store's own reader takes."""


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with _log(options) as url, stores(options) as peers:
        in_child(fill, url, options.events)
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: in_child(measure_rebuild, url),
            lambda: in_child(measure_raw_read, url),
            lambda: in_child(measure_fold, url),
            lambda: _eventsourcing(peers, url),
        )
    values = medians(
        samples,
        vs_raw_read=("events_per_second", "raw_read_events_per_second"),
        vs_eventsourcing=("events_per_second", "eventsourcing_events_per_second"),
        vs_python_fold=("events_per_second", "python_fold_events_per_second"),
        vs_python_fold_in_memory=("events_per_second", "python_fold_in_memory_events_per_second"),
    )
    values["peak_memory_mb"] = max(sample["peak_memory_mb"] for sample in samples)
    return BENCHMARK.result(values)


def run_grown(options: Options) -> Result:
    """Measure every figure of the benchmark's `grown`: one rebuild of a log, and one of a log of ten times as many events."""
    assert BENCHMARK.grown is not None
    largest = options.events or BENCHMARK.grown.events
    sizes = {"small": max(largest // 10, 1), "large": largest}
    samples = []
    for _ in range(options.rounds or BENCHMARK.grown.rounds):
        sample: Sample = {}
        for name, size in sizes.items():
            with stores(options) as fresh:
                url = fresh.fresh()
                in_child(fill, url, min(size, max(largest // GROWN_FROM, 1)))
                in_child(multiply, url, size)
                measured = in_child(measure_rebuild, url)
            sample[f"events_per_second_{name}"] = measured["events_per_second"]
            sample[f"peak_memory_mb_{name}"] = measured["peak_memory_mb"]
        samples.append(sample)
    values = medians(samples, rate_at_10m_over_1m=("events_per_second_large", "events_per_second_small"))
    return BENCHMARK.grown.result(values)


def _eventsourcing(peers: Stores, url: str) -> Sample:
    peer = peers.empty()
    try:
        return in_child(measure_eventsourcing, url, peer, EVENTSOURCING_EVENTS)
    finally:
        peers.discard(peer)


@contextmanager
def _log(options: Options) -> Iterator[str]:
    if options.store is not None:
        yield options.store
        return
    with stores(options) as fresh:
        yield fresh.fresh()


def fill(url: str, count: int | None) -> None:
    """Ingest `count` deliveries of documented size into an empty store; leave one that holds just as many as it is.

    `count` None: as many as there are, or the benchmark's default. Raises InputError for a store that holds another number.
    """
    with EventStore.open(url) as store:
        held = store.head()
        if held:
            if count not in (None, held):
                raise InputError(
                    f"{url} holds {held:,} events, not {count:,}: give another --store, or --events {held}"
                )
            note(f"{url} holds {held:,} events already")
            return
        wanted = count or BENCHMARK.events
        start = time.perf_counter()
        taken = 0
        for outcomes in _appended(store, wanted):
            taken += len(outcomes)
            if taken % TELL_EVERY == 0 or taken == wanted:
                note(f"filling the log: {taken:,} of {wanted:,}, {taken / (time.perf_counter() - start):,.0f}/s")
        if store.head() != wanted:
            raise AssertionError(f"{store.head()} events were written where {wanted} were given")


def _appended(store: EventStore, wanted: int) -> Iterator[list[Outcome]]:
    """Outcomes of `wanted` deliveries, a chunk at a time. Other processes read them, this one writes; memory is bounded."""
    deliveries = documented(wanted)
    readers = max(1, (os.cpu_count() or 2) - 1)
    with ProcessPoolExecutor(readers, mp_context=FORKING) as pool:
        being_read: deque[Future[list[Prepared | Rejected]]] = deque()
        being_written: deque[Future[list[Outcome]]] = deque()
        while True:
            chunk = [orjson.dumps(delivery.body) for delivery in itertools.islice(deliveries, FILL_CHUNK)]
            if chunk:
                being_read.append(pool.submit(read_chunk, chunk))
            while len(being_read) > (2 * readers if chunk else 0):
                being_written.append(store.submit_patiently(being_read.popleft().result()))
            while len(being_written) > (2 if chunk else 0):
                yield being_written.popleft().result()
            if not chunk:
                return


def read_chunk(bodies: list[bytes]) -> list[Prepared | Rejected]:
    """The log entries of REST deliveries, as the store's own doors make them."""
    return [entry for body in bodies for entry in read_delivery(body, Route("rest"), lambda named: named or SITE_ID)]


def measure_rebuild(url: str) -> Sample:
    """One rebuild in this process, which should do nothing else: its peak memory is part of the sample."""
    with EventStore.open(url, create=False) as store:
        start = time.perf_counter()
        result = store.rebuild_projections()
        took = time.perf_counter() - start
    shares = {f"share_{name}": sum(result.stages[each] for each in stages) / took for name, stages in SHARES.items()}
    return {"events_per_second": result.position / took, "peak_memory_mb": peak_memory_mb(), **shares}


def measure_raw_read(url: str) -> Sample:
    """One reading of the log in this process, of the columns that a rebuild reads and as it reads them, doing nothing with them:
    through ADBC on PostgreSQL, through Python's driver on SQLite."""
    engine = make_engine(url)
    count = 0
    start = time.perf_counter()
    with event_batches(engine, after=0, until=head(engine)) as batches:
        for batch in batches:
            count += batch.num_rows
    took = time.perf_counter() - start
    engine.dispose()
    return {"raw_read_events_per_second": count / took}


def measure_fold(url: str) -> Sample:
    """One fold in this process, with and without writing its rows; they are compared with the projections and dropped."""
    require_same_columns()
    engine = make_engine(url)
    with raw_connection(url) as raw:
        _drop(raw)
        gc.collect()
        start = time.perf_counter()
        fold = Fold()
        count = fold.take(_payloads(raw))
        rows = fold.rows()
        in_memory = time.perf_counter() - start
        for model in projections():
            _write(raw, engine, model, rows[model.name])
        took = time.perf_counter() - start
        peak = peak_memory_mb()
        try:
            _require_equal(raw)
        finally:
            _drop(raw)
    engine.dispose()
    return {
        "python_fold_events_per_second": count / took,
        "python_fold_in_memory_events_per_second": count / in_memory,
        "python_fold_peak_memory_mb": peak,
    }


def _payloads(raw: RawConnection) -> Iterator[tuple[int, str]]:
    sql = "SELECT event_time, payload FROM events ORDER BY position"
    if raw.mark == "?":
        yield from raw.driver.execute(sql)
        return
    with raw.driver.transaction(), raw.driver.cursor(name="log") as cursor:
        cursor.itersize = CURSOR_ROWS
        cursor.execute(sql)
        yield from cursor


def _folded(model: Projection) -> str:
    return f"{model.name}__fold"


def _write(raw: RawConnection, engine: Engine, model: Projection, rows: list[Row]) -> None:
    """A table of the model's shape, its rows in key order and then its indexes, in one transaction."""
    table = model.make_table(_folded(model))
    with raw.transaction() as cursor:
        cursor.execute(str(CreateTable(table).compile(dialect=engine.dialect)))
        if rows:
            cursor.executemany(raw.insert(table.name, len(model.columns)), rows)
        for index in table.indexes:
            cursor.execute(str(CreateIndex(index).compile(dialect=engine.dialect)))


def _drop(raw: RawConnection) -> None:
    with raw.transaction() as cursor:
        for model in projections():
            cursor.execute(f"DROP TABLE IF EXISTS {_folded(model)}")


def _require_equal(raw: RawConnection) -> None:
    """Raise AssertionError unless the fold made the projections' rows, in every column that readers are shown."""
    for model in projections():
        shown = ", ".join(column.name for column in model.shown)
        ours, theirs = f"SELECT {shown} FROM {model.name}", f"SELECT {shown} FROM {_folded(model)}"
        for what, sql in {
            "rows of the projection that the fold lacks": f"{ours} EXCEPT {theirs}",
            "rows of the fold that the projection lacks": f"{theirs} EXCEPT {ours}",
        }.items():
            differing = _value(raw, f"SELECT count(*) FROM ({sql}) AS differing")
            if differing:
                raise AssertionError(f"{model.name}: {differing} {what}")
        counts = [_value(raw, f"SELECT count(*) FROM {name}") for name in (model.name, _folded(model))]
        if counts[0] != counts[1]:
            raise AssertionError(f"{model.name}: {counts[0]} rows of the projection, {counts[1]} of the fold")


def _value(raw: RawConnection, sql: str) -> Any:
    cursor = raw.driver.cursor()
    try:
        return cursor.execute(sql).fetchone()[0]
    finally:
        cursor.close()


BENCHMARK = Benchmark(
    name="rebuild",
    about="rebuilding every projection from the log, from the first read to the swap; each round in a new process",
    peer="a plain Python fold in a process of its own: a driver's cursor over the log, json.loads an event, dicts by coupon, "
    "order and loyalty coupon under the models' rules, then the same rows by executemany, one transaction a table; "
    "checked to give the very rows that the models give",
    events=1_000_000,
    rounds=3,
    figures=(
        Described("events_per_second", "events/s", "rebuild_projections: read, facts, models, write, swap"),
        Described("peak_memory_mb", "MB", "most memory resident in any round (10**6 bytes)", Goal(2000, at_most=True)),
        Described("vs_python_fold", "x", "over the fold with its rows written", Goal(4)),
        Described("vs_python_fold_in_memory", "x", "over the fold without that write, ours with it"),
        Described("python_fold_events_per_second", "events/s", "the fold with its rows written"),
        Described("vs_raw_read", "x", "over only reading the same columns of the log, as Arrow", Goal(0.35)),
        Described(
            "vs_eventsourcing", "x", "over eventsourcing's projection of the log's first 5,000 events, which makes less"
        ),
        Described("raw_read_events_per_second", "events/s", "that reading"),
        Described(
            "eventsourcing_events_per_second", "events/s", "that projection: by its runner, on SQLite by its log"
        ),
        *(
            Described(f"share_{name}", "of the time", f"the stages {', '.join(stages)} of the rebuild")
            for name, stages in SHARES.items()
        ),
    ),
    run=run,
    grown=Benchmark(
        name="rebuild --grow",
        about="rebuilding every projection from a log, and from one of ten times as many events, on a store of its own each",
        peer="the smaller log",
        events=10_000_000,
        rounds=1,
        figures=(
            Described(
                "rate_at_10m_over_1m", "x", "events/s with all events over those with a tenth of them", Goal(0.75)
            ),
            Described("events_per_second_small", "events/s", "the rebuild of a tenth of the events"),
            Described("events_per_second_large", "events/s", "the rebuild of all of them"),
            Described(
                "peak_memory_mb_small", "MB", "most memory resident at a tenth (10**6 bytes)", Goal(2000, at_most=True)
            ),
            Described("peak_memory_mb_large", "MB", "most memory resident with all", Goal(2000, at_most=True)),
        ),
        run=run_grown,
    ),
)
