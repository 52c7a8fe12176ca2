"""One handler's events between the log and its calls, in memory: what waits, what is under way, what is parked, what is done.

Each subject has a queue, whose first event is the only one that may be under way: so a coupon's events are handled in order, and
those of different coupons at once. Methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Generator
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError

from eventstore.backoff import wait_after
from eventstore.handlers import dead_letters, positions
from eventstore.handlers.calls import SUPERSEDED, Call, Mine, Outcome
from eventstore.handlers.dead_letters import HandlerDeadLetter
from eventstore.handlers.feed import Fed, Subject, of_subject
from eventstore.handlers.gate import Gate, Rules, about
from eventstore.handlers.positions import Progress, Standing
from eventstore.log.engine import is_sqlite, is_unavailable, write_transaction
from eventstore.log.records import now

MAX_DEATHS = 5
"""An event that was begun alone so often, and whose process ended each time, is what ends it: it is parked for a person."""
ROOM = 2_000
"""Events of a handler that may wait in memory: reading goes on once there are fewer."""
REVIVED_PAGE = 100
"""Events behind a parked one that are read at a time once it is taken."""


class Lane:
    """See the module. `release`: called with subjects whose first event may be begun; `drained` when there is room again."""

    def __init__(
        self,
        mine: Mine,
        standing: Standing,
        parked: dict[Subject, int],
        rules: Rules,
        release: Callable[[Lane, Collection[Subject]], None],
        drained: Callable[[], None],
    ) -> None:
        self.mine = mine
        self.handler = mine.handler
        self.read_to = standing.position
        """Everything up to here was read, and is done, parked, queued or none of this handler's."""
        self.claimed = standing.claimed
        self.careful_to = standing.claimed if standing.claimed > standing.position else 0
        """Up to here an earlier process may have begun events and died of one: each is begun alone."""
        self._careful_from = standing.position if self.careful_to else None
        self.suspect = standing.suspect if standing.deaths >= MAX_DEATHS else None
        self.pace = 1.0
        """Seconds that a call takes, about."""
        self.lost = False
        """Whether another process has taken over, or a person moved the handler: what is here does not count any more."""
        self._rules = rules
        self._attempts = rules.attempts if self.handler.attempts is None else self.handler.attempts
        self._release = release
        self._drained = drained
        self._lock = threading.Lock()
        self._done = set(standing.done)
        self._queues: dict[Subject, deque[Fed]] = {}
        self._unfinished: dict[int, None] = {}
        self._parked = parked
        self._reviving: set[Subject] = set()
        self._hanging: set[Subject] = set()
        self._gate = Gate(rules, self._attempts)
        self._handled = 0
        self._saved: tuple[int, int, str | None] = (standing.position, standing.claimed, None)
        self._closed = False

    # Feeding

    @property
    def room(self) -> int:
        """Events that wait or are under way."""
        return len(self._unfinished)

    @property
    def is_open(self) -> bool:
        """Whether it takes events, to be begun now or after a rest."""
        return not self._closed and not self.lost

    @property
    def is_careful(self) -> bool:
        """Whether events are begun one at a time."""
        return self.read_to < self.careful_to

    @property
    def is_alone(self) -> bool:
        """Whether the event under way is one that was begun by itself."""
        begin = self._careful_from
        return begin is not None and begin < self.read_to <= self.careful_to

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be begun or is under way, retries apart."""
        return not self._unfinished and not self._reviving

    @property
    def paused(self) -> str | None:
        """Why nothing is begun for now; None while it is."""
        return self._gate.reason

    def wants(self, fed: Fed) -> bool:
        """Whether the event is to be begun at all."""
        return (
            fed.record.position not in self._done
            and fed.subject not in self._parked
            and self.handler.wants(fed.type, fed.record)
        )

    def feed(self, events: Collection[Fed], position: int) -> None:
        """Take in the events read, which are all that there are up to `position`."""
        types, wants = self.handler.types, self.handler.wants
        started = []
        with self._lock:
            queues, parked, done, unfinished = self._queues, self._parked, self._done, self._unfinished
            for fed in events:
                if types is not None and fed.type not in types:
                    continue
                subject, at = fed.subject, fed.record.position
                if at in done or subject in parked:
                    continue
                if not wants(fed.type, fed.record):
                    continue
                unfinished[at] = None
                queue = queues.get(subject)
                if queue is None:
                    queues[subject] = deque((fed,))
                    started.append(subject)
                else:
                    queue.append(fed)
            self.read_to = position
        if started:
            self._release(self, started)

    def tick(self) -> None:
        """Try again, if the time has come after a rest."""
        with self._lock:
            one = self._gate.tick()
        if one is not None:
            self._release(self, [one])

    # Calls

    def next(self, subject: Subject) -> Fed | None:
        """The event to be begun; None if none is to be for now: whoever may will be told by `release`."""
        with self._lock:
            queue = self._queues.get(subject)
            if self._closed or self.lost or not queue or not self._gate.admits(subject):
                return None
            self._gate.begun()
            return queue[0]

    def settle(self, call: Call, outcome: Outcome) -> bool:
        """What came of a call; True if the same subject's next event may follow at once."""
        if outcome.reason is None:
            return self._finished(call.fed)
        if outcome is SUPERSEDED:
            self.lost = True
            return False
        if outcome.later and self._asked_later(call.fed.subject, outcome):
            return False
        self._park(call.fed, outcome.reason, attempts=call.attempt)
        return False

    def _asked_later(self, subject: Subject, outcome: Outcome) -> bool:
        assert outcome.reason is not None
        alone = self.is_alone
        with self._lock:
            held = self._gate.asked_later(subject, outcome.reason, outcome.seconds, alone=alone)
        if held and alone:
            positions.clear(self.mine.engine, self.mine.holder)
        return held

    def _finished(self, fed: Fed) -> bool:
        with self._lock:
            self._unfinished.pop(fed.record.position, None)
            self._handled += 1
            held = self._gate.succeeded(fed.subject)
            queue = self._queues.get(fed.subject)
            if queue:
                queue.popleft()
            more = bool(queue)
            if not more:
                self._queues.pop(fed.subject, None)
            left = len(self._unfinished)
        if left == 0 or left == ROOM // 2:
            self._drained()
        if held:
            self._release(self, held)
        return more

    def park_suspect(self, fed: Fed) -> None:
        """Park the event that has ended its process again and again, unbegun."""
        with self._lock:
            self._unfinished[fed.position] = None
        self._park(
            fed,
            f"the process ended {MAX_DEATHS} times while the event was handled alone",
            attempts=MAX_DEATHS,
            alone=True,
        )

    def _park(self, fed: Fed, reason: str, *, attempts: int, alone: bool = False) -> None:
        retry_at = None if alone else self._retry_at(attempts)
        while True:
            try:
                letter = dead_letters.park(
                    self.mine.engine, self.mine.holder, fed, attempts=attempts, reason=reason, retry_at=retry_at
                )
                break
            except DBAPIError as error:
                # A handler may hold its transaction of a SQLite store for longer than one waits for it.
                if self._closed or self.lost or not is_sqlite(self.mine.engine) or not is_unavailable(error):
                    raise
        if letter is None:
            self.lost = True
            return
        with self._lock:
            self._parked[fed.subject] = letter
            for each in self._queues.pop(fed.subject, ()):
                self._unfinished.pop(each.record.position, None)
            self._unfinished.pop(fed.record.position, None)
            self._gate.failed(fed.subject, reason)
        self._drained()

    def _retry_at(self, attempts: int) -> datetime | None:
        if attempts >= self._attempts:
            return None
        return now() + timedelta(seconds=about(wait_after(attempts - 1, self._rules.retry_seconds)))

    # Dead letters

    def due(self) -> list[HandlerDeadLetter]:
        """The letters to be tried again now; each must be given to `revival`."""
        if not self._parked or self._closed or self.lost or not self._gate.is_open:
            return []
        with self.mine.engine.connect() as connection:
            found = dead_letters.due_letters(connection, self.mine.holder.name, self.handler.name, now(), REVIVED_PAGE)
        with self._lock:
            due = [
                each
                for each in found
                if each.subject in self._parked
                and each.subject not in self._reviving
                and each.subject not in self._hanging
            ]
            self._reviving.update(each.subject for each in due)
        return due

    def revival(self, letter: HandlerDeadLetter) -> Generator[Call, Outcome, None]:
        """Try a letter's event again, and what waits behind it: gives calls, and wants to be sent what came of each."""
        try:
            yield from self._revival(letter)
        finally:
            with self._lock:
                self._reviving.discard(letter.subject)

    def _revival(self, letter: HandlerDeadLetter) -> Generator[Call, Outcome, None]:
        mine = self.mine
        after, attempts, resolution = letter.handled_to, letter.attempts, dead_letters.HANDLED
        if letter.resolution == dead_letters.SKIP:
            self._leave_out(letter)
            after, attempts, resolution = max(letter.position, letter.handled_to), 0, dead_letters.SKIPPED
        while True:
            until = self.read_to
            found = of_subject(
                mine.engine, letter.subject, self.handler.types, after=after, until=until, limit=REVIVED_PAGE
            )
            for fed in found:
                if fed.position in self._done or not self.handler.wants(fed.type, fed.record):
                    continue
                if self._closed or self.lost or not self._gate.is_open:
                    return
                attempts += 1
                if fed.position > letter.position and not letter.follows:
                    # One letter is one failure: what is behind it has a letter of its own.
                    behind = dead_letters.follow(mine.engine, mine.holder, letter, resolution, fed)
                    if behind is None:
                        self.lost = True
                        return
                    letter = behind
                    with self._lock:
                        self._parked[letter.subject] = letter.id
                elif not dead_letters.begin(mine.engine, mine.holder, letter.id, fed, attempts):
                    self.lost = True
                    return
                call = Call(mine, fed, attempt=attempts, letter=letter.id)
                outcome = yield call
                if outcome is SUPERSEDED:
                    self.lost = True
                    return
                if outcome.later:
                    with self._lock:
                        self._gate.shut(outcome.reason or "", outcome.seconds)
                    wait = timedelta(seconds=self._rules.pause(0, outcome.seconds))
                    dead_letters.put_off(mine.engine, self.mine.holder, letter.id, fed, now() + wait, attempts - 1)
                    return
                if outcome.reason is not None:
                    dead_letters.fail(
                        mine.engine,
                        self.mine.holder,
                        letter.id,
                        fed,
                        attempts=attempts,
                        reason=outcome.reason,
                        retry_at=self._retry_at(attempts),
                    )
                    return
                if not call.committed:
                    with write_transaction(mine.engine, durable=False) as connection:
                        if self.mine.holder.holds(connection):
                            dead_letters.advance(connection, letter.id, fed.position)
                attempts = 0
                with self._lock:
                    self._handled += 1
                    held = self._gate.succeeded(letter.subject)
                if held:
                    self._release(self, held)
            if len(found) == REVIVED_PAGE:
                after = found[-1].position
                continue
            with self._lock:
                # Under the lock, so that nothing of the subject is read in between, to be left lying.
                if self.read_to != until:
                    after = until
                    continue
                with write_transaction(mine.engine, durable=False) as connection:
                    if not self.mine.holder.holds(connection):
                        self.lost = True
                        return
                    dead_letters.resolve(connection, letter, resolution, until)
                del self._parked[letter.subject]
                return

    def _leave_out(self, letter: HandlerDeadLetter) -> None:
        holder = self.mine.holder
        with write_transaction(self.mine.engine) as connection:
            position = holder.position(connection)
            mine_still = position is not None and dead_letters.advance(connection, letter.id, letter.position)
            if mine_still and letter.position > (position or 0):
                positions.mark_done(connection, holder, letter.position)

    def put_off_begun(self) -> None:
        """Nothing is tried any more; what was is tried again by the next runner, and has not failed."""
        if self._reviving:
            wait = timedelta(seconds=self._rules.retry_seconds[0])
            dead_letters.found_begun(
                self.mine.engine, self.mine.holder.name, self.handler.name, self._attempts, wait, alive=True
            )

    def hang(self, subject: Subject) -> None:
        """A call about this subject was given up and still runs: nothing else of it is begun before it ends."""
        with self._lock:
            self._hanging.add(subject)

    def hung(self, subject: Subject) -> None:
        """It has ended."""
        with self._lock:
            self._hanging.discard(subject)

    # Keeping

    def progress(self, *, claimed: int | None = None, last: bool = False) -> Progress | None:
        """What is to be written down, if anything has changed. `claimed`: as far as events are to be begun; `last`: none is
        begun any more."""
        with self._lock:
            low = next(iter(self._unfinished)) - 1 if self._unfinished else self.read_to
            claim = max(self.claimed, claimed or 0)
            if last:
                # Nothing is under way: what stands above is begun by nobody.
                claim = low
            state = (low, claim, self._gate.reason)
            if (state == self._saved and not last) or self.lost:
                return None
            handled, self._handled = self._handled, 0
            self.claimed, self._saved = claim, state
            return Progress(self.mine.holder, low, claim, handled, self._gate.reason)

    def unsaved(self, progress: Progress) -> None:
        """What was to be written down was not."""
        with self._lock:
            self._handled += progress.handled
            self._saved = (-1, -1, None)

    def close(self) -> None:
        """Begin nothing any more."""
        self._closed = True
