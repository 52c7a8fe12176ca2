"""What readers ask of the projections: coupons with their usage, one, many, or by code."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema, computed_field
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
)

from eventstore.errors import InputError, NotFound
from eventstore.log.records import now
from eventstore.log.tables import dead_letters
from eventstore.log.types import to_micros
from eventstore.projections import tables
from eventstore.projections.catalogue import projection
from eventstore.projections.moment import Moment

_Found = TypeVar("_Found")

PAGE_COUPONS = 100
"""Coupons in a page unless the caller says otherwise."""
ROOTS = ("coupons", "redemptions")
"""The projections from facts that a coupon's state is made of: what either of them has parked, the state lacks."""
PROJECTIONS = (*ROOTS, "coupon_usage")
"""All that it is made of: who waits to read what was written waits for these, whatever becomes of projections of one's own."""
AFTER_DELETION = "redeemed_at > deleted_at AND (restored_at IS NULL OR redeemed_at < restored_at)"
"""SQL for a redemption after the last deletion of its coupon and before a restoration, where both rows are at hand."""


class CouponStatus(StrEnum):
    """What a coupon is good for at an instant. `status.sql` says which of them it is; the first that holds, in this order."""

    DELETED = "deleted"
    INACTIVE = "inactive"
    EXPIRED = "expired"
    USED_UP = "used_up"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    UNKNOWN = "unknown"


@lru_cache(maxsize=1)
def status_sql() -> str:
    """The expression of `status.sql`, in which `:at` stands for the instant."""
    lines = (files("eventstore.projections") / "status.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--"))


def number(value: Decimal) -> Any:
    """A decimal as a JSON number."""
    return int(value) if value == value.to_integral_value() else float(value)


Number = Annotated[
    Decimal, PlainSerializer(number, when_used="json"), WithJsonSchema({"type": "number"}, mode="serialization")
]
"""An exact decimal in Python, a JSON number for programs: 18 digits at most, which a double holds well enough to show."""


class CouponUse(BaseModel):
    """How often a coupon was used, by our count and by Wix's own."""

    model_config = ConfigDict(frozen=True)

    times_used: int = Field(
        description="Redemptions counted from the log: one an order, however often it was reported."
    )
    reported_usages: int | None = Field(description="Wix's own counter in the latest snapshot; null before the first.")
    first_used_at: datetime | None = Field(description="The earliest redemption.")
    last_used_at: datetime | None = Field(description="The latest redemption.")
    by_app: dict[str, int] = Field(description="Redemptions by app id; '' where none was reported.")
    uses_after_deletion: int = Field(description="Redemptions after the last deletion and before a restoration.")


class CouponState(BaseModel):
    """A coupon, now or as of a moment: its latest snapshot, its life and its usage. Times are UTC."""

    model_config = ConfigDict(frozen=True)

    site_id: str
    coupon_id: str
    code: str | None
    name: str | None
    discount_type: str | None
    discount_value: Number | None
    buy_x: int | None
    get_y: int | None
    raw_type: str | None
    scope_namespace: str | None
    scope_group: str | None
    scope_entity_id: str | None
    start_time: datetime | None
    expiration_time: datetime | None
    created_at: datetime | None
    usage_limit: int | None
    limit_per_customer: int | None
    minimum_subtotal: Number | None
    limited_to_one_item: bool | None
    applies_to_subscriptions: bool | None
    discounted_cycle_count: int | None
    active: bool | None = Field(description="The dashboard's switch as last reported.")
    expired: bool | None = Field(description="Whether Wix called it expired in the latest snapshot.")
    deleted: bool
    deleted_at: datetime | None
    restored_at: datetime | None
    first_event_time: datetime
    last_event_time: datetime
    snapshot_event_id: str | None
    snapshot_time: datetime | None
    usage: CouponUse
    status: CouponStatus = Field(
        description="What it is good for, now or at `as_of.status_at`: the first that holds of deleted, inactive (switched "
        "off), expired (by date or by Wix's word), used_up (its limit is reached by our count or Wix's), scheduled (not yet "
        "begun) and active. unknown: known by its uses alone, or nobody has said whether it is switched on."
    )
    parked: bool = Field(
        description="Whether an event of it could not be taken in, so that it and what came after it are not counted here."
    )
    as_of: Moment | None = Field(default=None, description="What this is as of; null: now.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def findings(self) -> list[str]:
        """What is odd about it, in words: parked, uses after deletion, counters that disagree, limits passed."""
        found = []
        if self.parked:
            found.append(
                "parked: an event of it could not be taken in, and waits with those after it in the dead letters"
            )
        if self.usage.uses_after_deletion:
            found.append(f"used {_times(self.usage.uses_after_deletion)} after its deletion")
        reported = self.usage.reported_usages
        if reported is not None and reported != self.usage.times_used:
            found.append(f"Wix reports {reported} uses, the log holds {self.usage.times_used}")
        if self.usage_limit is not None and self.usage.times_used > self.usage_limit:
            found.append(f"used {_times(self.usage.times_used)}, limit {self.usage_limit}")
        return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class Page(NamedTuple):
    """A page of coupons, the `after` of the page that follows (None on the last), and what it is as of (None: now)."""

    coupons: list[CouponState]
    next: str | None
    as_of: Moment | None = None


def coupons(
    engine: Engine,
    *,
    site_id: str | None = None,
    coupon_id: str | None = None,
    code: str | None = None,
    deleted: bool | None = None,
    status: CouponStatus | None = None,
    after: str | None = None,
    limit: int = PAGE_COUPONS,
) -> Page:
    """Coupons as they are now in (site, coupon id) order, a keyset page at a time.

    `code` is compared without case, as Wix does. `after` is the `next` of the page before. Raises InputError for an `after`
    that is no cursor.
    """
    with engine.connect() as connection:
        table = tables.served(connection, projection("coupons"))
        status_now = _status(now())
        statement = _statement(connection, table, status_now).order_by(table.c.site_id, table.c.coupon_id).limit(limit)
        if site_id is not None:
            statement = statement.where(table.c.site_id == site_id)
        if coupon_id is not None:
            statement = statement.where(table.c.coupon_id == coupon_id)
        if code is not None:
            # Lowered by DuckDB on the way in: SQLite's own lower() knows no letters but ASCII's.
            statement = statement.where(or_(table.c.code == code, table.c["_code"] == code.lower()))
        if deleted is not None:
            statement = statement.where(table.c.deleted == deleted)
        if status is not None:
            statement = statement.where(status_now == status.value)
        if after is not None:
            statement = statement.where(tuple_(table.c.site_id, table.c.coupon_id) > tuple_(*key_of(after)))
        found = [state(row._asdict()) for row in connection.execute(statement)]
    return Page(found, cursor(found[-1].site_id, found[-1].coupon_id) if len(found) == limit else None)


def coupon(engine: Engine, coupon_id: str, site_id: str | None = None) -> CouponState:
    """One coupon as it is now. Raises NotFound, and InputError if several sites have that id and none is given."""
    return _the_one(coupons(engine, site_id=site_id, coupon_id=coupon_id, limit=2).coupons, coupon_id)


def site_of(connection: Connection, coupon_id: str) -> str:
    """The one site that has a coupon of this id now. Raises NotFound, and InputError if several have."""
    table = tables.served(connection, projection("coupons"))
    statement = select(table.c.site_id).where(table.c.coupon_id == coupon_id).limit(2)
    return str(_the_one(connection.execute(statement).scalars().all(), coupon_id))


def _the_one(found: Sequence[_Found], coupon_id: str) -> _Found:
    if not found:
        raise NotFound(f"no coupon {coupon_id!r} in the store")
    if len(found) > 1:
        raise InputError(f"several sites have a coupon {coupon_id!r}: say which site")
    return found[0]


def _status(at: datetime) -> ColumnElement[str]:
    return type_coerce(text(status_sql()).bindparams(bindparam("at", to_micros(at), type_=BigInteger)), Text)


def cursor(site_id: str, coupon_id: str) -> str:
    """Where the page after this coupon begins."""
    return urlsafe_b64encode(orjson.dumps([site_id, coupon_id])).decode()


def key_of(after: str) -> tuple[str, str]:
    """The coupon that a cursor stands behind. Raises InputError for what is none."""
    try:
        site_id, coupon_id = orjson.loads(urlsafe_b64decode(after))
    except (ValueError, TypeError):
        site_id = coupon_id = None
    if not isinstance(site_id, str) or not isinstance(coupon_id, str) or "\0" in site_id + coupon_id:
        raise InputError(f"after={after!r} is not a cursor; give the `next` of the page before")
    return site_id, coupon_id


def _statement(connection: Connection, coupon: FromClause, status: ColumnElement[str]) -> Select[Any]:
    usage = tables.served(connection, projection("coupon_usage"))
    redemption = tables.served(connection, projection("redemptions"))
    after_deletion = (
        select(func.count())
        .select_from(redemption)
        .where(
            redemption.c.site_id == coupon.c.site_id,
            redemption.c.coupon_id == coupon.c.coupon_id,
            text(AFTER_DELETION),
        )
        .correlate(coupon)
        .scalar_subquery()
    )
    letter = dead_letters.c
    parked = exists().where(
        letter.site_id == coupon.c.site_id,
        letter.subject_id == coupon.c.coupon_id,
        letter.resolved_at.is_(None),
        letter.projection.in_(ROOTS),
    )
    shown: Sequence[Any] = [coupon.c[column.name] for column in projection("coupons").shown]
    return select(
        *shown,
        usage.c.times_used,
        usage.c.first_used_at,
        usage.c.last_used_at,
        usage.c.by_app,
        case((coupon.c.deleted_at.is_(None), 0), else_=after_deletion).label("uses_after_deletion"),
        status.label("status"),
        parked.label("parked"),
    ).select_from(
        coupon.outerjoin(usage, and_(usage.c.site_id == coupon.c.site_id, usage.c.coupon_id == coupon.c.coupon_id))
    )


def state(row: Mapping[str, Any]) -> CouponState:
    """The state that a row of coupons, joined with their usage, tells."""
    values = dict(row)
    values["usage"] = CouponUse(
        times_used=values.pop("times_used") or 0,
        reported_usages=values.pop("reported_usages"),
        first_used_at=values.pop("first_used_at"),
        last_used_at=values.pop("last_used_at"),
        by_app=values.pop("by_app") or {},
        uses_after_deletion=values.pop("uses_after_deletion"),
    )
    return CouponState(**values)
