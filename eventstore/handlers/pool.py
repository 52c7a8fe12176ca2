"""Who calls handlers: threads for plain ones, an event loop in a thread of its own for async ones."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from eventstore.errors import EventStoreError
from eventstore.handlers.calls import HANDLED, Call, Outcome
from eventstore.handlers.dead_letters import HandlerDeadLetter
from eventstore.handlers.feed import Subject
from eventstore.handlers.lanes import Lane

WORKERS = 8
"""Threads that call plain handlers: so many coupons at once."""
CONCURRENCY = 100
"""Calls of async handlers that are under way at once."""
IN_A_ROW = 16
"""Events of one subject that a worker handles before others have their turn."""
TIME_LIMIT = 60.0
"""Seconds that a call may take, unless its handler says otherwise."""
ABANDONED = 16
"""Calls that were given up and still run: a thread cannot be stopped. With more the process is of no use any more."""

QUICK_SECONDS = 0.002
"""Subjects are handed to a thread by so many that they take it no longer than this, going by the calls before: between threads
each handing over costs more than a call that does little."""
TOGETHER = 64
"""Subjects handed over at a time at most."""

Job = tuple[Lane, Sequence[Subject], HandlerDeadLetter | None]
"""Subjects whose first events may be begun, or one and its dead letter, which is to be tried again."""
_log = logging.getLogger("eventstore.handlers")


class Hanging(EventStoreError):
    """Too many calls never end."""


class _Worker:
    def __init__(self) -> None:
        self.job: Job | None = None
        self.subject: Subject | None = None
        self.waiting: deque[Subject] = deque()
        """Subjects of its job that it has not come to."""
        self.call: Call | None = None
        self.since = 0.0
        self.revival: Generator[Call, Outcome, None] | None = None
        self.abandoned = False


class _Timed:
    """A call in the event loop that may go on until then (monotonic)."""

    __slots__ = ("cancelled", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.cancelled = False


class Pool:
    """Calls handlers for lanes. `put` and `watch` are for any thread; `stop` and `close` once at the end.

    `fault(error)`: called when something of ours failed (the database, most likely): the lanes cannot be trusted any more.
    """

    def __init__(
        self,
        *,
        workers: int,
        concurrency: int,
        time_limit: float,
        with_async: bool,
        fault: Callable[[BaseException], None],
    ) -> None:
        self._time_limit = time_limit
        self._fault = fault
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._abandoned: list[_Worker] = []
        self._timed: dict[asyncio.Task[Any], _Timed] = {}
        for _ in range(workers):
            self._start_worker()
        self._loop = _Loop(concurrency, self._work_async) if with_async else None

    def put(self, lane: Lane, subjects: Collection[Subject]) -> None:
        """Have the first events of these subjects begun."""
        several = list(subjects)
        size = 1 if lane.handler.is_async else max(1, min(int(QUICK_SECONDS / max(lane.pace, 1e-9)), TOGETHER))
        self._put(lane, [(lane, several[start : start + size], None) for start in range(0, len(several), size)])

    def put_letter(self, lane: Lane, letter: HandlerDeadLetter) -> None:
        """Have a dead letter tried again."""
        self._put(lane, [(lane, (letter.subject,), letter)])

    def watch(self) -> None:
        """Give up calls that take too long. Raises Hanging."""
        now = time.monotonic()
        for worker in list(self._workers):
            call, job = worker.call, worker.job
            if call is None or job is None:
                continue
            limit = self._limit(job[0])
            if limit is None or now - worker.since < limit or not call.give_up():
                continue
            self._abandon(worker, job, call, limit)
        if self._loop is not None:
            for task, timed in list(self._timed.items()):
                if timed.until < now and not timed.cancelled:
                    self._loop.call(self._cancel, task, timed)

    def stop(self, timeout: float) -> bool:
        """Begin nothing any more, and wait for what is under way; False if something still is after so many seconds."""
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for worker, thread in zip(self._workers, self._threads, strict=True):
            if not worker.abandoned:
                thread.join(max(deadline - time.monotonic(), 0.0))
        done = not any(
            thread.is_alive()
            for worker, thread in zip(self._workers, self._threads, strict=True)
            if not worker.abandoned
        )
        if self._loop is not None:
            done = self._loop.stop(max(deadline - time.monotonic(), 0.1)) and done
        return done

    # Threads

    def _put(self, lane: Lane, jobs: list[Job]) -> None:
        if lane.handler.is_async:
            assert self._loop is not None
            self._loop.put(jobs)
            return
        for job in jobs:
            self._jobs.put(job)

    def _limit(self, lane: Lane) -> float | None:
        return self._time_limit if lane.handler.time_limit is None else lane.handler.time_limit

    def _start_worker(self) -> None:
        worker = _Worker()
        thread = threading.Thread(target=self._run, args=(worker,), name="eventstore-handler", daemon=True)
        self._workers.append(worker)
        self._threads.append(thread)
        thread.start()

    def _run(self, worker: _Worker) -> None:
        while not worker.abandoned:
            job = self._jobs.get()
            if job is None:
                return
            try:
                self._work(worker, job)
            except BaseException as error:  # noqa: BLE001 - told to whoever runs the pool
                self._fault(error)
        if worker.job is not None and worker.subject is not None:
            worker.job[0].hung(worker.subject)
        if worker in self._abandoned:
            self._abandoned.remove(worker)

    def _work(self, worker: _Worker, job: Job) -> None:
        lane, subjects, letter = job
        worker.job = job
        if letter is not None:
            worker.subject = letter.subject
            self._revive(worker, lane, letter)
            return
        waiting = worker.waiting
        waiting.extend(subjects)
        again = []
        while waiting:
            subject = worker.subject = waiting.popleft()
            if self._work_at(worker, lane, subject):
                again.append(subject)
            if worker.abandoned:
                return
        if again:
            self._jobs.put((lane, again, None))

    def _work_at(self, worker: _Worker, lane: Lane, subject: Subject) -> bool:
        """Whether there is more of the subject."""
        mine, clock = lane.mine, time.monotonic
        for _ in range(IN_A_ROW):
            fed = lane.next(subject)
            if fed is None:
                return False
            call = Call(mine, fed)
            since = worker.since = clock()
            worker.call = call
            outcome = call.run()
            if worker.abandoned:
                return False
            worker.call = None
            lane.pace += 0.1 * (clock() - since - lane.pace)
            if not lane.settle(call, outcome):
                return False
        return True

    def _revive(self, worker: _Worker, lane: Lane, letter: HandlerDeadLetter) -> None:
        revival = worker.revival = lane.revival(letter)
        try:
            call = next(revival)
            while True:
                worker.since = time.monotonic()
                worker.call = call
                outcome = call.run()
                if worker.abandoned:
                    return
                worker.call = None
                call = revival.send(outcome)
        except StopIteration:
            pass
        finally:
            if not worker.abandoned:
                worker.revival = None

    def _abandon(self, worker: _Worker, job: Job, call: Call, limit: float) -> None:
        lane, _, letter = job
        worker.abandoned = True
        self._abandoned.append(worker)
        assert worker.subject is not None
        lane.hang(worker.subject)
        if worker.waiting:
            self._jobs.put((lane, [*worker.waiting], None))
        reason = f"it took longer than {limit:g} s, and still ran then"
        _log.warning(
            "a handler takes too long; its event is parked",
            extra={"handler": lane.handler.name, "position": call.fed.position, "seconds": limit},
        )
        if letter is None:
            lane.settle(call, Outcome(reason))
        elif worker.revival is not None:
            with suppress(StopIteration):
                worker.revival.send(Outcome(reason))
        if len(self._abandoned) > ABANDONED:
            raise Hanging(
                f"{len(self._abandoned)} calls of handlers never end, and a thread cannot be stopped: give what they wait for "
                "a time limit of its own"
            )
        self._start_worker()

    # The event loop

    async def _work_async(self, job: Job) -> Job | None:
        """Work at a job; the job again if there is more of it."""
        lane, [subject], letter = job
        try:
            if letter is not None:
                await self._revive_async(lane, letter)
                return None
            limit = self._limit(lane)
            for _ in range(IN_A_ROW):
                fed = lane.next(subject)
                if fed is None:
                    return None
                call = Call(lane.mine, fed)
                outcome = await self._limited(call, limit)
                more = (
                    lane.settle(call, outcome)
                    if outcome is HANDLED
                    else await asyncio.to_thread(lane.settle, call, outcome)
                )
                if not more:
                    return None
        except Exception as error:  # noqa: BLE001 - told to whoever runs the pool
            self._fault(error)
            return None
        return job

    async def _limited(self, call: Call, limit: float | None) -> Outcome:
        """Make a call that `watch` ends when it takes too long."""
        if limit is None:
            return await call.run_async()
        task = asyncio.current_task()
        assert task is not None
        timed = self._timed[task] = _Timed(time.monotonic() + limit)
        outcome = await call.run_async()
        del self._timed[task]
        if timed.cancelled:
            task.uncancel()
            if outcome.reason is not None:
                return Outcome(f"it took longer than {limit:g} s")
        return outcome

    def _cancel(self, task: asyncio.Task[Any], timed: _Timed) -> None:
        # In the loop's own thread: the call may have ended meanwhile, and another one been begun.
        if self._timed.get(task) is timed:
            timed.cancelled = task.cancel()

    async def _revive_async(self, lane: Lane, letter: HandlerDeadLetter) -> None:
        revival = lane.revival(letter)
        limit = self._limit(lane)
        outcome: Outcome | None = None
        while True:
            call = await asyncio.to_thread(_step, revival, outcome)
            if call is None:
                return
            outcome = await self._limited(call, limit)


def _step(revival: Generator[Call, Outcome, None], outcome: Outcome | None) -> Call | None:
    try:
        return next(revival) if outcome is None else revival.send(outcome)
    except StopIteration:
        return None


class _Loop:
    """An event loop in a thread, in which a number of pumps work at jobs."""

    def __init__(self, pumps: int, work: Callable[[Job], Any]) -> None:
        self._work = work
        self._pumps = pumps
        self._jobs: deque[Job] = deque()
        self._more = asyncio.Event()
        self._ended = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="eventstore-handlers-async", daemon=True)
        self._thread.start()

    def put(self, jobs: list[Job]) -> None:
        self._jobs.extend(jobs)
        self._loop.call_soon_threadsafe(self._more.set)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have something called in the loop's thread."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self, timeout: float) -> bool:
        self._ended = True
        self._loop.call_soon_threadsafe(self._more.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join(1.0)
            return False
        return True

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        await asyncio.gather(*(self._pump() for _ in range(self._pumps)), return_exceptions=True)

    async def _pump(self) -> None:
        while not self._ended:
            if not self._jobs:
                self._more.clear()
                if not self._jobs and not self._ended:
                    await self._more.wait()
                continue
            job = self._jobs.popleft()
            again = await self._work(job)
            if again is not None:
                self._jobs.append(again)
                # A handler that never waits must not keep the others from their turn.
                await asyncio.sleep(0)
