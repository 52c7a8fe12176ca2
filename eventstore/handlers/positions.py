"""Where each handler stands in the log, durably: what it has handled, and what it may have begun.

Nothing here waits for the disk: should power fail, some events are handled again, as they may be anyway. What a handler writes
through its transaction is as durable as an append, and is never written twice (`calls.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, delete, select, update

from eventstore.errors import InputError, NotFound
from eventstore.log.engine import write_transaction
from eventstore.log.exclusive import worker_name
from eventstore.log.records import now
from eventstore.log.tables import handler_done, handler_positions

_row = handler_positions.c


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a handler stands as a process takes it over. `done`: what it has handled above `position`."""

    position: int
    claimed: int
    epoch: int
    suspect: int | None
    deaths: int
    done: frozenset[int]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs a handler of a set: the epoch in which it was taken over. What an earlier one wants to write is refused."""

    name: str
    handler: str
    epoch: int

    @property
    def place(self) -> ColumnElement[bool]:
        """The handler's row, as long as it is this one's."""
        return and_(_row.name == self.name, _row.handler == self.handler, _row.epoch == self.epoch)

    def position(self, connection: Connection) -> int | None:
        """Up to where everything is handled; None where another has taken it over. Nobody does before the transaction ends."""
        return connection.execute(select(_row.position).where(self.place).with_for_update(read=True)).scalar()

    def holds(self, connection: Connection) -> bool:
        """Whether it still does; as `position`."""
        return self.position(connection) is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is to be written down of a handler: it has handled everything up to `position`, `handled` events more than before,
    and may begin what stands up to `claimed`. `paused`: why nothing is begun for now."""

    holder: Holder
    position: int
    claimed: int
    handled: int
    paused: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A handler's place as it is written down, for people."""

    name: str
    handler: str
    position: int
    handled: int
    paused: str | None
    worker: str
    started_at: datetime
    updated_at: datetime


def take_over(
    engine: Engine, name: str, begins: Mapping[str, int], before: Mapping[str, int] | None = None
) -> dict[str, Standing]:
    """Take over the handlers of a set: from now on no other process's writes about them are accepted.

    `begins`: their names, and the position after which one begins that was never run. `before`: the epochs in which this very
    process had them; where nobody has had one since, nothing that was begun has ended a process.
    """
    found = {}
    with write_transaction(engine) as connection:
        for handler, begin in begins.items():
            mine = and_(_row.name == name, _row.handler == handler)
            kept = connection.execute(select(handler_positions).where(mine).with_for_update()).one_or_none()
            if kept is None:
                values = {"position": begin, "claimed": begin, "epoch": 1, "deaths": 0, "handled": 0}
                connection.execute(
                    handler_positions.insert().values(name=name, handler=handler, **values, **_present())
                )
                found[handler] = Standing(begin, begin, 1, None, 0, frozenset())
                continue
            alive = (before or {}).get(handler) == kept.epoch
            claimed, suspected, deaths = (
                (kept.position, None, 0) if alive else (kept.claimed, kept.suspect, kept.deaths)
            )
            connection.execute(
                update(handler_positions)
                .where(mine)
                .values(
                    epoch=kept.epoch + 1, claimed=claimed, suspect=suspected, deaths=deaths, paused=None, **_present()
                )
            )
            done = connection.execute(
                select(handler_done.c.position).where(
                    handler_done.c.name == name,
                    handler_done.c.handler == handler,
                    handler_done.c.position > kept.position,
                )
            ).scalars()
            found[handler] = Standing(kept.position, claimed, kept.epoch + 1, suspected, deaths, frozenset(done))
    return found


def save(engine: Engine, several: Iterable[Progress], *, ended: bool = False) -> set[Holder]:
    """Write down how far handlers are; returns who has lost his to another process or a replay: of these nothing is.

    `ended`: nothing is under way any more, so that no event is suspected of what comes.
    """
    lost = set()
    with write_transaction(engine, durable=False) as connection:
        for each in several:
            written = connection.execute(
                update(handler_positions)
                .where(each.holder.place)
                .values(
                    position=each.position,
                    claimed=each.claimed,
                    handled=_row.handled + each.handled,
                    paused=each.paused,
                    # Behind it nothing was begun alone.
                    suspect=None if ended else case((_row.suspect > each.position, _row.suspect), else_=None),
                    updated_at=now(),
                )
            )
            if not written.rowcount:
                lost.add(each.holder)
                continue
            connection.execute(
                delete(handler_done).where(
                    handler_done.c.name == each.holder.name,
                    handler_done.c.handler == each.holder.handler,
                    handler_done.c.position <= each.position,
                )
            )
    return lost


def suspect(engine: Engine, holder: Holder, position: int) -> bool:
    """Write down, before it is begun, that this event is begun alone, once more, all before it being done.

    False where the handler was taken over.
    """
    with write_transaction(engine, durable=False) as connection:
        written = connection.execute(
            update(handler_positions)
            .where(holder.place)
            .values(
                # So that the next process begins with this one, and does not come to it by way of all others.
                position=position - 1,
                deaths=case((_row.suspect == position, _row.deaths + 1), else_=1),
                suspect=position,
            )
        )
    return bool(written.rowcount)


def clear(engine: Engine, holder: Holder) -> None:
    """The event that was begun alone has not ended its process: it asked to be tried later."""
    with write_transaction(engine, durable=False) as connection:
        connection.execute(update(handler_positions).where(holder.place).values(suspect=None, deaths=0))


def epochs(connection: Connection, name: str) -> dict[str, int]:
    """The present epoch of each handler of a set."""
    query = select(_row.handler, _row.epoch).where(_row.name == name)
    return {handler: epoch for handler, epoch in connection.execute(query)}


def mark_done(connection: Connection, holder: Holder, position: int) -> None:
    """Say that the event is handled, in the transaction of what its handler wrote. Raises IntegrityError if it was already."""
    connection.execute(handler_done.insert().values(name=holder.name, handler=holder.handler, position=position))


def move(connection: Connection, name: str, handler: str, position: int) -> int:
    """Let a handler go on after `position`, back or ahead, whoever runs it; returns where it stood. Raises NotFound."""
    mine = and_(_row.name == name, _row.handler == handler)
    before = connection.execute(select(_row.position).where(mine).with_for_update()).scalar()
    if before is None:
        raise NotFound(
            f"no handler {handler!r} has run under the name {name!r}; `eventstore handlers status` shows all"
        )
    connection.execute(
        update(handler_positions)
        .where(mine)
        .values(
            position=position,
            claimed=position,
            suspect=None,
            deaths=0,
            epoch=_row.epoch + 1,
            updated_at=now(),
        )
    )
    connection.execute(delete(handler_done).where(handler_done.c.name == name, handler_done.c.handler == handler))
    return int(before)


def kept(connection: Connection, name: str | None = None) -> list[Kept]:
    """The places of all handlers, or of those of one set, by name."""
    wanted = ("name", "handler", "position", "handled", "paused", "worker", "started_at", "updated_at")
    query = select(*(_row[each] for each in wanted)).order_by(_row.name, _row.handler)
    if name is not None:
        query = query.where(_row.name == name)
    return [Kept(**row._mapping) for row in connection.execute(query)]


def require_set_name(name: str) -> str:
    """The name of a set of handlers, if it can be one. Raises InputError."""
    if not (0 < len(name) <= 50 and name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
        raise InputError(
            f"{name!r} cannot name a set of handlers: use letters, digits, - and _, 50 at most, as in --name shop"
        )
    return name


def _present() -> dict[str, object]:
    moment = now()
    return {"worker": worker_name(), "started_at": moment, "updated_at": moment}
