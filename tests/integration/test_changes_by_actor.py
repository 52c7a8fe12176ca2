"""Changes by actor: who did what to how many coupons, counted by hand and by a slow loop; and whose identity `facts` shows."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

import analytics
from analytics.columns import event_columns
from eventstore.event import Account, Actor, Event, Source
from eventstore.projections.catalogue import projections
from eventstore.projections.duck import ModelSession
from eventstore.store import EventStore
from tests.commands import Command
from tests.histories import START, histories
from tests.serving import fixture
from tests.stores import OpenStore, tried

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
ACTOR_COLUMNS = ("actor_type", "actor_id", "account_id", "account_site_id")
REPORT = "changes-by-actor"
ANNA = Actor(type="WIX_USER", id="anna")
MEMBER = Actor(type="MEMBER", id="anna")  # the same id of another kind is another actor
NOBODY = Actor(type="UNKNOWN")
OWNER, SECOND_OWNER = Account(account_id="owner", site_id="s-1"), Account(account_id="second")


def at(day: int, hour: int = 0) -> datetime:
    """A time of September 2026, UTC."""
    return datetime(2026, 9, day, hour, tzinfo=UTC)


def event(
    number: int,
    type_: str,
    coupon: str | None,
    time: datetime,
    actor: Actor | None,
    account: Account | None,
    **more: Any,
) -> Event:
    fields: dict[str, Any] = {"site_id": "shop", "entity_id": coupon or "reward", "source": Source.SDK} | more
    return Event(
        event_id=f"e{number}",
        type=type_,
        coupon_id=coupon,
        event_time=time,
        actor=actor,
        account=account,
        **fields,
    )


HISTORY = [
    event(1, "coupon.created", "ten", at(1), ANNA, OWNER),
    event(2, "coupon.updated", "ten", at(2), ANNA, OWNER),
    event(3, "coupon.deleted", "ten", at(5), ANNA, OWNER),
    event(4, "coupon.created", "ten", at(3), ANNA, SECOND_OWNER, site_id="other"),
    event(5, "loyalty_coupon.created", None, at(2), MEMBER, OWNER),
    event(6, "coupon.applied", "ten", at(2, 10), MEMBER, OWNER, order_id="o-1"),
    event(7, "coupon.applied", "ten", at(2, 11), MEMBER, OWNER, order_id="o-1"),
    event(8, "coupon.created", "five", at(1), None, None, source=Source.VELO),
    event(9, "coupon.deleted", "six", at(4), None, None, source=Source.VELO),
    event(10, "wix.loyalty.v1.reward_updated", None, at(4), NOBODY, None, recognised=False),
    event(11, "coupon.observed", "ten", at(6), None, None, source=Source.SNAPSHOT),
]


def rows(store: EventStore, **parameters: Any) -> list[tuple[Any, ...]]:
    return list(analytics.run_report(store.engine, REPORT, **parameters).rows)


# --- counted by hand --------------------------------------------------------------------------------------------------


def test_changes_are_counted_by_actor_and_kind_and_those_of_nobody_are_one_row(store: EventStore) -> None:
    list(store.append_many(HISTORY))
    assert rows(store) == [
        # actor, account, events, created, updated, deleted, applied, other, coupons, first and last
        ("WIX_USER", "anna", None, 4, 2, 1, 1, 0, 0, 2, at(1), at(5)),
        ("MEMBER", "anna", "owner", 3, 1, 0, 0, 2, 0, 1, at(2), at(2, 11)),
        (None, None, None, 3, 1, 0, 1, 0, 1, 3, at(1), at(6)),
        ("UNKNOWN", None, None, 1, 0, 0, 0, 0, 1, 0, at(4), at(4)),
    ]


def test_changes_of_one_site_within_a_window(store: EventStore) -> None:
    list(store.append_many(HISTORY))
    assert rows(store, site="other") == [("WIX_USER", "anna", "second", 1, 1, 0, 0, 0, 0, 1, at(3), at(3))]
    assert rows(store, site="shop", since=at(2), until=at(5)) == [
        ("MEMBER", "anna", "owner", 3, 1, 0, 0, 2, 0, 1, at(2), at(2, 11)),
        ("UNKNOWN", None, None, 1, 0, 0, 0, 0, 1, 0, at(4), at(4)),
        ("WIX_USER", "anna", "owner", 1, 0, 1, 0, 0, 0, 1, at(2), at(2)),
        (None, None, None, 1, 0, 0, 1, 0, 0, 1, at(4), at(4)),
    ]
    assert rows(store, site="nowhere") == []


def test_an_empty_store_has_no_actors(store: EventStore) -> None:
    result = analytics.run_report(store.engine, REPORT)
    assert (result.rows, result.position) == ((), 0)


@pytest.mark.parametrize("number", [0, 7])
def test_a_store_of_one_event_has_one_actor_or_nobody(store: EventStore, number: int) -> None:
    store.append(HISTORY[number])
    who = ("WIX_USER", "anna", "owner") if number == 0 else (None, None, None)
    assert rows(store) == [(*who, 1, 1, 0, 0, 0, 0, 1, at(1), at(1))]


# --- from the delivery to the report ----------------------------------------------------------------------------------


def test_the_identity_and_account_of_a_delivery_stand_in_its_event_the_facts_and_the_report(store: EventStore) -> None:
    [outcome] = store.receive(fixture("sdk_loyalty_coupon_created.json"), site="0e2b6c3a-6f0d-4f57-9a4d-0d6f4a1c7b11")
    assert outcome.position == 1
    who = ("MEMBER", "1b0e7a53-7f44-4d0c-9a86-8f2f6f0f7a70")
    account = ("f0f1f2f3-0000-4000-8000-000000000001", "a1a2a3a4-0000-4000-8000-000000000002")
    with analytics.connect(store.engine) as connection:
        columns = ", ".join(ACTOR_COLUMNS)
        for table in ("facts", "events"):
            assert connection.execute(f"SELECT {columns} FROM {table}").fetchall() == [(*who, *account)]
        [row] = analytics.run_report(connection, REPORT).rows
    assert row[:5] == (*who, account[0], 1, 1)


def test_columns_that_tell_of_people_say_so(store: EventStore) -> None:
    with analytics.connect(store.engine) as connection:
        told = connection.execute(
            "SELECT table_name, comment FROM duckdb_columns() WHERE column_name IN ('actor_id', 'account_id')"
        )
        comments = told.fetchall()
        about = connection.execute("SELECT comment FROM duckdb_views() WHERE view_name = 'facts'").fetchall()
    assert sorted(table for table, _ in comments) == ["events", "events", "facts", "facts"]
    assert all("personal data" in comment for _, comment in [*comments, ("facts", about[0][0])])
    report = analytics.report(REPORT)
    assert [column.name for column in report.columns if "personal data" in column.doc] == ["actor_id", "account_id"]


def test_no_projection_is_given_the_identity_of_anyone() -> None:
    session = ModelSession(projections())
    try:
        made = {row[0] for row in session.connection.execute("DESCRIBE facts").fetchall()}
    finally:
        session.close()
    assert set(ACTOR_COLUMNS) < {column.name for column in event_columns()}
    assert not made & set(ACTOR_COLUMNS)


# --- a slow loop ------------------------------------------------------------------------------------------------------


def slow_changes(
    history: list[Event], site: str | None, since: datetime | None, until: datetime | None
) -> list[tuple[Any, ...]]:
    """The report in plain Python, from the events."""
    groups: dict[tuple[str | None, str | None], list[Event]] = {}
    for each in history:
        outside = (since is not None and each.event_time < since) or (until is not None and each.event_time >= until)
        if site in (None, each.site_id) and not outside:
            key = (None, None) if each.actor is None else _who(each.actor)
            groups.setdefault(key, []).append(each)
    made = []
    for key, group in groups.items():
        accounts = {each.account.account_id for each in group if each.account is not None} - {None}
        kinds = Counter(_kind(each.type) for each in group)
        coupons = {(each.site_id, _coupon(each)) for each in group if _coupon(each) is not None}
        times = [each.event_time for each in group]
        counted = [kinds[kind] for kind in ("created", "updated", "deleted", "applied", "other")]
        account = accounts.pop() if len(accounts) == 1 else None
        made.append((*key, account, len(group), *counted, len(coupons), min(times), max(times)))
    return sorted(made, key=lambda row: (-row[3], row[0] is None, row[0] or "", row[1] is None, row[1] or ""))


def _who(actor: Actor) -> tuple[str | None, str | None]:
    return actor.type, actor.id


def _kind(type_: str) -> str:
    family, _, verb = type_.partition(".")
    known = {
        "coupon": ("created", "updated", "deleted", "applied"),
        "loyalty_coupon": ("created", "updated", "deleted"),
    }
    return verb if verb in known.get(family, ()) else "other"


def _coupon(each: Event) -> str | None:
    return each.coupon_id or (each.entity_id if each.type.startswith("coupon.") else None)


def test_changes_by_actor_agree_with_a_slow_loop_over_the_events(new_store: OpenStore, dialect: str) -> None:
    @tried(4, dialect)
    @given(histories(max_size=20))
    def holds(history: list[Event]) -> None:
        with new_store() as store:
            list(store.append_many(history))
            with analytics.connect(store.engine) as connection:
                for site, since, until in (
                    (None, None, None),
                    ("site-a", None, None),
                    (None, START, START.replace(hour=14)),
                    ("site-b", START.replace(microsecond=1), None),
                ):
                    result = analytics.run_report(connection, REPORT, site=site, since=since, until=until)
                    assert list(result.rows) == slow_changes(history, site, since, until)

    holds()


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_prints_changes_by_actor_for_people_and_for_programs(
    store: EventStore, eventstore: Command
) -> None:
    list(store.append_many(HISTORY))
    shown = eventstore.run("report", REPORT)
    assert (shown.returncode, shown.stderr) == (0, "")
    cells = [line.split() for line in shown.stdout.splitlines()]
    assert ["WIX_USER", "anna", "4", "2", "1", "1", "0", "0", "2", "2026-09-05", "00:00"] in cells
    assert ["–", "–", "3", "1", "0", "1", "0", "1", "3", "2026-09-06", "00:00"] in cells
    told = json.loads(eventstore.run("report", REPORT, "--json", "--site", "other").stdout)
    assert told == [
        {
            "actor_type": "WIX_USER",
            "actor_id": "anna",
            "account_id": "second",
            "events": 1,
            "created": 1,
            "updated": 0,
            "deleted": 0,
            "applied": 0,
            "other": 0,
            "coupons": 1,
            "first_event_at": "2026-09-03T00:00:00Z",
            "last_event_at": "2026-09-03T00:00:00Z",
        }
    ]
    told_csv = eventstore.run("report", REPORT, "--csv", "-p", "since=2026-09-06").stdout.splitlines()
    assert told_csv[1:] == [",,,1,0,0,0,0,1,1,2026-09-06T00:00:00Z,2026-09-06T00:00:00Z"]
