"""Prints the id and the name of each coupon that was used, when, and in which order."""

from eventstore.handlers import CouponApplied


def wixMarketing_onCouponApplied(event: CouponApplied) -> None:
    coupon = event.data.coupon
    used_at = event.metadata.eventTime
    print(f"Coupon {coupon._id}, {coupon.name}, was used at {used_at} in the order {event.data.wixAppOrderId}")
