"""`bulk`: a file of deliveries into the log, end to end, read by several processes or by this one alone."""

from __future__ import annotations

import gzip
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import enumerate as threads

import pyarrow as pa

from eventstore.bulk import ingest_file
from eventstore.demo import documented
from eventstore.ingest import Route, SiteRule
from eventstore.readers import readers_for, usable_cores
from eventstore.store import EventStore
from tests.benchmarks.harness import (
    REAL_DISK,
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    Stores,
    in_child,
    interleaved,
    medians,
    note,
    peak_memory_mb,
    seconds,
    stores,
)

LARGER = 8
"""How many times a round's deliveries the file holds whose memory is measured: 440 MB unless told otherwise."""
READERS = max(1, readers_for(usable_cores()))
WRITER = "eventstore-writer"
"""The name of the thread that writes."""


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = options.events or BENCHMARK.events
    with stores(options) as fresh, TemporaryDirectory(dir=options.directory or REAL_DISK) as folder:
        note(f"preparing {count:,} deliveries, {READERS} readers")
        plain = _file(Path(folder) / "plain", count)
        gzipped = _packed(plain, "gzip")
        zstd = _packed(plain, "zstd")
        samples = interleaved(
            options.rounds or BENCHMARK.rounds,
            lambda: _measure(fresh, plain, count),
            lambda: {"deliveries_per_second_gzip": _rate(fresh, gzipped, count)},
            lambda: {"deliveries_per_second_zstd": _rate(fresh, zstd, count)},
            lambda: {"one_process_per_second": _rate(fresh, plain, count, 0)},
        )
        note(f"preparing {LARGER * count:,} deliveries")
        large = _file(Path(folder) / "large", LARGER * count)
        url = fresh.fresh()
        memory = in_child(_peak, url, large, LARGER * count)
        fresh.discard(url)
    values = medians(samples, vs_one_process=("deliveries_per_second", "one_process_per_second"))
    return BENCHMARK.result(values | {"peak_memory_mb": memory})


def _file(path: Path, count: int) -> Path:
    with path.open("wb") as out:
        out.writelines(delivery.line() for delivery in documented(count))
    return path


def _packed(path: Path, encoding: str) -> Path:
    packed = path.with_name(encoding)
    with path.open("rb") as content:
        if encoding == "gzip":
            with gzip.open(packed, "wb", compresslevel=6) as out:
                shutil.copyfileobj(content, out)
        else:
            with pa.CompressedOutputStream(str(packed), encoding) as stream:
                shutil.copyfileobj(content, stream)
    return packed


def _measure(fresh: Stores, path: Path, count: int) -> Sample:
    """A first run and a second one of the same file, and where the first one's processor time went."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        own, readers = time.process_time(), _children()
        took = seconds(lambda: _ingest(store, path, READERS, count))
        writing = sum(_cpu(thread.ident) for thread in threads() if thread.name == WRITER)
        own, readers = time.process_time() - own, _children() - readers
        again = seconds(lambda: _ingest(store, path, READERS, count))
    fresh.discard(url)
    total = own + readers
    return {
        "deliveries_per_second": count / took,
        "repeated_per_second": count / again,
        "cores_busy": total / took,
        "share_reading": readers / total,
        "share_handing_over": (own - writing) / total,
        "share_writing": writing / total,
    }


def _rate(fresh: Stores, path: Path, count: int, readers: int = READERS) -> float:
    """Deliveries a second until the last is durable."""
    url = fresh.fresh()
    with EventStore.open(url) as store:
        took = seconds(lambda: _ingest(store, path, readers, count))
    fresh.discard(url)
    return count / took


def _ingest(store: EventStore, path: Path, readers: int, count: int) -> None:
    # All by the readers: how the first bytes are read makes no difference in a file that is large.
    summary = ingest_file(
        path, Route(), SiteRule(store.default_site), store.submit_patiently, readers=readers, here_bytes=0
    )
    if (summary.lines, sum(summary.counts.values()), store.head()) != (count, count, count):
        raise AssertionError(f"{summary.counts} of {count} deliveries, and {store.head()} events")


def _peak(url: str, path: Path, count: int) -> float:
    with EventStore.open(url) as store:
        _ingest(store, path, READERS, count)
    return peak_memory_mb()


def _children() -> float:
    """Seconds of processor time that ended child processes have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu(thread: int | None) -> float:
    """Seconds of processor time that a thread has taken."""
    assert thread is not None
    clock: Callable[[int], int] = time.pthread_getcpuclockid
    return time.clock_gettime(clock(thread))


BENCHMARK = Benchmark(
    name="bulk",
    about="a file of REST deliveries of about 1.1 kB into an empty log, from its bytes until the last event is durable: read, "
    "hashed and compressed in reading processes, written by this one; projections are not part of it",
    peer="the same code without readers: one process reads and writes, in two threads",
    events=50_000,
    rounds=3,
    figures=(
        Described("deliveries_per_second", "deliveries/s", "the whole road, with readers, their start included"),
        Described("one_process_per_second", "deliveries/s", "the peer"),
        Described("vs_one_process", "x", "deliveries_per_second over the peer", Goal(1.5)),
        Described("repeated_per_second", "deliveries/s", "a second run of the same file: all are duplicates"),
        Described("deliveries_per_second_gzip", "deliveries/s", "the same file, compressed with gzip at level 6"),
        Described("deliveries_per_second_zstd", "deliveries/s", "the same, compressed with zstd"),
        Described("cores_busy", "cores", "processor time of all processes over the time it took"),
        Described("share_reading", "of CPU", "JSON to event, encode, hash, compress: the readers' part of that time"),
        Described(
            "share_handing_over", "of CPU", "cutting the file, pipes, unpacking, answers: this process's but the writer"
        ),
        Described("share_writing", "of CPU", "duplicates, leaf hashes, inserts, commits: the writer's thread"),
        Described("peak_memory_mb", "MB", f"of the parent, for a file {LARGER} times as long", Goal(300, at_most=True)),
    ),
    run=run,
)
