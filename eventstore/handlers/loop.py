"""The event loop in which async handlers are called, in a thread of its own; none of its threads keeps a program from ending."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from eventstore.errors import EventStoreError

ENDING_SECONDS = 1.0
"""How long cancelled calls may take to end once the loop is to."""
HELPERS = min(32, (os.cpu_count() or 1) + 4)
"""Threads for handlers that use `asyncio.to_thread`: as many as asyncio itself would take."""

_Job = TypeVar("_Job")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class DaemonThreads(ThreadPoolExecutor):
    """As its base, but whatever still runs in it does not keep the program from ending: a handler's `asyncio.to_thread` may
    be at something that takes minutes."""

    def __init__(self, most: int) -> None:
        super().__init__(max_workers=most)
        self._most = most
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._started = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Have it called in one of the threads. Raises RuntimeError after `shutdown`."""
        future: Future[_R] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                found = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - told to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(found)

        with self._guard:
            if self._closed:
                raise RuntimeError("the threads of the handlers' event loop have ended")
            if self._idle:
                self._idle -= 1
            elif self._started < self._most:
                self._started += 1
                threading.Thread(target=self._serve, name="eventstore-handlers-helper", daemon=True).start()
            self._work.put(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the base's
        """Let the threads end once what was handed over is done; nobody waits for them."""
        with self._guard:
            if not self._closed:
                self._closed = True
                for _ in range(self._started):
                    self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work
            with self._guard:
                if self._work.empty():
                    self._idle += 1


class Loop(Generic[_Job]):
    """An event loop in a thread, in which a number of pumps work at jobs: `work` does, and gives a job again if there is more
    of it. `fault`: as the pool's."""

    def __init__(
        self,
        pumps: int,
        work: Callable[[_Job], Awaitable[_Job | None]],
        fault: Callable[[BaseException], None],
    ) -> None:
        self._work = work
        self._fault = fault
        self._pumps = pumps
        self._running: set[asyncio.Task[None]] = set()
        self._surplus = 0
        self._jobs: deque[_Job] = deque()
        self._more = asyncio.Event()
        self._ended = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="eventstore-handlers-async", daemon=True)
        self._thread.start()

    def put(self, jobs: list[_Job]) -> None:
        """Have jobs worked at. For any thread, as all of these."""
        self._jobs.extend(jobs)
        self.call(self._more.set)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have something called in the loop's thread; nothing once that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def add_pump(self) -> None:
        """Have one more, in the place of one whose job may never end."""
        self.call(self._add_pump)

    def one_less(self) -> None:
        """That job has ended. In the loop's thread."""
        self._surplus += 1

    def current(self) -> asyncio.Task[Any] | None:
        """The task that runs just now."""
        return asyncio.current_task(self._loop)

    def place(self) -> str:
        """Where the loop's thread stands just now, for people."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "" if frame is None else f" at {frame.f_code.co_filename.rpartition('/')[2]}, line {frame.f_lineno}"

    def stop(self, timeout: float, leave: Callable[[], None]) -> bool:
        """Let the pumps end their jobs; after so many seconds `leave` is called and what still runs is cancelled: False."""
        self._ended = True
        self.call(self._more.set)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        leave()
        self.call(self._cancel)
        self._thread.join(ENDING_SECONDS)
        return False

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        helpers = DaemonThreads(HELPERS)
        self._loop.set_default_executor(helpers)
        try:
            self._loop.run_until_complete(self._main())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        except BaseException as error:  # noqa: BLE001 - a task that a handler left behind has ended the loop
            self._fault(
                EventStoreError(
                    f"the event loop of the async handlers was ended by one of them: {type(error).__name__}"
                )
            )
        finally:
            helpers.shutdown()
            self._loop.close()

    async def _main(self) -> None:
        for _ in range(self._pumps):
            self._add_pump()
        while self._running:
            await asyncio.wait(self._running)
        # What handlers have begun and left behind.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=ENDING_SECONDS)

    def _add_pump(self) -> None:
        task = self._loop.create_task(self._pump())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _pump(self) -> None:
        while not self._ended:
            if self._surplus:
                self._surplus -= 1
                return
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
