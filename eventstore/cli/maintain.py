"""`maintain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table

if TYPE_CHECKING:
    from eventstore.log.partitions import Maintenance


@click.command()
@click.option("--ahead", type=click.IntRange(min=0), metavar="N", help="Empty partitions to have ahead.  [default: 2]")
@click.option(
    "--positions", type=click.IntRange(min=1), metavar="N", help="Events in a partition made now.  [default: 10000000]"
)
@json_option
@click.pass_context
def maintain(ctx: click.Context, ahead: int | None, positions: int | None, as_json: bool) -> None:
    """Make partitions ahead of the log, so that it never runs into the end of the last one (PostgreSQL).

    Safe to repeat, and while events come in. `serve` does it every hour if its database role owns the tables; where it does
    not, run this from time to time with a login that does. `eventstore status` tells how much room is left.
    """
    from eventstore.log.partitions import PARTITION_POSITIONS, PARTITIONS_AHEAD

    with open_store(ctx) as store:
        done = store.maintain(
            ahead=PARTITIONS_AHEAD if ahead is None else ahead,
            positions=PARTITION_POSITIONS if positions is None else positions,
        )
    if as_json:
        print_json(
            {
                "partitioned": done.partitioned,
                "made": list(done.made),
                "partitions": [{"name": each.name, "start": each.start, "end": each.end} for each in done.partitions],
                "head": done.head,
                "ahead": done.ahead,
                "positions_left": done.positions_left if done.partitioned else None,
            }
        )
    else:
        _print(done)


def _print(done: Maintenance) -> None:
    if not done.partitioned:
        click.echo("nothing to do: a SQLite store is one table and has no partitions to make")
        return
    print_table(
        "Partitions of events",
        ["partition", "first position", "last position", "events", "made now"],
        [
            (
                each.name,
                each.start,
                each.end - 1,
                max(0, min(done.head, each.end - 1) - each.start + 1),
                each.name in done.made,
            )
            for each in done.partitions
        ],
        right=["first position", "last position", "events"],
    )
    click.echo(f"room for {done.positions_left:,} more events; {done.ahead} empty partitions ahead")
