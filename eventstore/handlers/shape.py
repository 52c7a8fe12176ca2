"""The `event` that a handler is given: what Wix documents, by attributes, whatever route the event came by.

Nothing of the event is decoded before somebody looks at it. Nothing in it can be changed: one event goes to several handlers.
Wix's own names are in camelCase (`event.entity.startTime`, `event.metadata.eventTime`; see `parts`); the store's are beside
them in snake_case (`event.coupon_id`, `event.position`).
"""
# ruff: noqa: N802 - the names are Wix's

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from eventstore.errors import InputError
from eventstore.event import Event, Source
from eventstore.handlers import build
from eventstore.handlers.frozen import NOTHING, JsonObject, frozen, thawed
from eventstore.handlers.misnamed import missing
from eventstore.handlers.parts import AppliedData, CouponEntity, LoyaltyCouponEntity, Metadata, json_value

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from eventstore.log.records import RecordedEvent

_T = TypeVar("_T")

_BODY: Final = "what Wix sent is in event.body; a family that the store knows has a class of its own"
_BY_ID: Final = "a deleted coupon is told by its id alone, in event.metadata.entityId (and event.coupon_id)"
_LOYALTY_BY_ID: Final = "a deleted loyalty coupon is told by its id alone, in event.metadata.entityId"


class CouponEvent:
    """An event of any family; those that the store has a name for are given as one of the classes below.

    Of an event of another family, `body` holds what Wix sent, as it came.
    """

    __slots__ = ("_given", "_seen")

    _given: tuple[str, RecordedEvent, str, int, Callable[[], Connection] | None]
    _seen: dict[str, Any]
    """The parts that somebody has looked at."""
    _elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType(dict.fromkeys(("entity", "data"), _BODY))
    """What to say of names that other families have."""

    def __init__(
        self,
        type_: str,
        record: RecordedEvent,
        idempotency_key: str,
        attempt: int,
        transaction: Callable[[], Connection] | None,
    ) -> None:
        _set(self, "_given", (type_, record, idempotency_key, attempt, transaction))
        _set(self, "_seen", {})

    @property
    def type(self) -> str:
        """The store's name of what happened (`coupon.applied`), or Wix's `eventType` of an event of another family."""
        return self._given[0]

    @property
    def metadata(self) -> Metadata:
        """What Wix says about the event itself."""
        return self._once("metadata", build.metadata)

    @property
    def body(self) -> Any:
        """What Wix sent with an event of another family, as it came; None in the documented ones. Cannot be changed."""
        return self._once("body", _body)

    @property
    def site_id(self) -> str:
        """The site (Wix's instance id)."""
        return self._read().site_id

    @property
    def coupon_id(self) -> str | None:
        """The coupon that the event is about; of a loyalty coupon the one that it stands for, None where Wix does not say."""
        return self._read().coupon_id

    @property
    def position(self) -> int:
        """Where the event stands in the log, from 1."""
        return self._given[1].position

    @property
    def recorded_at(self) -> datetime:
        """When the store recorded it, aware UTC. When it happened is `event.metadata.eventTime`."""
        return self._given[1].recorded_at

    @property
    def source(self) -> Source:
        """The route it came by: velo, rest, sdk or snapshot."""
        return self._read().source

    @property
    def canonical(self) -> Event:
        """The store's own Event, the same whatever the route."""
        return self._once("canonical", _own)

    @property
    def idempotency_key(self) -> str:
        """The same each time that this handler is given this event, and for no other: for services that take such a key."""
        return self._given[2]

    @property
    def attempt(self) -> int:
        """1 the first time that this handler is tried with this event, 2 after one failure, and so on."""
        return self._given[3]

    @property
    def transaction(self) -> Connection:
        """A transaction in the store's own database, begun when it is first asked for.

        It is committed together with the record that the event was handled, so that what is written through it happens
        exactly once, and is rolled back when the handler fails or takes too long. Do not roll back or keep it; to commit it is
        refused, with RuntimeError. Keep it short: eight are open at once on PostgreSQL, one on SQLite, where nobody else writes
        meanwhile. A plain handler waits here until one is free. An async one cannot: its call is broken off here and made again,
        as the same attempt, once one is set aside for it, and so is each call of that handler from then on; what it did before
        it asked may be done twice, once. Raises InputError where there is none, RuntimeError once the call has ended.
        """
        given = self._given[4]
        if given is None:
            raise InputError(
                f"the event at position {self.position} was given to the handler without a transaction, as in a dry run or a "
                "test; write to a database of your own, keyed by event.idempotency_key, or run the handler on a store"
            )
        return given()

    def to_dict(self) -> dict[str, Any]:
        """The event ready for JSON, in one documented shape: `metadata` with `entity` or `data`, the coupon flat.

        `POST /v1/sdk/events` of another store takes it as the same event. Beside Wix's own stand `type` (canonical) and
        `store` (position, recordedAt, source, couponId). Nothing in it depends on the handler or the attempt.
        """
        event = self._read()
        metadata = self.metadata.to_dict()
        told: dict[str, Any] = {"type": self.type, "metadata": {"_id": event.event_id} | metadata}
        if event.restored:
            told["metadata"]["restoreInfo"] = {}
        told |= self._told()
        if event.changed:
            told["modifiedFields"] = json_value(frozen(event.changed))
        store = {
            "position": self.position,
            "recordedAt": json_value(self.recorded_at),
            "source": event.source.value,
            "couponId": event.coupon_id,
        }
        return told | {"store": {name: value for name, value in store.items() if value is not None}}

    def __repr__(self) -> str:
        event = self._read()
        about = event.entity_id if event.coupon_id is None else event.coupon_id
        return (
            f"<{type(self).__name__} {self.type} at position {self.position}: {about} on site {event.site_id}, "
            f"{event.event_time.isoformat()}, id {event.event_id}, attempt {self.attempt}>"
        )

    def _read(self) -> Event:
        """The canonical event, decoded on first use. Not to be handed out (see `canonical`)."""
        return self._given[1].event

    def _once(self, name: str, make: Callable[[Event], _T]) -> _T:
        seen = self._seen
        if name not in seen:
            seen[name] = make(self._read())
        found: _T = seen[name]
        return found

    def _told(self) -> dict[str, Any]:
        """What happened, for `to_dict`."""
        body = thawed(self.body)
        return {} if body is None else {"data": body}

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"events cannot be changed; {name!r} cannot be set")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"events cannot be changed; {name!r} cannot be deleted")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name in ("_given", "_seen"):
                raise AttributeError(name)
            if hasattr(type(self), name):  # a property of ours that failed
                return object.__getattribute__(self, name)
            raise missing(type(self), name, self._elsewhere.get(name))


_set: Final = object.__setattr__


def _body(event: Event) -> Any:
    return None if event.recognised else frozen(event.body)


def _own(event: Event) -> Event:
    """The event itself, or a copy where it holds JSON that could be changed under other handlers."""
    shared = (event.body, event.changed, event.coupon and event.coupon.extra, event.loyalty and event.loyalty.extra)
    return event.model_copy(deep=True) if any(isinstance(each, dict | list) for each in shared) else event


class _OfCoupon(CouponEvent):
    __slots__ = ()

    @property
    def coupon_id(self) -> str:
        """The coupon that the event is about."""
        return self._read().coupon_id or self._read().entity_id


class _WithCoupon(_OfCoupon):
    __slots__ = ()

    _elsewhere = MappingProxyType({"data": "only an applied coupon has it; here the coupon is event.entity"})

    @property
    def entity(self) -> CouponEntity:
        """The coupon as it was then."""
        return self._once("entity", build.coupon_entity)

    def _told(self) -> dict[str, Any]:
        return {"entity": self.entity.to_dict()}


class CouponCreated(_WithCoupon):
    """`coupon.created`, Wix's `wixMarketing_onCouponCreated`."""

    __slots__ = ()

    @property
    def restored(self) -> bool:
        """Whether the coupon had been deleted and came back."""
        return self._read().restored


class CouponUpdated(_WithCoupon):
    """`coupon.updated`, Wix's `wixMarketing_onCouponUpdated`."""

    __slots__ = ()

    @property
    def modifiedFields(self) -> JsonObject:
        """The values before, by path (`specification.active`), where Wix told them; else empty."""
        return self._once("modifiedFields", _changed)


class CouponDeleted(_OfCoupon):
    """`coupon.deleted`, Wix's `wixMarketing_onCouponDeleted`: the coupon's id is `event.metadata.entityId`."""

    __slots__ = ()

    _elsewhere = MappingProxyType(dict.fromkeys(("entity", "data", "_id", "id"), _BY_ID))


class CouponApplied(_OfCoupon):
    """`coupon.applied`, Wix's `wixMarketing_onCouponApplied`: an order with the coupon was completed, or marked as paid."""

    __slots__ = ()

    _elsewhere = MappingProxyType({"entity": "a use has the coupon in event.data.coupon"})

    @property
    def data(self) -> AppliedData:
        """The coupon, the app and the order."""
        return self._once("data", build.applied_data)

    def _told(self) -> dict[str, Any]:
        data = self.data.to_dict()
        if self._read().coupon is None:
            del data["coupon"]  # its id alone is no snapshot of it; whoever reads this has metadata.entityId as we had
        return {"data": data} if data else {}


class CouponObserved(_WithCoupon):
    """`coupon.observed`: a coupon as Wix answered it to a query, imported into the store. Wix knows no such event."""

    __slots__ = ()


class _WithLoyaltyCoupon(CouponEvent):
    __slots__ = ()

    _elsewhere = MappingProxyType({"data": "here the loyalty coupon is event.entity"})

    @property
    def entity(self) -> LoyaltyCouponEntity:
        """The loyalty coupon as it was then; the coupon that it stands for is its `couponReference`."""
        return self._once("entity", build.loyalty_entity)

    def _told(self) -> dict[str, Any]:
        return {"entity": self.entity.to_dict()}


class LoyaltyCouponCreated(_WithLoyaltyCoupon):
    """`loyalty_coupon.created`, Wix's `wixLoyalty_onCouponCreated`: a member took a reward for points."""

    __slots__ = ()


class LoyaltyCouponUpdated(_WithLoyaltyCoupon):
    """`loyalty_coupon.updated`. Wix sends it to some apps and does not document it."""

    __slots__ = ()

    @property
    def modifiedFields(self) -> JsonObject:
        """The values before, by path, where Wix told them; else empty."""
        return self._once("modifiedFields", _changed)


class LoyaltyCouponDeleted(CouponEvent):
    """`loyalty_coupon.deleted`, Wix's `wixLoyalty_onCouponDeleted`: the loyalty coupon's id is `event.metadata.entityId`."""

    __slots__ = ()

    _elsewhere = MappingProxyType(dict.fromkeys(("entity", "data", "_id", "id"), _LOYALTY_BY_ID))


def _changed(event: Event) -> JsonObject:
    changed: JsonObject = frozen(event.changed) if event.changed else NOTHING
    return changed


CLASSES: Final[Mapping[str, type[CouponEvent]]] = {
    "coupon.created": CouponCreated,
    "coupon.updated": CouponUpdated,
    "coupon.deleted": CouponDeleted,
    "coupon.applied": CouponApplied,
    "coupon.observed": CouponObserved,
    "loyalty_coupon.created": LoyaltyCouponCreated,
    "loyalty_coupon.updated": LoyaltyCouponUpdated,
    "loyalty_coupon.deleted": LoyaltyCouponDeleted,
}
"""Canonical type → what a handler is given."""


def handler_event(
    type_: str,
    record: RecordedEvent,
    *,
    idempotency_key: str,
    attempt: int = 1,
    transaction: Callable[[], Connection] | None = None,
) -> CouponEvent:
    """The event at `record`, of the canonical type `type_`, for one attempt of one handler. Decodes nothing.

    `transaction` is asked each time that the handler asks, and gives the same one each time.
    """
    return CLASSES.get(type_, CouponEvent)(type_, record, idempotency_key, attempt, transaction)
