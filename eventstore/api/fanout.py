"""One reader of the log for all streams of a process, so that many clients cost it hardly more than one.

What is new is read once, made into bytes once, and kept in a ring of the latest events; each stream takes its pieces from
there at its own pace. A stream that begins before the ring, or falls behind it, reads pages of the log until it has caught up;
a few are read at a time, and streams at one place share them. Nothing is kept for a client but where it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import orjson
from anyio import CapacityLimiter, to_thread

from eventstore.errors import StoreUnavailable
from eventstore.following import json_of
from eventstore.log.reader import Filter
from eventstore.log.records import RecordedEvent
from eventstore.log.tail import Tail
from eventstore.store import EventStore

RING_EVENTS = 4_096
"""Events in the ring at most: a client that misses no more than these never makes the database work."""
RING_BYTES = 8 * 2**20
"""The same in bytes, for there are events of a megabyte."""
STEP_EVENTS = 512
"""Events that are read into the ring at a time."""
PIECE_BYTES = 64 * 2**10
"""What is handed to a connection at a time, unless one event is larger: as much as a connection buffers."""
PAGE_EVENTS = 256
PAGE_BYTES = 256 * 2**10
"""What a stream that is behind reads of the log at a time; a page that has more in it ends there."""
PAGES_AT_ONCE = 4
"""Pages that are read at the same time: others that need the database, and the writer, must not wait for those behind."""
PAGES_KEPT = 8
"""Pages that are kept for other streams: after a restart many go on from the same place."""
REST_FACTOR = 2.0
"""How much longer than the streams took to write a step the reader rests before the next: what comes meanwhile comes with that.
However many clients there are, the event loop keeps two thirds of its time for whoever sends events."""
LONGEST_REST_SECONDS = 0.25
CATCH_UP_SECONDS = 0.1
"""How long the reader waits at most for the streams, if it is half a ring ahead of most of them."""
AWAY_SECONDS = 1.0
"""How soon a page is tried again that could not be read."""
STALLED_SECONDS = 30.0
"""A client that makes no room in its connection for so long does not read, and is cut off."""
FAILED_SECONDS = 5.0
"""The same for the reader itself, after an error that is no outage."""
TICK_SECONDS = 1.0
"""How often it is looked for streams that are due a heartbeat, or whose clients do not read: a timer for each would cost more
than all else that a quiet stream does."""
END_SECONDS = 1.0
"""How long clients may take for what was sent to them when all streams are to end."""

_log = logging.getLogger("eventstore.stream")


class Frame(NamedTuple):
    """One event as it is sent, and what is asked of it."""

    position: int
    site_id: str
    coupon_id: str | None
    type: str
    text: bytes


def frame_of(record: RecordedEvent) -> Frame:
    """The event as a block of `text/event-stream`. No part of it can hold a line's end: JSON escapes them, types have none."""
    told = orjson.loads(record.payload)
    text = f"id: {record.position}\nevent: {told['type']}\ndata: {json_of(record)}\n\n"
    return Frame(record.position, told["site_id"], told.get("coupon_id"), told["type"], text.encode())


class Piece(NamedTuple):
    """Some events of a stream, joined; and the position up to which it has now seen all that it wants."""

    text: bytes
    position: int


class Ring:
    """The latest events, whose positions follow upon each other. `first` and `last`: where it begins and ends."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._frames: list[Frame] = []
        self._size = 0
        # Streams are mostly at one place and want the same: what is joined for the first serves the others.
        self._joined: dict[tuple[int, Filter], Piece] = {}

    @property
    def first(self) -> int:
        return self.last - len(self._frames) + 1

    def extend(self, frames: list[Frame]) -> None:
        """Take in what comes next, and forget the oldest where it is too much: a quarter at a time."""
        self._joined.clear()
        for frame in frames:
            assert frame.position == self.last + 1, "the log has no gaps"
            self.last = frame.position
            self._frames.append(frame)
            self._size += len(frame.text)
        if len(self._frames) > RING_EVENTS or self._size > RING_BYTES:
            gone = 0
            while len(self._frames) - gone > RING_EVENTS * 3 // 4 or self._size > RING_BYTES * 3 // 4:
                self._size -= len(self._frames[gone].text)
                gone += 1
            del self._frames[:gone]

    def piece(self, after: int, wanted: Filter) -> Piece:
        """The next of the wanted events after a position that is not before the ring."""
        found = self._joined.get((after, wanted))
        if found is None:
            found = self._joined[after, wanted] = self._join(after, wanted)
        return found

    def _join(self, after: int, wanted: Filter) -> Piece:
        parts: list[bytes] = []
        size = 0
        for number in range(after - self.first + 1, len(self._frames)):
            frame = self._frames[number]
            if not wanted.takes(frame.site_id, frame.coupon_id, frame.type):
                continue
            if parts and size + len(frame.text) > PIECE_BYTES:
                return Piece(b"".join(parts), frame.position - 1)
            parts.append(frame.text)
            size += len(frame.text)
        return Piece(b"".join(parts), max(after, self.last))


class _Page(NamedTuple):
    """What stands in the log behind a position, in pieces. `more`: it is not known to be all. `closed`: so is the store."""

    texts: list[bytes]
    position: int
    more: bool = False
    closed: bool = False


class Fanout:
    """The events of a store for any number of followers in one event loop."""

    def __init__(self, store: EventStore) -> None:
        self.ended = False
        self._store = store
        self._ring: Ring | None = None
        self._grown = asyncio.Event()
        self._followers: set[Follower] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._reader = CapacityLimiter(1)
        self._paging = CapacityLimiter(PAGES_AT_ONCE)
        self._pages: OrderedDict[tuple[Filter, int], asyncio.Task[_Page]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    @contextmanager
    def follower(self, wanted: Filter, after: int, cut_off: Callable[[], None]) -> Iterator[Follower]:
        """One that wants these events after a position. Within it the log is read; the last one to leave ends that.

        `cut_off` ends its connection: should it not read, or not have left END_SECONDS after `end`.
        """
        follower = Follower(self, wanted, after, cut_off)
        self._followers.add(follower)
        if not self._tasks and not self.ended:
            self._tasks = [asyncio.create_task(work()) for work in (self._read, self._tick)]
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._stop()

    async def head(self) -> int:
        """The position of the last event."""
        return await to_thread.run_sync(self._store.head, limiter=self._paging, abandon_on_cancel=True)

    def has_read(self, position: int) -> bool:
        """Whether this position is known to be in the log, without asking the database."""
        return self._ring is not None and position <= self._ring.last

    def end(self) -> None:
        """End all streams, and let no other begin."""
        self.ended = True
        self._stop()
        self._wake()
        asyncio.get_running_loop().call_later(END_SECONDS, self._cut_off_all)

    def _cut_off_all(self) -> None:
        for follower in self._followers:
            follower.cut_off()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._ring = None
        self._pages.clear()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = asyncio.get_running_loop().time()
            for follower in [each for each in self._followers if each.given_at < now - STALLED_SECONDS]:
                _log.info("a client of a stream does not read, and is cut off")
                follower.cut_off()
            self._wake()

    # The reader

    async def _read(self) -> None:
        while True:
            try:
                await self._fill()
            except StoreUnavailable:  # it is closed
                self.ended = True
                self._wake()
                return
            except Exception as error:  # noqa: BLE001 - as long as there are streams, it has to be tried again
                _log.warning("the log cannot be read for streams", extra={"reason": type(error).__name__})
            await asyncio.sleep(FAILED_SECONDS)

    async def _fill(self) -> None:
        """Read on from the end of the ring, for ever. Raises StoreUnavailable once the store is closed."""
        ring = self._ring
        if ring is None:
            ring = self._ring = Ring(await self.head())
            self._wake()
        tail = Tail(self._store.engine, self._store.hints, after=ring.last, page=STEP_EVENTS)
        loop = asyncio.get_running_loop()
        grown = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(grown.set)

        with tail.woken_by_growth(wake):
            while True:
                # First this, so that a commit while the log is being read is looked for.
                grown.clear()
                frames = await to_thread.run_sync(_step, tail, limiter=self._reader, abandon_on_cancel=True)
                if frames:
                    ring.extend(frames)
                    await self._let_write(ring)
                rest = tail.rest(delivered=bool(frames))
                if rest is None:
                    raise StoreUnavailable("the store is closed")
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await grown.wait()

    async def _let_write(self, ring: Ring) -> None:
        """Leave the loop to the streams. No client is waited for, but where most are far behind it is the loop that is."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._wake()
        # It comes back behind all those that were woken: they have written by then.
        await asyncio.sleep(0)
        await asyncio.sleep(min(LONGEST_REST_SECONDS, REST_FACTOR * (loop.time() - begun)))
        patience = CATCH_UP_SECONDS
        while patience > 0 and self._most_are_behind(ring):
            await asyncio.sleep(CATCH_UP_SECONDS / 10)
            patience -= CATCH_UP_SECONDS / 10

    def _most_are_behind(self, ring: Ring) -> bool:
        half = (ring.first + ring.last) // 2
        behind = sum(ring.first - 1 <= follower.position < half for follower in self._followers)
        return ring.last - ring.first > RING_EVENTS // 4 and 2 * behind > len(self._followers)

    # Pages of those behind

    async def _page(self, wanted: Filter, after: int) -> _Page:
        key = (wanted, after)
        reading = self._pages.get(key)
        if reading is None:
            reading = self._pages[key] = asyncio.create_task(self._read_page(wanted, after))
            reading.add_done_callback(partial(self._forget_unless_full, key))
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return await asyncio.shield(reading)

    async def _read_page(self, wanted: Filter, after: int) -> _Page:
        try:
            return await to_thread.run_sync(
                _page, self._store, wanted, after, limiter=self._paging, abandon_on_cancel=True
            )
        except Exception as error:  # noqa: BLE001 - tried again, as by the reader
            _log.warning("a page cannot be read for a stream", extra={"reason": type(error).__name__})
            return _Page([], after)

    def _forget_unless_full(self, key: tuple[Filter, int], reading: asyncio.Task[_Page]) -> None:
        # More may stand behind the end of the log by the time that another asks.
        if self._pages.get(key) is reading and (reading.cancelled() or not reading.result().more):
            del self._pages[key]


class Follower:
    """One stream's way through the log. `position`: up to there it has been given all that it wants."""

    def __init__(self, fanout: Fanout, wanted: Filter, after: int, cut_off: Callable[[], None]) -> None:
        self.position = after
        self.cut_off = cut_off
        self.given_at = math.inf
        """Since when it is busy with what it was given last; never, while it waits for more."""
        self._fanout = fanout
        self._wanted = wanted

    async def blocks(self, heartbeat: float) -> AsyncGenerator[bytes, None]:
        """The events as they come, several at once where there are; b"" after so many seconds without one. Until the end."""
        loop = asyncio.get_running_loop()
        given_at = loop.time()
        async for text in self._pieces():
            if not text and loop.time() < given_at + heartbeat:
                continue
            self.given_at = given_at = loop.time()
            yield text
            self.given_at = math.inf

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """The same, with b"" whenever there is nothing: every TICK_SECONDS at least."""
        fanout = self._fanout
        while not fanout.ended:
            # First this, so that what comes while the ring is looked at is not waited for.
            grown, ring = fanout._grown, fanout._ring
            if ring is not None and self.position < ring.first - 1:
                page = await fanout._page(self._wanted, self.position)
                for text in page.texts:
                    yield text
                if page.closed:
                    return
                if page.position == self.position:
                    yield b""
                    await asyncio.sleep(AWAY_SECONDS)
                self.position = page.position
                continue
            if ring is not None:
                piece = ring.piece(self.position, self._wanted)
                self.position = piece.position
                if piece.text:
                    yield piece.text
                    continue
            yield b""
            await grown.wait()


def _step(tail: Tail) -> list[Frame]:
    return [frame_of(record) for record in tail.read()]


def _page(store: EventStore, wanted: Filter, after: int) -> _Page:
    if store.hints.closed:
        return _Page([], after, closed=True)
    tail = Tail(store.engine, store.hints, wanted, after=after, page=PAGE_EVENTS, listen=False)
    records = tail.read()
    position, more = tail.position, len(records) == PAGE_EVENTS
    texts: list[bytes] = []
    part: list[bytes] = []
    size = total = 0
    for frame in map(frame_of, records):
        if total and total + len(frame.text) > PAGE_BYTES:
            position, more = frame.position - 1, True
            break
        if part and size + len(frame.text) > PIECE_BYTES:
            texts.append(b"".join(part))
            part, size = [], 0
        part.append(frame.text)
        size += len(frame.text)
        total += len(frame.text)
    if part:
        texts.append(b"".join(part))
    return _Page(texts, position, more)
