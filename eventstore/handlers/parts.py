"""The parts of an event in Wix's own names: what `event.entity`, `event.data` and `event.metadata` are made of.

Names in camelCase are Wix's; those in snake_case are the store's. Times are aware UTC, amounts are `Decimal`. An absent fact
is None. An object that Wix left out (a coupon for everything has no scope) is there all the same, false and with every fact
None, so that `event.entity.scope.group.name` can be asked of any coupon; ask for its presence with `if event.entity.scope:`.
Nothing can be changed. What Wix has added since is in `extra`, and is an attribute too (which type checkers cannot know of).
"""
# ruff: noqa: N815, N802 - the names are Wix's

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from eventstore.event import DiscountType
from eventstore.handlers.frozen import NOTHING, JsonObject, thawed

_AS_TEXT = {"as_text": True}
"""Wix writes this number as a text."""
_IF_TRUE = {"if_true": True}
"""Wix writes this flag only where it is set."""
_OURS = {"ours": True}
"""No fact of Wix's: left out of the documented shape."""


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Part:
    """A part of an event. False where Wix left it out."""

    extra: JsonObject = field(default=NOTHING, metadata=_OURS)
    """What Wix has added since, by its name."""

    def __bool__(self) -> bool:
        return any(_told(getattr(self, each.name)) for each in fields(self))

    def __repr__(self) -> str:
        shown = [
            f"{each.name}={value!r}" for each in fields(self) if each.repr and _told(value := getattr(self, each.name))
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def to_dict(self) -> dict[str, Any]:
        """This part as Wix documents it, ready for JSON; absent facts are left out.

        Times are ISO 8601 in UTC; amounts are numbers, or texts where a number of JSON would round them.
        """
        told: dict[str, Any] = {}
        kind = type(self)
        written = _written.get(kind)
        if written is None:
            written = _written[kind] = _facts_written(kind)
        for name, as_text, if_true in written:
            value = getattr(self, name)
            if value is None or (if_true and not value):
                continue
            if isinstance(value, Part):
                if value:
                    told[name] = value.to_dict()
            else:
                told[name] = str(value) if as_text else json_value(value)
        for name, value in self.extra.items():
            told.setdefault(name, thawed(value))
        return told

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name == "extra":
                raise AttributeError(name)
            if hasattr(type(self), name):  # a property of ours that failed
                return object.__getattribute__(self, name)
            for key in (name, name.removeprefix("_")):
                if key in self.extra:
                    return self.extra[key]
            from eventstore.handlers.misnamed import missing

            raise missing(type(self), name)


def _told(value: Any) -> bool:
    """Whether a value says anything."""
    return value is not None and (bool(value) or not isinstance(value, Part | JsonObject))


_written: Final[dict[type[Part], tuple[tuple[str, bool, bool], ...]]] = {}


def _facts_written(kind: type[Part]) -> tuple[tuple[str, bool, bool], ...]:
    """The facts of a part as they are written: the id first, and whether as text or only if true."""
    ordered = sorted(fields(kind), key=lambda each: each.name != "_id")
    return tuple(
        (each.name, "as_text" in each.metadata, "if_true" in each.metadata)
        for each in ordered
        if "ours" not in each.metadata
    )


def json_value(value: Any) -> Any:
    """A fact as JSON has it."""
    if isinstance(value, datetime):
        exact = "microseconds" if value.microsecond % 1000 else "milliseconds"
        return value.isoformat(timespec=exact).replace("+00:00", "Z")
    if isinstance(value, Decimal):
        if value == value.to_integral_value():
            return int(value)
        rounded = float(value)
        return rounded if Decimal(repr(rounded)) == value else format(value, "f")
    return thawed(value)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class ScopeGroup(Part):
    """The group of things that a coupon is for."""

    name: str | None = None
    """product, collection, service, event, ticket, plan …"""
    entityId: str | None = None
    """The one product, service … that the coupon is for. None: all of the group."""


NO_GROUP = ScopeGroup()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Scope(Part):
    """What a coupon is for. False: for everything in the site."""

    namespace: str | None = None
    """stores, bookings, events, pricingPlans …"""
    group: ScopeGroup = NO_GROUP

    @property
    def name(self) -> str | None:
        """The group's name, where loyalty coupons have it."""
        return self.group.name

    @property
    def entityId(self) -> str | None:
        """The group's entity, where loyalty coupons have it."""
        return self.group.entityId


NO_SCOPE = Scope()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class BuyXGetY(Part):
    """Buy `x`, get `y` more free. False for coupons of another type."""

    x: int | None = None
    y: int | None = None


NO_BUY_X_GET_Y = BuyXGetY()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class DisplayData(Part):
    """How the thing that the coupon is for is shown. False where Wix says null."""

    name: str | None = None
    formattedPrice: str | None = None
    mediaItem: str | None = None
    """The address of its picture."""


NO_DISPLAY_DATA = DisplayData()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class CouponSpecification(Part):
    """What a coupon does."""

    name: str | None = None
    code: str | None = None
    """As Wix wrote it; customers may enter it in any case."""
    startTime: datetime | None = None
    expirationTime: datetime | None = None
    """None: the coupon does not expire."""
    type: str | None = None
    """As Wix wrote it: MoneyOff, PercentOff, FreeShipping, FixedPriceAmount, BuyXGetY; of loyalty coupons MONEY_OFF_AMOUNT,
    PERCENT_OFF_RATE and so on. `discount_type` is one name for all spellings."""
    discount_type: DiscountType | None = field(default=None, metadata=_OURS)
    """The store's own name of what the coupon does; None where the event carries no snapshot of the coupon."""
    moneyOffAmount: Decimal | None = None
    """An amount in the site's currency."""
    percentOffRate: Decimal | None = None
    """A percentage, 0 to 100."""
    freeShipping: bool | None = field(default=None, metadata=_IF_TRUE)
    fixedPriceAmount: Decimal | None = None
    """An amount in the site's currency."""
    buyXGetY: BuyXGetY = NO_BUY_X_GET_Y
    scope: Scope = NO_SCOPE
    minimumSubtotal: Decimal | None = None
    """An amount in the site's currency."""
    usageLimit: int | None = None
    limitPerCustomer: int | None = None
    limitedToOneItem: bool | None = None
    active: bool | None = None
    appliesToSubscriptions: bool | None = None
    discountedCycleCount: int | None = None


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class CouponEntity(CouponSpecification):
    """A coupon as it was at the time of the event.

    Wix documents the same coupon flat (`entity.startTime`) and with what it does under `specification`
    (`entity.specification.startTime`): both work, whichever way the event came.
    """

    _id: str
    _dateCreated: datetime | None = None
    numberOfUsages: int | None = None
    """Wix's own counter, 0 where Wix leaves it out; None where the event carries no snapshot of the coupon."""
    expired: bool | None = None
    displayData: DisplayData = NO_DISPLAY_DATA
    appId: str | None = None

    @property
    def id(self) -> str:
        """`_id`, as REST names it."""
        return self._id

    @property
    def dateCreated(self) -> datetime | None:
        """`_dateCreated`, as REST names it."""
        return self._dateCreated

    @property
    def _createdDate(self) -> datetime | None:
        """`_dateCreated`, as the SDK names it."""
        return self._dateCreated

    @property
    def createdDate(self) -> datetime | None:
        """`_dateCreated`, as newer APIs name it."""
        return self._dateCreated

    @property
    def specification(self) -> CouponSpecification:
        """What the coupon does, where marketing v2, REST and the SDK have it."""
        return CouponSpecification(**{each.name: getattr(self, each.name) for each in fields(CouponSpecification)})


NO_SPECIFICATION = CouponSpecification()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class AppliedData(Part):
    """A use of a coupon: which coupon, in which order of which app."""

    coupon: CouponEntity
    """The coupon at that time; only its id is known where Wix sent no more."""
    wixAppId: str | None = None
    """The app that the order was made in: Wix Stores, Bookings, Events …"""
    wixAppOrderId: str | None = None
    """The order. Wix may report the use in one order twice, under two event ids; None where Wix sent no body."""


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class CouponReference(Part):
    """The marketing coupon that a loyalty coupon stands for."""

    couponId: str | None = None
    code: str | None = None
    name: str | None = None
    specification: CouponSpecification = NO_SPECIFICATION
    deleted: bool | None = None


NO_REFERENCE = CouponReference()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class LoyaltyCouponEntity(Part):
    """A reward that a member took for points. `accountId` and `memberId` are personal data, and not in its `repr`."""

    _id: str
    accountId: str | None = field(default=None, repr=False)
    memberId: str | None = field(default=None, repr=False)
    transactionId: str | None = None
    couponReference: CouponReference = NO_REFERENCE
    status: str | None = None
    """PENDING, ACTIVE, APPLIED, FAILED, ARCHIVED or UNKNOWN."""
    rewardName: str | None = None
    revision: int | None = field(default=None, metadata=_AS_TEXT)
    """Grows with every change of the loyalty coupon."""
    _createdDate: datetime | None = None
    _updatedDate: datetime | None = None
    refundable: bool | None = None

    @property
    def id(self) -> str:
        """`_id`, as REST names it."""
        return self._id

    @property
    def createdDate(self) -> datetime | None:
        """`_createdDate`, as REST names it."""
        return self._createdDate

    @property
    def updatedDate(self) -> datetime | None:
        """`_updatedDate`, as REST names it."""
        return self._updatedDate


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Identity(Part):
    """Who caused the event. False where Wix did not say (the Velo route never does). The ids of people are not in its `repr`."""

    identityType: str | None = None
    """ANONYMOUS_VISITOR, MEMBER, WIX_USER, APP or UNKNOWN."""
    anonymousVisitorId: str | None = field(default=None, repr=False)
    memberId: str | None = field(default=None, repr=False)
    wixUserId: str | None = field(default=None, repr=False)
    appId: str | None = None


NO_IDENTITY = Identity()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class AccountInfo(Part):
    """Whose site it is. False where Wix did not say."""

    accountId: str | None = None
    parentAccountId: str | None = None
    siteId: str | None = None


NO_ACCOUNT = AccountInfo()


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Metadata(Part):
    """What Wix says about the event itself."""

    id: str
    """The event's id: that of Wix, or one that the store derived where Wix gave none."""
    entityId: str
    """What the event is about; of a deleted coupon the only thing that is told."""
    eventTime: datetime
    """When it happened; where nothing told that, when the store received it."""
    triggeredByAnonymizeRequest: bool
    """Whether the event comes from a privacy request."""
    instanceId: str
    """The site. Of events by the Velo route, which name none: the site that they were received for."""
    eventType: str | None = None
    """`entityFqdn` and `slug` in one; None of what Wix did not tell (an imported snapshot)."""
    entityFqdn: str | None = None
    slug: str | None = None
    """created, updated, deleted or applied. Like `entityFqdn`, None in events of families that the store has no name for."""
    originatedFrom: str | None = None
    entityEventSequence: int | None = field(default=None, metadata=_AS_TEXT)
    """Grows with each event of the entity, with gaps; None by the Velo route."""
    identity: Identity = NO_IDENTITY
    accountInfo: AccountInfo = NO_ACCOUNT

    @property
    def _id(self) -> str:
        """`id`, as the SDK names it."""
        return self.id
