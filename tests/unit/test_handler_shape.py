"""A handler is given what Wix documents, in Wix's names and whatever route the event came by."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from hypothesis import given
from sqlalchemy import create_engine, text

from eventstore.demo import examples, month
from eventstore.demo.catalogue import Card
from eventstore.demo.delivery import SITE_ID
from eventstore.demo.spelling import Fact, spell
from eventstore.errors import InputError
from eventstore.event import Event, Source
from eventstore.handlers import (
    CouponApplied,
    CouponCreated,
    CouponDeleted,
    CouponEvent,
    CouponObserved,
    CouponUpdated,
    JsonObject,
    LoyaltyCouponCreated,
    handler_event,
)
from eventstore.handlers.misnamed import documented
from eventstore.handlers.parts import Part
from eventstore.handlers.shape import CLASSES
from eventstore.log.records import RecordedEvent
from eventstore.wix import read, read_envelope, read_sdk
from tests import histories

DATA = Path(__file__).parent.parent / "data" / "wix"
RECORDED_AT = datetime(2026, 9, 2, 8, tzinfo=UTC)
WIRES = ("velo", "velo_local", "velo_iso", "velo_v2", "rest", "rest_json", "sdk")


def recorded(event: Event, position: int = 1) -> RecordedEvent:
    return RecordedEvent(position, RECORDED_AT, event.encode()[0].decode(), b"")


def seen(event: Event, **more: Any) -> Any:
    return handler_event(event.type, recorded(event), idempotency_key="key", **more)


@dataclass(frozen=True)
class Told:
    """A delivery and the events that it is read as."""

    name: str
    body: dict[str, Any]
    events: list[Event]


def fixtures() -> Iterator[Told]:
    for delivery in json.loads((DATA / "INDEX.json").read_text(encoding="utf-8"))["deliveries"]:
        body = json.loads((DATA / delivery["file"]).read_text(encoding="utf-8"))
        if delivery["route"] == "jwt":
            envelope = json.loads(body["data"])
            yield Told(delivery["file"], json.loads(envelope["data"]), [read_envelope(body)])
        else:
            found = read(
                body,
                route=delivery["route"],
                handler=delivery.get("handler"),
                site_id=SITE_ID,
                observed_at=RECORDED_AT,
            )
            yield Told(delivery["file"], body, found)


def demonstrated() -> Iterator[Told]:
    for number, delivery in enumerate([*examples(), *month(events=600)]):
        found = read(
            delivery.body,
            route=delivery.route,
            handler=delivery.handler,
            site_id=SITE_ID,
            observed_at=delivery.delivered_at,
        )
        yield Told(f"{number} by {delivery.route}", delivery.body, found)


# Wix's own values, read here by other means than the store's


def js_time(value: Any) -> datetime:
    said = str(value)
    if re.fullmatch(r"-?\d+", said):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(said))
    if said[:1].isalpha():
        return datetime.strptime(said.partition(" (")[0], "%a %b %d %Y %H:%M:%S GMT%z").astimezone(UTC)
    return datetime.fromisoformat(said)


TIMES = re.compile(r"(Time|Date|dateCreated|Created)$")


def unwrapped(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and set(value) == {"value"} else value


def differences(shape: Any, told: dict[str, Any], at: str) -> Iterator[str]:
    """What is not the same under Wix's own names, walked as Wix has nested it."""
    for name, wrapped in told.items():
        value, where = unwrapped(wrapped), f"{at}.{name}"
        got = getattr(shape, name)
        if isinstance(value, dict) and name == "mediaItem":
            value = value["url"]
        if isinstance(value, dict):
            yield from differences(got, value, where)
        elif value is None or value == "":
            if got is not None and got:
                yield f"{where}: {got!r} where Wix has nothing"
        else:
            want: Any = value
            if isinstance(got, datetime):
                assert TIMES.search(name), where
                want = js_time(value)
            elif isinstance(got, Decimal):
                want = Decimal(str(value))
            elif isinstance(got, int) and not isinstance(got, bool):
                want = int(value)
            elif got is None and value in (0, False):
                continue  # the zero defaults that loyalty coupons have beside the real field
            if got != want:
                yield f"{where}: {got!r} where Wix has {want!r}"


def all_differences(event: Any, body: dict[str, Any]) -> list[str]:
    """Of an event's body: Velo's and the SDK's as it stands, REST's generic one where its parts are."""
    if "metadata" in body:
        parts = [(name, getattr(event, name), told) for name, told in body.items() if isinstance(told, dict)]
    else:
        named = ("createdEvent", "updatedEvent", "actionEvent", "deletedEvent")
        metadata = {name: value for name, value in body.items() if name not in named}
        parts = [("metadata", event.metadata, metadata)]
        for name in named:
            for part, value in body.get(name, {}).items():
                told = json.loads(value) if isinstance(value, str) else value
                if part.startswith(("entity", "currentEntity")):
                    parts.append(("entity", event.entity, told))
                elif part.startswith("body"):
                    parts.append(("data", event.data, told))
    found: list[str] = []
    for name, shape, told in parts:
        if name == "modifiedFields":
            assert set(shape) == set(told)
        else:
            found += differences(shape, told, name)
    return found


@pytest.mark.parametrize(
    "told",
    list(fixtures()),
    ids=lambda told: told.name,
)
def test_a_documented_delivery_has_wixs_values_under_wixs_names(told: Told) -> None:
    if "coupons" in told.body:
        assert told.events
        for event, coupon in zip(told.events, told.body["coupons"], strict=True):
            assert list(differences(seen(event).entity, coupon, "entity")) == []
        return
    [event] = told.events
    shape = seen(event)
    if not event.recognised:
        assert shape.body == json.loads(told.body["updatedEvent"]["currentEntityAsJson"])
        return
    assert all_differences(shape, told.body) == []


def test_a_month_of_a_shop_has_wixs_values_under_wixs_names_by_every_route() -> None:
    routes, classes = set(), set()
    for told in demonstrated():
        for event in told.events:
            shape = seen(event)
            routes.add(event.source)
            classes.add(type(shape))
            if event.recognised and len(told.events) == 1 and "coupons" not in told.body:
                assert all_differences(shape, told.body) == [], told.name
    assert routes == set(Source)
    assert {CouponCreated, CouponUpdated, CouponDeleted, CouponApplied, CouponObserved, LoyaltyCouponCreated} <= classes


CARD = Card(
    id="0d0d0d0d-0000-4000-8000-000000000001",
    code="SAVE20",
    name="Save 20",
    kind="MONEY_OFF",
    value=20,
    created=datetime(2026, 8, 1, 9, tzinfo=UTC),
    start=datetime(2026, 8, 2, tzinfo=UTC),
    end=datetime(2026, 9, 30, 22, tzinfo=UTC),
    namespace="stores",
    group="product",
    group_id="5376f9ec-b92e-efa9-e4a1-f4f480aa0d3a",
    limit=100,
    per_customer=2,
    one_item=True,
    usages=7,
)


@pytest.mark.parametrize("kind", ["MONEY_OFF", "PERCENT_OFF", "FREE_SHIPPING", "FIXED_PRICE", "BUY_X_GET_Y"])
@pytest.mark.parametrize("what", ["created", "updated", "applied", "deleted"])
def test_every_spelling_of_one_event_has_the_same_shape(what: str, kind: str) -> None:
    values = {"BUY_X_GET_Y": (3, 1), "FREE_SHIPPING": True}
    card = Card(
        **{name: getattr(CARD, name) for name in CARD.__slots__} | {"kind": kind, "value": values.get(kind, 20)}
    )
    fact = Fact("e-1", what, datetime(2026, 8, 5, 12, tzinfo=UTC), card, order_id="o-1")
    shapes = []
    for wire in WIRES:
        route, handler, body = spell(fact, wire)
        [event] = read(body, route=route, handler=handler, site_id=SITE_ID, observed_at=RECORDED_AT)
        shapes.append(seen(event))
    first, *others = shapes
    for other in others:
        assert type(other) is type(first)
        if what == "applied":
            assert other.data == first.data
        elif what != "deleted":
            assert other.entity == first.entity
            assert other.entity.specification == first.entity.specification
        for name in ("id", "entityId", "eventTime", "instanceId", "eventType", "triggeredByAnonymizeRequest"):
            assert getattr(other.metadata, name) == getattr(first.metadata, name)
        forgotten = ("store", "modifiedFields", "metadata")
        one, two = ({k: v for k, v in each.to_dict().items() if k not in forgotten} for each in (other, first))
        assert one == two


def test_both_documented_shapes_of_a_coupon_can_be_asked() -> None:
    route, handler, body = spell(Fact("e-1", "created", CARD.created, CARD), "velo_v2")
    [event] = read(body, route=route, handler=handler, site_id=SITE_ID, observed_at=RECORDED_AT)
    entity = seen(event).entity
    assert entity.startTime == entity.specification.startTime == CARD.start
    assert entity.id == entity._id == CARD.id
    assert entity.dateCreated == entity._dateCreated == entity._createdDate == entity.createdDate == CARD.created
    assert entity.scope.group.name == entity.scope.name == "product"
    assert entity.discount_type == "MONEY_OFF"


# to_dict


def test_what_to_dict_gives_is_taken_by_another_store_as_the_same_event() -> None:
    taken = 0
    for told in [*fixtures(), *demonstrated()]:
        for event in told.events:
            if event.type == "coupon.observed":
                continue
            said = json.loads(json.dumps(seen(event).to_dict()))
            again = read_sdk(said, default_site_id="another")
            assert again.content_json() == event.content_json(), told.name
            for name in (
                "event_id",
                "site_id",
                "sequence",
                "restored",
                "originated_from",
                "actor",
                "account",
                "changed",
            ):
                assert getattr(again, name) == getattr(event, name), (told.name, name)
            taken += 1
    assert taken > 500


def test_to_dict_has_wixs_documented_shape() -> None:
    [event] = next(each for each in fixtures() if each.name == "velo_coupon_applied.json").events
    assert seen(event, attempt=3).to_dict() == {
        "type": "coupon.applied",
        "metadata": {
            "_id": "99a3d562-1650-40e6-97f5-3918e6ec94aa",
            "id": "99a3d562-1650-40e6-97f5-3918e6ec94aa",
            "entityId": "03a35393-7835-44b0-af53-6019a484b48b",
            "eventTime": "2021-07-17T11:56:03.852350Z",
            "triggeredByAnonymizeRequest": False,
            "instanceId": SITE_ID,
            "eventType": "wix.ecommerce.coupons.v2.coupon_applied",
            "entityFqdn": "wix.ecommerce.coupons.v2.coupon",
            "slug": "applied",
        },
        "data": {
            "coupon": {
                "_id": "03a35393-7835-44b0-af53-6019a484b48b",
                "name": "Summer Sale 10% off",
                "code": "SummerSale",
                "startTime": "2021-06-30T21:00:00.000Z",
                "expirationTime": "2021-08-31T20:59:59.000Z",
                "type": "PercentOff",
                "percentOffRate": 10,
                "scope": {
                    "namespace": "stores",
                    "group": {"name": "product", "entityId": "5376f9ec-b92e-efa9-e4a1-f4f480aa0d3a"},
                },
                "limitPerCustomer": 1,
                "limitedToOneItem": False,
                "active": True,
                "appliesToSubscriptions": False,
                "_dateCreated": "2021-01-17T11:40:56.000Z",
                "numberOfUsages": 1,
                "expired": False,
                "displayData": {
                    "name": "Indonesian Blend",
                    "formattedPrice": "$35.00",
                    "mediaItem": "https://static.wixstatic.com/media/nsplsh_316b6449475f3235386255~mv2_d_2977_3951_s_4_2"
                    ".jpg/v1/fit/w_2977,h_3951,q_90/file.jpg",
                },
            },
            "wixAppId": "1380b703-ce81-ff05-f115-39571d94dfcd",
            "wixAppOrderId": "6758b1bc-539f-430c-a0ea-889130ef3351",
        },
        "store": {
            "position": 1,
            "recordedAt": "2026-09-02T08:00:00.000Z",
            "source": "velo",
            "couponId": "03a35393-7835-44b0-af53-6019a484b48b",
        },
    }


@pytest.mark.parametrize("amount", ["10", "7.5", "0.1", "-2.25", "999999999999.999999", "0.000001"])
def test_no_amount_is_rounded_on_its_way_into_json(amount: str) -> None:
    coupon = {"_id": "c-1", "type": "MoneyOff", "moneyOffAmount": amount, "minimumSubtotal": amount}
    body = {"metadata": {"id": "e", "entityId": "c-1", "eventTime": "2026-09-01T10:00:00Z"}, "entity": coupon}
    [event] = read(body, route="velo", handler="wixMarketing_onCouponCreated", site_id="local", observed_at=RECORDED_AT)
    entity = json.loads(json.dumps(seen(event).to_dict()))["entity"]
    assert Decimal(str(entity["minimumSubtotal"])) == Decimal(str(entity["moneyOffAmount"])) == Decimal(amount)


def everything_in(shape: Any) -> Iterator[Any]:
    for name in documented(type(shape)):
        if name == "transaction":
            continue
        value = getattr(shape, name)
        yield value
        if isinstance(value, Part) and name != "specification":
            yield from everything_in(value)


@given(histories.events)
def test_every_documented_attribute_of_any_event_can_be_read(event: Event) -> None:
    shape = seen(event)
    assert type(shape) is CLASSES.get(event.type, CouponEvent)
    values = list(everything_in(shape))
    assert len(values) > 14
    assert all(
        value.tzinfo is UTC or value.utcoffset() == timedelta(0) for value in values if isinstance(value, datetime)
    )
    assert json.loads(json.dumps(shape.to_dict())) == json.loads(json.dumps(seen(event).to_dict()))
    assert shape.canonical == event
    assert event.type in repr(shape)
    for part in values:
        if isinstance(part, Part):
            hash(part)


def test_what_wix_has_added_since_is_an_attribute_too() -> None:
    coupon = {
        "_id": "c-1",
        "type": "BuyXGetY",
        "buyXGetY": {"x": 2, "y": 1, "cheapest": True},
        "stackable": {"value": True},
        "audience": {"segments": ["a", "b"]},
        "scope": {"namespace": "stores", "region": "EU", "group": {"name": "product", "weight": 3}},
        "displayData": {"name": "Tea", "colour": "green"},
    }
    body = {
        "metadata": {"id": "e", "entityId": "c-1", "eventTime": "2026-09-01T10:00:00Z"},
        "data": {"coupon": coupon, "wixAppOrderId": "o-1", "channel": "POS"},
    }
    [event] = read(body, route="velo", handler=None, site_id="local", observed_at=RECORDED_AT)
    shape = seen(event)
    found = shape.data.coupon
    assert found.stackable is True
    assert found.extra["stackable"] is True
    assert found.specification.stackable is True
    assert found.audience.segments == ("a", "b")
    assert found.buyXGetY.cheapest is True
    assert found.scope.region == "EU"
    assert found.scope.group.weight == 3
    assert found.displayData.colour == "green"
    assert shape.data.channel == "POS"
    told = shape.to_dict()["data"]
    assert told["channel"] == "POS"
    assert told["coupon"]["audience"] == {"segments": ["a", "b"]}
    assert told["coupon"]["scope"]["group"] == {"name": "product", "weight": 3}
    assert read_sdk(shape.to_dict(), default_site_id="local").content_json() == event.content_json()


# What is absent, and what is misspelt


def applied(**more: Any) -> Event:
    facts = {"event_id": "e-1", "type": "coupon.applied", "entity_id": "c-1", "coupon_id": "c-1"}
    return Event(**facts, event_time=RECORDED_AT, source=Source.SDK, site_id="local", **more)


def test_a_use_told_without_its_body_still_has_the_coupons_id_and_nothing_else() -> None:
    shape = seen(applied())
    assert shape.data.coupon._id == shape.coupon_id == "c-1"
    assert shape.data.wixAppOrderId is None
    told = {
        name: getattr(shape.data.coupon, name) for name in ("name", "startTime", "active", "expired", "numberOfUsages")
    }
    assert set(told.values()) == {None}


def test_an_object_that_wix_left_out_is_false_and_its_facts_are_none() -> None:
    coupon = seen(applied()).data.coupon
    assert not coupon.scope
    assert coupon.scope.group.name is None
    assert not coupon.buyXGetY
    assert coupon.buyXGetY.x is None
    assert not coupon.displayData
    assert not seen(applied()).metadata.identity
    assert seen(applied()).metadata.identity.memberId is None


def created_shape() -> Any:
    [event] = next(each for each in fixtures() if each.name == "velo_coupon_created.json").events
    return seen(event)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (lambda event: event.entity.startTme, "did you mean 'startTime'"),
        (lambda event: event.entity.start_time, "did you mean 'startTime'"),
        (lambda event: event.entity.Id, "did you mean '_id'|did you mean 'id'"),
        (lambda event: event.entity.usage_limit, "did you mean 'usageLimit'"),
        (lambda event: event.entity.order_id, "CouponEntity has no attribute 'order_id'"),
        (lambda event: event.startTime, "did you mean 'entity.startTime'"),
        (lambda event: event.eventTime, "did you mean 'metadata.eventTime'"),
        (lambda event: event.entity.namespace, "did you mean 'scope.namespace'"),
        (lambda event: event.data, "event.entity"),
        (lambda _: seen(applied()).entity, "event.data.coupon"),
        (lambda _: seen(applied()).order_id, "did you mean 'data.wixAppOrderId'"),
        (lambda _: seen(applied()).data.orderId, "did you mean 'wixAppOrderId'"),
        (lambda _: seen(applied().model_copy(update={"type": "coupon.deleted"})).entity, "event.metadata.entityId"),
        (lambda event: event.nonsense, "it has .*metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_attribute_that_wix_does_not_have_names_the_nearest(wrong: Callable[[Any], Any], right: str) -> None:
    with pytest.raises(AttributeError, match=right):
        wrong(created_shape())


def test_an_event_of_another_family_is_given_as_it_came() -> None:
    [event] = next(each for each in fixtures() if each.name == "rest_unknown_family.json").events
    shape: Any = seen(event)
    assert type(shape).__name__ == CouponEvent.__name__
    assert shape.type == "wix.loyalty.v1.reward_updated"
    assert shape.body["name"] == shape.body.name == "10% off"
    assert shape.metadata.entityFqdn is None
    with pytest.raises(AttributeError, match=r"event\.body"):
        _ = shape.entity


# Nothing changes, nothing is decoded too early


def test_an_event_cannot_be_changed() -> None:
    shape = created_shape()
    with pytest.raises(AttributeError, match="cannot be changed"):
        shape.type = "x"
    with pytest.raises(AttributeError):
        shape.entity.code = "x"
    with pytest.raises(AttributeError):
        shape.note = "x"


def test_what_one_handler_does_to_an_event_reaches_no_other() -> None:
    event = applied(body={"list": [1], "object": {"a": 1}}, changed={"a": [1]})
    record = recorded(event)
    one, other = (handler_event(event.type, record, idempotency_key=key) for key in ("a", "b"))
    told = one.to_dict()
    told["data"]["object"]["a"] = 2
    told["modifiedFields"]["a"].append(2)
    body: Any = one.canonical.body
    body["object"]["a"] = 2
    assert isinstance(one, CouponApplied)
    extra: Any = one.data.extra
    with pytest.raises(TypeError, match="cannot be changed"):
        extra["object"]["a"] = 2
    with pytest.raises(TypeError, match="cannot be changed"):
        extra.update(list=2)
    assert other.canonical == event
    assert record.event == event
    assert other.to_dict()["data"]["object"] == {"a": 1}


def test_a_json_object_can_be_copied_to_one_that_changes() -> None:
    kept = seen(applied(body={"object": {"a": [1]}})).data.extra
    assert isinstance(kept, JsonObject)
    changed = copy.deepcopy(kept)
    changed["object"]["a"] = 2
    assert kept["object"]["a"] == (1,)
    assert json.loads(json.dumps(kept)) == {"object": {"a": [1]}}


def test_nothing_is_decoded_before_somebody_looks() -> None:
    record = RecordedEvent(7, RECORDED_AT, "this is not an event", b"")
    shape = handler_event("coupon.applied", record, idempotency_key="k-1", attempt=2, transaction=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert isinstance(shape, CouponApplied)
    assert (shape.type, shape.position, shape.recorded_at) == ("coupon.applied", 7, RECORDED_AT)
    assert (shape.idempotency_key, shape.attempt) == ("k-1", 2)
    assert "event" not in vars(record)
    with pytest.raises(ValueError, match="JSON"):
        _ = shape.data


def test_an_event_is_decoded_once_for_all_who_look() -> None:
    record = recorded(applied())
    for key in ("a", "b"):
        shape = handler_event("coupon.applied", record, idempotency_key=key)
        assert isinstance(shape, CouponApplied)
        assert shape.data is shape.data
        assert shape.canonical is record.event


def test_the_transaction_is_the_one_that_the_runner_gives() -> None:
    with create_engine("sqlite://").connect() as connection:
        shape = seen(applied(), transaction=lambda: connection)
        assert shape.transaction.execute(text("SELECT 1")).scalar_one() == 1
        assert shape.transaction is connection


def test_an_event_without_a_transaction_says_so() -> None:
    with pytest.raises(InputError, match=r"position 1 .* without a transaction"):
        _ = seen(applied()).transaction


def test_an_error_in_beginning_the_transaction_is_not_taken_for_a_misspelt_name() -> None:
    def broken() -> Any:
        raise AttributeError("the pool is broken")

    with pytest.raises(AttributeError, match="the pool is broken"):
        _ = seen(applied(), transaction=broken).transaction


def test_the_repr_tells_the_event_without_personal_data() -> None:
    [event] = next(each for each in fixtures() if each.name == "sdk_loyalty_coupon_created.json").events
    shape = seen(event)
    said = f"{shape!r} {shape.entity!r} {shape.metadata!r}"
    assert "LoyaltyCouponCreated loyalty_coupon.created at position 1" in said
    assert "rewardName='10% off'" in said
    assert shape.entity.memberId
    for personal in (shape.entity.memberId, shape.entity.accountId, shape.metadata.identity.memberId):
        assert personal not in said


# Types

TYPED = """
from datetime import datetime
from decimal import Decimal

from eventstore.handlers import (
    CouponApplied, CouponCreated, CouponDeleted, CouponEvent, LoyaltyCouponCreated, coupons, on,
)


def wixMarketing_onCouponCreated(event: CouponCreated) -> None:
    coupon = event.entity
    start: datetime | None = coupon.startTime
    least: Decimal | None = coupon.specification.minimumSubtotal
    names: list[str | None] = [coupon.scope.group.name, coupon.type, coupon._id]
    x: int | None = coupon.buyXGetY.x
    print(start, least, names, x)


@on("coupon.applied", discount_type="PERCENT_OFF")
async def used(event: CouponApplied) -> None:
    order: str | None = event.data.wixAppOrderId
    when: datetime = event.metadata.eventTime
    print(order, when, event.data.coupon.name, event.transaction.in_transaction())


@coupons.on_coupon_deleted
def deleted(event: CouponDeleted) -> None:
    gone: str = event.coupon_id
    print(gone)


@on("*")
def every(event: CouponEvent) -> None:
    if isinstance(event, LoyaltyCouponCreated):
        print(event.entity.couponReference.couponId)
"""
MISSPELT = """
from eventstore.handlers import CouponApplied, CouponCreated, coupons


def wixMarketing_onCouponCreated(event: CouponCreated) -> None:
    print(event.entity.startTme)
    print(event.data)
    event.entity.code = "changed"


def used(event: CouponApplied) -> None: ...


coupons.on_coupon_created(used)
"""


def test_mypy_accepts_a_right_events_file_and_rejects_a_misspelt_one(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(MISSPELT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(tmp_path)]
    command += ["--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent", "--no-error-summary"]
    ended = run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    lines = ended.stdout.splitlines()
    assert [line for line in lines if "right.py" in line] == [], ended.stdout + ended.stderr
    wrong = [line.partition("wrong.py:")[2] for line in lines if "error:" in line]
    assert [line.partition(":")[0] for line in wrong] == ["6", "7", "8", "14"], ended.stdout + ended.stderr
    assert 'has no attribute "startTme"' in wrong[0]
    assert 'has no attribute "data"' in wrong[1]
    assert "read-only" in wrong[2]
