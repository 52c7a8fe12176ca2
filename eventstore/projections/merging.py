"""Merging new facts into rows that are stored: what the live runner does in each step, and a rebuild to its shadow tables when
it catches up. The session then holds, for every model, its touched rows as they become and as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection

from eventstore.projections import tables
from eventstore.projections.catalogue import FACTS, Projection
from eventstore.projections.duck import ModelSession, quoted

Stored: TypeAlias = Callable[[Projection, Sequence[str], Sequence[tuple[Any, ...]]], Sequence[tuple[Any, ...]]]
"""What finds a projection's rows, as `tables.current_rows` does: those with these values of these columns, in the store's
encodings and in the header's order."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a merge makes of a projection's table: rows (in the store's encodings) that are new or changed, and the keys of rows
    that there are no more, as when the only use in a week turns out to be of the week before."""

    rows: list[tuple[Any, ...]]
    gone: list[tuple[Any, ...]]


def merge(session: ModelSession, stored: Stored, model: Projection) -> Changes:
    """What the session's facts change of a model's table. A model that reads from another comes after it.

    Leaves in `<name>__merged` the rows of every key that they touch, and in `<name>__before` what these were. `stored` finds the
    rows that there are.
    """
    if model.source == FACTS:
        touched = _merge_new(session, stored, model)
    else:
        touched = _merge_derived(session, stored, model)
    if not touched:
        session.clear(model)
        return Changes([], [])
    return _changes(session, model)


def _merge_new(session: ModelSession, stored: Stored, model: Projection) -> bool:
    """Merge what the model lifts from its source into the rows that are stored; whether it lifts anything."""
    session.lift(model)
    keys = session.keys(quoted(f"{model.name}__partial"), model.key_columns)
    if not keys:
        return False
    _put_before(session, stored, model, keys)
    session.add_partial(model, quoted(f"{model.name}__before"))
    session.merge(model)
    return True


def _put_before(
    session: ModelSession,
    stored: Stored,
    model: Projection,
    keys: Sequence[tuple[Any, ...]],
) -> None:
    before = stored(model, model.key, keys)
    session.put(f"{model.name}__before", model.columns, before, like=quoted(f"{model.name}__merged"))


def _merge_derived(session: ModelSession, stored: Stored, model: Projection) -> bool:
    """The same for a model that counts another's rows, of which `<source>__merged` and `<source>__before` are at hand.

    A new row of the source is merged in. A row that changed in what the model reads of it, or went, may have made a maximum
    smaller, which no merge can undo: what it belonged to is counted anew from all its rows.
    """
    source = next(each for each in session.models if each.name == model.source)
    merged, before = quoted(f"{source.name}__merged"), quoted(f"{source.name}__before")
    if not session.count(before):
        # As a rule: all that the source has is new, or nothing is.
        return bool(session.count(merged)) and _merge_new(session, stored, model)
    view = f"CREATE OR REPLACE TEMP VIEW {quoted(source.name)} AS"
    execute = session.execute
    source_key, key = _names(source.key), _names(model.key)
    on = " AND ".join(f"m.{quoted(name)} = b.{quoted(name)}" for name in source.key)
    differs = " OR ".join(f"m.{quoted(name)} IS DISTINCT FROM b.{quoted(name)}" for name in model.watched)
    execute(
        f"""{view}
        SELECT m.* FROM {merged} m JOIN {before} b ON {on} WHERE {differs}
        UNION ALL BY NAME SELECT b.* FROM {merged} m JOIN {before} b ON {on} WHERE {differs}
        UNION ALL BY NAME SELECT b.* FROM {before} b ANTI JOIN {merged} m USING ({source_key})"""
    )
    execute(f"CREATE OR REPLACE TEMP TABLE anew AS SELECT DISTINCT {key} FROM (\n{model.lift}\n)")
    execute(f"{view} SELECT m.* FROM {merged} m ANTI JOIN {before} b USING ({source_key})")
    anew = session.keys("anew", model.key_columns)
    if anew:
        _count_anew(session, stored, model, source, anew)
        touched = True
    else:
        touched = _merge_new(session, stored, model)
    execute(f"{view} FROM {merged}")
    return touched


def _count_anew(
    session: ModelSession,
    stored: Stored,
    model: Projection,
    source: Projection,
    anew: Sequence[tuple[Any, ...]],
) -> None:
    """Count the groups in the table `anew` from all their rows, and merge the source's new rows, which its view shows, into
    the others. A group's rows are found by the columns of its key that are the source's too, among those that are stored."""
    merged, before = quoted(f"{source.name}__merged"), quoted(f"{source.name}__before")
    execute = session.execute
    source_key, key = _names(source.key), _names(model.key)
    execute(f"CREATE OR REPLACE TEMP TABLE fresh AS FROM (\n{model.lift}\n) ANTI JOIN anew USING ({key})")
    _put_before(session, stored, model, [*anew, *session.keys("fresh", model.key_columns)])
    session.add_partial(model, "fresh")
    session.add_partial(model, f"(FROM {quoted(f'{model.name}__before')} ANTI JOIN anew USING ({key}))")
    shared = [column for column in model.key_columns if column.name in {each.name for each in source.columns}]
    names = [column.name for column in shared]
    found = stored(source, names, session.keys("anew", shared))
    session.put("stored", source.columns, found, like=merged)
    execute(
        f"""CREATE OR REPLACE TEMP VIEW {quoted(source.name)} AS
        SELECT m.* FROM {merged} m SEMI JOIN anew USING ({_names(names)})
        UNION ALL BY NAME
        SELECT s.* FROM stored s ANTI JOIN {merged} m USING ({source_key}) ANTI JOIN {before} b USING ({source_key})"""
    )
    session.add_partial(model, f"(FROM (\n{model.lift}\n) SEMI JOIN anew USING ({key}))")
    session.merge(model)


def _names(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _changes(session: ModelSession, model: Projection) -> Changes:
    """What the merge that `session` has just done for the model changes."""
    if model.source == FACTS:
        return Changes(session.stored_rows(model), [])
    merged, before = quoted(f"{model.name}__merged"), quoted(f"{model.name}__before")
    gone = session.keys(f"(FROM {before} ANTI JOIN {merged} USING ({_names(model.key)}))", model.key_columns)
    return Changes(session.stored_rows(model), gone)


def write(connection: Connection, model: Projection, made: Changes, *, name: str | None = None) -> None:
    """Write the changes into the model's table, or the one of that name."""
    tables.remove(connection, model, made.gone, name=name)
    tables.upsert(connection, model, made.rows, name=name)
