"""Reading in processes of their own: JSON to Event, encoded, hashed and compressed, on all the machine's cores.

Python runs one thread at a time, so that reading beside the writer needs other processes. They are given pieces of lines and
give back chunks of log entries, and hold nothing else: one may be killed at any time, and none outlives its parent, whatever
ended that, for each ends with the pipe that it reads from.

They are started as programs and not through `multiprocessing`, which would run the caller's main module again in each.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from eventstore.errors import EventStoreError, StoreUnavailable
from eventstore.ingest import CHUNK_LINES, Chunk, Route, SiteOf, read_lines
from eventstore.lines import Piece
from eventstore.log.records import Prepared

HERE_BYTES = 4 * 1024 * 1024
"""Bytes that are read in this process before others are asked: a reader takes most of a second to start, in which this much
is read. What is smaller never starts one."""
READERS_AT_MOST = 4
"""Readers that one writer can follow: taking over and writing a delivery costs three tenths of what reading it does."""
PIECES_A_READER = 2
"""Pieces with a reader at once: one that it reads, and one so that it need not wait for the next."""
PIECES_WAITING = 2
"""Pieces beyond those, read from the file while all readers are at work."""
UNDER_WAY_BYTES = 64 * 1024 * 1024
"""Bytes of pieces between file and writer at once, unless a single line is longer."""

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Job:
    """How lines are to be read. It travels with every piece, `site_of` too, which is therefore something that pickles."""

    how: Route
    site_of: SiteOf
    max_line_bytes: int
    chunk_lines: int = CHUNK_LINES

    def read(self, piece: Piece) -> list[Chunk]:
        """Read a piece; the last chunk says where it ended."""
        lines = read_lines(
            piece.lines(), self.how, self.site_of, max_line_bytes=self.max_line_bytes, chunk_lines=self.chunk_lines
        )
        chunks = list(lines)
        if chunks:
            chunks[-1].end = piece.end
        return chunks


def readers_for(cores: int) -> int:
    """How many readers pay on so many cores: one core is left to the writer; on two, it needs so little that both read."""
    if cores == 1:
        return 0
    return min(max(2, cores - 1), READERS_AT_MOST)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_pieces(
    pieces: Iterable[Piece], job: Job, readers: Readers | None, *, here_bytes: int = HERE_BYTES
) -> Iterator[Chunk]:
    """The chunks of all pieces in order: of the first `here_bytes` read in this process, of the others by the readers.

    Raises what `pieces` raises, behind the chunks of all that came before; StoreUnavailable if a reader was lost.
    """
    under_way: deque[tuple[int, Future[list[Chunk]]]] = deque()
    size = read = 0
    waiting = iter(pieces)
    failure: EventStoreError | None = None
    while True:
        try:
            piece = next(waiting, None)
        except EventStoreError as error:
            failure = error
            break
        if piece is None:
            break
        if readers is None or read < here_bytes:
            read += piece.size
            yield from job.read(piece)
            continue
        under_way.append((piece.size, readers.submit(piece, job)))
        size += piece.size
        while under_way and (len(under_way) > readers.pieces or size > UNDER_WAY_BYTES):
            oldest, future = under_way.popleft()
            size -= oldest
            yield from future.result()
    while under_way:
        yield from under_way.popleft()[1].result()
    if failure is not None:
        raise failure


class Readers:
    """Reading processes, started when the first piece comes. Thread-safe; close it to end them.

    `count`: how many; by default what pays on this machine, at least one.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = max(1, readers_for(usable_cores()) if count is None else count)
        self.pieces = self.count * PIECES_A_READER + PIECES_WAITING
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._readers: list[_Reader] = []
        self._closed = False

    def submit(self, piece: Piece, job: Job) -> Future[list[Chunk]]:
        """Have a piece read. The future raises StoreUnavailable if its reader is lost; the next piece starts another."""
        task = _Task(pickle.dumps((piece, job), pickle.HIGHEST_PROTOCOL), Future())
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closing; send the rest again")
            if not self._readers:
                self._readers = [_Reader(self._waiting) for _ in range(self.count)]
            self._waiting.put(task)
        return task.future

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run now."""
        return [reader.process_id for reader in self._readers if reader.process_id is not None]

    def close(self) -> None:
        """End the processes. What they have not read is refused."""
        with self._lock:
            self._closed = True
            for reader in self._readers:
                reader.end()
            for _ in self._readers:
                self._waiting.put(None)
        for reader in self._readers:
            reader.join()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Task:
    request: bytes
    future: Future[list[Chunk]]


class _Reader:
    """One process, and the thread that talks to it."""

    def __init__(self, waiting: queue.SimpleQueue[_Task | None]) -> None:
        self._waiting = waiting
        self._process: subprocess.Popen[bytes] | None = None
        self._under_way: deque[_Task] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="eventstore-reader", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def end(self) -> None:
        """Kill the process: it holds nothing."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last or self._under_way:
            try:
                task = None if last else self._waiting.get(block=not self._under_way)
                last = last or task is None
            except queue.Empty:
                task = None
            try:
                if task is not None:
                    self._under_way.append(task)
                    self._send(task)
                if task is None or len(self._under_way) == PIECES_A_READER:
                    self._receive()
            except (OSError, EOFError) as error:
                self._lost(error)
            except BaseException as error:  # noqa: BLE001 - whoever waits must be told
                # What the process would answer yet belongs to pieces that are given up: the next one must not be given it.
                if self._process is not None:
                    self._process.kill()
                self._reap()
                self._fail(error)
        self._reap()

    def _send(self, task: _Task) -> None:
        if self._process is not None and len(self._under_way) == 1 and self._process.poll() is not None:
            self._reap()  # ended while it had nothing to read: nobody has lost anything
        if self._process is None:
            with self._lock:
                if self._ended:
                    raise EOFError
                self._process = _start()
        assert self._process.stdin is not None
        _write(self._process.stdin, task.request)

    def _receive(self) -> None:
        if not self._under_way:
            return
        assert self._process is not None
        assert self._process.stdout is not None
        answer = pickle.loads(_read(self._process.stdout))  # noqa: S301 - from our own process
        chunks = None if isinstance(answer, str) else [_unpacked(each) for each in answer]
        # Only now: whatever fails above, its future is still among those that are told.
        task = self._under_way.popleft()
        if chunks is None:
            task.future.set_exception(RuntimeError(f"a reader failed:\n{answer}"))
        else:
            task.future.set_result(chunks)

    def _lost(self, error: OSError | EOFError) -> None:
        status = self._reap()
        if self._ended:
            what = "the store is closing"
        elif status is None:
            what = f"a process to read deliveries could not be started: {error}"
        elif status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
            why = " (was there too little memory?)" if name == "SIGKILL" else ""
            what = f"a process that read deliveries ended, killed by {name}{why}"
        else:
            what = f"a process that read deliveries ended, with status {status}"
        self._fail(StoreUnavailable(f"{what}; send the rest again, what is in is not kept twice"))

    def _reap(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            # One that ended by itself has told why, a little later than that its pipe is closed.
            status = process.wait(0 if self._ended else 1)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be written to a process that is gone
                pipe.close()
        return status

    def _fail(self, error: BaseException) -> None:
        while self._under_way:
            self._under_way.popleft().future.set_exception(error)


def _start() -> subprocess.Popen[bytes]:
    """A process that reads what it is sent. In a session of its own: Ctrl-C is for its parent, which ends it."""
    path = [os.path.abspath(each) for each in sys.path]  # noqa: PTH100 - "" is the working directory
    program = f"import sys; sys.path[:] = {path!r}; from eventstore.readers import main; main()"
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def _write(stream: IO[bytes], message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    """The next message. Raises EOFError where there is none, or none that is whole."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    message = stream.read(length)
    if len(message) < length:
        raise EOFError
    return message


_Packed = tuple[list[int], list[object], list[object], int | None]


def _packed(chunk: Chunk) -> _Packed:
    # Plain tuples pickle in half the time.
    entries: list[object] = [tuple(entry) if isinstance(entry, Prepared) else entry for entry in chunk.entries]
    return chunk.numbers, list(chunk.told), entries, chunk.end


def _unpacked(packed: _Packed) -> Chunk:
    numbers, told, entries, end = packed
    made = [Prepared._make(entry) if type(entry) is tuple else entry for entry in entries]
    return Chunk(numbers, told, made, end)  # type: ignore[arg-type]


# In the process


def main() -> None:
    """Read pieces from standard input until it ends; give their chunks on standard output."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Whatever else should print must not stand between two answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_listen, args=(os.fdopen(os.dup(0), "rb"), requests), daemon=True).start()
    while True:
        _write(answers, _answer(requests.get()))


def _listen(stream: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    """Take requests at once, so that the parent never waits to send one while this process waits to send it an answer."""
    try:
        while True:
            requests.put(_read(stream))
    except BaseException:  # noqa: BLE001 - whatever ended the pipe, nobody is there for whom to read
        os._exit(0)


def _answer(request: bytes) -> bytes:
    try:
        piece, job = pickle.loads(request)  # noqa: S301 - from our own parent
        answer: object = [_packed(chunk) for chunk in job.read(piece)]
    except Exception:  # noqa: BLE001 - a bug, to be seen in the parent as one
        import traceback

        answer = traceback.format_exc()
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
