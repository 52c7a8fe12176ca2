"""`init` and `status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table

if TYPE_CHECKING:
    from eventstore.store import Status


@click.command()
@click.pass_context
def init(ctx: click.Context) -> None:
    """Make a store, or bring one to this version. Safe to repeat."""
    from eventstore.cli.common import settings_of
    from eventstore.store import EventStore

    settings = settings_of(ctx)
    store = EventStore(settings.url)
    try:
        done = store.init()
        where = store.engine.url.render_as_string()
    finally:
        store.close()
    click.echo(f"{'made' if done else 'already there:'} {where}")


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the store at a glance: its log, its guards, and how far the projections are.

    Exit status 1 if a guard is missing.
    """
    with open_store(ctx) as store:
        found = store.status()
    if as_json:
        print_json(asdict(found))
    else:
        _print_status(found)
    if found.missing_guards:
        click.echo("append-only guards are missing: the database no longer refuses changes", err=True)
        ctx.exit(1)


def _print_status(found: Status) -> None:
    print_table(
        None,
        ["store", found.url],
        [
            ("schema revision", found.revision),
            ("events", found.events),
            ("last recorded", found.last_recorded_at),
            ("conflicts in quarantine", found.conflicts),
            ("unreadable in quarantine", found.quarantined),
            (
                "append-only guards",
                "all in place" if not found.missing_guards else "MISSING: " + ", ".join(found.missing_guards),
            ),
        ],
    )
    print_table(
        "Projections",
        ["projection", "rows", "position", "behind by"],
        [(each.name, each.rows, each.position, each.lag) for each in found.projections],
        right=["rows", "position", "behind by"],
    )
