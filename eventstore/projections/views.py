"""What readers ask of the projections: coupons with their usage, one, many, or by code."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema, computed_field
from sqlalchemy import Engine, Select, and_, case, func, or_, select, tuple_

from eventstore.errors import InputError
from eventstore.projections.catalogue import projection

PAGE_COUPONS = 100
"""Coupons in a page unless the caller says otherwise."""


def _number(value: Decimal) -> Any:
    return int(value) if value == value.to_integral_value() else float(value)


Number = Annotated[
    Decimal, PlainSerializer(_number, when_used="json"), WithJsonSchema({"type": "number"}, mode="serialization")
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
    """A coupon now: its latest snapshot, its life and its usage. Times are UTC."""

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

    @computed_field  # type: ignore[prop-decorator]
    @property
    def findings(self) -> list[str]:
        """What is odd about it, in words: uses after deletion, counters that disagree, limits passed."""
        found = []
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


def coupons(
    engine: Engine,
    *,
    site_id: str | None = None,
    coupon_id: str | None = None,
    code: str | None = None,
    deleted: bool | None = None,
    after: str | None = None,
    limit: int = PAGE_COUPONS,
) -> list[CouponState]:
    """Coupons in (site, coupon id) order, a keyset page at a time.

    `code` is compared without case, as Wix does. `after` is the `cursor` of the last coupon of the page before. Raises
    InputError for an `after` that is no cursor.
    """
    table = projection("coupons").table
    statement = _statement().order_by(table.c.site_id, table.c.coupon_id).limit(limit)
    if site_id is not None:
        statement = statement.where(table.c.site_id == site_id)
    if coupon_id is not None:
        statement = statement.where(table.c.coupon_id == coupon_id)
    if code is not None:
        # Lowered by DuckDB on the way in: SQLite's own lower() knows no letters but ASCII's.
        statement = statement.where(or_(table.c.code == code, table.c["_code"] == code.lower()))
    if deleted is not None:
        statement = statement.where(table.c.deleted == deleted)
    if after is not None:
        statement = statement.where(tuple_(table.c.site_id, table.c.coupon_id) > tuple_(*_key_of(after)))
    with engine.connect() as connection:
        return [_state(row._mapping) for row in connection.execute(statement)]


def cursor(state: CouponState) -> str:
    """Where the page after this coupon begins."""
    return urlsafe_b64encode(orjson.dumps([state.site_id, state.coupon_id])).decode()


def _key_of(after: str) -> tuple[str, str]:
    try:
        site_id, coupon_id = orjson.loads(urlsafe_b64decode(after))
    except (ValueError, TypeError):
        site_id = coupon_id = None
    if not isinstance(site_id, str) or not isinstance(coupon_id, str) or "\0" in site_id + coupon_id:
        raise InputError(f"after={after!r} is not a cursor; give the `next` of the page before")
    return site_id, coupon_id


def _statement() -> Select[Any]:
    coupon = projection("coupons").table
    usage = projection("coupon_usage").table
    redemption = projection("redemptions").table
    after_deletion = (
        select(func.count())
        .select_from(redemption)
        .where(
            redemption.c.site_id == coupon.c.site_id,
            redemption.c.coupon_id == coupon.c.coupon_id,
            redemption.c.redeemed_at > coupon.c.deleted_at,
            or_(coupon.c.restored_at.is_(None), redemption.c.redeemed_at < coupon.c.restored_at),
        )
        .scalar_subquery()
    )
    shown: Sequence[Any] = [coupon.c[column.name] for column in projection("coupons").shown]
    return select(
        *shown,
        usage.c.times_used,
        usage.c.first_used_at,
        usage.c.last_used_at,
        usage.c.by_app,
        case((coupon.c.deleted_at.is_(None), 0), else_=after_deletion).label("uses_after_deletion"),
    ).select_from(
        coupon.outerjoin(usage, and_(usage.c.site_id == coupon.c.site_id, usage.c.coupon_id == coupon.c.coupon_id))
    )


def _state(row: Any) -> CouponState:
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
