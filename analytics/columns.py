"""The documented columns of what can be asked, with their DuckDB types: of the log, from the header of `events.sql`; of the
projections, from their models' headers; of the counts of deliveries, here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from eventstore.projections.catalogue import Projection
from eventstore.projections.duck import quoted

EVENTS = "events"
FACTS = "facts"
DELIVERIES = "deliveries"

DUCK_TYPES = {
    "text": "VARCHAR",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
    "date": "DATE",
    "decimal": "DECIMAL(18,6)",
    "json": "JSON",
}
CLOSER_TYPES = {
    ("coupon_usage", "by_app"): "MAP(VARCHAR, BIGINT)",
    ("redemptions", "later_event_ids"): "VARCHAR[]",
}
"""The columns that hold something closer than their stored type says; a test compares with the models."""
PAYLOAD = "payload"
KEYS = {
    "coupon_key": (
        ("site_id", "coupon_id"),
        "a number for site_id and coupon_id: joins and groups much faster than the two texts",
    ),
    "event_key": (("site_id", "event_id"), "a number for site_id and event_id, likewise"),
    "later_event_keys": (("site_id", "later_event_ids"), "the event_key of each of later_event_ids, in their order"),
}
"""Columns that the lake adds to every table that has the columns of which they are made, and what they are. Where the last of
those is a list, so is the key."""
_LISTS = frozenset({"later_event_ids"})
_COMMENT = re.compile("--[^\n]*")
_COLUMN = re.compile(r"^-- column: +(\w+) +(\w+) +(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A documented column: its name, its DuckDB type, and what it is."""

    name: str
    type: str
    doc: str


DELIVERY_COLUMNS = (
    TableColumn("day", "DATE", "the UTC day of receipt"),
    TableColumn("site_id", "VARCHAR", "the site; empty where no site is proved, as for most refused deliveries"),
    TableColumn("route", "VARCHAR", "the route it came by: velo, rest, sdk, snapshot or unknown"),
    TableColumn("outcome", "VARCHAR", "what became of it: duplicate, conflict, quarantined or refused"),
    TableColumn("reason", "VARCHAR", "why it was refused, in a word; else empty"),
    TableColumn("count", "BIGINT", "how many; a delivery of several events counts once for each"),
)


@lru_cache(maxsize=1)
def events_sql() -> str:
    """The query that makes the rows of `events` from `batch`, the log's rows as they come."""
    return (files("analytics") / "events.sql").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def event_columns() -> tuple[TableColumn, ...]:
    """The columns of `events`, in their order."""
    return documented(events_sql())


def documented(sql: str) -> tuple[TableColumn, ...]:
    """The columns that the header of a query declares."""
    return tuple(TableColumn(name, DUCK_TYPES[type_], doc) for name, type_, doc in _COLUMN.findall(sql))


def layout(*texts: str) -> str:
    """A word for how rows are made: another one where what makes them has changed, but for comments and spaces."""
    plain = " ".join(" ".join(_COMMENT.sub("", text).split()) for text in texts)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def fact_columns() -> tuple[TableColumn, ...]:
    """The columns of `facts`: those of `events` but for the payload."""
    return tuple(each for each in event_columns() if each.name != PAYLOAD)


def projection_columns(model: Projection) -> tuple[TableColumn, ...]:
    """The columns of a projection that readers are shown."""
    shown = [
        TableColumn(each.name, CLOSER_TYPES.get((model.name, each.name), DUCK_TYPES[each.type]), each.doc)
        for each in model.shown
    ]
    return (*shown, *added_keys(model))


def added_keys(model: Projection) -> tuple[TableColumn, ...]:
    """The key columns that the lake adds to a projection's."""
    there = {each.name for each in model.columns}
    return tuple(
        TableColumn(name, "BIGINT[]" if _LISTS & {*parts} else "BIGINT", doc)
        for name, (parts, doc) in KEYS.items()
        if there.issuperset(parts) and name not in there
    )


def key_sql(parts: Sequence[str]) -> str:
    """SQL for a number that stands for the values of these columns, none of them null; null where one is.

    63 bits of an MD5, which every version of every engine makes alike. Among a million coupons two have the same by a chance of
    one to ten million. Where the last is a list, a number for each of what it holds.
    """
    texts = [f"CAST({quoted(name)} AS VARCHAR)" for name in parts]
    known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in parts)
    if parts[-1] in _LISTS:
        made = f"list_transform({quoted(parts[-1])}, lambda each: {_number([*texts[:-1], 'each'])})"
    else:
        made = _number(texts)
    return f"CASE WHEN {known} THEN {made} END"


def _number(texts: Sequence[str]) -> str:
    return f"CAST(md5_number(concat_ws(chr(31), {', '.join(texts)})) & 9223372036854775807::UHUGEINT AS BIGINT)"
