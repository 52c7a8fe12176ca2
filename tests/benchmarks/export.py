"""`export`: how fast the log gets into the lake, and how soon what was just acknowledged is in an answer."""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

import analytics
from analytics.columns import events_sql
from analytics.lake import Lake, log
from analytics.lake.delta import LakeTable
from analytics.lake.duck import worker
from eventstore.log.arrow import event_batches
from eventstore.log.engine import make_engine
from eventstore.log.reader import head
from eventstore.store import EventStore
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    in_child,
    interleaved,
    medians,
    peak_memory_mb,
    stores,
)
from tests.benchmarks.rebuild import GROWN_FROM, fill
from tests.benchmarks.rebuild_grow import multiply
from tests.benchmarks.reports import INGESTED

FRESH_EVENTS = 20
"""Events that are appended one by one and looked for in a report; of a log of less than a thousand fewer."""
FRESH_SITE = "a site of its own"


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = options.events or BENCHMARK.events
    with _log(options, count) as (url, folder):
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: in_child(measure_export, url, folder),
            lambda: in_child(measure_copy, url, folder),
            lambda: in_child(measure_freshness, url, folder),
        )
    values = medians(samples, vs_duckdb_copy=("events_per_second", "duckdb_copy_events_per_second"))
    return BENCHMARK.result(values)


@contextmanager
def _log(options: Options, count: int) -> Iterator[tuple[str, Path]]:
    with stores(options) as fresh:
        url = options.store or fresh.fresh()
        if options.store is None:
            in_child(fill, url, min(count, max(count // GROWN_FROM, INGESTED)))
            in_child(multiply, url, count)
        yield url, fresh.directory


def measure_export(url: str, folder: Path) -> Sample:
    """The whole log into a new lake: its events alone, then what the models make of them."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        engine = make_engine(url)
        count = head(engine)
        table = LakeTable(f"{place}/alone", log.APPLICATION).open()
        start = time.perf_counter()
        log.catch_up(table, engine, count)
        alone = time.perf_counter() - start
        alone_mb = peak_memory_mb()
        start = time.perf_counter()
        Lake(f"{place}/whole").catch_up(engine)
        whole = time.perf_counter() - start
        engine.dispose()
    return {
        "events_per_second": count / alone,
        "with_projections_per_second": count / whole,
        "export_peak_memory_mb": alone_mb,
        "peak_memory_mb": peak_memory_mb(),
    }


def measure_copy(url: str, folder: Path) -> Sample:
    """DuckDB's COPY of the same rows, read in the same way and typed by the same query, to one Parquet file."""
    with tempfile.TemporaryDirectory(dir=folder) as place, worker() as duck:
        engine = make_engine(url)
        count = head(engine)
        start = time.perf_counter()
        with event_batches(engine, after=0, until=count) as batches:
            duck.register("batch", batches)
            duck.execute(f"COPY ({events_sql()}) TO '{place}/events.parquet' (FORMAT parquet, COMPRESSION zstd)")
        took = time.perf_counter() - start
        engine.dispose()
    return {"duckdb_copy_events_per_second": count / took}


def measure_freshness(url: str, folder: Path) -> Sample:
    """Seconds from the acknowledgement of an event until a report, asked at once, shows it; the lake is up to date before."""
    waited = []
    with tempfile.TemporaryDirectory(dir=folder) as place, EventStore.open(url) as store:
        lake = f"{place}/lake"
        Lake(lake).catch_up(store.engine)
        for number in range(min(FRESH_EVENTS, max(2, head(store.engine) // 50))):
            coupon_id = f"fresh-{secrets.token_hex(8)}-{number}"
            [outcome] = store.receive(_created(coupon_id), handler="wixMarketing_onCouponCreated", site=FRESH_SITE)
            acknowledged = time.perf_counter()
            with analytics.connect(store.engine, lake=lake) as connection:
                found = analytics.run_report(connection, "usage-per-coupon", site=FRESH_SITE)
            waited.append(time.perf_counter() - acknowledged)
            if found.position < (outcome.position or 0) or coupon_id not in {row[1] for row in found.rows}:
                raise AssertionError("the report does not show what was acknowledged before it was asked")
    return {"freshness_s": statistics.median(waited), "freshness_max_s": max(waited)}


def _created(coupon_id: str) -> bytes:
    metadata = {"id": f"event of {coupon_id}", "entityId": coupon_id, "eventTime": "2026-09-30T00:00:00Z"}
    coupon = {"_id": coupon_id, "code": coupon_id[-8:], "type": "PercentOff", "percentOffRate": 10, "active": True}
    return orjson.dumps({"metadata": metadata, "entity": coupon})


BENCHMARK = Benchmark(
    name="export",
    about="the log into a new lake in Delta tables, and how soon an acknowledged event is in a report's answer",
    peer="DuckDB's COPY of the same rows, read in the same way and typed by the same query, to one Parquet file",
    events=500_000,
    rounds=3,
    figures=(
        Described("events_per_second", "events/s", "the log alone, typed, into its Delta table"),
        Described("vs_duckdb_copy", "x", "the same over DuckDB's COPY", Goal(0.7)),
        Described("duckdb_copy_events_per_second", "events/s", "DuckDB's COPY to one file"),
        Described("with_projections_per_second", "events/s", "the whole lake: the log and every projection"),
        Described(
            "freshness_s", "s", "from an event's acknowledgement until a report shows it", Goal(2.0, at_most=True)
        ),
        Described("freshness_max_s", "s", "the longest of them"),
        Described("export_peak_memory_mb", "MB", "while the log was exported"),
        Described("peak_memory_mb", "MB", "while the whole lake was made"),
    ),
    run=run,
)
