"""A rebuild that another process is at, that is told to stop, or that is killed: everything else is as it was."""

from __future__ import annotations

import json
import signal
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
from eventstore.projections import rebuild, shadows
from eventstore.projections.rebuild_work import RebuildStatus
from eventstore.store import EventStore
from tests.commands import Command
from tests.processes import Program, command_line
from tests.rows import rows
from tests.serving import PATIENCE, environment
from tests.slow_model import stored
from tests.stores import NewUrl


def stand_still(url: str, stage: str) -> None:
    """A rebuild that stands still once it has done a part of a stage."""

    def stand(*_: object) -> None:
        print(stage, flush=True)
        time.sleep(10 * PATIENCE)

    rebuild.PIECE_EVENTS = 40
    if stage == "drop":
        shadows.Shadows.drop = stand  # type: ignore[assignment]
    with EventStore.open(url) as store:
        store.rebuild_projections(on_progress=lambda at: stand() if at.stage == stage else None)


def creep(*arguments: str) -> None:
    """The command line, whose rebuild takes an event at a time: long enough to be told something meanwhile."""
    rebuild.PIECE_EVENTS = 1
    command_line(*arguments)


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
def standing_still(url: str, stage: str, folder: Path) -> Iterator[Program]:
    """A process whose rebuild has done a part of this stage, and then no more."""
    process = Program([url, stage], cwd=folder, env=environment(), errors=folder / "stderr.txt", call=stand_still)
    try:
        assert next(process.lines()) == stage
        yield process
    finally:
        process.kill()


@contextmanager
def creeping(url: str, folder: Path) -> Iterator[Program]:
    """A command that rebuilds, and takes long for it; it has begun. What it complains of goes to stderr.txt."""
    arguments = ["--store", url, "rebuild-projections"]
    process = Program(arguments, cwd=folder, env=environment(), errors=folder / "stderr.txt", call=creep)
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
    filled: str, command: Command, tmp_path: Path
) -> None:
    with standing_still(filled, "write", tmp_path) as first, EventStore.open(filled) as store:
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
        first.ended(PATIENCE)
        assert last(store).outcome == "died"


@pytest.mark.parametrize(
    ("dialect", "stage"),
    [("sqlite", "read"), ("sqlite", "write"), ("sqlite", "catch_up"), ("postgresql", "write")],
    indirect=["dialect"],
)
def test_what_a_killed_rebuild_leaves_behind_is_gone_when_the_store_is_opened_next(
    filled: str, stage: str, tmp_path: Path
) -> None:
    before = seen(filled)
    with standing_still(filled, stage, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.ended(PATIENCE)
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
    filled: str, command: Command, how: signal.Signals, tmp_path: Path
) -> None:
    with standing_still(filled, "drop", tmp_path) as process:
        process.send_signal(how)
        process.ended(PATIENCE)
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
    filled: str, command: Command, tmp_path: Path
) -> None:
    with EventStore.open(filled) as store:
        for option, said in (("--status", "killed"), ("--abort", "no rebuild is under way")):
            with standing_still(filled, "write", tmp_path) as process:
                process.kill()
                process.ended(PATIENCE)
            assert left_behind(store) != []
            assert said in command("rebuild-projections", option)
            assert left_behind(store) == []


@pytest.mark.parametrize(
    ("dialect", "how"),
    [("sqlite", signal.SIGINT), ("sqlite", signal.SIGTERM)],
    indirect=["dialect"],
)
def test_an_interrupted_rebuild_leaves_everything_as_it_was(filled: str, how: signal.Signals, tmp_path: Path) -> None:
    before = seen(filled)
    with creeping(filled, tmp_path) as process:
        process.send_signal(how)
        status, out = process.ended(PATIENCE)
    err = (tmp_path / "stderr.txt").read_text()
    assert (status, out, err.strip()) == (130, "", "interrupted")
    assert seen(filled) == before
    with EventStore.open(filled) as store:
        assert left_behind(store) == []
        assert last(store).outcome == "interrupted"


def test_a_rebuild_that_is_asked_to_stop_does_and_leaves_everything_as_it_was(
    filled: str, command: Command, tmp_path: Path
) -> None:
    before = seen(filled)
    assert "none yet" in command("rebuild-projections", "--abort")
    with creeping(filled, tmp_path) as process:
        assert f"asked to stop: process {process.pid} on " in command("rebuild-projections", "--abort")
        status, out = process.ended(PATIENCE)
    err = (tmp_path / "stderr.txt").read_text()
    assert (status, out) == (1, "")
    assert err == "error: the rebuild was asked to stop, and has; the tables are as they were\n"
    assert seen(filled) == before
    with EventStore.open(filled) as store:
        assert left_behind(store) == []
    assert "aborted" in command("rebuild-projections", "--status")
    assert "no rebuild is under way" in command("rebuild-projections", "--abort")
    assert json.loads(command("rebuild-projections", "--status", "--json"))["outcome"] == "aborted"
