"""Several processes that serve one store: a supervisor that keeps them alive, and what each of them does.

The supervisor binds the socket, and each worker accepts on it with a store of its own: a writer, connections, caches of tokens
and apps (read again every few seconds, as beside any other process), and counts of failed attempts, so that an address may
fail so many times at each worker. The first worker also does what needs doing once: it follows the log with the projections
and keeps the tables in order.

Whatever a worker has acknowledged is durable before the answer, so that a worker may die at any time. It is started again; the
socket stays open meanwhile, and the others answer. A worker whose supervisor is gone ends too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from eventstore import logs
from eventstore.api.health import kind_of
from eventstore.api.server import SHUTDOWN_SECONDS, serve, url_of
from eventstore.backoff import wait_after
from eventstore.config import Settings
from eventstore.errors import EventStoreError, InputError
from eventstore.store import EventStore

LEADER = 1
"""The worker that follows the log. Its successor has its number, and goes on where it was."""
RESTART_SECONDS = (0.0, 0.5, 2.0, 5.0, 10.0)
"""Waits before a worker that died is started again, one after the other, the last one repeated: what killed it may still be
there, and starting takes a second of a core."""
STEADY_SECONDS = 60.0
"""A worker that ran so long has shown that it can: its next death is a first one again."""
STOP_SECONDS = SHUTDOWN_SECONDS + 20.0
"""How long a worker may take to end once told to: its requests, and what waits for the writer. Then it is killed."""
HURRY_SECONDS = 0.05
"""How often a worker passes on that somebody waits for a position: not more often than who waits looks."""
ATTEND_SECONDS = 1.0
"""How often the leader looks whether the projections can still follow."""

READY, FAILED, HURRY, PROBLEM = "ready", "failed", "hurry", "problem"
"""What is told between a worker and the supervisor: that it answers; why it cannot start; that somebody waits for the
projections; what keeps them from following (None: nothing)."""
_GOOD_ENDS = (0, -signal.SIGTERM)
"""How a worker ends that was told to, once it serves and before."""

_log = logging.getLogger("eventstore.workers")


class Line:
    """One end of what connects a worker with its supervisor. `send` never waits: who does not listen misses something."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lock = threading.Lock()
        self._room = select.poll()
        self._room.register(connection, select.POLLOUT)

    def send(self, subject: str, told: str | None = None) -> None:
        with self._lock, suppress(OSError):
            if any(events & select.POLLOUT for _, events in self._room.poll(0)):
                self.connection.send((subject, told))

    def received(self) -> tuple[str, str | None]:
        """The next message. Raises EOFError once the other end is gone."""
        try:
            subject, told = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        return subject, told


# The supervisor


@dataclass
class _Worker:
    number: int
    process: SpawnProcess
    line: Line
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    silent: bool = False
    failure: str | None = None

    @property
    def end(self) -> str:
        """How it ended, for people."""
        status = self.process.exitcode
        if status is not None and status < 0:
            with suppress(ValueError):
                return signal.Signals(-status).name
        return f"status {status}"


def serve_workers(
    settings: Settings, listener: socket.socket, *, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve the store of the settings with `settings.workers` processes until SIGINT or SIGTERM; it must be there already.

    `on_ready(url)` once all of them answer. Raises EventStoreError if one of them cannot start, or did not end when told to,
    and InputError where there are no such processes.
    """
    if os.name != "posix":
        raise InputError("several workers need a POSIX system; leave --workers at 1")
    _Supervisor(settings, listener, on_ready).run()


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, on_ready: Callable[[str], None] | None) -> None:
        self._settings = settings
        self._listener = listener
        self._on_ready = on_ready
        self._announced = False
        self._workers: dict[int, _Worker] = {}
        self._deaths: dict[int, int] = {}
        self._due: dict[int, float] = dict.fromkeys(range(1, settings.workers + 1), 0.0)
        self._problem: str | None = None

    def run(self) -> None:
        try:
            with _stop_signals() as told:
                while not told.signals:
                    self._start_those_due()
                    self._listen(told)
                    self._take_note_of_the_dead()
                    self._announce()
                self._end_all(told)
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            try:
                self._start(number)
            except OSError as error:  # too little memory, too many processes: what killed the last one may pass
                if not self._announced:
                    raise EventStoreError(f"worker {number} could not be started: {error}") from error
                pause = self._put_off(number)
                told = {"worker": number, "reason": error.strerror, "in_seconds": pause}
                _log.error("a worker could not be started and is tried again", extra=told)

    def _put_off(self, number: int, lived: float = 0.0) -> float:
        """Have a worker started again, the later the more often it failed; returns in how many seconds."""
        deaths = 0 if lived > STEADY_SECONDS else self._deaths.get(number, 0)
        pause = wait_after(deaths, RESTART_SECONDS)
        self._deaths[number] = deaths + 1
        self._due[number] = time.monotonic() + pause
        return pause

    def _start(self, number: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=_work,
            args=(number, self._settings, self._listener, theirs),
            name=f"eventstore-worker-{number}",
            daemon=True,
        )
        with closing(theirs), _without_interrupts():
            process.start()
        worker = _Worker(number, process, Line(ours))
        self._workers[number] = worker
        if self._problem is not None:
            worker.line.send(PROBLEM, self._problem)
        _log.info("a worker is started", extra={"worker": number, "worker_pid": process.pid})

    def _listen(self, told: _Told) -> None:
        """Wait until something happens, and pass on what the workers tell."""
        ends = {worker.line.connection: worker for worker in self._workers.values() if not worker.silent}
        timeout = None if not self._due else max(0.0, min(self._due.values()) - time.monotonic())
        sentinels = [worker.process.sentinel for worker in self._workers.values()]
        for woken in wait([told.wakes, *ends, *sentinels], timeout):
            if not isinstance(woken, Connection):
                continue
            worker = ends[woken]
            try:
                subject, what = worker.line.received()
            except EOFError:  # it has died, or is about to
                worker.silent = True
                continue
            if subject == READY:
                worker.ready = True
            elif subject == FAILED:
                worker.failure = what
            elif subject == HURRY and LEADER in self._workers:
                self._workers[LEADER].line.send(HURRY)
            elif subject == PROBLEM:
                self._tell_problem(what)

    def _tell_problem(self, problem: str | None) -> None:
        self._problem = problem
        for worker in self._workers.values():
            if worker.number != LEADER:
                worker.line.send(PROBLEM, problem)

    def _take_note_of_the_dead(self) -> None:
        for worker in [each for each in self._workers.values() if not each.process.is_alive()]:
            del self._workers[worker.number]
            worker.line.connection.close()
            why = worker.failure or f"it ended with {worker.end}"
            if not self._announced:
                raise EventStoreError(f"worker {worker.number} could not start: {why}")
            pause = self._put_off(worker.number, time.monotonic() - worker.started)
            if worker.number == LEADER:
                self._tell_problem("the worker that follows the log has died and is started again")
            told = {"worker": worker.number, "worker_pid": worker.process.pid, "end": worker.end}
            _log.error("a worker has died and is started again", extra={**told, "in_seconds": pause})

    def _announce(self) -> None:
        if not self._announced and not self._due and all(worker.ready for worker in self._workers.values()):
            self._announced = True
            if self._on_ready is not None:
                self._on_ready(url_of(self._listener, self._settings))

    def _end_all(self, told: _Told) -> None:
        """Have the workers end in good order. A second SIGINT, or too long a time, ends them at once."""
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        failed: list[str] = []
        while self._workers:
            sentinels = [worker.process.sentinel for worker in self._workers.values()]
            wait([told.wakes, *sentinels], max(0.0, deadline - time.monotonic()))
            told.drain()
            for worker in [each for each in self._workers.values() if not each.process.is_alive()]:
                del self._workers[worker.number]
                worker.line.connection.close()
                if worker.process.exitcode not in _GOOD_ENDS:
                    failed.append(f"worker {worker.number} ended with {worker.end}")
            if self._workers and (time.monotonic() >= deadline or told.signals.count(signal.SIGINT) > 1):
                pids = ", ".join(str(worker.process.pid) for worker in self._workers.values())
                raise EventStoreError(
                    f"stopped, but processes did not end when told to, and were killed: {pids}; "
                    "everything acknowledged is in the log all the same"
                )
        if failed:
            raise EventStoreError(
                f"stopped, but {'; '.join(failed)}; everything acknowledged is in the log all the same"
            )


class _Told:
    """The signals that came, and a file descriptor that can be read once one has."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.wakes, self._bell = os.pipe()
        os.set_blocking(self.wakes, False)
        os.set_blocking(self._bell, False)

    def note(self, number: int, _frame: object) -> None:
        self.signals.append(number)
        with suppress(BlockingIOError):
            os.write(self._bell, b"!")

    def drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.wakes, 512)

    def close(self) -> None:
        os.close(self.wakes)
        os.close(self._bell)


@contextmanager
def _stop_signals() -> Iterator[_Told]:
    with closing(_Told()) as told:
        before = {number: signal.signal(number, told.note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield told
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never sees SIGINT: Control-C reaches all of a terminal's processes, and only one should act on it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# A worker


def _work(number: int, settings: Settings, listener: socket.socket, connection: Connection) -> None:
    """A worker's whole life."""
    line = Line(connection)
    logs.configure(level=settings.log_level, style=settings.log_format)
    try:
        store = EventStore.configured(settings)
    except EventStoreError as error:
        line.send(FAILED, str(error))
        raise SystemExit(1) from None
    with store:
        leads = number == LEADER
        elsewhere = Elsewhere(line)
        if not leads:
            store.runner.on_wait = elsewhere.hurry
        ended, end = os.pipe()
        attending = threading.Thread(
            target=_attend, args=(line, store, elsewhere, leads, ended), name="eventstore-line"
        )
        attending.start()
        try:
            serve(
                store,
                settings,
                listener=listener,
                elsewhere=None if leads else lambda: elsewhere.problem,
                on_ready=lambda _url: line.send(READY),
            )
        finally:
            os.close(end)
            attending.join()
    # All is closed. Native threads of libraries may still want the interpreter while it is taken down, and abort the process.
    logging.shutdown()
    os._exit(0)


class Elsewhere:
    """The live projections, where another worker runs them: what is known of them, and how to make them hurry."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._passed_on = float("-inf")
        self.problem: str | None = None

    def hurry(self) -> None:
        """Somebody here waits for a position. Cheap; callable from any thread, as often as one likes."""
        now = time.monotonic()
        if now - self._passed_on >= HURRY_SECONDS:
            self._passed_on = now
            self._line.send(HURRY)


def _attend(line: Line, store: EventStore, elsewhere: Elsewhere, leads: bool, ended: int) -> None:
    """Listen to the supervisor for as long as there is one, or until `ended` can be read: this worker has ended then."""
    told: str | None = ""
    try:
        while ended not in (woken := wait([line.connection, ended], ATTEND_SECONDS if leads else None)):
            if woken:
                subject, what = line.received()
                if subject == HURRY:
                    store.runner.hurry()
                elif subject == PROBLEM:
                    elsewhere.problem = what
            problem = kind_of(store.runner.last_error)
            if leads and problem != told:
                line.send(PROBLEM, problem)
                told = problem
    except EOFError:
        # Nobody is left to say when to end, or to start this worker again: what is under way is answered, and nothing new
        # taken.
        _log.error("the supervisor is gone; this worker ends")
        os.kill(os.getpid(), signal.SIGTERM)
        if not wait([ended], STOP_SECONDS):
            os._exit(1)
