"""A rebuild that another process is at, that is told to stop, or that is killed: everything else is as it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import inspect

from eventstore.demo import month
from eventstore.errors import RebuildUnderWay
from eventstore.log.engine import is_sqlite, sqlite_path
from eventstore.projections.rebuild_work import RebuildStatus
from eventstore.store import EventStore
from tests.commands import Command
from tests.rows import rows
from tests.serving import PATIENCE, environment, interruptible
from tests.slow_model import stored
from tests.stores import NewUrl

STAND_STILL = """
import sys, time
from eventstore.projections import rebuild, shadows
from eventstore.store import EventStore

rebuild.PIECE_EVENTS = 40

def told(at):
    if at.stage == sys.argv[2]:
        stand_still()

def stand_still(*_):
    print(sys.argv[2], flush=True)
    time.sleep(600)

if sys.argv[2] == "drop":
    shadows.Shadows.drop = stand_still
with EventStore.open(sys.argv[1]) as store:
    store.rebuild_projections(on_progress=told)
"""
"""A rebuild that stands still once it has done a part of a stage."""
CREEP = """
import sys
from eventstore.cli.main import main
from eventstore.projections import rebuild

rebuild.PIECE_EVENTS = 1
main()
"""
"""The command line, whose rebuild takes an event at a time: long enough to be told something meanwhile."""


@pytest.fixture(scope="module")
def filled_once(new_url: NewUrl) -> Iterator[str]:
    """A store of some hundred events, projected; one of its tables is not what the log says."""
    with new_url() as url:
        with EventStore.open(url) as store:
            store.ingest(islice(((number, each.line()) for number, each in enumerate(month())), 400))
            store.project()
            with store.engine.begin() as connection:
                connection.exec_driver_sql("DELETE FROM coupons")
        yield url


@pytest.fixture
def filled(filled_once: str, new_url: NewUrl) -> Iterator[str]:
    """Such a store, to do with as one likes."""
    with new_url(of=filled_once) as url:
        yield url


@pytest.fixture
def command(filled: str, folder: Path) -> Command:
    """The CLI on it."""
    assert folder.is_dir()
    return Command(filled)


@contextmanager
def standing_still(url: str, stage: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose rebuild has done a part of this stage, and then no more."""
    with interruptible():
        started = subprocess.Popen(
            [sys.executable, "-c", STAND_STILL, url, stage], stdout=subprocess.PIPE, text=True, env=environment()
        )
    with started as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{stage}\n"
            yield process
        finally:
            process.kill()


@contextmanager
def creeping(url: str) -> Iterator[subprocess.Popen[str]]:
    """A command that rebuilds, and takes long for it; it has begun."""
    arguments = [sys.executable, "-c", CREEP, "--store", url, "rebuild-projections"]
    with interruptible():
        started = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
    with started as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not rows(url, "SELECT 1 FROM projection_work WHERE name = 'rebuild'"):
                assert time.monotonic() < deadline, "the rebuild does not begin"
                assert process.poll() is None
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def left_behind(store: EventStore) -> list[str]:
    """Tables of a rebuild, and on SQLite files of one, that are there."""
    left = [name for name in inspect(store.engine).get_table_names() if "__" in name]
    if is_sqlite(store.engine):
        database = sqlite_path(store.engine)
        left += [each.name for each in database.parent.glob(f"eventstore-rebuild-{database.name}-*")]
    return left


def seen(url: str) -> tuple[object, ...]:
    """All that readers can see of the projections."""
    with EventStore.open(url) as store:
        return stored(store.engine), [(each.name, each.position, each.rows) for each in store.status().projections]


def last(store: EventStore) -> RebuildStatus:
    found = store.rebuild_status()
    assert found is not None
    return found


def test_a_second_rebuild_is_refused_with_who_is_at_it_and_since_when_and_does_not_disturb_the_first(
    filled: str, command: Command
) -> None:
    with standing_still(filled, "write") as first, EventStore.open(filled) as store:
        left = left_behind(store)
        line = command.refused("rebuild-projections", "coupons", status=75)
        assert f"process {first.pid} on " in line
        assert "since 20" in line
        with pytest.raises(RebuildUnderWay):
            store.drop_kept_tables()
        told = command.json("rebuild-projections", "--status")
        assert told["under_way"] is True
        assert told["worker"].startswith(f"process {first.pid} on ")
        deadline = time.monotonic() + PATIENCE
        while last(store).position < store.head():
            assert time.monotonic() < deadline, "the rebuild does not tell how far it is"
            time.sleep(0.05)
        assert "under way" in command("rebuild-projections", "--status")
        assert left_behind(store) == left
        assert sum("__shadow_" in each for each in left) == 4
        first.kill()
        first.wait()
        assert last(store).outcome == "died"


@pytest.mark.parametrize(
    ("dialect", "stage"),
    [("sqlite", "read"), ("sqlite", "write"), ("sqlite", "catch_up"), ("postgresql", "write")],
    indirect=["dialect"],
)
def test_what_a_killed_rebuild_leaves_behind_is_gone_when_the_store_is_opened_next(filled: str, stage: str) -> None:
    before = seen(filled)
    with standing_still(filled, stage) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with EventStore.open(filled) as store:
        assert left_behind(store) == []
        assert last(store).outcome == "died"
        assert last(store).worker.startswith(f"process {process.pid} on ")
    assert seen(filled) == before
    with EventStore.open(filled) as store:
        store.rebuild_projections()
        assert [each for each in left_behind(store) if not each.endswith("__old")] == []
        assert last(store).outcome == "done"
        assert store.coupons() != []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_rebuild_that_is_ended_once_its_tables_are_in_place_is_told_as_done(
    filled: str, command: Command, how: signal.Signals
) -> None:
    with standing_still(filled, "drop") as process:
        process.send_signal(how)
        process.wait()
    with EventStore.open(filled) as store:
        assert store.coupons() != []
        assert last(store).outcome == "done"
    told = command("rebuild-projections", "--status")
    assert ("the new tables are in place" in told) == (how is signal.SIGINT)
    assert "nothing was changed" not in told


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_a_killed_rebuild_on_another_machine_has_spilled_is_removed_with_the_next_rebuild(filled: str) -> None:
    with EventStore.open(filled) as store:
        database = sqlite_path(store.engine)
        spilled = database.with_name(f"eventstore-rebuild-{database.name}-x1y2")
        spilled.mkdir()
        (spilled / "duckdb_temp_storage.tmp").write_bytes(b"of a container that is gone")
        store.rebuild_projections()
        assert not spilled.exists()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_killed_rebuild_that_an_open_store_has_not_noticed_is_told_of_by_status_and_abort(
    filled: str, command: Command
) -> None:
    with EventStore.open(filled) as store:
        for option, said in (("--status", "killed"), ("--abort", "no rebuild is under way")):
            with standing_still(filled, "write") as process:
                process.kill()
                process.wait()
            assert left_behind(store) != []
            assert said in command("rebuild-projections", option)
            assert left_behind(store) == []


@pytest.mark.parametrize(
    ("dialect", "how"),
    [("sqlite", signal.SIGINT), ("sqlite", signal.SIGTERM)],
    indirect=["dialect"],
)
def test_an_interrupted_rebuild_leaves_everything_as_it_was(filled: str, how: signal.Signals) -> None:
    before = seen(filled)
    with creeping(filled) as process:
        process.send_signal(how)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")
    assert seen(filled) == before
    with EventStore.open(filled) as store:
        assert left_behind(store) == []
        assert last(store).outcome == "interrupted"


def test_a_rebuild_that_is_asked_to_stop_does_and_leaves_everything_as_it_was(filled: str, command: Command) -> None:
    before = seen(filled)
    assert "none yet" in command("rebuild-projections", "--abort")
    with creeping(filled) as process:
        assert f"asked to stop: process {process.pid} on " in command("rebuild-projections", "--abort")
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert err == "error: the rebuild was asked to stop, and has; the tables are as they were\n"
    assert seen(filled) == before
    with EventStore.open(filled) as store:
        assert left_behind(store) == []
    assert "aborted" in command("rebuild-projections", "--status")
    assert "no rebuild is under way" in command("rebuild-projections", "--abort")
    assert json.loads(command("rebuild-projections", "--status", "--json"))["outcome"] == "aborted"
