"""`upgrade`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

import click

from eventstore.cli.common import json_option, print_json, print_table, progress, settings_of


@click.command()
@json_option
@click.pass_context
def upgrade(ctx: click.Context, as_json: bool) -> None:
    """Bring a store to this version: migrate its tables, rebuild the projections that are behind. Safe to repeat.

    A projection is behind when an older version of its model made its table, or when it is new, your own ones included. Until
    the rebuilt table takes its place, a server goes on answering from the older one and taking events in.

    On PostgreSQL with roles it takes a login of the owner's.
    """
    from eventstore.log.engine import shown
    from eventstore.store import EventStore

    settings = settings_of(ctx)
    with closing(EventStore(settings.url, projections=settings.projections)) as store:
        with progress("upgrading", "events") as update:
            done = store.upgrade(on_progress=lambda at: update(at.position, at.head))
        url = shown(store.engine.url)
    if as_json:
        print_json(asdict(done))
        return
    if not done.did_something:
        click.echo(f"nothing to do: {url} is of this version, schema revision {done.revision}")
        return
    if done.revision_before != done.revision:
        click.echo(f"schema: from revision {done.revision_before} to {done.revision}")
    if done.projections:
        print_table(
            f"Rebuilt from {done.position:,} events in {done.seconds:.1f} s",
            ["projection", "made by version", "now version", "rows"],
            [(each.name, each.version_before, each.version, each.rows) for each in done.projections],
            right=["made by version", "now version", "rows"],
        )
