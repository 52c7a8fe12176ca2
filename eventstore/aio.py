"""The store for programs that run in an event loop: `AsyncEventStore`, whose verbs wait without keeping the loop from others.

Appends wait for the writer's thread, and one wake-up of the loop answers all that a commit has made durable. Reads go to a few
threads; between two reads a stream or a tail holds neither a thread nor a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from eventstore.backoff import FULL_QUEUE_SECONDS
from eventstore.config import DEFAULT_SITE, DEFAULT_URL
from eventstore.errors import StoreUnavailable
from eventstore.event import Event
from eventstore.log import reader
from eventstore.log.appender import Answer, Appender
from eventstore.log.reader import Filter, Types
from eventstore.log.records import Outcome, Prepared, RecordedEvent, Rejected, prepare
from eventstore.log.tail import Tail
from eventstore.log.writer import QUEUE_EVENTS
from eventstore.store import APPEND_TIMEOUT, EventStore

READ_THREADS = 8
"""Reads at once; others wait for their turn. Fewer than the database connections that an engine opens at most."""
CHUNK_EVENTS = 1_000
"""Events that a stream hands to the writer as one piece, at most: a piece is prepared while the one before it is written."""
CHUNKS_UNDER_WAY = 3
"""Pieces of one stream that wait for their commit at most."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AsyncEventStore:
    """An EventStore for one event loop: its verbs mean the same, are awaited, and never keep the loop waiting.

    `async with AsyncEventStore.open(url) as store:`, or `store = await AsyncEventStore.open(url)` and `await store.close()`.
    What has no verb here is a call away: `await store.run(store.sync.coupon, "c-1")`.

    Whatever awaits may be cancelled. A cancelled append may still become durable: sent again, it is not kept twice. A read that
    is cancelled is finished by its thread, and its answer dropped.
    """

    def __init__(self, store: EventStore) -> None:
        """Speak for a store that is open; closing this one closes it."""
        self.sync = store
        self._appender = Appender(store.submit, APPEND_TIMEOUT)
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="eventstore-reads")
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str | Path = DEFAULT_URL,
        *,
        create: bool = True,
        site: str = DEFAULT_SITE,
        queue_events: int = QUEUE_EVENTS,
        projections: Sequence[str | Path] = (),
    ) -> Opening:
        """Open the store at a URL or a SQLite path, as `EventStore.open` does; to be awaited, or used in `async with`."""
        return Opening(
            partial(EventStore.open, url, create=create, site=site, queue_events=queue_events, projections=projections)
        )

    async def close(self) -> None:
        """Write what waits, end the tails, release the database. Verbs under way are finished; later ones are refused."""
        self._closed = True
        await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        # First, so that no thread is kept by a tail.
        self.sync.hints.close()
        self._threads.shutdown()
        self.sync.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(
        self, verb: Callable[Arguments, Result], /, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Call a verb of `sync`, or anything that waits for the database, in one of the store's READ_THREADS threads.

        Raises StoreUnavailable once the store is closed.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed; open it anew")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(verb, *arguments, **named))

    # Appending

    async def append(self, event: Event, *, original: bytes | None = None) -> Outcome:
        """Append one event and wait until it is durable. `original`: the exact bytes it was delivered as.

        Raises StoreUnavailable when too much is waiting already, or after APPEND_TIMEOUT seconds.
        """
        return (await self._appender.append([prepare(event, original, unfinished=True)]))[0]

    async def append_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> AsyncGenerator[Outcome, None]:
        """Append a stream of events, giving one outcome each, in order, once it is durable. Memory stays bounded.

        Events of an asynchronous source are appended as they come, however slowly; a plain iterable is read in a thread. When
        the source fails, the outcomes of what it gave before come first, and then its error.
        """
        under_way: asyncio.Queue[Answer | None] = asyncio.Queue(CHUNKS_UNDER_WAY)
        feeding = asyncio.create_task(self._feed(events, under_way))
        try:
            while (answer := await under_way.get()) is not None:
                for outcome in await answer:
                    yield outcome
            await feeding
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})
            while not under_way.empty():
                left = under_way.get_nowait()
                if left is not None:
                    left.cancel()

    async def _feed(
        self, events: Iterable[Event] | AsyncIterable[Event], under_way: asyncio.Queue[Answer | None]
    ) -> None:
        chunks = _as_they_come(events) if isinstance(events, AsyncIterable) else self._in_a_thread(events)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    entries = await self.run(_prepare_all, chunk)
                    await under_way.put(await self._submit_patiently(entries))
        except BaseException:
            # A source may raise CancelledError of its own accord. Only whoever has cancelled this task looks no more.
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                await under_way.put(None)
            raise
        await under_way.put(None)

    async def _in_a_thread(self, events: Iterable[Event]) -> AsyncGenerator[list[Event], None]:
        source = iter(events)
        while True:
            chunk, error = await self.run(_take, source)
            if chunk:
                yield chunk
            if error is not None:
                raise error
            if not chunk:
                return

    async def _submit_patiently(self, entries: list[Prepared | Rejected]) -> Answer:
        """Wait for room in the queue rather than fail: up to APPEND_TIMEOUT seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + APPEND_TIMEOUT
        while True:
            try:
                return self._appender.submit(entries)
            except StoreUnavailable:
                if self._closed or loop.time() > deadline:
                    raise
            await asyncio.sleep(FULL_QUEUE_SECONDS)

    # Reading

    async def head(self) -> int:
        """The position of the last event; 0 for an empty log."""
        return await self.run(self.sync.head)

    async def read(
        self,
        *,
        after: int = 0,
        limit: int = reader.PAGE_EVENTS,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
    ) -> list[RecordedEvent]:
        """A page of events with positions above `after`, in order."""
        return await self.run(
            self.sync.read, after=after, limit=limit, site_id=site_id, coupon_id=coupon_id, type_=type_
        )

    async def find(self, event_id: str, *, site_id: str | None = None) -> RecordedEvent:
        """The event with this id, or at this position. Raises NotFound, and InputError if several sites have that id."""
        return await self.run(self.sync.find, event_id, site_id=site_id)

    async def stream(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Every event above `after`, in order, up to `until` (default: the head as it is now), in bounded memory."""
        pages = reader.stream_pages(
            self.sync.engine, after=after, until=until, site_id=site_id, coupon_id=coupon_id, type_=type_
        )
        while page := await self.run(_next, pages):
            for record in page:
                yield record

    def tail(
        self,
        *,
        after: int = 0,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
        idle_timeout: float | None = None,
        poll: float | None = None,
        listen: bool = True,
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Every event above `after`, in order, each once, and then every new one as it is committed: see `EventStore.tail`.

        It ends when its task is cancelled or stops iterating, when the store is closed, or after `idle_timeout` seconds
        without an event.
        """
        return _flat(
            self.tail_pages(
                after=after,
                site_id=site_id,
                coupon_id=coupon_id,
                type_=type_,
                idle_timeout=idle_timeout,
                poll=poll,
                listen=listen,
            )
        )

    def tail_pages(
        self,
        *,
        after: int = 0,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
        page: int = reader.PAGE_EVENTS,
        idle_timeout: float | None = None,
        poll: float | None = None,
        listen: bool = True,
    ) -> AsyncGenerator[list[RecordedEvent], None]:
        """`tail` in lists of at most `page` events and at least one."""
        return self._pages(
            Tail(
                self.sync.engine,
                self.sync.hints,
                Filter(site_id, coupon_id, type_),
                after=after,
                page=page,
                idle_timeout=idle_timeout,
                poll=poll,
                listen=listen,
            )
        )

    async def _pages(self, tail: Tail) -> AsyncGenerator[list[RecordedEvent], None]:
        loop = asyncio.get_running_loop()
        grown = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended, and the tail with it
                loop.call_soon_threadsafe(grown.set)

        with tail.woken_by_growth(wake):
            while not self._closed:
                # First this, so that a commit while the log is being read is looked for.
                grown.clear()
                found = await self.run(tail.read)
                if found:
                    yield found
                rest = tail.rest(delivered=bool(found))
                if rest is None:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await grown.wait()


class Opening:
    """A store on its way to be open: `await` it, or enter it with `async with`, which also closes it."""

    def __init__(self, open_: Callable[[], EventStore]) -> None:
        self._open = open_
        self._store: AsyncEventStore | None = None

    def __await__(self) -> Generator[Any, None, AsyncEventStore]:
        return self._opened().__await__()

    async def __aenter__(self) -> AsyncEventStore:
        self._store = await self._opened()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._store is not None
        await self._store.close()

    async def _opened(self) -> AsyncEventStore:
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            return AsyncEventStore(await asyncio.shield(opening))
        except asyncio.CancelledError:
            # The thread opens it all the same; nobody else will close it.
            opening.add_done_callback(_close_unwanted)
            raise


def _close_unwanted(opening: asyncio.Future[EventStore]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _as_they_come(events: AsyncIterable[Event]) -> AsyncGenerator[list[Event], None]:
    """What an asynchronous source has given meanwhile, in pieces: a slow one must not wait for a piece to be full."""
    gathered: list[Event] = []
    there, room = asyncio.Event(), asyncio.Event()

    async def gather() -> None:
        async for event in events:
            gathered.append(event)
            there.set()
            if len(gathered) >= CHUNK_EVENTS:
                room.clear()
                await room.wait()

    gathering = asyncio.create_task(gather())
    gathering.add_done_callback(lambda _: there.set())
    try:
        while True:
            await there.wait()
            ended = gathering.done()
            if not ended:
                there.clear()
            chunk = gathered.copy()
            gathered.clear()
            room.set()
            if chunk:
                yield chunk
            elif ended:
                gathering.result()
                return
    finally:
        gathering.cancel()
        await asyncio.wait({gathering})


async def _flat(pages: AsyncGenerator[list[RecordedEvent], None]) -> AsyncGenerator[RecordedEvent, None]:
    async with aclosing(pages):
        async for page in pages:
            for record in page:
                yield record


def _prepare_all(chunk: list[Event]) -> list[Prepared | Rejected]:
    return [prepare(event) for event in chunk]


def _take(source: Iterator[Event]) -> tuple[list[Event], Exception | None]:
    """The next piece of a plain source, and what it raised after it."""
    chunk: list[Event] = []
    try:
        chunk.extend(islice(source, CHUNK_EVENTS))
    except Exception as error:  # noqa: BLE001 - raised again, after the outcomes of what came before
        return chunk, error
    return chunk, None


def _next(pages: Iterable[list[RecordedEvent]]) -> list[RecordedEvent] | None:
    return next(iter(pages), None)
