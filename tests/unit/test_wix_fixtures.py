"""Each documented delivery becomes the event that INDEX.json says, whatever route it came by."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from eventstore.event import Event
from eventstore.wix import decode, detect_route, read, read_envelope, read_rest, site_of

DATA = Path(__file__).parent.parent / "data" / "wix"
INDEX = json.loads((DATA / "INDEX.json").read_text(encoding="utf-8"))
SITE = INDEX["site_id"]
DELIVERIES: list[dict[str, Any]] = INDEX["deliveries"]
OBSERVED_AT = datetime(2025, 6, 1, 12, tzinfo=UTC)


def body_of(file: str) -> dict[str, Any]:
    return decode((DATA / file).read_bytes())


def events_of(delivery: dict[str, Any], *, declared: bool = True) -> list[Event]:
    body = body_of(delivery["file"])
    if delivery["route"] == "jwt":
        return [read_envelope(body)]
    route = delivery["route"] if declared else None
    return read(body, route=route, handler=delivery.get("handler"), site_id=SITE, observed_at=OBSERVED_AT)


def fact(event: Event, name: str) -> Any:
    """The canonical value of an expected fact."""
    coupon, loyalty, actor = event.coupon, event.loyalty, event.actor
    if name in ("status", "revision"):
        assert loyalty is not None
        return getattr(loyalty, name)
    if name == "actor_type":
        assert actor is not None
        return actor.type
    if hasattr(event, name):
        return getattr(event, name)
    assert coupon is not None
    if name.startswith("scope_"):
        assert coupon.scope is not None
        return getattr(coupon.scope, name.removeprefix("scope_"))
    if name.startswith("discount_") or name in ("buy_x", "get_y"):
        return getattr(coupon.discount, name.removeprefix("discount_"))
    return getattr(coupon, name)


def expected(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith(("_time", "_at")):
        return datetime.fromisoformat(value)
    if name in ("discount_value", "minimum_subtotal"):
        return Decimal(str(value))
    return tuple(value) if name == "personal" else value


FACTS = [
    pytest.param(delivery, name, value, id=f"{delivery['file'].removesuffix('.json')}-{name}")
    for delivery in DELIVERIES
    for name, value in delivery["expect"].items()
    if name not in ("note", "outcome", "same_event_as", "events", "coupons")
]


@pytest.mark.parametrize(("delivery", "name", "value"), FACTS)
def test_a_documented_delivery_has_the_expected_fact(delivery: dict[str, Any], name: str, value: Any) -> None:
    for event in events_of(delivery):
        assert fact(event, name) == expected(name, value)


@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda delivery: delivery["file"])
def test_a_documented_delivery_is_read_the_same_when_its_route_is_not_declared(delivery: dict[str, Any]) -> None:
    assert events_of(delivery, declared=False) == events_of(delivery)
    route = detect_route(body_of(delivery["file"]))
    assert route == ("rest" if delivery["route"] == "jwt" else delivery["route"])


@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda delivery: delivery["file"])
def test_a_documented_delivery_survives_storage(delivery: dict[str, Any]) -> None:
    for event in events_of(delivery):
        assert Event.from_payload(event.encode()[0]) == event


@pytest.mark.parametrize(
    "delivery", [d for d in DELIVERIES if "same_event_as" in d["expect"]], ids=lambda delivery: delivery["file"]
)
def test_one_fact_told_by_two_routes_is_one_event(delivery: dict[str, Any]) -> None:
    [event] = events_of(delivery)
    twin = read_rest(body_of(delivery["expect"]["same_event_as"]), site_id=SITE)
    assert event.content_json() == twin.content_json()
    assert event.event_id == twin.event_id
    assert event.site_id == site_of(body_of(delivery["file"])) == delivery["expect"]["site_id"]


def test_a_snapshot_gives_one_observed_event_for_each_coupon() -> None:
    [delivery] = [d for d in DELIVERIES if d["route"] == "snapshot"]
    events = events_of(delivery)
    assert len(events) == delivery["expect"]["events"]
    for event, facts in zip(events, delivery["expect"]["coupons"], strict=True):
        assert {name: fact(event, name) for name in facts} == {name: expected(name, facts[name]) for name in facts}
        assert event.event_time == OBSERVED_AT
        assert event.event_id.startswith("sha256:")
        assert event.coupon_id == event.entity_id


def test_an_id_used_again_for_another_event_is_told_apart_by_its_content() -> None:
    deleted = read_rest(body_of("rest_coupon_deleted_same_id_conflict.json"), site_id=SITE)
    created = read_rest(body_of("rest_coupon_created.json"), site_id=SITE)
    assert deleted.type == "coupon.deleted"
    assert deleted.event_id == created.event_id
    assert deleted.content_json() != created.content_json()
    assert deleted.encode()[1] != created.encode()[1]


def test_the_difference_between_the_coupons_id_and_the_events_entity_is_reported() -> None:
    event = read_rest(body_of("rest_coupon_created.json"), site_id=SITE)
    assert event.findings == ("coupon_id_differs_from_entity_id",)
