"""Coupons as Query Coupons answers them, and what a store has heard of them before."""

from __future__ import annotations

import json
from typing import Any

from eventstore.store import EventStore
from tests.serving import DELETED, wrapped


def spring(coupon_id: str = "c-1", *, uses: int = 0, **facts: Any) -> dict[str, Any]:
    """The coupon that `created` makes, as Query Coupons answers it."""
    specification = {"code": "SPRING", "type": "PercentOffRate", "percentOffRate": 10, **facts}
    return {"id": coupon_id, "specification": specification, "numberOfUsages": uses}


def page(*coupons: Any, **more: Any) -> dict[str, Any]:
    return {"coupons": list(coupons), **more}


def tell(store: EventStore, *lines: dict[str, Any]) -> None:
    """Deliveries by the site's relay."""
    summary = store.ingest(enumerate((json.dumps(line).encode() for line in lines), 1))
    assert summary.counts == {"appended": len(lines)}


def gone(event_id: str, coupon_id: str = "c-1") -> dict[str, Any]:
    metadata = {"id": event_id, "entityId": coupon_id, "eventTime": "2025-04-01T00:00:00Z"}
    return wrapped(DELETED, {"metadata": metadata})
