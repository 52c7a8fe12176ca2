"""Where each handler stands in the log, durably: what it has handled, and what it may have begun.

Nothing here waits for the disk: should power fail, some events are handled again, as they may be anyway. What a handler writes
through its transaction is as durable as an append, and is never written twice (`calls.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, and_, case, delete, select, update

from eventstore.errors import InputError, NotFound
from eventstore.log.engine import write_transaction
from eventstore.log.exclusive import worker_name
from eventstore.log.records import now
from eventstore.log.tables import handler_done, handler_positions

_row = handler_positions.c


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a handler stands as a process takes it over. `done`: what it has handled above `position`."""

    handler: str
    position: int
    claimed: int
    epoch: int
    suspect: int | None
    deaths: int
    done: frozenset[int]
    is_new: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """What is to be written down of a handler: it has handled everything up to `position`, `handled` events more than before,
    and may begin what stands up to `claimed`. `paused`: why nothing is begun for now."""

    handler: str
    epoch: int
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


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs a handler of a set: the epoch in which it was taken over. What an earlier one wants to write is refused."""

    name: str
    handler: str
    epoch: int

    def holds(self, connection: Connection) -> bool:
        """Whether it still does; nobody takes it over before the transaction ends."""
        return is_still_mine(connection, self.name, self.handler, self.epoch) is not None


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
                found[handler] = Standing(handler, begin, begin, 1, None, 0, frozenset(), True)
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
            found[handler] = Standing(
                handler,
                kept.position,
                claimed,
                kept.epoch + 1,
                suspected,
                deaths,
                frozenset(done),
                False,
            )
    return found


def save(engine: Engine, name: str, several: Iterable[Progress], *, ended: bool = False) -> list[str]:
    """Write down how far handlers are; returns those that another process, or a replay, has taken over: of these nothing is.

    `ended`: nothing is under way any more, so that no event is suspected of what comes.
    """
    lost = []
    with write_transaction(engine, durable=False) as connection:
        for each in several:
            written = connection.execute(
                update(handler_positions)
                .where(_row.name == name, _row.handler == each.handler, _row.epoch == each.epoch)
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
                lost.append(each.handler)
                continue
            connection.execute(
                delete(handler_done).where(
                    handler_done.c.name == name,
                    handler_done.c.handler == each.handler,
                    handler_done.c.position <= each.position,
                )
            )
    return lost


def suspect(engine: Engine, name: str, handler: str, epoch: int, position: int) -> bool:
    """Write down, before it is begun, that this event is begun alone, once more, all before it being done.

    False where the handler was taken over.
    """
    with write_transaction(engine, durable=False) as connection:
        written = connection.execute(
            update(handler_positions)
            .where(_row.name == name, _row.handler == handler, _row.epoch == epoch)
            .values(
                # So that the next process begins with this one, and does not come to it by way of all others.
                position=position - 1,
                deaths=case((_row.suspect == position, _row.deaths + 1), else_=1),
                suspect=position,
            )
        )
    return bool(written.rowcount)


def clear(engine: Engine, name: str, handler: str, epoch: int) -> None:
    """The event that was begun alone has not ended its process: it asked to be tried later."""
    with write_transaction(engine, durable=False) as connection:
        connection.execute(
            update(handler_positions)
            .where(_row.name == name, _row.handler == handler, _row.epoch == epoch)
            .values(suspect=None, deaths=0)
        )


def epochs(connection: Connection, name: str) -> dict[str, int]:
    """The present epoch of each handler of a set."""
    query = select(_row.handler, _row.epoch).where(_row.name == name)
    return {handler: epoch for handler, epoch in connection.execute(query)}


def is_still_mine(connection: Connection, name: str, handler: str, epoch: int) -> int | None:
    """The handler's position, if no other process has taken it over; it cannot be taken over before the transaction ends."""
    query = select(_row.position).where(_row.name == name, _row.handler == handler, _row.epoch == epoch)
    return connection.execute(query.with_for_update(read=True)).scalar()


def mark_done(connection: Connection, name: str, handler: str, position: int) -> None:
    """Say that the event is handled, in the transaction of what its handler wrote. Raises IntegrityError if it was already."""
    connection.execute(handler_done.insert().values(name=name, handler=handler, position=position))


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
