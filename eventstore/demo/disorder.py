"""What the network does to a tidy month: late, twice, and so out of order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from eventstore.demo.delivery import Delivery

LATE_SHARE = 0.08
DUPLICATE_SHARE = 0.06
PROMPT = (0.3, 20.0)
LATE = (5 * 60.0, 47 * 3600.0)
"""Seconds. Wix gives up retrying after 47 h 11 m."""
AGAIN = (3.0, 6 * 3600.0)
"""Seconds between a delivery and its repetition."""


@dataclass(frozen=True, slots=True)
class Told:
    """A fact in its wire form, not yet sent. A `steady` one arrives promptly and once."""

    time: datetime
    route: str
    handler: str | None
    body: dict[str, Any]
    steady: bool = False


def _between(rng: random.Random, bounds: tuple[float, float]) -> timedelta:
    """A delay inside the bounds, short ones likelier: even on a logarithmic scale."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return timedelta(seconds=round(math.exp(rng.uniform(low, high)), 3))


def deliver(rng: random.Random, told: Iterable[Told]) -> Iterator[Delivery]:
    """The deliveries of these facts, in the order in which they reach us."""
    deliveries = []
    for one in told:
        late = not one.steady and rng.random() < LATE_SHARE
        first = Delivery(one.route, one.handler, one.body, one.time + _between(rng, LATE if late else PROMPT))
        deliveries.append(first)
        if not one.steady and rng.random() < DUPLICATE_SHARE:
            deliveries.append(replace(first, delivered_at=first.delivered_at + _between(rng, AGAIN)))
    deliveries.sort(key=lambda delivery: delivery.delivered_at)
    yield from deliveries
