"""Writers and readers of one log as processes of their own, and what every reader's sequence must be.

They are forked from one process that has imported everything: a dozen interpreters that start would take longer than they run.
Each opens the store for itself, is told what to do through a pipe, and writes down what it is told by the store in a file.
"""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import orjson

from eventstore.errors import StoreUnavailable
from eventstore.event import Event, Source
from eventstore.log.records import OutcomeKind, RecordedEvent, prepare
from eventstore.store import EventStore
from tests.processes import FORKING

PATIENCE = 120.0
"""Seconds after which a process that does not come to its end has failed."""
WRITERS = 8
BATCHES = (1, 200)
"""Events in a piece, by turns: the even writers append one at a time, the odd ones many."""
LONGEST_BATCH = max(BATCHES)
READERS = ("poll", "poll", "listen", "listen")
TIME = datetime(2026, 9, 1, tzinfo=UTC)
LOST_PATIENCE = 30.0
"""Seconds without an event after which a reader that has not reached the end gives up, so that a fault is seen."""

Reading = tuple[int, str]
"""The position and the id of an event that a reader was given."""


def faults(sequence: Iterable[int], head: int) -> list[str]:
    """What is wrong with the positions that a reader was given, of a log that ended at `head`: nothing, if they are 1 to head."""
    found: list[str] = []
    seen: set[int] = set()
    last = 0
    for position in sequence:
        if position in seen:
            found.append(f"{position} was given twice")
        elif position < last:
            found.append(f"{position} was given after {last}")
        seen.add(position)
        last = max(last, position)
    found += [f"{position} was never given" for position in range(1, head + 1) if position not in seen]
    found += [f"{position} is past the end, {head}" for position in sorted(seen) if not 1 <= position <= head]
    return found


def event(event_id: str, number: int) -> Event:
    return Event(
        event_id=event_id,
        type="coupon.updated",
        entity_id=f"c{number % 7}",
        coupon_id=f"c{number % 7}",
        event_time=TIME + timedelta(seconds=number),
        source=Source.REST,
        site_id="site",
        sequence=number,
    )


def reading_of(record: RecordedEvent) -> Reading:
    # Not by decoding the event: a hundred thousand are looked at.
    return record.position, orjson.loads(record.payload)["event_id"]


# In the processes


def write(url: str, told: Connection, output: TextIO, name: str, size: int) -> None:
    """Append pieces of `size` events, each again until it is taken, until told to end."""
    with EventStore.open(url, create=False) as store:
        told.send("ready")
        told.recv()
        for first in itertools.count(step=size):
            if told.poll():
                return
            entries = [prepare(event(f"{name}-{number}", number)) for number in range(first, first + size)]
            while True:
                try:
                    outcomes = store.submit(list(entries)).result()
                    break
                except StoreUnavailable:
                    time.sleep(0.02)
            assert {outcome.kind for outcome in outcomes} <= {OutcomeKind.APPENDED, OutcomeKind.DUPLICATE}
            output.write("".join(f"{outcome.position} {outcome.event_id}\n" for outcome in outcomes))
            output.flush()


def read(url: str, told: Connection, output: TextIO, how: str) -> None:
    """Tail until the position is reached that it is told to be the end; then write down what was given."""
    end = sys.maxsize
    given: list[Reading] = []
    quiet_since = time.monotonic()

    def stop() -> bool:
        nonlocal end, quiet_since
        if end == sys.maxsize and told.poll():
            end = told.recv()
            quiet_since = time.monotonic()
        reached = given[-1][0] if given else 0
        return reached >= end or (end < sys.maxsize and time.monotonic() - quiet_since > LOST_PATIENCE)

    with EventStore.open(url, create=False) as store:
        told.send("ready")
        for page in store.tail_pages(listen=how == "listen", stop=stop, page=500):
            given += map(reading_of, page)
            quiet_since = time.monotonic()
        # What came after the end would be seen too.
        given += map(reading_of, store.tail(after=given[-1][0] if given else 0, idle_timeout=0.3))
    output.write("".join(f"{position} {event_id}\n" for position, event_id in given))


def run_and_tell(work: Callable[..., None], url: str, told: Connection, path: Path, arguments: Sequence[Any]) -> None:
    """What a process runs. What goes wrong in it is left beside its output."""
    try:
        with path.open("w", encoding="utf-8") as output:
            work(url, told, output, *arguments)
    except BaseException:
        path.with_suffix(".err").write_text(traceback.format_exc(), encoding="utf-8")
        raise


# Over the processes


class Process:
    """One of them, started at once."""

    def __init__(self, folder: Path, label: str, work: Callable[..., None], url: str, *arguments: Any) -> None:
        self._output = folder / f"{label}.txt"
        self._told, theirs = FORKING.Pipe()
        self._process = FORKING.Process(
            target=run_and_tell, args=(work, url, theirs, self._output, arguments), name=label, daemon=True
        )
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        try:
            assert self._told.poll(PATIENCE), "it never is ready"
            assert self._told.recv() == "ready"
        except EOFError:
            raise AssertionError(self._error()) from None

    def tell(self, what: object) -> None:
        self._told.send(what)

    def kill(self) -> None:
        """End it with SIGKILL, in whatever it is at."""
        self._process.kill()
        self._process.join()

    def end(self) -> None:
        """Wait until it has come to its end, which must be a good one."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, self._error()

    def join(self) -> None:
        """Wait until it is gone, however it went."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, "it does not come to its end"

    def discard(self) -> None:
        self.kill()
        self._told.close()
        self._process.close()

    @property
    def heard(self) -> bool:
        """Whether it has written anything down yet."""
        return self._output.exists() and self._output.stat().st_size > 0

    def said(self) -> list[Reading]:
        """Position and event id of each whole line: of a process that was killed the last may be torn."""
        lines = self._output.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return [(int(position), event_id) for position, event_id in (line.split(" ") for line in lines)]

    def _error(self) -> str:
        path = self._output.with_suffix(".err")
        return path.read_text(encoding="utf-8") if path.exists() else "it does not come to its end"


class Run:
    """Writers and readers at work on the log at `url`, and what they said in the end."""

    def __init__(self, url: str, folder: Path, *, writers: int = WRITERS, readers: Sequence[str] = READERS) -> None:
        self._url = url
        self._folder = folder
        self._labels = itertools.count()
        self._names = itertools.count()
        self.killed: list[Process] = []
        self.readers = [self._start(read, how) for how in readers]
        self.writers = [self._writer() for _ in range(writers)]
        for process in [*self.readers, *self.writers]:
            process.wait_until_ready()
        for process in self.writers:
            process.tell("go")

    def _start(self, work: Callable[..., None], *arguments: Any) -> Process:
        return Process(self._folder, f"process-{next(self._labels)}", work, self._url, *arguments)

    def _writer(self) -> Process:
        number = next(self._names)
        return self._start(write, f"w{number}", BATCHES[number % len(BATCHES)])

    def replace_a_writer(self) -> None:
        """Kill the oldest writer, and start another."""
        replacement = self._writer()
        replacement.wait_until_ready()
        oldest = self.writers.pop(0)
        oldest.kill()
        self.killed.append(oldest)
        self.writers.append(replacement)
        replacement.tell("go")

    def finish(self) -> list[list[Reading]]:
        """End the writers, let the readers come to the end of the log, and return what each was given; nothing may be lost."""
        for writer in self.writers:
            writer.tell("enough")
        for writer in self.writers:
            writer.end()
        with EventStore.open(self._url, create=False) as store:
            head = store.head()
            stands = dict(map(reading_of, store.stream()))
        for reader in self.readers:
            reader.tell(head)
        for reader in self.readers:
            reader.end()
        wrong = faults(stands, head)
        assert not wrong, f"the log itself: {wrong[:10]}"
        assert len(set(stands.values())) == head, "an event stands twice"
        for writer in [*self.writers, *self.killed]:
            lost = [answer for answer in writer.said() if stands.get(answer[0]) != answer[1]]
            assert not lost, f"a writer was told what is not so: {lost[:10]}"
        assert all(writer.heard for writer in self.writers), "a writer was never heard"
        if not self.killed:
            assert sum(len(writer.said()) for writer in self.writers) == head, (
                "something stands that nobody was told of"
            )
        given = [reader.said() for reader in self.readers]
        for sequence in given:
            wrong = faults([position for position, _ in sequence], head)
            assert not wrong, f"a reader was given, of {head} events, what is wrong: {wrong[:10]}"
            assert dict(sequence) == stands, "a reader was given other events than those that stand there"
        return given

    def discard(self) -> None:
        for process in [*self.readers, *self.writers, *self.killed]:
            process.discard()


@contextmanager
def running(url: str, folder: Path, *, writers: int = WRITERS, readers: Sequence[str] = READERS) -> Iterator[Run]:
    """A run under way; whatever happens, its processes are ended."""
    run = Run(url, folder, writers=writers, readers=readers)
    try:
        yield run
    finally:
        run.discard()
