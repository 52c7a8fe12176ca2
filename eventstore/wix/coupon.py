"""One coupon snapshot from every spelling of a coupon (DOMAIN §3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from eventstore.errors import UnreadableDelivery
from eventstore.event import DiscountType
from eventstore.wix import scalars

_FIELDS: Final[Mapping[str, tuple[str, Callable[[Any, str], Any]]]] = MappingProxyType(
    {
        "code": ("code", scalars.text),
        "name": ("name", scalars.label),
        "startTime": ("start_time", scalars.time),
        "expirationTime": ("expiration_time", scalars.time),
        "usageLimit": ("usage_limit", scalars.count),
        "limitPerCustomer": ("limit_per_customer", scalars.count),
        "minimumSubtotal": ("minimum_subtotal", scalars.amount),
        "limitedToOneItem": ("limited_to_one_item", scalars.flag),
        "appliesToSubscriptions": ("applies_to_subscriptions", scalars.flag),
        "discountedCycleCount": ("discounted_cycle_count", scalars.count),
        "active": ("active", scalars.flag),
        "expired": ("expired", scalars.flag),
        "numberOfUsages": ("reported_usages", scalars.count),
        "appId": ("app_id", scalars.text),
    }
)
"""Wix's name → the name in `Coupon`, and how its value is read. An absent value leaves the default of `Coupon`."""
_KNOWN: Final = frozenset(_FIELDS) | scalars.field_names(
    "_id id couponId _dateCreated dateCreated _createdDate createdDate specification displayData scope",
    "type moneyOffAmount percentOffRate freeShipping fixedPriceAmount buyXGetY",
)
_KNOWN_SCOPE: Final = scalars.field_names("namespace group name entityId")
_KNOWN_GROUP: Final = scalars.field_names("name entityId")
_KNOWN_DISPLAY_DATA: Final = scalars.field_names("name formattedPrice mediaItem")
_KNOWN_BUY_X_GET_Y: Final = scalars.field_names("x y")
_NO_SPECIFICATION: Final[dict[str, Any]] = {}

CREATED: Final = ("dateCreated", "_dateCreated", "createdDate", "_createdDate")
"""The names that Wix has for the time of creation."""

_TYPES: Final[Mapping[str, DiscountType]] = MappingProxyType(
    {
        "moneyoff": DiscountType.MONEY_OFF,
        "moneyoffamount": DiscountType.MONEY_OFF,
        "percentoff": DiscountType.PERCENT_OFF,
        "percentoffrate": DiscountType.PERCENT_OFF,
        "freeshipping": DiscountType.FREE_SHIPPING,
        "fixedprice": DiscountType.FIXED_PRICE,
        "fixedpriceamount": DiscountType.FIXED_PRICE,
        "buyxgety": DiscountType.BUY_X_GET_Y,
    }
)
"""Wix's type texts without case and underscores: `MoneyOff`, `MoneyOffAmount` and `MONEY_OFF_AMOUNT` are one."""


_AMOUNTS: Final = (
    (DiscountType.MONEY_OFF, "moneyOffAmount"),
    (DiscountType.PERCENT_OFF, "percentOffRate"),
    (DiscountType.FIXED_PRICE, "fixedPriceAmount"),
)


def read_coupon(entity: dict[str, Any]) -> dict[str, Any]:
    """The fields of a canonical `Coupon`, from a coupon whose fields stand flat, under `specification`, or both.

    Raises UnreadableDelivery with the path inside `entity`.
    """
    specification: dict[str, Any] = entity.get("specification") or _NO_SPECIFICATION
    if not isinstance(specification, dict):
        raise UnreadableDelivery("an object is expected", where="specification")
    fields = entity
    if specification:
        fields = entity | {key: value for key, value in specification.items() if value is not None}
    try:
        return _read_fields(fields)
    except UnreadableDelivery as error:
        if error.where.partition(".")[0] in specification:
            raise scalars.under("specification", error) from None
        raise


def _read_fields(fields: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": coupon_id(fields),
        "discount": _discount(fields),
        "scope": _scope(fields.get("scope")),
        "created_at": scalars.first_time(fields, CREATED),
    }
    for name, value in fields.items():
        if value is not None and name in _FIELDS:
            canonical_name, reader = _FIELDS[name]
            fact = reader(value, name)
            if fact is not None:
                facts[canonical_name] = fact
    display_data = fields.get("displayData")
    if isinstance(display_data, dict):
        media = display_data.get("mediaItem")
        if isinstance(media, dict) and "url" in media:
            media = media["url"]
        facts["display_name"] = scalars.label(display_data.get("name"), "displayData.name")
        facts["display_price"] = scalars.label(display_data.get("formattedPrice"), "displayData.formattedPrice")
        facts["display_media"] = scalars.label(media, "displayData.mediaItem")
    extra = _extra(fields)
    if extra:
        facts["extra"] = extra
    return facts


def coupon_id(entity: dict[str, Any]) -> str | None:
    """`id` (REST), `_id` (Velo, SDK) or `couponId` (a loyalty coupon's reference)."""
    for name in ("id", "_id", "couponId"):
        if name in entity and (found := scalars.ident(entity[name], name)) is not None:
            return found
    return None


def _discount(fields: dict[str, Any]) -> dict[str, Any]:
    """The populated behaviour field says what the coupon does; the type's text only where that does not decide it.

    Loyalty bodies carry zero defaults beside the real field, so zero counts as not populated.
    """
    get = fields.get
    raw_type = scalars.label(get("type"), "type")
    values = {kind: scalars.amount(fields[name], name) for kind, name in _AMOUNTS if name in fields}
    populated = [kind for kind, value in values.items() if value]
    if scalars.flag(get("freeShipping"), "freeShipping"):
        populated.append(DiscountType.FREE_SHIPPING)
    buy_x = get_y = None
    if get("buyXGetY") is not None:
        buy_x_get_y = scalars.member(get("buyXGetY"), "buyXGetY") or {}
        buy_x = scalars.count(buy_x_get_y.get("x"), "buyXGetY.x")
        get_y = scalars.count(buy_x_get_y.get("y"), "buyXGetY.y")
        if buy_x or get_y:
            populated.append(DiscountType.BUY_X_GET_Y)

    if len(populated) == 1:
        kind = populated[0]
    else:
        kind = _TYPES.get(raw_type.replace("_", "").lower(), DiscountType.UNKNOWN) if raw_type else DiscountType.UNKNOWN
        if populated and kind not in populated:
            kind = DiscountType.UNKNOWN
    if kind is DiscountType.BUY_X_GET_Y:
        return {"type": kind, "buy_x": buy_x, "get_y": get_y, "raw_type": raw_type}
    return {"type": kind, "value": values.get(kind), "raw_type": raw_type}


def _scope(value: Any) -> dict[str, Any] | None:
    """`{namespace, group{name, entityId}}`, or flat as loyalty specifications have it. None means everything."""
    if not value:
        return None
    scope = scalars.member(value, "scope") or {}
    group: Any = scope.get("group")
    if isinstance(group, str):
        group = {"name": group}
    at = "scope.group"
    if not group:
        group, at = scope, "scope"
    group = scalars.member(group, at) or {}
    facts = {
        "namespace": scalars.text(scope.get("namespace"), "scope.namespace"),
        "group": scalars.text(group.get("name"), f"{at}.name"),
        "entity_id": scalars.text(group.get("entityId"), f"{at}.entityId"),
    }
    return facts if any(facts.values()) else None


def _extra(fields: dict[str, Any]) -> dict[str, Any] | None:
    """What Wix has added since: unknown fields here and in the objects that we know, those under dotted names."""
    extra = scalars.unnamed(fields, _KNOWN)
    for name, known in (
        ("scope", _KNOWN_SCOPE),
        ("displayData", _KNOWN_DISPLAY_DATA),
        ("buyXGetY", _KNOWN_BUY_X_GET_Y),
    ):
        part = fields.get(name)
        if isinstance(part, dict):
            extra |= scalars.unnamed(part, known, f"{name}.")
            group = part.get("group") if name == "scope" else None
            if isinstance(group, dict):
                extra |= scalars.unnamed(group, _KNOWN_GROUP, "scope.group.")
    return dict(sorted(extra.items())) if extra else None
