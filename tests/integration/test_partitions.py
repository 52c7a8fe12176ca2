"""Partitions of the log on PostgreSQL: made ahead, while events come in, by many at once; and what happens when they run out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from eventstore.errors import InputError, StoreUnavailable
from eventstore.log import partitions
from eventstore.log.guards import check_guards
from eventstore.log.partitions import PARTITION_POSITIONS, Maintainer, Partition, uncovered
from eventstore.log.tables import events
from eventstore.store import EventStore
from tests.commands import Command
from tests.partitioned import FIRST, event, partitions_of, shrink, some, wait_for
from tests.serving import PATIENCE, serving
from tests.stores import PostgresqlServer


@pytest.fixture
def store(postgresql_store: EventStore) -> EventStore:
    """An open, empty PostgreSQL store."""
    return postgresql_store


def test_a_new_store_has_its_first_partition_and_two_ahead(store: EventStore) -> None:
    assert [each.name for each in partitions_of(store)] == FIRST
    found = store.status()
    assert (found.positions_left, found.partitions_ahead) == (3 * PARTITION_POSITIONS, 2)


def test_maintain_makes_what_is_missing_and_a_second_run_nothing(store: EventStore) -> None:
    assert store.maintain().made == ()
    done = store.maintain(ahead=4)
    assert done.made == (f"events_from_{3 * PARTITION_POSITIONS + 1}", f"events_from_{4 * PARTITION_POSITIONS + 1}")
    assert (done.ahead, done.positions_left) == (4, 5 * PARTITION_POSITIONS)
    assert store.maintain(ahead=4).made == ()
    assert store.maintain(ahead=1).made == ()
    assert check_guards(store.engine) == []


def test_events_cross_from_one_partition_into_the_next_within_a_batch(store: EventStore) -> None:
    shrink(store, 7, ahead=4)
    appended = list(store.append_many(some(30)))
    assert [outcome.position for outcome in appended] == list(range(1, 31))
    with store.engine.connect() as connection:
        counted = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {each.name}").scalar() for each in partitions_of(store)
        ]
    assert counted == [7, 7, 7, 7, 2]
    assert [record.position for record in store.stream()] == list(range(1, 31))
    assert [record.event.event_id for record in store.read(after=20, limit=5)] == [f"e-{n}" for n in range(21, 26)]
    # The ledger is one for all partitions.
    assert [outcome.position for outcome in store.append_many(some(30))] == list(range(1, 31))
    assert store.project() == 30
    assert check_guards(store.engine) == []


@pytest.mark.parametrize("head", [0, 1, 9, 10, 11, 20])
def test_the_partition_that_takes_the_next_event_is_not_counted_as_ahead(store: EventStore, head: int) -> None:
    shrink(store, 10, ahead=2)
    list(store.append_many(some(head)))
    done = store.maintain(ahead=2, positions=10)
    takes_next = next(each for each in done.partitions if each.start <= head + 1 < each.end)
    assert [each.start for each in done.partitions if each.start > takes_next.start] == [
        takes_next.start + 10,
        takes_next.start + 20,
    ]
    assert done.ahead == 2


def test_a_full_log_says_what_to_do_loses_nothing_and_goes_on(store: EventStore) -> None:
    shrink(store, 10)
    list(store.append_many(some(8)))
    with pytest.raises(StoreUnavailable, match="eventstore maintain"):
        list(store.append_many(some(5, after=8)))
    # Two more still fit; none of the batch that did not fit was kept, in the log or in quarantine.
    assert store.head() == 8
    assert [outcome.position for outcome in store.append_many(some(2, after=8))] == [9, 10]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="eventstore maintain"):
            store.append(event(11))
    # What is known is still told.
    assert store.append(event(3)).position == 3
    found = store.status()
    assert (found.events, found.quarantined, found.conflicts) == (10, 0, 0)
    assert (found.positions_left, found.partitions_ahead) == (0, 0)
    store.maintain(ahead=1, positions=10)
    assert [outcome.position for outcome in store.append_many(some(15))] == list(range(1, 16))
    assert store.project() == 15


def test_partitions_are_made_while_a_transaction_that_appends_stands_open(store: EventStore) -> None:
    """Had making one to wait for appends, those that come after it would wait for it in turn."""
    shrink(store, 10, ahead=1)
    list(store.append_many(some(3)))
    with store.engine.connect() as appending:
        appending.exec_driver_sql("SELECT FROM log_head FOR UPDATE")
        others = ", ".join(column.name for column in events.columns if column.name != "position")
        appending.exec_driver_sql(f"INSERT INTO events SELECT 4, {others} FROM events WHERE position = 1")
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(store.maintain, ahead=3, positions=10).result(timeout=PATIENCE)
        assert done.made == ("events_from_21", "events_from_31")
        appending.rollback()
    assert store.append(event(4)).position == 4


def test_many_at_once_make_each_partition_once_while_events_come_in(store: EventStore) -> None:
    shrink(store, 20, ahead=3)
    stopping = threading.Event()
    appended: list[int | None] = []

    def append() -> None:
        number = 0
        while not stopping.is_set() and number < 400:
            try:
                appended.extend([outcome.position for outcome in store.append_many(some(10, after=number))])
                number += 10
            except StoreUnavailable:  # faster than they were made
                time.sleep(0.01)

    appending = threading.Thread(target=append)
    appending.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            while len(appended) < 400:
                for done in [pool.submit(store.maintain, ahead=3, positions=20) for _ in range(4)]:
                    assert done.result(timeout=PATIENCE).partitioned
    finally:
        stopping.set()
        appending.join()
    assert appended == list(range(1, 401))
    found = partitions_of(store)
    assert [(each.start, each.end) for each in found] == [(n * 20 + 1, n * 20 + 21) for n in range(len(found))]
    assert check_guards(store.engine) == []


def test_a_lock_that_stays_is_waited_for_only_so_long(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.0)
    with store.engine.connect() as other:
        other.exec_driver_sql("LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="eventstore maintain"):
            store.maintain(ahead=3)
        other.rollback()
        other.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="eventstore maintain"):
            store.maintain(ahead=3)
        other.rollback()
    assert store.maintain(ahead=3).ahead == 3


def test_bad_numbers_are_refused(store: EventStore) -> None:
    for wrong in ({"ahead": -1}, {"positions": 0}):
        with pytest.raises(InputError):
            store.maintain(**wrong)


def test_a_maintainer_makes_room_at_once_and_again_later_until_it_is_stopped(store: EventStore) -> None:
    shrink(store, 10)
    maintainer = Maintainer(store.engine, seconds=0.05)
    maintainer.start()
    try:
        wait_for(lambda: store.status().partitions_ahead == 2)
        # The next event goes into the first of those: one more is wanted.
        list(store.append_many(some(10)))
        wait_for(lambda: len(partitions_of(store)) == 4)
    finally:
        maintainer.stop()
    assert not any(thread.name == "eventstore-maintain" for thread in threading.enumerate())


@given(
    bounds=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    taken=st.sets(st.integers(0, 5)),
    last=st.integers(1, 40),
)
def test_the_positions_that_no_partition_holds_are_told(bounds: list[int], taken: set[int], last: int) -> None:
    there, start = [], 1
    for number, size in enumerate(bounds):
        if number not in taken:
            there.append(Partition(f"p{number}", start, start + size))
        start += size
    held = {position for each in there for position in range(each.start, each.end)}
    told = [position for low, high in uncovered(there, last) for position in range(low, high + 1)]
    assert told == [position for position in range(1, last + 1) if position not in held]


# The command line and the server


@contextmanager
def command_on(server: PostgresqlServer) -> Iterator[tuple[Command, EventStore]]:
    with server.new() as url, EventStore.open(url) as opened:
        yield Command(url), opened


def test_the_command_tells_what_it_made(postgresql_server: PostgresqlServer, folder: Path) -> None:
    with command_on(postgresql_server) as (eventstore, store):
        shrink(store, 10)
        list(store.append_many(some(4)))
        shown = eventstore("maintain", "--ahead", "1", "--positions", "20")
        assert "events_from_11" in shown
        assert "room for 26 more events; 1 empty partitions ahead" in shown
        told = json.loads(eventstore("maintain", "--ahead", "1", "--json"))
        assert told == {
            "partitioned": True,
            "made": [],
            "partitions": [
                {"name": "events_from_1", "start": 1, "end": 11},
                {"name": "events_from_11", "start": 11, "end": 31},
            ],
            "head": 4,
            "ahead": 1,
            "positions_left": 26,
        }
        for wrong in (["--ahead", "-1"], ["--positions", "0"]):
            assert eventstore.run("maintain", *wrong).returncode == 2


def test_status_is_loud_when_less_than_a_partition_is_left(postgresql_server: PostgresqlServer, folder: Path) -> None:
    with command_on(postgresql_server) as (eventstore, store):
        quiet = eventstore.run("status")
        assert quiet.stderr == ""
        assert f"{3 * PARTITION_POSITIONS:,}" in quiet.stdout
        shrink(store, 10)
        list(store.append_many(some(4)))
        loud = eventstore.run("status")
        assert "LITTLE ROOM IS LEFT: after 6 more events" in loud.stderr
        assert "RUN `eventstore maintain`" in loud.stdout
        assert json.loads(eventstore("status", "--json"))["positions_left"] == 6


def test_a_sqlite_store_has_nothing_to_partition(path: Path, folder: Path) -> None:
    eventstore = Command(path)
    assert "nothing to do" in eventstore("maintain")
    told = json.loads(eventstore("maintain", "--json"))
    assert (told["partitioned"], told["made"], told["positions_left"]) == (False, [], None)
    assert json.loads(eventstore("status", "--json"))["positions_left"] is None
    assert "room for more events" not in eventstore("status")


def test_a_server_makes_partitions_when_it_starts(postgresql_server: PostgresqlServer, tmp_path: Path) -> None:
    with postgresql_server.new() as url, EventStore.open(url) as store:
        shrink(store, 10)
        with serving(tmp_path / "served", url=url) as server:
            wait_for(lambda: store.status().partitions_ahead == 2)
            assert server.complaints == []


def test_reading_pages_touches_only_the_partitions_that_hold_them(store: EventStore) -> None:
    shrink(store, 10, ahead=5)
    list(store.append_many(some(45)))
    with store.engine.connect() as connection:
        page = select(events.c.position).where(events.c.position > 31).order_by(events.c.position).limit(5)
        plan = "\n".join(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF) {page.compile(compile_kwargs={'literal_binds': True})}"
            ).scalars()
        )
    assert "events_from_31" in plan
    assert "events_from_1 " not in plan
    assert "Sort" not in plan
