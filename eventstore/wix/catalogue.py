"""The families of events that Wix documents about coupons, and the names that each route has for them (DOMAIN §2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Subject(StrEnum):
    """What the body of a family's events describes."""

    COUPON = "coupon"
    USE = "use"
    """`{coupon, wixAppId, wixAppOrderId}`: a coupon was applied to an order."""
    LOYALTY_COUPON = "loyalty_coupon"


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of event.

    `type` is the canonical name; `handler` the Velo function's name, None where Velo has none; `entity_fqdn` and `slug`
    are what a REST or SDK event says of itself. Without its body an event of a family with `needs_body` says nothing.
    """

    type: str
    subject: Subject
    entity_fqdn: str
    slug: str
    handler: str | None = None
    needs_body: bool = False

    @property
    def event_type(self) -> str:
        """Wix's `eventType`: `<entityFqdn>_<slug>`."""
        return f"{self.entity_fqdn}_{self.slug}"


COUPON_FQDN: Final = "wix.ecommerce.coupons.v2.coupon"
LOYALTY_COUPON_FQDN: Final = "wix.loyalty.v1.coupon"
OBSERVED: Final = "coupon.observed"
"""The type of an imported snapshot: something we saw, not something Wix told."""

OWN_TYPES: Final = ("coupon.", "loyalty_coupon.", "subject.")
"""Types that begin so are given by the store alone: no `eventType` from outside may pass for one of them."""

FAMILIES: Final[tuple[Family, ...]] = (
    Family("coupon.created", Subject.COUPON, COUPON_FQDN, "created", "wixMarketing_onCouponCreated", needs_body=True),
    Family("coupon.updated", Subject.COUPON, COUPON_FQDN, "updated", "wixMarketing_onCouponUpdated", needs_body=True),
    Family("coupon.deleted", Subject.COUPON, COUPON_FQDN, "deleted", "wixMarketing_onCouponDeleted"),
    Family("coupon.applied", Subject.USE, COUPON_FQDN, "applied", "wixMarketing_onCouponApplied"),
    Family(
        "loyalty_coupon.created",
        Subject.LOYALTY_COUPON,
        LOYALTY_COUPON_FQDN,
        "created",
        "wixLoyalty_onCouponCreated",
        needs_body=True,
    ),
    Family("loyalty_coupon.updated", Subject.LOYALTY_COUPON, LOYALTY_COUPON_FQDN, "updated", needs_body=True),
    Family(
        "loyalty_coupon.deleted", Subject.LOYALTY_COUPON, LOYALTY_COUPON_FQDN, "deleted", "wixLoyalty_onCouponDeleted"
    ),
)

BY_HANDLER: Final[Mapping[str, Family]] = MappingProxyType({f.handler: f for f in FAMILIES if f.handler is not None})
BY_EVENT_TYPE: Final[Mapping[str, Family]] = MappingProxyType({f.event_type: f for f in FAMILIES})

HANDLERS: Final[Mapping[str, str]] = MappingProxyType({name: family.type for name, family in BY_HANDLER.items()})
"""Velo handler name → canonical type."""
