"""`lake`: bring it up to date, look at it, compare it with the log, tidy it."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table, progress
from eventstore.cli.lakes import lake_of, lake_option, lake_progress, readable
from eventstore.errors import NotFound

if TYPE_CHECKING:
    from analytics import Lake
    from analytics.lake import LakeStatus, Segment
    from eventstore.store import EventStore

KEEP_DAYS = 7
"""Days that files which no version uses any more are kept, unless another number is given."""


@click.group()
def lake() -> None:
    """The lake: the log and what the models make of it as Delta tables, which reports, notebooks and `sql` are answered from.

    Each of those brings it up to date first, so that nobody has to. It is made of the log alone and can be removed: the next
    question makes it anew. DuckDB, Spark, Trino, Polars … read its tables as they are: events, coupons, redemptions, ….

    It holds personal data where the log does: payloads, who did what, whose site it is.
    """


@lake.command("catch-up")
@lake_option
@json_option
@click.pass_context
def catch_up(ctx: click.Context, lake: str | None, as_json: bool) -> None:
    """Bring the lake up to the head of the log, exactly once, whoever else is at it; for a cron job, or before a demonstration.

    Ended at any point, the next one goes on from what was committed: at most a million events are read again.
    """
    with open_store(ctx) as store:
        found = lake_of(store, lake)
        with readable(found.location):
            before = found.status().position
            begun = time.monotonic()
            with lake_progress() as told:
                position = found.catch_up(store.engine, on_progress=told)
        seconds = time.monotonic() - begun
    if as_json:
        print_json({"lake": found.location, "position": position, "before": before, "seconds": round(seconds, 3)})
        return
    new = position - before
    rate = f" in {seconds:.1f} s ({new / seconds:,.0f} events/s)" if new else ""
    click.echo(f"{found.location}: at position {position:,}, {new:,} new events{rate}")


@lake.command()
@lake_option
@json_option
@click.pass_context
def status(ctx: click.Context, lake: str | None, as_json: bool) -> None:
    """How far the lake is, beside the log's head, and what it takes on the disk. Nothing is brought up to date."""
    with open_store(ctx) as store:
        found = lake_of(store, lake)
        with readable(found.location):
            told = found.status()
        head = store.head()
    if as_json:
        print_json({"lake": told.location, "head": head} | _facts(told, head))
        return
    behind = head - told.position
    state = "up to date" if behind == 0 else f"{behind:,} behind; the next question brings it up"
    if behind < 0:
        state = "further on than the log: made of another store's, or of this one before an older backup was restored"
    if not sum(told.files.values()) and not told.position:
        state = "not made yet; the first question makes it"
    print_table(
        None,
        ["lake", told.location],
        [
            ("the log's head", head),
            ("position", told.position),
            ("state", state),
            ("bytes", _size(sum(told.bytes.values()))),
        ],
    )
    positions: dict[str, int | None] = {"events": told.position, **told.projections}
    print_table(
        None,
        ["table", "position", "files", "bytes"],
        [(name, positions.get(name), count, _size(told.bytes[name])) for name, count in told.files.items()],
        right=["position", "files", "bytes"],
    )


def _facts(told: LakeStatus, head: int) -> dict[str, Any]:
    return {
        "position": told.position,
        "behind": head - told.position,
        "projections": told.projections,
        "files": told.files,
        "bytes": told.bytes,
    }


@lake.command()
@click.option("--catch-up/--as-it-is", "first", default=True, help="Bring it up to date first.  [default: --catch-up]")
@lake_option
@json_option
@click.pass_context
def verify(ctx: click.Context, first: bool, lake: str | None, as_json: bool) -> None:
    """Look through the lake: every file, and whether its events are the log's and its projections the store's.

    Events are compared half a million at a time: how many, and a checksum of all their columns as the log's events make them.
    Projections are compared with the store's own tables where those are at the same position. The log is read once.

    Exit status 1 if something is damaged or differs, and what: then remove the lake, it is made anew.
    """
    from analytics.lake import LakeUnreadable

    behind = ""
    with open_store(ctx) as store:
        found = lake_of(store, lake)
        with readable(found.location):
            if first:
                try:
                    with lake_progress() as told:
                        found.catch_up(store.engine, on_progress=told)
                except LakeUnreadable as error:
                    found.status()  # what cannot even be looked at is the error
                    behind = str(error)
            broken = list(found.broken_files())
            segments = _verified(found, store)
            if not broken and any(each.error for each in segments):
                broken = list(found.broken_files(whole=True))
            projections = list(found.compare_projections(store.engine))
    wrong = [each for each in segments if not each.same]
    others = [each for each in projections if each.same is False]
    same = not (wrong or broken or others or behind)
    if as_json:
        print_json(
            {
                "lake": found.location,
                "same": same,
                "segments": [asdict(each) for each in segments],
                "projections": [asdict(each) for each in projections],
                "broken": [asdict(each) for each in broken],
            }
        )
    elif same:
        events = sum(each.in_lake for each in segments)
        click.echo(
            f"{found.location}: {events:,} events are as in the log (segments: {len(segments):,}), "
            f"{sum(bool(each.same) for each in projections)} of {len(projections)} projections as in the store"
        )
        for each in projections:
            if each.same is None:
                click.echo(f"{each.name} was not compared: {each.note}")
    if not as_json and broken:
        print_table("Files that cannot be read", ["file", "why"], [(each.file, each.error) for each in broken])
    if not as_json and wrong:
        print_table(
            "Segments of the lake that are not the log's",
            ["positions", "events in the log", "events in the lake"],
            [(f"{each.first:,} to {each.last:,}", each.in_log, each.in_lake) for each in wrong],
            right=["events in the log", "events in the lake"],
        )
    if not as_json and others:
        print_table(
            "Projections of the lake that are not the store's",
            ["projection", "rows in the store", "rows in the lake", "why"],
            [(each.name, each.in_store, each.in_lake, each.note or "values differ") for each in others],
            right=["rows in the store", "rows in the lake"],
        )
    if not same:
        said = [
            *([f"unreadable files: {len(broken):,}"] if broken else []),
            *([f"{len(wrong):,} of {len(segments):,} segments differ"] if wrong else []),
            *([f"projections that differ: {', '.join(each.name for each in others)}"] if others else []),
        ]
        click.echo(f"{', '.join(said) or behind}: remove {found.location}, the lake is made anew", err=True)
        ctx.exit(1)


def _verified(found: Lake, store: EventStore) -> list[Segment]:
    segments = []
    end = max(store.head(), found.status().position)
    with progress("comparing", "events") as update:
        for each in found.verify(store.engine):
            segments.append(each)
            update(each.last, max(end, each.last))
    return segments


@lake.command()
@click.option(
    "--keep",
    type=click.IntRange(0, 36_500),
    default=KEEP_DAYS,
    show_default=True,
    metavar="DAYS",
    help="Days that files out of use are kept: who opened the lake before may still be reading them.",
)
@lake_option
@json_option
@click.pass_context
def compact(ctx: click.Context, keep: int, lake: str | None, as_json: bool) -> None:
    """Join small files into large ones, and delete those out of use for so long. For once a week, or never: it only makes room.

    Questions that are open meanwhile go on. With --keep 0, which deletes at once, a question that is open may fail.
    """
    with open_store(ctx) as store:
        found = lake_of(store, lake)
        with readable(found.location):
            before = found.status()
            if not sum(before.files.values()):
                if not store.head():
                    raise NotFound(f"there is nothing in a lake at {found.location}: the store has no events yet")
                raise NotFound(f"there is no lake at {found.location}; `eventstore lake catch-up` makes it")
            deleted = found.compact(keep=timedelta(days=keep))
            after = found.status()
    if as_json:
        print_json({"lake": found.location, "deleted": deleted, "files": after.files, "bytes": after.bytes})
        return
    print_table(
        found.location,
        ["table", "files before", "files now", "bytes now", "old files deleted"],
        [
            (name, before.files[name], count, _size(after.bytes[name]), deleted.get(name, 0))
            for name, count in after.files.items()
        ],
        right=["files before", "files now", "bytes now", "old files deleted"],
    )


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)
