"""`run-handlers`."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from eventstore.cli.common import cell, ended_by_sigterm, json_option, open_store, print_json, print_table, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventstore.handlers.desk import HandlerStatus, Preview
    from eventstore.handlers.runner import HandlerRunner
    from eventstore.store import EventStore

from_option = click.option(
    "--from",
    "begin",
    metavar="PLACE",
    default="now",
    show_default=True,
    help="Where a handler begins that never ran: beginning, now, a position, or a time at which events were recorded.",
)
name_option = click.option(
    "--name",
    metavar="NAME",
    default="handlers",
    show_default=True,
    help="The set's name: each handler's place is kept under it.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="Coupons that plain handlers are busy with at once.",
)
limit_option = click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a call may take, unless its handler says otherwise.",
)
attempts_option = click.option(
    "--attempts",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="How often an event is tried before it waits for a person.",
)


@click.command("run-handlers")
@click.argument("file", metavar="EVENTS.PY", type=click.Path(path_type=Path))
@name_option
@from_option
@click.option(
    "--once", is_flag=True, help="Handle what the log holds now, and end; what fails is tried again by the next run."
)
@click.option("--dry-run", is_flag=True, help="Tell what each handler would be given; call none and write nothing.")
@workers_option
@limit_option
@attempts_option
@json_option
@click.pass_context
def run_handlers(
    ctx: click.Context,
    file: Path,
    name: str,
    begin: str,
    once: bool,
    dry_run: bool,
    workers: int,
    time_limit: float,
    attempts: int,
    as_json: bool,
) -> None:
    """Call the functions of an events.py for each event of the log, as a site's events.js is.

    A function is found by its name, as wixMarketing_onCouponCreated(event), or asks by @on("coupon.applied"); `eventstore
    handlers example` prints files to begin with. Each event is given to each handler at least once, those of one coupon in order;
    what is written through event.transaction is written exactly once.

    What fails is tried again, later each time; after --attempts its coupon waits for a person, for that handler alone
    (`eventstore handlers dead-letters`). Started a second time under the same name it stands by, and takes over when the first
    ends. Exit status of --once: 75 where a handler rests and is to be tried later.
    """
    from eventstore import logs
    from eventstore.handlers.gate import Rules
    from eventstore.handlers.loading import load_handlers
    from eventstore.handlers.session import Limits

    if dry_run and once:
        raise click.UsageError("--dry-run calls nothing, so that there is nothing to do --once")
    handlers = list(load_handlers(file))
    settings = settings_of(ctx)
    logs.configure(level=settings.log_level, style=settings.log_format)
    # Alembic speaks of each migration otherwise.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with open_store(ctx, settings=settings) as store:
        if dry_run:
            _show(store.handlers.preview(handlers, name=name, begin=begin), as_json)
            return
        runner = store.handlers.runner(
            handlers,
            name=name,
            begin=begin,
            limits=Limits(workers=workers, time_limit=time_limit, rules=Rules(attempts=attempts)),
        )
        run(ctx, store, runner, [each.name for each in handlers], once=once)


def run(ctx: click.Context, store: EventStore, runner: HandlerRunner, names: Sequence[str], *, once: bool) -> None:
    """Run handlers until Ctrl-C or SIGTERM, or once; ends the command with the status that tells how it went."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What handlers print is seen at once, in a file too.
        sys.stdout.reconfigure(line_buffering=True)
    before = {each.handler: each for each in store.handlers.status(runner.name) if each.handler in names}
    if before and ctx.get_parameter_source("begin") is ParameterSource.COMMANDLINE:
        click.echo(
            f"{', '.join(before)}: each goes on where it was; `eventstore handlers replay {runner.name} --from …` moves them",
            err=True,
        )
    several = f"{len(names)} handlers" if len(names) > 1 else "the handler"
    click.echo(f"running {several} {', '.join(names)} as {runner.name!r}; Ctrl-C ends it in good order", err=True)
    with ended_by_sigterm():
        try:
            done = runner.run(once=once)
        except KeyboardInterrupt:
            click.echo("stopped; what was under way is handled or will be again", err=True)
            ctx.exit(0)
    _sum_up([each for each in store.handlers.status(runner.name) if each.handler in names], before)
    if not done:
        click.echo("not everything could be handled now; `eventstore handlers status` tells why", err=True)
        ctx.exit(75)


def _sum_up(after: Sequence[HandlerStatus], before: Mapping[str, HandlerStatus]) -> None:
    handled = sum(each.handled - (before[each.handler].handled if each.handler in before else 0) for each in after)
    waiting, people = sum(each.parked for each in after), sum(each.waiting_for_people for each in after)
    told = [f"handled: {cell(handled)}"]
    if waiting > people:
        told.append(f"to be tried again by a later run: {cell(waiting - people)}")
    if people:
        told.append(f"waiting for a person: {cell(people)} (`eventstore handlers dead-letters`)")
    click.echo("; ".join(told), err=True)


def _show(found: Sequence[Preview], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "handler": each.handler,
                    "after": each.begin,
                    "events": each.events,
                    "first": each.first,
                    "last": each.last,
                }
                for each in found
            ]
        )
        return
    print_table(
        "Would be handled",
        ["handler", "after position", "events", "first", "last"],
        [(each.handler, each.begin, each.events, each.first, each.last) for each in found],
        right=["after position", "events", "first", "last"],
    )
    click.echo(f"{cell(sum(each.events for each in found))} calls; nothing was called or written")
