"""An endless stream of deliveries of the size Wix documents, for benchmarks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import orjson

from eventstore.demo.delivery import Delivery
from eventstore.demo.spelling import MARKETING_FQDN

START = datetime(2026, 9, 1, tzinfo=UTC)
SPACING = 2.592
"""Mean seconds between events: a million in 30 days."""
ZIPF_EXPONENT = 0.9
"""How steeply uses fall from one coupon to the next most used."""
REPORTED_AGAIN = 0.03
"""The share of uses that are a second report of an earlier order, under another event id."""
ORDERS_KEPT = 256
"""How many recent orders a second report is drawn from. Memory stays bounded whatever the count."""
_BATCH = 4096

APPLIED, UPDATED, CREATED, DELETED = range(4)
_SHARES = list(accumulate((0.85, 0.10, 0.04, 0.01)))
_STORES_APP = "1380b703-ce81-ff05-f115-39571d94dfcd"
_DISPLAY = {
    "name": "Indonesian Blend",
    "formattedPrice": "$35.00",
    "mediaItem": "https://static.wixstatic.com/media/nsplsh_316b6449475f3235386255~mv2_d_2977_3951_s_4_2.jpg",
}


def documented(count: int, *, seed: int = 1, coupons: int = 2000) -> Iterator[Delivery]:
    """`count` REST domain events of about 1.1 kB: 85 % applied, 10 % updated, 4 % created, 1 % deleted.

    At any time `coupons` are in use, unevenly (Zipf); a new one takes the place of another. Every other coupon carries
    `entityEventSequence`. The same seed gives the same bytes; memory does not grow with `count`.
    """
    rng = random.Random(seed)  # noqa: S311 - made-up data that must repeat
    made = 0

    def fresh(created: datetime) -> _Coupon:
        nonlocal made
        made += 1
        return _Coupon(rng, made, created)

    slots = [fresh(START) for _ in range(coupons)]
    skew = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, coupons + 1)))
    orders: list[tuple[_Coupon, str]] = []
    time = START
    while count > 0:
        size = min(count, _BATCH)
        count -= size
        whats = rng.choices(range(4), cum_weights=_SHARES, k=size)
        picks = rng.choices(range(coupons), cum_weights=skew, k=size)
        for n, (what, pick) in enumerate(zip(whats, picks, strict=True)):
            chance = rng.random()
            time += timedelta(seconds=SPACING * 2 * chance)
            if what == CREATED:
                # The slot is drawn evenly: a new coupon replaces a forgotten one more often than the favourite.
                slots[int(chance * coupons)] = coupon = fresh(time)
                body = coupon.created(rng, time)
            elif what == UPDATED:
                body = slots[pick].updated(rng, time)
            elif what == DELETED:
                slot = coupons - 1 - pick
                body = slots[slot].deleted(rng, time)
                slots[slot] = fresh(time)
            elif chance < REPORTED_AGAIN and orders:
                coupon, order = orders[int(chance / REPORTED_AGAIN * len(orders))]
                body = coupon.applied(rng, time, order)
            else:
                coupon = slots[pick]
                coupon.usages += 1
                order = _uuid(rng)
                body = coupon.applied(rng, time, order)
                if len(orders) < ORDERS_KEPT:
                    orders.append((coupon, order))
                else:
                    orders[n % ORDERS_KEPT] = (coupon, order)
            yield Delivery("rest", None, body, time)


def _uuid(rng: random.Random) -> str:
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _millis(moment: datetime) -> str:
    return str(int(moment.timestamp() * 1000))


class _Coupon:
    """One coupon of the stream, in REST's wrapped spelling."""

    __slots__ = ("created_at", "id", "sequence", "specification", "usages")

    def __init__(self, rng: random.Random, number: int, created: datetime) -> None:
        self.id = _uuid(rng)
        self.usages = 0
        self.sequence = 0 if number % 2 else None
        self.created_at = _millis(created)
        percent = number % 3 != 0
        self.specification: dict[str, Any] = {
            "name": {"value": f"Campaign {number}"},
            "code": {"value": f"BENCH{number}"},
            "startTime": {"value": self.created_at},
            "expirationTime": {"value": _millis(created + timedelta(days=365))},
            "limitedToOneItem": {"value": False},
            "scope": {"namespace": "stores", "group": {"name": "product", "entityId": _uuid(rng)}},
            "type": "PercentOff" if percent else "MoneyOff",
            "percentOffRate" if percent else "moneyOffAmount": 5 + number % 20,
            "active": {"value": True},
        }

    def _snapshot(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "dateCreated": self.created_at,
            "numberOfUsages": self.usages,
            "expired": False,
            "displayData": _DISPLAY,
            "specification": self.specification,
        }

    def _body(self, rng: random.Random, time: datetime, slug: str, key: str, told: dict[str, Any]) -> dict[str, Any]:
        body = {
            "id": _uuid(rng),
            "entityFqdn": MARKETING_FQDN,
            "slug": slug,
            "entityId": self.id,
            key: told,
            "eventTime": time.isoformat()[:26].removesuffix("+00:00") + "Z",
            "triggeredByAnonymizeRequest": False,
        }
        if self.sequence is not None:
            self.sequence += 1
            body["entityEventSequence"] = str(self.sequence)
        return body

    def created(self, rng: random.Random, time: datetime) -> dict[str, Any]:
        return self._body(rng, time, "created", "createdEvent", {"entity": self._snapshot()})

    def updated(self, rng: random.Random, time: datetime) -> dict[str, Any]:
        before = self.specification["active"]["value"]
        self.specification = self.specification | {"active": {"value": not before}}
        told = {"currentEntity": self._snapshot(), "modifiedFields": {"specification.active": before}}
        return self._body(rng, time, "updated", "updatedEvent", told)

    def deleted(self, rng: random.Random, time: datetime) -> dict[str, Any]:
        return self._body(rng, time, "deleted", "deletedEvent", {})

    def applied(self, rng: random.Random, time: datetime, order: str) -> dict[str, Any]:
        use = {"coupon": self._snapshot(), "wixAppId": _STORES_APP, "wixAppOrderId": order}
        return self._body(rng, time, "applied", "actionEvent", {"bodyAsJson": orjson.dumps(use).decode()})
