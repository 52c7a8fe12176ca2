"""`reports`: how long each report takes over the lake of a long log, beside the same question asked of the database's own tables,
and beside what one would write by hand in DuckDB over the same files.

The three answers are compared before any is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

import analytics
from analytics.lake import Lake
from eventstore.log.engine import make_engine
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
    note,
    raw_connection,
    stores,
)
from tests.benchmarks.rebuild import GROWN_FROM, fill
from tests.benchmarks.rebuild_grow import multiply
from tests.benchmarks.reports_peers import PEERS

WARM = 3
"""Times that a report is run on a connection that has run it before; the median counts."""
INGESTED = 100_000
"""Of a longer log, what is ingested at most; the rest are copies."""


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with _filled(options) as (url, lake):
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: in_child(measure_reports, lake),
            lambda: in_child(measure_peers, url, lake),
        )
    names = sorted({name for name in samples[0] if name.startswith("warm ")})
    values = medians(samples)
    slowest = max(names, key=lambda name: values[name])
    figures = {
        "slowest_warm_s": values[slowest],
        "slowest_cold_s": max(values[f"cold {each.removeprefix('warm ')}"] for each in names),
        "connect_s": values["connect"],
        "vs_oltp_query": statistics.median(
            statistics.median(sample[f"oltp {name}"] / sample[f"ours {name}"] for sample in samples) for name in PEERS
        ),
        "vs_hand_written": statistics.median(
            statistics.median(sample[f"ours {name}"] / sample[f"hand {name}"] for sample in samples) for name in PEERS
        ),
    }
    told = [f"  {'report':<28}{'cold s':>9}{'warm s':>9}{'by hand':>9}{'database':>10}"]
    for each in names:
        name = each.removeprefix("warm ")
        beside = f"{values[f'hand {name}']:>9.3f}{values[f'oltp {name}']:>10.2f}" if name in PEERS else ""
        told.append(f"  {name:<28}{values[f'cold {name}']:>9.3f}{values[each]:>9.3f}{beside}")
    return BENCHMARK.result(figures, "\n".join(told))


@contextmanager
def _filled(options: Options) -> Iterator[tuple[str, str]]:
    """A store of so many events with its projections, and its lake, brought up to date and compacted."""
    with stores(options) as fresh:
        url = options.store or fresh.fresh()
        count = options.events or BENCHMARK.events
        lake = f"{options.store}.bench.lake" if options.store else str(fresh.directory / "lake")
        in_child(fill_and_project, url, count)
        in_child(fill_lake, url, lake)
        yield url, lake


def fill_and_project(url: str, count: int) -> None:
    """Make a log of so many events, and the projections of it, in the database."""
    with EventStore.open(url) as store:
        held = store.head()
    if not held:
        fill(url, min(count, max(count // GROWN_FROM, INGESTED)))
        multiply(url, count)
    with EventStore.open(url) as store:
        if store.status().projections[0].position < store.head():
            note("rebuilding the projections")
            store.rebuild_projections()


def fill_lake(url: str, lake: str) -> None:
    """Bring the lake up to date and compact it."""
    engine = make_engine(url)
    try:
        start = time.perf_counter()
        found = Lake(lake)
        position = found.catch_up(engine)
        note(f"the lake holds {position:,} events, after {time.perf_counter() - start:.1f} s")
        found.compact()
    finally:
        engine.dispose()


def measure_reports(lake: str) -> Sample:
    """Each report on a connection of its own, at first and again: opening it is told apart."""
    sample: Sample = {}
    opening = []
    for report in analytics.reports():
        start = time.perf_counter()
        with analytics.connect(lake=lake) as connection:
            opening.append(time.perf_counter() - start)
            ask = _asked_of(connection, report)
            sample[f"cold {report.name}"] = _timed(ask)
            again = [_timed(ask) for _ in range(WARM)]
            sample[f"warm {report.name}"] = statistics.median(again)
    sample["connect"] = statistics.median(opening)
    return sample


def _asked_of(connection: analytics.AnalyticsConnection, report: analytics.Report) -> Callable[[], object]:
    """The report's answer as Arrow, as charts and files take it: Python's own values of a long list would take longer."""
    values = report.values({})
    return lambda: connection.sql(report.sql, values).to_arrow_table()


def measure_peers(url: str, lake: str) -> Sample:
    """The questions of `PEERS`, of the database, by hand, and by the report, each warm."""
    sample: Sample = {}
    files = Lake(lake).snapshot()
    with raw_connection(url) as raw, analytics.connect(lake=lake) as connection, duckdb.connect() as hand:
        hand.execute("SET TimeZone = 'UTC'")
        hand.execute("SET enable_progress_bar = false")
        hand.execute("SET parquet_metadata_cache = true")
        tables = {
            name: [file for _, several in levels for file in several] for name, levels in files.projections.items()
        } | {"events": list(files.events)}
        for name, peer in PEERS.items():
            by_hand = peer.by_hand.format(**{table: f"read_parquet({several})" for table, several in tables.items()})
            told = _told(connection, name, peer.columns)
            _require_same(name, told, hand.execute(by_hand).fetchall(), peer.compared)
            _require_same(name, told, raw.driver.execute(peer.of_tables).fetchall(), peer.compared)
            del told
            ours = _asked_of(connection, analytics.report(name))
            for _ in range(WARM):
                for kind, work in (
                    ("ours", ours),
                    ("hand", lambda: hand.sql(by_hand).to_arrow_table()),  # noqa: B023
                ):
                    sample.setdefault(f"{kind} {name}", 1e9)
                    sample[f"{kind} {name}"] = min(sample[f"{kind} {name}"], _timed(work))
            sample[f"oltp {name}"] = _timed(lambda: raw.driver.execute(peer.of_tables).fetchall())  # noqa: B023
    return sample


def _told(connection: analytics.AnalyticsConnection, name: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """These columns of the report's answer."""
    report = analytics.report(name)
    places = [[column.name for column in report.columns].index(each) for each in columns]
    rows = connection.execute(report.sql, report.values({})).fetchall()
    return [tuple(row[place] for place in places) for row in rows]


def _require_same(name: str, ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]], compared: int) -> None:
    """That the first columns, keys and counts, are the same in both answers."""
    one, other = ({tuple(map(str, row[:compared])) for row in rows} for rows in (ours, theirs))
    if one != other:
        raise AssertionError(
            f"{name}: the report and its peer differ in {len(one ^ other)} rows: {list(one ^ other)[:3]}"
        )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


BENCHMARK = Benchmark(
    name="reports",
    about="every report over the lake of a long log: at first on a new connection (cold for DuckDB, not for the system's "
    "file cache), and again (warm)",
    peer="the same question in SQL on the store's own tables through the bare driver, and written by hand in DuckDB over the "
    "very files of the lake; the answers are compared before they are timed",
    events=1_000_000,
    rounds=2,
    figures=(
        Described("slowest_warm_s", "s", "the slowest report, asked again", Goal(1.0, at_most=True)),
        Described("slowest_cold_s", "s", "the slowest report on a new connection"),
        Described("connect_s", "s", "opening the lake as it is"),
        Described("vs_oltp_query", "x", "the database's time over ours, the median of the questions", Goal(20)),
        Described(
            "vs_hand_written",
            "x",
            "our time over that of SQL by hand, the median of the questions",
            Goal(1.15, at_most=True),
        ),
    ),
    run=run,
)
