"""Answering reports to many who ask at once, over one store whose log grows: what a server does.

An answer holds as long as the store says the same, so it is kept under the question and the moment that it was given of: the
log's position, and of what can change without it (dead letters; counts of deliveries, where the report reads them) a summary.
Whoever asks gets an answer that shows at least what the log held when it was asked.

Questions are answered over one moment of the lake, which is brought up to the log by a thread of its own when somebody asks and
the log has moved, by one at a time; who asks meanwhile waits for it. A few are computed at once, each with a DuckDB of its own,
for it takes one question at a time and is interrupted as a whole.

A report that looks at the clock takes the time as its parameter `at`. Where nobody gives one, it is the beginning of this
minute: the answer says so among its parameters, and is kept until the minute ends.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore, Condition, Lock, Thread

from sqlalchemy import Engine, func, select

from analytics.catalogue import Report, report
from analytics.connect import MEMORY_LIMIT, AnalyticsConnection
from analytics.kept import KeptAnswer, KeptAnswers
from analytics.lake import Lake, LakeProgress, LakeUnreadable, Snapshot, default_lake
from analytics.run import answer
from eventstore import __version__
from eventstore.errors import InputError, StoreUnavailable
from eventstore.log.schema import head_size
from eventstore.log.tables import dead_letters, delivery_counts
from eventstore.log.types import from_micros
from eventstore.projections.catalogue import Catalogue, projections

QUESTIONS_AT_ONCE = 2
"""Questions computed at once; others wait for their turn. Each uses all cores."""
TURN_SECONDS = 10.0
"""How long a question waits for its turn, and before that for the lake."""
TIME_LIMIT = 30.0
"""How long a question may be computed, in seconds."""
MOST_ROWS = 100_000
"""Rows of an answer at most: some 80 MB of memory, and 30 MB of JSON."""
END_SECONDS = 10.0
"""How long closing waits for the thread that brings the lake up to date: it looks every second or so whether it should end."""
CLOCK = "at"
"""The parameter by which reports that look at the clock take the time."""


_COMMENT = re.compile(r"--[^\n]*")
_DELIVERIES = re.compile(r"\bdeliveries\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a store says at a moment, in short: two that are equal have the same answers.

    `letters`: how many dead letters there are, how many of them are resolved, and when the last one was. `deliveries`: how many
    counts of deliveries there are, and their sum; None where nobody asks for them.
    """

    position: int
    letters: tuple[int, int, int]
    deliveries: tuple[int, int] | None


def moment_of(engine: Engine, *, deliveries: bool) -> Moment:
    """What the store says now. Raises what the database does."""
    letter = dead_letters.c
    with engine.connect() as connection:
        # First what may be newer than the log: an answer is then kept for too short a time, and never for too long.
        number, resolved, last = connection.execute(
            select(func.count(), func.count(letter.resolved_at), func.max(letter.resolved_at)).select_from(dead_letters)
        ).one()
        counts = None
        if deliveries:
            total = func.coalesce(func.sum(delivery_counts.c.count), 0)
            rows, of_all = connection.execute(select(func.count(), total).select_from(delivery_counts)).one()
            counts = (int(rows), int(of_all))
        letters = (int(number), int(resolved), 0 if last is None else round(last.timestamp() * 1_000_000))
        return Moment(head_size(connection), letters, counts)


class Question:
    """A report and the values of its parameters. Raises ReportError as `report` and `Report.values` do."""

    def __init__(self, name: str, given: Mapping[str, object]) -> None:
        self.report = report(name)
        self.values = self.report.values(given)
        # Asked as of a moment, a report does not look at the clock.
        as_of = [each.name for each in self.report.parameters if each.type == "moment"]
        dated = any(self.values[name] is not None for name in as_of)
        if CLOCK in self.values and self.values[CLOCK] is None and not dated:
            self.values[CLOCK] = from_micros(time.time_ns() // 1_000).replace(second=0, microsecond=0)
        self.reads_deliveries = _DELIVERIES.search(_COMMENT.sub("", self.report.sql)) is not None
        self.abandoned = False
        """Whether nobody waits for the answer any more."""
        self._lock = Lock()
        self._connection: AnalyticsConnection | None = None

    def key(self, moment: Moment) -> Hashable:
        """What the answer of that moment is kept under."""
        counts = moment.deliveries if self.reads_deliveries else None
        return (self.report.name, tuple(self.values.items()), moment.position, moment.letters, counts)

    def version(self, moment: Moment) -> str:
        """The key in short, and another one where this program would answer otherwise."""
        return hashlib.sha256(repr((__version__, self.report.sql, self.key(moment))).encode()).hexdigest()[:32]

    def abandon(self) -> None:
        """End the computing, in whatever thread. Call it again until that has ended: it may only be about to begin."""
        self.abandoned = True
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

    @contextmanager
    def computed_by(self, connection: AnalyticsConnection) -> Iterator[None]:
        """Meanwhile `abandon` interrupts this connection."""
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None


@dataclass(slots=True)
class Tally:
    """Of a report since this process began: answers that were kept, computed ones, and the seconds that these took."""

    kept: int = 0
    computed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Open:
    """A moment of the lake. `begun`: when it began to be read; what was in the store then is in it."""

    snapshot: Snapshot
    moment: Moment
    begun: float
    free: list[AnalyticsConnection] = field(default_factory=list)

    def shows(self, wanted: Moment, asked: float) -> bool:
        """Whether it shows what the store said at `asked`, which was `wanted`."""
        same = self.moment.letters == wanted.letters and wanted.deliveries in (None, self.moment.deliveries)
        return self.begun >= asked or (self.moment.position >= wanted.position and same)


class Answering:
    """Answers reports over one store, from any thread. Close it.

    `lake` and `catalogue` are those of `connect`. `time_limit` (seconds) and `memory_limit` are a question's; `most_rows` an
    answer's.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        lake: str | Path | None = None,
        catalogue: Catalogue | None = None,
        time_limit: float = TIME_LIMIT,
        memory_limit: str = MEMORY_LIMIT,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self.kept = KeptAnswers()
        self._engine = engine
        self._location = default_lake(engine) if lake is None else str(lake)
        self._catalogue = catalogue or projections()
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._most_rows = most_rows
        self._turn = BoundedSemaphore(QUESTIONS_AT_ONCE)
        self._changed = Condition()
        self._open: _Open | None = None
        self._refreshing: Thread | None = None
        self._reached = ""
        self._failure: tuple[float, BaseException] | None = None
        self._running: set[Question] = set()
        self._closed = False
        self._tallies: dict[str, Tally] = {}

    def moment(self, question: Question) -> Moment:
        """What the store says now, as far as the question is about it."""
        return moment_of(self._engine, deliveries=question.reads_deliveries)

    def look(self, question: Question, moment: Moment) -> KeptAnswer | None:
        """The answer of that moment, if it is kept."""
        return self.kept.get(question.key(moment))

    def answer(self, question: Question) -> KeptAnswer:
        """The answer, kept or computed; it shows at least what the store says now.

        Raises StoreUnavailable when its turn does not come or the lake needs longer to be brought up to date, InputError for
        what takes too long, too much memory or has too many rows, LakeUnreadable for a lake that is damaged, and what
        `Lake.catch_up` raises.
        """
        try:
            return self._answered(question)
        except LakeUnreadable:
            # Files that nobody uses any more go after some days, and somebody may have removed the lake.
            with self._changed:
                before, self._open = self._open, None
            self._let_go(before)
        return self._answered(question)

    def note_kept(self, question: Question) -> None:
        """Count an answer that was given without computing."""
        with self._changed:
            self._tally(question.report).kept += 1

    def tallies(self) -> dict[str, Tally]:
        """By report."""
        with self._changed:
            return {name: Tally(each.kept, each.computed, each.seconds) for name, each in sorted(self._tallies.items())}

    @property
    def running(self) -> int:
        """Questions that are computed now."""
        return len(self._running)

    def close(self) -> None:
        """End what is under way, and let go of everything."""
        with self._changed:
            self._closed = True
            opened, self._open = self._open, None
            running, refreshing = list(self._running), self._refreshing
            self._changed.notify_all()
        for question in running:
            question.abandon()
        if refreshing is not None:
            refreshing.join(END_SECONDS)
        with self._changed:
            # Each closes its connection itself, once it has ended.
            self._changed.wait_for(lambda: not self._running, END_SECONDS)
        self._let_go(opened)
        self.kept.clear()

    # Computing

    def _answered(self, question: Question) -> KeptAnswer:
        asked = time.monotonic()
        opened = self._fresh(self.moment(question), asked)
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise StoreUnavailable("too many questions are being computed; ask again")
        try:
            # Somebody else may have asked the same meanwhile.
            found = self.look(question, opened.moment)
            if found is not None:
                self.note_kept(question)
                return found
            return self._computed(question, opened)
        finally:
            self._turn.release()

    def _computed(self, question: Question, opened: _Open) -> KeptAnswer:
        started = time.monotonic()
        with self._changed:
            self._running.add(question)
        try:
            with self._lend(opened) as connection, question.computed_by(connection):
                if self._closed or question.abandoned:
                    raise StoreUnavailable("nobody waits for the answer any more")
                result = answer(connection, question.report, question.values, at_most=self._most_rows)
        except InputError as error:
            if self._closed or question.abandoned:
                raise StoreUnavailable("the question was ended: nobody waits for the answer any more") from None
            raise InputError(f"the report {question.report.name}: {error}{_narrower(question.report)}") from None
        finally:
            with self._changed:
                self._running.discard(question)
                self._changed.notify_all()
                tally = self._tally(question.report)
                tally.computed += 1
                tally.seconds += time.monotonic() - started
        made = KeptAnswer(result, question.version(opened.moment))
        self.kept.put(question.key(opened.moment), made)
        return made

    def _tally(self, asked: Report) -> Tally:
        return self._tallies.setdefault(asked.name, Tally())

    @contextmanager
    def _lend(self, opened: _Open) -> Iterator[AnalyticsConnection]:
        """A connection to that moment. What fails is thrown away."""
        with self._changed:
            connection = opened.free.pop() if opened.free else None
        if connection is None:
            connection = AnalyticsConnection(
                opened.snapshot, self._catalogue, memory_limit=self._memory_limit, time_limit=self._time_limit
            )
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._changed:
            if self._open is opened:
                opened.free.append(connection)
                return
        connection.close()

    def _let_go(self, opened: _Open | None) -> None:
        """Close the connections to that moment that nobody uses; the others are closed when they are given back."""
        if opened is None:
            return
        with self._changed:
            free, opened.free = opened.free, []
        for connection in free:
            connection.close()

    # The lake

    def _fresh(self, wanted: Moment, asked: float) -> _Open:
        """A moment of the lake that shows at least what the store said at `asked`, which was `wanted`."""
        until = asked + TURN_SECONDS
        with self._changed:
            while not self._closed:
                if self._open is not None and self._open.shows(wanted, asked):
                    return self._open
                if self._failure is not None and self._failure[0] >= asked:
                    raise self._failure[1]
                if self._refreshing is None:
                    self._refreshing = Thread(target=self._refresh, name="eventstore-lake", daemon=True)
                    self._refreshing.start()
                if not self._changed.wait(until - time.monotonic()):
                    raise StoreUnavailable(
                        f"the lake is being brought up to the log{self._reached}; ask again", retry_after=TURN_SECONDS
                    )
        raise StoreUnavailable("the store is being closed")

    def _refresh(self) -> None:
        begun = time.monotonic()
        opened: _Open | None = None
        failure: BaseException | None = None
        try:
            moment = moment_of(self._engine, deliveries=True)
            lake = Lake(self._location, catalogue=self._catalogue)
            lake.catch_up(self._engine, on_progress=self._progressed)
            snapshot = lake.snapshot()
            moment = Moment(snapshot.position, moment.letters, moment.deliveries)
            opened = _Open(snapshot, moment, begun)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for this
            failure = error
        with self._changed:
            before = self._open
            if opened is not None and not self._closed:
                self._open = opened
            self._failure = None if failure is None else (begun, failure)
            self._refreshing = None
            self._reached = ""
            self._changed.notify_all()
        if opened is not None:
            self._let_go(before)

    def _progressed(self, progress: LakeProgress) -> None:
        # It may be ended anywhere: whoever goes on with it finds what was committed.
        if self._closed:
            raise StoreUnavailable("the store is being closed")
        self._reached = f": {progress.stage} at {progress.position:,} of {progress.head:,}"


def _narrower(asked: Report) -> str:
    """What would make a question smaller."""
    known = [each.name for each in asked.parameters if each.name in ("site", "since", "until", "coupon", "limit")]
    return f"; ask for less by {', '.join(known)}" if known else ""
