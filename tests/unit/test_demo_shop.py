"""The demonstration month: the same for one seed, believable, and with every awkward case an audit must notice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from eventstore.demo import Delivery, documented, examples, month
from eventstore.demo.shop import MINIMUM_EVENTS
from eventstore.demo.spelling import js_date, js_date_local

FIXTURES = Path(__file__).parent.parent / "data" / "wix"
START = datetime(2026, 9, 1, tzinfo=UTC)
END = START + timedelta(days=30)
HANDLERS = {
    "wixMarketing_onCouponCreated": "coupon.created",
    "wixMarketing_onCouponUpdated": "coupon.updated",
    "wixMarketing_onCouponDeleted": "coupon.deleted",
    "wixMarketing_onCouponApplied": "coupon.applied",
    "wixLoyalty_onCouponCreated": "loyalty.created",
    "wixLoyalty_onCouponDeleted": "loyalty.deleted",
}
FAMILIES = {"wix.ecommerce.coupons.v2.coupon": "coupon", "wix.loyalty.v1.coupon": "loyalty"}


def plain(value: Any) -> Any:
    """A scalar out of its wrapper."""
    return value["value"] if isinstance(value, dict) and set(value) == {"value"} else value


@dataclass(frozen=True)
class Seen:
    """A delivery as these tests read it, whatever its route spelt."""

    delivery: Delivery

    @property
    def told(self) -> dict[str, Any]:
        body = self.delivery.body
        told: dict[str, Any] = body.get("metadata", body)
        return told

    @property
    def type(self) -> str:
        if self.delivery.route == "snapshot":
            return "snapshot"
        if self.delivery.handler is not None:
            return HANDLERS[self.delivery.handler]
        return f"{FAMILIES.get(self.told['entityFqdn'], 'other')}.{self.told['slug']}"

    @property
    def time(self) -> datetime:
        moment = datetime.fromisoformat(self.told["eventTime"])
        assert moment.tzinfo is not None
        return moment

    @property
    def late(self) -> timedelta:
        return self.delivery.delivered_at - self.time

    @property
    def use(self) -> dict[str, Any]:
        body = self.delivery.body
        action = body.get("actionEvent", {})
        found = (
            orjson.loads(action["bodyAsJson"]) if "bodyAsJson" in action else action.get("body", body.get("data", {}))
        )
        return dict(found)

    @property
    def coupon(self) -> dict[str, Any]:
        """The fields of the coupon, flat and unwrapped; empty where the delivery carries none."""
        body = self.delivery.body
        inner = {**body.get("createdEvent", {}), **body.get("updatedEvent", {})}
        for key in ("entity", "currentEntity"):
            if f"{key}AsJson" in inner:
                inner[key] = orjson.loads(inner[f"{key}AsJson"])
        entity = self.use.get("coupon") or inner.get("entity") or inner.get("currentEntity") or body.get("entity") or {}
        entity = {**entity, **entity.get("specification", {})}
        return {key: plain(value) for key, value in entity.items()}

    @property
    def coupon_id(self) -> str:
        return str(self.coupon.get("id") or self.coupon.get("_id") or self.told["entityId"])

    @property
    def order(self) -> str | None:
        return self.use.get("wixAppOrderId")


MONTH = [Seen(delivery) for delivery in month()]
TOLD = [seen for seen in MONTH if seen.type != "snapshot"]
APPLIED = [seen for seen in TOLD if seen.type == "coupon.applied"]
CREATED = [seen for seen in TOLD if seen.type == "coupon.created"]
DELETED = [seen for seen in TOLD if seen.type == "coupon.deleted"]


def first_tellings() -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for seen in TOLD:
        found.setdefault(str(seen.delivery.event_id), seen)
    return found


def coupon_of(code: str) -> str:
    [found] = {seen.coupon_id for seen in CREATED if seen.coupon["code"] == code}
    return found


def uses_of(coupon_id: str) -> list[Seen]:
    return sorted({s.delivery.event_id: s for s in APPLIED if s.coupon_id == coupon_id}.values(), key=lambda s: s.time)


def digest(deliveries: Iterator[Delivery]) -> str:
    return hashlib.sha256(b"".join(delivery.line() for delivery in deliveries)).hexdigest()


# The same seed, the same bytes


def test_a_seed_gives_the_same_month_in_any_process() -> None:
    program = (
        "import hashlib\n"
        "from eventstore.demo import documented, month\n"
        "for made in (month(), documented(5000)):\n"
        "    print(hashlib.sha256(b''.join(d.line() for d in made)).hexdigest())\n"
    )
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        out = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
        )
        assert out.stdout.split() == [digest(month()), digest(documented(5000))]


def test_another_seed_gives_another_month() -> None:
    assert digest(month(8)) != digest(month(7))


@pytest.mark.parametrize("events", [MINIMUM_EVENTS, 1000, 3000])
@pytest.mark.parametrize("seed", [1, 7])
def test_events_counts_the_facts_told(seed: int, events: int) -> None:
    deliveries = list(month(seed, events=events))
    facts = {(d.event_id, orjson.dumps(d.body)) for d in deliveries}
    pairs = Counter((d.event_id, d.route) for d in {d.line(): d for d in deliveries}.values())
    twice_told = Counter(event_id for event_id, _ in pairs)
    both_ways = sum(1 for count in twice_told.values() if count > 1)
    assert len(facts) - both_ways == events


@pytest.mark.parametrize(
    "wrong",
    [{"events": MINIMUM_EVENTS - 1}, {"days": 6}, {"start": datetime(2026, 9, 1)}],  # noqa: DTZ001 - the point
)
def test_a_month_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|time zone"):
        next(month(**wrong))


def test_a_quarter_of_another_year_can_be_made_too() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [Seen(d).time for d in month(3, events=5000, days=90, start=start) if d.route != "snapshot"]
    assert start - timedelta(days=31) < min(times) < start
    assert start + timedelta(days=88) < max(times) <= start + timedelta(days=90)


# Deliveries as a site makes them


def test_a_line_is_one_json_object_with_its_route() -> None:
    for seen in MONTH[:300]:
        line = seen.delivery.line()
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        told = orjson.loads(line)
        assert told["route"] == seen.delivery.route
        assert told.get("handler") == seen.delivery.handler
        assert ("handler" in told) == (seen.delivery.route == "velo")
        assert told["body"] == seen.delivery.body


def test_routes_and_handlers_are_those_of_wix() -> None:
    routes = Counter(seen.delivery.route for seen in MONTH)
    assert routes["velo"] > len(MONTH) / 2 > routes["rest"] > routes["sdk"] > 100
    assert routes["snapshot"] == 1
    assert {s.delivery.handler for s in MONTH if s.delivery.route == "velo"} == set(HANDLERS)


def test_deliveries_come_in_the_order_in_which_they_reach_us() -> None:
    moments = [seen.delivery.delivered_at for seen in MONTH]
    assert moments == sorted(moments)
    assert all(moment.tzinfo is not None for moment in moments)
    assert all(seen.late > timedelta(0) for seen in TOLD)


def test_one_id_tells_one_thing_but_for_one_conflict() -> None:
    bodies: dict[tuple[str | None, str], set[bytes]] = defaultdict(set)
    routes: dict[str | None, set[str]] = defaultdict(set)
    for seen in TOLD:
        bodies[seen.delivery.event_id, seen.delivery.route].add(orjson.dumps(seen.delivery.body))
        routes[seen.delivery.event_id].add(seen.delivery.route)
    [conflict] = [key for key, found in bodies.items() if len(found) > 1]
    pair = [seen for seen in TOLD if seen.delivery.event_id == conflict[0]]
    assert [seen.type for seen in pair] == ["coupon.created", "coupon.deleted"]
    for event_id, found in routes.items():
        if len(found) > 1:
            types = {seen.type for seen in TOLD if seen.delivery.event_id == event_id}
            assert found == {"rest", "sdk"}
            assert types in ({"loyalty.created"}, {"loyalty.deleted"})


def test_about_six_in_a_hundred_come_twice_and_eight_come_late() -> None:
    firsts = first_tellings()
    assert 0.04 < len(TOLD) / len(firsts) - 1 < 0.08
    late = [seen.late for seen in firsts.values() if seen.late > timedelta(minutes=1)]
    assert 0.06 < len(late) / len(firsts) < 0.10
    assert max(late) < timedelta(days=2)
    assert sum(before.time > after.time for before, after in pairwise(TOLD)) > 100


def test_sequences_grow_with_each_coupon_s_own_time() -> None:
    found: dict[str, dict[datetime, int]] = defaultdict(dict)
    for seen in TOLD:
        if seen.told.get("entityEventSequence") is not None and seen.coupon.get("code") != "PRELAUNCH":
            found[seen.told["entityId"]][seen.time] = int(seen.told["entityEventSequence"])
    assert len(found) > 10
    for sequences in found.values():
        ordered = [sequences[time] for time in sorted(sequences)]
        assert all(before < after for before, after in pairwise(ordered))
    gaps = [b - a for s in found.values() for a, b in pairwise(sorted(s.values()))]
    assert max(gaps) > 1


def test_every_spelling_of_a_time_appears() -> None:
    starts = {str(seen.coupon["startTime"]) for seen in CREATED}
    assert any("GMT+0000 (Coordinated Universal Time)" in text for text in starts)
    assert any("GMT+0200 (Central European Summer Time)" in text for text in starts)
    assert any(text.endswith("Z") for text in starts)
    assert any(text.isdigit() for text in starts)
    moment = datetime(2021, 6, 30, 21, tzinfo=UTC)
    assert js_date(moment) == "Wed Jun 30 2021 21:00:00 GMT+0000 (Coordinated Universal Time)"
    assert js_date_local(moment) == "Wed Jun 30 2021 23:00:00 GMT+0200 (Central European Summer Time)"


def test_rest_wraps_scalars_and_some_bodies_are_json_in_json() -> None:
    rest = [seen.delivery.body for seen in TOLD if seen.delivery.route == "rest"]
    assert any("entityAsJson" in body.get("createdEvent", {}) for body in rest)
    assert any("bodyAsJson" in body.get("actionEvent", {}) for body in rest)
    wrapped = [body["actionEvent"]["body"] for body in rest if "body" in body.get("actionEvent", {})]
    assert all(set(use["coupon"]["specification"]["active"]) == {"value"} for use in wrapped)


def test_some_uses_through_the_sdk_carry_no_body() -> None:
    assert any("data" not in seen.delivery.body for seen in APPLIED if seen.delivery.route == "sdk")


# A believable shop


def test_about_forty_campaigns_of_all_five_kinds_in_four_namespaces() -> None:
    campaigns = {seen.coupon_id: seen.coupon for seen in CREATED if not seen.coupon["code"].startswith("LOYAL-")}
    assert 35 <= len(campaigns) <= 50
    kinds = {coupon["type"] for coupon in campaigns.values()}
    assert kinds == {"PercentOff", "MoneyOff", "FreeShipping", "FixedPriceAmount", "BuyXGetY"}
    scopes = [coupon["scope"] for coupon in campaigns.values() if coupon.get("scope")]
    assert {scope["namespace"] for scope in scopes} == {"stores", "bookings", "events", "pricingPlans"}
    assert {"group" in scope for scope in scopes} == {True, False}
    assert all(len(coupon["code"]) <= 20 for coupon in campaigns.values())


def test_campaigns_keep_wix_s_own_rules() -> None:
    for coupon in (seen.coupon for seen in CREATED):
        assert not (coupon.get("scope") and coupon.get("minimumSubtotal"))
        assert not (coupon.get("scope") and coupon["type"] == "FreeShipping")
        if (coupon.get("scope") or {}).get("namespace") == "bookings":
            assert coupon["limitedToOneItem"] is True


def test_a_few_coupons_dominate_and_some_are_never_used() -> None:
    used = Counter(seen.coupon_id for seen in APPLIED)
    assert sum(count for _, count in used.most_common(4)) > 0.45 * used.total()
    assert len({seen.coupon_id for seen in CREATED} - set(used)) >= 5


def test_uses_follow_the_day_and_the_week() -> None:
    hours = Counter(seen.time.hour for seen in APPLIED)
    assert hours[19] > 4 * hours[3]
    days = Counter(seen.time.weekday() for seen in APPLIED)
    assert days[5] + days[6] > days[0] + days[1]


def test_updates_change_value_end_and_state() -> None:
    updates = [seen for seen in TOLD if seen.type == "coupon.updated"]
    assert len({seen.delivery.event_id for seen in updates}) >= 20
    fields: set[str] = set()
    for seen in updates:
        body = seen.delivery.body
        fields |= set(body.get("modifiedFields", {})) | set(body.get("updatedEvent", {}).get("modifiedFields", {}))
    assert {"specification.active", "specification.moneyOffAmount", "specification.expirationTime"} <= fields


def test_reported_usages_grow_and_agree_with_the_orders_but_for_the_one_that_drifts() -> None:
    drifting = []
    for coupon_id in {seen.coupon_id for seen in CREATED}:
        uses = uses_of(coupon_id)
        counters = [use.coupon["numberOfUsages"] for use in uses if use.coupon]
        assert counters == sorted(counters)
        orders = {use.order or use.delivery.event_id for use in uses}
        if counters and abs(counters[-1] - len(orders)) > 1:
            drifting.append((coupon_id, counters[-1] - len(orders)))
    [(drifter, missing)] = drifting
    assert drifter == coupon_of("INSTA10")
    assert missing > 5


# What an audit must notice


def test_orders_paid_by_hand_are_reported_twice_under_two_ids() -> None:
    ids: dict[str, set[str | None]] = defaultdict(set)
    for seen in APPLIED:
        if seen.order is not None:
            ids[seen.order].add(seen.delivery.event_id)
    twice = [found for found in ids.values() if len(found) == 2]
    assert 30 < len(twice) < 90
    assert max(map(len, ids.values())) == 2


def test_uses_after_deletion() -> None:
    after = {
        (seen.coupon_id, seen.delivery.event_id)
        for seen in APPLIED
        for gone in DELETED
        if gone.coupon_id == seen.coupon_id and seen.time > gone.time and seen.coupon["code"] != "SURVEY8"
    }
    assert len(after) >= 5
    assert len({coupon for coupon, _ in after}) >= 2


def test_uses_after_expiry() -> None:
    expired = [use for use in uses_of(coupon_of("BACK2SCHOOL")) if use.coupon["expired"]]
    assert len(expired) >= 4
    assert all(int(use.coupon["expirationTime"]) < use.time.timestamp() * 1000 for use in expired)


def test_uses_while_switched_off() -> None:
    assert any(use.coupon["active"] is False for use in uses_of(coupon_of("SALE10")))


def test_a_coupon_over_its_limit() -> None:
    uses = uses_of(coupon_of("GALA10"))
    assert uses[-1].coupon["numberOfUsages"] > uses[-1].coupon["usageLimit"] == 25


def test_a_code_used_again_after_its_coupon_was_deleted() -> None:
    first, second = coupon_of("FLASH24"), coupon_of("Flash24")
    [gone] = {seen.time for seen in DELETED if seen.coupon_id == first}
    [made] = {seen.time for seen in CREATED if seen.coupon_id == second}
    assert first != second
    assert made > gone


def test_a_deleted_coupon_is_restored() -> None:
    restored = [seen for seen in CREATED if "restoreInfo" in seen.delivery.body.get("createdEvent", {})]
    assert {seen.coupon["code"] for seen in restored} == {"SURVEY8"}
    [gone] = {seen.time for seen in DELETED if seen.coupon_id == restored[0].coupon_id}
    assert restored[0].time > gone
    assert any(use.time > restored[0].time for use in uses_of(restored[0].coupon_id))


def test_loyalty_rewards_are_linked_used_and_taken_back() -> None:
    rewards = [seen for seen in TOLD if seen.type == "loyalty.created"]
    linked = {seen.coupon["couponReference"]["couponId"] for seen in rewards}
    assert linked <= {seen.coupon_id for seen in CREATED}
    assert len(linked) >= 15
    assert len(linked & {seen.coupon_id for seen in APPLIED}) >= 5
    assert {seen.delivery.route for seen in rewards} == {"velo", "rest", "sdk"}
    deleted = [seen for seen in TOLD if seen.type == "loyalty.deleted"]
    assert len({seen.told["entityId"] for seen in deleted}) >= 3
    assert len({s.told["entityId"] for s in deleted if s.told["triggeredByAnonymizeRequest"]}) == 1


def test_one_event_of_a_family_nobody_knows() -> None:
    assert len({seen.delivery.event_id for seen in TOLD if seen.type.startswith("other.")}) == 1


def test_a_snapshot_tells_of_two_older_coupons_in_use() -> None:
    [snapshot] = [seen.delivery for seen in MONTH if seen.type == "snapshot"]
    older = {coupon["id"]: coupon for coupon in snapshot.body["coupons"]}
    assert len(older) == 2
    assert not set(older) & {seen.coupon_id for seen in CREATED}
    for coupon_id, coupon in older.items():
        assert uses_of(coupon_id)[0].coupon["numberOfUsages"] == coupon["numberOfUsages"] + 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_conflict_is_there_for_every_seed_and_size(seed: int) -> None:
    bodies: dict[tuple[str | None, str], set[bytes]] = defaultdict(set)
    for delivery in month(seed, events=600):
        bodies[delivery.event_id, delivery.route].add(orjson.dumps(delivery.body))
    assert sum(len(found) > 1 for found in bodies.values()) == 1


# The stream for benchmarks


def test_the_stream_has_the_documented_mix_and_size() -> None:
    stream = [Seen(delivery) for delivery in documented(20_000)]
    mix = Counter(seen.told["slug"] for seen in stream)
    assert len(stream) == 20_000
    for slug, share in (("applied", 0.85), ("updated", 0.10), ("created", 0.04), ("deleted", 0.01)):
        assert mix[slug] / 20_000 == pytest.approx(share, rel=0.15)
    applied = [seen for seen in stream if seen.told["slug"] == "applied"]
    sizes = [len(orjson.dumps(seen.delivery.body)) for seen in applied]
    assert 1050 < sum(sizes) / len(sizes) < 1200
    orders = Counter(seen.order for seen in applied)
    assert 1 - len(orders) / len(applied) == pytest.approx(0.03, rel=0.2)
    assert len({seen.delivery.event_id for seen in stream}) == len(stream)
    assert all(a.time <= b.time for a, b in pairwise(stream))


def test_the_stream_s_sequences_grow_on_about_half_the_coupons() -> None:
    found: dict[str, list[int]] = defaultdict(list)
    without = set()
    for delivery in documented(20_000, coupons=500):
        sequence = delivery.body.get("entityEventSequence")
        if sequence is None:
            without.add(delivery.body["entityId"])
        else:
            found[delivery.body["entityId"]].append(int(sequence))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in found.values())
    assert len(without) == pytest.approx(len(found), rel=0.2)


def test_the_stream_need_not_end_and_begins_the_same_whatever_its_length() -> None:
    assert digest(islice(documented(10**12), 4096)) == digest(documented(4096))


# Wix's documented deliveries


def test_the_examples_are_the_fixtures() -> None:
    index = orjson.loads((FIXTURES / "INDEX.json").read_bytes())["deliveries"]
    expected = [entry for entry in index if entry["route"] != "jwt"]
    found = examples()
    assert [(d.route, d.handler) for d in found] == [(entry["route"], entry.get("handler")) for entry in expected]
    assert [d.body for d in found] == [orjson.loads((FIXTURES / entry["file"]).read_bytes()) for entry in expected]
    assert found[0].delivered_at == datetime(2021, 1, 17, 11, 40, 56, 795047, tzinfo=UTC)
    assert all(d.delivered_at.tzinfo is not None for d in found)
