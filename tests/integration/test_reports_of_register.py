"""The report of the register as of a time, in both meanings: by hand on a small history, and as the store says it of months."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import analytics
from eventstore.demo import month
from eventstore.errors import ReportError
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.projections.views import CouponState, CouponStatus
from eventstore.store import EventStore
from tests.histories import every_close_call
from tests.stores import NewUrl

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
PIECES = 6
"""Deliveries of a month are recorded at so many times."""
EVERY = 13
"""Of so many sites in which events contend one is taken: the store computes each coupon of the past by itself."""
ALL = 10_000
"""More coupons than any store here has."""
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Before everything here."""


def day(number: int, hour: int = 0) -> datetime:
    """A time of September 2026, UTC."""
    return datetime(2026, 9, number, hour, tzinfo=UTC)


def event(number: int, type_: str, time: datetime, about: str, snapshot: Coupon | None = None, **facts: Any) -> Event:
    told: dict[str, Any] = {"site_id": "shop", "entity_id": about, "coupon_id": about, "source": Source.REST} | facts
    return Event(event_id=f"e{number}", type=type_, event_time=time, coupon=snapshot, **told)


def ten(code: str, **facts: Any) -> Coupon:
    """A coupon for ten per cent."""
    told: dict[str, Any] = {"name": code.title(), "active": True, "start_time": day(1), "usage_limit": 2}
    return Coupon(code=code, discount=Discount(type=DiscountType.PERCENT_OFF, value=Decimal(10)), **(told | facts))


ARRIVAL = [
    event(1, "coupon.created", day(1), "a", ten("AUTUMN", start_time=day(3), expiration_time=day(20))),
    event(2, "coupon.applied", day(4), "a", order_id="o1"),
    event(3, "coupon.applied", day(5), "a", order_id="o1"),  # the same order, when it was paid
    event(4, "coupon.applied", day(6), "a", order_id="o2"),
    event(5, "coupon.updated", day(7), "a", ten("AUTUMN", start_time=day(3), expiration_time=day(20), usage_limit=3)),
    event(6, "coupon.deleted", day(8), "b"),
    event(7, "coupon.updated", day(2), "b", ten("BOOTS", active=False)),  # late: it was so before it was deleted
    event(8, "coupon.applied", day(3, 12), "a", order_id="o1"),  # late, and the earliest report of that order
]
"""Two coupons' events in the order recorded, each at a time of its own."""
REGISTER = ("coupon_id", "code", "status", "usage_limit", "times_used", "deleted", "last_event_time")
TRUE: list[tuple[datetime | date | str, list[tuple[Any, ...]]]] = [
    (day(1) - timedelta(microseconds=1), []),
    (day(1), [("a", "AUTUMN", "scheduled", 2, 0, False, day(1))]),
    (
        date(2026, 9, 2),
        [("a", "AUTUMN", "scheduled", 2, 0, False, day(1)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))],
    ),
    (day(3), [("a", "AUTUMN", "active", 2, 0, False, day(1)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))]),
    # A date is over: what happened at noon has happened.
    (
        "2026-09-03",
        [("a", "AUTUMN", "active", 2, 1, False, day(3, 12)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))],
    ),
    (day(5), [("a", "AUTUMN", "active", 2, 1, False, day(5)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))]),
    (day(6), [("a", "AUTUMN", "used_up", 2, 2, False, day(6)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))]),
    (day(7), [("a", "AUTUMN", "active", 3, 2, False, day(7)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))]),
    (day(8), [("a", "AUTUMN", "active", 3, 2, False, day(7)), ("b", "BOOTS", "deleted", 2, 0, True, day(8))]),
    (day(20), [("a", "AUTUMN", "expired", 3, 2, False, day(7)), ("b", "BOOTS", "deleted", 2, 0, True, day(8))]),
]
"""What was true, by time."""
KNOWN: list[tuple[int, datetime, list[tuple[Any, ...]]]] = [
    (1, day(2), [("a", "AUTUMN", "scheduled", 2, 0, False, day(1))]),
    (3, day(9), [("a", "AUTUMN", "active", 2, 1, False, day(5))]),
    (4, day(5), [("a", "AUTUMN", "active", 2, 1, False, day(5))]),
    (4, day(9), [("a", "AUTUMN", "used_up", 2, 2, False, day(6))]),
    (6, day(9), [("a", "AUTUMN", "active", 3, 2, False, day(7)), ("b", None, "deleted", None, 0, True, day(8))]),
    # The earliest report of an order was not known yet; the later one of the next day had not happened.
    (7, day(3, 12), [("a", "AUTUMN", "active", 2, 0, False, day(1)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))]),
    (
        8,
        day(3, 12),
        [("a", "AUTUMN", "active", 2, 1, False, day(3, 12)), ("b", "BOOTS", "inactive", 2, 0, False, day(2))],
    ),
]
"""What was known at so many events, of what was true at a time."""


def register(connection: analytics.AnalyticsConnection, *wanted: str, **asked: Any) -> list[tuple[Any, ...]]:
    result = analytics.run_report(connection, "register", **asked)
    places = [[column.name for column in result.columns].index(each) for each in wanted]
    return [tuple(row[place] for place in places) for row in result.rows]


@pytest.fixture(scope="module")
def shop(new_url: NewUrl) -> Iterator[tuple[analytics.AnalyticsConnection, list[datetime]]]:
    """ARRIVAL, and when each of it was recorded."""
    with new_url() as url:
        with EventStore.open(url) as store:
            for each in ARRIVAL:
                store.append(each)
            recorded = [record.recorded_at for record in store.read()]
        assert len(set(recorded)) == len(ARRIVAL)
        with analytics.connect(url) as connection:
            yield connection, recorded


@pytest.mark.parametrize(
    ("moment", "expected"), TRUE, ids=lambda value: str(value) if not isinstance(value, list) else ""
)
def test_it_tells_what_was_true_at_a_time_whenever_it_was_recorded(
    shop: tuple[analytics.AnalyticsConnection, list[datetime]], moment: Any, expected: list[tuple[Any, ...]]
) -> None:
    assert register(shop[0], *REGISTER, as_of=moment) == expected


@pytest.mark.parametrize(("events", "moment", "expected"), KNOWN, ids=[f"{count}-{at:%d-%H}" for count, at, _ in KNOWN])
def test_it_tells_what_was_known_at_a_time_of_what_was_true_at_another(
    shop: tuple[analytics.AnalyticsConnection, list[datetime]],
    events: int,
    moment: datetime,
    expected: list[tuple[Any, ...]],
) -> None:
    connection, recorded = shop
    assert register(connection, *REGISTER, as_of=moment, known_at=recorded[events - 1]) == expected


def test_without_a_time_it_is_the_register_of_now_and_before_everything_it_is_empty(
    shop: tuple[analytics.AnalyticsConnection, list[datetime]],
) -> None:
    connection, recorded = shop
    assert register(connection, *REGISTER) == TRUE[-1][1]
    assert register(connection, *REGISTER, known_at=recorded[-1], as_of=day(30)) == TRUE[-1][1]
    assert register(connection, *REGISTER, known_at=recorded[0] - timedelta(microseconds=1)) == []
    assert register(connection, *REGISTER, as_of=NEVER) == []


def test_only_those_of_a_status_are_told_if_one_is_asked_for(
    shop: tuple[analytics.AnalyticsConnection, list[datetime]],
) -> None:
    connection, _ = shop
    assert register(connection, "coupon_id", status="deleted") == [("b",)]
    assert register(connection, "coupon_id", status="INACTIVE", as_of=day(3)) == [("b",)]
    assert register(connection, "coupon_id", status="used_up") == []
    assert register(connection, "coupon_id", site="elsewhere") == []
    with pytest.raises(ReportError, match="did you mean expired"):
        register(connection, status="expierd")


def test_it_offers_every_status_that_there_is() -> None:
    [status] = [each for each in analytics.report("register").parameters if each.name == "status"]
    assert set(status.choices) == {each.value for each in CouponStatus}


def test_of_a_store_without_events_it_is_empty_at_any_time(new_url: NewUrl) -> None:
    with new_url() as url, analytics.connect(url) as connection:
        for asked in ({}, {"as_of": day(1)}, {"known_at": day(1)}, {"as_of": day(1), "known_at": day(2)}):
            assert register(connection, "coupon_id", **asked) == []


# --- as the store says it -----------------------------------------------------------------------------------------------


def as_told(state: CouponState) -> tuple[Any, ...]:
    """A coupon of the store as a row of the report."""
    return (
        *(state.site_id, state.coupon_id, state.code, state.name, state.status.value),
        *(state.discount_type or "UNKNOWN", state.discount_value, state.scope_namespace),
        *(state.start_time, state.expiration_time, state.usage_limit, state.usage.times_used),
        *(state.usage.reported_usages, state.active, state.deleted, state.first_event_time, state.last_event_time),
    )


def assert_agree(
    store: EventStore, connection: analytics.AnalyticsConnection, **asked: Any
) -> Sequence[tuple[Any, ...]]:
    """That the report tells the coupons that the store does, row by row; these rows."""
    found = analytics.run_report(connection, "register", **asked).rows
    assert sorted(found, key=lambda row: row[:2]) == sorted(map(as_told, store.coupons(limit=ALL, **asked))), asked
    codes = [row[2] for row in found]
    named = [code for code in codes if code is not None]
    assert codes == sorted(named, key=str.encode) + [None] * (len(codes) - len(named))
    return found


@pytest.mark.parametrize("seed", [7, 11])
def test_it_agrees_with_the_store_on_a_month_in_both_meanings(new_url: NewUrl, seed: int) -> None:
    with new_url() as url, EventStore.open(url) as store:
        lines = [delivery.line() for delivery in month(seed, events=400)]
        for piece in pieces(lines):
            store.ingest(enumerate(piece, start=1))
        store.project()
        records = list(store.stream())
        recorded = sorted({record.recorded_at for record in records})
        happened = sorted(record.event.event_time for record in records)
        assert len(recorded) >= PIECES
        statuses = set()
        with analytics.connect(url) as connection:
            for time in happened[:: len(happened) // 10]:
                statuses |= {row[4] for row in assert_agree(store, connection, as_of=time)}
            for time in recorded[:: len(recorded) // PIECES]:
                assert_agree(store, connection, known_at=time)
                assert_agree(store, connection, known_at=time, as_of=happened[len(happened) // 2])
            assert assert_agree(store, connection)
        assert {"active", "expired", "deleted", "used_up"} <= statuses


def pieces(lines: list[Any]) -> Iterator[list[Any]]:
    size = -(-len(lines) // PIECES)
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


def test_it_agrees_with_the_store_where_events_contend(new_url: NewUrl) -> None:
    events = [each for each in every_close_call() if int(each.site_id.removeprefix("site-")) % EVERY == 0]
    with new_url() as url, EventStore.open(url) as store:
        for start in range(0, len(events), len(events) // PIECES + 1):
            list(store.append_many(events[start : start + len(events) // PIECES + 1]))
        store.project()
        happened = sorted({each.event_time for each in events})
        recorded = sorted({record.recorded_at for record in store.stream()})
        with analytics.connect(url) as connection:
            for time in happened:
                assert_agree(store, connection, as_of=time)
            assert_agree(store, connection, known_at=recorded[len(recorded) // 2])
            assert_agree(store, connection, known_at=recorded[len(recorded) // 2], as_of=happened[0])
            assert assert_agree(store, connection)
