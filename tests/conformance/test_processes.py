"""Several processes on one log: each is told the truth, and one that is killed leaves nothing half done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from eventstore.log.records import Prepared, Rejected, prepare
from eventstore.store import EventStore
from tests.conformance.events import event
from tests.tailing import Process, write

PROCESSES = 3
EACH = 300
PIECE = 25
KILLED_PIECE = 200
KILLS = 4


def tell(url: str, told: Connection, output: TextIO, site: str, number: int) -> None:
    """Append, piece by piece, events of which every third is told by all the processes, and write down each answer."""
    with EventStore.open(url, create=False) as log:
        told.send("ready")
        told.recv()
        for first in range(0, EACH, PIECE):
            indices = range(first, first + PIECE)
            entries: list[Prepared | Rejected] = [
                prepare(event(index if index % 3 == 0 else (number + 1) * 10_000 + index, site)) for index in indices
            ]
            for outcome in log.submit(entries).result():
                output.write(f"{outcome.position} {outcome.event_id}/{outcome.kind}\n")


@contextmanager
def at_work(folder: Path, url: str, site: str) -> Iterator[list[Process]]:
    processes = [Process(folder, f"process-{number}", tell, url, site, number) for number in range(PROCESSES)]
    try:
        for process in processes:
            process.wait_until_ready()
        for process in processes:
            process.tell("go")
        yield processes
    finally:
        for process in processes:
            process.discard()


def test_processes_that_tell_the_same_events_at_once_append_each_once_and_all_hear_where(
    log: EventStore, url: str, site: str, tmp_path: Path
) -> None:
    start = log.head()
    with at_work(tmp_path, url, site) as processes:
        for process in processes:
            process.end()
        said = [answer for process in processes for answer in process.said()]
    shared = len([index for index in range(EACH) if index % 3 == 0])
    size = shared + PROCESSES * (EACH - shared)
    recorded = [*log.stream(after=start)]
    stands = {record.event.event_id: record.position for record in recorded}
    assert [record.position for record in recorded] == [*range(start + 1, start + size + 1)]
    assert len(stands) == size
    assert log.head() == start + size
    assert [record.recorded_at for record in recorded] == sorted(record.recorded_at for record in recorded)
    kinds = Counter(answer.rpartition("/")[2] for _, answer in said)
    assert kinds == {"appended": size, "duplicate": (PROCESSES - 1) * shared}
    assert all(stands[answer.rpartition("/")[0]] == position for position, answer in said)
    assert log.list_quarantined(site_id=site) == []


def test_a_writer_killed_in_the_midst_of_a_batch_leaves_whole_batches_in_order_and_no_gap(
    log: EventStore, url: str, tmp_path: Path
) -> None:
    """One after the other, so that nobody covers up for the one that was killed."""
    for number in range(KILLS):
        start = log.head()
        name = str(uuid4())
        writer = Process(tmp_path, f"writer-{number}", write, url, name, KILLED_PIECE)
        try:
            writer.wait_until_ready()
            writer.tell("go")
            tail = log.tail(after=start, idle_timeout=60)
            # It has committed something, and is at the next.
            assert next(tail).position == start + 1
            writer.kill()
            said = writer.said()
        finally:
            writer.discard()
        # The database may still be at what it was told last: another's event comes after all of it.
        end = log.append(event(number, f"site-{uuid4()}")).position
        assert end is not None
        recorded = [*log.stream(after=start, until=end - 1)]
        assert [record.position for record in recorded] == [*range(start + 1, end)]
        assert [record.event.event_id for record in recorded] == [f"{name}-{index}" for index in range(len(recorded))]
        assert recorded
        assert len(recorded) % KILLED_PIECE == 0, "a batch stands whole or not at all"
        stands = {record.position: record.event.event_id for record in recorded}
        assert {position: event_id for position, event_id in said if stands.get(position) != event_id} == {}
