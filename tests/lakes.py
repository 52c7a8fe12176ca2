"""What a lake shows, in the encodings of the store that it was made of, so that the two can be compared to the last value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import strategies as st

from analytics.columns import CLOSER_TYPES
from analytics.lake import Lake, Snapshot, levels, log, state
from analytics.lake.levels import parquet, visible
from eventstore.event import Event
from eventstore.projections.catalogue import Catalogue
from eventstore.projections.duck import encode_column, quoted
from eventstore.store import EventStore
from tests.histories import deliveries, histories

Row = tuple[Any, ...]

LEVEL_ROWS = (None, 9, 5, 3)
"""Rows that the levels of a projection hold at most where a test wants few events to need them all."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to bring a lake up to date: events that arrive in pieces, and how a projection takes in those of a piece."""

    pieces: list[list[Event]]
    step_events: int
    anew_share: float


@st.composite
def ways(draw: st.DrawFn, max_size: int) -> Way:
    """Ways to come to what a history of at most so many events tells, however its deliveries arrive."""
    arriving = draw(deliveries(draw(histories(max_size=max_size))))
    cuts = [0, *sorted(draw(st.sets(st.integers(0, len(arriving)), max_size=4))), len(arriving)]
    return Way(
        [arriving[first:last] for first, last in itertools.pairwise(cuts)],
        draw(st.sampled_from([2, 4, 100])),
        draw(st.sampled_from([0.0, 0.5, 10.0])),
    )


def bring_up(lake: Lake, store: EventStore, way: Way) -> None:
    """Append and catch up by turns."""
    with small(way.step_events, anew_share=way.anew_share):
        for piece in way.pieces:
            list(store.append_many(piece))
            assert lake.catch_up(store.engine) == store.head()


@contextmanager
def small(step_events: int = 4, *, anew_share: float = 10.0, commit_events: int = 5) -> Iterator[None]:
    """Meanwhile a few events make a lake of many files, levels, steps and commits.

    `anew_share`: past which share of the log a projection is made anew; at 10 it never is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "LEVEL_ROWS", LEVEL_ROWS)
        patch.setattr(levels, "FETCHED_ROWS", 2)
        patch.setattr(state, "STEP_EVENTS", step_events)
        patch.setattr(state, "ANEW_SHARE", anew_share)
        patch.setattr(state, "PIECE_EVENTS", 3)
        patch.setattr(log, "COMMIT_EVENTS", commit_events)
        patch.setattr(log, "PIECE_EVENTS", 2)
        patch.setattr(log, "SMALL_FILES", 3)
        yield


def projections_in_lake(snapshot: Snapshot, catalogue: Catalogue) -> dict[str, list[Row]]:
    """Every row of every projection, the memory of the merge included, in the store's encodings and in order."""
    found: dict[str, list[Row]] = {}
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for model in catalogue:
            shown = ", ".join(
                quoted(each.name)
                if each.type == "json" and (model.name, each.name) not in CLOSER_TYPES
                else encode_column(each)
                for each in model.columns
            )
            files = snapshot.projections[model.name]
            rows = connection.execute(f"SELECT {shown} FROM ({visible(files)})").fetchall() if files else []
            found[model.name] = sorted(rows, key=repr)
    return found


def projections_in_store(store: EventStore) -> dict[str, list[Row]]:
    """The same of the store's own tables, once they have taken in the log."""
    store.project()
    found: dict[str, list[Row]] = {}
    with store.engine.connect() as connection:
        for model in store.catalogue:
            columns = ", ".join(quoted(each.name) for each in model.columns)
            booleans = [each.type == "boolean" for each in model.columns]
            rows = connection.exec_driver_sql(f"SELECT {columns} FROM {model.name}").fetchall()
            found[model.name] = sorted(
                (
                    tuple(
                        bool(value) if boolean and value is not None else value
                        for value, boolean in zip(row, booleans, strict=True)
                    )
                    for row in rows
                ),
                key=repr,
            )
    return found


def positions(snapshot: Snapshot) -> list[int]:
    """The positions of the events that a moment shows, as often as each stands there."""
    if not snapshot.events:
        return []
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute(
            f"SELECT position FROM {parquet(snapshot.events)} WHERE position <= ? ORDER BY position",
            [snapshot.position],
        )
        return [position for (position,) in rows.fetchall()]


def assert_shows(lake: Lake, store: EventStore) -> Snapshot:
    """The lake is what the log and the store's projections are, to the last value."""
    snapshot = lake.snapshot()
    assert snapshot.position == store.head()
    assert positions(snapshot) == list(range(1, store.head() + 1))
    assert all(segment.same for segment in lake.verify(store.engine))
    assert projections_in_lake(snapshot, store.catalogue) == projections_in_store(store)
    return snapshot


def lake_of(store: EventStore, folder: Path | str) -> Lake:
    """A lake with all the projections of a store, its own too."""
    return Lake(folder, catalogue=store.catalogue)
