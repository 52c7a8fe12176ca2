"""From a decoded body to its events, by the route that it came or looks like."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import HANDLERS
from eventstore.wix.rest import envelope_site, open_payload, read_processed, read_rest
from eventstore.wix.sdk import metadata_site, read_sdk
from eventstore.wix.snapshot import read_snapshot
from eventstore.wix.velo import read_velo

APPLIED_HANDLER: Final = "wixMarketing_onCouponApplied"
"""The only Velo event that can be told by its body: no other carries `data.coupon`."""


def read(
    body: dict[str, Any], *, route: str | None, handler: str | None, site_id: str, observed_at: datetime
) -> list[Event]:
    """The events of a delivery: one, or one for each coupon of a snapshot.

    `route` is a `Source`, or None to tell it by the shape. `handler` is needed for Velo only, and there not for a use.
    `site_id` is the site of whoever delivered; an SDK or REST envelope that names its own site (`site_of`) wins, so the
    caller must first check that it may. `observed_at` is when a snapshot was taken, or anything else received.
    Raises UnreadableDelivery or UnknownHandler.
    """
    if not isinstance(body, dict):
        raise UnreadableDelivery(f"{scalars.shown(body)} where a JSON object is expected", malformed=True)
    if route is None:
        route = detect_route(body)
    if route == Source.VELO:
        return [read_velo(handler or _told_handler(body), body, site_id=site_id)]
    if route == Source.REST:
        return [read_rest(body, site_id=site_id, received_at=observed_at)]
    if route == Source.SDK:
        if "payload" in body and "metadata" not in body:
            return [read_processed(body, site_id=site_id, received_at=observed_at)]
        return [read_sdk(body, default_site_id=site_id)]
    if route == Source.SNAPSHOT:
        return read_snapshot(body, site_id=site_id, observed_at=observed_at)
    raise UnreadableDelivery(f"unknown route {scalars.shown(route)}; the known ones are {', '.join(Source)}")


def detect_route(body: dict[str, Any]) -> Source:
    """The route that a body looks like. Raises UnreadableDelivery if it looks like none."""
    if "coupons" in body:
        return Source.SNAPSHOT
    if "entityFqdn" in body:
        return Source.REST
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        return Source.SDK if "entityFqdn" in metadata or "eventType" in metadata else Source.VELO
    if "payload" in body and "eventType" in body:
        return Source.SDK
    if "eventType" in body or ("data" in body and isinstance(body["data"], str)):
        return Source.REST
    if "coupon" in body:
        return Source.SNAPSHOT
    raise UnreadableDelivery(
        "not a shape that Wix sends. Known: {entityFqdn, slug, …} or {eventType, instanceId, data} (REST webhook), "
        "{metadata{entityFqdn, slug, …}, entity|data} or {eventType, instanceId, payload} (SDK), {metadata, entity|data} "
        "(Velo), {coupons} (Query Coupons)"
    )


def site_of(body: dict[str, Any]) -> str | None:
    """The site that a body names for itself: `metadata.instanceId`, or the webhook envelope's `instanceId`, or None.

    Every reader files an event either under this site or under the one that its caller gives, never under a third.
    """
    if not isinstance(body, dict):
        return None
    try:
        return metadata_site(body) or envelope_site(*open_payload(body))
    except UnreadableDelivery:
        return None


def _told_handler(body: dict[str, Any]) -> str:
    data = body.get("data")
    if isinstance(data, dict) and "coupon" in data:
        return APPLIED_HANDLER
    raise UnreadableDelivery(
        f"a Velo body does not name its event; give the handler it came from, one of {', '.join(HANDLERS)}"
    )
