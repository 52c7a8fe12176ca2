"""`export`: files to hand over."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import orjson

from eventstore.cli.common import ended_by_sigterm, json_option, open_store, site_option
from eventstore.cli.lakes import as_it_is_option, lake_option, lake_stage, place_of, readable, stages

if TYPE_CHECKING:
    from analytics.export import ExportProgress

STANDARD_OUTPUT = "-"


@click.command()
@click.option(
    "--format", "form", metavar="FORMAT", help="parquet, csv or ndjson; if not given, as the ending of the file says."
)
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="FILE",
    help="The file, which appears once it is whole; `-`: standard output.",
)
@click.option(
    "--table",
    default="events",
    show_default=True,
    metavar="NAME",
    help="What to export; `eventstore sql --tables` lists it.",
)
@click.option("--since", metavar="TIME", help="Only what happened then or later: a date, or a time with its zone.")
@click.option("--until", metavar="TIME", help="Only what happened before then.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="POSITION", help="Only what stands above this position."
)
@site_option
@click.option("--memory-limit", metavar="SIZE", help="What DuckDB may take; the rest goes to disk.  [default: 512MB]")
@lake_option
@as_it_is_option
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    form: str | None,
    output: str,
    table: str,
    since: str | None,
    until: str | None,
    after: int,
    site: str | None,
    memory_limit: str | None,
    lake: str | None,
    as_it_is: bool,
    as_json: bool,
) -> None:
    """Write a table as a file to hand over: Parquet, CSV or NDJSON, of any size in bounded memory.

    \b
    eventstore export -o events.parquet
    eventstore export -o september.csv --table facts --since 2026-09-01 --until 2026-10-01
    eventstore export -o - --format ndjson --after 3006 | zstd > more.ndjson.zst

    Rows come in the order of the log, or of their key. It is told how far into the log the file looks: --after that position
    exports what came later. A file has its name only once all of it is written; an older one is replaced then.

    CSV guards against formulas: a text that a spreadsheet would run has an apostrophe before it.

    Personal data: events holds the payloads, and with them members who earned a reward, visitors and users; facts still says
    who caused an event (actor_id) and whose site it was (account_id). coupons, coupon_usage and redemptions name nobody, but an
    order's id leads the site's owner to a customer. Hand over the smallest table that answers the question.

    A line of ndjson of events holds the event as the log keeps it, byte for byte. In Python, analytics.exported_events reads such
    lines back, and append_many brings them into another store; `eventstore ingest` is for what Wix sends and does not take them.
    """
    from analytics.export import MEMORY_LIMIT
    from analytics.export import export as export_table

    with open_store(ctx) as store, ended_by_sigterm():
        place = place_of(store, lake)
        with readable(place), stages() as update:

            def told(at: ExportProgress) -> None:
                update("exporting", "rows", at.rows, at.total)

            done = export_table(
                store.engine,
                sys.stdout.buffer if output == STANDARD_OUTPUT else output,
                table=table,
                format=form,
                since=since,
                until=until,
                after=after,
                site=site,
                lake=place,
                catch_up=not as_it_is,
                projections=store.catalogue,
                memory_limit=memory_limit or MEMORY_LIMIT,
                on_progress=told,
                on_lake_progress=lake_stage(update),
            )
    if as_json:
        # Standard output may be taken by the rows.
        click.echo(orjson.dumps(asdict(done) | {"file": output}).decode(), err=output == STANDARD_OUTPUT)
        return
    from rich.filesize import decimal

    name = "" if output == STANDARD_OUTPUT else f"{output}: "
    click.echo(
        f"{name}{done.rows:,} rows of {done.table}, {decimal(done.bytes)}, up to position {done.position:,}",
        err=output == STANDARD_OUTPUT,
    )
