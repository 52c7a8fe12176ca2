"""Snapshots: coupons as the Query Coupons endpoint answers them, imported as observations."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import OBSERVED
from eventstore.wix.coupon import read_coupon
from eventstore.wix.domain import NO_ID, build


class PagePart(NamedTuple):
    """One coupon of a page as it stands there, and what was read from it: its event, or why it has none."""

    coupon: Any
    read: Event | UnreadableDelivery


def read_snapshot(body: dict[str, Any], *, site_id: str, observed_at: datetime) -> list[Event]:
    """One `coupon.observed` event for each coupon of `{"coupons": […]}`, or for the one of `{"coupon": {…}}`.

    `observed_at` is when the answer was taken from Wix, aware. The same page read again at the same time gives the same
    events, ids included. One coupon that cannot be read refuses the page: UnreadableDelivery.
    """
    events = []
    for part in read_parts(body, site_id=site_id, observed_at=observed_at):
        if isinstance(part.read, UnreadableDelivery):
            raise part.read
        events.append(part.read)
    return events


def read_parts(body: dict[str, Any], *, site_id: str, observed_at: datetime) -> list[PagePart]:
    """What `read_snapshot` reads, coupon by coupon: one that cannot be read refuses itself alone.

    Its error says where it stands in the page (`coupons[3].startTime`). Raises UnreadableDelivery for what is no page.
    """
    if "coupons" in body:
        coupons = body["coupons"]
        if not isinstance(coupons, list):
            raise UnreadableDelivery(f"{scalars.shown(coupons)} where a list of coupons is expected", where="coupons")
        placed = [(coupon, f"coupons[{number}]") for number, coupon in enumerate(coupons)]
    elif "coupon" in body:
        placed = [(body["coupon"], "coupon")]
    else:
        raise UnreadableDelivery('not a page of coupons; {"coupons": […]} or {"coupon": {…}} is expected')
    return [PagePart(coupon, _read_part(coupon, at, site_id, observed_at)) for coupon, at in placed]


def _read_part(coupon: Any, at: str, site_id: str, observed_at: datetime) -> Event | UnreadableDelivery:
    try:
        return _observed(coupon, at, site_id, observed_at)
    except UnreadableDelivery as error:
        return error


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
