"""The canonical Event: the one type that everything speaks.

Whatever route a delivery came by and however it spelt its fields, it becomes one `Event`, and a coupon in it becomes one
`Coupon` snapshot. Times are aware UTC with microseconds. Money and rates are `Decimal`, at most 12 digits before and 6 after
the point, without trailing zeros. Ids are opaque text. An absent fact is `None`, and left out of the canonical JSON.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

INT64_MAX = 2**63 - 1
AMOUNT_LIMIT = Decimal(10) ** 12
"""Amounts and rates stay below this: DECIMAL(18, 6), the widest that analytics engines keep in a machine word."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = Decimal("0.000001")


def _utc(value: datetime) -> datetime:
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def canonical_amount(value: Decimal) -> Decimal:
    """The amount with at most six decimals and no trailing zeros, so that 5, 5.0 and 5.00 are one text.

    Raises ValueError if it is not finite or not below 10**12.
    """
    if not value.is_finite() or abs(value) >= AMOUNT_LIMIT:
        raise ValueError("must be a finite amount below 10**12")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -6:
        value = value.quantize(_MICRO)
        if abs(value) >= AMOUNT_LIMIT:
            raise ValueError("must be a finite amount below 10**12")
    if value == value.to_integral_value():
        return Decimal(int(value))
    return value.normalize()


UtcTime = Annotated[AwareDatetime, AfterValidator(_utc)]
Amount = Annotated[Decimal, AfterValidator(canonical_amount)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An identifier given by others: opaque, one line, at most 200 characters."""
Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
"""Free text. No NUL, which no database text column takes."""
Count = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(StrEnum):
    """The route a delivery came by (DOMAIN: four ways the same fact arrives)."""

    VELO = "velo"
    REST = "rest"
    SDK = "sdk"
    SNAPSHOT = "snapshot"


class DiscountType(StrEnum):
    """What the coupon does, one name for the three vocabularies that Wix uses."""

    MONEY_OFF = "MONEY_OFF"
    PERCENT_OFF = "PERCENT_OFF"
    FREE_SHIPPING = "FREE_SHIPPING"
    FIXED_PRICE = "FIXED_PRICE"
    BUY_X_GET_Y = "BUY_X_GET_Y"
    UNKNOWN = "UNKNOWN"


class Discount(_Frozen):
    """`value` is an amount of the site's currency (MONEY_OFF, FIXED_PRICE) or a percentage 0–100 (PERCENT_OFF)."""

    type: DiscountType
    value: Amount | None = None
    buy_x: Count | None = None
    get_y: Count | None = None
    raw_type: Text | None = None


class Scope(_Frozen):
    """What the coupon applies to. `None` in its place means everything in the site."""

    namespace: Text | None = None
    group: Text | None = None
    entity_id: Text | None = None


class Coupon(_Frozen):
    """One snapshot of a coupon, in one shape for every spelling.

    `reported_usages` is Wix's own counter `numberOfUsages`; absent there means 0 here. `active`, `expired` and
    `reported_usages` are what Wix said at that moment, not what is true now. `extra` keeps fields that Wix has added since.
    """

    id: Id | None = None
    code: Text | None = None
    name: Text | None = None
    discount: Discount
    scope: Scope | None = None
    start_time: UtcTime | None = None
    expiration_time: UtcTime | None = None
    created_at: UtcTime | None = None
    usage_limit: Count | None = None
    limit_per_customer: Count | None = None
    minimum_subtotal: Amount | None = None
    limited_to_one_item: bool = False
    applies_to_subscriptions: bool = False
    discounted_cycle_count: Count | None = None
    active: bool | None = None
    expired: bool = False
    reported_usages: Count = 0
    app_id: Text | None = None
    display_name: Text | None = None
    display_price: Text | None = None
    display_media: Text | None = None
    extra: dict[str, JsonValue] | None = None


class Loyalty(_Frozen):
    """The loyalty side of a reward coupon; its marketing side is the event's `coupon`.

    `account_id` and `member_id` are personal data. `revision` grows with every change of the loyalty coupon.
    """

    account_id: Id | None = None
    member_id: Id | None = None
    transaction_id: Id | None = None
    status: Text | None = None
    reward_name: Text | None = None
    revision: Count | None = None
    created_at: UtcTime | None = None
    updated_at: UtcTime | None = None
    refundable: bool = False
    coupon_deleted: bool = False
    extra: dict[str, JsonValue] | None = None


class Actor(_Frozen):
    """Who caused the event, as Wix's `identity` says it: ANONYMOUS_VISITOR, MEMBER, WIX_USER, APP or UNKNOWN."""

    type: Text
    id: Id | None = None


class Account(_Frozen):
    """Wix's `accountInfo`: whose site it is."""

    account_id: Id | None = None
    parent_account_id: Id | None = None
    site_id: Id | None = None


class Event(_Frozen):
    """One thing that happened to a coupon, whatever the route it was told by.

    The first block of fields is what happened: its *content*. Two deliveries with one `event_id` and equal content are the
    same event told twice; with other content they conflict. Times are compared to the millisecond, for the SDK keeps no
    more. The second block is how it was told; routes differ in what they carry there, so it takes no part in that comparison.
    `dated` False: nothing told when it happened, `event_time` is that of receipt and no part of the content either.
    """

    event_id: Id
    type: Id
    recognised: bool = True
    entity_id: Id
    coupon_id: Id | None = None
    event_time: UtcTime
    anonymize: bool = False
    order_id: Id | None = None
    app_id: Id | None = None
    coupon: Coupon | None = None
    loyalty: Loyalty | None = None
    body: JsonValue = None

    source: Source
    site_id: Id
    dated: Literal[False] | None = None
    sequence: Count | None = None
    restored: bool = False
    originated_from: Text | None = None
    actor: Actor | None = None
    account: Account | None = None
    changed: dict[str, JsonValue] | None = None

    @property
    def personal(self) -> tuple[str, ...]:
        """The personal fields that this event carries, by Wix's names."""
        found = []
        if self.loyalty is not None:
            if self.loyalty.account_id is not None:
                found.append("accountId")
            if self.loyalty.member_id is not None:
                found.append("memberId")
        if self.actor is not None and self.actor.id is not None and self.actor.type in _PERSONAL_ACTORS:
            found.append(_PERSONAL_ACTORS[self.actor.type])
        return tuple(found)

    @property
    def findings(self) -> tuple[str, ...]:
        """What is odd about this event by Wix's own rules. A finding is reported, never a reason to refuse."""
        return tuple(_findings(self))

    def content_json(self) -> bytes:
        """The canonical JSON of what happened, without how it was told. Keys in declared order, null fields left out."""
        return _content(self._to_the_millisecond())

    def encode(self) -> tuple[bytes, bytes]:
        """`(payload, content_hash)`: the canonical JSON that the log stores, and the SHA-256 of its content part."""
        payload: bytes = _TO_JSON(self, exclude_none=True)
        if self._is_of_known_fields:
            # Writing the content a second time would cost as much again. Behind `source` stand only plain values, in which a
            # quote is escaped, so its last occurrence is the border; the times in front of it are rounded down in the text.
            content = _FINE_TIME.sub(_rounded_down, payload[: payload.rindex(_BORDER)] + b"}")
        else:
            content = self.content_json()
        return payload, hashlib.sha256(content).digest()

    @property
    def _is_of_known_fields(self) -> bool:
        """Whether no field holds keys of others, which may be named like ours, and the event's time is its own."""
        return (
            self.changed is None
            and self.body is None
            and self.dated is None
            and (self.coupon is None or self.coupon.extra is None)
            and (self.loyalty is None or self.loyalty.extra is None)
        )

    def _to_the_millisecond(self) -> Event:
        """This event with its times as they are compared; itself if they are so."""
        moved: dict[str, Any] = {}
        if self.dated is False:
            moved["event_time"] = EPOCH
        elif self.event_time.microsecond % 1000:
            moved["event_time"] = _milliseconds(self.event_time)
        if self.coupon is not None and (times := _finer(self.coupon, _COUPON_TIMES)):
            moved["coupon"] = self.coupon.model_copy(update=times)
        if self.loyalty is not None and (times := _finer(self.loyalty, _LOYALTY_TIMES)):
            moved["loyalty"] = self.loyalty.model_copy(update=times)
        return self.model_copy(update=moved) if moved else self

    def with_derived_id(self) -> Self:
        """This event under an id derived from type, entity, time and content, for deliveries that carry none."""
        content = self.model_copy(update={"event_id": "-"}).content_json()
        return self.model_copy(update={"event_id": "sha256:" + hashlib.sha256(content).hexdigest()})

    @classmethod
    def from_payload(cls, payload: str | bytes) -> Self:
        """The event back from the payload that `encode` gave."""
        return cls.model_validate_json(payload)


_PERSONAL_ACTORS = {
    "MEMBER": "identity.memberId",
    "ANONYMOUS_VISITOR": "identity.anonymousVisitorId",
    "WIX_USER": "identity.wixUserId",
}
_COUPON_TIMES = ("start_time", "expiration_time", "created_at")
_LOYALTY_TIMES = ("created_at", "updated_at")


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _finer(part: BaseModel, names: tuple[str, ...]) -> dict[str, datetime]:
    """The times in `part` that are finer than milliseconds, without what is finer."""
    times = ((name, getattr(part, name)) for name in names)
    return {name: _milliseconds(time) for name, time in times if time is not None and time.microsecond % 1000}


_TOLD = {"source", "site_id", "dated", "sequence", "restored", "originated_from", "changed", "actor", "account"}
_BORDER = b',"source":"'
_FINE_TIME = re.compile(rb'(\.\d{3})\d{3}Z"')
"""What a time finer than seconds ends with in JSON."""
_SECONDS = len("2026-09-01T12:00:00")
_TIME_KEYS = tuple(f'"{name}":"'.encode() for name in ("event_time", *_COUPON_TIMES, *_LOYALTY_TIMES))


def _rounded_down(found: re.Match[bytes]) -> bytes:
    # In a text of Wix's that looks like one of our times the quotes are escaped, so that no key of ours stands before it.
    if not found.string.endswith(_TIME_KEYS, 0, found.start() - _SECONDS):
        return found[0]
    return b'Z"' if found[1] == b".000" else found[1] + b'000Z"'


def _content(compared: Event) -> bytes:
    content: bytes = _TO_JSON(compared, exclude=_TOLD, exclude_none=True)
    return content


_TO_JSON: Any = Event.__pydantic_serializer__.to_json

CODE_MAX_LENGTH = 20
NAME_MAX_LENGTH = 80


def _findings(event: Event) -> list[str]:
    found = []
    coupon = event.coupon
    if event.type.startswith("coupon.") and event.coupon_id is not None and event.coupon_id != event.entity_id:
        found.append("coupon_id_differs_from_entity_id")
    if coupon is None:
        return found
    if coupon.scope is not None and coupon.minimum_subtotal is not None:
        found.append("scope_and_minimum_subtotal")
    if coupon.scope is not None and coupon.discount.type is DiscountType.FREE_SHIPPING:
        found.append("free_shipping_with_scope")
    if coupon.scope is not None and coupon.scope.namespace == "bookings" and not coupon.limited_to_one_item:
        found.append("bookings_not_limited_to_one_item")
    if coupon.code is not None and len(coupon.code) > CODE_MAX_LENGTH:
        found.append("code_too_long")
    if coupon.name is not None and len(coupon.name) > NAME_MAX_LENGTH:
        found.append("name_too_long")
    if coupon.discount.type is DiscountType.UNKNOWN:
        found.append("unknown_discount")
    return found
