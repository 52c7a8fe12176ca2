"""Whole files into a store: by several processes or by one, cut short in every way, and run again."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eventstore.bulk import IngestProgress
from eventstore.cli.main import EXIT_UNAVAILABLE
from eventstore.demo import documented
from eventstore.errors import InputError, StoreUnavailable
from eventstore.ingest import LineAnswer, Route, SiteRule, append_chunks
from eventstore.lines import Deliveries
from eventstore.readers import HERE_BYTES, Job, Readers, read_pieces
from eventstore.store import EventStore
from tests.commands import Command
from tests.conftest import OpenStore
from tests.serving import (
    APPLIED,
    CREATED,
    PATIENCE,
    ROOT,
    applied,
    command,
    created,
    environment,
    fixture,
    interruptible,
    one_line,
    wrapped,
)
from tests.stores import NewUrl

LARGE = 4_500
"""Documented deliveries of which a file is large enough for readers: 13 MB."""
MIXED = [
    b"",
    b"nope",
    b"{}",
    b'{"metadata": {}}',
    b'{"coupons": []}',
    json.dumps(wrapped("onNothing", created("e-0"))).encode(),
    b"[" * 200,
    b'{"x": "' + b"y" * 300_000 + b'"}',
]


reading = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
"""For what happens to a file before any store is asked, and is dear: on one engine."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of LARGE deliveries, each of another event."""
    path = tmp_path_factory.mktemp("bulk") / "large.ndjson"
    path.write_bytes(b"".join(delivery.line() for delivery in documented(LARGE)))
    assert path.stat().st_size > HERE_BYTES
    return path


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with Readers(2) as pool:
        yield pool


def answers(store: EventStore, path: Path, pool: Readers | None, limit: int = 100_000) -> list[LineAnswer]:
    """What each line of the file was answered, read by the pool or here."""
    with path.open("rb") as stream:
        job = Job(Route(), SiteRule("mine"), limit, chunk_lines=100)
        chunks = read_pieces(Deliveries(stream, path.name).pieces(), job, pool, here_bytes=0)
        return [answer for chunk in append_chunks(chunks, store.submit_patiently) for answer in chunk.answers()]


def told(found: list[LineAnswer]) -> list[tuple[Any, ...]]:
    """Answers, so that they can be compared: two errors are never equal, and a database may leave out numbers for evidence."""
    return [
        (
            each.line,
            [outcome._replace(quarantine_id=outcome.quarantine_id and 1) for outcome in each.outcomes],
            type(each.error),
            str(each.error),
        )
        for each in found
    ]


def contents(store: EventStore) -> tuple[list[tuple[int, str]], list[tuple[Any, ...]]]:
    """The log, and what was kept in quarantine, in the order in which it was."""
    kept = store.list_quarantined(limit=10_000)
    return (
        [(record.position, record.payload) for record in store.stream()],
        [(entry.kind, entry.event_id, entry.position, entry.reason, entry.size) for entry in kept],
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_file_of_anything_has_the_same_answers_and_makes_the_same_log_whoever_reads_it(
    new_store: OpenStore, readers: Readers, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    # Some are told twice, and of those some differently.
    orders = [number if number % 10 == 0 else number % 700 for number in range(900)]
    lines = [
        json.dumps(wrapped(APPLIED, applied(f"e-{number % 700}", f"o-{order}"))).encode()
        for number, order in enumerate(orders)
    ]
    lines += rng.choices(MIXED, k=200)
    rng.shuffle(lines)
    path = tmp_path / "mixed.ndjson"
    path.write_bytes(b"\n".join(lines))
    with new_store() as alone, new_store() as shared:
        found = answers(alone, path, None)
        assert told(answers(shared, path, readers)) == told(found)
        assert contents(shared) == contents(alone)
        assert [each.line for each in found] == [number for number, line in enumerate(lines, 1) if line]
        assert {each.outcome for each in found} == {
            "appended", "duplicate", "conflict", "quarantined", "refused", "empty"
        }  # fmt: skip
        # And again: nothing is appended, whoever reads.
        head = alone.head()
        assert told(answers(shared, path, None)) == told(answers(alone, path, readers))
        assert alone.head() == shared.head() == head


def test_a_large_file_is_appended_once_in_its_order_and_a_second_run_appends_nothing(
    eventstore: Command, large: Path
) -> None:
    first = eventstore.json("ingest", str(large), "--readers", "2")
    assert first == {"lines": LARGE, "events": {"appended": LARGE}, "head": LARGE, "problems": []}
    again = eventstore.json("ingest", str(large), "--readers", "2")
    assert again == {"lines": LARGE, "events": {"duplicate": LARGE}, "head": LARGE, "problems": []}
    with EventStore.open(eventstore.url) as store:
        expected = [delivery.event_id for delivery in documented(LARGE)]
        assert [record.event.event_id for record in store.stream()] == expected


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def twice(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Packed in two parts behind each other, the border somewhere in a line."""
    return lambda content: pack(content[: len(content) // 3]) + pack(content[len(content) // 3 :])


@reading
@pytest.mark.parametrize(
    "pack", [gzip.compress, zstd, twice(gzip.compress), twice(zstd)], ids=["gz", "zst", "gz2", "zst2"]
)
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_compressed_files_are_read_whatever_they_are_called(
    eventstore: Command, tmp_path: Path, pack: Callable[[bytes], bytes], way: str
) -> None:
    text = b"".join(delivery.line() for delivery in documented(50)) + b"nope\n"
    path = tmp_path / "deliveries.txt"
    path.write_bytes(pack(text))
    given = {"given": path.read_bytes()} if way == "stdin" else {}
    found = eventstore.json("ingest", "-" if way == "stdin" else str(path), status=1, **given)
    assert found["events"] == {"appended": 50, "refused": 1}
    assert found["problems"][0]["line"] == 51


@reading
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gz", "zst"])
def test_of_a_file_that_is_cut_short_the_good_part_is_taken_and_the_whole_one_completes_it(
    eventstore: Command, large: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(large.read_bytes())
    short = tmp_path / "short"
    short.write_bytes(packed[: len(packed) * 9 // 10])
    said = eventstore.refused("ingest", str(short), "--readers", "2", status=1)
    assert f"{short} cannot be decompressed" in said
    assert "is it cut short?" in said
    with EventStore.open(eventstore.url) as store:
        head = store.head()
    assert LARGE // 2 < head < LARGE
    assert f"The {head:,} lines before that were taken" in said
    short.write_bytes(packed)
    assert eventstore.json("ingest", str(short))["events"] == {"duplicate": head, "appended": LARGE - head}


def test_what_is_compressed_and_wrong_from_the_start_is_an_error_and_appends_nothing(eventstore: Command) -> None:
    for wrong in (gzip.compress(b"{}")[:15], zstd(b"{}")[:9], b"PK\x03\x04zip", b"\x1f\x8bgarbage"):
        eventstore.refused("ingest", "-", given=wrong, status=1)
    assert eventstore.json("status")["events"] == 0


def test_a_line_over_the_limit_is_refused_alone(store: EventStore, tmp_path: Path) -> None:
    def line(number: int) -> bytes:
        return json.dumps(wrapped(CREATED, created(f"e-{number}"))).encode()

    path = tmp_path / "long.ndjson"
    with path.open("wb") as out:
        out.write(line(1) + b"\n" + b'{"x": "')
        for _ in range(65):
            out.write(b"y" * 1024 * 1024)
        out.write(b'"}\n' + line(2) + b"\n")
    problems: list[LineAnswer] = []
    summary = store.ingest_file(path, on_problem=problems.append)
    assert (summary.lines, summary.counts) == (3, {"appended": 2, "refused": 1})
    [refused] = problems
    assert (refused.line, str(refused.error)) == (2, f"the line is over the limit of {64 * 1024 * 1024} bytes")


@reading
def test_progress_is_told_in_bytes_and_lines_and_ends_at_the_whole(
    store: EventStore, large: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "large.gz"
    packed.write_bytes(gzip.compress(large.read_bytes(), 1))
    for path in (large, packed):
        steps: list[IngestProgress] = []
        store.ingest_file(path, on_progress=steps.append, readers=2)
        assert [step.lines for step in steps] == sorted(step.lines for step in steps)
        assert [step.bytes_read for step in steps] == sorted(step.bytes_read for step in steps)
        assert {step.bytes_total for step in steps} == {path.stat().st_size}
        assert (steps[-1].lines, steps[-1].bytes_read) == (LARGE, path.stat().st_size)
        assert len(steps) >= LARGE / 500


def test_a_file_that_is_not_there_is_an_error_by_name(store: EventStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.ndjson cannot be read: No such file"):
        store.ingest_file(tmp_path / "none.ndjson")


# Processes that die


def ingesting(url: str, path: Path, cwd: Path, **streams: Any) -> subprocess.Popen[bytes]:
    """`eventstore ingest` in a process of its own, and in a session of its own, as from a terminal."""
    with interruptible():
        return subprocess.Popen(
            command("--store", url, "ingest", str(path), "--readers", "2", "--json"),
            cwd=cwd,
            env=environment(),
            start_new_session=True,
            **streams,
        )


def reading_for(parent: int) -> list[int]:
    """The processes that read for this one, by the system's own account."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
            told = entry.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == parent and fields[0] != "Z" and b"eventstore.readers" in told:
            found.append(int(entry.parent.name))
    return found


def until(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, "the file was taken before anything could happen to it"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def require_gone(ids: list[int]) -> None:
    """Wait until the processes have ended."""
    deadline = time.monotonic() + PATIENCE
    for process_id in ids:
        while Path(f"/proc/{process_id}").exists() and "\nState:\tZ" not in _status(process_id):
            assert time.monotonic() < deadline, f"the reader {process_id} outlives its parent"
            time.sleep(0.05)


def _status(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return "\nState:\tZ"


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@linux
@pytest.mark.parametrize(
    ("dialect", "by"),
    [
        pytest.param("sqlite", signal.SIGKILL, id="sqlite-SIGKILL"),
        pytest.param("sqlite", signal.SIGINT, id="sqlite-SIGINT"),
        pytest.param("postgresql", signal.SIGTERM, id="postgresql-SIGTERM"),
    ],
    indirect=["dialect"],
)
def test_an_ingestion_ended_in_mid_file_leaves_no_process_and_a_second_run_completes_it(
    store_url: str, eventstore: Command, large: Path, tmp_path: Path, by: signal.Signals
) -> None:
    process = ingesting(store_url, large, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with EventStore.open(store_url) as store:
        until(process, lambda: len(reading_for(process.pid)) == 2 and store.head() > 0)
        ids = reading_for(process.pid)
        # Ctrl-C is told to all that a terminal has started.
        (os.killpg if by is signal.SIGINT else os.kill)(process.pid, by)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert b"Traceback" not in said
        require_gone(ids)
        head = store.head()
        assert 0 < head < LARGE
    found = eventstore.json("ingest", str(large), "--readers", "2")
    assert found["events"] == {"duplicate": head, "appended": LARGE - head}
    with EventStore.open(store_url) as store:
        events = [record.event.event_id for record in store.stream()]
    assert sorted(events) == sorted(str(delivery.event_id) for delivery in documented(LARGE))


@reading
@linux
def test_a_killed_reader_ends_the_run_with_a_clear_error_and_a_second_run_completes_it(
    store_url: str, eventstore: Command, large: Path, tmp_path: Path
) -> None:
    process = ingesting(store_url, large, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(process, lambda: len(reading_for(process.pid)) == 2)
    ids = reading_for(process.pid)
    os.kill(ids[0], signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    [line] = said.decode().splitlines()
    assert process.returncode == EXIT_UNAVAILABLE
    assert f"error: {large}: stopped after" in line
    assert "killed by SIGKILL" in line
    assert "run it again, what is in is not appended twice" in line
    require_gone(ids)
    counts = eventstore.json("ingest", str(large))["events"]
    assert sum(counts.values()) == LARGE
    assert set(counts) <= {"appended", "duplicate"}
    assert eventstore.json("status")["events"] == LARGE


@linux
def test_a_library_caller_whose_reader_is_lost_is_told_how_far_it_came(
    store: EventStore, large: Path, tmp_path: Path
) -> None:
    # So large that its readers are far from the end when the first lines are answered.
    file = tmp_path / "large.ndjson"
    file.write_bytes(large.read_bytes() * 4)
    others = set(reading_for(os.getpid()))

    def lose(_step: IngestProgress) -> None:
        for process_id in set(reading_for(os.getpid())) - others:
            with contextlib.suppress(ProcessLookupError):  # it has just read its last
                os.kill(process_id, signal.SIGKILL)

    with pytest.raises(StoreUnavailable, match=r"large.ndjson: stopped after \d+ answered lines: .*killed by SIGKILL"):
        store.ingest_file(file, readers=2, on_progress=lose)
    assert 0 < store.head() <= LARGE
    assert set(reading_for(os.getpid())) <= others


def test_coupons_are_imported_from_a_compressed_file_and_a_line_that_is_too_long_refused_alone(
    eventstore: Command, tmp_path: Path
) -> None:
    page = one_line(fixture("snapshot_query_coupons.json"))
    path = tmp_path / "coupons"
    path.write_bytes(gzip.compress(page + b"x" * (65 * 1024 * 1024) + b"\n" + page))
    found = eventstore.json("import-coupons", str(path), status=1)
    assert found["events"] == {"appended": 2, "duplicate": 2, "refused": 1}
    [problem] = found["problems"]
    assert (problem["line"], problem["outcome"]) == (2, "refused")
    assert "over the limit" in problem["reason"]


# Memory

PEAK = """
import resource, sys
from eventstore.store import EventStore
with EventStore.open(sys.argv[1]) as store:
    summary = store.ingest_file(sys.stdin.buffer, readers=2)
print(summary.lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mb(url: str, blocks: Iterator[bytes]) -> tuple[int, int]:
    """`(lines taken, peak memory in MB)` of a process that ingests these blocks from its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", PEAK, url], cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    for block in blocks:
        process.stdin.write(block)
    out, _ = process.communicate(timeout=10 * PATIENCE)
    assert process.returncode == 0
    lines, memory = out.split()
    return int(lines), int(memory)


@reading
def test_memory_does_not_grow_with_the_file(new_url: NewUrl) -> None:
    # Half the lines are refused, and half are told again of what the log holds: each takes the whole road, through the
    # writer and to its answer, but for the log itself, which takes time.
    refused = b'{"route": "pigeon", "body": {"x": "' + b"y" * 5_000 + b'"}}\n'
    known = json.dumps(wrapped(CREATED, {**created("e-1"), "padding": "y" * 5_000})).encode() + b"\n"
    block = (refused + known) * 100
    with new_url() as url:
        with EventStore.open(url) as store:
            assert store.ingest([(1, known)]).counts == {"appended": 1}
        small_lines, small = peak_mb(url, (block for _ in range(20)))
        large_lines, large_mb = peak_mb(url, (block for _ in range(150)))
    assert (small_lines, large_lines) == (20 * 200, 150 * 200)
    assert large_mb < small + 60, f"{large_mb} MB for 150 MB, {small} MB for 20 MB"


# What people see


def test_a_terminal_shows_how_far_a_file_is(path: Path, large: Path, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    process = ingesting(str(path), large, tmp_path, stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    shown = b""
    try:
        while block := os.read(parent, 65_536):
            shown += block
    except OSError:
        pass  # how Linux tells that nobody holds the other end any more
    assert process.wait(PATIENCE) == 0
    os.close(parent)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    size = large.stat().st_size / 1e6
    assert re.search(rf"large.ndjson .* [0-9.]+/{size:.1f} MB [0-9,]+ lines, [0-9,]+/s [0-9:-]+", text), text
    assert f"{LARGE:,}/{LARGE:,} events" in text
