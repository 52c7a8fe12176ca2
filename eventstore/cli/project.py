"""`project`."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, progress, settings_of

if TYPE_CHECKING:
    from eventstore.store import EventStore


@click.command()
@click.option("--once", is_flag=True, help="Take in what the log holds now, and end.")
@json_option
@click.pass_context
def project(ctx: click.Context, once: bool, as_json: bool) -> None:
    """Follow the log with the projections until interrupted.

    As `eventstore serve` does, but as a process of its own: beside servers that run with --no-projections, or where events
    come from commands alone. Of several that follow one store one is at work, and another takes over within seconds when it
    dies.
    """
    from eventstore import logs
    from eventstore.log.engine import shown

    if as_json and not once:
        raise click.UsageError("--json is for --once")
    settings = settings_of(ctx)
    logs.configure(level=settings.log_level, style=settings.log_format)
    with open_store(ctx, settings=settings) as store:
        if once:
            _catch_up(store, as_json)
            return
        told = threading.Event()
        before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            store.start_projections()
            click.echo(f"following {shown(store.engine.url)}")
            told.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    click.echo("stopped")


def _catch_up(store: EventStore, as_json: bool) -> None:
    started, begun = time.monotonic(), store.runner.position()
    with progress("projecting", "events") as update:
        position = store.project(on_progress=lambda at, head: update(at - begun, head - begun))
    done = {"position": position, "events": position - begun, "seconds": round(time.monotonic() - started, 3)}
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"the projections are at position {position:,}, by {done['events']:,} events in {done['seconds']:.1f} s"
        )
