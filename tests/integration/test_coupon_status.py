"""What a coupon is good for: one rule in SQL, the same on every engine that runs it, beside a slow one written down apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.log.types import to_micros
from eventstore.projections.views import CouponStatus, status_sql
from eventstore.store import EventStore
from tests.rows import Stranger
from tests.slow_model import status

AT = datetime(2026, 9, 15, 12, tzinfo=UTC)
TIMES = (None, AT - timedelta(microseconds=1), AT, AT + timedelta(microseconds=1))
COLUMNS: dict[str, tuple[Any, ...]] = {
    "deleted": (False, True),
    "snapshot_event_id": (None, "e1"),
    "active": (None, False, True),
    "expired": (None, False, True),
    "expiration_time": TIMES,
    "start_time": TIMES,
    "usage_limit": (None, 0, 2),
    "reported_usages": (None, 1, 2),
    "times_used": (None, 1, 2),
}
CASES = [dict(zip(COLUMNS, values, strict=True)) for values in product(*COLUMNS.values())]
EXPECTED = [status(case, case["times_used"], AT) for case in CASES]


def stored(value: Any) -> Any:
    return to_micros(value) if isinstance(value, datetime) else value


def test_every_status_occurs_among_the_cases() -> None:
    assert set(EXPECTED) == {str(each) for each in CouponStatus}


def test_the_databases_say_of_every_case_what_the_slow_rule_says(store_url: str) -> None:
    types = {"deleted": "BOOLEAN", "active": "BOOLEAN", "expired": "BOOLEAN", "snapshot_event_id": "TEXT"}
    columns = ", ".join(f"{name} {types.get(name, 'BIGINT')}" for name in COLUMNS)
    marks = f"({', '.join('?' for _ in range(len(COLUMNS) + 1))})"
    with Stranger(store_url) as stranger:
        stranger.execute(f"CREATE TABLE cases (number BIGINT, {columns})")
        for start in range(0, len(CASES), 500):
            some = list(enumerate(CASES))[start : start + 500]
            values = [value for number, case in some for value in (number, *map(stored, case.values()))]
            stranger.execute(f"INSERT INTO cases VALUES {', '.join([marks] * len(some))}", *values)
        sql = status_sql().replace(":at", str(to_micros(AT)))
        found = [said for (said,) in stranger.rows(f"SELECT {sql} FROM cases ORDER BY number")]
        stranger.execute("DROP TABLE cases")
    assert found == EXPECTED


def test_duckdb_says_of_every_case_what_the_slow_rule_says() -> None:
    table = pa.table({name: [case[name] for case in CASES] for name in COLUMNS})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cases", table.append_column("number", pa.array(range(len(CASES)))))
        sql = status_sql().replace(":at", f"make_timestamptz({to_micros(AT)})")
        found = [said for (said,) in connection.execute(f"SELECT {sql} FROM cases ORDER BY number").fetchall()]
    assert found == EXPECTED


# As readers are shown it

NOW = datetime.now(UTC)
YEAR = timedelta(days=365)


def made(coupon_id: str, **facts: Any) -> Event:
    coupon = Coupon(**{"discount": Discount(type=DiscountType.FREE_SHIPPING), "active": True} | facts)
    return event(coupon_id, "coupon.created", NOW - 2 * YEAR, coupon=coupon)


def event(coupon_id: str, type_: str, time: datetime, **more: Any) -> Event:
    return Event(
        event_id=f"{type_} {coupon_id} {time:%Y} {more.get('order_id')}",
        type=type_,
        site_id="shop",
        entity_id=coupon_id,
        coupon_id=coupon_id,
        event_time=time,
        source=Source.REST,
        **more,
    )


SHOP = {
    "a-scheduled": (CouponStatus.SCHEDULED, [made("a-scheduled", start_time=NOW + YEAR)]),
    "b-active": (CouponStatus.ACTIVE, [made("b-active", start_time=NOW - YEAR, expiration_time=NOW + YEAR)]),
    "c-expired": (CouponStatus.EXPIRED, [made("c-expired", expiration_time=NOW - YEAR)]),
    "d-inactive": (CouponStatus.INACTIVE, [made("d-inactive", active=False, expiration_time=NOW - YEAR)]),
    "e-used-up": (
        CouponStatus.USED_UP,
        [
            made("e-used-up", usage_limit=2),
            *[event("e-used-up", "coupon.applied", NOW - YEAR, order_id=order) for order in ("o1", "o2")],
        ],
    ),
    "f-deleted": (
        CouponStatus.DELETED,
        [made("f-deleted", active=False), event("f-deleted", "coupon.deleted", NOW - YEAR)],
    ),
    "g-used-alone": (
        CouponStatus.UNKNOWN,
        [event("g-used-alone", "coupon.applied", NOW - YEAR, order_id="o1")],
    ),
}


@pytest.fixture
def shop(store: EventStore) -> EventStore:
    list(store.append_many(one for _, told in SHOP.values() for one in told))
    store.project()
    return store


def test_every_coupon_is_shown_with_its_status_and_can_be_asked_for_by_it(shop: EventStore) -> None:
    assert {each.coupon_id: each.status for each in shop.coupons()} == {key: said for key, (said, _) in SHOP.items()}
    for said in CouponStatus:
        wanted = [key for key, (status_, _) in SHOP.items() if status_ is said]
        assert [each.coupon_id for each in shop.coupons(status=said)] == wanted
        assert [each.coupon_id for each in shop.coupons(status=said, as_of=NOW)] == wanted


def test_a_status_changes_by_the_clock_alone(shop: EventStore) -> None:
    def at(coupon_id: str, time: datetime) -> str:
        return shop.coupon(coupon_id, as_of=time).status

    assert at("a-scheduled", NOW + YEAR - timedelta(seconds=1)) == "scheduled"
    assert at("a-scheduled", NOW + YEAR) == "active"
    assert at("b-active", NOW + YEAR - timedelta(microseconds=1)) == "active"
    assert at("b-active", NOW + YEAR) == "expired"
    assert [at("c-expired", NOW - YEAR - step) for step in (timedelta(microseconds=1), timedelta(0))] == [
        "active",
        "expired",
    ]
    assert at("e-used-up", NOW - YEAR - timedelta(microseconds=1)) == "active"
    assert at("f-deleted", NOW - YEAR - timedelta(microseconds=1)) == "inactive"


def test_pages_of_one_status_give_each_coupon_once(store: EventStore) -> None:
    several = [made(f"c-{number:02}", active=number % 3 == 0) for number in range(20)]
    list(store.append_many(several))
    store.project()
    for moment in ({}, {"as_of": NOW}, {"at_position": 20}):
        found, after = [], None
        while True:
            page = store.coupons_page(status=CouponStatus.ACTIVE, after=after, limit=3, **moment)
            found += [each.coupon_id for each in page.coupons]
            assert len(page.coupons) <= 3
            if page.next is None:
                break
            after = page.next
        assert found == [f"c-{number:02}" for number in range(0, 20, 3)]
