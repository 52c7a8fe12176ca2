"""`sql`: questions of the asker's own."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import (
    NOTHING,
    VISIBLE,
    ended_by_sigterm,
    open_store,
    output_of,
    parameters_of,
    print_json,
    print_table,
    settings_of,
)
from eventstore.cli.lakes import as_it_is_option, asked, lake_option

if TYPE_CHECKING:
    from analytics import Answer

SHOWN_ROWS = 100
"""Rows that people are shown unless they ask for more."""
TIME_LIMIT = 60.0
MEMORY_LIMIT = "2GB"
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
NUMERIC = frozenset((*_WHOLE, *(f"U{each}" for each in _WHOLE), "FLOAT", "DOUBLE", "DECIMAL"))
"""Types whose values stand to the right."""
ALL_TABLES = ""


@click.command()
@click.argument("query", required=False)
@click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Read the query from a file.",
)
@click.option(
    "--tables",
    "tables",
    is_flag=False,
    flag_value=ALL_TABLES,
    metavar="[NAME]",
    help="Tell what there is to ask: all views, or the columns of one.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON: a list of objects.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header line; what a spreadsheet would run is quoted.")
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a Parquet file, with its types.",
)
@click.option(
    "--param", "-p", "given", multiple=True, metavar="NAME=VALUE", help="A text for $NAME in the query; repeatable."
)
@click.option("--limit", type=click.IntRange(1), help=f"Rows of the table to show.  [default: {SHOWN_ROWS}]")
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=TIME_LIMIT,
    show_default=True,
    metavar="SECONDS",
    help="What DuckDB may work for the answer.",
)
@click.option(
    "--memory-limit",
    default=MEMORY_LIMIT,
    show_default=True,
    metavar="SIZE",
    help="What DuckDB may take, as 512MB or 4GB.",
)
@lake_option
@as_it_is_option
@click.pass_context
def sql(
    ctx: click.Context,
    query: str | None,
    file: str | None,
    tables: str | None,
    as_json: bool,
    as_csv: bool,
    parquet: Path | None,
    given: tuple[str, ...],
    limit: int | None,
    time_limit: float,
    memory_limit: str,
    lake: str | None,
    as_it_is: bool,
) -> None:
    """Ask a question of your own, in DuckDB's SQL; `-` reads it from standard input.

    \b
    eventstore sql "SELECT code, times_used FROM coupons JOIN coupon_usage USING (site_id, coupon_id) ORDER BY 2 DESC"
    eventstore sql "SELECT * FROM redemptions WHERE redeemed_at >= CAST($day AS DATE)" -p day=2026-09-01 --csv
    eventstore sql --tables              what there is to ask
    eventstore sql --tables coupons      its columns, their types and what they mean

    One query a call, and nothing but queries: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN. It sees the lake at one moment, up to
    date with the log, and reaches nothing else: no file, no network, no setting. The database that events are written to is
    not asked, however long the query takes.

    Times are in UTC. A parameter is bound as text and never pasted: CAST it where the query wants another type.

    Personal data is in events (payload) and facts (actor_id, account_id).
    """
    if tables is not None:
        if query is not None and tables == ALL_TABLES:
            tables, query = query, None  # an option's optional value that click took for the argument
        if query is not None or file is not None or parquet is not None or as_csv:
            raise click.UsageError("--tables stands alone, or with --json")
        _print_tables(ctx, tables, as_json)
        return
    if math.isnan(time_limit):
        raise click.UsageError("--time-limit takes a number of seconds, not nan")
    if (query is None) == (file is None):
        raise click.UsageError('say what to ask: eventstore sql "SELECT …", or --file FILE, or - for standard input')
    output = output_of(as_json, as_csv, parquet=parquet, limit=limit)
    parameters = parameters_of(given)
    text = query if query is not None and query != "-" else _read(file or "-")
    from analytics import ask

    with (
        open_store(ctx) as store,
        ended_by_sigterm(),
        asked(store, lake, memory_limit=memory_limit, as_it_is=as_it_is) as connection,
        ask(connection, text, parameters, time_limit=time_limit) as answer,
    ):
        if parquet is not None:
            count = answer.write_parquet(parquet)
            click.echo(f"{parquet}: {count:,} rows at position {answer.position:,}")
        elif output == "json":
            answer.write_json(sys.stdout.buffer)
        elif output == "csv":
            answer.write_csv(sys.stdout.buffer)
        else:
            _print_answer(answer, SHOWN_ROWS if limit is None else limit)


def _read(name: str) -> str:
    from eventstore.errors import InputError

    try:
        with click.open_file(name, "rb") as stream:
            return bytes(stream.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the query in {name} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"the query cannot be read from {name}: {error.strerror}") from error


def _print_answer(answer: Answer, most: int) -> None:
    rows = list(islice(answer.rows(), most + 1))
    columns = answer.columns
    if answer.explains:
        for _, plan in rows:
            click.echo(plan)
        return
    cells = [[_cell(value) for value in row] for row in rows[:most]]
    names = [each.name.translate(VISIBLE) for each in columns]
    right = [name for name, each in zip(names, columns, strict=True) if each.type.partition("(")[0] in NUMERIC]
    print_table(None, names, cells, right=right)
    if len(rows) > most:
        click.echo("… and more rows: --limit N shows more, --csv, --json or --parquet FILE give all of them")
    elif not rows:
        click.echo("no rows")


def _cell(value: Any) -> str:
    """A value in full: whoever asks in SQL may want to go on with it."""
    from datetime import datetime

    from analytics.query import flat
    from analytics.results import csv_text

    match value:
        case None:
            return NOTHING
        case datetime():
            return value.replace(tzinfo=None).isoformat(sep=" ")
        case str():
            return value
        case _:
            return csv_text(flat(value))


def _print_tables(ctx: click.Context, name: str, as_json: bool) -> None:
    from analytics.teaching import askable, find
    from eventstore.projections.catalogue import load_catalogue

    known = askable(load_catalogue(settings_of(ctx).projections))
    if as_json:
        print_json([asdict(each) for each in known] if name == ALL_TABLES else asdict(find(name, known)))
        return
    if name == ALL_TABLES:
        print_table(
            None, ["table", "columns", "what it is"], [(each.usage, len(each.columns), each.about) for each in known]
        )
        click.echo('Its columns: eventstore sql --tables NAME. To ask: eventstore sql "SELECT … FROM NAME"')
        return
    found = find(name, known)
    print_table(
        f"{found.usage}: {found.about}",
        ["column", "type", "what it is"],
        [(each.name, each.type, each.doc) for each in found.columns],
    )
