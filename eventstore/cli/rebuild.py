"""`rebuild-projections`."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table, progress


@click.command("rebuild-projections")
@click.argument("names", metavar="[NAME…]", nargs=-1)
@json_option
@click.pass_context
def rebuild_projections(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Rebuild current state and usage counts from the log: all projections, or those named.

    The log is only read. Readers see the old tables until the new ones take their place in one transaction; cancelling
    leaves the old ones. Projections that read from one another are rebuilt together.
    """
    with open_store(ctx) as store:
        with progress("rebuilding", "events") as update:
            result = store.rebuild_projections(*names, on_progress=lambda at: update(at.position, at.head))
        # What arrived while the rebuild ran.
        store.project()
    if as_json:
        print_json(asdict(result))
        return
    rate = result.position / result.seconds if result.seconds else 0.0
    print_table(
        f"Rebuilt from {result.position:,} events in {result.seconds:.1f} s ({rate:,.0f} events/s)",
        ["projection", "rows"],
        list(result.rows.items()),
        right=["rows"],
    )
    click.echo("time: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.stages.items()))
