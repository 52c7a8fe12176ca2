"""One process's time as the runner of a set of handlers: from taking them over until it stops, or loses them.

One thread, the caller's, reads the log for all of them and keeps their places; others call them (`pool.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from eventstore.handlers import dead_letters, positions
from eventstore.handlers.calls import Mine
from eventstore.handlers.feed import Fed, advance
from eventstore.handlers.gate import Rules
from eventstore.handlers.lanes import ROOM, Lane
from eventstore.handlers.pool import CONCURRENCY, TIME_LIMIT, WORKERS, Hanging, Pool
from eventstore.handlers.registry import Handler
from eventstore.log.engine import is_sqlite, is_unavailable
from eventstore.log.reader import head

PAGE_EVENTS = 1_000
"""Events read at a time."""
CLAIMED_AHEAD = 1_000
"""How much further than was read is said to be begun, perhaps: so that is written once for so many events. After a process has
died these are begun one at a time."""
SAVE_SECONDS = 0.5
"""How often at most it is written down how far handlers are. What was handled since is handled again after a crash."""
LOOK_SECONDS = 0.5
"""How often dead letters that are due are looked for."""
STOP_SECONDS = 10.0
"""How long calls under way may take to end once the runner is told to stop."""

_log = logging.getLogger("eventstore.handlers")


@dataclass(frozen=True, slots=True)
class Limits:
    """How a set is run: see the constants of the same names."""

    workers: int = WORKERS
    concurrency: int = CONCURRENCY
    time_limit: float = TIME_LIMIT
    rules: Rules = field(default_factory=Rules)


class Session:
    """See the module. Make it, `step` and `rest` in turn, and `close` it. Raises the database's errors.

    `until`: what stands above is not handled. `before`: see `positions.take_over`.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        handlers: Sequence[Handler],
        begin: int,
        limits: Limits,
        *,
        until: int | None = None,
        before: Mapping[str, int] | None = None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._woken = threading.Event()
        self._fault: BaseException | None = None
        self._saved_at = self._looked_at = 0.0
        self.head = 0
        """The end of the log as it was last seen."""
        self._until = until
        standings = positions.take_over(engine, name, {each.name: begin for each in handlers}, before)
        self.lanes: list[Lane] = []
        self._pool = Pool(
            workers=limits.workers if any(not each.is_async for each in handlers) else 0,
            concurrency=limits.concurrency,
            time_limit=limits.time_limit,
            with_async=any(each.is_async for each in handlers),
            fault=self._failed,
        )
        try:
            last = head(engine)
            for each in handlers:
                standing = standings[each.name]
                attempts = limits.rules.attempts if each.attempts is None else each.attempts
                wait = timedelta(seconds=limits.rules.retry_seconds[0])
                alive = (before or {}).get(each.name) == standing.epoch - 1
                dead_letters.found_begun(engine, name, each.name, attempts, wait, alive=alive)
                with engine.connect() as connection:
                    parked = dead_letters.open_subjects(connection, name, each.name)
                # What is recorded from now on nobody has begun.
                standing = replace(standing, claimed=max(min(standing.claimed, last), standing.position))
                mine = Mine(engine, each, positions.Holder(name, each.name, standing.epoch))
                self.lanes.append(Lane(mine, standing, parked, limits.rules, self._pool.put, self._woken.set))
                if self.lanes[-1].is_careful:
                    _log.warning(
                        "the process before ended in the midst of it; events that it may have begun are handled one at a time",
                        extra={"handler": each.name, "after": standing.position, "until": standing.claimed},
                    )
        except BaseException:
            self._pool.stop(0)
            raise

    def wake(self) -> None:
        """There may be something to do. For any thread."""
        self._woken.set()

    @property
    def epochs(self) -> dict[str, int]:
        """In which epoch each handler is held."""
        return {lane.handler.name: lane.mine.holder.epoch for lane in self.lanes}

    @property
    def lost(self) -> bool:
        """Whether some handler is another process's now, or was moved by a person."""
        return any(lane.lost for lane in self.lanes)

    @property
    def caught_up(self) -> bool:
        """Whether every handler has done with all that there was, what is parked or waits for a pause apart."""
        return all(lane.read_to >= self.head and (lane.is_idle or lane.paused) for lane in self.lanes)

    @property
    def nearly_there(self) -> bool:
        """Whether every handler that takes events was given all that there was."""
        return all(lane.read_to >= self.head or not lane.is_open for lane in self.lanes)

    def step(self) -> bool:
        """Feed what there is room for, try again what is due, save; True if there was something to read.

        Raises what failed in a call's thread that was no fault of its handler.
        """
        try:
            return self._step()
        except Exception as error:
            # A call that never ends may be why the database fails.
            if isinstance(self._fault, Hanging) and error is not self._fault:
                raise self._fault from error
            raise

    def _step(self) -> bool:
        if self._fault is not None:
            raise self._fault
        self._woken.clear()
        for lane in self.lanes:
            lane.tick()
        moved = self._feed()
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        # Of an event that was begun alone it is written down at once that it did not end its process.
        if now - self._saved_at >= SAVE_SECONDS or any(lane.is_alone and lane.is_idle for lane in self.lanes):
            self._save_patiently({})
        return moved

    def rest(self, seconds: float) -> None:
        """Wait until there may be something to do, so long at most."""
        self._woken.wait(seconds)

    def close(self, *, seconds: float = STOP_SECONDS) -> bool:
        """Let the calls under way end, and write down how far it is; False if some go on after so many seconds."""
        for lane in self.lanes:
            lane.close()
        ended = self._pool.stop(seconds)
        if self._fault is None:
            for lane in self.lanes:
                if not lane.lost:
                    # What was being tried again is no failure of it.
                    lane.put_off_begun()
            self._save({}, last=ended)
        return ended

    # The log

    def _feed(self) -> bool:
        self.head = head(self._engine) if self._until is None else self._until
        groups: dict[int, list[Lane]] = defaultdict(list)
        moved = False
        for lane in self.lanes:
            if lane.read_to >= self.head or not lane.is_open:
                continue
            if lane.is_careful:
                # Of those that are careful one at a time, so that a death is blamed on the event that was under way.
                if not any(each.is_alone and not each.is_idle and not each.paused for each in self.lanes):
                    moved = self._feed_one(lane) or moved
            elif lane.room < ROOM:
                groups[lane.read_to].append(lane)
        for after, several in groups.items():
            self._feed_together(after, several)
            moved = True
        return moved

    def _feed_together(self, after: int, lanes: Sequence[Lane]) -> None:
        types: frozenset[str] | None = frozenset()
        for lane in lanes:
            types = None if types is None or lane.handler.types is None else types | lane.handler.types
        page = advance(self._engine, types, after=after, limit=PAGE_EVENTS, until=self._until)
        short = {lane.handler.name: page.position + CLAIMED_AHEAD for lane in lanes if page.position > lane.claimed}
        if short and not self._save_patiently(short):
            return
        for lane in lanes:
            if not lane.lost:
                lane.feed(page.events, page.position)

    def _feed_one(self, lane: Lane) -> bool:
        if not lane.is_idle:
            return False
        page = advance(
            self._engine, lane.handler.types, after=lane.read_to, limit=1, until=min(lane.careful_to, self.head)
        )
        wanted = [each for each in page.events if lane.wants(each)]
        if wanted and not self._begin_alone(lane, wanted[0]):
            return True
        lane.feed(wanted, page.position)
        return True

    def _begin_alone(self, lane: Lane, fed: Fed) -> bool:
        if fed.position == lane.suspect:
            _log.error(
                "an event has ended its process each time it was handled; it is parked",
                extra={"handler": lane.handler.name, "position": fed.position},
            )
            lane.park_suspect(fed)
            lane.suspect = None
            return False
        if not positions.suspect(self._engine, lane.mine.holder, fed.position):
            lane.lost = True
            return False
        return True

    def _look(self) -> None:
        with self._engine.connect() as connection:
            epochs = positions.epochs(connection, self._name)
        careful = any(lane.is_careful or (lane.is_alone and not lane.is_idle) for lane in self.lanes)
        for lane in self.lanes:
            if epochs.get(lane.handler.name) != lane.mine.holder.epoch:
                lane.lost = True
            for letter in () if careful else lane.due():
                self._pool.put_letter(lane, letter)

    # What is written down

    def _save_patiently(self, claims: dict[str, int]) -> bool:
        """False where a handler holds its transaction of a SQLite store for so long that it has to be tried again."""
        try:
            self._save(claims)
        except DBAPIError as error:
            if not is_sqlite(self._engine) or not is_unavailable(error):
                raise
            self._saved_at = time.monotonic()
            return False
        return True

    def _save(self, claims: dict[str, int], *, last: bool = False) -> None:
        found = [(lane, lane.progress(claimed=claims.get(lane.handler.name), last=last)) for lane in self.lanes]
        changed = [(lane, progress) for lane, progress in found if progress is not None]
        if not changed:
            return
        try:
            lost = positions.save(self._engine, [progress for _, progress in changed], ended=last)
        except BaseException:
            for lane, progress in changed:
                lane.unsaved(progress)
            raise
        self._saved_at = time.monotonic()
        for lane, _ in changed:
            if lane.mine.holder in lost:
                lane.lost = True

    def _failed(self, error: BaseException) -> None:
        self._fault = error
        self._woken.set()
