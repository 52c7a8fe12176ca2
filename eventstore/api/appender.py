"""Waiting in the event loop for what the writer's thread has made durable."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future

from eventstore.log.records import Outcome, Prepared, Rejected
from eventstore.store import EventStore


class Appender:
    """Appends for the requests of one event loop.

    The writer commits many requests at once. `asyncio.wrap_future` would wake the loop for each of them; here one wake-up
    answers all that a commit has made durable.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._done: deque[tuple[asyncio.Future[list[Outcome]], Future[list[Outcome]]]] = deque()
        self._told = False

    async def append(self, entries: list[Prepared | Rejected]) -> list[Outcome]:
        """One outcome for each entry, once they are durable. Raises StoreUnavailable.

        Given up (cancelled) by a caller who has waited long enough, they may become durable all the same.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Outcome]] = loop.create_future()

        def durable(future: Future[list[Outcome]]) -> None:
            # In the writer's thread. What it adds before the loop has looked is answered by the same look.
            self._done.append((answer, future))
            if not self._told:
                self._told = True
                loop.call_soon_threadsafe(self._answer)

        self._store.submit(entries).add_done_callback(durable)
        return await answer

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
