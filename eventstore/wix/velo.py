"""The Velo relay: `{metadata, entity}` or `{metadata, data}`, as a site's `events.js` hands it on.

The body does not name its event; the name of the handler that was called does.
"""

from __future__ import annotations

from typing import Any

from eventstore.errors import UnknownHandler, UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix.catalogue import BY_HANDLER
from eventstore.wix.domain import domain_event


def read_velo(handler: str, body: dict[str, Any], *, site_id: str) -> Event:
    """The event that Velo's `handler` was called with, on the site `site_id` (the body names none).

    Raises UnknownHandler, or UnreadableDelivery.
    """
    family = BY_HANDLER.get(handler)
    if family is None:
        raise UnknownHandler(handler, tuple(BY_HANDLER))
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableDelivery("missing; a Velo event is {metadata, entity} or {metadata, data}", where="metadata")
    at = "entity" if body.get("entity") is not None or "data" not in body else "data"
    return domain_event(
        Source.VELO,
        site_id,
        family,
        metadata,
        body.get(at),
        metadata_at="metadata",
        body_at=at,
        changed=body.get("modifiedFields"),
        restored=isinstance(metadata.get("restoreInfo", body.get("restoreInfo")), dict),
    )
