"""The partitions of `events` on PostgreSQL: ranges of positions, made ahead of the log. SQLite has one table and no end.

A partition is made beside the log and then attached, which takes no lock that an append waits for; its guards stand before it
is attached. A new partition begins where the last one ends, so that no position is ever without one in between.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eventstore.errors import EventStoreError, InputError, StoreUnavailable, reason_of
from eventstore.log.engine import is_sqlite, said, write_transaction
from eventstore.log.roles import act_as_owner, log_schema
from eventstore.log.schema import head_size
from migrations.statements import statements

PARTITION_POSITIONS = 10_000_000
"""Positions in a partition: about 15 GB of documented events, which a backup, an index or a VACUUM can take in one piece."""
PARTITIONS_AHEAD = 2
"""Empty partitions ahead of the one that takes the next event: weeks of warning for the busiest of shops."""
MAINTAIN_SECONDS = 3_600.0
"""How often a server looks whether partitions are to be made: ten million events take far longer to come."""
LOCK_MILLISECONDS = 2_000
"""How long making a partition waits for a lock before it lets others pass and tries again."""
LOCK_SECONDS = 60.0
"""How long it goes on trying."""
PAUSE_SECONDS = 0.5
_MAINTAIN_LOCK = 0x436F75706F70
"""PostgreSQL advisory lock key, so that two do not make the same partition."""
_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"
_CHECK_VIOLATION = "23514"

_log = logging.getLogger("eventstore.log")


@dataclass(frozen=True, slots=True)
class Partition:
    """A table that holds the positions from `start` to before `end`. `detaching`: it is on its way out."""

    name: str
    start: int
    end: int
    detaching: bool = False


@dataclass(frozen=True, slots=True)
class Maintenance:
    """What `maintain` made, and what there is now.

    `partitioned` is False where there is nothing to partition (SQLite). `ahead` counts the empty partitions past the one that
    takes the next event, `positions_left` the positions past the head that have a partition.
    """

    partitioned: bool
    made: tuple[str, ...] = ()
    partitions: tuple[Partition, ...] = ()
    head: int = 0

    @property
    def ahead(self) -> int:
        """Empty partitions past the one that takes the next event."""
        return ahead_of(self.partitions, self.head)

    @property
    def positions_left(self) -> int:
        """Positions past the head that have a partition."""
        return positions_left(self.partitions, self.head)


_BOUNDS = re.compile(r"FOR VALUES FROM \('?(MINVALUE|-?\d+)'?\) TO \('?(MAXVALUE|-?\d+)'?\)")
_FURTHEST = {"MINVALUE": -(2**63), "MAXVALUE": 2**63}
_PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds, i.inhdetachpending AS detaching
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass('events')
"""


def list_partitions(connection: Connection) -> list[Partition]:
    """The partitions of events, by position. One for all other positions (DEFAULT), which is none of ours, has no bounds."""
    found = []
    for name, bounds, detaching in connection.execute(text(_PARTITIONS)):
        matched = _BOUNDS.fullmatch(bounds or "")
        start, end = (_FURTHEST.get(each) or int(each) for each in matched.groups()) if matched else (0, 0)
        found.append(Partition(name, start, end, detaching))
    return sorted(found, key=lambda each: each.start)


def uncovered(partitions: Iterable[Partition], last: int) -> list[tuple[int, int]]:
    """The ranges of positions in 1 … `last` that no partition holds, both ends included."""
    gaps = []
    next_position = 1
    for each in partitions:
        if next_position > last:
            break
        if each.start > next_position:
            gaps.append((next_position, min(each.start - 1, last)))
        next_position = max(next_position, each.end)
    if next_position <= last:
        gaps.append((next_position, last))
    return gaps


def ahead_of(partitions: Iterable[Partition], head: int) -> int:
    """How many partitions lie past the one that takes the event after `head`."""
    return sum(each.start > head + 1 for each in partitions)


def positions_left(partitions: Iterable[Partition], head: int) -> int:
    """How many positions past `head` have a partition."""
    return max(0, max((each.end for each in partitions), default=1) - 1 - head)


def room(engine: Engine) -> Maintenance:
    """What there is, with nothing made."""
    if is_sqlite(engine):
        return Maintenance(partitioned=False)
    with engine.connect() as connection:
        return Maintenance(True, (), tuple(list_partitions(connection)), head_size(connection))


def is_out_of_partitions(error: Exception) -> bool:
    """Whether an insertion failed because no partition of events holds the next position."""
    diagnosis: Any = getattr(getattr(error, "orig", None), "diag", None)
    return (
        diagnosis is not None
        and diagnosis.sqlstate == _CHECK_VIOLATION
        and diagnosis.table_name == "events"
        and diagnosis.constraint_name is None  # else a CHECK that somebody has added
    )


def maintain(engine: Engine, *, ahead: int = PARTITIONS_AHEAD, positions: int = PARTITION_POSITIONS) -> Maintenance:
    """Make partitions until `ahead` empty ones lie past the one that takes the next event. Safe to repeat and to run by many.

    `positions` is the size of those that are made now. Appends go on meanwhile. Raises NotOwner if the role may not, and
    StoreUnavailable if others kept the tables locked too long.
    """
    if ahead < 0 or positions < 1:
        raise InputError("at least 0 partitions are made ahead, of at least 1 position each")
    made: list[str] = []
    try:
        while True:
            found = room(engine)
            # With room enough nothing is locked, and no right is needed.
            if not found.partitioned or _enough(found.partitions, found.head, ahead):
                return Maintenance(found.partitioned, tuple(made), found.partitions, found.head)
            name = _make_patiently(engine, ahead, positions)
            if name is not None:
                made.append(name)
    except DBAPIError as error:
        raise StoreUnavailable(
            f"partitions could not be made: {said(error)}; run `eventstore maintain` again"
        ) from error


def _enough(partitions: Iterable[Partition], head: int, ahead: int) -> bool:
    found = list(partitions)
    return positions_left(found, head) > 0 and ahead_of(found, head) >= ahead


def _make_patiently(engine: Engine, ahead: int, positions: int) -> str | None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return _make_next(engine, ahead, positions)
        except DBAPIError as error:
            locked = getattr(error.orig, "sqlstate", "") in (_LOCK_NOT_AVAILABLE, _DEADLOCK)
            if not locked or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def _make_next(engine: Engine, ahead: int, positions: int) -> str | None:
    """Make one partition behind the last; None if somebody else has made enough by now."""
    with write_transaction(engine) as connection:
        act_as_owner(connection)
        connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}"))
        connection.execute(select(func.pg_advisory_xact_lock(_MAINTAIN_LOCK)))
        found = list_partitions(connection)
        if _enough(found, head_size(connection), ahead):
            return None
        start = max((each.end for each in found), default=1)
        name = f"events_from_{start}"
        for statement in statements(
            "0003_partition_postgresql.sql",
            schema=log_schema(connection),
            partition=name,
            start=start,
            end=start + positions,
        ):
            connection.exec_driver_sql(statement)
        return name


class Maintainer:
    """Maintains an engine's log now and then, in a thread of its own, for a server. What fails is logged and tried again."""

    def __init__(self, engine: Engine, *, seconds: float = MAINTAIN_SECONDS) -> None:
        self._engine = engine
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventstore-maintain", daemon=True)

    def start(self) -> None:
        """Begin; the first time is now."""
        self._thread.start()

    def stop(self) -> None:
        """End once what is under way is done."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            maintain_or_warn(self._engine)
            if self._stopping.wait(self._seconds):
                return


def maintain_or_warn(engine: Engine) -> None:
    """`maintain`, but what fails is only logged: the log takes events as long as it has room."""
    try:
        done = maintain(engine)
    except (EventStoreError, SQLAlchemyError) as error:
        reason = reason_of(error) if isinstance(error, EventStoreError) else type(error).__name__
        extra: dict[str, object] = {"reason": reason}
        with suppress(SQLAlchemyError):
            extra["positions_left"] = room(engine).positions_left
        _log.warning("no partitions could be made; run `eventstore maintain` as the owner of the tables", extra=extra)
    else:
        if done.made:
            _log.info("partitions were made", extra={"partitions": list(done.made)})
