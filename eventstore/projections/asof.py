"""State as of a moment, by the same models as now, run over the part of the log that counts then.

Of a coupon, or of a page of the register, only those coupons' own events are read: the models' rows depend on nothing else. The
coupons that there were are always some of those that there are now, so a page is chosen from the live table and computed from
the log. What a projection has left out (dead letters) is left out here too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from threading import BoundedSemaphore, Lock
from typing import Any

import duckdb
import orjson
import pyarrow as pa
from sqlalchemy import BigInteger, Connection, Engine, func, select, tuple_, type_coerce

from eventstore.errors import NotFound, ProjectionError, StoreUnavailable
from eventstore.log import arrow, reader
from eventstore.log.schema import head_size
from eventstore.log.tables import dead_letters, events
from eventstore.log.types import from_micros, to_micros
from eventstore.projections import tables, views
from eventstore.projections.catalogue import FACTS, Catalogue, Projection, projection
from eventstore.projections.dead_letters import excluded_positions, reason_of
from eventstore.projections.duck import ModelSession, encode_column, quoted
from eventstore.projections.moment import Key, Moment, of_coupons, resolve, until
from eventstore.projections.views import CouponState, CouponStatus, Page

SESSIONS = 2
"""Questions computed at once; others wait for their turn. A session takes 20 ms to make, so they are kept."""
TURN_SECONDS = 10.0
"""How long a question waits for its turn, before it opens a connection: those who append need some too."""
EXAMINED_COUPONS = 1_000
"""Coupons looked at for one page at most. Which of them a code or a status meant at that moment is known only once they are
computed, and nobody should wait for a whole register to be: the page is then shorter, and `next` goes on behind them."""
FEWEST_COUPONS = 100
"""Coupons computed at first where most of them may not be meant; three times as many each time that they do not suffice."""
PIECE_EVENTS = 10_000
"""Events of some coupons in memory at a time: about 12 MB."""
SITES_AT_ONCE = 100
"""Sites whose coupons' events are asked for in one statement: SQLite takes an expression of five hundred and no more."""
STREAM_EVENTS = 50_000
"""Events of the whole log in memory at a time, when a projection is computed from all of them."""
FETCHED_ROWS = 1_000

_OF_COUPONS = tuple(projection(name) for name in ("coupons", "redemptions", "coupon_usage"))
"""What a CouponState is made of."""
_TYPES = ("coupon.created", "coupon.updated", "coupon.deleted", "coupon.applied", "coupon.observed")
"""The events that make a coupon known."""
_READ: dict[str, Any] = {"timestamp": from_micros, "decimal": Decimal, "json": orjson.loads}
"""How the store's encodings of values are read."""
_USAGE = [column for column in projection("coupon_usage").columns if column.name not in ("site_id", "coupon_id")]


class Sessions:
    """The ModelSessions in which the coupons of one store are computed: made on demand, kept, each lent to one at a time."""

    def __init__(self) -> None:
        self._free: list[ModelSession] = []
        self._lock = Lock()
        self._turn = BoundedSemaphore(SESSIONS)

    @contextmanager
    def lend(self) -> Iterator[ModelSession]:
        """One whose tables are empty. What fails is thrown away, for its tables may be half filled."""
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise StoreUnavailable("too many questions as of a moment are being computed; ask again")
        try:
            with self._lock:
                session = self._free.pop() if self._free else None
            if session is None:
                session = ModelSession(_OF_COUPONS, threads=1)
            try:
                yield session
            except BaseException:
                session.close()
                raise
            with self._lock:
                self._free.append(session)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            for session in self._free:
                session.close()
            self._free.clear()


def coupon(
    engine: Engine,
    sessions: Sessions,
    coupon_id: str,
    *,
    site_id: str | None = None,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
) -> CouponState:
    """One coupon as of a moment, from its own events. See `moment.resolve` for the moment.

    Raises NotFound for a coupon that was not known, saying since when it is; InputError if several sites have that id.
    """
    with sessions.lend() as session, engine.connect() as connection:
        moment = resolve(connection, as_of=as_of, known_at=known_at, at_position=at_position)
        assert moment is not None
        site = site_id if site_id is not None else views.site_of(connection, coupon_id)
        key = (site, coupon_id)
        found = _states(connection, session, [key], moment).get(key)
        if found is None:
            raise NotFound(_known_later(connection, key, moment))
    return found[0]


def coupons(
    engine: Engine,
    sessions: Sessions,
    *,
    site_id: str | None = None,
    code: str | None = None,
    deleted: bool | None = None,
    status: CouponStatus | None = None,
    after: str | None = None,
    limit: int = views.PAGE_COUPONS,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
) -> Page:
    """A page of the register as of a moment: `views.coupons` as it was. Code, deletion and status are those of that moment.

    A page may be shorter than `limit`, and even empty, though others follow: as long as `next` says so.
    """
    with sessions.lend() as session, engine.connect() as connection:
        at = tables.read_checkpoints(connection)
        reached = min(at[model.name].position if model.name in at else 0 for model in _OF_COUPONS)
        moment = resolve(connection, as_of=as_of, known_at=known_at, at_position=at_position, reached=reached)
        assert moment is not None
        shown: list[CouponState] = []
        examined = 0
        several = FEWEST_COUPONS
        filtered = code is not None or deleted is not None or status is not None
        behind = None if after is None else views.key_of(after)
        while len(shown) < limit and examined < EXAMINED_COUPONS:
            lacking = limit - len(shown)
            wanted = min(max(lacking, several) if filtered else lacking, EXAMINED_COUPONS - examined)
            several *= 3
            keys = _candidates(connection, moment, site_id, behind, wanted)
            states = _states(connection, session, keys, moment)
            for key in keys:
                examined += 1
                behind = key
                found = states.get(key)
                if found is not None and _is_meant(*found, code, deleted, status):
                    shown.append(found[0])
                    if len(shown) == limit:
                        break
            if len(keys) < wanted and (not keys or behind == keys[-1]):
                return Page(shown, None, moment)
    assert behind is not None
    return Page(shown, views.cursor(*behind), moment)


def rows(
    engine: Engine,
    catalogue: Catalogue,
    name: str,
    *,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of a projection as of a moment, in key order, from one pass over the log in bounded memory.

    Raises NotFound for an unknown projection, and ProjectionError for an event that its model cannot take.
    """
    chain = [catalogue.find(name)]
    while chain[0].source != FACTS:
        chain.insert(0, catalogue.find(chain[0].source))
    with engine.connect() as connection:
        # Without a moment: as of now, which is what the log holds.
        moment = resolve(connection, as_of=as_of, known_at=known_at, at_position=at_position) or resolve(
            connection, at_position=head_size(connection)
        )
        assert moment is not None
        excluded = excluded_positions(connection, (chain[0].name,), moment.position)
    return _rows(engine, chain, moment, excluded)


def _rows(
    engine: Engine, chain: Sequence[Projection], moment: Moment, excluded: Mapping[str, frozenset[int]]
) -> Iterator[dict[str, Any]]:
    model = chain[-1]
    with tempfile.TemporaryDirectory(prefix="eventstore-as-of-") as scratch:
        session = ModelSession(chain, temp_directory=scratch)
        try:
            session.lift_all(_whole_log(engine, moment), excluded)
            for each, following in zip(chain, [*chain[1:], None], strict=True):
                for _ in session.merge_in_parts(each):
                    if following is not None:
                        session.lift(following)
                    else:
                        yield from _shown(session, model)
        except duckdb.Error as error:
            raise ProjectionError(
                f"the model {model.name} could not be run over the log: {reason_of(error)}"
            ) from error
        finally:
            session.close()


def _shown(session: ModelSession, model: Projection) -> Iterator[dict[str, Any]]:
    """The rows that are merged, in key order."""
    found = session.connection.execute(session.stored_query(model, ordered=True))
    while page := found.fetchmany(FETCHED_ROWS):
        for row in page:
            yield {
                column.name: _value(column.type, value)
                for column, value in zip(model.columns, row, strict=True)
                if not column.is_memory
            }


def _is_meant(
    state: CouponState, lower_code: str | None, code: str | None, deleted: bool | None, status: CouponStatus | None
) -> bool:
    if code is not None and code != state.code and code.lower() != lower_code:
        return False
    return deleted in (None, state.deleted) and status in (None, state.status)


def _candidates(
    connection: Connection, moment: Moment, site_id: str | None, behind: Key | None, limit: int
) -> list[Key]:
    """The next coupons that may have been known at that moment, in (site, coupon id) order."""
    table = tables.served(connection, projection("coupons"))
    statement = select(table.c.site_id, table.c.coupon_id).order_by(table.c.site_id, table.c.coupon_id).limit(limit)
    if site_id is not None:
        statement = statement.where(table.c.site_id == site_id)
    if moment.true_at is not None:
        statement = statement.where(table.c.first_event_time <= moment.true_at)
    if behind is not None:
        statement = statement.where(tuple_(table.c.site_id, table.c.coupon_id) > tuple_(*behind))
    return [(site, coupon_id) for site, coupon_id in connection.execute(statement)]


def _known_later(connection: Connection, key: Key, moment: Moment) -> str:
    coupon_id = key[1]
    first = connection.execute(
        select(func.min(events.c.position), func.min(type_coerce(events.c.event_time, BigInteger))).where(
            of_coupons([key]), events.c.type.in_(_TYPES)
        )
    ).one()
    if first[0] is None:
        return f"no coupon {coupon_id!r} in the store"
    recorded = reader.recorded_at(connection, first[0])
    assert recorded is not None  # what is in the log stays there
    return (
        f"no coupon {coupon_id!r} {described(moment)}: its first event happened at {from_micros(first[1]).isoformat()}, "
        f"and the first that was recorded stands at position {first[0]}, of {recorded.isoformat()}"
    )


def described(moment: Moment) -> str:
    """The moment in words."""
    parts = []
    if moment.true_at is not None:
        parts.append(f"true at {moment.true_at.isoformat()}")
    if moment.known_at is not None:
        parts.append(f"known at {moment.known_at.isoformat()}")
    elif moment.true_at is None:
        parts.append(f"known at position {moment.position}")
    return " and ".join(parts)


# Computing


def _states(
    connection: Connection, session: ModelSession, keys: Sequence[Key], moment: Moment
) -> dict[Key, tuple[CouponState, str | None]]:
    """The states of those of these coupons that were known, each with its code in lower case."""
    if not keys:
        return {}
    excluded = excluded_positions(connection, views.ROOTS, moment.position, frozenset(keys))
    parked = _parked(connection, keys, moment)
    try:
        _run(session, _events_of(connection, keys, moment), excluded)
        found = session.connection.execute(_state_query(moment)).fetchall()
    except duckdb.Error as error:
        raise ProjectionError(
            f"a model cannot take the events of {keys[0]} to {keys[-1]}: {reason_of(error)}"
        ) from error
    types = [column.type for column in (*projection("coupons").shown, *_USAGE)]
    names = [column.name for column in (*projection("coupons").shown, *_USAGE)]
    states = {}
    for row in found:
        values = {name: _value(type_, value) for name, type_, value in zip(names, types, row, strict=False)}
        uses_after_deletion, status, lower_code = row[len(names) :]
        key = (values["site_id"], values["coupon_id"])
        values |= {"uses_after_deletion": uses_after_deletion, "status": status}
        states[key] = (views.state(values | {"parked": key in parked, "as_of": moment}), lower_code)
    return states


def _state_query(moment: Moment) -> str:
    """The columns of coupons and of their usage in the store's encodings, uses after deletion, status and code in lower case."""
    shown = ", ".join(
        f"{encode_column(column)} AS {quoted(column.name)}" for column in (*projection("coupons").shown, *_USAGE)
    )
    status = views.status_sql().replace(":at", f"make_timestamptz({to_micros(moment.status_at)})")
    return f"""
        SELECT {shown}, uses_after_deletion, status, _code
        FROM (
            SELECT
                *,
                (SELECT count(*) FROM redemptions AS r
                 WHERE r.site_id = c.site_id AND r.coupon_id = c.coupon_id AND {views.AFTER_DELETION})
                    AS uses_after_deletion,
                {status} AS status
            FROM coupons AS c
            LEFT JOIN coupon_usage USING (site_id, coupon_id)
        )"""


def _value(type_: str, value: Any) -> Any:
    return value if value is None or type_ not in _READ else _READ[type_](value)


def _run(session: ModelSession, pieces: Iterable[pa.Table], excluded: Mapping[str, frozenset[int]]) -> None:
    """Leave in the session the rows that its models make of these events, each root without what it leaves out."""
    session.lift_all(pieces, excluded)
    for model in session.models:
        if model.source != FACTS:
            session.lift(model)
        session.merge(model)


def _events_of(connection: Connection, keys: Sequence[Key], moment: Moment) -> Iterator[pa.Table]:
    columns = [type_coerce(events.c[name], BigInteger) for name in ("position", "event_time", "recorded_at")]
    sites = sorted({site for site, _ in keys})
    for start in range(0, len(sites), SITES_AT_ONCE):
        some = set(sites[start : start + SITES_AT_ONCE])
        of_these = of_coupons([key for key in keys if key[0] in some])
        statement = select(*columns, events.c.payload).where(of_these, until(moment))
        for part in connection.execute(statement.execution_options(yield_per=PIECE_EVENTS)).partitions():
            yield pa.Table.from_batches([arrow.rows_to_batch(part, arrow.EVENT_SCHEMA)])


def _whole_log(engine: Engine, moment: Moment) -> Iterator[pa.Table]:
    happened_by = None if moment.true_at is None else to_micros(moment.true_at)
    for after in range(0, moment.position, STREAM_EVENTS):
        last = min(after + STREAM_EVENTS, moment.position)
        with arrow.event_batches(engine, after=after, until=last, happened_by=happened_by) as batches:
            yield batches.read_all()


def _parked(connection: Connection, keys: Sequence[Key], moment: Moment) -> set[Key]:
    letter = dead_letters.c
    found = connection.execute(
        select(letter.site_id, letter.subject_id).where(
            letter.resolved_at.is_(None), letter.projection.in_(views.ROOTS), letter.position <= moment.position
        )
    )
    return {(site, subject) for site, subject in found} & set(keys)
