"""Reports of usage: over time, by scope and by app, use by use, and beside Wix's own count; by hand and by slow loops."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given

import analytics
from eventstore.demo import examples, month
from eventstore.event import Coupon, Discount, DiscountType, Event, Scope, Source
from eventstore.store import EventStore
from tests.commands import Command
from tests.histories import START, histories
from tests.slow_model import COUPON_TYPES, Row, Rows, project
from tests.stores import NewUrl, OpenStore, tried

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
STORES, BOOKINGS = "1380b703-ce81-ff05-f115-39571d94dfcd", "13d21c63-b5ec-5912-8397-c3a5ddb27a97"
NAMES = {
    STORES: "Stores",
    "215238eb-22a5-4c36-9e7b-e7c08025e04e": "Stores",
    BOOKINGS: "Bookings",
    "140603ad-af8d-84a5-2c80-a0f60cb47351": "Events",
    "553c79f3-5625-4f38-b14b-ef7c0d1e87df": "Loyalty",
}
PERIODS = ("day", "week", "month")
LONGEST_GAP = 1000
"""Periods without uses that are shown between two with some; where there are more, none of them is."""
SEEDS = (3, 11)
CHANGING = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "America/Havana",  # at midnight
    "Asia/Beirut",  # at midnight
    "Asia/Kathmandu",  # never, and three quarters of an hour beside the others
    "Pacific/Chatham",
)
"""Zones whose clocks are put forward and back in ways of their own."""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def coupon(
    code: str, type_: str = "PERCENT_OFF", uses: int = 0, scope: tuple[str | None, ...] = (), **more: Any
) -> Coupon:
    namespace, group, entity_id = (*scope, None, None, None)[:3]
    return Coupon(
        code=code,
        discount=Discount(type=DiscountType(type_), value=more.pop("value", None)),
        scope=Scope(namespace=namespace, group=group, entity_id=entity_id) if scope else None,
        reported_usages=uses,
        **more,
    )


class Told:
    """Events of one site, each with an id of its own."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.events: list[Event] = []

    def tell(self, what: str, coupon_id: str, time: str | datetime, shown: Coupon | None = None, **more: Any) -> None:
        self.events.append(
            Event(
                event_id=f"{self.site}-{len(self.events) + 1}",
                site_id=self.site,
                type=f"coupon.{what}",
                source=Source.SNAPSHOT if what == "observed" else Source.REST,
                entity_id=coupon_id,
                coupon_id=coupon_id,
                event_time=at(time) if isinstance(time, str) else time,
                coupon=shown,
                **more,
            )
        )

    def use(
        self, coupon_id: str, time: str | datetime, order: str | None, shown: Coupon | None = None, **more: Any
    ) -> None:
        self.tell("applied", coupon_id, time, shown, order_id=order, **more)


def shop() -> list[Event]:
    """Five coupons and seven uses, one of them told twice; the shop is in Berlin, where summer began on 29 March 2026."""
    told = Told("shop")
    old, ten = coupon("OLD10", value=Decimal(10)), coupon("TEN", value=Decimal(10), name="Ten off")
    five = coupon("FIVE", "MONEY_OFF", value=Decimal("5.25"), scope=("stores", "product", "p-1"))
    told.tell("created", "c-ten", "2026-03-01", old)
    told.tell("created", "c-five", "2026-03-01", five)
    told.tell("created", "c-ship", "2026-03-01", coupon("SHIP", "FREE_SHIPPING", scope=("stores",)))
    told.tell("created", "c-two", "2026-03-01", coupon("TWO", "MONEY_OFF", scope=("stores", "product", "p-2")))
    told.tell("deleted", "c-gone", "2026-03-02")
    told.use("c-ten", "2026-03-28T22:59:59.999999", "o-1", old, app_id=STORES)
    told.use("c-ten", "2026-03-28T23:00:00", "o-2", old, app_id=STORES)
    told.use("c-five", "2026-03-29T21:59:59.999999", "o-2", five, app_id=BOOKINGS)
    told.tell("updated", "c-ten", "2026-03-29T22:00:00", ten)
    told.use("c-ten", "2026-03-29T22:00:00.000001", "o-3", ten, app_id=STORES)
    told.use("c-ten", "2026-03-31T22:00:00", "o-3", ten, app_id=STORES)
    told.use("c-five", "2026-04-02T12:00:00", "o-4", five)
    told.use("c-two", "2026-05-03T22:30:00", None, None)
    told.use("c-ten", "2026-05-04T10:00:00", "o-5", ten)
    return told.events


def autumn() -> list[Event]:
    """Uses about the end of summer time: 25 October 2026 has 25 hours in Berlin, and half past two twice."""
    told = Told("autumn")
    for number, time in enumerate(
        (
            "2026-10-24T21:59:59.999999",
            "2026-10-24T22:00:00",
            "2026-10-25T00:30:00",
            "2026-10-25T01:30:00",
            "2026-10-25T22:59:59.999999",
            "2026-10-25T23:00:00",
        )
    ):
        told.use("c", time, f"o-{number}", coupon("C"))
    return told.events


def wrong_dates() -> list[Event]:
    """Uses of the calendar's first and last moments, beside three of a summer."""
    told = Told("wrong-dates")
    for number, time in enumerate(
        (
            "0001-01-01T00:00:00",
            "2023-09-22",
            "2026-06-19",
            "2026-06-20",
            "9999-12-31T23:59:59.999999",
        )
    ):
        told.use("c", time, f"o-{number}", coupon("C"))
    return told.events


def differing_counts() -> list[Event]:
    """A coupon for each way in which our count and Wix's can agree or differ, named after what it shows. Days of May 2026."""
    told = Told("counts")

    def tell(coupon_id: str, *what: tuple[Any, ...]) -> None:
        for day, (kind, uses, *order) in enumerate(what, start=1):
            shown = None if uses is None else coupon(coupon_id, uses=uses)
            told.tell(kind, coupon_id, f"2026-05-{day:02d}", shown, **({"order_id": order[0]} if order else {}))

    made = ("created", 0)
    tell("agreeing", made, ("applied", 1, "a"), ("applied", 2, "b"))
    tell("older snapshot", made, ("applied", 1, "a"), ("applied", None, "b"))
    tell("older coupon", ("observed", 40), ("applied", 41, "a"))
    tell("older, first told by a use", ("applied", 8, "a"))
    tell("older and missing", ("observed", 40), ("applied", 43, "a"))
    tell("older or missing", ("applied", None, "a"), ("updated", 5))
    tell("counted early", made, ("updated", 1), ("applied", None, "a"))
    tell("repeated", made, ("applied", 1, "a"), ("applied", 2, "a"))
    tell("missing", made, ("applied", 1, "a"), ("applied", 3, "c"))
    tell("not yet counted", made, ("applied", 0, "a"))
    tell("no count", made, ("applied", 0, "a"), ("applied", 0, "b"))
    tell("went down", made, ("applied", 1, "a"), ("applied", 2, "b"), ("applied", 3, "c"), ("updated", 1))
    tell("no order", made, ("applied", 1, None), ("applied", 1, None), ("updated", 1))
    tell("unexplained", made, ("applied", 1, "a"), ("applied", 1, "b"), ("updated", 1))
    tell("never shown", ("deleted", None))
    return told.events


def about_changes() -> list[datetime]:
    """The beginnings and ends of the half-hours about every change of a clock in the zones above, in 2024."""
    found: set[datetime] = set()
    for zone in map(ZoneInfo, CHANGING):
        for day in range(366):
            before = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day)
            after = before + timedelta(days=1)
            if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
                for half_hour in range(-10, 58):
                    begins = before + timedelta(minutes=30 * half_hour)
                    found |= {begins, begins - timedelta(microseconds=1)}
    return sorted(found)


def changing_clocks() -> list[Event]:
    told = Told("clocks")
    for number, time in enumerate(about_changes()):
        told.use("c", time, f"o-{number}")
    return told.events


@pytest.fixture(scope="module")
def stored(new_url: NewUrl) -> Iterator[analytics.AnalyticsConnection]:
    """All of these histories in one store, each in its site; nothing here changes it."""
    with new_url() as url:
        with EventStore.open(url) as store:
            for history in (shop(), autumn(), wrong_dates(), differing_counts(), changing_clocks()):
                assert all(outcome.kind == "appended" for outcome in store.append_many(history))
        with analytics.connect(url) as connection:
            yield connection


@pytest.fixture(scope="module", params=SEEDS)
def a_month(
    new_url: NewUrl, request: pytest.FixtureRequest
) -> Iterator[tuple[analytics.AnalyticsConnection, list[Event]]]:
    """A month of a shop, and the events that its log holds."""
    with new_url() as url:
        with EventStore.open(url) as store:
            lines = (delivery.line() for delivery in month(request.param, events=600))
            store.ingest(enumerate(lines, start=1))
            events = [record.event for record in store.read()]
        with analytics.connect(url) as connection:
            yield connection, events


def answer(connection: analytics.AnalyticsConnection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return list(analytics.run_report(connection, name, **parameters).rows)


def columns(
    connection: analytics.AnalyticsConnection, name: str, *wanted: str, **parameters: Any
) -> list[tuple[Any, ...]]:
    result = analytics.run_report(connection, name, **parameters)
    places = [[column.name for column in result.columns].index(each) for each in wanted]
    return [tuple(row[place] for place in places) for row in result.rows]


# --- over time, by hand -----------------------------------------------------------------------------------------------


def test_uses_are_counted_by_the_day_and_days_without_any_are_shown(stored: analytics.AnalyticsConnection) -> None:
    rows = answer(stored, "usage-over-time", site="shop", until="2026-05-01")
    assert rows == [
        # begins, times used, coupons used, coupons used for the first time, running total
        (date(2026, 3, 28), 2, 1, 1, 2),
        (date(2026, 3, 29), 2, 2, 1, 4),
        (date(2026, 3, 30), 0, 0, 0, 4),
        (date(2026, 3, 31), 0, 0, 0, 4),
        (date(2026, 4, 1), 0, 0, 0, 4),
        (date(2026, 4, 2), 1, 1, 0, 5),
    ]


def test_days_are_those_of_the_zone_asked_for_and_one_of_23_hours_is_a_day(
    stored: analytics.AnalyticsConnection,
) -> None:
    rows = answer(stored, "usage-over-time", site="shop", until="2026-05-01", tz="Europe/Berlin")
    assert rows == [
        (date(2026, 3, 28), 1, 1, 1, 1),
        (date(2026, 3, 29), 2, 2, 1, 3),
        (date(2026, 3, 30), 1, 1, 0, 4),
        (date(2026, 3, 31), 0, 0, 0, 4),
        (date(2026, 4, 1), 0, 0, 0, 4),
        (date(2026, 4, 2), 1, 1, 0, 5),
    ]


def test_a_day_of_25_hours_is_a_day(stored: analytics.AnalyticsConnection) -> None:
    wanted = ("begins", "times_used")
    assert columns(stored, "usage-over-time", *wanted, site="autumn", tz="Europe/Berlin") == [
        (date(2026, 10, 24), 1),
        (date(2026, 10, 25), 4),
        (date(2026, 10, 26), 1),
    ]
    assert columns(stored, "usage-over-time", *wanted, site="autumn") == [
        (date(2026, 10, 24), 2),
        (date(2026, 10, 25), 4),
    ]


def test_weeks_begin_on_monday_in_the_zone_and_those_without_uses_are_shown(
    stored: analytics.AnalyticsConnection,
) -> None:
    assert answer(stored, "usage-over-time", site="shop", per="week", tz="Europe/Berlin") == [
        (date(2026, 3, 23), 3, 2, 2, 3),
        (date(2026, 3, 30), 2, 2, 0, 5),
        (date(2026, 4, 6), 0, 0, 0, 5),
        (date(2026, 4, 13), 0, 0, 0, 5),
        (date(2026, 4, 20), 0, 0, 0, 5),
        (date(2026, 4, 27), 0, 0, 0, 5),
        (date(2026, 5, 4), 2, 2, 1, 7),
    ]
    in_utc = answer(stored, "usage-over-time", site="shop", per="week")
    assert [row[:4] for row in in_utc if row[1]] == [
        (date(2026, 3, 23), 4, 2, 2),
        (date(2026, 3, 30), 1, 1, 0),
        (date(2026, 4, 27), 1, 1, 1),
        (date(2026, 5, 4), 1, 1, 0),
    ]


def test_uses_per_month(stored: analytics.AnalyticsConnection) -> None:
    assert answer(stored, "usage-over-time", site="shop", per="MONTH") == [
        (date(2026, 3, 1), 4, 2, 2, 4),
        (date(2026, 4, 1), 1, 1, 0, 5),
        (date(2026, 5, 1), 2, 2, 1, 7),
    ]


def test_uses_over_time_of_one_discount_type_within_a_span(stored: analytics.AnalyticsConnection) -> None:
    def money_off(**more: Any) -> list[tuple[Any, ...]]:
        return answer(stored, "usage-over-time", site="shop", per="month", discount_type="money_off", **more)

    assert money_off() == [
        (date(2026, 3, 1), 1, 1, 1, 1),
        (date(2026, 4, 1), 1, 1, 0, 2),
        (date(2026, 5, 1), 1, 1, 1, 3),
    ]
    # What had been used before the span is not used for the first time in it.
    assert money_off(since="2026-04-02T12:00:00Z", until="2026-05-03T22:30:00Z") == [(date(2026, 4, 1), 1, 1, 0, 1)]
    assert answer(stored, "usage-over-time", site="shop", discount_type="FREE_SHIPPING") == []
    assert answer(stored, "usage-over-time", site="nowhere") == []


def test_a_date_that_is_surely_wrong_does_not_bury_the_rest_under_zeros(stored: analytics.AnalyticsConnection) -> None:
    days = columns(stored, "usage-over-time", "begins", "times_used", site="wrong-dates")
    assert [day for day, uses in days if uses] == [
        date(1, 1, 1),
        date(2023, 9, 22),
        date(2026, 6, 19),
        date(2026, 6, 20),
        date(9999, 12, 31),
    ]
    # A thousand days without uses are shown, as they are between the second and the third: the first of them, and the last.
    assert (date(2026, 6, 19) - date(2023, 9, 22)).days == LONGEST_GAP + 1
    assert len(days) == LONGEST_GAP + 5
    assert (days[2], days[LONGEST_GAP + 1]) == ((date(2023, 9, 23), 0), (date(2026, 6, 18), 0))
    # In a year that is none it is the calendar's first day all the same, and its last.
    for zone, begins in (("America/New_York", date(1, 1, 1)), ("Asia/Tokyo", date(9999, 12, 31))):
        assert (begins, 1) in columns(stored, "usage-over-time", "begins", "times_used", site="wrong-dates", tz=zone)


@pytest.mark.parametrize("zone", [*CHANGING, "UTC"])
def test_every_use_about_a_change_of_clocks_is_in_its_day_there(
    stored: analytics.AnalyticsConnection, zone: str
) -> None:
    days = Counter(time.astimezone(ZoneInfo(zone)).date() for time in about_changes())
    found = columns(stored, "usage-over-time", "begins", "times_used", site="clocks", tz=zone)
    assert {day: uses for day, uses in found if uses} == days


# --- by scope and by app, by hand -------------------------------------------------------------------------------------


def test_usage_per_scope_lists_scopes_that_were_never_used(stored: analytics.AnalyticsConnection) -> None:
    last = at("2026-05-04T10:00:00")
    assert answer(stored, "usage-per-scope", site="shop") == [
        # scope, its three parts, coupons, used, times used, share, uses per used coupon, first and last use
        ("whole site", None, None, None, 1, 1, 4, Decimal("57.1"), 4, at("2026-03-28T22:59:59.999999"), last),
        (
            *("stores, product", "stores", "product", None, 2, 2, 3, Decimal("42.9"), Decimal("1.5")),
            *(at("2026-03-29T21:59:59.999999"), at("2026-05-03T22:30:00")),
        ),
        ("stores", "stores", None, None, 1, 0, 0, 0, None, None, None),
        ("unknown", None, None, None, 1, 0, 0, 0, None, None, None),
    ]


def test_usage_per_namespace_and_per_entity(stored: analytics.AnalyticsConnection) -> None:
    wanted = ("scope", "scope_group", "scope_entity_id", "coupons", "coupons_used", "times_used")
    assert columns(stored, "usage-per-scope", *wanted, site="shop", per="namespace") == [
        ("whole site", None, None, 1, 1, 4),
        ("stores", None, None, 3, 2, 3),
        ("unknown", None, None, 1, 0, 0),
    ]
    assert columns(
        stored, "usage-per-scope", *wanted, site="shop", per="entity", since="2026-04-01", until=at("2026-05-04")
    ) == [
        ("stores, product, p-1", "product", "p-1", 1, 1, 1),
        ("stores, product, p-2", "product", "p-2", 1, 1, 1),
        ("whole site", None, None, 1, 0, 0),
        ("stores", None, None, 1, 0, 0),
        ("unknown", None, None, 1, 0, 0),
    ]


def test_usage_per_app_names_those_that_wix_documents_and_counts_what_named_none(
    stored: analytics.AnalyticsConnection,
) -> None:
    assert answer(stored, "usage-per-app", site="shop") == [
        ("", None, 3, 3, Decimal("42.9"), at("2026-04-02T12:00:00"), at("2026-05-04T10:00:00")),
        (STORES, "Stores", 3, 1, Decimal("42.9"), at("2026-03-28T22:59:59.999999"), at("2026-03-29T22:00:00.000001")),
        (BOOKINGS, "Bookings", 1, 1, Decimal("14.3"), *[at("2026-03-29T21:59:59.999999")] * 2),
    ]
    within = columns(
        stored,
        "usage-per-app",
        "app_id",
        "times_used",
        site="shop",
        since=at("2026-03-29T22:00:00"),
        until="2026-04-03",
    )
    assert within == [("", 1), (STORES, 1)]
    assert answer(stored, "usage-per-app", site="nowhere") == []


# --- use by use -------------------------------------------------------------------------------------------------------


def test_redemptions_are_listed_from_the_latest_with_the_code_as_used_and_the_rest_as_it_is_now(
    stored: analytics.AnalyticsConnection,
) -> None:
    ten = ("Ten off", "PERCENT_OFF", Decimal(10))
    five = (None, "MONEY_OFF", Decimal("5.25"))
    assert answer(stored, "redemptions", site="shop") == [
        (at("2026-05-04T10:00:00"), "shop", "c-ten", "TEN", *ten, "o-5", None, 1, "shop-14"),
        (
            at("2026-05-03T22:30:00"),
            "shop",
            "c-two",
            None,
            None,
            "MONEY_OFF",
            None,
            "event:shop-13",
            None,
            1,
            "shop-13",
        ),
        (at("2026-04-02T12:00:00"), "shop", "c-five", "FIVE", *five, "o-4", None, 1, "shop-12"),
        (at("2026-03-29T22:00:00.000001"), "shop", "c-ten", "TEN", *ten, "o-3", STORES, 2, "shop-10"),
        (at("2026-03-29T21:59:59.999999"), "shop", "c-five", "FIVE", *five, "o-2", BOOKINGS, 1, "shop-8"),
        (at("2026-03-28T23:00:00"), "shop", "c-ten", "OLD10", *ten, "o-2", STORES, 1, "shop-7"),
        (at("2026-03-28T22:59:59.999999"), "shop", "c-ten", "OLD10", *ten, "o-1", STORES, 1, "shop-6"),
    ]


@pytest.mark.parametrize(
    ("parameters", "orders"),
    [
        ({"coupon": "C-TEN"}, ["o-5", "o-3", "o-2", "o-1"]),
        ({"coupon": "ten"}, ["o-5", "o-3", "o-2", "o-1"]),
        ({"coupon": "old10"}, ["o-2", "o-1"]),
        ({"coupon": "Five"}, ["o-4", "o-2"]),
        ({"coupon": "two"}, ["event:shop-13"]),
        ({"coupon": "ship"}, []),
        ({"coupon": "ten' OR '1'='1"}, []),
        ({"coupon": "%"}, []),
        ({"limit": 2}, ["o-5", "event:shop-13"]),
        ({"limit": "1", "coupon": "five"}, ["o-4"]),
        ({"limit": 0}, []),
        ({"since": "2026-03-29T22:00:00.000001Z", "until": "2026-05-03T22:30:00Z"}, ["o-4", "o-3"]),
    ],
    ids=str,
)
def test_redemptions_of_a_coupon_a_span_and_a_number(
    stored: analytics.AnalyticsConnection, parameters: dict[str, Any], orders: list[str]
) -> None:
    assert columns(stored, "redemptions", "order_id", site="shop", **parameters) == [(order,) for order in orders]


# --- beside Wix's count -----------------------------------------------------------------------------------------------

OLDER = "used before the store's first event of it"
CAUSES: dict[str, tuple[Any, ...]] = {
    # ours, Wix's, difference, cause; difference at the snapshot, uses after it, before the store, repeated, no order, highest
    "older and missing": (1, 43, -42, f"{OLDER}, and events are missing here", -42, 0, 40, 0, 0, 43),
    "older coupon": (1, 41, -40, OLDER, -40, 0, 40, 0, 0, 41),
    "older, first told by a use": (1, 8, -7, OLDER, -7, 0, 7, 0, 0, 8),
    "older or missing": (1, 5, -4, f"{OLDER}, or events are missing here", -4, 0, None, 0, 0, 5),
    "went down": (3, 1, 2, "Wix's count went down: uses were undone, or it began anew", 2, 0, 0, 0, 0, 3),
    "no count": (2, 0, 2, "Wix's events carry no count, which reads as 0", 2, 0, 0, 0, 0, 0),
    "missing": (2, 3, -1, "events are missing here", -1, 0, 0, 0, 0, 3),
    "no order": (
        *(2, 1, 1, "uses reported without an order's id: one reported twice counts twice here"),
        *(1, 0, 0, 0, 2, 1),
    ),
    "unexplained": (2, 1, 1, "Wix counts fewer: uses were undone there, or never counted", 1, 0, 0, 0, 0, 1),
    "counted early": (
        *(1, 1, 0, "Wix's snapshot may count our later uses, or events are missing here"),
        *(-1, 1, 0, 0, 0, 1),
    ),
    "not yet counted": (1, 0, 1, "Wix's snapshot came with a use that it may not count yet", 1, 0, 0, 0, 0, 0),
    "repeated": (
        *(1, 2, -1, "events are missing here, or Wix counts orders twice that were reported twice"),
        *(-1, 0, 0, 1, 0, 2),
    ),
    "agreeing": (2, 2, 0, "agrees", 0, 0, None, None, None, None),
    "older snapshot": (2, 1, 1, "agrees: Wix's snapshot is older than our last uses", 0, 1, None, None, None, None),
    "never shown": (0, None, None, "not comparable: no event carried Wix's count", *[None] * 6),
}
EVIDENCE = (
    *(
        "coupon_id",
        "times_used",
        "reported_usages",
        "difference",
        "cause",
        "difference_at_snapshot",
        "uses_after_snapshot",
    ),
    *("uses_before_store", "repeated_reports", "uses_without_order", "highest_reported"),
)


def test_each_difference_has_its_likely_cause_and_what_speaks_for_it(stored: analytics.AnalyticsConnection) -> None:
    found = columns(stored, "reconciliation", *EVIDENCE, site="counts")
    assert {row[0]: row[1:] for row in found} == CAUSES
    assert [abs(row[5]) for row in found if row[5] is not None] == [42, 40, 7, 4, 2, 2, *[1] * 6, 0, 0]
    assert found[-1][0] == "never shown"


def test_every_cause_that_the_report_can_name_is_shown_by_a_history_here() -> None:
    named = {
        line.split("THEN '")[1].rstrip("'")
        for line in analytics.report("reconciliation").sql.splitlines()
        if "THEN '" in line
    }
    named |= {
        line.split("ELSE '")[1].rstrip("'")
        for line in analytics.report("reconciliation").sql.splitlines()
        if "ELSE '" in line
    }
    assert {cause.replace("''", "'") for cause in named} == {causes[3] for causes in CAUSES.values()}


def test_reconciliation_of_what_differs_and_of_one_coupon(stored: analytics.AnalyticsConnection) -> None:
    differing = {name for name, row in CAUSES.items() if row[4] not in (0, None)}
    assert {
        name for (name,) in columns(stored, "reconciliation", "coupon_id", site="counts", differing=True)
    } == differing
    for given_ in ("MISSING", "missing"):
        [row] = columns(stored, "reconciliation", *EVIDENCE, coupon=given_)
        assert row == ("missing", *CAUSES["missing"])
    wanted = ("snapshot_time", "first_event_at", "last_used_at", "deleted", "code")
    assert columns(stored, "reconciliation", *wanted, coupon="older snapshot") == [
        (at("2026-05-02"), at("2026-05-01"), at("2026-05-03"), False, "older snapshot")
    ]
    assert columns(stored, "reconciliation", *wanted, coupon="never shown") == [
        (None, at("2026-05-01"), None, True, None)
    ]


def test_the_counts_that_drift_in_the_demonstration_are_told_with_their_causes(
    a_month: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    causes = dict(columns(a_month[0], "reconciliation", "code", "cause", differing=True))
    assert causes["B2G1"] == causes["SHIPFREE"] == OLDER
    assert causes["INSTA10"] == "events are missing here"


# --- slow loops -------------------------------------------------------------------------------------------------------


def uses_within(told: dict[str, Rows], site: str | None, since: datetime | None, until: datetime | None) -> list[Row]:
    return [
        use
        for use in told["redemptions"].values()
        if site in (None, use["site_id"])
        and (since is None or use["redeemed_at"] >= since)
        and (until is None or use["redeemed_at"] < until)
    ]


def key(row: Row) -> tuple[str, str]:
    return row["site_id"], row["coupon_id"]


def first_day(time: datetime, per: str, zone: str) -> date:
    day = time.astimezone(ZoneInfo(zone)).date()
    if per == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if per == "week" else day


def following(day: date, per: str) -> date:
    if per == "month":
        return day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1)
    return day + timedelta(days=7 if per == "week" else 1)


def slow_over_time(
    told: dict[str, Rows], uses: list[Row], per: str, zone: str, type_: str | None
) -> list[tuple[Any, ...]]:
    groups: dict[date, list[Row]] = defaultdict(list)
    for use in uses:
        if type_ in (None, told["coupons"][key(use)]["discount_type"] or "UNKNOWN"):
            groups[first_day(use["redeemed_at"], per, zone)].append(use)
    rows: list[tuple[Any, ...]] = []
    total = 0
    for begins, group in sorted(groups.items()):
        gap: list[date] = []
        while rows and len(gap) <= LONGEST_GAP and (day := following(gap[-1] if gap else rows[-1][0], per)) < begins:
            gap.append(day)
        if len(gap) <= LONGEST_GAP:
            rows += [(day, 0, 0, 0, total) for day in gap]
        total += len(group)
        used = {key(use) for use in group}
        firsts = {key(use) for use in group if use["redeemed_at"] == told["coupon_usage"][key(use)]["first_used_at"]}
        rows.append((begins, len(group), len(used), len(firsts), total))
    return rows


def slow_per_scope(told: dict[str, Rows], uses: list[Row], per: str, site: str | None) -> dict[Any, tuple[Any, ...]]:
    parts = {"namespace": 1, "group": 2, "entity": 3}[per]
    groups: dict[Any, list[tuple[str, ...]]] = defaultdict(list)
    for name, row in told["coupons"].items():
        if site in (None, row["site_id"]):
            scope = (row["scope_namespace"], row["scope_group"], row["scope_entity_id"])
            groups[(row["snapshot_event_id"] is not None, *scope[:parts], *[None] * (3 - parts))].append(name)
    made = {}
    for scope, members in groups.items():
        inside = [use for use in uses if key(use) in members]
        times = [use["redeemed_at"] for use in inside]
        used = len({key(use) for use in inside})
        made[scope] = (len(members), used, len(inside), min(times, default=None), max(times, default=None))
    return made


def slow_per_app(uses: list[Row]) -> dict[str, tuple[Any, ...]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for use in uses:
        groups[use["app_id"] or ""].append(use)
    return {
        app: (
            *(NAMES.get(app), len(group), len({key(use) for use in group})),
            *(min(use["redeemed_at"] for use in group), max(use["redeemed_at"] for use in group)),
        )
        for app, group in groups.items()
    }


def slow_redemptions(told: dict[str, Rows], uses: list[Row]) -> list[tuple[Any, ...]]:
    ordered = sorted(uses, key=lambda use: (*key(use), use["order_id"]))
    ordered.sort(key=lambda use: use["redeemed_at"], reverse=True)
    return [
        (
            *(use["redeemed_at"], *key(use), use["code"], told["coupons"][key(use)]["name"]),
            *(told["coupons"][key(use)]["discount_type"] or "UNKNOWN", told["coupons"][key(use)]["discount_value"]),
            *(use["order_id"], use["app_id"], use["reports"], use["event_id"]),
        )
        for use in ordered
    ]


def slow_evidence(events: list[Event], told: dict[str, Rows]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """What the reconciliation says of each coupon but for the cause, which is told from it."""
    about: dict[tuple[str, ...], list[Event]] = defaultdict(list)
    for event in events:
        if event.type in COUPON_TYPES:
            about[event.site_id, event.coupon_id or event.entity_id].append(event)
    made: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for name, row in told["coupons"].items():
        uses = [use for use in told["redemptions"].values() if key(use) == name]
        taken, reported = row["snapshot_time"], row["reported_usages"]
        if taken is None:
            made[name] = (len(uses), *[None] * 8)
            continue
        after = sum(use["redeemed_at"] > taken for use in uses)
        gap = len(uses) - after - reported
        evidence: tuple[Any, ...] = (None, None, None, None)
        if gap:
            shown = [event for event in about[name] if event.coupon is not None]
            first = [event for event in about[name] if event.event_time == row["first_event_time"]]
            opening = min((event.coupon.reported_usages for event in first if event.coupon), default=None)
            if opening is not None and opening > 0 and any(event.type == "coupon.applied" for event in first):
                opening -= 1
            reports = [event for event in about[name] if event.type == "coupon.applied" and event.event_time <= taken]
            evidence = (
                opening,
                len(reports) - (len(uses) - after),
                sum(event.order_id is None for event in reports),
                max(event.coupon.reported_usages for event in shown if event.coupon),
            )
        made[name] = (len(uses), reported, len(uses) - reported, gap, after, *evidence)
    return made


def assert_share(share: Decimal | None, uses: int, total: int) -> None:
    """It is the percentage, rounded to a tenth."""
    if total == 0:
        assert share is None
    else:
        assert share is not None
        assert abs(Fraction(share) - Fraction(100 * uses, total)) <= Fraction(1, 20)


Span = tuple[str | None, datetime | None, datetime | None]
"""A site, since when and until when."""
SPANS: tuple[Span, ...] = (
    (None, None, None),
    ("site-a", None, START + timedelta(hours=2)),
    (None, START + timedelta(days=4, microseconds=1), START + timedelta(days=18, hours=9)),
)


def assert_reports_agree(
    connection: analytics.AnalyticsConnection, events: list[Event], spans: tuple[Span, ...], zones: tuple[str, ...]
) -> None:
    told = project(events)
    for site, since, until in spans:
        span = {"site": site, "since": since, "until": until}
        uses = uses_within(told, site, since, until)
        for per in PERIODS:
            for zone in zones:
                found = answer(connection, "usage-over-time", per=per, tz=zone, **span)
                assert found == slow_over_time(told, uses, per, zone, None)
        for type_ in ("PERCENT_OFF", "UNKNOWN"):
            found = answer(connection, "usage-over-time", discount_type=type_, **span)
            assert found == slow_over_time(told, uses, "day", "UTC", type_)
        for per in ("namespace", "group", "entity"):
            found = answer(connection, "usage-per-scope", per=per, **span)
            scopes = {(row[0] != "unknown", *row[1:4]): (*row[4:7], *row[9:]) for row in found}
            assert scopes == slow_per_scope(told, uses, per, site)
            assert len(scopes) == len(found)
            for row in found:
                assert_share(row[7], row[6], len(uses))
        found = answer(connection, "usage-per-app", **span)
        assert {row[0]: (*row[1:4], *row[5:]) for row in found} == slow_per_app(uses)
        for row in found:
            assert_share(row[4], row[2], len(uses))
        assert answer(connection, "redemptions", **span) == slow_redemptions(told, uses)
    for site in (None, "site-a"):
        found = columns(connection, "reconciliation", "site_id", *EVIDENCE, site=site)
        without_cause = {row[:2]: (*row[2:5], *row[6:]) for row in found}
        assert without_cause == {
            name: row for name, row in slow_evidence(events, told).items() if site in (None, name[0])
        }


def test_reports_of_a_month_agree_with_slow_loops_over_its_events(
    a_month: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    connection, events = a_month
    assert len(project(events)["redemptions"]) > 300
    assert_reports_agree(connection, events, SPANS, ("UTC", "America/St_Johns", "Asia/Kathmandu"))
    everything = answer(connection, "redemptions")
    code = everything[0][3]
    assert (
        answer(connection, "redemptions", coupon=code.lower(), limit=3)
        == [row for row in everything if row[3] is not None and row[3].lower() == code.lower()][:3]
    )


def test_reports_of_any_history_agree_with_slow_loops_over_its_events(new_store: OpenStore, dialect: str) -> None:
    @tried(4, dialect)
    @given(histories(max_size=20))
    def holds(history: list[Event]) -> None:
        with new_store() as store:
            list(store.append_many(history))
            with analytics.connect(store.engine) as connection:
                assert_reports_agree(connection, history, SPANS[:2], ("UTC",))

    holds()


# --- small stores and the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["usage-over-time", "usage-per-scope", "usage-per-app", "redemptions", "reconciliation"]
)
def test_a_report_of_usage_over_five_events_is_sane(store: EventStore, name: str) -> None:
    told = Told("shop")
    told.tell("created", "ten", "2026-09-01", coupon("TEN"))
    told.tell("created", "ship", "2026-09-01", coupon("SHIP", "FREE_SHIPPING"))
    told.use("ten", "2026-09-02T09:00:00", "o-1", coupon("TEN", uses=1), app_id=STORES)
    told.use("ten", "2026-09-03", "o-2", coupon("TEN", uses=2), app_id=STORES)
    told.use("ship", "2026-09-03", "o-2", coupon("SHIP", "FREE_SHIPPING", uses=1), app_id=STORES)
    list(store.append_many(told.events))
    result = analytics.run_report(store.engine, name)
    shown = [column.name in analytics.report(name).table for column in result.columns]
    cells = [[cell for cell, kept in zip(row, shown, strict=True) if kept] for row in result.cells()]
    assert (
        cells
        == {
            "usage-over-time": [["2026-09-02", "1", "1", "1", "1"], ["2026-09-03", "2", "2", "1", "3"]],
            "usage-per-scope": [["whole site", "2", "2", "3", "100.0", "2026-09-02 09:00", "2026-09-03 00:00"]],
            "usage-per-app": [[STORES, "Stores", "3", "2", "100.0", "2026-09-02 09:00", "2026-09-03 00:00"]],
            "redemptions": [
                ["2026-09-03 00:00", "SHIP", "–", "FREE_SHIPPING", "–", "o-2", "1"],
                ["2026-09-03 00:00", "TEN", "–", "PERCENT_OFF", "–", "o-2", "1"],
                ["2026-09-02 09:00", "TEN", "–", "PERCENT_OFF", "–", "o-1", "1"],
            ],
            "reconciliation": [
                ["TEN", "2", "2", "0", "agrees", "0", "2026-09-03 00:00"],
                ["SHIP", "1", "1", "0", "agrees", "0", "2026-09-03 00:00"],
            ],
        }[name]
    )
    assert len(result.to_csv().splitlines()) == len(json.loads(result.to_json())) + 1 == len(cells) + 1


def test_the_documented_use_after_a_deletion_is_listed_and_agrees_with_wix_s_count(store: EventStore) -> None:
    store.ingest(enumerate((delivery.line() for delivery in examples()), start=1))
    with analytics.connect(store.engine) as connection:
        [(time, reports)] = columns(connection, "redemptions", "redeemed_at", "reports", coupon="summersale")
        assert (time.date(), reports) == (date(2021, 7, 17), 1)
        [(difference, cause)] = columns(connection, "reconciliation", "difference", "cause", coupon="summersale")
    assert (difference, cause) == (0, "agrees")


def test_the_command_line_takes_a_time_zone(store: EventStore, eventstore: Command) -> None:
    list(store.append_many(autumn()))
    shown = eventstore.run("report", "usage-over-time", "--tz", "europe/berlin", "--csv")
    assert (shown.returncode, shown.stderr) == (0, "")
    days = [(row["begins"], row["times_used"]) for row in csv.DictReader(io.StringIO(shown.stdout))]
    assert days == [("2026-10-24", "1"), ("2026-10-25", "4"), ("2026-10-26", "1")]
    same = eventstore.run("report", "usage-over-time", "-p", "tz=Europe/Berlin", "--csv")
    assert same.stdout == shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["usage-over-time", "--tz", "Europe/Berln"], "(did you mean Europe/Berlin?)"),
        (["usage-over-time", "-p", "per=days"], "per takes one of day, week, month, not 'days' (did you mean day?)"),
        (["usage-per-app", "--tz", "UTC"], "the report usage-per-app has no parameter 'tz'; it has site, since, until"),
        (["redemptions", "-p", "limit=-1"], "limit takes a whole number from 0 on, not '-1'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_the_command_line_refuses_a_wrong_parameter_and_says_what_it_takes(
    eventstore: Command, arguments: list[str], message: str
) -> None:
    done = eventstore.run("report", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
