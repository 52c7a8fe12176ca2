"""Lake: the verbs. Each door (CLI, `analytics.connect`) is a thin wrapper over one of them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
from sqlalchemy import Engine, column, select, table

from analytics.columns import DELIVERIES, DELIVERY_COLUMNS, EVENTS
from analytics.lake import copies, log, snapshot, state, verify
from analytics.lake.damage import LakeUnreadable, is_damage, readable
from analytics.lake.delta import LakeTable, Outrun, stream
from analytics.lake.duck import worker
from analytics.lake.levels import parquet
from analytics.lake.models import in_lake
from analytics.lake.place import address, is_remote, require_plain_name, turn
from analytics.lake.snapshot import Snapshot
from analytics.lake.verify import Broken, Compared, Segment
from eventstore.errors import ProjectionError, StoreUnavailable
from eventstore.log.engine import is_sqlite
from eventstore.log.reader import head
from eventstore.log.schema import head_size
from eventstore.log.tables import delivery_counts
from eventstore.projections.catalogue import FACTS, Catalogue, projections
from eventstore.projections.dead_letters import excluded_positions
from eventstore.projections.duck import MEMORY_LIMIT

KEEP = timedelta(days=7)
"""How long files that no version uses any more are kept: whoever opened the lake before may still read them."""
SEGMENT_EVENTS = 500_000
"""Events of a segment, which is compared as a whole."""
ATTEMPTS = 10
"""How often a catching up begins again where somebody else has committed first."""
REST_SECONDS = 0.1
"""How long it rests then at most, at first."""
_DELIVERIES_APPLICATION = "eventstore.deliveries.1"


@dataclass(frozen=True, slots=True)
class LakeProgress:
    """How far a catching up is: of `stage` (events, then projections), `position` of `head`, after `seconds`."""

    stage: str
    position: int
    head: int
    start: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second in this stage."""
        return (self.position - self.start) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class LakeStatus:
    """What a lake holds: how far its events and each projection are, files and bytes by table."""

    location: str
    position: int
    projections: dict[str, int]
    files: dict[str, int]
    bytes: dict[str, int]


class Lake:
    """A store's lake at `location`: a folder, or an object store's address with its `options` (else from the environment)."""

    def __init__(
        self,
        location: str | Path,
        *,
        catalogue: Catalogue | None = None,
        options: Mapping[str, str] | None = None,
        memory_limit: str = MEMORY_LIMIT,
    ) -> None:
        self.location = str(location)
        self._store_s = catalogue or projections()
        self.catalogue = in_lake(self._store_s)
        base = address(self.location)
        require_plain_name(base)
        self._base = base
        given = dict(options or {})
        self._events = LakeTable(f"{base}/{EVENTS}", log.APPLICATION, given)
        self._projections = {
            model.name: LakeTable(f"{base}/{model.name}", state.application(model), given) for model in self.catalogue
        }
        self._deliveries = LakeTable(f"{base}/{DELIVERIES}", _DELIVERIES_APPLICATION, given)
        self._memory = memory_limit

    def catch_up(self, engine: Engine, *, on_progress: Callable[[LakeProgress], None] | None = None) -> int:
        """Bring everything to the head of the store's log, and return that position. Exactly once, whoever is killed at it.

        Raises InputError for a lake of another log, ProjectionError for an event that a model cannot take (once the live
        runner has parked its coupon it is left out here too), StoreUnavailable.
        """
        with turn(self._base):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return self._catch_up(engine, on_progress)
                except Outrun:
                    # Nobody is kept out of an object store.
                    time.sleep(random.uniform(0, REST_SECONDS * attempt))  # noqa: S311 - nothing secret
                except duckdb.Error as error:
                    if is_damage(error):
                        raise LakeUnreadable(self.location, error) from error
                    raise
        raise StoreUnavailable(f"others write to the lake {self.location} all the time; ask again")

    def _catch_up(self, engine: Engine, on_progress: Callable[[LakeProgress], None] | None) -> int:
        self._open()
        head, deliveries = _now(engine)
        log.catch_up(self._events, engine, head, on_progress=_told(on_progress, "events", head, self._events))
        # Somebody else may have brought more meanwhile, and the projections with them.
        until = max(head, self._events.position)
        if self._events.delta is not None:
            self._follow(engine, until, on_progress)
        self._put_deliveries(deliveries, head)
        return until

    def snapshot(self, *, bring: bool = True, latest: bool = True) -> Snapshot:
        """The latest moment that all tables show, with its files on this machine; without `bring`, where they lie.

        Not `latest`: the one that `catch_up` has brought about just now, or a later one; that takes less looking.
        """
        found = snapshot.take(
            self._base, self._events, self._projections, self._deliveries, bring=bring, opened=not latest
        )
        if is_remote(self._base):
            copies.remove_unwanted(self._base)
        return found

    def status(self) -> LakeStatus:
        """What there is."""
        self._open()
        tables = self._tables()
        contents = {name: each.contents("size_bytes") for name, each in tables.items()}
        return LakeStatus(
            location=self.location,
            position=self._events.position,
            projections={name: each.position for name, each in self._projections.items()},
            files={name: len(several) for name, several in contents.items()},
            bytes={name: sum(int(each["size_bytes"]) for each in several) for name, several in contents.items()},
        )

    def verify(self, engine: Engine) -> Iterator[Segment]:
        """Compare the lake's events with the store's log, segment after segment: number, positions, a checksum of every column
        as the log's events make it."""
        self._open()
        end = max(head(engine), self._events.position)
        for after in range(0, end, SEGMENT_EVENTS):
            yield verify.segment(self._events, engine, after, min(after + SEGMENT_EVENTS, end))

    def broken_files(self, *, whole: bool = False) -> Iterator[Broken]:
        """The files of each table's latest version that are gone or damaged; `whole`: the events' are read to their end too."""
        self._open()
        return verify.broken(self._tables(), self.catalogue, whole=whole)

    def compare_projections(self, engine: Engine) -> Iterator[Compared]:
        """The store's own tables of its projections beside the lake's, where both are at one position."""
        self._open()
        return verify.compared(self._projections, self._store_s, engine)

    def compact(self, *, keep: timedelta = KEEP) -> dict[str, int]:
        """Join what is in many files or levels, and delete files that no version has used for so long; how many, by table."""
        with turn(self._base):
            try:
                return self._compact(keep)
            except Outrun as error:
                raise StoreUnavailable(f"others write to the lake {self.location}; compact it again") from error

    def _compact(self, keep: timedelta) -> dict[str, int]:
        self._open()
        self._state().flatten()
        deleted = {}
        for name, each in self._tables().items():
            if each.delta is None:
                continue
            if each is self._events:
                each.join_files(log.COMPACT_BYTES)
            # Delta counts in whole hours; kept for longer is what is asked for.
            deleted[name] = each.delete_unused(math.ceil(keep.total_seconds() / 3600))
        return deleted

    def _open(self) -> None:
        # The events last: they are then as far as any projection, whoever else is at work.
        for each in reversed(self._tables().values()):
            each.open()

    def _tables(self) -> dict[str, LakeTable]:
        return {EVENTS: self._events, **self._projections, DELIVERIES: self._deliveries}

    def _state(self) -> state.State:
        return state.State(self._events, self._projections, self.catalogue, self._memory)

    def _follow(self, engine: Engine, until: int, on_progress: Callable[[LakeProgress], None] | None) -> None:
        behind = min(self._projections.values(), key=lambda each: each.position)
        told = _told(on_progress, "projections", until, behind)
        try:
            self._state().catch_up(until, _excluded(engine, self._store_s, until), told)
        except ProjectionError:
            # The live runner finds whose fault it is and parks it, and may not have come so far yet.
            _project(engine, self._store_s)
            self._state().catch_up(until, _excluded(engine, self._store_s, until), told)

    def _put_deliveries(self, found: list[tuple[object, ...]], position: int) -> None:
        """Write the counts anew if they differ, a few rows a day; they are those of the moment of `position` in either case."""
        table = self._deliveries
        if table.position > position:  # somebody else has put later ones
            return
        names = ", ".join(each.name for each in DELIVERY_COLUMNS)
        with worker() as duck, suppress(Outrun):
            if table.delta is not None:
                with readable(self.location):
                    here = (
                        duck.execute(f"SELECT {names} FROM {parquet(table.files())}").fetchall()
                        if table.files()
                        else []
                    )
                if sorted((str(day), *rest) for day, *rest in here) == found:
                    if table.position != position:
                        table.mark(position)
                    return
            duck.execute(
                f"CREATE OR REPLACE TEMP TABLE counts ({', '.join(f'{each.name} {each.type}' for each in DELIVERY_COLUMNS)})"
            )
            if found:
                duck.executemany(f"INSERT INTO counts VALUES ({', '.join('?' * len(DELIVERY_COLUMNS))})", found)
            made = duck.sql("FROM counts").to_arrow_table()
            table.replace(stream(made.schema, made.to_batches()), position)


def _now(engine: Engine) -> tuple[int, list[tuple[object, ...]]]:
    """The head of the log, and the counts of deliveries, of one moment."""
    stored = table(delivery_counts.name, *[column(each.name) for each in DELIVERY_COLUMNS])
    options = {} if is_sqlite(engine) else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        return head_size(connection), sorted(tuple(row) for row in connection.execute(select(stored)))


def _project(engine: Engine, catalogue: Catalogue) -> None:
    """Have the store's projections take in the log, which finds and parks what they cannot take."""
    from eventstore.projections.runner import Runner

    runner = Runner(engine, catalogue)
    try:
        runner.catch_up()
    finally:
        runner.stop()


def _excluded(engine: Engine, catalogue: Catalogue, until: int) -> dict[str, frozenset[int]]:
    roots = [model.name for model in catalogue if model.source == FACTS]
    with engine.connect() as connection:
        return excluded_positions(connection, roots, until)


def _told(
    on_progress: Callable[[LakeProgress], None] | None, stage: str, until: int, behind: LakeTable
) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    begun, start = time.monotonic(), behind.position

    def tell(position: int) -> None:
        on_progress(LakeProgress(stage, position, until, start, time.monotonic() - begun))

    return tell
