"""The canonical Event taken apart again into what Wix documents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import JsonValue

from eventstore.event import Actor, Coupon, DiscountType, Event, Scope
from eventstore.handlers import parts
from eventstore.handlers.frozen import NOTHING, JsonObject, frozen
from eventstore.wix.catalogue import FAMILIES, OBSERVED

_MARKETING_TYPES: Final[Mapping[DiscountType, str]] = MappingProxyType(
    {
        DiscountType.MONEY_OFF: "MoneyOff",
        DiscountType.PERCENT_OFF: "PercentOff",
        DiscountType.FREE_SHIPPING: "FreeShipping",
        DiscountType.FIXED_PRICE: "FixedPriceAmount",
        DiscountType.BUY_X_GET_Y: "BuyXGetY",
    }
)
_LOYALTY_TYPES: Final[Mapping[DiscountType, str]] = MappingProxyType(
    {
        DiscountType.MONEY_OFF: "MONEY_OFF_AMOUNT",
        DiscountType.PERCENT_OFF: "PERCENT_OFF_RATE",
        DiscountType.FREE_SHIPPING: "FREE_SHIPPING",
        DiscountType.FIXED_PRICE: "FIXED_PRICE_AMOUNT",
        DiscountType.BUY_X_GET_Y: "BUY_X_GET_Y",
    }
)
"""What Wix calls a discount, for the few events in which it did not say."""
_NAMES: Final = MappingProxyType({family.type: family for family in FAMILIES})
_IDENTITY_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {"MEMBER": "memberId", "ANONYMOUS_VISITOR": "anonymousVisitorId", "WIX_USER": "wixUserId", "APP": "appId"}
)


def coupon_entity(event: Event) -> parts.CouponEntity:
    """The coupon of a marketing event. Where the event carries no snapshot, its id alone."""
    coupon = event.coupon
    coupon_id = event.coupon_id or event.entity_id
    if coupon is None:
        return parts.CouponEntity(_id=coupon_id)
    display = parts.NO_DISPLAY_DATA
    display_extra = _added(coupon, "displayData.")
    if display_extra or not coupon.display_name is coupon.display_price is coupon.display_media is None:
        display = parts.DisplayData(
            name=coupon.display_name,
            formattedPrice=coupon.display_price,
            mediaItem=coupon.display_media,
            extra=display_extra,
        )
    return parts.CouponEntity(
        **_specification(coupon, _MARKETING_TYPES),
        _id=coupon.id or coupon_id,
        _dateCreated=coupon.created_at,
        numberOfUsages=coupon.reported_usages,
        expired=coupon.expired,
        displayData=display,
        appId=coupon.app_id,
    )


def applied_data(event: Event) -> parts.AppliedData:
    """The use that an applied event tells."""
    return parts.AppliedData(
        coupon=coupon_entity(event),
        wixAppId=event.app_id,
        wixAppOrderId=event.order_id,
        extra=frozen(event.body) if isinstance(event.body, dict) else NOTHING,
    )


def loyalty_entity(event: Event) -> parts.LoyaltyCouponEntity:
    """The reward of a loyalty event, with the coupon that it stands for."""
    coupon, loyalty = event.coupon, event.loyalty
    reference = parts.NO_REFERENCE
    if coupon is not None:
        reference = parts.CouponReference(
            couponId=coupon.id or event.coupon_id,
            code=coupon.code,
            name=coupon.name,
            specification=parts.CouponSpecification(**_specification(coupon, _LOYALTY_TYPES)),
            deleted=None if loyalty is None else loyalty.coupon_deleted,
        )
    elif event.coupon_id is not None or (loyalty is not None and loyalty.coupon_deleted):
        reference = parts.CouponReference(
            couponId=event.coupon_id, deleted=None if loyalty is None else loyalty.coupon_deleted
        )
    if loyalty is None:
        return parts.LoyaltyCouponEntity(_id=event.entity_id, couponReference=reference)
    return parts.LoyaltyCouponEntity(
        _id=event.entity_id,
        accountId=loyalty.account_id,
        memberId=loyalty.member_id,
        transactionId=loyalty.transaction_id,
        couponReference=reference,
        status=loyalty.status,
        rewardName=loyalty.reward_name,
        revision=loyalty.revision,
        _createdDate=loyalty.created_at,
        _updatedDate=loyalty.updated_at,
        refundable=loyalty.refundable,
        extra=NOTHING if loyalty.extra is None else frozen(loyalty.extra),
    )


def metadata(event: Event) -> parts.Metadata:
    """What Wix says about the event itself."""
    family = _NAMES.get(event.type)
    account = event.account
    return parts.Metadata(
        id=event.event_id,
        entityId=event.entity_id,
        eventTime=event.event_time,
        triggeredByAnonymizeRequest=event.anonymize,
        instanceId=event.site_id,
        eventType=family.event_type if family else None if event.type == OBSERVED else event.type,
        entityFqdn=family.entity_fqdn if family else None,
        slug=family.slug if family else None,
        originatedFrom=event.originated_from,
        entityEventSequence=event.sequence,
        identity=parts.NO_IDENTITY if event.actor is None else _identity(event.actor),
        accountInfo=parts.NO_ACCOUNT
        if account is None
        else parts.AccountInfo(
            accountId=account.account_id, parentAccountId=account.parent_account_id, siteId=account.site_id
        ),
    )


def _identity(actor: Actor) -> parts.Identity:
    ids = {_IDENTITY_IDS.get(actor.type): actor.id}
    return parts.Identity(
        identityType=actor.type,
        anonymousVisitorId=ids.get("anonymousVisitorId"),
        memberId=ids.get("memberId"),
        wixUserId=ids.get("wixUserId"),
        appId=ids.get("appId"),
    )


def _specification(coupon: Coupon, types: Mapping[DiscountType, str]) -> dict[str, Any]:
    discount = coupon.discount
    kind = discount.type
    return {
        "name": coupon.name,
        "code": coupon.code,
        "startTime": coupon.start_time,
        "expirationTime": coupon.expiration_time,
        "type": discount.raw_type or types.get(kind),
        "discount_type": kind,
        "moneyOffAmount": discount.value if kind is DiscountType.MONEY_OFF else None,
        "percentOffRate": discount.value if kind is DiscountType.PERCENT_OFF else None,
        "freeShipping": kind is DiscountType.FREE_SHIPPING,
        "fixedPriceAmount": discount.value if kind is DiscountType.FIXED_PRICE else None,
        "buyXGetY": parts.BuyXGetY(x=discount.buy_x, y=discount.get_y, extra=_added(coupon, "buyXGetY."))
        if kind is DiscountType.BUY_X_GET_Y
        else parts.NO_BUY_X_GET_Y,
        "scope": _scope(coupon),
        "minimumSubtotal": coupon.minimum_subtotal,
        "usageLimit": coupon.usage_limit,
        "limitPerCustomer": coupon.limit_per_customer,
        "limitedToOneItem": coupon.limited_to_one_item,
        "active": coupon.active,
        "appliesToSubscriptions": coupon.applies_to_subscriptions,
        "discountedCycleCount": coupon.discounted_cycle_count,
        "extra": _added(coupon, ""),
    }


def _scope(coupon: Coupon) -> parts.Scope:
    added, group_added = _added(coupon, "scope."), _added(coupon, "scope.group.")
    if coupon.scope is None and not added and not group_added:
        return parts.NO_SCOPE
    scope = coupon.scope or _NO_SCOPE
    group = parts.NO_GROUP
    if group_added or not scope.group is scope.entity_id is None:
        group = parts.ScopeGroup(name=scope.group, entityId=scope.entity_id, extra=group_added)
    return parts.Scope(namespace=scope.namespace, group=group, extra=added)


_NO_SCOPE: Final = Scope()
_INNER: Final = ("scope.group.", "scope.", "displayData.", "buyXGetY.")
"""How the names begin that the store has for what Wix has added inside the coupon's objects, the longest first."""


def _added(coupon: Coupon, prefix: str) -> JsonObject:
    """What Wix has added in the object whose additions the store names so; "" for the coupon itself."""
    if coupon.extra is None:
        return NOTHING
    found: dict[str, JsonValue] = {}
    for name, value in coupon.extra.items():
        place = next((each for each in _INNER if name.startswith(each)), "")
        if place == prefix:
            found[name.removeprefix(place)] = value
    return frozen(found) if found else NOTHING
