"""The delivery log: what arrived by day and route, what became of it, and how late it was, counted by hand and by a slow loop."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from threading import Event as Flag
from threading import Thread
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analytics
from eventstore.event import Event, Source
from eventstore.log import counts
from eventstore.log.counts import REFUSED, Counted
from eventstore.log.records import OutcomeKind, Rejected, prepare
from eventstore.log.types import to_micros
from eventstore.store import EventStore
from tests.commands import Command
from tests.histories import contradicted, deliveries, histories
from tests.stores import OpenStore, tried

REPORT = "delivery-log"
NONE = (None, None, None, None)
FIRST, SECOND, THIRD = (date(2026, 9, day) for day in (1, 2, 3))


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0, micro: int = 0) -> datetime:
    """A time of September 2026, UTC."""
    return datetime(2026, 9, day, hour, minute, second, micro, tzinfo=UTC)


@contextmanager
def clock(moment: datetime) -> Iterator[None]:
    """The machine's clock stands at this moment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: to_micros(moment) * 1000)
        yield


def deletion(event_id: str, happened: datetime, source: Source = Source.VELO, site: str = "shop") -> Event:
    return Event(
        event_id=event_id, type="coupon.deleted", entity_id="c", event_time=happened, source=source, site_id=site
    )


def observation(event_id: str, happened: datetime) -> Event:
    return Event(
        event_id=event_id,
        type="coupon.observed",
        entity_id="c",
        event_time=happened,
        source=Source.SNAPSHOT,
        site_id="shop",
    )


def refuse(store: EventStore, day: str, route: str, reason: str, number: int) -> None:
    """As a door counts what it turned away before it knew whose it was."""
    counts.record(store.engine, Counter({Counted(day, "", route, REFUSED, reason): number}))


def rows(store: EventStore, **parameters: Any) -> list[tuple[Any, ...]]:
    return list(analytics.run_report(store.engine, REPORT, **parameters).rows)


def late(*seconds: str) -> tuple[Decimal, ...]:
    return tuple(Decimal(each) for each in seconds)


def three_days(store: EventStore) -> None:
    """Two days of deliveries of two sites, and a third of which only a refusal is known."""
    with clock(at(1, 10)):
        store.append(deletion("e1", at(1, 9, 59, 58)))
        store.append(deletion("e2", at(1, 9, 59)))
        store.append(deletion("e3", at(1, 10, 0, 5)))  # dated ahead of our clock
        store.append(deletion("r1", at(1, 10) - timedelta(days=1), Source.REST))
        assert store.append(deletion("e1", at(1, 9, 59, 58), Source.REST)).kind is OutcomeKind.DUPLICATE
        assert store.append(deletion("e1", at(1, 8))).kind is OutcomeKind.CONFLICT
    with clock(at(1, 23, 59, 59, 999_999)):
        store.append(deletion("e4", at(1, 23, 59, 59, 749_998)))
    with clock(at(2)):
        store.append(deletion("e5", at(1, 23), site="other"))
        store.append(observation("s1", datetime(2025, 1, 1, tzinfo=UTC)))
        [kept] = store.receive(b'{"metadata": {}}', handler="wixMarketing_onCouponDeleted", route="velo", site="other")
        assert kept.kind is OutcomeKind.QUARANTINED
        [kept] = store.receive(b'{"unheard": "of"}', site="shop")
        assert kept.kind is OutcomeKind.QUARANTINED
    refuse(store, "2026-09-02", "rest", "signature", 3)
    refuse(store, "2026-09-02", "rest", "expired", 2)
    refuse(store, "2026-09-03", "velo", "token", 1)


# --- counted by hand --------------------------------------------------------------------------------------------------


def test_the_delivery_log_tells_by_day_and_route_what_became_of_all_that_arrived(store: EventStore) -> None:
    three_days(store)
    assert rows(store) == [
        # day, route, received, appended, duplicates, conflicts, quarantined, refused, lateness
        (FIRST, "rest", 2, 1, 1, 0, 0, 0, *late("86400", "86400", "86400", "86400")),
        (FIRST, "velo", 5, 4, 0, 1, 0, 0, *late("0.250001", "60", "60", "60")),
        (SECOND, "rest", 5, 0, 0, 0, 0, 5, *NONE),
        (SECOND, "snapshot", 1, 1, 0, 0, 0, 0, *NONE),
        (SECOND, "unknown", 1, 0, 0, 0, 1, 0, *NONE),
        (SECOND, "velo", 2, 1, 0, 0, 1, 0, *late("3600", "3600", "3600", "3600")),
        (THIRD, "velo", 1, 0, 0, 0, 0, 1, *NONE),
    ]


def test_of_one_site_the_delivery_log_leaves_out_what_was_refused_without_a_proved_site(store: EventStore) -> None:
    three_days(store)
    assert [row[:8] for row in rows(store, site="shop")] == [
        (FIRST, "rest", 2, 1, 1, 0, 0, 0),
        (FIRST, "velo", 5, 4, 0, 1, 0, 0),
        (SECOND, "snapshot", 1, 1, 0, 0, 0, 0),
        (SECOND, "unknown", 1, 0, 0, 0, 1, 0),
    ]
    assert [row[:8] for row in rows(store, site="other")] == [(SECOND, "velo", 2, 1, 0, 0, 1, 0)]
    assert rows(store, site="nowhere") == []


def test_since_and_until_choose_whole_days_of_receipt(store: EventStore) -> None:
    three_days(store)
    every = rows(store)
    assert rows(store, since="2026-09-02") == [row for row in every if row[0] >= SECOND]
    assert rows(store, until="2026-09-02") == [row for row in every if row[0] < SECOND]
    assert rows(store, since="2026-09-01T00:00:01Z", until="2026-09-02T00:00:01Z") == [
        row for row in every if row[0] == SECOND
    ]
    # However time is cut into windows, each day is in one of them.
    ends = (at(1) - timedelta(hours=3), at(1, 12), at(2), at(2, 0, 0, 0, 1), at(3, 23), at(4))
    assert [row for since, until in pairwise(ends) for row in rows(store, since=since, until=until)] == every


def test_a_percentile_is_a_lateness_that_occurred(store: EventStore) -> None:
    with clock(at(1, 12)):
        list(store.append_many(deletion(f"e{number}", at(1, 12) - timedelta(seconds=number)) for number in range(100)))
    assert rows(store)[0][8:] == late("49", "89", "98", "99")


def test_an_event_dated_ahead_of_the_clock_shows_a_negative_lateness(store: EventStore) -> None:
    with clock(at(1, 12)):
        store.append(deletion("e1", at(1, 12, 0, 0, 400)))
        store.append(deletion("e2", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), Source.SDK))
    result = analytics.run_report(store.engine, REPORT)
    far = Decimal("-251614036799.999999")
    assert [row[8:] for row in result.rows] == [(far,) * 4, (Decimal("-0.000400"),) * 4]
    assert [row[-1] for row in result.cells()] == ["-251614036800.000", "-0.000"]
    assert json.loads(result.to_json())[1]["lateness_max"] == -0.0004


# --- stores with little in them ---------------------------------------------------------------------------------------


def test_an_empty_store_has_no_delivery_log(store: EventStore) -> None:
    result = analytics.run_report(store.engine, REPORT)
    assert (result.rows, result.position) == ((), 0)


def test_a_store_of_one_event_has_one_line_of_delivery_log(store: EventStore) -> None:
    with clock(at(1, 12)):
        store.append(deletion("e1", at(1, 11)))
    result = analytics.run_report(store.engine, REPORT)
    assert result.rows == ((FIRST, "velo", 1, 1, 0, 0, 0, 0, *late("3600", "3600", "3600", "3600")),)
    assert result.position == 1
    assert result.cells() == [["2026-09-01", "velo", "1", "1", "0", "0", "0", "0", *["3600.000"] * 4]]


def test_a_store_that_only_refused_has_a_delivery_log(store: EventStore) -> None:
    refuse(store, "2026-09-02", "rest", "signature", 3)
    assert rows(store) == [(SECOND, "rest", 3, 0, 0, 0, 0, 3, *NONE)]


# --- a slow loop ------------------------------------------------------------------------------------------------------

Told = list[tuple[datetime, str, str, str, datetime | None]]
"""What was handed in: when, of which site, by which route, its outcome, and when it had happened if it was appended."""


def slow_log(told: Told, site: str | None, since: datetime | None, until: datetime | None) -> list[tuple[Any, ...]]:
    """The report in plain Python, from the answers that the store gave."""
    groups: dict[tuple[date, str], list[tuple[str, Decimal | None]]] = {}
    for received, its_site, route, outcome, happened in told:
        midnight = received.replace(hour=0, minute=0, second=0, microsecond=0)
        if site not in (None, its_site) or (since and midnight < since) or (until and midnight >= until):
            continue
        lateness = None
        if outcome == "appended" and happened is not None and route != "snapshot":
            lateness = Decimal(to_micros(received) - to_micros(happened)).scaleb(-6)
        groups.setdefault((received.date(), route), []).append((outcome, lateness))
    made = []
    for key, group in sorted(groups.items()):
        found = Counter(outcome for outcome, _ in group)
        sorted_late = sorted(lateness for _, lateness in group if lateness is not None)
        ranks = [-(-len(sorted_late) * percent // 100) for percent in (50, 90, 99, 100)]
        kinds = ("appended", "duplicate", "conflict", "quarantined", "refused")
        latenesses = [sorted_late[rank - 1] for rank in ranks] if sorted_late else NONE
        made.append((*key, len(group), *(found[kind] for kind in kinds), *latenesses))
    return made


@st.composite
def handed_in(draw: st.DrawFn) -> list[Event | Rejected]:
    """Events told in any order and again, some contradicted, and some deliveries that are no event."""
    history = draw(histories())
    told_wrong = draw(st.lists(st.sampled_from(history), max_size=3)) if history else []
    wrong = [draw(contradicted(event)) for event in told_wrong]
    routes = draw(st.lists(st.sampled_from(["rest", "unknown"]), max_size=2))
    unread = [Rejected("site-a", route, None, None, "unread", b"%d" % number) for number, route in enumerate(routes)]
    return [*draw(deliveries(history)), *wrong, *unread]


def test_the_delivery_log_agrees_with_a_slow_loop_over_the_answers_that_were_given(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(4, dialect)
    @given(handed_in(), st.data())
    def holds(handed: list[Event | Rejected], data: st.DataObject) -> None:
        told: Told = []
        moment = at(1, 22)
        with new_store() as store:
            while handed:
                moment += timedelta(microseconds=data.draw(st.sampled_from([0, 1, 3_600_000_000, 7_200_000_000])))
                size = data.draw(st.integers(1, 6))
                piece, handed = handed[:size], handed[size:]
                with clock(moment):
                    entries = [each if isinstance(each, Rejected) else prepare(each) for each in piece]
                    outcomes = store.submit(entries).result()
                for each, outcome in zip(piece, outcomes, strict=True):
                    route = each.route if isinstance(each, Rejected) else each.source.value
                    happened = None if isinstance(each, Rejected) else each.event_time
                    told.append((moment, each.site_id, route, outcome.kind.value, happened))
            for route in data.draw(st.lists(st.sampled_from(["velo", "rest", "unknown"]), max_size=2)):
                refuse(store, moment.date().isoformat(), route, "token", 1)
                told.append((moment, "", route, REFUSED, None))
            with analytics.connect(store.engine) as connection:
                for site, since, until in (
                    (None, None, None),
                    ("site-a", None, None),
                    (None, at(2), None),
                    (None, at(1, 5), at(2, 5)),
                    ("site-b", None, at(3)),
                ):
                    result = analytics.run_report(connection, REPORT, site=site, since=since, until=until)
                    assert list(result.rows) == slow_log(told, site, since, until)

    holds()


# --- the table under it -----------------------------------------------------------------------------------------------


def test_the_counters_are_a_table_with_days_that_are_dates(store: EventStore) -> None:
    three_days(store)
    with analytics.connect(store.engine) as connection:
        assert connection.execute("SELECT * FROM deliveries ORDER BY ALL").fetchall() == [
            (FIRST, "shop", "rest", "duplicate", "", 1),
            (FIRST, "shop", "velo", "conflict", "", 1),
            (SECOND, "", "rest", "refused", "expired", 2),
            (SECOND, "", "rest", "refused", "signature", 3),
            (SECOND, "other", "velo", "quarantined", "", 1),
            (SECOND, "shop", "unknown", "quarantined", "", 1),
            (THIRD, "", "velo", "refused", "token", 1),
        ]
        assert connection.position == store.head()
        kinds = connection.execute("SELECT column_name, column_type FROM (DESCRIBE deliveries)").fetchall()
        assert dict(kinds) == dict.fromkeys(["site_id", "route", "outcome", "reason"], "VARCHAR") | {
            "day": "DATE",
            "count": "BIGINT",
        }
        with pytest.raises(duckdb.Error):
            connection.execute("SELECT * FROM delivery_counts")


def test_the_log_and_the_counters_show_one_moment_while_events_arrive(store: EventStore) -> None:
    done = Flag()

    def tell() -> None:
        number = 0
        while not done.is_set():
            number += 1
            event = prepare(deletion(f"e{number}", at(1)))
            store.submit([event, event]).result()  # new, and told again: written down in one transaction

    writer = Thread(target=tell)
    writer.start()
    try:
        for _ in range(5):
            with analytics.connect(store.engine) as connection:
                result = analytics.run_report(connection, REPORT)
            received, appended, duplicates = (sum(row[number] for row in result.rows) for number in (2, 3, 4))
            assert appended == duplicates == result.position
            assert received == 2 * result.position
    finally:
        done.set()
        writer.join()
    assert store.head() > 0


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_prints_the_delivery_log_for_people_and_for_programs(
    store: EventStore, eventstore: Command
) -> None:
    three_days(store)
    shown = eventstore.run("report", REPORT)
    assert (shown.returncode, shown.stderr) == (0, "")
    [line] = [line.split() for line in shown.stdout.splitlines() if line.split()[:2] == ["2026-09-01", "velo"]]
    assert line == ["2026-09-01", "velo", "5", "4", "0", "1", "0", "0", "0.250", "60.000"]
    told = eventstore.run("report", REPORT, "--json", "-p", "until=2026-09-02", "--site", "shop")
    assert json.loads(told.stdout)[1] == {
        "day": "2026-09-01",
        "route": "velo",
        "received": 5,
        "appended": 4,
        "duplicates": 0,
        "conflicts": 1,
        "quarantined": 0,
        "refused": 0,
        "lateness_p50": 0.250001,
        "lateness_p90": 60,
        "lateness_p99": 60,
        "lateness_max": 60,
    }
    told = eventstore.run("report", REPORT, "--csv", "-p", "since=2026-09-02")
    names = [column.name for column in analytics.report(REPORT).columns]
    assert told.stdout.splitlines()[:3] == [
        ",".join(names),
        "2026-09-02,rest,5,0,0,0,0,5,,,,",
        "2026-09-02,snapshot,1,1,0,0,0,0,,,,",
    ]
    assert REPORT in eventstore.run("report", "--list").stdout
