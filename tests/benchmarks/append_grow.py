"""`append --grow`: whether a log of millions is appended to and read as fast as a small one.

One store grows. When it is small it is copied; when it has grown, the copy and it are measured in turn, for an hour later the
machine may be another. What lies between is filled in with entries of the same kind, as fast as the writer takes them.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import closing

from eventstore.errors import InputError
from eventstore.log.records import Prepared
from eventstore.store import EventStore
from tests.benchmarks.append_entries import PIECE, EntrySource, append_pieces
from tests.benchmarks.append_peers import require_all
from tests.benchmarks.harness import (
    POSTGRESQL,
    SQLITE,
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
    seconds,
    stores,
)

SMALLEST, MIDDLE = 50, 5
"""The smallest and the middle size are the largest by so much: 100,000 and 1,000,000 of 5,000,000."""
SAMPLE_EVENTS = 20_000
"""Events in a sample: enough for a checkpoint to fall into each of them."""
READ_SPANS = 10
"""Places, spread evenly over the log, from which a sample of reading reads in turn."""
COUPON_READS = 300
"""Coupons whose events a sample reads, and how many events of each."""
COUPON_EVENTS = 20
FAVOURITES = 100
"""The coupons that are read are among so many most used ones: each has COUPON_EVENTS in the smallest log too."""
DISK_BYTES = {SQLITE: 2_400, POSTGRESQL: 3_000}
"""Disk that an event takes at most, with its share of the indexes and of the write-ahead log."""
FILL_PIECES = 10
"""Pieces of entries made before they are appended."""
TELL_EVERY = 100_000
"""Events between two notes of progress."""
GIGABYTE = 10**9


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    largest = options.events or BENCHMARK.events
    samples = options.rounds or BENCHMARK.rounds
    with stores(options) as fresh:
        _require_room(fresh, largest, options.engine)
        return _Growth(fresh, largest, samples).measure()


def _require_room(fresh: Stores, events: int, engine: str) -> None:
    needed = events * DISK_BYTES[engine] * (1 + 2 / SMALLEST)
    free = shutil.disk_usage(fresh.directory).free
    if free < needed:
        raise InputError(
            f"{events:,} events take {needed / GIGABYTE:.1f} GB of disk, and {fresh.directory.parent} has "
            f"{free / GIGABYTE:.1f} GB: give fewer --events, or another --directory"
        )


class _Growth:
    """A store that grows, and the entries that it grows by."""

    def __init__(self, fresh: Stores, largest: int, samples: int) -> None:
        self._fresh = fresh
        self._samples = samples
        self._largest = largest
        self._smallest = max(1, largest // SMALLEST)
        self._middle = max(1, largest // MIDDLE)
        self._sample_events = max(1, min(SAMPLE_EVENTS, self._smallest // samples))
        self._source = EntrySource()
        self._favourites = self._source.favourites(FAVOURITES)
        self._rng = random.Random(1)

    def measure(self) -> Result:
        """Fill, copy, fill on, measure both."""
        start = time.perf_counter()
        url = self._fresh.fresh()
        self._fill(url, self._smallest)
        small = self._fresh.copy(url)
        self._fill(url, self._middle)
        with EventStore.open(url) as store:
            values = medians([self._sample(store, "middle") for _ in range(self._samples)])
        self._fill(url, self._largest)
        with closing(EventStore.open(url)) as store, closing(EventStore.open(small)) as small_store:
            pairs = interleaved(
                self._samples,
                lambda: self._sample(small_store, "smallest"),
                lambda: self._sample(store, "largest"),
            )
            ended = store.head()
        values |= medians(
            pairs,
            append_slowdown=("append_at_largest_per_second", "append_at_smallest_per_second"),
            read_slowdown=("read_at_largest_per_second", "read_at_smallest_per_second"),
            coupon_read_slowdown=("coupon_reads_at_largest_per_second", "coupon_reads_at_smallest_per_second"),
        )
        notes = (
            f"smallest {self._smallest:,}, middle {self._middle:,}, largest {self._largest:,} events, {ended:,} in the end, in "
            f"{(time.perf_counter() - start) / 60:.1f} minutes; {self._samples} samples of {self._sample_events:,} events at "
            "each size.\nWhat is read has been written in this run: it comes from the operating system's memory where that is "
            "larger than the store, and from the disk where it is not."
        )
        self._fresh.discard(url)
        self._fresh.discard(small)
        return BENCHMARK.result(values, notes)

    def _fill(self, url: str, size: int) -> None:
        """Bring the store to where its samples lie around `size`."""
        target = size - self._samples * self._sample_events // 2
        with EventStore.open(url) as store:
            start, held = time.perf_counter(), store.head()
            told = before = held
            while held < target:
                count = min(FILL_PIECES * PIECE, target - held)
                append_pieces(store, self._pieces(count))
                held += count
                if held - told >= TELL_EVERY or held == target:
                    told = held
                    rate = (held - before) / (time.perf_counter() - start)
                    note(f"filling the log: {held:,} of {target:,}, {rate:,.0f}/s")

    def _pieces(self, count: int) -> Iterator[list[Prepared]]:
        for start in range(0, count, PIECE):
            yield self._source.take(min(PIECE, count - start))

    def _sample(self, store: EventStore, size: str) -> Sample:
        """The three rates at the store's present size."""
        pieces = list(self._pieces(self._sample_events))
        span = max(1, self._sample_events // READ_SPANS)
        append = seconds(lambda: append_pieces(store, pieces))
        return {
            f"append_at_{size}_per_second": self._sample_events / append,
            f"read_at_{size}_per_second": span * READ_SPANS / seconds(lambda: self._read(store, span)),
            f"coupon_reads_at_{size}_per_second": COUPON_READS / seconds(lambda: self._read_coupons(store)),
        }

    def _read(self, store: EventStore, span: int) -> None:
        """Read runs of `span` events from READ_SPANS places all over the log."""
        last = store.head() - span
        for number in range(READ_SPANS):
            after = last * number // (READ_SPANS - 1)
            require_all(sum(1 for _ in store.stream(after=after, until=after + span)), span)

    def _read_coupons(self, store: EventStore) -> None:
        """Read the next events of well-used coupons from some point in the log's first half on."""
        head = store.head()
        for _ in range(COUPON_READS):
            site_id, coupon_id = self._rng.choice(self._favourites)
            after = self._rng.randrange(head // 2 + 1)
            store.read(after=after, limit=COUPON_EVENTS, site_id=site_id, coupon_id=coupon_id)


_SIZES = {
    "smallest": f"a {SMALLEST}th of the events",
    "middle": f"a {MIDDLE}th of them",
    "largest": "all of them",
}

BENCHMARK = Benchmark(
    name="append --grow",
    about="one store that grows to millions of events, with random UUIDs as ids: the writer's rate, given prepared entries, and "
    "the readers', at a 50th, a 5th and all of --events",
    peer="the same store as it was when it was small, kept as a copy and measured in turn with the grown one",
    events=5_000_000,
    rounds=5,
    figures=(
        Described("append_slowdown", "x", "append rate at the largest size over that at the smallest", Goal(0.8)),
        Described("read_slowdown", "x", "the same of reading runs of events from all over the log", Goal(0.8)),
        Described("coupon_read_slowdown", "x", f"the same of reading {COUPON_EVENTS} events of a coupon"),
        *(
            Described(f"append_at_{name}_per_second", "events/s", f"appended at {told}")
            for name, told in _SIZES.items()
        ),
        *(Described(f"read_at_{name}_per_second", "events/s", f"read at {told}") for name, told in _SIZES.items()),
        *(Described(f"coupon_reads_at_{name}_per_second", "coupons/s", f"at {told}") for name, told in _SIZES.items()),
    ),
    run=run,
)
