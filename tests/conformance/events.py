"""Events to append, told apart by number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from eventstore.event import Coupon, Discount, DiscountType, Event, Source

TIME = datetime(2026, 9, 1, tzinfo=UTC)


def event(number: int, site: str, **fields: Any) -> Event:
    """Event `e<number>`, about one of three coupons, of one of two types."""
    coupon = f"c{number % 3}"
    return Event(
        **{
            "event_id": f"e{number}",
            "type": "coupon.applied" if number % 5 == 0 else "coupon.updated",
            "entity_id": coupon,
            "coupon_id": coupon,
            "event_time": TIME + timedelta(seconds=number),
            "coupon": Coupon(code=f"CODE{number}", discount=Discount(type=DiscountType.FREE_SHIPPING)),
            "source": Source.REST,
            "site_id": site,
            "sequence": number,
            **fields,
        }
    )


def contradiction(number: int, site: str) -> Event:
    """Another event under the id of event `number`."""
    return event(number, site, anonymize=True)
