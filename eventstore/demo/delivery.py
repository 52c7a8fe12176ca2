"""One delivery: what a door of the store is handed, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

SITE_ID = "0e2b6c3a-6f0d-4f57-9a4d-0d6f4a1c7b11"
"""The site that every demonstration delivery belongs to."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One fact in the wire form of its route.

    `route` is "velo", "rest" (the domain event inside the JWT), "sdk" or "snapshot"; `handler` is the name of the Velo
    handler, None on the other routes. `delivered_at` is aware UTC: when it reached us. Deliveries may share parts of
    their bodies: read them, do not change them.
    """

    route: str
    handler: str | None
    body: dict[str, Any]
    delivered_at: datetime

    @property
    def event_id(self) -> str | None:
        """The id by which the body calls itself; None for a snapshot."""
        return event_id(self.body)

    def line(self) -> bytes:
        """One NDJSON line `{"route", "handler", "body"}`, newline included; `handler` left out when there is none."""
        told: dict[str, Any] = {"route": self.route}
        if self.handler is not None:
            told["handler"] = self.handler
        told["body"] = self.body
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def event_id(body: dict[str, Any]) -> str | None:
    """The event id in a body of any route; None for a snapshot."""
    metadata = body.get("metadata", body)
    found: str | None = metadata.get("id", metadata.get("_id"))
    return found
