"""Reports over a store: hand-counted answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest

import analytics
from eventstore.demo import examples, month
from eventstore.errors import ReportError
from eventstore.store import EventStore
from tests.stores import NewUrl

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
STORES = "1380b703-ce81-ff05-f115-39571d94dfcd"
TEN = {"name": "Ten off", "code": "TEN", "type": "PercentOff", "percentOffRate": 10, "usageLimit": 2}
FIVE = {"name": "Five euros", "code": "FIVE", "type": "MoneyOff", "moneyOffAmount": 5.25}
SHIP = {"name": 'Free, "really"', "code": "=SHIP", "type": "FreeShipping", "freeShipping": True}


class History:
    """What a shop's events.js would send, one call an event. Days and hours are of September 2026, UTC."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.told = 0

    def _send(self, handler: str, coupon: str, day: int, hour: int, site: str, **body: Any) -> None:
        self.told += 1
        time = f"2026-09-{day:02d}T{hour:02d}:00:00.000001Z"
        metadata = {"id": f"event-{self.told}", "entityId": coupon, "eventTime": time}
        sent = orjson.dumps({"metadata": metadata | {"triggeredByAnonymizeRequest": False}, **body})
        [outcome] = self.store.receive(sent, handler=f"wixMarketing_onCoupon{handler}", site=site)
        assert outcome.kind == "appended", outcome

    def created(self, coupon: str, content: dict[str, Any], day: int, hour: int = 0, site: str = "shop") -> None:
        self._send("Created", coupon, day, hour, site, entity={"_id": coupon, "active": True, **content})

    def deleted(self, coupon: str, day: int, hour: int = 0, site: str = "shop") -> None:
        self._send("Deleted", coupon, day, hour, site)

    def applied(self, coupon: str, content: dict[str, Any], order: str, uses: int, day: int, hour: int = 0) -> None:
        shown = {"_id": coupon, "active": True, "numberOfUsages": uses, **content}
        self._send(
            "Applied", coupon, day, hour, "shop", data={"coupon": shown, "wixAppId": STORES, "wixAppOrderId": order}
        )


@pytest.fixture(scope="module")
def shop_once(new_url: NewUrl) -> Iterator[str]:
    """Four coupons, seven uses told eight times.

    | coupon | life | uses |
    |---|---|---|
    | TEN, 10 %, at most 2 uses | made on the 1st, deleted on the 5th | the 2nd (told again on the 4th), the 3rd, and the 6th |
    | FIVE, 5.25 off | made on the 1st, deleted on the 3rd, back on the 5th | the 2nd, the 4th, the 5th, and the 6th |
    | =SHIP, free shipping | made on the 1st | never |
    | gone | of another site; only its deletion on the 2nd is known | never |
    """
    with new_url() as url:
        with EventStore.open(url) as store:
            history = History(store)
            history.created("ten", TEN, 1)
            history.created("five", FIVE, 1)
            history.created("ship", SHIP, 1)
            history.applied("ten", TEN, "order-1", 1, day=2, hour=10)
            history.applied("five", FIVE, "order-1", 1, day=2, hour=10)
            history.deleted("gone", day=2, site="other")
            history.applied("ten", TEN, "order-2", 2, day=3)
            history.deleted("five", day=3, hour=12)
            history.applied("five", FIVE, "order-3", 2, day=4)
            history.applied("ten", TEN, "order-1", 2, day=4, hour=1)
            history.deleted("ten", day=5)
            history.created("five", FIVE | {"numberOfUsages": 2}, 5)
            history.applied("five", FIVE, "order-4", 3, day=5, hour=8)
            history.applied("ten", TEN, "order-5", 4, day=6)
            history.applied("five", FIVE, "order-6", 4, day=6, hour=23)
        yield url


@pytest.fixture
def shop(shop_once: str, new_url: NewUrl) -> Iterator[str]:
    """A copy of that store for the test alone; its projections have not seen anything yet."""
    with new_url(of=shop_once) as url:
        yield url


@pytest.fixture(scope="module")
def month_store(new_url: NewUrl) -> Iterator[str]:
    with new_url() as url:
        with EventStore.open(url) as store:
            store.ingest(enumerate((delivery.line() for delivery in month(events=600)), start=1))
        yield url


@pytest.fixture
def connection(shop: str) -> Iterator[analytics.AnalyticsConnection]:
    with analytics.connect(shop) as opened:
        yield opened


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 9, day, hour, 0, 0, 1, tzinfo=UTC)


def rows(result: analytics.ReportResult, *names: str) -> list[tuple[Any, ...]]:
    """The named columns of the answer's rows."""
    indexes = [[column.name for column in result.columns].index(name) for name in names]
    return [tuple(row[index] for index in indexes) for row in result.rows]


# --- usage per coupon -------------------------------------------------------------------------------------------------


def test_usage_per_coupon_counts_an_order_once_and_lists_what_was_never_used(shop: str) -> None:
    result = analytics.run_report(shop, "usage-per-coupon")
    five = Decimal("5.25")
    assert result.rows == (
        ("shop", "five", "FIVE", "Five euros", "MONEY_OFF", five, 4, 4, 0, at(2, 10), at(6, 23), 1, None, False),
        ("shop", "ten", "TEN", "Ten off", "PERCENT_OFF", 10, 3, 4, -1, at(2, 10), at(6), 1, 2, True),
        ("shop", "ship", "=SHIP", 'Free, "really"', "FREE_SHIPPING", None, 0, 0, 0, None, None, 0, None, False),
        ("other", "gone", None, None, "UNKNOWN", None, 0, None, None, None, None, 0, None, True),
    )
    assert (result.title, result.position) == ("Usage per coupon", 15)
    assert all(type(value) is not float for row in result.rows for value in row)
    assert all(value.tzinfo is UTC for row in result.rows for value in row if isinstance(value, datetime))


def test_usage_per_coupon_within_a_window_includes_its_beginning_and_not_its_end(shop: str) -> None:
    result = analytics.run_report(shop, "usage-per-coupon", since="2026-09-02T10:00:00.000001Z", until=at(6))
    names = ("coupon_id", "times_used", "reported_usages", "difference", "last_used_at", "uses_after_deletion")
    assert rows(result, *names) == [
        ("five", 3, None, None, at(5, 8), 1),
        ("ten", 2, None, None, at(3), 0),
        ("ship", 0, None, None, None, 0),
        ("gone", 0, None, None, None, 0),
    ]
    assert result.parameters == {"site": None, "since": at(2, 10), "until": at(6)}


def test_half_a_window_is_a_window(shop: str) -> None:
    names = ("coupon_id", "times_used", "reported_usages")
    late = analytics.run_report(shop, "usage-per-coupon", since="2026-09-06")
    assert rows(late, *names)[:2] == [("five", 1, None), ("ten", 1, None)]
    early = analytics.run_report(shop, "usage-per-coupon", until="2026-09-03")
    assert rows(early, *names)[:2] == [("five", 1, None), ("ten", 1, None)]


def test_usage_per_coupon_of_one_site(shop: str) -> None:
    assert rows(analytics.run_report(shop, "usage-per-coupon", site="other"), "coupon_id") == [("gone",)]
    assert analytics.run_report(shop, "usage-per-coupon", site="nowhere").rows == ()
    # A value is bound: it can be nothing but a value.
    assert analytics.run_report(shop, "usage-per-coupon", site="x' OR '1'='1").rows == ()


# --- usage per discount type ------------------------------------------------------------------------------------------


def test_usage_per_discount_type_lists_the_types_there_are_in_their_order(shop: str) -> None:
    assert analytics.run_report(shop, "usage-per-discount-type").rows == (
        ("MONEY_OFF", 1, 1, 4, Decimal("57.1"), 4, at(2, 10), at(6, 23), 1),
        ("PERCENT_OFF", 1, 1, 3, Decimal("42.9"), 3, at(2, 10), at(6), 1),
        ("FREE_SHIPPING", 1, 0, 0, 0, None, None, None, 0),
        ("UNKNOWN", 1, 0, 0, 0, None, None, None, 0),
    )


def test_usage_per_discount_type_within_a_window_of_one_site(shop: str) -> None:
    result = analytics.run_report(shop, "usage-per-discount-type", site="shop", since=at(3), until="2026-09-05")
    assert rows(result, "discount_type", "coupons", "coupons_used", "times_used", "share_of_uses") == [
        ("MONEY_OFF", 1, 1, 1, 50),
        ("PERCENT_OFF", 1, 1, 1, 50),
        ("FREE_SHIPPING", 1, 0, 0, 0),
    ]


def test_without_uses_there_is_no_share_of_them(shop: str) -> None:
    result = analytics.run_report(shop, "usage-per-discount-type", until="2026-09-01")
    assert set(rows(result, "times_used", "share_of_uses", "uses_per_used_coupon")) == {(0, None, None)}


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", analytics.reports(), ids=lambda report: report.name)
def test_the_declared_columns_and_parameters_are_the_query_s(
    connection: analytics.AnalyticsConnection, report: analytics.Report
) -> None:
    [statement] = duckdb.extract_statements(report.sql)
    assert statement.named_parameters == {each.name for each in report.parameters}
    made = connection.execute(report.sql, report.values({})).description
    assert [column[0] for column in made] == [column.name for column in report.columns]
    kinds = {"text": str, "boolean": bool, "time": datetime, "amount": Decimal, "percent": Decimal, "coupons": int}
    kinds |= {"date": date, "seconds": Decimal}
    for row in analytics.run_report(connection, report.name).rows:
        for column, value in zip(report.columns, row, strict=True):
            assert value is None or isinstance(value, kinds.get(column.unit, int | Decimal)), column


@pytest.mark.parametrize("name", [report.name for report in analytics.reports()])
def test_an_empty_store_gives_an_empty_answer(store_url: str, name: str) -> None:
    result = analytics.run_report(store_url, name)
    assert (result.rows, result.position, result.to_json(), result.cells()) == ((), 0, b"[]", [])
    assert result.to_csv().count("\r\n") == 1


def test_five_events_read_well(store: EventStore) -> None:
    history = History(store)
    history.created("ten", TEN, 1)
    history.created("ship", SHIP, 1)
    history.applied("ten", TEN, "order-1", 1, day=2, hour=9)
    history.applied("ten", TEN, "order-2", 2, day=3)
    history.applied("ship", SHIP, "order-2", 1, day=3)
    per_coupon = analytics.run_report(store.engine, "usage-per-coupon")
    per_type = analytics.run_report(store.engine, "usage-per-discount-type")
    assert store.head() == 5  # the engine it was lent is still open
    assert ["|".join(cells) for cells in per_coupon.cells()] == [
        "shop|ten|TEN|Ten off|PERCENT_OFF|10|2|2|0|2026-09-02 09:00|2026-09-03 00:00|0|2|no",
        'shop|ship|=SHIP|Free, "really"|FREE_SHIPPING|–|1|1|0|2026-09-03 00:00|2026-09-03 00:00|0|–|no',
    ]
    assert per_coupon.to_csv().splitlines()[2] == (
        'shop,ship,\'=SHIP,"Free, ""really""",FREE_SHIPPING,,1,1,0,'
        "2026-09-03T00:00:00.000001Z,2026-09-03T00:00:00.000001Z,0,,false"
    )
    assert per_type.cells() == [
        ["PERCENT_OFF", "1", "1", "2", "66.7", "2", "2026-09-02 09:00", "2026-09-03 00:00", "0"],
        ["FREE_SHIPPING", "1", "1", "1", "33.3", "1", "2026-09-03 00:00", "2026-09-03 00:00", "0"],
    ]
    assert orjson.loads(per_type.to_json())[0]["share_of_uses"] == 66.7


def test_the_sums_of_both_reports_are_the_number_of_redemptions(month_store: str) -> None:
    with analytics.connect(month_store) as connection:
        [(redemptions,)] = connection.execute("SELECT count(*) FROM redemptions").fetchall()
        per_coupon = analytics.run_report(connection, "usage-per-coupon")
        per_type = analytics.run_report(connection, "usage-per-discount-type")
    assert redemptions > 300
    assert sum(count for (count,) in rows(per_coupon, "times_used")) == redemptions
    assert sum(count for (count,) in rows(per_type, "times_used")) == redemptions
    assert sum(count for (count,) in rows(per_type, "coupons")) == len(per_coupon.rows)
    assert sum(late for (late,) in rows(per_coupon, "uses_after_deletion")) > 0
    assert rows(per_coupon, "times_used") == sorted(rows(per_coupon, "times_used"), reverse=True)
    ends = ("2026-08-01", "2026-09-01", "2026-09-08T00:00:00+02:00", "2026-09-20", "2026-11-01")
    parts = [
        analytics.run_report(month_store, "usage-per-coupon", since=since, until=until)
        for since, until in pairwise(ends)
    ]
    assert sum(count for part in parts for (count,) in rows(part, "times_used")) == redemptions


def test_the_report_and_the_view_of_a_coupon_agree(month_store: str) -> None:
    result = analytics.run_report(month_store, "usage-per-coupon")
    names = ("coupon_id", "times_used", "reported_usages", "first_used_at", "last_used_at", "uses_after_deletion")
    with EventStore.open(month_store) as store:
        store.project()
        states = store.coupons(limit=1000)
    assert sorted(rows(result, *names)) == sorted(
        (
            state.coupon_id,
            state.usage.times_used,
            state.usage.reported_usages,
            state.usage.first_used_at,
            state.usage.last_used_at,
            state.usage.uses_after_deletion,
        )
        for state in states
    )


def test_a_use_half_a_year_after_the_deletion_is_found(store: EventStore) -> None:
    store.ingest(enumerate((delivery.line() for delivery in examples()), start=1))
    result = analytics.run_report(store.engine, "usage-per-coupon")
    found = {row[0]: row[1:] for row in rows(result, "code", "times_used", "uses_after_deletion", "deleted")}
    assert found["SummerSale"] == (1, 1, True)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("usage-per-cupon", {}, r"no report 'usage-per-cupon' \(did you mean usage-per-coupon\?\)"),
        ("usage-per-coupon", {"since": "last week"}, "since takes a date .* not 'last week'"),
        ("usage-per-coupon", {"form": "2026-09-01"}, "no parameter 'form'; it has site, since, until"),
    ],
)
def test_a_wrong_question_is_refused_before_the_store_is_opened(
    tmp_path: Path, name: str, parameters: dict[str, Any], message: str
) -> None:
    path = tmp_path / "store.db"
    with pytest.raises(ReportError, match=message):
        analytics.run_report(path, name, **parameters)
    assert not path.exists()
