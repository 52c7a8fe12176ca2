"""`projection`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click
import orjson

from eventstore.cli.common import json_option, open_store, print_json, print_json_lines, print_table, site_option

if TYPE_CHECKING:
    from eventstore.store import EventStore

SHOWN_ROWS = 100
"""Rows of the table that people are shown unless they ask for more."""


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the projections, what they tell and their columns.")
@site_option
@click.option("--limit", type=click.IntRange(1), help=f"Rows to show.  [default: {SHOWN_ROWS}; with --json all]")
@json_option
@click.pass_context
def projection(
    ctx: click.Context, name: str | None, list_all: bool, site: str | None, limit: int | None, as_json: bool
) -> None:
    """Show the rows of a projection, one of your own for example, in the order of its key.

    What the log has gained is taken in first. --json prints a JSON object a line.
    """
    with open_store(ctx) as store:
        if list_all or name is None:
            _print_list(store, as_json)
            return
        model = store.catalogue.find(name)
        store.project()
        rows = store.stream_projection(name, site_id=site)
        if as_json:
            print_json_lines(islice(rows, limit))
            return
        most = SHOWN_ROWS if limit is None else limit
        shown = list(islice(rows, most + 1))
        numbers = [column.name for column in model.shown if column.type in ("bigint", "decimal")]
        print_table(
            model.about,
            [column.name.replace("_", " ") for column in model.shown],
            [[_text(row[column.name]) for column in model.shown] for row in shown[:most]],
            right=[name.replace("_", " ") for name in numbers],
        )
        if len(shown) > most:
            click.echo("… and more rows: --limit N, or all with --json\n")
        if name in store.projections_behind():
            click.echo(
                f"{name} is behind this program: an older version of its model made it, or it has missed events; "
                "`eventstore upgrade` rebuilds it",
                err=True,
            )


def _text(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def _print_list(store: EventStore, as_json: bool) -> None:
    behind = store.projections_behind()
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "version": each.version,
                    "about": each.about,
                    "from": each.source,
                    "key": each.key,
                    "behind": each.name in behind,
                    "columns": [{"name": column.name, "type": column.type, "doc": column.doc} for column in each.shown],
                }
                for each in store.catalogue
            ]
        )
        return
    print_table(
        None,
        ["projection", "version", "about", "columns"],
        [
            (
                each.name,
                f"{each.version}, BEHIND" if each.name in behind else str(each.version),
                each.about,
                ", ".join(column.name for column in each.shown),
            )
            for each in store.catalogue
        ],
    )
