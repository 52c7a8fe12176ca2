"""`init` and `status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table

if TYPE_CHECKING:
    from eventstore.log.roles import Roles
    from eventstore.status import Status
    from eventstore.store import EventStore


@click.command()
@click.option("--repair-guards", is_flag=True, help="Put back the append-only guards that are missing or altered.")
@click.option("--roles", is_flag=True, help="Make database roles that own, write and read the store (PostgreSQL).")
@click.option("--prefix", metavar="NAME", help="What the roles' names begin with.  [default: eventstore]")
@click.pass_context
def init(ctx: click.Context, repair_guards: bool, roles: bool, prefix: str | None) -> None:
    """Make a store, or bring one to this version. Safe to repeat.

    --roles makes NAME_owner, NAME_writer and NAME_reader, which nobody logs in as, gives the tables to the first and to the
    others what they need and no more; it prints what to grant to your logins. Repeat it after an upgrade.
    """
    from eventstore.cli.common import settings_of
    from eventstore.log.engine import shown
    from eventstore.log.roles import DEFAULT_PREFIX
    from eventstore.store import EventStore

    if prefix is not None and not roles:
        raise click.UsageError("--prefix is the prefix of --roles")
    settings = settings_of(ctx)
    store = EventStore(settings.url, projections=settings.projections)
    try:
        done = store.init()
        made = store.make_roles(prefix=DEFAULT_PREFIX if prefix is None else prefix) if roles else None
        click.echo(f"{'made' if done else 'already there:'} {shown(store.engine.url)}")
        if made is not None:
            _print_roles(made)
        if repair_guards:
            _repair(ctx, store)
    finally:
        store.close()


def _print_roles(made: Roles) -> None:
    for name in (made.owner, made.writer, made.reader):
        click.echo(f"role {name} ({'made' if name in made.made else 'already there'})")
    click.echo("they have their rights; now give your logins one each:")
    for statement in made.grants:
        click.echo(f"  {statement}")


def _repair(ctx: click.Context, store: EventStore) -> None:
    from eventstore.cli.verify import print_findings

    for each in store.repair_guards():
        click.echo(f"put back: {each.name} on {each.table} ({each.problem})")
    left = store.check_guards()
    if left:
        print_findings(left)
        click.echo("this is not this program's to mend", err=True)
        ctx.exit(1)
    click.echo("guards: every one stands as it was made")


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the store at a glance: its log, its guards, and how far the projections are.

    Exit status 1 if a guard is missing or altered; `eventstore verify --guards` says what to do. What the projections could
    not take is listed by `eventstore dead-letters list`.
    """
    with open_store(ctx) as store:
        found = store.status()
    if as_json:
        print_json(asdict(found))
    else:
        _print_status(found)
    if found.partitions_ahead == 0:
        click.echo(
            f"LITTLE ROOM IS LEFT: after {found.positions_left:,} more events the log takes none; "
            "run `eventstore maintain` as the tables' owner",
            err=True,
        )
    if found.stands_still:
        names = ", ".join(found.stands_still)
        click.echo(f"THE PROJECTIONS STAND STILL although events wait: {names}; see the logs of who follows", err=True)
    if found.behind:
        names = ", ".join(found.behind)
        click.echo(
            f"tables of another version of their model, or never built: {names}; run `eventstore upgrade`", err=True
        )
    if found.parked:
        click.echo("some coupons wait for what a projection could not take: `eventstore dead-letters list`", err=True)
    if found.missing_guards:
        click.echo("append-only guards are missing: the database no longer refuses changes", err=True)
    elif found.guard_findings:
        click.echo("append-only guards were altered: `eventstore verify --guards` tells more", err=True)
    if found.guard_findings:
        ctx.exit(1)


def _print_status(found: Status) -> None:
    print_table(
        None,
        ["store", found.url],
        [
            ("schema revision", found.revision),
            ("events", found.events),
            ("last recorded", found.last_recorded_at),
            ("conflicts in quarantine", found.conflicts),
            ("unreadable in quarantine", found.quarantined),
            ("append-only guards", _guards(found)),
            *([] if found.positions_left is None else [("room for more events", _room(found))]),
            ("projections follow", _following(found)),
            ("oldest event not taken in", f"{found.lag_seconds:,.1f} s" if found.lag_seconds else None),
            ("parked coupons", found.parked),
        ],
    )
    print_table(
        "Projections",
        ["projection", "rows", "position", "behind by"],
        [(each.name, each.rows, each.position, each.lag) for each in found.projections],
        right=["rows", "position", "behind by"],
    )


def _following(found: Status) -> str:
    who = found.following
    if who is None:
        return "nobody: `eventstore serve` or `eventstore project` does"
    since = f"{who.since:%Y-%m-%d %H:%M}"
    rate = "" if who.rate is None else f"; {who.rate:,.0f} events/s when last at work"
    return f"{who.worker}, since {since}{rate}" if who.active else f"nobody now; last {who.worker}, from {since} on"


def _guards(found: Status) -> str:
    if found.missing_guards:
        return "MISSING: " + ", ".join(found.missing_guards)
    if found.guard_findings:
        return "ALTERED: " + ", ".join(sorted({each.name for each in found.guard_findings}))
    return "all in place"


def _room(found: Status) -> str:
    room = f"{found.positions_left:,}"
    return f"{room}: RUN `eventstore maintain`" if found.partitions_ahead == 0 else room
