"""Taking in what waits behind a dead letter: its event tried again, or skipped, and all that its subject has gathered since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from sqlalchemy import BigInteger, Connection, Engine, select, type_coerce
from sqlalchemy.exc import DBAPIError

from eventstore.errors import InputError, ProjectionError, StoreUnavailable
from eventstore.log.arrow import EVENT_SCHEMA, only_positions, rows_to_batch
from eventstore.log.engine import said, write_transaction
from eventstore.log.subjects import is_about
from eventstore.log.tables import events
from eventstore.projections import blame, dead_letters
from eventstore.projections.catalogue import Catalogue
from eventstore.projections.dead_letters import RETRIED, SKIPPED, DeadLetter, NewLetter, reason_of
from eventstore.projections.step import (
    Group,
    Stepper,
    Unsettled,
    is_about_data,
    tell_parked,
)

NOTE_LENGTH = 500
"""Characters in the note of a skipped event, at most."""
_TRIES = 50
"""How often the projection may have moved on between looking and locking before that is given up."""


@dataclass(frozen=True, slots=True)
class Revived:
    """What became of a dead letter: how many events were taken in, and how the letter is resolved (None: it stays open).

    `parked_at` is the position of the event at which the subject waits now, and `reason` why; None: it waits no more.
    """

    letter: DeadLetter
    events: int
    resolution: str | None
    parked_at: int | None
    reason: str | None


def retry_dead_letters(engine: Engine, catalogue: Catalogue, ids: Iterable[int] | None = None) -> Iterator[Revived]:
    """Try letters again, their events and what waits behind them, each in a transaction.

    None given: all that are open, of projections that are followed.

    Each in turn gives its answer; nothing is done for those not iterated over. Raises NotFound and InputError for an id that
    is no open letter's, ProjectionError where the projection is not followed, StoreUnavailable.
    """
    with closing(Stepper(engine, catalogue)) as stepper:
        with engine.connect() as connection:
            if ids is None:
                # One that is not followed must not keep those behind it from being tried.
                wanted = dead_letters.open_ids(connection, [group.root for group in stepper.groups(connection)])
            else:
                wanted = list(dict.fromkeys(ids))
                for each in wanted:
                    dead_letters.open_letter(connection, each)
        for letter_id in wanted:
            yield _revive(engine, stepper, letter_id, RETRIED, None)


def skip_dead_letter(engine: Engine, catalogue: Catalogue, letter_id: int, note: str) -> Revived:
    """Leave a letter's event out of its projection for good, the note saying why, and take in what waited behind it.

    Raises as `retry_dead_letters` does, and InputError for a note that is empty or too long.
    """
    if not note.strip() or len(note) > NOTE_LENGTH or "\0" in note:
        raise InputError(f"a note says why the event is skipped, in 1 to {NOTE_LENGTH} characters")
    with closing(Stepper(engine, catalogue)) as stepper:
        return _revive(engine, stepper, letter_id, SKIPPED, note)


def _revive(engine: Engine, stepper: Stepper, letter_id: int, resolution: str, note: str | None) -> Revived:
    try:
        for _ in range(_TRIES):
            done = _try(engine, stepper, letter_id, resolution, note)
            if done is not None:
                return done
    except DBAPIError as error:
        raise StoreUnavailable(f"the dead letter {letter_id} could not be dealt with: {said(error)}") from error
    except (Unsettled, duckdb.Error) as error:
        raise ProjectionError(f"the events of the dead letter {letter_id} could not be taken in: {error}") from error
    raise StoreUnavailable(
        f"the dead letter {letter_id} could not be dealt with: the projection is too busy; try again"
    )


def _try(engine: Engine, stepper: Stepper, letter_id: int, resolution: str, note: str | None) -> Revived | None:
    """None where the projection has moved on meanwhile."""
    with engine.connect() as connection:
        letter = dead_letters.open_letter(connection, letter_id)
        group = next((each for each in stepper.groups(connection) if each.root == letter.projection), None)

    def also(found: Connection) -> None:
        dead_letters.open_letter(found, letter_id)
        dead_letters.resolve(found, letter_id, resolution, note)

    if group is None:
        if resolution == RETRIED:
            raise ProjectionError(
                f"the projection {letter.projection} is not followed by this program: run `eventstore upgrade`, which makes "
                "it anew, or name its folder in the setting `projections`"
            )
        # Nothing follows it: whatever makes its table anew leaves the event out.
        with write_transaction(engine) as found:
            also(found)
        return Revived(letter, 0, resolution, None, None)
    with engine.connect() as connection:
        waiting = _waiting(connection, group, letter, after=letter.position - (resolution == RETRIED))
    try:
        taken = stepper.attempt_behind(group, waiting.facts, also)
        return Revived(letter, len(waiting.subjects), resolution, None, None) if taken else None
    except Exception as error:
        if not is_about_data(error):
            raise
    guilty, wrong = blame.first_guilty(
        waiting.subjects, lambda positions: stepper.why_not(group, only_positions(waiting.facts, positions))
    )
    before = [each.position for each in waiting.subjects if each.position < guilty.position]
    parked = NewLetter(
        letter.projection, guilty.position, letter.site_id, letter.subject_id, guilty.event_id, reason_of(wrong)
    )
    stays = guilty.position == letter.position

    def again(found: Connection) -> None:
        if stays:
            dead_letters.open_letter(found, letter_id)
        else:
            also(found)
        dead_letters.park(found, parked)

    if not stepper.attempt_behind(group, only_positions(waiting.facts, before), again):
        return None
    tell_parked(parked)
    return Revived(letter, len(before), None if stays else resolution, parked.position, parked.reason)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Events of one subject that were left out, in order."""

    subjects: list[blame.Subject]
    facts: pa.Table


def _waiting(connection: Connection, group: Group, letter: DeadLetter, *, after: int) -> _Waiting:
    """The letter's subject's events behind `after` that the projection has gone past without, but for those skipped."""
    row = events.c
    query = (
        select(
            row.position,
            type_coerce(row.event_time, BigInteger),
            type_coerce(row.recorded_at, BigInteger),
            row.payload,
            row.event_id,
        )
        .where(
            is_about(letter.site_id, letter.subject_id),
            row.position > after,
            row.position <= group.position,
            row.position.not_in([each.position for each in group.left_out if each.skipped]),
        )
        .order_by(row.position)
    )
    found = connection.execute(query).fetchall()
    return _Waiting(
        [blame.Subject(each.position, letter.site_id, letter.subject_id, each.event_id) for each in found],
        pa.Table.from_batches([rows_to_batch([tuple(each)[:4] for each in found], EVENT_SCHEMA)]),
    )
