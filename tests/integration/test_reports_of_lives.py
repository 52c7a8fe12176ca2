"""Reports of lives: codes had by several coupons, coupons never used, how long coupons live, and what rewards came to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

import analytics
from eventstore.demo import month
from eventstore.event import Event, Loyalty, Source
from eventstore.store import EventStore
from tests import slow_model
from tests.september import at, event, snapshot
from tests.stores import NewUrl

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
DAY = timedelta(days=1)
NOW = datetime(2026, 9, 20, tzinfo=UTC)
"""The moment that the reports look from."""


def reward(name: str, time: datetime, linked: str | None, **facts: Any) -> Event:
    """A reward's creation that tells of its coupon."""
    told = {"status": "ACTIVE", "reward_name": "Ten off", "revision": 1, "transaction_id": f"t-{name}"}
    shown = None if linked is None else snapshot(f"LOYAL-{linked}")
    return event(
        f"r-{name}",
        "loyalty_coupon.created",
        name,
        time,
        coupon_id=linked,
        coupon=shown,
        loyalty=Loyalty(**(told | facts)),
    )


SHOP = [
    # SALE is the code of three: deleted, renamed, and there to this day; `sale` is spelled otherwise.
    event("a1", "coupon.created", "a", at(1), coupon=snapshot("SALE", created_at=at(1), expiration_time=at(30))),
    event(
        "a2",
        "coupon.applied",
        "a",
        at(2),
        coupon=snapshot("SALE", created_at=at(1), expiration_time=at(30)),
        order_id="o1",
    ),
    event("a3", "coupon.deleted", "a", at(4)),
    event("b1", "coupon.created", "b", at(4), coupon=snapshot("sale")),
    event("b2", "coupon.applied", "b", at(5), coupon=snapshot("sale"), order_id="o1"),
    event("b3", "coupon.applied", "b", at(6), coupon=None, order_id="o2"),
    event("b4", "coupon.updated", "b", at(8), coupon=snapshot("OTHER")),
    event("b5", "coupon.applied", "b", at(9), coupon=snapshot("OTHER"), order_id="o3"),
    event(
        "c1",
        "coupon.observed",
        "c",
        at(4, 12),
        coupon=snapshot("Sale", created_at=at(3), reported_usages=9),
        source=Source.SNAPSHOT,
    ),
    event("d1", "coupon.created", "d", at(1), coupon=snapshot("SALE"), site_id="other"),
    # Never used: one that has begun, one that has not; and all that keeps others from being listed.
    event(
        "e1",
        "coupon.created",
        "e",
        at(1),
        coupon=snapshot("SOON", usage_limit=5, start_time=at(2), expiration_time=at(23, 12)),
    ),
    event("f1", "coupon.created", "f", at(1), coupon=snapshot("LATER", start_time=at(22), expiration_time=at(25))),
    event("g1", "coupon.created", "g", at(1), coupon=snapshot("OFF", active=False, expiration_time=at(21))),
    event("h1", "coupon.created", "h", at(1), coupon=snapshot("COUNTED", reported_usages=1, expiration_time=at(21))),
    event("i1", "coupon.created", "i", at(1), coupon=snapshot("OVER", expiration_time=at(20))),
    event("k1", "coupon.applied", "k", at(19), coupon=snapshot("USED", expiration_time=at(21)), order_id="o4"),
    # Rewards.
    event("m1", "coupon.created", "m", at(10), coupon=snapshot("LOYAL-m")),
    event("m2", "coupon.applied", "m", at(12), coupon=snapshot("LOYAL-m"), order_id="o5"),
    reward("used", at(10), "m", refundable=True),
    event("n1", "coupon.created", "n", at(11), coupon=snapshot("LOYAL-n")),
    reward("unused", at(11), "n", refundable=True),
    reward("plain", at(12), "n"),
    reward("lost", at(13), "nowhere", refundable=True),
    reward("unlinked", at(14), None, created_at=at(9)),
    reward("bereft", at(15), "a", coupon_deleted=True, status="ARCHIVED"),
    reward("back", at(16), "n", refundable=True),
    event("r-back-2", "loyalty_coupon.deleted", "back", at(17), coupon_id=None),
    reward("applied", at(18), "n", refundable=True, status="APPLIED"),
]


@pytest.fixture(scope="module")
def shop(new_url: NewUrl) -> Iterator[analytics.AnalyticsConnection]:
    """The hand-made shop."""
    with new_url() as url:
        with EventStore.open(url) as store:
            list(store.append_many(SHOP))
        with analytics.connect(url) as connection:
            yield connection


@pytest.fixture(scope="module")
def months(new_url: NewUrl) -> Iterator[tuple[analytics.AnalyticsConnection, list[Event]]]:
    """Two generated months, each in a site of its own, and their events."""
    with new_url() as url:
        with EventStore.open(url) as store:
            for seed in (7, 8):
                lines = (delivery.line() for delivery in month(seed, events=600))
                store.ingest(enumerate(lines, start=1), site=f"month-{seed}")
            told = [record.event for record in store.stream()]
        with analytics.connect(url) as connection:
            yield connection, told


def rows(result: analytics.ReportResult, *names: str) -> list[tuple[Any, ...]]:
    """The named columns of the answer's rows."""
    indexes = [[column.name for column in result.columns].index(name) for name in names]
    return [tuple(row[index] for index in indexes) for row in result.rows]


def days(span: timedelta | None) -> Decimal | None:
    """As the reports round it."""
    if span is None:
        return None
    exact = Decimal(span // timedelta(microseconds=1)) / 86_400_000_000
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


# Codes


def test_a_code_that_several_coupons_had_is_listed_with_each_of_their_times(
    shop: analytics.AnalyticsConnection,
) -> None:
    result = analytics.run_report(shop, "code-reuse", at=NOW)
    assert result.rows == (
        ("shop", "SALE", 3, "a", "Sale", at(1), at(4), False, 1, True, True),
        # One of its uses was under this code; one that does not show its code counts for the one that it has now.
        ("shop", "sale", 3, "b", "Other", at(4), at(5), True, 1, False, False),
        ("shop", "Sale", 3, "c", "Sale", at(4, 12), None, True, 0, True, False),
    )


def test_reuse_is_asked_of_one_code_in_any_case_and_of_one_site(shop: analytics.AnalyticsConnection) -> None:
    assert rows(analytics.run_report(shop, "code-reuse", code="sALe"), "coupon_id") == [("a",), ("b",), ("c",)]
    assert analytics.run_report(shop, "code-reuse", code="OTHER").rows == ()
    assert analytics.run_report(shop, "code-reuse", site="other").rows == ()


def test_only_so_many_reused_codes_are_listed_those_shown_last(store: EventStore) -> None:
    for day, (code, coupon) in enumerate([("old", "a"), ("OLD", "b"), ("new", "c"), ("New", "d")], start=1):
        store.append(event(f"e{day}", "coupon.created", coupon, at(day), coupon=snapshot(code)))
    listed = analytics.run_report(store.engine, "code-reuse", limit=1)
    assert rows(listed, "code", "coupon_id", "coupons") == [("new", "c", 2), ("New", "d", 2)]
    assert len(analytics.run_report(store.engine, "code-reuse", limit=2).rows) == 4
    assert len(analytics.run_report(store.engine, "code-reuse", limit=None).rows) == 4
    assert analytics.run_report(store.engine, "code-reuse", limit=0).rows == ()


# Never used


def test_what_was_never_used_and_ends_soon_is_listed_if_it_could_be_used(shop: analytics.AnalyticsConnection) -> None:
    ten = Decimal(10)
    assert analytics.run_report(shop, "unused-and-expiring", at=NOW).rows == (
        ("shop", "e", "SOON", "Soon", "active", "PERCENT_OFF", ten, 5, None, at(2), at(23, 12), Decimal("3.5")),
        ("shop", "f", "LATER", "Later", "scheduled", "PERCENT_OFF", ten, None, None, at(22), at(25), 5),
    )


@pytest.mark.parametrize(
    ("days_", "found"), [(5, ["e", "f"]), (4, ["e"]), (3, []), (0, []), (2**63 - 1, ["e", "f"]), (None, [])]
)
def test_the_days_are_counted_from_the_moment_to_the_microsecond(
    shop: analytics.AnalyticsConnection, days_: int | None, found: list[str]
) -> None:
    result = analytics.run_report(shop, "unused-and-expiring", at=NOW, days=days_)
    assert [coupon for (coupon,) in rows(result, "coupon_id")] == found


def test_a_coupon_that_ends_at_the_moment_has_ended(shop: analytics.AnalyticsConnection) -> None:
    last = at(25) - timedelta(microseconds=1)
    assert rows(analytics.run_report(shop, "unused-and-expiring", at=last), "code", "days_left") == [("LATER", 0)]
    assert analytics.run_report(shop, "unused-and-expiring", at=at(25)).rows == ()
    assert analytics.run_report(shop, "unused-and-expiring", site="other", at=NOW).rows == ()


def test_the_never_used_of_generated_months_are_those_of_the_slow_model(
    months: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    connection, told = months
    coupons = slow_model.project(told)["coupons"]
    usage = slow_model.project(told)["coupon_usage"]
    seen = 0
    for day in range(0, 40, 3):
        moment = at(1) + timedelta(days=day)
        expected = sorted(
            (*key, said, days(row["expiration_time"] - moment))
            for key, row in coupons.items()
            if key not in usage
            and not row["reported_usages"]
            and row["expiration_time"] is not None
            and row["expiration_time"] <= moment + 30 * DAY
            and (said := slow_model.status(row, 0, moment)) in ("active", "scheduled")
        )
        result = analytics.run_report(connection, "unused-and-expiring", at=moment, days=30)
        assert sorted(rows(result, "site_id", "coupon_id", "status", "days_left")) == expected
        seen += len(expected)
    assert seen > 0


# Lives


def test_a_life_runs_from_creation_to_deletion_or_end_or_now(shop: analytics.AnalyticsConnection) -> None:
    result = analytics.run_report(shop, "lifetimes", at=NOW, site="shop")
    told = {
        row[0]: row[1:]
        for row in rows(
            result,
            "coupon_id",
            "created_at",
            "days_to_first_use",
            "seconds_to_first_use",
            "ended_at",
            "ended_by",
            "lifetime_days",
        )
    }
    assert told == {
        "a": (at(1), 1, 86_400, at(4), "deletion", 3),
        "b": (at(4), 1, 86_400, None, None, 16),
        "c": (at(3), None, None, None, None, 17),
        "e": (at(1), None, None, None, None, 19),
        "f": (at(1), None, None, None, None, 19),
        "g": (at(1), None, None, None, None, 19),
        "h": (at(1), None, None, None, None, 19),
        "i": (at(1), None, None, at(20), "expiration", 19),
        "k": (None, None, None, None, None, None),
        "m": (at(10), 2, 172_800, None, None, 10),
        "n": (at(11), None, None, None, None, 9),
    }


def test_lives_are_asked_by_when_they_began(shop: analytics.AnalyticsConnection) -> None:
    result = analytics.run_report(shop, "lifetimes", at=NOW, since=at(3), until=at(10))
    assert rows(result, "coupon_id") == [("c",), ("b",)]


def test_an_end_is_the_earlier_of_deletion_and_expiration_and_may_be_unknown(store: EventStore) -> None:
    made = {"created_at": at(1)}
    list(
        store.append_many(
            [
                event(
                    "1", "coupon.created", "expired first", at(1), coupon=snapshot("A", **made, expiration_time=at(5))
                ),
                event("2", "coupon.deleted", "expired first", at(9)),
                event("3", "coupon.created", "said to be expired", at(1), coupon=snapshot("B", **made, expired=True)),
                event("4", "coupon.created", "used before", at(3), coupon=snapshot("C", created_at=at(3))),
                event(
                    "5",
                    "coupon.applied",
                    "used before",
                    at(2, 21),
                    coupon=snapshot("C", created_at=at(3)),
                    order_id="o",
                ),
            ]
        )
    )
    result = analytics.run_report(store.engine, "lifetimes", at=NOW)
    assert rows(result, "coupon_id", "days_to_first_use", "ended_at", "ended_by", "lifetime_days") == [
        ("expired first", None, at(5), "expiration", 4),
        ("said to be expired", None, None, "expiration", None),
        ("used before", Decimal("-0.13"), None, None, 17),
    ]


def test_the_lives_of_generated_months_are_those_of_the_slow_model(
    months: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    connection, told = months
    model = slow_model.project(told)
    moment = at(16)
    expected = {}
    for key, row in model["coupons"].items():
        creations = [
            each.event_time
            for each in told
            if each.type == "coupon.created" and (each.site_id, each.coupon_id or each.entity_id) == key
        ]
        made = row["created_at"] or min(creations, default=None)
        used = model["coupon_usage"].get(key, {}).get("first_used_at")
        ends = (
            [(row["expiration_time"], "expiration")]
            if slow_model.status(row | {"deleted": False, "active": True}, 0, moment) == "expired"
            else []
        )
        ends += [(row["deleted_at"], "deletion")] if row["deleted"] else []
        ended_at, ended_by = min(ends, default=(None, None))
        expected[key] = (
            made,
            days(used - made if used and made else None),
            ended_at,
            ended_by,
            days((ended_at or moment) - made if made else None),
        )
    names = ("created_at", "days_to_first_use", "ended_at", "ended_by", "lifetime_days")
    result = analytics.run_report(connection, "lifetimes", at=moment)
    found = {row[:2]: row[2:] for row in rows(result, "site_id", "coupon_id", *names)}
    assert found == expected
    assert {row[3] for row in found.values()} == {None, "expiration", "deletion"}


# Rewards


def test_rewards_tell_whether_they_were_used_lost_their_coupon_and_can_be_refunded(
    shop: analytics.AnalyticsConnection,
) -> None:
    result = analytics.run_report(shop, "loyalty-rewards")
    names = (
        "loyalty_coupon_id",
        "status",
        "created_at",
        "code",
        "times_used",
        "first_used_at",
        "orphan",
        "refund",
        "deleted",
    )
    assert rows(result, *names) == [
        ("unlinked", "ACTIVE", at(9), None, 0, None, "coupon not told", None, False),
        ("used", "ACTIVE", at(10), "LOYAL-m", 1, at(12), None, "used", False),
        ("unused", "ACTIVE", at(11), "LOYAL-n", 0, None, None, "can be refunded", False),
        ("plain", "ACTIVE", at(12), "LOYAL-n", 0, None, None, None, False),
        ("lost", "ACTIVE", at(13), "LOYAL-nowhere", 0, None, "coupon unknown", "can be refunded", False),
        ("bereft", "ARCHIVED", at(15), "SALE", 1, at(2), "coupon deleted", None, False),
        ("back", "ACTIVE", at(16), "LOYAL-n", 0, None, None, "deleted", True),
        ("applied", "APPLIED", at(18), "LOYAL-n", 0, None, None, "used", False),
    ]


def test_rewards_are_asked_by_when_they_were_made(shop: analytics.AnalyticsConnection) -> None:
    result = analytics.run_report(shop, "loyalty-rewards", site="shop", since=at(11), until=at(13))
    assert rows(result, "loyalty_coupon_id") == [("unused",), ("plain",)]
    assert analytics.run_report(shop, "loyalty-rewards", site="other").rows == ()


def test_the_rewards_of_generated_months_are_those_of_the_slow_model(
    months: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    connection, told = months
    model = slow_model.project(told)
    expected = {}
    for key, row in model["loyalty_coupons"].items():
        link = (key[0], row["coupon_id"])
        coupon, usage = model["coupons"].get(link), model["coupon_usage"].get(link)
        expected[key] = (
            row["status"],
            usage["times_used"] if usage else 0,
            usage["last_used_at"] if usage else None,
            "coupon unknown" if coupon is None else "coupon deleted" if coupon["deleted"] else None,
            row["deleted"],
        )
    result = analytics.run_report(connection, "loyalty-rewards")
    names = ("status", "times_used", "last_used_at", "orphan", "deleted")
    assert {row[:2]: row[2:] for row in rows(result, "site_id", "loyalty_coupon_id", *names)} == expected
    assert {row[1] for row in expected.values()} == {0, 1}
    assert {row[3] for row in expected.values()} >= {None, "coupon deleted"}


def test_the_codes_of_generated_months_are_those_that_a_slow_loop_finds(
    months: tuple[analytics.AnalyticsConnection, list[Event]],
) -> None:
    connection, told = months
    had: dict[tuple[str, str], dict[str, list[datetime]]] = {}
    for each in told:
        if each.type in slow_model.COUPON_TYPES and each.coupon is not None and each.coupon.code is not None:
            by_coupon = had.setdefault((each.site_id, each.coupon.code.lower()), {})
            by_coupon.setdefault(each.coupon_id or each.entity_id, []).append(each.event_time)
    expected = {
        (site, code, coupon): min(times)
        for (site, code), by_coupon in had.items()
        if len(by_coupon) > 1
        for coupon, times in by_coupon.items()
    }
    result = analytics.run_report(connection, "code-reuse", at=at(30))
    found = rows(result, "site_id", "code", "coupon_id", "had_from")
    assert {(site, code.lower(), coupon): start for site, code, coupon, start in found} == expected
    assert len(expected) >= 4
    uses = slow_model.project(told)["coupon_usage"]
    assert all(
        times == uses[site, coupon]["times_used"]
        for site, coupon, times in rows(result, "site_id", "coupon_id", "times_used")
    )
