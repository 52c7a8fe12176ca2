"""`report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import ended_by_sigterm, open_store, output_of, parameters_of, print_json, print_table
from eventstore.cli.lakes import as_it_is_option, asked, lake_option, lake_progress, place_of, readable

if TYPE_CHECKING:
    from analytics import Report, ReportResult
    from analytics.catalogue import Parameter
    from eventstore.store import EventStore

ENGINES = ("duckdb", "spark")
"""What can answer a report; the first unless another is asked for."""


class _Asking(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-")
            raise click.UsageError(
                f"No such option: {error.option_name}. A report's own parameters go as -p {name}=VALUE; --describe lists them.",
                ctx,
            ) from error


@click.command(cls=_Asking)
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the reports and what they answer.")
@click.option(
    "--param", "-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the report; repeatable."
)
@click.option("--site", metavar="ID", help="Only this site: the same as -p site=ID.")
@click.option("--tz", metavar="ZONE", help="Days of this time zone, as in Europe/Berlin: the same as -p tz=ZONE.")
@click.option("--json", "as_json", is_flag=True, help="JSON: a list of objects.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header line.")
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a Parquet file with typed columns, which appears once it is whole.",
)
@click.option("--limit", type=click.IntRange(1), help="Rows of the table to show.")
@click.option("--describe", is_flag=True, help="Tell what the report answers, its parameters and its columns.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="What answers: DuckDB here, or Spark, wherever Spark is told to run.",
)
@lake_option
@as_it_is_option
@click.pass_context
def report(
    ctx: click.Context,
    name: str | None,
    list_all: bool,
    given: tuple[str, ...],
    site: str | None,
    tz: str | None,
    as_json: bool,
    as_csv: bool,
    parquet: Path | None,
    limit: int | None,
    describe: bool,
    engine: str,
    lake: str | None,
    as_it_is: bool,
) -> None:
    """Answer a question about the coupons with DuckDB or Spark: as a table, JSON, CSV or Parquet.

    `eventstore report --list` shows the reports, `eventstore report NAME --describe` what one takes and tells;
    `eventstore report NAME -p since=2026-09-01` sets a parameter. A date is a day of UTC, or of the report's time zone; `all`
    or nothing (`-p limit=all`) lifts a restriction.
    """
    output = output_of(as_json, as_csv, parquet=parquet, limit=limit)
    parameters = parameters_of(given, site=site, tz=tz)
    if list_all or name is None:
        if name is not None:
            raise click.UsageError(f"--list lists all reports; `eventstore report {name} --describe` tells of one")
        if describe or parquet is not None or limit is not None or as_csv or parameters:
            raise click.UsageError("name the report; `eventstore report --list` shows which there are")
        _print_list(output)
        return
    if describe:
        if parquet is not None or limit is not None or as_csv or parameters:
            raise click.UsageError("--describe stands with a name alone, or with --json")
        _describe(name, output)
        return
    with open_store(ctx) as store, ended_by_sigterm():
        if output is None and parquet is None:
            print_report(store, name, parameters, limit=limit, lake=lake, engine=engine, as_it_is=as_it_is)
            return
        result = _answer(store, name, parameters, lake, engine, as_it_is)
        if parquet is not None:
            from analytics.files import new_file

            with new_file(parquet) as file:
                file.write(result.to_parquet())
            click.echo(f"{parquet}: {len(result.rows):,} rows at position {result.position:,}")
            return
        click.echo(result.to_json().decode() if output == "json" else result.to_csv(), nl=output == "json")


def _answer(
    store: EventStore,
    name: str,
    parameters: dict[str, str],
    lake: str | None = None,
    engine: str = ENGINES[0],
    as_it_is: bool = False,
) -> ReportResult:
    from analytics import report

    report(name).values(parameters)  # what is wrong there is said before anything is read
    result = _result(store, name, parameters, lake, engine, as_it_is)
    if result.cut:
        limit = result.parameters["limit"]
        click.echo(f"limit={limit} was reached, there may be more: -p limit=all gives all of it", err=True)
    return result


def _result(
    store: EventStore, name: str, parameters: dict[str, str], lake: str | None, engine: str, as_it_is: bool
) -> ReportResult:
    from analytics import run_report

    if engine == "spark":
        from analytics import spark

        with readable(place_of(store, lake)), lake_progress() as told:
            opened = spark.connect(
                store.engine,
                lake=place_of(store, lake),
                projections=store.catalogue,
                catch_up=not as_it_is,
                on_progress=told,
            )
        with opened:
            return opened.run_report(name, **parameters)
    with asked(store, lake, as_it_is=as_it_is) as connection:
        return run_report(connection, name, **parameters)


def print_report(
    store: EventStore,
    name: str,
    parameters: dict[str, str],
    *,
    limit: int | None = None,
    lake: str | None = None,
    engine: str = ENGINES[0],
    as_it_is: bool = False,
) -> None:
    """Print a report as a table; numbers to the right, at most `limit` rows."""
    from analytics import report as find_report

    shown = find_report(name).table
    result = _answer(store, name, parameters, lake, engine, as_it_is)
    kept = [number for number, column in enumerate(result.columns) if column.name in shown]
    headings = {number: result.columns[number].name.replace("_", " ") for number in kept}
    cells = result.cells()
    print_table(
        result.title,
        list(headings.values()),
        [[row[number] for number in kept] for row in cells[:limit]],
        right=[headings[number] for number in kept if _is_numeric(result.rows, number)],
    )
    if not cells:
        click.echo("no rows")
    if limit is not None and len(cells) > limit:
        again = "".join(f" -p {quote(f'{key}={value}')}" for key, value in parameters.items())
        click.echo(f"… and {len(cells) - limit:,} more rows: eventstore report {name}{again}\n")


def _is_numeric(rows: Sequence[tuple[object, ...]], number: int) -> bool:
    from decimal import Decimal

    values = [row[number] for row in rows if row[number] is not None]
    return bool(values) and all(
        isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values
    )


def _print_list(output: str | None) -> None:
    from analytics import reports
    from analytics.catalogue import GROUPS

    found = reports()
    if output == "json":
        print_json([_facts(each) for each in found])
        return
    for word, heading in (GROUPS | {"": "More"}).items():
        rows = [(each.name, each.title, each.question) for each in found if each.group == word]
        if rows:
            print_table(heading, ["report", "title", "question"], rows)
    click.echo("What one takes and tells: eventstore report NAME --describe")


def _describe(name: str, output: str | None) -> None:
    from analytics import report as find_report

    found = find_report(name)
    if output == "json":
        columns = [{"name": each.name, "unit": each.unit, "doc": each.doc} for each in found.columns]
        print_json(_facts(found) | {"columns": columns})
        return
    click.echo(f"{found.title}: {found.question}\n")
    print_table(
        None,
        ["parameter", "takes", "default", "what it is"],
        [(each.name, each.expected, _default(each), each.doc) for each in found.parameters],
    )
    print_table(
        None,
        ["column", "unit", "what it is"],
        [(each.name, each.unit, each.doc) for each in found.columns],
    )
    if len(found.table) < len(found.columns):
        click.echo(f"The table shows {', '.join(found.table)}; --json, --csv and --parquet have all.")


def _default(parameter: Parameter) -> str | None:
    if isinstance(parameter.default, bool):
        return "true" if parameter.default else "false"
    return None if parameter.default is None else str(parameter.default)


def _facts(found: Report) -> dict[str, Any]:
    """What programs are told of a report."""
    return {
        "name": found.name,
        "title": found.title,
        "group": found.group,
        "question": found.question,
        "parameters": [
            {
                "name": each.name,
                "type": "|".join(each.choices) or each.type,
                "default": each.default,
                "doc": each.doc,
            }
            for each in found.parameters
        ],
    }
