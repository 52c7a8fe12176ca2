"""`handlers`: events a second through handlers that do nothing, and how soon after its commit an event is in one."""

from __future__ import annotations

import threading
import time

from eventstore.handlers import CouponEvent, Handlers
from eventstore.log.engine import make_engine
from eventstore.log.reader import stream
from eventstore.store import EventStore
from tests.benchmarks.append_entries import EntrySource
from tests.benchmarks.handlers_peers import measure_eventsourcing
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    Stores,
    at_share,
    in_child,
    interleaved,
    medians,
    note,
    seconds,
    stores,
)

PACE = 500
"""Events a second at which the latency is measured."""
TICK_SECONDS = 0.01
PEER_EVENTS = 5_000
"""Events that eventsourcing is given at most: at its rate more would take minutes."""
LATENCY_SECONDS = 10.0
WARM_UP = 200
PATIENCE = 120.0


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with stores(options) as fresh:
        bench = _Bench(fresh, options.events or BENCHMARK.events)
        samples = interleaved(
            options.rounds or BENCHMARK.rounds, bench.read, bench.plain, bench.asynchronous, bench.peer, bench.latency
        )
    figures = medians(
        samples,
        vs_log_read=("events_per_second", "log_read_events_per_second"),
        vs_eventsourcing=("events_per_second", "eventsourcing_events_per_second"),
    )
    return BENCHMARK.result(
        figures,
        f"{bench.count:,} events of {bench.coupons:,} coupons; eventsourcing was given the first {bench.peer_count:,}.",
    )


class _Bench:
    def __init__(self, fresh: Stores, count: int) -> None:
        self.count = count
        self.peer_count = min(count, PEER_EVENTS)
        self._fresh = fresh
        self._rounds = 0
        note(f"making {count:,} events")
        source = EntrySource(templates=min(count, 2_000))
        self._url = fresh.fresh()
        coupons: set[str | None] = set()
        with EventStore.open(self._url) as store:
            for start in range(0, count, 5_000):
                entries = source.take(min(5_000, count - start))
                coupons.update(each.coupon_id for each in entries)
                store.submit_patiently([*entries]).result()
        self.coupons = len(coupons)
        self._paced = source.take(int(min(PACE * LATENCY_SECONDS, count)) + WARM_UP)

    def read(self) -> Sample:
        """The log read as a program would, event after event, none decoded."""
        return {"log_read_events_per_second": self.count / in_child(_read, self._url)}

    def plain(self) -> Sample:
        """Through a plain handler."""
        return {"events_per_second": self.count / in_child(_handle, self._url, self._name("plain"), False)}

    def asynchronous(self) -> Sample:
        """Through an async handler."""
        return {"async_events_per_second": self.count / in_child(_handle, self._url, self._name("async"), True)}

    def peer(self) -> Sample:
        """Through eventsourcing's runner."""
        url = self._fresh.empty()
        try:
            return in_child(measure_eventsourcing, self._url, url, self.peer_count)
        finally:
            self._fresh.discard(url)

    def latency(self) -> Sample:
        """From the commit of each event to its handler's first line, at a steady pace."""
        url = self._fresh.fresh()
        entered: dict[int, float] = {}
        committed: dict[int, float] = {}
        handlers = Handlers()

        @handlers.on("*")
        def note_time(event: CouponEvent) -> None:
            entered[event.position] = time.perf_counter()

        try:
            with EventStore.open(url) as store:
                runner = store.handlers.runner(list(handlers), begin="beginning")
                runner.start()
                store.submit_patiently([*self._paced[:WARM_UP]]).result()
                _wait(lambda: len(entered) == WARM_UP)
                piece = round(PACE * TICK_SECONDS)
                timed = self._paced[WARM_UP:]
                started = time.perf_counter()
                for number, start in enumerate(range(0, len(timed), piece)):
                    time.sleep(max(0.0, started + number * TICK_SECONDS - time.perf_counter()))
                    future = store.submit_patiently([*timed[start : start + piece]])
                    # Acknowledged when the future is done, which is noted in the writer's thread at once.
                    future.add_done_callback(
                        lambda done: committed.update(
                            (each.position or 0, time.perf_counter()) for each in done.result()
                        )
                    )
                _wait(lambda: len(entered) == len(self._paced))
                runner.stop()
        finally:
            self._fresh.discard(url)
        lags = sorted(max(0.0, entered[position] - at) for position, at in committed.items())
        return {"p50_ms": 1000 * at_share(lags, 0.5), "p99_ms": 1000 * at_share(lags, 0.99)}

    def _name(self, kind: str) -> str:
        self._rounds += 1
        return f"{kind}-{self._rounds}"


def _read(url: str) -> float:
    engine = make_engine(url)
    try:
        return seconds(lambda: sum(1 for _ in stream(engine)))
    finally:
        engine.dispose()


def _handle(url: str, name: str, asynchronous: bool) -> float:
    handlers = Handlers()
    if asynchronous:

        @handlers.on("*", name="nothing")
        async def nothing_async(event: CouponEvent) -> None:
            pass
    else:

        @handlers.on("*", name="nothing")
        def nothing(event: CouponEvent) -> None:
            pass

    with EventStore.open(url) as store:
        runner = store.handlers.runner(list(handlers), name=name, begin="beginning")
        took = seconds(lambda: runner.run(once=True))
        [status] = store.handlers.status(name)
        if status.handled != store.head():
            raise AssertionError(f"{status.handled} events were handled of {store.head()}")
    return took


def _wait(condition: object) -> None:
    assert callable(condition)
    deadline = time.perf_counter() + PATIENCE
    waiting = threading.Event()
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"not every event was handled within {PATIENCE:g} s")
        waiting.wait(0.005)


BENCHMARK = Benchmark(
    name="handlers",
    about="Events a second from the log through a handler that does nothing, plain and async, each event once and each coupon's "
    "in order; and how long after its commit an event is in its handler.",
    peer="the log read by itself, and eventsourcing's projection runner with a function that does nothing, on the same events",
    events=100_000,
    rounds=3,
    figures=(
        Described("events_per_second", "events/s", "through a plain handler"),
        Described("async_events_per_second", "events/s", "through an async handler"),
        Described("log_read_events_per_second", "events/s", "the log read, nothing called"),
        Described("vs_log_read", "x", "events_per_second over it"),
        Described("eventsourcing_events_per_second", "events/s", "through eventsourcing's projection runner"),
        Described("vs_eventsourcing", "x", "events_per_second over it", Goal(10)),
        Described("p50_ms", "ms", f"from commit to handler at {PACE} events/s, half of the events"),
        Described("p99_ms", "ms", "and 99 of 100", Goal(250, at_most=True)),
    ),
    run=run,
)
