"""Waiting in an event loop, and not for ever, for what the writer's thread makes durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from eventstore.errors import StoreUnavailable
from eventstore.log.records import Outcome, Prepared, Rejected

SWEEP_SECONDS = 0.05
"""How often it is looked for those who have waited long enough: a timer for each of them would cost as much as their answer."""

Answer = asyncio.Future[list[Outcome]]


class Appender:
    """Appends for the callers of one event loop, each of whom waits up to `seconds` for the commit.

    The writer commits for many callers at once. `asyncio.wrap_future` would wake the loop for each of them; here one wake-up
    answers all that a commit has made durable.
    """

    def __init__(self, submit: Callable[[list[Prepared | Rejected]], Future[list[Outcome]]], seconds: float) -> None:
        self._submit = submit
        self._seconds = seconds
        self._done: deque[tuple[Answer, Future[list[Outcome]]]] = deque()
        self._told = False
        self._waiting: deque[tuple[float, Answer]] = deque()
        self._sweeping = False

    async def append(self, entries: list[Prepared | Rejected]) -> list[Outcome]:
        """One outcome for each entry, once they are durable.

        Raises StoreUnavailable, also when that takes too long: they may become durable all the same. So they may when the
        caller is cancelled.
        """
        return await self.submit(entries)

    def submit(self, entries: list[Prepared | Rejected]) -> Answer:
        """Hand the entries to the writer now; the future is what `append` waits for. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()

        def durable(future: Future[list[Outcome]]) -> None:
            # In the writer's thread. What it adds before the loop has looked is answered by the same look.
            self._done.append((answer, future))
            if not self._told:
                self._told = True
                # A loop that has ended meanwhile has nobody left who waits.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._answer)

        self._submit(entries).add_done_callback(durable)
        self._waiting.append((loop.time() + self._seconds, answer))
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep)
        return answer

    def _answer(self) -> None:
        # First this, so that what is added while the queue is emptied is not forgotten.
        self._told = False
        while self._done:
            answer, future = self._done.popleft()
            if answer.done():
                continue
            error = future.exception()
            if error is None:
                answer.set_result(future.result())
            else:
                answer.set_exception(error)

    def _sweep(self) -> None:
        """Let go of those whose time is up; they wait in the order in which it is."""
        loop = asyncio.get_running_loop()
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= loop.time()):
            answer = self._waiting.popleft()[1]
            if not answer.done():
                answer.set_exception(too_late())
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep)


def too_late() -> StoreUnavailable:
    """What a sender hears, before it stops listening, of an event that is not durable yet."""
    return StoreUnavailable("the event was not durable in time; send it again, it is not kept twice", retry_after=5.0)
