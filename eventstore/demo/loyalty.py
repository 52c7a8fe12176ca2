"""Points redeemed for coupons: a marketing coupon and a loyalty coupon made together, used later or taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventstore.demo.catalogue import MONEY_OFF, Card
from eventstore.demo.delivery import SITE_ID
from eventstore.demo.spelling import ACCOUNT, iso

LOYALTY_FQDN = "wix.loyalty.v1.coupon"
LOYALTY_HANDLERS = {"created": "wixLoyalty_onCouponCreated", "deleted": "wixLoyalty_onCouponDeleted"}


@dataclass(frozen=True, slots=True)
class Member:
    """A customer with points."""

    member_id: str
    account_id: str


@dataclass(frozen=True, slots=True)
class Reward:
    """A loyalty coupon and the marketing coupon it stands for."""

    id: str
    member: Member
    transaction_id: str
    card: Card


@dataclass(frozen=True, slots=True)
class LoyaltyFact:
    """A reward created or deleted; `anonymize` when a privacy request deleted it."""

    event_id: str
    what: str
    time: datetime
    reward: Reward
    sequence: int
    anonymize: bool = False

    @property
    def _told(self) -> dict[str, Any]:
        return {
            "eventTime": iso(self.time),
            "triggeredByAnonymizeRequest": self.anonymize,
            "originatedFrom": "member_deleted" if self.anonymize else "",
            "entityEventSequence": str(self.sequence),
        }

    def rest(self) -> dict[str, Any]:
        """The domain event."""
        inner = {"createdEvent": {"entity": _entity(self.reward, "id", "createdDate", "updatedDate")}}
        return {
            "id": self.event_id,
            "entityFqdn": LOYALTY_FQDN,
            "slug": self.what,
            "entityId": self.reward.id,
            **(inner if self.what == "created" else {"deletedEvent": {}}),
            **self._told,
        }

    def sdk(self) -> dict[str, Any]:
        """The SDK's envelope of the same event: equal content."""
        entity = (
            {"entity": _entity(self.reward, "_id", "_createdDate", "_updatedDate")} if self.what == "created" else {}
        )
        return entity | {
            "metadata": {
                "_id": self.event_id,
                "entityFqdn": LOYALTY_FQDN,
                "slug": self.what,
                "entityId": self.reward.id,
                "instanceId": SITE_ID,
                "identity": {"identityType": "MEMBER", "memberId": self.reward.member.member_id},
                "accountInfo": ACCOUNT,
                **self._told,
            }
        }

    def velo(self) -> dict[str, Any]:
        """What the site's own handler gets."""
        metadata = {
            "id": self.event_id,
            "entityId": self.reward.id,
            "eventTime": iso(self.time),
            "triggeredByAnonymizeRequest": self.anonymize,
        }
        if self.what == "deleted":
            return {"metadata": metadata}
        return {"metadata": metadata, "entity": _entity(self.reward, "_id", "_createdDate", "_updatedDate")}


def _entity(reward: Reward, id_key: str, created_key: str, updated_key: str) -> dict[str, Any]:
    card = reward.card
    money = card.kind == MONEY_OFF
    specification: dict[str, Any] = {
        "percentOffRate": 0 if money else card.value,
        "moneyOffAmount": card.value if money else 0,
        "freeShipping": False,
        "name": card.name,
        "type": "MONEY_OFF_AMOUNT" if money else "PERCENT_OFF_RATE",
        "limitedToOneItem": False,
        "appliesToSubscriptions": False,
    }
    if card.namespace is not None:
        # Loyalty spells the scope flat, with no `group` around it.
        specification["scope"] = {"namespace": card.namespace, "name": card.group, "entityId": card.group_id}
    return {
        id_key: reward.id,
        "accountId": reward.member.account_id,
        "memberId": reward.member.member_id,
        "transactionId": reward.transaction_id,
        "couponReference": {
            "couponId": card.id,
            "code": card.code,
            "name": card.name,
            "specification": specification,
            "deleted": False,
        },
        "status": "ACTIVE",
        "rewardName": card.name.removesuffix(" reward"),
        "revision": "1",
        created_key: iso(card.created),
        updated_key: iso(card.created),
        "refundable": False,
    }
