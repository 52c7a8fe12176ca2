"""One step of the projections: events of the log, run through the models, become rows of their tables.

A step runs the models over the events joined with the present rows of the keys they touch, and in one transaction writes the
rows and moves the checkpoint, provided that neither it nor what is left out has changed meanwhile. Computing outside that
transaction is safe because rows change only together with their checkpoint or with a dead letter.

What fails because of an event stops nothing else: a projection from facts and those made of it go together, and each such
group is tried alone; in the one that fails `blame` finds the subjects that it cannot take, which are parked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, Engine, case, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from eventstore.errors import ProjectionError
from eventstore.log import arrow
from eventstore.log.engine import write_transaction
from eventstore.log.records import now
from eventstore.log.schema import head_size
from eventstore.log.subjects import SUBJECT
from eventstore.log.tables import events
from eventstore.log.tables import projection_checkpoints as checkpoints
from eventstore.projections import blame, dead_letters, tables
from eventstore.projections.catalogue import Catalogue, Projection
from eventstore.projections.dead_letters import LeftOut, NewLetter, reason_of
from eventstore.projections.duck import ModelSession
from eventstore.projections.merging import Changes, merge, write

MOST_PARKED = 50
"""Subjects that one step parks at most: of more, a step of fewer events does. Where as many cannot be taken of twice so many
events, it is the model that is wrong, not an event."""

_log = logging.getLogger("eventstore.projections")


@dataclass(frozen=True, slots=True)
class Group:
    """A projection from facts (`root`) and those made of it, which share a checkpoint: where it was when it was looked at,
    when it had last moved, and what was left out of it then."""

    root: str
    models: tuple[Projection, ...]
    position: int
    moved_at: datetime
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step has come: the position that the groups have reached, leaving aside those that failed; the log's head; and
    of each that failed in this step why."""

    position: int
    head: int
    failed: dict[str, ProjectionError]


class Stepper:
    """Steps the projections of one engine. Not thread-safe; close it."""

    def __init__(self, engine: Engine, catalogue: Catalogue) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._session: ModelSession | None = None
        self._outrun = False
        """Whether somebody else changed what the present step was to build on, so that it wrote nothing."""

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def groups(self, connection: Connection) -> list[Group]:
        """The groups that can be followed: of models that are not behind (`tables.followed`)."""
        by_root: dict[str, list[Projection]] = {}
        found = tables.read_checkpoints(connection)
        for model in tables.followed(found, self._catalogue):
            by_root.setdefault(self._catalogue.root(model), []).append(model)
        left = dead_letters.all_left_out(connection)
        made = []
        for root, models in by_root.items():
            ours = [found[model.name] for model in models]
            moved_at = max(row.updated_at for row in ours)
            made.append(Group(root, tuple(models), ours[0].position, moved_at, tuple(left.get(root, ()))))
        return made

    def step(self, most: int, *, without: Collection[str] = ()) -> Progress:
        """Take in at most `most` events, leaving aside the groups named in `without`.

        Raises SQLAlchemy's and the driver's errors where the database fails.
        """
        with self._engine.connect() as connection:
            head = head_size(connection)
            groups = [each for each in self.groups(connection) if each.root not in without]
        reached, failed = head, dict[str, ProjectionError]()
        ahead = head
        # Those in front first, and each of them a step: one that is far behind must not keep the others waiting.
        for start in sorted({each.position for each in groups if each.position < head}, reverse=True):
            until = min(start + most, ahead)
            ahead = start
            with arrow.event_batches(self._engine, after=start, until=until) as batches:
                facts = batches.read_all()
            self._outrun = False
            for alike in self._alike([each for each in groups if each.position == start], start, until):
                failed |= self._take(alike.groups, arrow.without_positions(facts, alike.held), until)
            # Whoever was faster may have gone less far.
            reached = min(reached, start if self._outrun else until)
        return Progress(reached, head, failed)

    def _alike(self, groups: Sequence[Group], start: int, until: int) -> list[_Alike]:
        """The groups together that leave out the same of these events; as a rule all of them, and nothing."""
        if not any(left.position > start or not left.skipped for each in groups for left in each.left_out):
            return [_Alike(list(groups), frozenset())]
        subjects = self.subjects(start, until)
        made: dict[frozenset[int], _Alike] = {}
        for group in groups:
            held = held_positions(group.left_out, subjects)
            made.setdefault(held, _Alike([], held)).groups.append(group)
        return list(made.values())

    def subjects(self, after: int, until: int) -> list[blame.Subject]:
        """The events with `after < position <= until` by what they are about, in order."""
        column = events.c
        query = (
            select(column.position, column.site_id, SUBJECT, column.event_id)
            .where(column.position > after, column.position <= until)
            .order_by(column.position)
        )
        with self._engine.connect() as connection:
            return [blame.Subject(*row) for row in connection.execute(query)]

    def _take(self, groups: Sequence[Group], facts: pa.Table, until: int) -> dict[str, ProjectionError]:
        """Take these events in, parking what cannot be; why not, of each group that cannot go on."""
        try:
            self._outrun |= not self.attempt(groups, facts, until)
        except Exception as error:
            if not (isinstance(error, duckdb.Error) or is_about_data(error)):
                raise
            if len(groups) == 1:
                return self._take_without_guilty(groups[0], facts, until, error)
            failed: dict[str, ProjectionError] = {}
            for group in groups:
                failed |= self._take([group], facts, until)
            return failed
        return {}

    def _take_without_guilty(
        self, group: Group, facts: pa.Table, until: int, error: Exception
    ) -> dict[str, ProjectionError]:
        """Take in what can be of events of which `error` says that they cannot be, and park the others."""
        try:
            if not is_about_data(error):
                raise Unsettled(str(error)) from error
            taken = set(facts["position"].to_pylist())
            subjects = [each for each in self.subjects(group.position, until) if each.position in taken]
            taken_until = until
            while True:
                try:
                    letters, held = self.letters_for(group, facts, subjects)
                    break
                except blame.TooMany as error:
                    if taken_until == until:
                        self._require_few(group, facts, subjects[: 2 * MOST_PARKED], error)
                    # There are guilty ones all over the step, and not in most events: a smaller step has fewer.
                    subjects = subjects[: len(subjects) // 2]
                    taken_until = subjects[-1].position
                    facts = arrow.only_positions(facts, [each.position for each in subjects])
                    if self.why_not(group, facts) is None:
                        letters, held = [], frozenset()
                        break
            self._outrun |= taken_until != until
            rest = arrow.without_positions(facts, held)
            self._outrun |= not self.attempt([group], rest, taken_until, letters=letters)
        except (Unsettled, duckdb.Error) as unsettled:
            wrong = ProjectionError(
                f"the projection {group.root} cannot take the events {group.position + 1} to {until}: {unsettled}"
            )
            wrong.__cause__ = unsettled
            return {group.root: wrong}
        return {}

    def letters_for(
        self, group: Group, facts: pa.Table, subjects: Sequence[blame.Subject]
    ) -> tuple[list[NewLetter], frozenset[int]]:
        """Letters for the events that a group cannot take, and the positions that wait then. Raises Unsettled, and TooMany
        for more than MOST_PARKED."""
        found = blame.find(
            subjects, lambda positions: self.why_not(group, arrow.only_positions(facts, positions)), MOST_PARKED
        )
        letters = [
            NewLetter(group.root, each.position, each.site_id, each.subject_id, each.event_id, reason_of(error))
            for each, error in found
        ]
        first = {each.key: each.position for each, _ in found}
        held = frozenset(each.position for each in subjects if each.key in first and each.position >= first[each.key])
        return letters, held

    def _require_few(
        self, group: Group, facts: pa.Table, subjects: Sequence[blame.Subject], error: blame.TooMany
    ) -> None:
        """Raise Unsettled if even of so few events more than MOST_PARKED subjects cannot be taken in."""
        try:
            if self.why_not(group, arrow.only_positions(facts, [each.position for each in subjects])) is not None:
                self.letters_for(group, facts, subjects)
        except blame.TooMany:
            raise Unsettled(
                f"more than {MOST_PARKED} coupons cannot be taken in, as if the model were wrong and not an event; "
                "mend the model and give it a new version"
            ) from error

    def attempt(
        self, groups: Sequence[Group], facts: pa.Table, until: int, *, letters: Sequence[NewLetter] = ()
    ) -> bool:
        """Take these events in, move the checkpoints to `until` and write the letters, in one transaction.

        False where somebody else, another runner, a rebuild or a retry, has changed what this was to build on: nothing is
        written then.
        """
        models = [model for group in groups for model in group.models]
        made = self._compute(models, facts)
        with write_transaction(self._engine) as connection:
            if not self._are_as_they_were(connection, groups):
                connection.rollback()
                return False
            for model in models:
                write(connection, model, made[model.name])
            connection.execute(
                update(checkpoints)
                .where(checkpoints.c.name.in_([model.name for model in models]))
                .values(position=until, updated_at=now())
            )
            for letter in letters:
                dead_letters.park(connection, letter)
        for letter in letters:
            tell_parked(letter)
        return True

    def attempt_behind(self, group: Group, facts: pa.Table, also: Callable[[Connection], None]) -> bool:
        """Take in events from before the checkpoint, and do what `also` does, in one transaction.

        The checkpoint is locked first, for else a busy runner would be faster each time. False as for `attempt`.
        """
        with write_transaction(self._engine) as connection:
            if not self._are_as_they_were(connection, [group]):
                connection.rollback()
                return False
            made = self._compute(group.models, facts)
            for model in group.models:
                write(connection, model, made[model.name])
            # So that one made of these that this program does not know is seen to have missed it (`tables.behind`).
            connection.execute(
                update(checkpoints)
                .where(checkpoints.c.name.in_([model.name for model in group.models]))
                .values(updated_at=now())
            )
            also(connection)
        return True

    def why_not(self, group: Group, facts: pa.Table) -> Exception | None:
        """What is wrong with these events, which are tried and not kept; None if they can be taken in. Raises Unsettled."""
        try:
            made = self._compute(group.models, facts)
            with write_transaction(self._engine) as connection:
                self._lock([group], connection)
                for model in group.models:
                    write(connection, model, made[model.name])
                connection.rollback()
        except Exception as error:
            if is_about_data(error):
                return error
            if isinstance(error, duckdb.Error):
                raise Unsettled(str(error)) from error
            raise
        return None

    def _lock(self, groups: Sequence[Group], connection: Connection) -> None:
        """Lock the groups' checkpoints to the end of the transaction."""
        row = checkpoints.c
        names = [model.name for group in groups for model in group.models]
        # In the order of the models, as a rebuild takes them: locks taken in one order cannot deadlock.
        order = case({name: number for number, name in enumerate(names)}, value=row.name)
        connection.execute(select(row.name).where(row.name.in_(names)).order_by(order).with_for_update())

    def _are_as_they_were(self, connection: Connection, groups: Sequence[Group]) -> bool:
        """Lock the groups' checkpoints and see whether they, and what is left out, are what they were."""
        self._lock(groups, connection)
        present = {each.root: each for each in self.groups(connection)}
        return all(present.get(group.root) == group for group in groups)

    def _compute(self, models: Sequence[Projection], facts: pa.Table) -> dict[str, Changes]:
        if self._session is None:
            # A step is too small to be shared out, and those who append need the other cores.
            self._session = ModelSession(self._catalogue, threads=1)
        session = self._session
        made: dict[str, Changes] = {}
        try:
            session.load_facts(facts)
            with self._engine.connect() as connection:
                for model in models:
                    made[model.name] = merge(session, tables.stored_by(connection), model)
        except BaseException as error:
            # Half-filled working tables must not leak into the next step.
            if is_about_data(error):
                session.reset()
            else:
                self.close()
            raise
        return made


@dataclass(slots=True)
class _Alike:
    groups: list[Group]
    held: frozenset[int]


class Unsettled(Exception):
    """No event could be found whose fault it is; the message says what failed."""


_OF_THE_MODEL = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.SyntaxException)
"""What DuckDB raises for a query that is wrong whatever it is run over."""


def is_about_data(error: BaseException) -> bool:
    """Whether a model or the database refuses what it was given: a value, a text that is no JSON, a missing key.

    All else is about themselves: memory, disk, a lock, a connection, a query that is wrong.
    """
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError) and not error.connection_invalidated
    if isinstance(error, _OF_THE_MODEL):
        return False
    return isinstance(
        error,
        duckdb.DataError
        | duckdb.ProgrammingError
        | duckdb.NotSupportedError
        | duckdb.IntegrityError
        # A number too large for SQLite, a value that Arrow has no place for.
        | OverflowError
        | pa.ArrowInvalid,
    )


def tell_parked(letter: NewLetter) -> None:
    """Log that an event is parked: where it is, and nothing of what it says."""
    _log.warning(
        "a projection cannot take an event; its coupon is parked",
        extra={
            "projection": letter.projection,
            "position": letter.position,
            "reason": letter.reason.partition(":")[0],
        },
    )


def held_positions(left: Iterable[LeftOut], subjects: Iterable[blame.Subject]) -> frozenset[int]:
    """The positions of those events that are left out."""
    parked = {(each.site_id, each.subject_id): each.position for each in left if not each.skipped}
    skipped = {each.position for each in left if each.skipped}
    return frozenset(
        each.position
        for each in subjects
        if each.position in skipped or each.position >= parked.get(each.key, each.position + 1)
    )
