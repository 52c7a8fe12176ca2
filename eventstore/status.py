"""The store at a glance: sizes, positions, and whether the guards stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select

from eventstore.log import guards, partitions, reader, schema
from eventstore.log.engine import shown
from eventstore.log.tables import quarantine
from eventstore.projections.catalogue import Catalogue
from eventstore.projections.lag import Following, following, lag


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """How far a projection is: `lag` is the number of events it has yet to take in."""

    name: str
    rows: int
    position: int
    lag: int


@dataclass(frozen=True, slots=True)
class Status:
    """The store at a glance.

    `missing_guards` names the guards that are missing or disabled; `guard_findings` is all that is wrong with them.
    `positions_left` is how many events PostgreSQL has partitions for, `partitions_ahead` how many empty ones come after the one
    that takes the next event; both are None on SQLite, which has no end. What is said of the projections, see
    `projections.lag`; `parked` counts the coupons that a projection cannot go on with.
    """

    url: str
    revision: str
    events: int
    last_recorded_at: datetime | None
    quarantined: int
    conflicts: int
    missing_guards: tuple[str, ...]
    guard_findings: tuple[guards.Finding, ...]
    positions_left: int | None
    partitions_ahead: int | None
    projections: tuple[ProjectionStatus, ...]
    following: Following | None
    lag_seconds: float
    stands_still: tuple[str, ...]
    behind: tuple[str, ...]
    parked: int


def status(engine: Engine, catalogue: Catalogue) -> Status:
    """Sizes, positions and the state of the guards, as they are now."""
    with engine.connect() as connection:
        size = schema.head_size(connection)
        open_entries = connection.execute(
            select(quarantine.c.kind, func.count())
            .where(quarantine.c.resolved_at.is_(None))
            .group_by(quarantine.c.kind)
        )
        kinds: dict[str, int] = {kind: count for kind, count in open_entries}
        rows = {
            model.name: int(connection.execute(select(func.count()).select_from(model.table)).scalar_one())
            for model in catalogue
        }
    behind = lag(engine, catalogue)
    last = reader.read(engine, after=size - 1, limit=1) if size else []
    findings = guards.check_guards(engine)
    room = partitions.room(engine)
    return Status(
        url=shown(engine.url),
        revision=schema.revision(engine) or "",
        events=size,
        last_recorded_at=last[0].recorded_at if last else None,
        quarantined=kinds.get("quarantined", 0),
        conflicts=kinds.get("conflict", 0),
        missing_guards=tuple(sorted(guards.missing_names(findings))),
        guard_findings=tuple(findings),
        positions_left=room.positions_left if room.partitioned else None,
        partitions_ahead=room.ahead if room.partitioned else None,
        projections=tuple(
            ProjectionStatus(name, count, behind.positions[name], max(0, size - behind.positions[name]))
            for name, count in rows.items()
        ),
        following=following(engine),
        lag_seconds=round(behind.seconds, 3),
        stands_still=behind.stands_still,
        behind=behind.behind,
        parked=behind.parked,
    )
