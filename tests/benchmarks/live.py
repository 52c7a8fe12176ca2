"""`live`: how far the projections are behind the log while it grows, in one process, as in a server."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from eventstore.log.records import Outcome, Prepared
from eventstore.store import EventStore
from tests.benchmarks.append_entries import EntrySource
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Options,
    Result,
    Sample,
    Stores,
    at_share,
    interleaved,
    medians,
    note,
    stores,
)

PACE = 1_000
"""Events a second at which the lag is measured."""
TICK_SECONDS = 0.01
"""At that pace, how often events are handed over."""
PIECE = 200
"""Events handed over at a time where as many are appended as can be."""
LIMIT_SECONDS = 1.0
HOLD_SECONDS = 0.6
"""The lag at which appending holds back, so that it stays under the limit: a step begun by then has time to end."""
WARM_UP = 300
"""Events appended and taken in before anything is timed: the first ones import, connect and compile."""
LOOK_SECONDS = 0.004
"""How often the projections' position is looked at: lags are known to within that."""
PATIENCE = 120.0
"""Seconds after which projections that do not come to the head are an error."""


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with stores(options) as fresh:
        bench = _Bench(fresh, options.events or BENCHMARK.events)
        samples = interleaved(options.rounds or BENCHMARK.rounds, bench.alone, bench.sustained, bench.paced)
    figures = medians(samples, vs_append_alone=("sustained_per_second", "append_alone_per_second"))
    figures["sustained_lag_max_ms"] = max(sample["sustained_lag_max_ms"] for sample in samples)
    return BENCHMARK.result(
        figures,
        f"Appending held back whenever the oldest event not taken in was {HOLD_SECONDS:g} s old; the lags are of "
        f"{bench.count:,} events appended at {PACE:,}/s, from each event's commit until all projections had it.",
    )


class _Bench:
    def __init__(self, fresh: Stores, count: int) -> None:
        self.count = count
        self._fresh = fresh
        note(f"making {count + WARM_UP:,} events")
        self._source = EntrySource(templates=min(count, 2_000))
        self._entries = self._source.take(count + WARM_UP)

    @contextmanager
    def _store(self) -> Iterator[EventStore]:
        url = self._fresh.fresh()
        try:
            with EventStore.open(url) as store:
                self._append(store, self._entries[:WARM_UP])
                store.project()
                yield store
        finally:
            self._fresh.discard(url)

    def _append(self, store: EventStore, entries: list[Prepared]) -> None:
        store.submit_patiently([*entries]).result()

    @property
    def _timed(self) -> list[Prepared]:
        return self._entries[WARM_UP:]

    def alone(self) -> Sample:
        """Appending without projections."""
        with self._store() as store:
            started = time.perf_counter()
            for piece in _pieces(self._timed, PIECE):
                self._append(store, piece)
            return {"append_alone_per_second": self.count / (time.perf_counter() - started)}

    def sustained(self) -> Sample:
        """As many events as can be appended and taken in, the lag under the limit all the while."""
        with self._store() as store, _Lags(store) as lags:
            started = time.perf_counter()
            for piece in _pieces(self._timed, PIECE):
                while lags.present() > HOLD_SECONDS:
                    time.sleep(LOOK_SECONDS)
                lags.submit(piece)
                lags.last.result()
            lags.wait()
            took = time.perf_counter() - started
            return {"sustained_per_second": self.count / took, "sustained_lag_max_ms": 1000 * max(lags.found())}

    def paced(self) -> Sample:
        """The lag of events that come at a steady pace."""
        with self._store() as store, _Lags(store) as lags:
            started = time.perf_counter()
            for number, piece in enumerate(_pieces(self._timed, round(PACE * TICK_SECONDS))):
                time.sleep(max(0.0, started + number * TICK_SECONDS - time.perf_counter()))
                lags.submit(piece)
            lags.wait()
            found = sorted(lags.found())
            return {
                "lag_p50_ms": 1000 * at_share(found, 0.5),
                "lag_p99_ms": 1000 * at_share(found, 0.99),
                "lag_max_ms": 1000 * found[-1],
            }


def _pieces(entries: list[Prepared], size: int) -> Iterator[list[Prepared]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


class _Lags:
    """Watches a store whose projections follow it: when each event was committed, and when all projections had taken it in."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._committed: list[tuple[int, float, int]] = []
        """Last position, when, and how many events, of each piece."""
        self._seen: list[tuple[int, float]] = []
        self._watching = threading.Thread(target=self._watch)
        self._ended = threading.Event()
        self.last: Future[list[Outcome]] = Future()

    def __enter__(self) -> _Lags:
        self._store.start_projections()
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watching.join()

    def submit(self, piece: list[Prepared]) -> None:
        """Append a piece; its commit is noted when it comes."""
        self.last = self._store.submit_patiently([*piece])
        self.last.add_done_callback(self._note)

    def _note(self, future: Future[list[Outcome]]) -> None:
        outcomes = future.result()
        self._committed.append((outcomes[-1].position or 0, time.perf_counter(), len(outcomes)))

    def _watch(self) -> None:
        while not self._ended.is_set():
            position = self._store.runner.position()
            if not self._seen or position > self._seen[-1][0]:
                self._seen.append((position, time.perf_counter()))
            time.sleep(LOOK_SECONDS)

    def present(self) -> float:
        """The age, since its commit, of the oldest event not yet taken in."""
        position = self._seen[-1][0] if self._seen else 0
        first = bisect_left(self._committed, (position + 1, 0.0, 0))
        return time.perf_counter() - self._committed[first][1] if first < len(self._committed) else 0.0

    def wait(self) -> None:
        """Wait until all that was submitted is taken in, without hurrying the projections."""
        self.last.result()
        deadline = time.perf_counter() + PATIENCE
        while not self._seen or self._seen[-1][0] < self._committed[-1][0]:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"the projections are not at position {self._committed[-1][0]} within {PATIENCE} s")
            time.sleep(LOOK_SECONDS)

    def found(self) -> list[float]:
        """Of each event for how long it was committed and not taken in, in seconds."""
        lags = []
        seen = iter(self._seen)
        position, at = next(seen)
        for last, committed, count in self._committed:
            while position < last:
                position, at = next(seen)
            lags += [max(0.0, at - committed)] * count
        return lags


BENCHMARK = Benchmark(
    name="live",
    about="Events appended and taken into the projections by the same process, as a server does: how many a second while no "
    "event waits for more than a second, and for how long one waits at a steady thousand a second.",
    peer="the same store appending the same events with nobody following",
    events=20_000,
    rounds=3,
    figures=(
        Described("sustained_per_second", "events/s", "appended and taken in, held back where the lag nears a second"),
        Described("sustained_lag_max_ms", "ms", "the longest lag of any event meanwhile, of all rounds"),
        Described("vs_append_alone", "x", "that rate over the rate of appending alone"),
        Described("append_alone_per_second", "events/s", f"appended in pieces of {PIECE}, nobody following"),
        Described("lag_p50_ms", "ms", f"at {PACE:,} events/s: from an event's commit until all projections have it"),
        Described("lag_p99_ms", "ms", "the same, of one event in a hundred longer than this"),
        Described("lag_max_ms", "ms", "the same, the longest"),
    ),
    run=run,
)
