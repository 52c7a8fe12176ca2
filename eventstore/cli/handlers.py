"""`handlers status | dead-letters | retry | skip | replay | example`."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.common import cell, json_option, open_store, print_json, print_table, site_option
from eventstore.errors import NotFound
from eventstore.event import INT64_MAX

letter_id = click.IntRange(1, INT64_MAX)
set_option = click.option("--name", metavar="NAME", help="Only the set of this name.")
handler_option = click.option("--handler", metavar="NAME", help="Only this handler.")


@click.group()
def handlers() -> None:
    """Handlers of events: see where they are, and deal with what they could not take.

    `eventstore run-handlers` runs them. An event that a handler fails for parks its coupon for that handler alone; it is tried
    again, later each time, and then waits for a person.
    """


@handlers.command()
@set_option
@json_option
@click.pass_context
def status(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Show where each handler stands, and what waits for it."""
    with open_store(ctx) as store:
        found = store.handlers.status(name)
    if not found and name is not None:
        raise NotFound(f"no handler has run under the name {name!r}; `eventstore handlers status` shows all")
    if as_json:
        print_json([asdict(each) for each in found])
        return
    if not found:
        click.echo("no handler has run on this store; `eventstore handlers example` prints a file to begin with")
        return
    print_table(
        "Handlers",
        ["set", "handler", "position", "behind", "handled", "parked", "for people", "seen", "by"],
        [
            (
                each.name,
                each.handler,
                each.position,
                each.behind,
                each.handled,
                each.parked,
                each.waiting_for_people,
                each.updated_at,
                each.worker,
            )
            for each in found
        ],
        right=["position", "behind", "handled", "parked", "for people"],
    )
    for each in found:
        if each.paused is not None:
            click.echo(f"{each.name}/{each.handler} rests: {each.paused}")
    if any(each.waiting_for_people for each in found):
        click.echo("`eventstore handlers dead-letters` shows what waits for people")


@handlers.command("dead-letters")
@click.option("--all", "resolved", is_flag=True, help="Also those that are dealt with.")
@set_option
@handler_option
@site_option
@click.option("--after", type=click.IntRange(0, INT64_MAX), default=0, metavar="ID", help="Only those behind this one.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Letters at most.")
@json_option
@click.pass_context
def dead_letters(
    ctx: click.Context,
    resolved: bool,
    name: str | None,
    handler: str | None,
    site: str | None,
    after: int,
    limit: int,
    as_json: bool,
) -> None:
    """List the events that handlers could not take, oldest first."""
    with open_store(ctx) as store:
        found = store.handlers.dead_letters(
            name=name, handler=handler, site_id=site, resolved=resolved, after=after, limit=limit
        )
    if as_json:
        print_json([asdict(each) for each in found])
        return
    if not found:
        click.echo("none")
        return
    ending = ["resolved", "resolution", "note"] if resolved else []
    print_table(
        None,
        ["id", "set", "handler", "position", "coupon", "event", "tried", "reason", "next try", *ending],
        [
            (
                str(each.id),
                each.name,
                each.handler,
                each.position,
                each.subject_id,
                each.event_id,
                each.attempts,
                each.reason,
                "–" if each.resolved_at else each.retry_at or "waits for you",
                *([each.resolved_at, each.resolution, each.note] if resolved else []),
            )
            for each in found
        ],
        right=["id", "position", "tried"],
    )
    if len(found) == limit:
        click.echo(f"the first {cell(limit)}; --after {found[-1].id} shows more", err=True)


@handlers.command()
@click.argument("ids", metavar="ID…", nargs=-1, type=letter_id)
@click.option("--all", "every", is_flag=True, help="All that are open.")
@set_option
@handler_option
@json_option
@click.pass_context
def retry(
    ctx: click.Context, ids: tuple[int, ...], every: bool, name: str | None, handler: str | None, as_json: bool
) -> None:
    """Have events tried again at once, and then what waits behind them, by the process that runs the handlers."""
    if every == bool(ids):
        raise click.UsageError("say which: their ids, or --all")
    if ids and (name or handler):
        raise click.UsageError("--name and --handler go with --all: an id says it already")
    with open_store(ctx) as store:
        done = store.handlers.retry(ids or None, name=name, handler=handler)
    if as_json:
        print_json({"to_be_tried": done})
    else:
        click.echo(f"{cell(done)} will be tried again as soon as their handlers run")


@handlers.command()
@click.argument("number", metavar="ID", type=letter_id)
@click.option("--note", required=True, metavar="TEXT", help="Why it is skipped, in at most 500 characters.")
@json_option
@click.pass_context
def skip(ctx: click.Context, number: int, note: str, as_json: bool) -> None:
    """Leave an event out for its handler for good; what waits behind it is handled next.

    The log keeps the event; the note is kept with the dead letter.
    """
    with open_store(ctx) as store:
        letter = store.handlers.skip(number, note)
    if as_json:
        print_json({"id": letter.id, "handler": letter.handler, "position": letter.position})
    else:
        click.echo(
            f"{letter.handler} will be given what waits behind position {cell(letter.position)} as soon as it runs"
        )


@handlers.command()
@click.argument("name", metavar="SET")
@handler_option
@click.option(
    "--from",
    "begin",
    required=True,
    metavar="PLACE",
    help="Where to begin again: beginning, now, a position, or a time at which events were recorded.",
)
@json_option
@click.pass_context
def replay(ctx: click.Context, name: str, handler: str | None, begin: str, as_json: bool) -> None:
    """Give the handlers of a set, or one --handler, the log again from a place on (or let them go ahead to it).

    Events come under the same idempotency keys as before. Handlers that run now begin there within seconds.
    """
    with open_store(ctx) as store:
        done = store.handlers.replay(name, begin=begin, handler=handler)
    if as_json:
        print_json([asdict(each) for each in done])
        return
    for each in done:
        closed = f"; {cell(each.closed)} dead letters closed" if each.closed else ""
        click.echo(
            f"{each.handler}: goes on after position {cell(each.position)}, stood at {cell(each.before)}{closed}"
        )


@handlers.command()
@click.argument("name", required=False)
def example(name: str | None) -> None:
    """Print an example file, or without a NAME list them: `eventstore handlers example new_coupon > events.py`."""
    from eventstore.handlers.examples import example as text_of
    from eventstore.handlers.examples import examples

    if name is not None:
        click.echo(text_of(name), nl=False)
        return
    print_table(None, ["example", "what it does"], [(each.name, each.about) for each in examples()])
