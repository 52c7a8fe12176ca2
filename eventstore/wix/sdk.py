"""The SDK relay: the envelope that `@wix/sdk` hands to `coupons.onCouponCreated(event => …)` and its like."""

from __future__ import annotations

from typing import Any

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import BY_EVENT_TYPE, OWN_TYPES
from eventstore.wix.domain import domain_event


def read_sdk(body: dict[str, Any], *, default_site_id: str) -> Event:
    """The event of an SDK envelope, on the site `metadata.instanceId`, or else on `default_site_id`.

    An event of another family is read as not recognised, under its `eventType`. Raises UnreadableDelivery.
    """
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableDelivery("missing; an SDK event is {metadata, entity} or {metadata, data}", where="metadata")
    event_type = type_of(metadata, at="metadata")
    at = "entity" if body.get("entity") is not None or "data" not in body else "data"
    return domain_event(
        Source.SDK,
        metadata_site(body) or default_site_id,
        BY_EVENT_TYPE.get(event_type, event_type),
        metadata,
        body.get(at),
        metadata_at="metadata",
        body_at=at,
        changed=body.get("modifiedFields"),
        restored=isinstance(metadata.get("restoreInfo", body.get("restoreInfo")), dict),
    )


def metadata_site(body: dict[str, Any]) -> str | None:
    """The site that a body's metadata names."""
    metadata = body.get("metadata")
    return scalars.ident(metadata.get("instanceId"), "metadata.instanceId") if isinstance(metadata, dict) else None


def type_of(metadata: dict[str, Any], *, at: str, default: Any = None) -> str:
    """Wix's `eventType`: from `entityFqdn` and `slug`, else as `eventType` says it, else `default`.

    The SDK's envelope has no `eventType` at run time (seen in @wix/sdk 1.21.16), so that the pair comes first.
    """
    said = _said_type(metadata, at, default)
    if said.startswith(OWN_TYPES):
        raise UnreadableDelivery("an eventType that is a name of the store's own", where=scalars.path(at, "eventType"))
    return said


def _said_type(metadata: dict[str, Any], at: str, default: Any) -> str:
    fqdn = scalars.ident(metadata.get("entityFqdn"), scalars.path(at, "entityFqdn"))
    slug = scalars.ident(metadata.get("slug"), scalars.path(at, "slug"))
    if fqdn and slug:
        return f"{fqdn}_{slug}"
    said = scalars.ident(metadata.get("eventType"), scalars.path(at, "eventType")) or scalars.ident(
        default, "eventType"
    )
    if said is None:
        raise UnreadableDelivery(
            "missing, and no eventType; the event does not say what happened", where=scalars.path(at, "slug")
        )
    return said
