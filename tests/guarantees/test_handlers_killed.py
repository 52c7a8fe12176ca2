"""Handlers whose process is killed: every event at least once, what is written through the transaction exactly once, in order."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.handlers.lanes import MAX_DEATHS
from eventstore.store import EventStore
from tests.handling import (
    PATIENCE,
    book,
    caught_up,
    fill,
    first_of_each,
    in_order,
    make_book,
    noted,
    run_until_killed,
    until,
)
from tests.processes import Program

KILLS = {"sqlite": 50, "postgresql": 15}
LONGEST_LIFE = 0.4
"""Seconds that a process has from when it runs the handlers, at most."""
COUPONS = 9


@contextmanager
def handlers_at_work(url: str, folder: Path, *, name: str = "shop", fatal: int = 0) -> Iterator[Program]:
    """A process that runs the handlers; it is killed at the end."""
    notes = str(folder / "notes")
    process = Program(
        [url, name, notes, str(fatal)],
        cwd=folder,
        env=dict(os.environ),
        errors=folder / "errors",
        call=run_until_killed,
    )
    try:
        yield process
    finally:
        process.kill()
        with suppress(OSError):  # its end was waited for already
            process.ended(PATIENCE)


def ready(process: Program) -> bool:
    """Whether it came to run the handlers."""
    return next(process.lines(), None) == "ready"


def test_killed_at_fifty_random_points_each_event_is_handled_and_what_is_written_is_written_once(
    store_url: str, dialect: str, tmp_path: Path
) -> None:
    chance = random.Random(17)
    with EventStore.open(store_url) as store:
        make_book(store)
        for _ in range(KILLS[dialect]):
            fill(store, 25, coupons=COUPONS, first=store.head() + 1)
            with handlers_at_work(store_url, tmp_path) as process:
                assert ready(process)
                time.sleep(chance.uniform(0, LONGEST_LIFE))
        with handlers_at_work(store_url, tmp_path) as process:
            until(lambda: caught_up(store))
        everything = list(range(1, store.head() + 1))
        kept, given = book(store), noted(tmp_path / "notes")
        assert sorted(position for position, _ in kept) == everything
        assert in_order(kept)
        assert sorted({position for position, _ in given}) == everything
        assert in_order(first_of_each(given))
        assert not store.handlers.dead_letters()


def test_an_event_that_kills_its_process_is_found_and_parked_and_everything_else_is_handled(
    store_url: str, tmp_path: Path
) -> None:
    fatal, behind = 20, 20 + COUPONS
    with EventStore.open(store_url) as store:
        make_book(store)
        fill(store, 60, coupons=COUPONS)
        for death in range(MAX_DEATHS + 1):
            with handlers_at_work(store_url, tmp_path, fatal=fatal) as process:
                assert process.ended(PATIENCE)[0] == 9, death
        with handlers_at_work(store_url, tmp_path, fatal=fatal) as process:
            until(lambda: caught_up(store))
            [letter] = store.handlers.dead_letters()
            assert (letter.handler, letter.position, letter.retry_at) == ("in_a_file", fatal, None)
            assert "the process ended" in letter.reason
            assert process.returncode is None
        given = {position for position, _ in noted(tmp_path / "notes")}
        assert given == set(range(1, 61)) - {each for each in range(fatal, 61, COUPONS)}
        assert sorted(position for position, _ in book(store)) == list(range(1, 61))
        # Tried again it ends its process again, and then waits again, for the next one does not loop.
        with handlers_at_work(store_url, tmp_path, fatal=fatal) as process:
            assert ready(process)
            store.handlers.retry([letter.id])
            assert process.ended(PATIENCE)[0] == 9
        store.handlers.skip(letter.id, "it ends the process")
        with handlers_at_work(store_url, tmp_path, fatal=fatal) as process:
            until(lambda: not store.handlers.dead_letters())
        given = {position for position, _ in noted(tmp_path / "notes")}
        assert given == set(range(1, 61)) - {fatal}
        assert behind in given


def test_of_two_processes_one_works_and_the_other_takes_over_within_seconds_of_its_death(
    store_url: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with EventStore.open(store_url) as store:
        make_book(store)
        fill(store, 100, coupons=COUPONS)
        with handlers_at_work(store_url, folders[0]) as first:
            assert ready(first)
            with handlers_at_work(store_url, folders[1]) as second:
                fill(store, 200, coupons=COUPONS, first=101)
                until(lambda: len(book(store)) > 120)
                assert not noted(folders[1] / "notes")
                first.kill()
                assert ready(second)
                fill(store, 50, coupons=COUPONS, first=301)
                until(lambda: caught_up(store))
        kept = book(store)
        assert sorted(position for position, _ in kept) == list(range(1, 351))
        assert in_order(kept)
        assert noted(folders[1] / "notes")
