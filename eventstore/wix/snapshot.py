"""Snapshots: coupons as the Query Coupons endpoint answers them, imported as observations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import OBSERVED
from eventstore.wix.coupon import read_coupon
from eventstore.wix.domain import NO_ID, build


def read_snapshot(body: dict[str, Any], *, site_id: str, observed_at: datetime) -> list[Event]:
    """One `coupon.observed` event for each coupon of `{"coupons": […]}`, or for the one of `{"coupon": {…}}`.

    `observed_at` is when the answer was taken from Wix, aware. The same page read again at the same time gives the same
    events, ids included. One coupon that cannot be read refuses the page: UnreadableDelivery.
    """
    if "coupons" in body:
        coupons = body["coupons"]
        if not isinstance(coupons, list):
            raise UnreadableDelivery(f"{scalars.shown(coupons)} where a list of coupons is expected", where="coupons")
        return [_observed(coupon, f"coupons[{i}]", site_id, observed_at) for i, coupon in enumerate(coupons)]
    if "coupon" in body:
        return [_observed(body["coupon"], "coupon", site_id, observed_at)]
    raise UnreadableDelivery('not a page of coupons; {"coupons": […]} or {"coupon": {…}} is expected')


def _observed(entity: Any, at: str, site_id: str, observed_at: datetime) -> Event:
    try:
        coupon = read_coupon(scalars.member(entity, "") or {})
    except UnreadableDelivery as error:
        raise scalars.under(at, error) from None
    if coupon["id"] is None:
        raise UnreadableDelivery("missing; a coupon without its id cannot be kept", where=f"{at}.id")
    return build(
        {
            "event_id": NO_ID,
            "type": OBSERVED,
            "entity_id": coupon["id"],
            "coupon_id": coupon["id"],
            "event_time": observed_at,
            "coupon": coupon,
            "source": Source.SNAPSHOT,
            "site_id": site_id,
        }
    )
