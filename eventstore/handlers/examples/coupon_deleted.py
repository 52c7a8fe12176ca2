"""Prints the id of each coupon that was deleted."""

from eventstore.handlers import CouponDeleted


def wixMarketing_onCouponDeleted(event: CouponDeleted) -> None:
    # Wix tells nothing else of a deleted coupon.
    print(f"Coupon {event.metadata.entityId} was deleted")
