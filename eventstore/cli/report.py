"""`report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import open_store, print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the reports and what they answer.")
@click.option(
    "--param", "-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the report; repeatable."
)
@click.option("--site", metavar="ID", help="Only this site: the same as -p site=ID.")
@click.option("--json", "output", flag_value="json", help="JSON: a list of objects.")
@click.option("--csv", "output", flag_value="csv", help="CSV with a header line.")
@click.option("--limit", type=click.IntRange(1), help="Rows of the table to show.")
@click.pass_context
def report(
    ctx: click.Context,
    name: str | None,
    list_all: bool,
    given: tuple[str, ...],
    site: str | None,
    output: str | None,
    limit: int | None,
) -> None:
    """Answer a question about the coupons with DuckDB: as a table, JSON or CSV.

    `eventstore report --list` shows the reports; `eventstore report NAME -p since=2026-09-01` sets a parameter.
    """
    if list_all or name is None:
        _print_list(output)
        return
    parameters = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"-p takes NAME=VALUE, not {each!r}")
        parameters[key] = value
    if site is not None:
        parameters["site"] = site
    with open_store(ctx) as store:
        if output is None:
            print_report(store.engine, name, parameters, limit=limit)
            return
        from analytics import run_report

        result = run_report(store.engine, name, **parameters)
        click.echo(result.to_json().decode() if output == "json" else result.to_csv(), nl=output == "json")


def print_report(engine: Engine, name: str, parameters: dict[str, str], *, limit: int | None = None) -> None:
    """Print a report as a table; numbers to the right, at most `limit` rows."""
    from analytics import report as find_report
    from analytics import run_report

    shown = find_report(name).table
    result = run_report(engine, name, **parameters)
    kept = [number for number, column in enumerate(result.columns) if column.name in shown]
    headings = {number: result.columns[number].name.replace("_", " ") for number in kept}
    cells = result.cells()
    print_table(
        result.title,
        list(headings.values()),
        [[row[number] for number in kept] for row in cells[:limit]],
        right=[headings[number] for number in kept if _is_numeric(result.rows, number)],
    )
    if limit is not None and len(cells) > limit:
        click.echo(f"… and {len(cells) - limit:,} more rows: eventstore report {name}\n")


def _is_numeric(rows: Sequence[tuple[object, ...]], number: int) -> bool:
    from decimal import Decimal

    values = [row[number] for row in rows if row[number] is not None]
    return bool(values) and all(
        isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values
    )


def _print_list(output: str | None) -> None:
    from analytics import reports

    found = reports()
    if output == "json":
        print_json(
            [
                {
                    "name": each.name,
                    "title": each.title,
                    "question": each.question,
                    "parameters": [
                        {
                            "name": parameter.name,
                            "type": parameter.type,
                            "default": parameter.default,
                            "doc": parameter.doc,
                        }
                        for parameter in each.parameters
                    ],
                }
                for each in found
            ]
        )
        return
    print_table(
        None,
        ["report", "question", "parameters"],
        [(each.name, each.question, ", ".join(parameter.name for parameter in each.parameters)) for each in found],
    )
