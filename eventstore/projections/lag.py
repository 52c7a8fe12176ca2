"""How far the projections are behind the log, who follows it, and whether that stands still."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select

from eventstore.log.exclusive import Exclusive
from eventstore.log.reader import recorded_at
from eventstore.log.records import now
from eventstore.log.schema import head_size
from eventstore.log.tables import projection_work
from eventstore.projections import dead_letters, tables
from eventstore.projections.catalogue import Catalogue
from eventstore.projections.leader import RUNNER

STANDSTILL_SECONDS = 30.0
"""After so long without a step, while an event as old waits, the projections stand still: a step takes a second at most, and
a process that dies is followed by another within two."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The projections beside the log, as they are now.

    `position` is where the last of those that are followed is, `events` and `seconds` what it has yet to take in and how
    old the oldest of that is; `positions` are those of all. `stands_still` names the projections that do not move although
    events wait, `behind` those that another version of their model made, or that were never built: `eventstore upgrade`
    rebuilds them. `parked` counts the coupons that wait for a dead letter.
    """

    head: int
    position: int
    events: int
    seconds: float
    positions: dict[str, int]
    stands_still: tuple[str, ...]
    behind: tuple[str, ...]
    parked: int


@dataclass(frozen=True, slots=True)
class Following:
    """Who follows the log, or did last, and since when. `active`: whether it still does.

    `rate` is in events a second, while it last had some; `seen_at` is when that was.
    """

    worker: str
    since: datetime
    seen_at: datetime
    active: bool
    rate: float | None


def lag(engine: Engine, catalogue: Catalogue) -> Lag:
    """How far the projections are."""
    with engine.connect() as connection:
        found = tables.read_checkpoints(connection)
        # After the checkpoints: no lag is ever less than nothing.
        head = head_size(connection)
        followed = {model.name: found[model.name] for model in tables.followed(found, catalogue)}
        behind = tuple(model.name for model in tables.behind(found, catalogue))
        position = min((each.position for each in followed.values()), default=head)
        at = now()
        oldest = recorded_at(connection, position + 1) if position < head else None
        still = []
        for name, each in followed.items():
            if each.position < head and (at - each.updated_at).total_seconds() > STANDSTILL_SECONDS:
                waiting = recorded_at(connection, each.position + 1)
                if waiting is not None and (at - waiting).total_seconds() > STANDSTILL_SECONDS:
                    still.append(name)
        return Lag(
            head=head,
            position=position,
            events=head - position,
            seconds=0.0 if oldest is None else max(0.0, (at - oldest).total_seconds()),
            positions={model.name: found[model.name].position for model in catalogue if model.name in found},
            stands_still=tuple(still),
            behind=behind,
            parked=dead_letters.parked_subjects(connection),
        )


def following(engine: Engine) -> Following | None:
    """Who follows the log; None if nobody ever has."""
    with engine.connect() as connection:
        row = connection.execute(select(projection_work).where(projection_work.c.name == RUNNER)).one_or_none()
    if row is None:
        return None
    rate = row.state.get("rate")
    return Following(row.worker, row.started_at, row.seen_at, _is_taken(engine), None if rate is None else float(rate))


def _is_taken(engine: Engine) -> bool:
    """Whether some process has the right to follow. Told by asking for it: who wants it that very moment tries again."""
    try:
        with Exclusive(engine, RUNNER) as right:
            return not right.take()
    except OSError:  # a folder that this process may not write to
        return False
