"""Events of a shop in September 2026, as tests tell them by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from eventstore.event import Coupon, Discount, DiscountType, Event, Source


def at(day: int, hour: int = 0) -> datetime:
    """A time of that month, UTC."""
    return datetime(2026, 9, day, hour, tzinfo=UTC)


def snapshot(code: str, **facts: Any) -> Coupon:
    """A coupon for ten per cent, switched on."""
    told = {
        "discount": Discount(type=DiscountType.PERCENT_OFF, value=Decimal(10)),
        "active": True,
        "name": code.title(),
    }
    return Coupon(code=code, **(told | facts))


def event(event_id: str, type_: str, about: str, time: datetime, **facts: Any) -> Event:
    """An event of a type, about a coupon unless `facts` say otherwise."""
    told = {"site_id": "shop", "entity_id": about, "coupon_id": about, "source": Source.REST}
    return Event(event_id=event_id, type=type_, event_time=time, **(told | facts))
