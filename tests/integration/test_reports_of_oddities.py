"""Reports of what is odd: uses that should not have been, and the findings of the whole log, as the histories of coupons say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import analytics
from eventstore.demo import month
from eventstore.event import Coupon, Discount, DiscountType, Event, Scope, Source
from eventstore.projections.history import HistoryEntry
from eventstore.store import EventStore
from tests import september
from tests.histories import deliveries, every_close_call, histories
from tests.september import at, snapshot
from tests.stores import NewUrl, OpenStore, tried

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
APP = "1380b703-ce81-ff05-f115-39571d94dfcd"
WINDOW = {
    "used_before_start": "before start",
    "used_after_expiration": "after expiration",
    "used_while_inactive": "while inactive",
    "after_deletion": "after deletion",
}
"""The codes of a history that speak of a use out of its window, and the words of the report."""


def event(event_id: str, type_: str, about: str, time: datetime, **facts: Any) -> Event:
    return september.event(event_id, f"coupon.{type_}", about, time, **facts)


def use(event_id: str, about: str, time: datetime, order: str | None, shown: Coupon | None, **facts: Any) -> Event:
    return event(event_id, "applied", about, time, order_id=order, app_id=APP, coupon=shown, **facts)


LIMITED = snapshot("LIMITED", usage_limit=2)
SHORT = snapshot("SHORT", start_time=at(3), expiration_time=at(10))
OFF = snapshot("OFF", active=False)
GONE = snapshot("GONE")
SHOP = [
    # LIMITED may be used twice, from the 5th on three times: the third use is above, the fifth again.
    event("l1", "created", "limited", at(1), coupon=LIMITED),
    use("l2", "limited", at(2), "o1", LIMITED),
    use("l4", "limited", at(4), "o3", LIMITED),
    use("l3", "limited", at(3), "o2", None),  # told late and without a snapshot: the second
    event("l5", "updated", "limited", at(5), coupon=snapshot("LIMITED", usage_limit=4)),
    use("l6", "limited", at(6), "o4", None),  # the fourth, of four by then
    use("l7", "limited", at(7), "o1", LIMITED),  # the first once more
    use("l8", "limited", at(8), "o5", snapshot("LIMITED", usage_limit=4)),
    # SHORT lives from the 3rd to the 10th. Its end counts as after it.
    event("s1", "created", "short", at(1), coupon=SHORT),
    use("s2", "short", at(2), "o6", SHORT),
    use("s3", "short", at(3), "o7", SHORT),
    use("s4", "short", at(10), "o8", None),
    use("s5", "short", at(11), "o7", SHORT),  # the order of the 3rd, reported again
    # OFF was switched off from the 2nd to the 4th.
    event("f1", "updated", "off", at(2), coupon=OFF),
    use("f2", "off", at(3), None, OFF),
    event("f3", "updated", "off", at(4), coupon=snapshot("OFF")),
    use("f4", "off", at(5), "o9", None),
    # GONE was deleted on the 3rd, made anew on the 5th, and deleted for good on the 7th.
    event("g1", "created", "gone", at(1), coupon=GONE),
    event("g2", "deleted", "gone", at(3)),
    use("g3", "gone", at(4), "o10", GONE),
    event("g4", "created", "gone", at(5), coupon=GONE, restored=True),
    use("g5", "gone", at(6), "o11", GONE),
    event("g6", "deleted", "gone", at(7)),
    use("g7", "gone", at(8), "o12", snapshot("GONE", active=False, expiration_time=at(8))),
    # Another site has a coupon of the same id, to which none of this happened.
    event("l1", "created", "limited", at(1), coupon=snapshot("LIMITED"), site_id="other"),
    use("l2", "limited", at(2), "o1", snapshot("LIMITED"), site_id="other"),
]


@pytest.fixture(scope="module")
def shop(new_url: NewUrl) -> Iterator[analytics.AnalyticsConnection]:
    """The shop of hand-made uses."""
    with new_url() as url:
        with EventStore.open(url) as store:
            list(store.append_many(SHOP))
        with analytics.connect(url) as connection:
            yield connection


def rows(result: analytics.ReportResult, *names: str) -> list[tuple[Any, ...]]:
    """The named columns of the answer's rows."""
    indexes = [[column.name for column in result.columns].index(name) for name in names]
    return [tuple(row[index] for index in indexes) for row in result.rows]


# Limits


def test_a_use_is_above_the_limit_that_the_coupon_had_then(shop: analytics.AnalyticsConnection) -> None:
    assert analytics.run_report(shop, "limit-breaches").rows == (
        ("shop", "limited", "LIMITED", "Limited", 2, at(4), 3, 2, "o3", at(8), 5, 4, 0, False),
    )


def test_only_uses_above_the_limit_within_the_span_count_and_keep_their_number(
    shop: analytics.AnalyticsConnection,
) -> None:
    names = ("uses_above", "first_above_at", "first_above_use", "limit_then", "times_used")
    late = analytics.run_report(shop, "limit-breaches", since=at(5))
    assert rows(late, *names) == [(1, at(8), 5, 4, 5)]
    assert rows(analytics.run_report(shop, "limit-breaches", until=at(8)), *names) == [(1, at(4), 3, 2, 5)]
    assert analytics.run_report(shop, "limit-breaches", since=at(4, 1), until=at(8)).rows == ()
    assert analytics.run_report(shop, "limit-breaches", site="other").rows == ()


# Windows


def test_each_use_out_of_its_window_stands_once_with_all_reasons(shop: analytics.AnalyticsConnection) -> None:
    result = analytics.run_report(shop, "uses-out-of-window")
    reasons = rows(result, "coupon_id", "order_id", "used_at", "reasons")
    assert reasons == [
        ("short", "o8", at(10), "after expiration"),
        ("gone", "o12", at(8), "after expiration, while inactive, after deletion"),
        ("gone", "o10", at(4), "after deletion"),
        ("off", "event:f2", at(3), "while inactive"),
        ("short", "o6", at(2), "before start"),
    ]
    assert rows(result, "code", "start_time", "expiration_time", "active", "deleted_at") == [
        ("SHORT", at(3), at(10), True, None),
        ("GONE", None, at(8), False, at(7)),
        ("GONE", None, None, True, at(3)),
        ("OFF", None, None, False, None),
        ("SHORT", at(3), at(10), True, None),
    ]


def test_of_uses_out_of_window_the_latest_are_listed_up_to_the_limit(shop: analytics.AnalyticsConnection) -> None:
    two = analytics.run_report(shop, "uses-out-of-window", limit=2)
    assert rows(two, "order_id", "reasons") == [
        ("o8", "after expiration"),
        ("o12", "after expiration, while inactive, after deletion"),
    ]
    assert analytics.run_report(shop, "uses-out-of-window", limit=0).rows == ()


def test_uses_out_of_their_window_are_found_within_a_span_and_a_site(shop: analytics.AnalyticsConnection) -> None:
    some = analytics.run_report(shop, "uses-out-of-window", site="shop", since=at(3), until=at(8))
    assert rows(some, "order_id") == [("o10",), ("event:f2",)]
    assert analytics.run_report(shop, "uses-out-of-window", site="other").rows == ()


# Findings


def test_every_finding_of_the_shop_stands_at_its_event_in_words(shop: analytics.AnalyticsConnection) -> None:
    position = {(each.site_id, each.event_id): number for number, each in enumerate(SHOP, start=1)}
    found = analytics.run_report(shop, "findings", site="shop", limit=None)
    told = rows(found, "code", "position", "coupon_code", "order_id", "what")
    assert sorted(row for row in told if row[0] != "late") == sorted(
        (code, position["shop", event_id], shown, order, what)
        for event_id, code, shown, order, what in (
            ("l4", "over_limit", "LIMITED", "o3", "use 3 of 2 allowed"),
            ("l7", "reported_again", "LIMITED", "o1", again(at(2))),
            ("l8", "over_limit", "LIMITED", "o5", "use 5 of 4 allowed"),
            ("s2", "used_before_start", "SHORT", "o6", "used before 2026-09-03 00:00:00 UTC, when it begins"),
            ("s4", "used_after_expiration", "SHORT", "o8", "used after it expired at 2026-09-10 00:00:00 UTC"),
            ("s5", "reported_again", "SHORT", "o7", again(at(3))),
            ("f2", "used_while_inactive", "OFF", None, "used while it was switched off"),
            ("g3", "after_deletion", "GONE", "o10", "used after its deletion of 2026-09-03 00:00:00 UTC"),
            ("g7", "after_deletion", "GONE", "o12", "used after its deletion of 2026-09-07 00:00:00 UTC"),
            ("g7", "used_after_expiration", "GONE", "o12", "used after it expired at 2026-09-08 00:00:00 UTC"),
            ("g7", "used_while_inactive", "GONE", "o12", "used while it was switched off"),
        )
    )


def again(time: datetime) -> str:
    return f"the use was reported already as of {time:%Y-%m-%d %H:%M:%S} UTC and counts once"


def test_findings_of_one_code_are_the_latest_and_say_how_many_there_are(shop: analytics.AnalyticsConnection) -> None:
    one = analytics.run_report(shop, "findings", code="after_deletion", limit=1)
    assert rows(one, "order_id", "found") == [("o12", 2)]
    spanned = analytics.run_report(shop, "findings", code="over_limit", since=at(5))
    assert rows(spanned, "order_id", "what", "found") == [("o5", "use 5 of 4 allowed", 1)]
    assert analytics.run_report(shop, "findings", code="no_such_code").rows == ()
    assert len(analytics.run_report(shop, "findings", limit=0).rows) == 0


def test_how_late_is_said_in_hours_and_then_in_days_and_a_snapshot_of_long_ago_is_not_late(store: EventStore) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for hours in (0.9, 1.1, 30, 73):
        store.append(event(f"e{hours}", "deleted", "c", now - timedelta(hours=hours)))
    old = now - timedelta(days=9)
    store.append(event("seen", "observed", "d", old, coupon=snapshot("SEEN"), source=Source.SNAPSHOT))
    result = analytics.run_report(store.engine, "findings")
    assert rows(result, "code", "what") == [
        ("late", "recorded 3 days after it happened"),
        ("late", "recorded 30 h after it happened"),
        ("late", "recorded 1 h after it happened"),
    ]


def test_what_breaks_wix_s_own_rules_is_found_at_each_event_that_shows_it(store: EventStore) -> None:
    now = datetime.now(UTC)
    product = Scope(namespace="stores", group="product")
    broken: dict[str, dict[str, Any]] = {
        "scope_and_minimum_subtotal": {"scope": product, "minimum_subtotal": Decimal(5)},
        "free_shipping_with_scope": {"scope": product, "discount": Discount(type=DiscountType.FREE_SHIPPING)},
        "bookings_not_limited_to_one_item": {"scope": Scope(namespace="bookings"), "limited_to_one_item": False},
        "code_too_long": {"code": "C" * 21},
        "name_too_long": {"name": "N" * 81},
        "unknown_discount": {"discount": Discount(type=DiscountType.UNKNOWN)},
    }
    for code, facts in broken.items():
        shown = snapshot("FINE").model_copy(update=facts)
        store.append(event(code, "created", code, now, coupon=shown))
    store.append(event("other", "deleted", "c", now, entity_id="elsewhere"))
    result = analytics.run_report(store.engine, "findings")
    assert rows(result, "code", "coupon_id") == [
        ("coupon_id_differs_from_entity_id", "c"),
        *((code, code) for code in reversed(broken)),
    ]
    assert rows(result, "what")[0] == ("it names the coupon c, but is about elsewhere",)


# What a coupon's history says of it


def told_by_histories(store: EventStore) -> list[tuple[str | None, HistoryEntry]]:
    """Every entry of every coupon's history; of a coupon that only its rewards tell of as well."""
    keys = {(record.event.site_id, _about(record.event)) for record in store.stream()}
    return [
        (coupon_id, entry)
        for site_id, coupon_id in sorted(key for key in keys if key[1] is not None)
        for entry in store.stream_history(str(coupon_id), site_id=site_id)
    ]


def _about(event: Event) -> str | None:
    return event.coupon_id or (event.entity_id if event.type.startswith("coupon.") else None)


def agree_with_histories(store: EventStore) -> Counter[str]:
    """Compare the three reports with the histories; how often each code was found."""
    store.project()
    entries = told_by_histories(store)
    expected = sorted((finding.code, entry.position) for _, entry in entries for finding in entry.findings)
    with analytics.connect(store.engine) as connection:
        found = analytics.run_report(connection, "findings", limit=None)
        some = analytics.run_report(connection, "findings", limit=2)
        out = analytics.run_report(connection, "uses-out-of-window", limit=None)
        for limit in (0, 1, len(out.rows) // 3, len(out.rows) // 2, len(out.rows), 2**63 - 1):
            assert analytics.run_report(connection, "uses-out-of-window", limit=limit).rows == out.rows[:limit]
        above = analytics.run_report(connection, "limit-breaches")
    about = rows(found, "code", "position", "coupon_id")
    assert sorted((code, position) for code, position, coupon in about if coupon is not None) == expected
    assert {code for code, _, coupon in about if coupon is None} <= {"late"}
    of_code = Counter(code for code, _, _ in about)
    latest = [row for row in found.rows if [each[1] for each in found.rows if each[0] == row[0]].index(row[1]) < 2]
    assert some.rows == tuple(latest)
    assert all(of_code[code] == number for code, number in rows(found, "code", "found"))
    windows = {
        (entry.event.site_id, coupon_id, _order(entry.event), entry.event.event_time): ", ".join(
            words for code, words in WINDOW.items() if code in {finding.code for finding in entry.findings}
        )
        for coupon_id, entry in entries
        if entry.event.type == "coupon.applied" and {each.code for each in entry.findings} & set(WINDOW)
    }
    assert {row[:4]: row[4] for row in rows(out, "site_id", "coupon_id", "order_id", "used_at", "reasons")} == windows
    assert len(out.rows) == len(windows)
    over = [
        (entry.event.site_id, coupon_id, entry.event.event_time)
        for coupon_id, entry in entries
        if "over_limit" in {finding.code for finding in entry.findings}
    ]
    assert sorted(rows(above, "site_id", "coupon_id", "uses_above", "first_above_at", "last_above_at")) == sorted(
        (*key, len(times), min(times), max(times))
        for key in {each[:2] for each in over}
        for times in [[time for *of, time in over if tuple(of) == key]]
    )
    return Counter(code for code, _ in expected)


def _order(event: Event) -> str:
    return event.order_id if event.order_id is not None else f"event:{event.event_id}"


@pytest.mark.parametrize("seed", [7, 8])
def test_the_reports_of_a_generated_month_find_what_the_histories_of_its_coupons_find(
    new_store: OpenStore, seed: int
) -> None:
    with new_store() as store:
        store.ingest(enumerate((delivery.line() for delivery in month(seed, events=600)), start=1))
        found = agree_with_histories(store)
    assert set(found) >= {"late", "after_deletion", "over_limit", "used_after_expiration", "reported_again"}


def test_the_reports_find_what_the_histories_find_however_sequences_and_times_collide(new_store: OpenStore) -> None:
    with new_store() as store:
        close = [each for each in every_close_call() if int(each.site_id.removeprefix("site-")) % 7 == 0]
        list(store.append_many(close))
        found = agree_with_histories(store)
    assert set(found) >= {"sequence_disagrees_with_time", "after_deletion", "reported_again"}


def test_the_reports_of_any_history_find_what_its_coupons_histories_find(new_store: OpenStore, dialect: str) -> None:
    @tried(3, dialect)
    @given(data=st.data(), history=histories(20))
    def holds(data: st.DataObject, history: list[Event]) -> None:
        with new_store() as store:
            list(store.append_many(data.draw(deliveries(history))))
            agree_with_histories(store)

    holds()
