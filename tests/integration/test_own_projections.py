"""Projections that a store's owner adds: a folder with a model gets a table that is live, rebuilt and asked like any other."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import analytics
from eventstore.demo import month
from eventstore.errors import InputError, NotFound, ProjectionError
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.projections import runner, tables
from eventstore.projections.catalogue import projection
from eventstore.store import EventStore
from tests.commands import Command, cells
from tests.rows import change
from tests.serving import APPLIED, PROJECTIONS, applied, serving
from tests.slow_model import project

APP_WEEKS, COUPON_DAYS = PROJECTIONS / "app_weeks", PROJECTIONS / "coupon_days"
MONDAY = datetime(2026, 9, 7, tzinfo=UTC)
Rows = list[dict[str, Any]]


def use(event_id: str, order: str | None, at: datetime, *, app: str | None = "shop", coupon: str = "c1") -> Event:
    snapshot = Coupon(id=coupon, name=f"Name of {coupon}", discount=Discount(type=DiscountType.MONEY_OFF))
    return Event(
        event_id=event_id,
        type="coupon.applied",
        site_id="site",
        source=Source.VELO,
        entity_id=coupon,
        coupon_id=coupon,
        event_time=at,
        order_id=order,
        app_id=app,
        coupon=snapshot,
    )


HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STORY = (
    use("paid-1", "o1", MONDAY + HOUR),
    use("e2", "o2", MONDAY + 2 * DAY, coupon="c2"),
    use("e3", "o3", MONDAY + 3 * DAY, app=None),
    use("e4", "o4", MONDAY + 9 * DAY, app="till"),
    # The order was told as paid first; that it was completed a week before comes late. Nothing else was used in the later week.
    use("completed-1", "o1", MONDAY - HOUR),
    use("e5", None, MONDAY + 4 * DAY),
    use("completed-4", "o4", MONDAY + 9 * DAY - HOUR, app="shop"),
)
WEEKS_AFTER = {
    3: [
        ("2026-09-07", "", 1, MONDAY + 3 * DAY),
        ("2026-09-07", "shop", 2, MONDAY + 2 * DAY),
    ],
    5: [
        ("2026-08-31", "shop", 1, MONDAY - HOUR),
        ("2026-09-07", "", 1, MONDAY + 3 * DAY),
        ("2026-09-07", "shop", 1, MONDAY + 2 * DAY),
        ("2026-09-14", "till", 1, MONDAY + 9 * DAY),
    ],
    7: [
        ("2026-08-31", "shop", 1, MONDAY - HOUR),
        ("2026-09-07", "", 1, MONDAY + 3 * DAY),
        ("2026-09-07", "shop", 2, MONDAY + 4 * DAY),
        ("2026-09-14", "shop", 1, MONDAY + 9 * DAY - HOUR),
    ],
}
"""What the weeks hold after so many events of the story, worked out by hand."""


def rows_of(weeks: Iterable[tuple[str, str, int, datetime]]) -> Rows:
    names = ("week", "app", "times_used", "last_at")
    return [{"site_id": "site", **dict(zip(names, week, strict=True))} for week in weeks]


def app_weeks(events: list[Event]) -> Rows:
    """The same by a slow and obvious model."""
    groups: dict[tuple[str, str, str], Rows] = defaultdict(list)
    for redemption in project(events)["redemptions"].values():
        at = redemption["redeemed_at"]
        week = (at - timedelta(days=at.weekday())).strftime("%Y-%m-%d")
        groups[redemption["site_id"], week, redemption["app_id"] or ""].append(redemption)
    return [
        {
            "site_id": site_id,
            "week": week,
            "app": app,
            "times_used": len(found),
            "last_at": max(each["redeemed_at"] for each in found),
        }
        for (site_id, week, app), found in sorted(groups.items())
    ]


def log_of(store: EventStore) -> list[Event]:
    return [record.event for record in store.stream()]


def positions(store: EventStore) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {name: each.position for name, each in tables.read_checkpoints(connection).items()}


def raw(store: EventStore, name: str) -> list[tuple[Any, ...]]:
    """Every byte of a projection's rows."""
    key = ", ".join(store.catalogue.find(name).key)
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name} ORDER BY {key}")]


# Live, and rebuilt


def test_usage_per_app_per_week_is_live_and_rebuilt_as_worked_out_by_hand(store_url: str) -> None:
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        before = 0
        for count, weeks in WEEKS_AFTER.items():
            list(store.append_many(STORY[before:count]))
            before = count
            assert store.project() == count
            assert store.projection_rows("app_weeks") == rows_of(weeks)
        list(store.append_many(STORY))  # again: nothing is counted twice
        store.project()
        assert store.projection_rows("app_weeks") == rows_of(WEEKS_AFTER[7])
        live = raw(store, "app_weeks")
        assert set(store.rebuild_projections("app_weeks").rows) == {"redemptions", "coupon_usage", "app_weeks"}
        assert raw(store, "app_weeks") == live


def test_a_week_that_loses_its_only_use_to_the_week_before_is_gone_however_the_steps_fall(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 1)
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        list(store.append_many([STORY[0]]))
        store.project()
        assert [row["week"] for row in store.projection_rows("app_weeks")] == ["2026-09-07"]
        list(store.append_many([STORY[4]]))
        store.project()
        assert [row["week"] for row in store.projection_rows("app_weeks")] == ["2026-08-31"]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_model_from_facts_that_reads_payloads_too_is_live_and_rebuilt(store_url: str) -> None:
    expected = [
        {
            "site_id": "site",
            "coupon_id": "c1",
            "days": ["2026-09-06", "2026-09-07", "2026-09-10", "2026-09-11", "2026-09-15", "2026-09-16"],
            "last_day": "2026-09-16",
            "names": ["Name of c1"],
        },
        {
            "site_id": "site",
            "coupon_id": "c2",
            "days": ["2026-09-09"],
            "last_day": "2026-09-09",
            "names": ["Name of c2"],
        },
    ]
    with EventStore.open(store_url, projections=[COUPON_DAYS]) as store:
        for each in STORY:
            store.append(each)
            store.project()
        assert store.projection_rows("coupon_days") == expected
        store.rebuild_projections("coupon_days")
        assert store.projection_rows("coupon_days") == expected


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_month_of_a_shop_projects_as_the_slow_model_says_in_small_steps_and_rebuilt(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 60)
    with EventStore.open(store_url, projections=[APP_WEEKS, COUPON_DAYS]) as store:
        store.ingest(islice(enumerate(delivery.line() for delivery in month()), 300))
        store.project()
        assert store.projection_rows("app_weeks") == app_weeks(log_of(store))
        live = {name: raw(store, name) for name in ("app_weeks", "coupon_days", "coupon_usage")}
        store.rebuild_projections()
        assert {name: raw(store, name) for name in live} == live


CHAIN = """-- projection: week_totals
-- version: 1
-- from: app_weeks (times_used)
-- key: site_id, week
-- about: How often coupons were used in every week.
-- column: site_id     text    the site
-- column: week        text    the Monday that the week begins with
-- column: times_used  bigint  redemptions in that week

-- [lift]
SELECT site_id, week, CAST(sum(times_used) AS BIGINT) AS times_used FROM app_weeks GROUP BY site_id, week

-- [merge]
SELECT site_id, week, CAST(sum(times_used) AS BIGINT) AS times_used FROM partial GROUP BY site_id, week;
"""


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_projection_can_be_made_of_another_of_one_s_own(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "a_before_what_it_reads.sql").write_text(CHAIN, encoding="utf-8")
    with EventStore.open(store_url, projections=[tmp_path, APP_WEEKS]) as store:
        for count, each in enumerate(STORY, start=1):
            store.append(each)
            store.project()
            totals: dict[str, int] = defaultdict(int)
            for week in app_weeks(log_of(store)):
                totals[week["week"]] += week["times_used"]
            found = {row["week"]: row["times_used"] for row in store.projection_rows("week_totals")}
            assert found == totals, count
        live = raw(store, "week_totals")
        store.rebuild_projections("week_totals")
        assert raw(store, "week_totals") == live


# Added, left out, taken up again


def test_a_projection_added_to_a_store_that_has_events_is_built_by_an_upgrade_and_then_follows(store_url: str) -> None:
    with EventStore.open(store_url) as store:
        list(store.append_many(STORY[:5]))
        store.project()
    with EventStore.open(store_url, projections=[APP_WEEKS, COUPON_DAYS]) as store:
        assert store.projections_behind() == ("app_weeks", "coupon_days")
        with pytest.raises(
            ProjectionError, match=r"app_weeks has not been built from the log yet; `eventstore upgrade`"
        ):
            store.projection_rows("app_weeks")
        list(store.append_many(STORY[5:6]))
        store.project()
        assert positions(store)["redemptions"] == 6, "the others do not wait for it"
        done = store.upgrade()
        assert {each.name: each.version_before for each in done.projections} == {
            "redemptions": projection("redemptions").version,
            "coupon_usage": projection("coupon_usage").version,
            "app_weeks": None,
            "coupon_days": None,
        }
        list(store.append_many(STORY[6:]))
        store.project()
        assert store.projection_rows("app_weeks") == rows_of(WEEKS_AFTER[7])


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_projection_that_another_program_left_behind_is_seen_to_be_and_does_not_go_on_wrong(store_url: str) -> None:
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        list(store.append_many(STORY[:3]))
        store.project()
        with EventStore.open(store_url) as other:
            list(other.append_many(STORY[3:5]))
            other.project()
        list(store.append_many(STORY[5:]))
        store.project()
        assert store.projections_behind() == ("app_weeks",)
        assert store.projection_rows("app_weeks") == rows_of(WEEKS_AFTER[3])
        store.upgrade()
        assert store.projections_behind() == ()
        assert store.projection_rows("app_weeks") == rows_of(WEEKS_AFTER[7])


def test_a_projection_whose_source_another_program_rebuilt_is_seen_to_be_behind(store_url: str) -> None:
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        list(store.append_many(STORY))
        store.project()
        assert store.projections_behind() == ()
        with EventStore.open(store_url) as other:
            other.rebuild_projections("redemptions")
        # The position is what it was, but what it was made of is another table.
        assert store.projections_behind() == ("app_weeks",)
        store.upgrade()
        assert store.projections_behind() == ()
        assert store.projection_rows("app_weeks") == rows_of(WEEKS_AFTER[7])


def test_a_new_version_of_a_model_is_served_as_the_old_one_made_it_until_an_upgrade(
    store_url: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(APP_WEEKS, tmp_path / "mine")
    with EventStore.open(store_url, projections=[folder]) as store:
        list(store.append_many(STORY))
        store.project()
    file = folder / "app_weeks.sql"
    text = file.read_text(encoding="utf-8").replace("-- version: 1", "-- version: 2")
    text = text.replace("-- column: last_at     timestamp", "-- column: first_at    timestamp")
    file.write_text(text.replace("last_at", "first_at").replace("max(", "min("), encoding="utf-8")
    with EventStore.open(store_url, projections=[folder]) as store:
        assert [row["first_at"] for row in store.projection_rows("app_weeks")] == [None] * 4
        assert [row["times_used"] for row in store.projection_rows("app_weeks")] == [1, 1, 2, 1]
        store.upgrade()
        assert [row["first_at"] for row in store.projection_rows("app_weeks")][2] == MONDAY + 2 * DAY


def test_a_table_of_somebody_else_s_is_not_taken_for_a_projection_s(store_url: str) -> None:
    change(store_url, "CREATE TABLE app_weeks (mine TEXT)", "INSERT INTO app_weeks VALUES ('dear to me')")
    with pytest.raises(ProjectionError, match=r"has a table app_weeks that is no projection's"):
        EventStore.open(store_url, projections=[APP_WEEKS])
    with EventStore.open(store_url) as store, store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM app_weeks").fetchall() == [("dear to me",)]


# Asking


def test_rows_come_page_by_page_in_the_order_of_the_key_and_by_site(store_url: str) -> None:
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        list(store.append_many([*STORY, STORY[0].model_copy(update={"site_id": "another", "event_id": "x"})]))
        store.project()
        everything = store.projection_rows("app_weeks")
        assert len(everything) == 5
        assert [everything[0]] == store.projection_rows("app_weeks", site_id="another")
        paged: Rows = []
        while page := store.projection_rows("app_weeks", after=paged[-1] if paged else None, limit=2):
            paged += page
        assert paged == everything == list(store.stream_projection("app_weeks"))
        with pytest.raises(NotFound, match=r"app_week.*known ones are coupons, .*app_weeks"):
            store.projection_rows("app_week")
        with pytest.raises(InputError, match=r"a row of app_weeks, with its site_id, week, app"):
            store.projection_rows("app_weeks", after={"week": "2026-09-07"})


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_sql_asks_one_s_own_projections_too(store_url: str) -> None:
    with EventStore.open(store_url, projections=[APP_WEEKS, COUPON_DAYS]) as store:
        list(store.append_many(STORY))
    with analytics.connect(store_url, projections=[APP_WEEKS, COUPON_DAYS]) as connection:
        asked = "SELECT week, sum(times_used), max(last_at) > min(last_at) FROM app_weeks GROUP BY ALL ORDER BY ALL"
        assert connection.execute(asked).fetchall() == [
            ("2026-08-31", 1, False),
            ("2026-09-07", 3, True),
            ("2026-09-14", 1, False),
        ]
        asked = "SELECT coupon_id, days ->> -1, last_day FROM coupon_days ORDER BY ALL"
        assert connection.execute(asked).fetchall() == [
            ("c1", "2026-09-16", "2026-09-16"),
            ("c2", "2026-09-09", "2026-09-09"),
        ]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_commands_know_the_projections_of_the_settings(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    eventstore = Command(store_url)
    with EventStore.open(store_url) as store:
        list(store.append_many(STORY))
        store.project()
    Path("eventstore.toml").write_text(f'projections = ["{APP_WEEKS.as_posix()}"]\n', encoding="utf-8")
    listed = {each["name"]: each for each in eventstore.json("projection", "--list")}
    assert listed["app_weeks"]["behind"]
    assert [column["name"] for column in listed["app_weeks"]["columns"]][:3] == ["site_id", "week", "app"]
    assert "BEHIND" in eventstore("projection", "--list")
    assert "eventstore upgrade" in eventstore.refused("projection", "app_weeks", status=1)
    assert "app_weeks" in eventstore("upgrade")
    shown = cells(eventstore("projection", "app_weeks"))
    assert shown[0] == ["How often coupons were used in every app of a site, week by week."]
    assert ["site", "2026-09-07", "shop", "2", "2026-09-11 00:00"] in shown
    assert "more rows" in eventstore("projection", "app_weeks", "--limit", "2")
    lines = eventstore("projection", "app_weeks", "--site", "site", "--json").splitlines()
    assert len(lines) == 4
    assert '"week":"2026-08-31","app":"shop","times_used":1' in lines[0]
    assert {each["name"] for each in eventstore.json("status")["projections"]} >= {"app_weeks", "coupons"}
    assert "app_weeks" in eventstore.json("rebuild-projections", "app_weeks")["rows"]
    # A report catches up with the log as well, and must not leave it behind.
    with EventStore.open(store_url, projections=[APP_WEEKS]) as store:
        store.append(use("e9", "o9", MONDAY))
    eventstore("report", "usage-per-coupon", "--json")
    assert not {each["name"]: each for each in eventstore.json("projection", "--list")}["app_weeks"]["behind"]
    monkeypatch.setenv("EVENTSTORE_PROJECTIONS", '["nowhere"]')
    assert "the folder nowhere" in eventstore.refused("status", status=1)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_server_follows_the_log_with_one_s_own_projection(store_url: str, tmp_path: Path) -> None:
    settings = {"EVENTSTORE_PROJECTIONS": f'["{APP_WEEKS.as_posix()}"]'}
    with serving(tmp_path / "served", url=store_url, **settings) as server, server.client() as client:
        for number in (1, 2):
            answer = client.post(f"/v1/velo/{APPLIED}", json=applied(f"e-{number}", "o-1")).json()
        assert client.get("/v1/coupons", params={"wait_for": answer["position"]}).status_code == 200
        assert server.rows("SELECT week, times_used FROM app_weeks") == [("2025-02-24", 1)]
        assert server.complaints == []
