"""A loyalty coupon: a reward bought with points, and the marketing coupon that it stands for (DOMAIN §3)."""

from __future__ import annotations

from typing import Any, Final

from eventstore.errors import UnreadableDelivery
from eventstore.wix import scalars
from eventstore.wix.coupon import CREATED, read_coupon

_KNOWN: Final = scalars.field_names(
    "id _id accountId memberId memberIdDeprecated transactionId couponReference status rewardName revision refundable",
    "createdDate _createdDate dateCreated _dateCreated updatedDate _updatedDate",
)


def read_loyalty_coupon(entity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The fields of a canonical `Loyalty`, and of the `Coupon` that its `couponReference` names, if it names one.

    Raises UnreadableDelivery with the path inside `entity`.
    """
    get = entity.get
    reference = scalars.member(get("couponReference"), "couponReference")
    coupon, deleted = None, False
    if reference:
        try:
            deleted = scalars.flag(reference.get("deleted"), "deleted") or False
            named = {key: value for key, value in reference.items() if key != "deleted"}
            coupon = read_coupon(named) if named else None
        except UnreadableDelivery as error:
            raise scalars.under("couponReference", error) from None
    loyalty = {
        "account_id": scalars.ident(get("accountId"), "accountId"),
        "member_id": scalars.ident(get("memberId"), "memberId")
        or scalars.ident(get("memberIdDeprecated"), "memberIdDeprecated"),
        "transaction_id": scalars.ident(get("transactionId"), "transactionId"),
        "status": scalars.text(get("status"), "status"),
        "reward_name": scalars.label(get("rewardName"), "rewardName"),
        "revision": scalars.count(get("revision"), "revision"),
        "created_at": scalars.first_time(entity, CREATED),
        "updated_at": scalars.first_time(entity, ("updatedDate", "_updatedDate")),
        "refundable": scalars.flag(get("refundable"), "refundable") or False,
        "coupon_deleted": deleted,
        "extra": scalars.unnamed(entity, _KNOWN) or None,
    }
    return loyalty, coupon
