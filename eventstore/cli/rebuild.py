"""`rebuild-projections`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import NOTHING, ended_by_sigterm, json_option, open_store, print_json, print_table, progress

if TYPE_CHECKING:
    from eventstore.projections.originals import Reread
    from eventstore.projections.rebuild import RebuildResult
    from eventstore.projections.rebuild_work import RebuildStatus


@click.command("rebuild-projections")
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option(
    "--from-original",
    is_flag=True,
    help="Read every original delivery once more, with today's readers, and build on what they say now.",
)
@click.option(
    "--keep/--drop",
    default=True,
    help="Keep the tables that are replaced, as NAME__old, until the next rebuild; or drop them.  [default: --keep]",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory that DuckDB may take, as 512MB or 2GB; what does not fit goes to disk.  [default: 512MB]",
)
@click.option("--status", is_flag=True, help="Show the rebuild under way, or the last one, and do nothing.")
@click.option("--abort", is_flag=True, help="Ask the rebuild under way to stop, and do nothing else.")
@click.option("--drop-old", is_flag=True, help="Drop the tables that rebuilds have kept, and do nothing else.")
@json_option
@click.pass_context
def rebuild_projections(
    ctx: click.Context,
    names: tuple[str, ...],
    from_original: bool,
    keep: bool,
    memory_limit: str | None,
    status: bool,
    abort: bool,
    drop_old: bool,
    as_json: bool,
) -> None:
    """Rebuild current state and usage counts from the log: all projections, or those named.

    The log is only read, and ingestion, live projections and readers go on. Readers see the old tables until the new ones, with
    all that came meanwhile, take their place in one transaction. Projections that read from one another are rebuilt together.

    Ctrl-C, --abort from another terminal, or a failure leaves every table as it was. There is one rebuild at a time: a second
    one is refused with exit status 75, and says who is at it.

    --from-original is for when a reader had a fault: an event whose delivery was not kept, or can no longer be read, goes in
    as the log has it. The log itself stays as it is, so that a rebuild without the option goes back to what it says.
    """
    if status + abort + drop_old > 1 or ((status or abort or drop_old) and (names or from_original or memory_limit)):
        raise click.UsageError("--status, --abort and --drop-old stand alone: they rebuild nothing")
    if status or abort:
        _show_or_abort(ctx, abort, as_json)
        return
    if drop_old:
        with open_store(ctx) as store:
            dropped = store.drop_kept_tables()
        if as_json:
            print_json({"dropped": dropped})
        else:
            click.echo(f"dropped: {', '.join(dropped)}" if dropped else "no tables were kept")
        return
    with open_store(ctx) as store, ended_by_sigterm():
        with progress("rebuilding", "events") as update:
            result = store.rebuild_projections(
                *names,
                from_original=from_original,
                keep=keep,
                memory_limit=memory_limit,
                on_progress=lambda at: update(at.position, at.head),
            )
        # What has arrived since, where no server is at work.
        store.project()
    if as_json:
        print_json(asdict(result))
    else:
        _print_result(result)


def _print_result(result: RebuildResult) -> None:
    rate = result.position / result.seconds if result.seconds else 0.0
    print_table(
        f"Rebuilt from {result.position:,} events in {result.seconds:.1f} s ({rate:,.0f} events/s)",
        ["projection", "rows"],
        list(result.rows.items()),
        right=["rows"],
    )
    click.echo("time: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.stages.items()))
    if result.reread is not None:
        _print_reread(result.reread)


def _print_reread(found: Reread) -> None:
    click.echo(
        f"originals: {found.read:,} read again, {found.differed:,} of them say something else now; kept as the log has them: "
        f"{found.without_original:,} without an original, {found.unreadable:,} that can no longer be read"
    )
    for each in found.problems:
        click.echo(f"  {each}", err=True)
    if found.unreadable > len(found.problems):
        click.echo(f"  and {found.unreadable - len(found.problems):,} more", err=True)


def _show_or_abort(ctx: click.Context, abort: bool, as_json: bool) -> None:
    with open_store(ctx) as store:
        found = store.abort_rebuild() if abort else store.rebuild_status()
    if as_json:
        print_json(None if found is None else asdict(found) | {"under_way": found.under_way})
    elif found is None:
        click.echo("no rebuild is under way, and there was none yet")
    elif abort and found.under_way:
        click.echo(f"asked to stop: {found.worker}; it leaves every table as it was")
    elif abort:
        click.echo(f"no rebuild is under way; the last one, of {found.worker}: {_ended(found)}")
    else:
        _print_status(found)


def _ended(found: RebuildStatus) -> str:
    words = {
        "died": "killed",
        "interrupted": "interrupted; nothing was changed",
        "aborted": "aborted; nothing was changed",
    }
    told = found.message if found.outcome in ("done", "failed", "died") else None
    return words.get(found.outcome, found.outcome) + (f": {told}" if told else "")


def _print_status(found: RebuildStatus) -> None:
    rows: list[tuple[str, Any]] = [
        ("of", ", ".join(found.names) + (" (from the originals)" if found.from_original else "")),
        ("by", found.worker),
        ("began", f"{found.started_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    if found.under_way:
        left = NOTHING if found.eta_seconds is None else f"{found.eta_seconds:,.0f} s"
        rows += [
            ("last seen", f"{found.seen_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("stage", found.stage + (", asked to stop" if found.abort_wanted else "")),
            ("position", f"{found.position:,} of {found.head:,}"),
            ("rate", f"{found.rate:,.0f} events/s"),
            ("time left of reading", left),
        ]
    else:
        rows += [("ended", f"{found.ended_at:%Y-%m-%d %H:%M:%S} UTC"), ("outcome", _ended(found))]
        if found.rows is not None:
            rows += [
                ("events", found.position),
                ("rows", ", ".join(f"{name} {count:,}" for name, count in found.rows.items())),
            ]
    rows.append(("kept", ", ".join(found.kept) or NOTHING))
    print_table(None, ["rebuild", "under way" if found.under_way else "the last one"], rows)
