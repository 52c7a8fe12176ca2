"""Prints the id, the type and the validity of each new coupon."""

from eventstore.handlers import CouponCreated


def wixMarketing_onCouponCreated(event: CouponCreated) -> None:
    coupon = event.entity
    until = coupon.expirationTime or "further notice"  # a coupon without an expirationTime does not expire
    print(f"Coupon {coupon._id} of type {coupon.type} is valid from {coupon.startTime} until {until}")
