"""`ingest`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table, progress
from eventstore.cli.files import Problems, file_progress, files_argument, observed_at_option, taken_at
from eventstore.errors import EventStoreError, InputError

if TYPE_CHECKING:
    from eventstore.ingest import LineAnswer

MAX_READERS = 64
"""More than any writer can follow: only so that a slip of the keyboard does not start a thousand processes."""
ROUTES = ["velo", "rest", "sdk", "snapshot"]


@click.command()
@files_argument
@click.option(
    "--route", type=click.Choice(ROUTES), help="What the deliveries are; found out by their shape if not given."
)
@click.option(
    "--handler", metavar="NAME", help="The Velo handler the deliveries came to, as in wixMarketing_onCouponCreated."
)
@click.option("--site", metavar="ID", help="The site they belong to; else the one each names.")
@observed_at_option
@click.option(
    "--readers",
    type=click.IntRange(0, MAX_READERS),
    help="Processes that read large files; 0: this one alone. Default: by the cores of the machine.",
)
@json_option
@click.pass_context
def ingest(
    ctx: click.Context,
    files: tuple[str, ...],
    route: str | None,
    handler: str | None,
    site: str | None,
    observed_at: datetime | None,
    readers: int | None,
    as_json: bool,
) -> None:
    """Append deliveries from files: NDJSON (one delivery a line) or one JSON document each; `-` reads standard input.

    Any number of lines, or a document of up to 64 MiB; plain or compressed with gzip or zstd. A line may also wrap a
    delivery with what its body does not say:
    {"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}. Running a file again appends nothing new.
    Exit status 1 if any line was refused or quarantined.
    """
    from eventstore.ingest import IngestSummary
    from eventstore.wix import HANDLERS

    if handler is not None and handler not in HANDLERS:
        raise InputError(f"unknown handler {handler!r}; the known ones are {', '.join(HANDLERS)}")
    totals = IngestSummary()
    problems = Problems()
    with open_store(ctx, create=True) as store:
        for name in files:
            with click.open_file(name, "rb") as stream, file_progress(name) as update:

                def on_problem(answer: LineAnswer, name: str = name) -> None:
                    problems.add(name, answer)

                try:
                    totals += store.ingest_file(
                        stream,
                        name=name,
                        route=route,
                        handler=handler,
                        site=site,
                        observed_at=taken_at(name, observed_at),
                        readers=readers,
                        on_problem=on_problem,
                        on_progress=update,
                    )
                except EventStoreError as error:
                    # What was refused before is told now or never; and what was appended is to be seen by the next command.
                    problems.print()
                    if isinstance(error, InputError):
                        store.project()
                    raise
        with progress("projections", "events") as moved:
            store.project(on_progress=moved)
        head = store.head()
    if as_json:
        print_json({"lines": totals.lines, "events": totals.counts, "head": head, "problems": problems.shown})
    else:
        print_table(
            f"{totals.lines:,} lines read, the log now holds {head:,} events",
            ["outcome", "events"],
            [
                (kind, totals.counts.get(kind, 0))
                for kind in ("appended", "duplicate", "conflict", "quarantined", "refused")
            ],
            right=["events"],
        )
        problems.print()
    ctx.exit(1 if totals.counts.get("refused") or totals.counts.get("quarantined") else 0)
