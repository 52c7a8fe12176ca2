"""One moment of the lake: which files of each table show the log up to one position.

A table is committed to after the other. Whoever looks in between finds some further on than others, and takes of those the
version before; nothing of it is deleted before it is old (`Lake.compact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analytics.lake.delta import LakeTable
from analytics.lake.levels import LevelFiles, level_files
from eventstore.errors import StoreUnavailable

ATTEMPTS = 20
"""How often a moment is looked for while somebody writes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a lake at `position`. `events_end`: where its events end, which may be further on.

    `projections`: their levels by name; empty for a table without a row. `deliveries`: the files of the counts.
    """

    location: str
    position: int
    events_end: int
    events: tuple[str, ...]
    projections: Mapping[str, LevelFiles]
    deliveries: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of it."""
        levels = [files for several in self.projections.values() for _, files in several]
        return (*self.events, *(file for files in levels for file in files), *self.deliveries)


def take(
    location: str,
    events: LakeTable,
    projections: Mapping[str, LakeTable],
    deliveries: LakeTable,
    *,
    bring: bool = True,
    opened: bool = False,
) -> Snapshot:
    """The latest moment that all tables show, with its files on this machine; without `bring`, where they lie.

    `opened`: the versions that are looked at will do, where they show one moment.

    Raises StoreUnavailable where there is none, as in the midst of an upgrade.
    """
    followers = (*projections.values(), deliveries)
    for attempt in range(ATTEMPTS):
        # The events last: they are always at least as far as what follows them.
        for table in () if opened and attempt == 0 else (*followers, events):
            table.open()
        position = min(table.position for table in followers)
        if all(table.step_back_to(position) for table in followers):
            break
    else:
        lacking = [name for name, table in projections.items() if table.position == 0 < events.position]
        raise StoreUnavailable(
            f"the lake {location} has no {', '.join(lacking)} of this version; bring it up to date with its store, or ask "
            "again if somebody does just now"
            if lacking
            else f"the lake {location} is being made anew; ask again"
        )
    return Snapshot(
        location=location,
        position=position,
        events_end=events.position,
        events=events.files(bring=bring),
        projections={name: level_files(table, bring=bring) for name, table in projections.items()},
        deliveries=deliveries.files(bring=bring),
    )
