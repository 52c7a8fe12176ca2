"""`ingest`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table, progress
from eventstore.cli.files import Problems, files_argument, numbered_lines, observed_at_option, taken_at
from eventstore.errors import InputError, StoreUnavailable

if TYPE_CHECKING:
    from eventstore.ingest import LineAnswer

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
@json_option
@click.pass_context
def ingest(
    ctx: click.Context,
    files: tuple[str, ...],
    route: str | None,
    handler: str | None,
    site: str | None,
    observed_at: datetime | None,
    as_json: bool,
) -> None:
    """Append deliveries from files: NDJSON (one delivery a line) or one JSON document each; `-` reads standard input.

    A line may also wrap a delivery with what its body does not say:
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
            with progress(name, "lines") as update:
                done = 0

                def on_answer(answer: LineAnswer, name: str = name, update=update) -> None:  # type: ignore[no-untyped-def]
                    nonlocal done
                    done += 1
                    totals.add(answer)
                    problems.add(name, answer)
                    if done % 100 == 0:
                        update(done, None)

                try:
                    store.ingest(
                        numbered_lines(name),
                        route=route,
                        handler=handler,
                        site=site,
                        observed_at=taken_at(name, observed_at),
                        on_answer=on_answer,
                    )
                except StoreUnavailable as error:
                    raise StoreUnavailable(
                        f"{name}: stopped after {done} answered lines: {error}; run it again, what is in is not appended twice"
                    ) from error
        store.project()
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
