"""`report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import open_store, print_json, print_table

if TYPE_CHECKING:
    from analytics import ReportResult
    from eventstore.store import EventStore


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
            print_report(store, name, parameters, limit=limit)
            return
        result = _answer(store, name, parameters)
        click.echo(result.to_json().decode() if output == "json" else result.to_csv(), nl=output == "json")


def _answer(store: EventStore, name: str, parameters: dict[str, str]) -> ReportResult:
    """The report's answer; what it was read from and does not follow the log is named on standard error."""
    from analytics import connect, report, run_report

    report(name).values(parameters)  # what is wrong there is said before anything is read
    with connect(store.engine, projections=store.catalogue) as connection:
        result = run_report(connection, name, **parameters)
        for each in connection.behind:
            click.echo(
                f"{each} is behind this program: an older version of its model made it; `eventstore upgrade` rebuilds it",
                err=True,
            )
    return result


def print_report(store: EventStore, name: str, parameters: dict[str, str], *, limit: int | None = None) -> None:
    """Print a report as a table; numbers to the right, at most `limit` rows."""
    from analytics import report as find_report

    shown = find_report(name).table
    result = _answer(store, name, parameters)
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
