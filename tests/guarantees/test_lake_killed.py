"""Exactly once: a lake is the log, each event once, whoever is killed while bringing it up to date, and whoever else is at it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

import duckdb
import pytest

from analytics.lake import Snapshot
from analytics.lake import lake as verbs
from analytics.lake.delta import LakeTable
from analytics.lake.levels import parquet, visible
from analytics.lake.place import LOOK_SECONDS
from eventstore.demo import month
from eventstore.errors import StoreUnavailable
from eventstore.store import EventStore
from tests.integration.test_dead_letters import append, broken, told
from tests.lakes import assert_shows, lake_of, positions, projections_in_lake, projections_in_store, small
from tests.serving import PROJECTIONS
from tests.stores import NewUrl
from tests.tailing import Process

OWN = [PROJECTIONS / "app_weeks"]
"""One that is made of another, so that a kill may fall between the two."""
RANDOM_KILLS = {"sqlite": 6, "postgresql": 2}
LONGEST_LIFE = 0.7
"""Seconds that a process has before it is killed, at most; a catching up takes about as long."""
MOST_COMMITS = {"there is more": 7, "less is left out": 5}
"""Of one catching up: the log, five projections and the counts; the projections, where only what is left out has changed."""
CATCHERS = 2
ROUNDS = {("sqlite", False): 1, ("postgresql", False): 1, ("sqlite", True): 1, ("postgresql", True): 1}
"""Lakes that are begun by several at once, by the engine and whether they take turns: the first commit of all is one more that
only one may make."""


# --- in the processes -------------------------------------------------------------------------------------------------


def catch_up_again_and_again(url: str, told: Connection, output: TextIO, folder: str, locked: bool) -> None:
    """Bring the lake up to date until told to end; each time that it is, say how far."""
    if not locked:
        # As in an object store, where nobody is kept out.
        vars(verbs)["turn"] = lambda _: nullcontext()
        verbs.ATTEMPTS = 100
    with EventStore.open(url, create=False, projections=OWN) as store, small(step_events=15, commit_events=15):
        lake = lake_of(store, folder)
        told.send("ready")
        told.recv()
        while True:
            last = told.poll()
            output.write(f"{lake.catch_up(store.engine)} caught-up\n")
            output.flush()
            if last:
                return
            time.sleep(2 * LOOK_SECONDS)  # whoever waits for the turn looks now and then


def catch_up_until_killed(url: str, told: Connection, output: TextIO, folder: str, commits: int) -> None:
    """Bring the lake up to date, and be killed after so many commits."""
    left = itertools.count(commits, -1)
    commit, mark = LakeTable._commit, LakeTable.mark

    def dying(real: object) -> object:
        def call(self: LakeTable, *arguments: object, **named: object) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, *arguments, **named)  # type: ignore[operator]

        return call

    LakeTable._commit, LakeTable.mark = dying(commit), dying(mark)  # type: ignore[method-assign, assignment]
    with EventStore.open(url, create=False, projections=OWN) as store:
        told.send("ready")
        lake_of(store, folder).catch_up(store.engine)
    output.write("0 end\n")


@contextmanager
def catching_up(url: str, folder: Path, *, where: Path, count: int = 1, locked: bool = True) -> Iterator[list[Process]]:
    """Processes that catch up again and again from now on, and are ended whatever happens."""
    where.mkdir(exist_ok=True)
    processes = [
        Process(where, f"catcher-{number}", catch_up_again_and_again, url, str(folder), locked)
        for number in range(count)
    ]
    try:
        for process in processes:
            process.wait_until_ready()
        for process in processes:
            process.tell("go")
        yield processes
    finally:
        for process in processes:
            process.discard()


# --- what is told -----------------------------------------------------------------------------------------------------


class Shop:
    """A shop's month, of which a few deliveries more come each time."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._lines = enumerate((delivery.line() for delivery in month()), start=1)

    def more(self, count: int) -> None:
        self._store.ingest(itertools.islice(self._lines, count))


def assert_whole(snapshot: Snapshot) -> None:
    """Every event up to the moment's position stands once, and the projections are of that same moment."""
    assert positions(snapshot) == list(range(1, snapshot.position + 1))
    if not snapshot.position:
        return
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")

        def pairs(sql: str) -> Counter[tuple[str, int]]:
            return Counter(connection.execute(sql).fetchall())

        def shown(name: str) -> str:
            files = snapshot.projections[name]
            return (
                f"({visible(files)})"
                if files
                else "(SELECT NULL AS coupon_id, NULL AS order_id, 0 AS times_used LIMIT 0)"
            )

        applied = pairs(
            f"""SELECT coupon_id, count(DISTINCT coalesce(order_id, 'event:' || event_id)) FROM {parquet(snapshot.events)}
            WHERE position <= {snapshot.position} AND type = 'coupon.applied' GROUP BY coupon_id"""
        )
        assert pairs(f"SELECT coupon_id, count(order_id) FROM {shown('redemptions')} GROUP BY coupon_id") == applied
        assert pairs(f"SELECT coupon_id, times_used FROM {shown('coupon_usage')}") == applied
        in_weeks = connection.execute(f"SELECT coalesce(sum(times_used), 0) FROM {shown('app_weeks')}").fetchall()
        assert in_weeks == [(sum(count for _, count in applied),)]


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_of_catching_up_it_loses_and_doubles_nothing(
    store_url: str, dialect: str, tmp_path: Path
) -> None:
    chance = random.Random(11)
    with EventStore.open(store_url, projections=OWN) as store:
        shop, lake = Shop(store), lake_of(store, tmp_path / "lake")
        shown = False
        for number in range(RANDOM_KILLS[dialect]):
            shop.more(chance.choice([1, 3, 8]))
            with catching_up(store_url, tmp_path / "lake", where=tmp_path / str(number)) as [process]:
                time.sleep(chance.uniform(0, LONGEST_LIFE / 2))
                shop.more(3)
                time.sleep(chance.uniform(0, LONGEST_LIFE / 2))
                process.kill()
            try:
                found = lake.snapshot()
                assert_whole(found)
                shown = shown or found.position > 0
            except StoreUnavailable:
                assert not shown, "as soon as there is a moment that all tables show, there is always one"
        lake.catch_up(store.engine)
        assert_shows(lake, store)
        lake.compact(keep=timedelta(0))
        assert_shows(lake, store)


@pytest.mark.parametrize("what", ["there is more", "less is left out"])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_killed_between_any_two_commits_the_next_goes_on_from_there(store_url: str, tmp_path: Path, what: str) -> None:
    """`what` brings the lake to be written: it follows the log then, or makes its tables anew at the position where it is."""
    before, folder = tmp_path / "before", tmp_path / "lake"
    with EventStore.open(store_url, projections=OWN) as store:
        append(store, told("a", 1), broken(told("a", 2)), told("a", 3), told("b", 1))
        shop = Shop(store)
        shop.more(10)
        store.project()
        lake_of(store, before).catch_up(store.engine)
        if what == "there is more":
            shop.more(10)
        else:
            for letter in store.dead_letters():
                store.skip_dead_letter(letter.id, "written by a faulty program")
        expected = projections_in_store(store)
        for commits in itertools.count():
            shutil.copytree(before, folder)
            process = Process(tmp_path, f"catcher-{commits}", catch_up_until_killed, store_url, str(folder), commits)
            process.wait_until_ready()
            process.join()
            lake = lake_of(store, folder)
            assert_whole(lake.snapshot())
            lake.catch_up(store.engine)
            found = lake.snapshot()
            assert positions(found) == list(range(1, store.head() + 1))
            assert projections_in_lake(found, store.catalogue) == expected
            came_to_its_end = process.heard
            process.discard()
            shutil.rmtree(folder)
            if came_to_its_end:
                break
        assert commits >= MOST_COMMITS[what]


# --- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [True, False], ids=["taking-turns", "in-each-other-s-way"])
def test_several_that_catch_up_at_once_bring_every_event_once(
    new_url: NewUrl, dialect: str, tmp_path: Path, locked: bool
) -> None:
    for number in range(ROUNDS[dialect, locked]):
        folder = tmp_path / f"{number}.lake"
        with new_url() as url, EventStore.open(url, projections=OWN) as store:
            shop, lake = Shop(store), lake_of(store, folder)
            shop.more(10)
            with catching_up(url, folder, where=tmp_path / str(number), count=CATCHERS, locked=locked) as processes:
                for _ in range(3):
                    shop.more(4)
                    time.sleep(0.1)
                for process in processes:
                    process.tell("enough")
                for process in processes:
                    process.end()
                    assert process.said()[-1] == (store.head(), "caught-up")
            lake.catch_up(store.engine)
            assert_shows(lake, store)


# --- read meanwhile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_reader_sees_one_moment_of_all_tables_and_keeps_it_while_others_write_and_compact(
    store_url: str, tmp_path: Path
) -> None:
    with EventStore.open(store_url, projections=OWN) as store:
        shop, folder = Shop(store), tmp_path / "lake"
        shop.more(15)
        lake, other = lake_of(store, folder), lake_of(store, folder)
        with small():
            lake.catch_up(store.engine)
        kept = lake.snapshot()
        before = positions(kept), projections_in_lake(kept, store.catalogue)
        seen: list[int] = []
        with catching_up(store_url, folder, where=tmp_path / "writer"):
            while len(set(seen)) < 4:
                shop.more(5)
                found = lake.snapshot()
                assert_whole(found)
                seen.append(found.position)
                if len(seen) % 10 == 0:
                    other.compact(keep=timedelta(hours=1))
        assert seen == sorted(seen)
        assert (positions(kept), projections_in_lake(kept, store.catalogue)) == before
