"""What the commands that ask or write the lake share: which one it is, bringing it up to date in sight, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import progress
from eventstore.errors import InputError

if TYPE_CHECKING:
    from analytics import AnalyticsConnection, Lake
    from analytics.lake import LakeProgress
    from eventstore.store import EventStore

as_it_is_option = click.option(
    "--as-it-is",
    is_flag=True,
    help="Ask the lake as it is, without bringing it up to date: for who may read it and not write it.",
)
lake_option = click.option(
    "--lake",
    metavar="PLACE",
    help="The lake: a folder, or an object store's address.  [EVENTSTORE_LAKE; default: beside the SQLite file, or in the "
    "user's cache folder]",
)


def place_of(store: EventStore, given: str | None) -> str:
    """Where the lake lies: as the option says, else the settings, else where it is made."""
    from analytics import default_lake

    if given == "" or store.lake == "":
        raise InputError(
            "the lake is named by an empty text (--lake, EVENTSTORE_LAKE): name a folder or an object store's address, or leave "
            "it out"
        )
    return str(given or store.lake or default_lake(store.engine))


def lake_of(store: EventStore, given: str | None) -> Lake:
    """The store's lake. Nothing is read yet."""
    from analytics import Lake

    return Lake(place_of(store, given), catalogue=store.catalogue)


@contextmanager
def asked(
    store: EventStore, given: str | None, *, memory_limit: str | None = None, as_it_is: bool = False
) -> Iterator[AnalyticsConnection]:
    """The lake, up to date unless it is asked `as_it_is`, open for questions."""
    from analytics import connect
    from analytics.connect import MEMORY_LIMIT

    place = place_of(store, given)
    with readable(place), lake_progress() as told:
        connection = connect(
            store.engine,
            lake=place,
            projections=store.catalogue,
            memory_limit=memory_limit or MEMORY_LIMIT,
            catch_up=not as_it_is,
            on_progress=told,
        )
    with connection, readable(place):
        yield connection


@contextmanager
def readable(place: str) -> Iterator[None]:
    """What cannot be read of the lake's files is one line, with the way out: trying again is none."""
    import duckdb

    from analytics.lake.damage import LakeUnreadable, is_damage

    try:
        yield
    except LakeUnreadable as error:
        raise InputError(str(error)) from error
    except duckdb.Error as error:
        if not is_damage(error):
            raise
        raise InputError(str(LakeUnreadable(place, error))) from error


@contextmanager
def stages() -> Iterator[Callable[[str, str, int, int], None]]:
    """Bars one after the other on a terminal's standard error, with rate and time left: `update(stage, unit, done, total)`."""
    with ExitStack() as bars:
        current = ""
        move: Callable[[int, int | None], None] | None = None

        def update(stage: str, unit: str, done: int, total: int) -> None:
            nonlocal current, move
            if move is None or stage != current:
                bars.close()
                current, move = stage, bars.enter_context(progress(stage, unit))
            move(done, total)

        yield update


def lake_stage(update: Callable[[str, str, int, int], None]) -> Callable[[LakeProgress], None]:
    """What tells such bars of a catching up."""

    def told(at: LakeProgress) -> None:
        # What was there before is no part of the rate.
        update(f"lake: {at.stage}", "events", at.position - at.start, at.head - at.start)

    return told


@contextmanager
def lake_progress() -> Iterator[Callable[[LakeProgress], None]]:
    """A bar for each stage of a catching up."""
    with stages() as update:
        yield lake_stage(update)
