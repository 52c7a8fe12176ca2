"""One fact about a coupon, written the way a route tells it (DOMAIN: four ways the same fact arrives)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from eventstore.demo.catalogue import APPS, BUY_X_GET_Y, PRODUCTS, Card
from eventstore.demo.delivery import SITE_ID

MARKETING_FQDN = "wix.ecommerce.coupons.v2.coupon"
ACCOUNT = {"accountId": "f0f1f2f3-0000-4000-8000-000000000001", "siteId": "a1a2a3a4-0000-4000-8000-000000000002"}
MEDIA = "https://static.wixstatic.com/media/nsplsh_316b6449475f3235386255~mv2_d_2977_3951_s_4_2.jpg"

KINDS = {
    "PERCENT_OFF": ("PercentOff", "percentOffRate"),
    "MONEY_OFF": ("MoneyOff", "moneyOffAmount"),
    "FREE_SHIPPING": ("FreeShipping", "freeShipping"),
    "FIXED_PRICE": ("FixedPriceAmount", "fixedPriceAmount"),
    "BUY_X_GET_Y": ("BuyXGetY", "buyXGetY"),
}
"""By kind: the `type` text and the field that holds the value."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def js_date(moment: datetime, hours: int = 0) -> str:
    """JavaScript's `Date` text, at an offset of so many hours. Whole seconds: the text has no fraction."""
    t = moment + timedelta(hours=hours)
    zone = "Coordinated Universal Time" if hours == 0 else "Central European Summer Time"
    return f"{_DAYS[t.weekday()]} {_MONTHS[t.month - 1]} {t:%d %Y %H:%M:%S} GMT+{hours:02d}00 ({zone})"


def js_date_local(moment: datetime) -> str:
    """JavaScript's `Date` text as a server in Berlin writes it in summer."""
    return js_date(moment, 2)


def iso(moment: datetime, precision: str = "milliseconds") -> str:
    """ISO 8601 with a `Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def epoch(moment: datetime) -> str:
    """Milliseconds since 1970, as text."""
    return str(round(moment.timestamp() * 1000))


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened to a marketing coupon. `what` is created, updated, deleted, restored or applied.

    `before` holds the values an update replaced, by `Card` field; `entity_id` is set where Wix gives the application's
    id in the coupon's place; `bare` is a use told without its body, as the SDK does for `bodyAsJson`.
    """

    event_id: str
    what: str
    time: datetime
    card: Card
    sequence: int | None = None
    order_id: str | None = None
    before: dict[str, Any] | None = None
    deleted_at: datetime | None = None
    entity_id: str | None = None
    identity: dict[str, str] | None = None
    bare: bool = False

    @property
    def expired(self) -> bool:
        """Whether Wix calls the coupon expired at that moment."""
        return self.card.end is not None and self.card.end < self.time

    @property
    def use(self) -> dict[str, Any]:
        """The app and the order of a use."""
        return {"wixAppId": APPS[self.card.namespace or "stores"], "wixAppOrderId": self.order_id}


def wire_value(card: Card) -> Any:
    """The coupon's value as its field carries it."""
    return {"x": card.value[0], "y": card.value[1]} if card.kind == BUY_X_GET_Y else card.value


def _limits(card: Card) -> dict[str, Any]:
    told = {
        "usageLimit": card.limit,
        "limitPerCustomer": card.per_customer,
        "minimumSubtotal": card.minimum,
        "discountedCycleCount": card.cycles,
    }
    return {key: value for key, value in told.items() if value is not None}


def scope(card: Card) -> dict[str, Any]:
    """The scope in the nested spelling. A coupon for everything has none."""
    told: dict[str, Any] = {"namespace": card.namespace}
    if card.group is not None:
        told["group"] = {"name": card.group, "entityId": card.group_id}
    return told


def _display(card: Card, media: Any) -> dict[str, Any] | None:
    if card.namespace is None or card.group is None:
        return None
    name, price = PRODUCTS[card.namespace]
    return {"name": name, "formattedPrice": price, "mediaItem": media}


def flat(fact: Fact, date: Callable[[datetime], str]) -> dict[str, Any]:
    """The legacy Velo entity: every field on the coupon, dates as `date` writes them."""
    card = fact.card
    text, field = KINDS[card.kind]
    told: dict[str, Any] = {"_id": card.id, "name": card.name, "code": card.code, "startTime": date(card.start)}
    if card.end is not None:
        told["expirationTime"] = date(card.end)
    if card.namespace is not None:
        told["scope"] = scope(card)
    if card.usages:
        told["numberOfUsages"] = card.usages
    return (
        told
        | _limits(card)
        | {
            "active": card.active,
            "_dateCreated": date(card.created),
            "expired": fact.expired,
            "displayData": _display(card, MEDIA),
            "limitedToOneItem": card.one_item,
            "type": text,
            field: wire_value(card),
        }
    )


def specification(card: Card, date: Callable[[datetime], str], *, wrapped: bool) -> dict[str, Any]:
    """What the coupon does, as it stands under `specification`; `wrapped` puts optional scalars in `{"value": …}`."""

    def told(value: Any) -> Any:
        return {"value": value} if wrapped else value

    text, field = KINDS[card.kind]
    out: dict[str, Any] = {"name": told(card.name), "code": told(card.code), "startTime": told(date(card.start))}
    if card.end is not None:
        out["expirationTime"] = told(date(card.end))
    out |= {key: told(value) for key, value in _limits(card).items()}
    if card.cycles is not None:
        out["appliesToSubscriptions"] = told(value=True)
    if card.namespace is not None:
        out["scope"] = scope(card)
    out |= {"limitedToOneItem": told(card.one_item), "active": told(card.active), "type": text}
    out[field] = wire_value(card)
    return out


def nested(fact: Fact, *, wrapped: bool, id_key: str, date: Callable[[datetime], str] = epoch) -> dict[str, Any]:
    """The coupon with its fields under `specification`: Velo v2 and the SDK (`_id`), REST and Query Coupons (`id`)."""
    card = fact.card
    told: dict[str, Any] = {
        id_key: card.id,
        "dateCreated": epoch(card.created),
        "numberOfUsages": card.usages,
        "expired": fact.expired,
        "specification": specification(card, date, wrapped=wrapped),
    }
    media = {"url": MEDIA, "width": 2977, "height": 3951}
    display = _display(card, media)
    return told if display is None else told | {"displayData": display}


def _velo(fact: Fact, coupon: Callable[[Fact], dict[str, Any]]) -> dict[str, Any]:
    metadata = {
        "id": fact.event_id,
        "entityId": fact.card.id,
        "eventTime": iso(fact.time, "microseconds"),
        "triggeredByAnonymizeRequest": False,
    }
    if fact.what == "deleted":
        return {"metadata": metadata}
    if fact.what == "applied":
        return {"metadata": metadata, "data": {"coupon": coupon(fact), **fact.use}}
    return {"metadata": metadata, "entity": coupon(fact)}


def _paths(fact: Fact) -> dict[str, Any]:
    names = {"value": KINDS[fact.card.kind][1], "end": "expirationTime", "limit": "usageLimit", "active": "active"}
    return {
        f"specification.{names[key]}": epoch(value) if isinstance(value, datetime) else value
        for key, value in (fact.before or {}).items()
    }


def _slug(fact: Fact) -> str:
    return "created" if fact.what == "restored" else fact.what


def _rest(fact: Fact, *, as_json: bool) -> dict[str, Any]:
    def told(key: str, value: dict[str, Any]) -> dict[str, Any]:
        return {f"{key}AsJson": json.dumps(value, ensure_ascii=False)} if as_json else {key: value}

    coupon = nested(fact, wrapped=True, id_key="id")
    body: dict[str, Any] = {
        "id": fact.event_id,
        "entityFqdn": MARKETING_FQDN,
        "slug": _slug(fact),
        "entityId": fact.entity_id or fact.card.id,
    }
    if fact.what == "created":
        body["createdEvent"] = told("entity", coupon)
    elif fact.what == "restored":
        assert fact.deleted_at is not None
        body["createdEvent"] = told("entity", coupon) | {"restoreInfo": {"deletedDate": iso(fact.deleted_at)}}
    elif fact.what == "updated":
        body["updatedEvent"] = told("currentEntity", coupon) | {"modifiedFields": _paths(fact)}
    elif fact.what == "deleted":
        body["deletedEvent"] = {}
    else:
        body["actionEvent"] = told("body", {"coupon": coupon, **fact.use})
    body |= {"eventTime": iso(fact.time), "triggeredByAnonymizeRequest": False, "originatedFrom": ""}
    if fact.sequence is not None and fact.entity_id is None:
        body["entityEventSequence"] = str(fact.sequence)
    return body


def _sdk(fact: Fact) -> dict[str, Any]:
    told: dict[str, Any] = {}
    coupon = nested(fact, wrapped=False, id_key="_id", date=iso)
    if fact.what == "applied":
        if not fact.bare:
            told["data"] = {"coupon": coupon, **fact.use}
    elif fact.what != "deleted":
        told["entity"] = coupon
    if fact.before:
        told["modifiedFields"] = _paths(fact)
    told["metadata"] = {
        "_id": fact.event_id,
        "entityFqdn": MARKETING_FQDN,
        "slug": _slug(fact),
        "entityId": fact.card.id,
        "eventTime": iso(fact.time),
        "instanceId": SITE_ID,
        "identity": fact.identity,
        "accountInfo": ACCOUNT,
        "triggeredByAnonymizeRequest": False,
        "originatedFrom": "",
        "entityEventSequence": None if fact.sequence is None else str(fact.sequence),
    }
    return told


HANDLERS = {
    "created": "wixMarketing_onCouponCreated",
    "updated": "wixMarketing_onCouponUpdated",
    "deleted": "wixMarketing_onCouponDeleted",
    "applied": "wixMarketing_onCouponApplied",
}

_VELO: dict[str, Callable[[Fact], dict[str, Any]]] = {
    "velo": lambda fact: flat(fact, js_date),
    "velo_local": lambda fact: flat(fact, js_date_local),
    "velo_iso": lambda fact: flat(fact, iso),
    "velo_v2": lambda fact: nested(fact, wrapped=False, id_key="_id") | {"appId": ""},
}


def spell(fact: Fact, wire: str) -> tuple[str, str | None, dict[str, Any]]:
    """`(route, handler, body)` of a fact.

    `wire` is velo, velo_local, velo_iso (flat; JS dates in UTC, in summer time, ISO), velo_v2 (nested, epoch ms), rest,
    rest_json (the `*AsJson` strings) or sdk.
    """
    if wire in _VELO:
        return "velo", HANDLERS[fact.what], _velo(fact, _VELO[wire])
    if wire == "sdk":
        return "sdk", None, _sdk(fact)
    return "rest", None, _rest(fact, as_json=wire == "rest_json")
