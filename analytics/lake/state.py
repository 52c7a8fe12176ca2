"""The projections in the lake: what the models make of the events that are there.

They are followed as the live runner follows the log, by the same merge, and made anew where that is less work. A model and those
made of it are written one after the other; who is killed between them leaves one behind, which is then made anew of the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import duckdb
import pyarrow as pa

from analytics.columns import layout, projection_columns
from analytics.lake.damage import is_damage, readable
from analytics.lake.delta import LakeTable
from analytics.lake.duck import worker
from analytics.lake.levels import Levels
from analytics.lake.log import PIECE_EVENTS
from analytics.lake.models import NAMES, ROWS, LakeSession
from eventstore.errors import ProjectionError
from eventstore.log.arrow import without_positions
from eventstore.projections.catalogue import FACTS, Catalogue, Projection
from eventstore.projections.dead_letters import reason_of
from eventstore.projections.merging import merge
from eventstore.projections.step import is_about_data

STEP_EVENTS = 20_000
"""Events merged at a time into what is there."""
ANEW_SHARE = 0.25
"""Where more of the log than this is not taken in yet, all of it is, anew: reading it once is faster than many merges."""

_MADE_OF = "{}.made-of"
"""The id under which a model's table keeps the digest of what it was made of."""

Excluded = Mapping[str, frozenset[int]]
"""By root, the positions that it leaves out: events that its model cannot take (dead letters)."""


def application(model: Projection) -> str:
    """The id under which a model's table keeps its position: another version of the model, or one kept in other columns, does
    not know it."""
    kept = layout(*(f"{each.name} {each.type}" for each in projection_columns(model)))
    return f"eventstore.{model.name}.{model.version}.{kept}"


class State:
    """The projections' tables of a lake. `events`: its table of the log, whose files are read."""

    def __init__(self, events: LakeTable, tables: Mapping[str, LakeTable], catalogue: Catalogue, memory: str) -> None:
        self._events = events
        self._tables = tables
        self._catalogue = catalogue
        self._memory = memory

    def catch_up(self, until: int, excluded: Excluded, on_progress: Callable[[int], None] | None = None) -> None:
        """Bring every projection to the position `until`, which the lake's events have reached.

        Raises ProjectionError for events that a model cannot take and that are not excluded.
        """
        behind: dict[int, list[Projection]] = {}
        for model in self._catalogue:
            if model.source != FACTS:
                continue
            group = [each for each in self._catalogue if self._catalogue.root(each) == model.name]
            with _as_projection_error(group, 0, until):
                start = self._start(group, excluded, until)
            if start < until or self._tables[model.name].delta is None:
                behind.setdefault(start, []).extend(group)
        for start, models in sorted(behind.items()):
            with self._session(models) as session, _as_projection_error(models, start, until):
                if start == 0 or until - start > max(STEP_EVENTS, ANEW_SHARE * until):
                    self._make_anew(session, until, excluded, on_progress)
                else:
                    self._follow(session, start, until, excluded, on_progress)

    def flatten(self) -> None:
        """Bring every table to one level."""
        with self._session(self._catalogue.models) as session:
            for model in self._catalogue:
                Levels(self._tables[model.name], model, session).flatten()

    def _start(self, group: Sequence[Projection], excluded: Excluded, until: int) -> int:
        """The position that a model and those made of it go on from; 0: they are to be made anew."""
        root = group[0]
        start = self._tables[root.name].position
        up_to = _up_to(excluded, start)
        if start == 0 or start > until or not self._is_made_of(root, up_to):
            return 0
        for number, model in enumerate(group):
            if self._tables[model.name].position != start or not self._is_made_of(model, up_to):
                # Whoever wrote its source was killed then; those made of it were not written either.
                for each in group[number:]:
                    self._make_of_source(group, each, start, excluded)
                break
        return start

    def _make_of_source(
        self, group: Sequence[Projection], model: Projection, position: int, excluded: Excluded
    ) -> None:
        """Make a model's table of the rows that its source's has."""
        with self._session(group) as session:
            source = next(each for each in group if each.name == model.source)
            with Levels(self._tables[source.name], source, session).as_source():
                session.lift(model)
            levels = Levels(self._tables[model.name], model, session)
            levels.put_all(session.merge_in_parts(model), position, self._numbers(model, _up_to(excluded, position)))

    def _make_anew(
        self, session: LakeSession, until: int, excluded: Excluded, on_progress: Callable[[int], None] | None
    ) -> None:
        def pieces() -> Iterator[pa.Table]:
            for piece in self._pieces(0, until, on_progress):
                session.show_events(piece)
                yield piece

        session.lift_all(pieces(), self._left_out_of_facts(excluded))
        for model in session.models:
            following = [each for each in session.models if each.source == model.name]

            def parts(model: Projection = model, following: Sequence[Projection] = following) -> Iterator[None]:
                for _ in session.merge_in_parts(model):
                    for each in following:
                        session.lift(each)
                    yield

            levels = Levels(self._tables[model.name], model, session)
            levels.put_all(parts(), until, self._numbers(model, _up_to(excluded, until)))

    def _follow(
        self,
        session: LakeSession,
        start: int,
        until: int,
        excluded: Excluded,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        levels = {model.name: Levels(self._tables[model.name], model, session) for model in session.models}

        def stored(model: Projection, key: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            return levels[model.name].find(key, keys)

        left_out = self._left_out_of_facts(excluded)
        for after in range(start, until, STEP_EVENTS):
            last = min(after + STEP_EVENTS, until)
            [facts] = self._pieces(after, last, None, step=STEP_EVENTS)
            session.show_events(facts)
            loaded: frozenset[int] | None = None
            for root in [model for model in session.models if model.source == FACTS]:
                without = left_out.get(root.name, frozenset())
                if without != loaded:
                    session.load_facts(without_positions(facts, without))
                    loaded = without
                group = [each for each in session.models if self._catalogue.root(each) == root.name]
                for model in group:
                    merge(session, stored, model)
                # Only now, for a model that counts another's rows looks at them as they were.
                for model in group:
                    levels[model.name].put(last, self._numbers(model, _up_to(excluded, last)))
            session.drop_facts()
            if on_progress is not None:
                on_progress(last)

    def _left_out_of_facts(self, excluded: Excluded) -> Excluded:
        """By root, what is left out of the facts. The lake's own models read none, but what nobody can read must not be among
        them then either."""
        anyone = next(iter(excluded.values()), frozenset())
        return {**excluded, **dict.fromkeys(NAMES, anyone)}

    @contextmanager
    def _session(self, models: Sequence[Projection]) -> Iterator[LakeSession]:
        with tempfile.TemporaryDirectory(prefix="eventstore-lake-") as scratch:
            session = LakeSession(models, memory_limit=self._memory, temp_directory=scratch)
            try:
                yield session
            finally:
                session.close()

    def _pieces(
        self, after: int, until: int, on_progress: Callable[[int], None] | None, *, step: int = PIECE_EVENTS
    ) -> Iterator[pa.Table]:
        """The lake's events as the models take them."""
        with worker() as connection:
            for start in range(after, until, step):
                last = min(start + step, until)
                with readable(self._events.uri.rpartition("/")[0]):
                    piece = connection.sql(
                        f"SELECT {ROWS} FROM read_parquet(?) WHERE position > ? AND position <= ? ORDER BY position",
                        params=[list(self._events.files()), start, last],
                    ).to_arrow_table()
                yield piece
                if on_progress is not None:
                    on_progress(last)

    def _numbers(self, model: Projection, excluded: Excluded) -> dict[str, int]:
        return {_MADE_OF.format(application(model)): self._digest(model, excluded)}

    def _is_made_of(self, model: Projection, excluded: Excluded) -> bool:
        return self._tables[model.name].number(_MADE_OF.format(application(model))) == self._digest(model, excluded)

    def _digest(self, model: Projection, excluded: Excluded) -> int:
        """What a table is made of beside the events: the versions of the models between it and them, and what is left out."""
        left_out = sorted(excluded.get(self._catalogue.root(model), ()))
        versions = []
        while model.source != FACTS:
            model = self._catalogue.find(model.source)
            versions.append(model.version)
        text = f"{versions} {left_out}"
        return int.from_bytes(sha256(text.encode()).digest()[:7], "big")


@contextmanager
def _as_projection_error(models: Sequence[Projection], start: int, until: int) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if is_damage(error) or not is_about_data(error):
            raise
        names = ", ".join(each.name for each in models)
        raise ProjectionError(
            f"the models {names} cannot take the events {start + 1} to {until} into the lake: {reason_of(error)}"
        ) from error


def _up_to(excluded: Excluded, position: int) -> dict[str, frozenset[int]]:
    return {root: frozenset(each for each in several if each <= position) for root, several in excluded.items()}
