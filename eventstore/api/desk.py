"""Where reports are asked for: the event loop's side of `analytics.answering.Answering`, which works in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from eventstore.config import Settings
from eventstore.errors import StoreUnavailable
from eventstore.store import EventStore

if TYPE_CHECKING:
    from analytics.answering import Answering, Question, Tally

LOOKING_THREADS = 4
"""Threads for what is answered at once: those that wait for a computation must not keep it waiting."""
ASKING_THREADS = 32
"""Questions that may wait or be computed at once; past that, 503."""
ABANDON_SECONDS = 0.05
"""How often a question that nobody waits for is told to end, until it has."""

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Desk:
    """The questions of one app. What they need (DuckDB, the lake) is made when the first is asked. Close it."""

    def __init__(self, store: EventStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._looking = CapacityLimiter(LOOKING_THREADS)
        self._asking = CapacityLimiter(ASKING_THREADS)
        self._making = Lock()
        self._answering: Answering | None = None
        self._closed = False

    @property
    def answering(self) -> Answering:
        """What answers. Not for the event loop: it may have to be made."""
        with self._making:
            if self._closed:
                raise StoreUnavailable("the server is stopping")
            if self._answering is None:
                from analytics.answering import Answering

                self._answering = Answering(
                    self._store.engine,
                    lake=self._store.lake,
                    catalogue=self._store.catalogue,
                    time_limit=self._settings.report_seconds,
                    memory_limit=self._settings.report_memory,
                    most_rows=self._settings.report_rows,
                )
            return self._answering

    def tallies(self) -> dict[str, Tally]:
        """What was answered so far, by report."""
        with self._making:
            return {} if self._answering is None else self._answering.tallies()

    @property
    def running(self) -> int:
        """Questions that are computed now."""
        return 0 if self._answering is None else self._answering.running

    async def quickly(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Call what takes no longer than a look into the database."""
        return await to_thread.run_sync(function, *arguments, limiter=self._looking)

    async def patiently(self, request: Request, question: Question, function: Callable[[], Result]) -> Result:
        """Call what answers the question, however long it takes; if the caller leaves meanwhile, the question is ended.

        Raises StoreUnavailable when too many wait already.
        """
        if self._asking.available_tokens < 1:
            raise StoreUnavailable("too many questions wait for an answer; ask again")
        work = asyncio.ensure_future(to_thread.run_sync(function, limiter=self._asking))
        leaving = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            leaving.cancel()
            while not work.done():
                question.abandon()
                await asyncio.wait({work}, timeout=ABANDON_SECONDS)
            work.exception()  # if the question was ended, nobody else retrieves it

    def close(self) -> None:
        """End what is under way."""
        with self._making:
            self._closed = True
            answering = self._answering
        if answering is not None:
            answering.close()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
