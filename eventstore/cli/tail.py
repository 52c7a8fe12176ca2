"""`tail`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import VISIBLE, ended_by_sigterm, open_store, site_option
from eventstore.errors import NotFound

if TYPE_CHECKING:
    from eventstore.log.records import RecordedEvent
    from eventstore.store import EventStore

_COLOURS = {"created": "green", "applied": "cyan", "updated": "yellow", "deleted": "red", "observed": "blue"}
"""The colour of a type by what comes behind its point."""
_TYPE_WIDTH = 22
_CODE_WIDTH = 20


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with every new event, until interrupted.")
@click.option(
    "--from",
    "begin",
    metavar="POSITION|TIME|beginning|now",
    help="Where to begin, in place of -n: at a position, or with what was recorded from a time on.",
)
@click.option("-n", "last", type=click.IntRange(0), metavar="N", help="Begin with the last N events.  [default: 10]")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type, as coupon.applied or coupon.*; repeatable."
)
@click.option("--coupon", metavar="ID|CODE", help="Only this coupon.")
@site_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line instead, with the canonical event.")
@click.pass_context
def tail(
    ctx: click.Context,
    follow: bool,
    begin: str | None,
    last: int | None,
    types: tuple[str, ...],
    coupon: str | None,
    site: str | None,
    as_json: bool,
) -> None:
    """Show the latest events of the log, a line each; with --follow, every new one as it is recorded.

    In the order recorded, whatever process writes them. While the database is away it waits, and then goes on where it was.
    """
    if begin is not None and last is not None:
        raise click.UsageError("--from and -n exclude each other")
    from eventstore import following
    from eventstore.log.reader import Filter

    wanted_types = following.types_named(types)
    line = following.json_of if as_json else _line
    with open_store(ctx) as store, ended_by_sigterm():
        wanted = Filter(site, None if coupon is None else _coupon(store, coupon, site, follow), wanted_types)
        found = following.pages(
            store,
            wanted,
            begin=begin,
            last=following.LAST_EVENTS if last is None else last,
            follow=follow,
            stop=_reader_gone(),
        )
        with closing(found):
            try:
                for page in found:
                    click.echo("\n".join(map(line, page)))
            except BrokenPipeError:
                _forget_output()


def _coupon(store: EventStore, text: str, site: str | None, follow: bool) -> str:
    from eventstore import following

    try:
        return following.coupon_named(store, text, site)
    except NotFound as error:
        if not follow:
            raise
        click.echo(f"{error} yet; waiting for one with that id", err=True)
        return text


def _line(record: RecordedEvent) -> str:
    from eventstore import following

    event = record.event
    kind = click.style(_shown(event.type).ljust(_TYPE_WIDTH), fg=_COLOURS.get(event.type.rpartition(".")[2]), bold=True)
    what = _shown(following.brief(event))
    late = f"  (recorded {record.recorded_at:%Y-%m-%d %H:%M})" if following.is_late(record) else ""
    return (
        f"{event.event_time:%Y-%m-%d %H:%M:%S}  {record.position:>9,}  {kind}  "
        f"{_shown(following.subject_of(event)).ljust(_CODE_WIDTH)}  {what}{click.style(late, dim=True)}".rstrip()
    )


def _shown(text: str) -> str:
    """What a coupon is called must not command the terminal, nor break the line."""
    return text.translate(VISIBLE)


def _reader_gone() -> Callable[[], bool]:
    """Says whether nobody reads standard output any more, as after `| head`: a quiet log would never show it otherwise."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):  # Windows has no poll, and what is no file no descriptor
        return lambda: False
    # Whether it can be written to is not asked for: only errors, which are told unasked.
    poll.register(output, 0)
    return lambda: any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def _forget_output() -> None:
    """What is still to be written has no reader: without this, Python would complain of it as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
