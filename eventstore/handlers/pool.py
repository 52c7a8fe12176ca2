"""Who calls handlers: threads for plain ones, an event loop in a thread of its own for async ones."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from eventstore.errors import EventStoreError
from eventstore.handlers.calls import BUSY, GIVEN_UP, HANDLED, Call, Outcome
from eventstore.handlers.dead_letters import HandlerDeadLetter
from eventstore.handlers.feed import Subject
from eventstore.handlers.lanes import Lane
from eventstore.handlers.loop import DaemonThreads, Loop

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
CANCEL_SECONDS = 5.0
"""How long an async call may go on after it was cancelled, to put its things in order; then it is given up like a thread's."""
BLOCKED_SECONDS = 10.0
"""How long after a call's time limit the event loop may take to cancel it: longer than a statement of a handler waits for a lock.
Then some handler keeps the loop from all others."""

QUICK_SECONDS = 0.002
"""Subjects are handed to a thread by so many that they take it no longer than this, going by the calls before: between threads
each handing over costs more than a call that does little."""
TOGETHER = 64
"""Subjects handed over at a time at most."""

Job = tuple[Lane, Sequence[Subject], HandlerDeadLetter | None]
"""Subjects whose first events may be begun, or one and its dead letter, which is to be tried again."""
Revival = Generator[Call, Outcome, None]
"""A dead letter that is being tried again."""
WATCH_SECONDS = 0.1
"""How often it is looked whether calls take too long: by a thread that does nothing else, as all others may be waiting for what
such a call holds."""
OURS = 4
"""Threads in which the event loop has the database asked."""
LOOK_SECONDS = 0.01
"""How often a call that was given up looks whether that has been noted, for a moment."""
_T = TypeVar("_T")
_log = logging.getLogger("eventstore.handlers")


class Hanging(EventStoreError):
    """Calls never end, and what they hold cannot be taken from them: only the end of the process helps."""


class _Worker:
    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.job: Job | None = None
        self.subject: Subject | None = None
        self.waiting: deque[Subject] = deque()
        """Subjects of its job that it has not come to."""
        self.call: Call | None = None
        self.since = 0.0
        self.revival: Revival | None = None
        self.abandoned = False
        self.left = threading.Event()
        """Set once whoever gave up its call has taken note of all that it was at."""


class _Timed:
    """A call in the event loop that may go on until then (monotonic)."""

    __slots__ = ("asked", "call", "cancelled", "cancelled_at", "lane", "left", "revival", "until")

    def __init__(self, lane: Lane, call: Call, revival: Revival | None, until: float) -> None:
        self.lane = lane
        self.call = call
        self.revival = revival
        self.until = until
        self.asked = self.cancelled = False
        self.cancelled_at = 0.0
        self.left = threading.Event()
        """As a worker's."""


class Pool:
    """Calls handlers for lanes. `put` is for any thread; `stop` once at the end.

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
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._abandoned: list[_Worker | _Timed] = []
        self._timed: dict[asyncio.Task[Any], _Timed] = {}
        self._reserving: set[Lane] = set()
        """Lanes of async handlers that write through their transaction, and once found none free."""
        self._over = threading.Event()
        self._left = threading.Event()
        """Set once no async call counts any more."""
        for _ in range(workers):
            self._start_worker()
        self._ours = DaemonThreads(OURS)
        self._loop = Loop(concurrency, self._work_async, fault) if with_async else None
        threading.Thread(target=self._keep_watch, name="eventstore-handlers-watch", daemon=True).start()

    def put(self, lane: Lane, subjects: Collection[Subject]) -> None:
        """Have the first events of these subjects begun."""
        several = list(subjects)
        size = 1 if lane.handler.is_async else max(1, min(int(QUICK_SECONDS / max(lane.pace, 1e-9)), TOGETHER))
        self._put(lane, [(lane, several[start : start + size], None) for start in range(0, len(several), size)])

    def put_letter(self, lane: Lane, letter: HandlerDeadLetter) -> None:
        """Have a dead letter tried again."""
        self._put(lane, [(lane, (letter.subject,), letter)])

    def stop(self, timeout: float) -> bool:
        """Begin nothing any more, and wait for what is under way; False if something still is after so many seconds.

        It does not count then, nor as a failure: its event is handled again.
        """
        self._over.set()
        with self._lock:
            workers = list(self._workers)
        for _ in workers:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        done = True
        for worker in workers:
            assert worker.thread is not None
            worker.thread.join(max(deadline - time.monotonic(), 0.0))
            if worker.thread.is_alive():
                done = False
        for worker in () if done else workers:
            call = worker.call
            if call is not None and call.give_up():
                worker.abandoned = True
                worker.left.set()
                call.cut()
        if self._loop is not None:
            done = self._loop.stop(max(deadline - time.monotonic(), 0.1), self._leave_all) and done
        if done:
            self._ours.shutdown()
        return done

    def _leave_all(self) -> None:
        """No async call under way counts any more, nor is another one begun."""
        self._left.set()
        for timed in list(self._timed.values()):
            if timed.call.give_up():
                timed.left.set()
                timed.call.cut()

    # Watching

    def _keep_watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            try:
                self._watch()
            except BaseException as error:  # noqa: BLE001 - told to whoever runs the pool
                self._fault(error)

    def _watch(self) -> None:
        """Give up calls that take too long. Raises Hanging."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            call, job = worker.call, worker.job
            if call is None or job is None:
                continue
            limit = self._limit(job[0])
            if limit is None or time.monotonic() - worker.since - call.waited < limit or not call.give_up():
                continue
            self._abandon(worker, job, call, limit)
        if self._loop is not None:
            for task, timed in list(self._timed.items()):
                if timed.until < time.monotonic():
                    self._watch_task(self._loop, task, timed)

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
        worker.thread = threading.Thread(target=self._run, args=(worker,), name="eventstore-handler", daemon=True)
        with self._lock:
            self._workers.append(worker)
        worker.thread.start()

    def _run(self, worker: _Worker) -> None:
        while not worker.abandoned:
            job = self._jobs.get()
            if job is None:
                return
            try:
                self._work(worker, job)
            except BaseException as error:  # noqa: BLE001 - told to whoever runs the pool
                self._fault(error)
        assert worker.job is not None
        assert worker.subject is not None
        self._ended(worker, worker.job[0], worker.subject)

    def _ended(self, given_up: _Worker | _Timed, lane: Lane, subject: Subject) -> None:
        """A call that was given up has ended after all."""
        lane.hung(subject)
        with self._lock, suppress(ValueError):  # it is none of those where the whole pool was stopped
            self._abandoned.remove(given_up)

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
            if outcome is GIVEN_UP:
                worker.left.wait()
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
                if outcome is GIVEN_UP:
                    worker.left.wait()
                    return
                worker.call = None
                call = revival.send(outcome)
        except StopIteration:
            pass
        finally:
            if not worker.abandoned:
                worker.revival = None

    def _abandon(self, worker: _Worker, job: Job, call: Call, limit: float) -> None:
        lane = job[0]
        assert worker.subject is not None
        # All of this before the call's thread may go on, should it end just now, and before anything that may fail.
        with self._lock:
            self._workers.remove(worker)
            self._abandoned.append(worker)
        lane.hang(worker.subject)
        if worker.waiting:
            self._jobs.put((lane, [*worker.waiting], None))
        worker.abandoned = True
        worker.left.set()
        self._settle_given_up(lane, call, worker.revival, limit)
        self._start_worker()

    def _settle_given_up(self, lane: Lane, call: Call, revival: Revival | None, limit: float) -> None:
        """Park the event of a call that still runs."""
        _log.warning(
            "a handler takes too long; its event is parked",
            extra={"handler": lane.handler.name, "position": call.fed.position, "seconds": limit},
        )
        if not call.cut():
            raise Hanging(
                f"the handler {lane.handler.name!r} takes longer than {limit:g} s with the event at position "
                f"{call.fed.position}, and its transaction cannot be ended: give what it waits for a time limit of its own"
            )
        outcome = Outcome(f"it took longer than {limit:g} s, and still ran then")
        if revival is None:
            lane.settle(call, outcome)
        else:
            with suppress(StopIteration):
                revival.send(outcome)
        if len(self._abandoned) > ABANDONED:
            raise Hanging(
                f"{len(self._abandoned)} calls of handlers never end, and cannot be stopped: give what they wait for "
                "a time limit of its own"
            )

    # The event loop

    async def _work_async(self, job: Job) -> Job | None:
        """Work at a job; the job again if there is more of it."""
        lane, [subject], letter = job
        try:
            if letter is not None:
                await self._revive_async(lane, letter)
                return None
            for _ in range(IN_A_ROW):
                fed = lane.next(subject)
                if fed is None:
                    return None
                call = Call(lane.mine, fed)
                outcome = await self._called(lane, call, None)
                if outcome is GIVEN_UP:
                    return None
                more = (
                    lane.settle(call, outcome) if outcome is HANDLED else await self._aside(lane.settle, call, outcome)
                )
                if not more:
                    return None
        except Exception as error:  # noqa: BLE001 - told to whoever runs the pool
            self._fault(error)
            return None
        return job

    async def _revive_async(self, lane: Lane, letter: HandlerDeadLetter) -> None:
        revival = lane.revival(letter)
        outcome: Outcome | None = None
        while True:
            call = await self._aside(_step, revival, outcome)
            if call is None:
                return
            outcome = await self._called(lane, call, revival)
            if outcome is GIVEN_UP:
                return

    async def _called(self, lane: Lane, call: Call, revival: Revival | None) -> Outcome:
        """Make a call, with a transaction set aside for it where its handler is known to want one and to wait meanwhile."""
        if lane not in self._reserving:
            outcome = await self._limited(lane, call, revival)
            if outcome is not BUSY:
                return outcome
            self._reserving.add(lane)
        again = call.again()
        await again.set_aside()
        outcome = await self._limited(lane, again, revival)
        call.committed = again.committed
        return outcome

    async def _limited(self, lane: Lane, call: Call, revival: Revival | None) -> Outcome:
        """Make a call that the watch ends when it takes too long."""
        limit = self._limit(lane)
        task = asyncio.current_task()
        assert task is not None
        until = math.inf if limit is None else time.monotonic() + limit
        timed = self._timed[task] = _Timed(lane, call, revival, until)
        if self._left.is_set():
            # It stood in line for its transaction, which became free because all others were given up.
            del self._timed[task]
            call.give_up()
            call.cut()
            return GIVEN_UP
        outcome = await call.run_async()
        del self._timed[task]
        if outcome is GIVEN_UP:
            while not timed.left.is_set():
                await asyncio.sleep(LOOK_SECONDS)
            self._ended(timed, lane, call.fed.subject)
            assert self._loop is not None
            self._loop.one_less()
        if timed.cancelled:
            task.uncancel()
            if outcome is not GIVEN_UP and outcome.reason is not None:
                return Outcome(f"it took longer than {limit:g} s")
        return outcome

    async def _aside(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call something of ours that waits for the database, in a thread that no handler keeps busy."""
        return await asyncio.get_running_loop().run_in_executor(self._ours, function, *arguments)

    def _watch_task(self, loop: Loop[Job], task: asyncio.Task[Any], timed: _Timed) -> None:
        over = time.monotonic() - timed.until
        if not timed.asked:
            timed.asked = True
            loop.call(self._cancel, task, timed)
        elif timed.cancelled:
            if time.monotonic() - timed.cancelled_at > CANCEL_SECONDS and timed.call.give_up():
                self._abandon_task(loop, timed)
        elif over > BLOCKED_SECONDS and self._timed.get(task) is timed:
            current = loop.current()
            at_it = timed if current is None else self._timed.get(current, timed)
            raise Hanging(
                f"the handler {at_it.lane.handler.name!r} blocks the event loop{loop.place()}, so that no other is called: await "
                "what it waits for, or make it a plain function"
            )

    def _cancel(self, task: asyncio.Task[Any], timed: _Timed) -> None:
        # In the loop's own thread: the call may have ended meanwhile, and another one been begun.
        if self._timed.get(task) is timed:
            timed.cancelled_at = time.monotonic()
            timed.cancelled = task.cancel()

    def _abandon_task(self, loop: Loop[Job], timed: _Timed) -> None:
        lane, call = timed.lane, timed.call
        with self._lock:
            self._abandoned.append(timed)
        lane.hang(call.fed.subject)
        loop.add_pump()
        timed.left.set()
        limit = self._limit(lane)
        assert limit is not None
        self._settle_given_up(lane, call, timed.revival, limit)


def _step(revival: Revival, outcome: Outcome | None) -> Call | None:
    try:
        return next(revival) if outcome is None else revival.send(outcome)
    except StopIteration:
        return None
