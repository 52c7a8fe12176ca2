"""What can be asked, over the files of a lake: views with documented columns, and the macros that take a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from analytics.columns import (
    DELIVERIES,
    DELIVERY_COLUMNS,
    DUCK_TYPES,
    EVENTS,
    FACTS,
    TableColumn,
    documented,
    event_columns,
    fact_columns,
    projection_columns,
)
from analytics.lake import Snapshot, in_lake
from analytics.lake.levels import parquet, visible
from eventstore.projections.catalogue import Catalogue
from eventstore.projections.duck import quoted
from eventstore.projections.views import status_sql

CHANGES = "changes"
EVENTS_ABOUT = "The log: every event, what it says in typed columns, and its payload; holds personal data."
FACTS_ABOUT = "The log without the payloads: what every event says, in typed columns; holds personal data."
DELIVERIES_ABOUT = "Counts of deliveries that are no events of the log, by day of receipt; the rest are in events."
CHANGES_ABOUT = "What each event changed of a coupon, a row a fact, against the snapshot before it."
REGISTER_COLUMNS = "coupons"
STATUS_PARAMETERS = (
    "deleted",
    "snapshot_event_id",
    "active",
    "expired",
    "expiration_time",
    "usage_limit",
    "times_used",
    "reported_usages",
    "start_time",
    "instant",
)
"""What `coupon_status` takes: the columns that `status.sql` reads, and the instant."""


@dataclass(frozen=True, slots=True)
class View:
    """A name that can be asked, what it is, its columns, and the query behind it."""

    name: str
    about: str
    columns: tuple[TableColumn, ...]
    sql: str


@dataclass(frozen=True, slots=True)
class Macro:
    """A table, or of `scalar_macros` a value, that takes parameters."""

    name: str
    parameters: tuple[str, ...]
    sql: str


def views(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[View]:
    """The views over a moment of the lake, each after those that it reads."""
    until = f" WHERE position <= {snapshot.position}" if snapshot.events_end > snapshot.position else ""
    log = _stored(snapshot.events) + until if snapshot.events else None
    yield _over(EVENTS, EVENTS_ABOUT, event_columns(), log)
    # Over the files too: each view between a question and them is looked through wherever the question names it.
    yield _over(FACTS, FACTS_ABOUT, fact_columns(), log)
    for model in in_lake(catalogue):
        levels = snapshot.projections.get(model.name)
        yield _over(model.name, model.about, projection_columns(model), visible(levels) if levels else None)
    yield _over(
        DELIVERIES, DELIVERIES_ABOUT, DELIVERY_COLUMNS, _stored(snapshot.deliveries) if snapshot.deliveries else None
    )
    yield View(CHANGES, CHANGES_ABOUT, change_columns(), changes_sql())


def macros() -> tuple[Macro, ...]:
    """The register as of a time, in both meanings, and in both at once."""
    return (
        Macro("register", ("true_at", "known_by"), register_sql()),
        Macro("coupons_as_of", ("moment",), "SELECT * FROM register(moment, NULL)"),
        Macro("known_at", ("moment",), "SELECT * FROM register(NULL, moment)"),
    )


def scalar_macros() -> tuple[Macro, ...]:
    """What a coupon is good for at an instant, of what the register and its uses say of it: in this order and one by one, for a
    macro's parameters have no types by which a row could be told."""
    return (Macro("coupon_status", STATUS_PARAMETERS, status_sql().replace(":at", STATUS_PARAMETERS[-1])),)


@lru_cache(maxsize=1)
def register_sql() -> str:
    """The query of the register as of a time; it reads `facts`, `true_at` and `known_by`."""
    return (files("analytics.views") / "register.sql").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def changes_sql() -> str:
    """The query of `changes`; it reads `facts`."""
    return (files("analytics.views") / "changes.sql").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def change_columns() -> tuple[TableColumn, ...]:
    """The columns of `changes`."""
    return documented(changes_sql())


def _over(name: str, about: str, columns: Sequence[TableColumn], sql: str | None) -> View:
    """A view of these columns over a query; None: over nothing."""
    if sql is None:
        empty = ", ".join(f"CAST(NULL AS {each.type}) AS {quoted(each.name)}" for each in columns)
        return View(name, about, tuple(columns), f"SELECT {empty} WHERE false")
    shown = ", ".join(
        f"CAST({quoted(each.name)} AS JSON) AS {quoted(each.name)}"
        if each.type == DUCK_TYPES["json"]
        else quoted(each.name)
        for each in columns
    )
    return View(name, about, tuple(columns), f"SELECT {shown} FROM ({sql})")


def _stored(paths: Sequence[str]) -> str:
    return f"SELECT * FROM {parquet(paths)}"
