"""Wix's own documented deliveries."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources

import orjson

from eventstore.demo.delivery import Delivery

WIX_EXAMPLES = "wix_examples.ndjson"
_SNAPSHOT_TAKEN = datetime(2025, 5, 3, tzinfo=UTC)
"""After every other example; a Query Coupons page says nothing about its own time."""


def examples() -> list[Delivery]:
    """Wix's documented deliveries of every route but the signed one, in the order of its documentation.

    `delivered_at` is the event's own time.
    """
    text = resources.files("eventstore.demo").joinpath(WIX_EXAMPLES).read_bytes()
    return [_delivery(line) for line in text.splitlines()]


def _delivery(line: bytes) -> Delivery:
    told = orjson.loads(line)
    body = told["body"]
    time = body.get("metadata", body).get("eventTime")
    moment = _SNAPSHOT_TAKEN if time is None else datetime.fromisoformat(time)
    return Delivery(told["route"], told.get("handler"), body, moment)
