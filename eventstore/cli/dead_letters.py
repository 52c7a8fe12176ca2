"""`dead-letters list | show | retry | skip`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import VISIBLE, cell, json_option, open_store, print_json, print_table, site_option
from eventstore.event import INT64_MAX

if TYPE_CHECKING:
    from eventstore.projections.retrying import Revived

letter_id = click.IntRange(1, INT64_MAX)


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that a projection could not take: see them, try them again, skip them.

    The coupon of such an event waits, in that projection, at the state before it; all others go on. What waits is taken in
    once the event can be, after a `retry`, or without it, after a `skip`. A rebuild tries everything anew but what is skipped.
    """


@dead_letters.command("list")
@click.option("--all", "resolved", is_flag=True, help="Also those that are retried or skipped.")
@click.option("--projection", metavar="NAME", help="Only those of this projection.")
@site_option
@click.option("--after", type=click.IntRange(0, INT64_MAX), default=0, metavar="ID", help="Only those behind this one.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Letters at most.")
@json_option
@click.pass_context
def list_(
    ctx: click.Context, resolved: bool, projection: str | None, site: str | None, after: int, limit: int, as_json: bool
) -> None:
    """List what waits, oldest first."""
    with open_store(ctx) as store:
        found = store.dead_letters(projection=projection, site_id=site, resolved=resolved, after=after, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    ending = ["resolved", "resolution", "note"] if resolved else []
    print_table(
        None,
        ["id", "projection", "position", "site", "coupon", "event", "reason", "parked", *ending],
        [
            (
                str(each.id),
                each.projection,
                each.position,
                each.site_id,
                each.subject_id,
                each.event_id,
                each.reason,
                each.parked_at,
                *([each.resolved_at, each.resolution, each.note] if resolved else []),
            )
            for each in found
        ],
        right=["id", "position"],
    )
    if len(found) == limit:
        click.echo(f"the first {cell(limit)}; --after {found[-1].id} shows more", err=True)


@dead_letters.command()
@click.argument("number", metavar="ID", type=letter_id)
@json_option
@click.pass_context
def show(ctx: click.Context, number: int, as_json: bool) -> None:
    """Show one: what waits, since when and why. `eventstore event POSITION` shows the event."""
    with open_store(ctx) as store:
        found = store.dead_letter(number)
    if as_json:
        print_json(asdict(found))
        return
    facts = {**asdict(found), "id": str(found.id)}
    print_table(
        f"Dead letter {found.id}",
        ["fact", "value"],
        [(name, value) for name, value in facts.items() if value is not None],
    )


@dead_letters.command()
@click.argument("ids", metavar="ID…", nargs=-1, type=letter_id)
@click.option("--all", "every", is_flag=True, help="All that wait.")
@json_option
@click.pass_context
def retry(ctx: click.Context, ids: tuple[int, ...], every: bool, as_json: bool) -> None:
    """Try events again, and take in what waits behind them.

    As after an upgrade, or once a model of yours is mended. What cannot be taken in still stays parked and says why. Exit
    status 1 if any does.
    """
    if every == bool(ids):
        raise click.UsageError("say which: their ids, or --all")
    done: list[Revived] = []
    with open_store(ctx) as store:
        try:
            for each in store.retry_dead_letters(ids or None):
                done.append(each)
                if not as_json:
                    click.echo(_said(each))
        finally:
            # Told even if the database fails half-way: what is done is done.
            if as_json:
                print_json([_revived(each) for each in done])
    ctx.exit(1 if any(each.parked_at is not None for each in done) else 0)


@dead_letters.command()
@click.argument("number", metavar="ID", type=letter_id)
@click.option("--note", required=True, metavar="TEXT", help="Why it is skipped, in at most 500 characters.")
@json_option
@click.pass_context
def skip(ctx: click.Context, number: int, note: str, as_json: bool) -> None:
    """Leave an event out of its projection for good, and take in what waited behind it.

    The log keeps the event; the note is kept with the dead letter. Exit status 1 if the coupon is parked again, at a later one.
    """
    with open_store(ctx) as store:
        done = store.skip_dead_letter(number, note)
    if as_json:
        print_json(_revived(done))
    else:
        click.echo(_said(done))
    ctx.exit(0 if done.parked_at is None else 1)


def _revived(each: Revived) -> dict[str, Any]:
    return {
        "id": each.letter.id,
        "projection": each.letter.projection,
        "site_id": each.letter.site_id,
        "subject_id": each.letter.subject_id,
        "resolution": each.resolution,
        "events": each.events,
        "parked_at": each.parked_at,
        "reason": each.reason,
    }


def _said(each: Revived) -> str:
    events = "1 event" if each.events == 1 else f"{cell(each.events)} events"
    behind = " that waited behind it" if each.resolution == "skipped" else ""
    parts = [] if each.resolution is None else [f"{each.resolution}: {events} taken in{behind}"]
    if each.parked_at is not None:
        state = "stays parked" if each.resolution is None else "parked again"
        parts.append(f"{state} at position {each.parked_at}: {(each.reason or '').translate(VISIBLE)}")
    return f"{each.letter.id}: {'; '.join(parts)}"
