"""Wix documents one coupon as deleted on 2021-01-17 and used on 2021-07-17. An audit store must show both."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from eventstore.demo import Delivery, examples
from eventstore.store import EventStore

COUPON = "03a35393-7835-44b0-af53-6019a484b48b"
TRAP = [delivery for delivery in examples() if delivery.body.get("metadata", {}).get("entityId") == COUPON]
DELETED_AT = datetime(2021, 1, 17, 12, 1, 46, 597758, tzinfo=UTC)
USED_AT = datetime(2021, 7, 17, 11, 56, 3, 852350, tzinfo=UTC)


def test_the_documentation_tells_three_events_of_it() -> None:
    assert [delivery.handler for delivery in TRAP] == [
        "wixMarketing_onCouponCreated",
        "wixMarketing_onCouponApplied",
        "wixMarketing_onCouponDeleted",
    ]


@pytest.mark.parametrize("told", list(itertools.permutations(TRAP)), ids=itertools.count())
def test_a_coupon_used_after_its_deletion_is_deleted_counted_and_flagged_in_every_order(
    store: EventStore, told: tuple[Delivery, ...]
) -> None:
    for delivery in told:
        store.ingest([(1, delivery.line())])
        store.project()
    check(store)


def test_a_rebuild_shows_the_same(store: EventStore) -> None:
    for delivery in TRAP:
        store.ingest([(1, delivery.line())])
    store.rebuild_projections()
    check(store)


def check(store: EventStore) -> None:
    coupon = store.coupon(COUPON)
    assert coupon.deleted
    assert coupon.deleted_at == DELETED_AT
    assert coupon.restored_at is None
    assert coupon.last_event_time == USED_AT
    assert coupon.code == "SummerSale"
    assert coupon.snapshot_time == USED_AT
    assert coupon.usage.times_used == 1
    assert coupon.usage.first_used_at == coupon.usage.last_used_at == USED_AT
    assert coupon.usage.uses_after_deletion == 1
    assert any("after its deletion" in finding for finding in coupon.findings)
    assert [record.event.type for record in sorted(store.history(COUPON), key=lambda r: r.event.event_time)] == [
        "coupon.created",
        "coupon.deleted",
        "coupon.applied",
    ]
