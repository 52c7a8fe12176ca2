"""`coupon`, `coupons` and `usage`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import VISIBLE, cell, json_option, open_store, print_json, print_table, site_option
from eventstore.errors import InputError, NotFound

if TYPE_CHECKING:
    from eventstore.event import Event
    from eventstore.projections.history import HistoryEntry
    from eventstore.projections.moment import Asked, Moment
    from eventstore.projections.views import CouponState, CouponStatus
    from eventstore.store import EventStore

SHOWN_COUPONS = 100
"""Coupons in a table unless `--limit` says otherwise."""
PAGE_COUPONS = 500
"""Coupons of the register in memory at a time."""
STATUSES = ("scheduled", "active", "expired", "inactive", "used_up", "deleted", "unknown")
_CSV_USAGE = ("times_used", "reported_usages", "first_used_at", "last_used_at", "uses_after_deletion")
_CSV_COLUMNS = (
    *("site_id", "coupon_id", "code", "name", "status", "discount_type", "discount_value", "start_time"),
    *("expiration_time", "usage_limit", "active", "deleted", "deleted_at", "parked"),
    *("times_used", "reported_usages", "first_used_at", "last_used_at", "uses_after_deletion", "findings"),
)


def moment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that ask for state as of a moment: handed on as `as_of`, `known_at` and `at_position`."""
    for option in (
        click.option(
            "--at-position", metavar="P", type=click.IntRange(0), help="As it was known when the log ended there."
        ),
        click.option("--known-at", metavar="T", callback=_time, help="As it was known at T: what had been recorded."),
        click.option(
            "--as-of",
            metavar="T",
            callback=_time,
            help="As it was true at T: what had happened. A date is its end, in UTC.",
        ),
    ):
        command = option(command)
    return command


def _time(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    from eventstore.projections.moment import read_time

    return read_time(value, parameter.opts[0])


@click.command()
@click.argument("coupon_id", metavar="ID|CODE")
@site_option
@moment_options
@click.option("--history/--no-history", default=True, help="Also list the events it is made of.", show_default=True)
@click.option("--by-time", is_flag=True, help="List them as they happened, not as they were recorded.")
@json_option
@click.pass_context
def coupon(
    ctx: click.Context,
    coupon_id: str,
    site: str | None,
    history: bool,
    by_time: bool,
    as_json: bool,
    as_of: datetime | None,
    known_at: datetime | None,
    at_position: int | None,
) -> None:
    """Show one coupon, by its id or its code: state, usage, findings, history.

    As it is now, or as of a moment: --as-of asks for what was true then, --known-at and --at-position for what was known
    then; together for what was known at one time of what was true at another.
    """
    moment: Asked = {"as_of": as_of, "known_at": known_at, "at_position": at_position}
    with open_store(ctx) as store:
        store.project()
        state = _find(store, coupon_id, site, moment)
        order = "happened" if by_time else "recorded"
        if as_json:
            entries = store.stream_history(state.coupon_id, site_id=state.site_id, order=order, **moment)
            told = [_entry(entry) for entry in entries] if history else []
            print_json({**state.model_dump(), "history": told})
            return
        _print_state(state)
        if history:
            heading = "History, as it happened" if by_time else "History, in the order recorded"
            click.echo(f"{click.style(heading, bold=True)}\n")
            for entry in store.stream_history(state.coupon_id, site_id=state.site_id, order=order, **moment):
                _print_entry(entry)


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    return {**entry.model_dump(), "event": entry.event.model_dump(exclude_none=True)}


def _print_state(state: CouponState) -> None:
    shown = state.model_dump(exclude={"usage", "findings", "status", "parked", "as_of"})
    print_table(
        f"Coupon {state.code or state.coupon_id}",
        ["fact", "value"],
        [
            *_said(state.as_of),
            ("status", state.status.replace("_", " ")),
            *((name, value) for name, value in shown.items() if value is not None),
            ("times used", state.usage.times_used),
            ("reported by Wix", state.usage.reported_usages),
            ("first used", state.usage.first_used_at),
            ("last used", state.usage.last_used_at),
        ],
    )
    for finding in state.findings:
        click.echo(f"{click.style('finding:', fg='yellow', bold=True)} {finding}")


def _said(moment: Moment | None) -> list[tuple[str, object]]:
    """What is shown is as of what."""
    if moment is None:
        return []
    told: list[tuple[str, object]] = [("true at", moment.true_at), ("known at", moment.known_at)]
    return [(name, time) for name, time in told if time is not None] + [("up to position", moment.position)]


def _print_entry(entry: HistoryEntry) -> None:
    """A line of what happened, and indented below it what that changed and what is odd about it."""
    event = entry.event
    who = f" by {_text(actor)}" if (actor := _actor(event)) else ""
    order = f", order {_text(event.order_id)}" if event.order_id else ""
    app = f", app {_text(event.app_id)}" if event.app_id else ""
    what = click.style(_text(event.type), bold=True)
    click.echo(f"{entry.position:>9,}  {cell(event.event_time)}  {what}{who}{order}{app}")
    click.echo(f"{'':11}recorded {cell(entry.recorded_at)} by the route {event.source.value}")
    first = entry.basis == "first"
    for change in entry.changes:
        if first and change.after in (False, 0):
            continue  # nothing there, and nothing there before
        values = _text(change.after) if first else f"{_text(change.before)} → {_text(change.after)}"
        click.echo(f"{'':11}{_text(change.fact)}: {values}")
    for finding in entry.findings:
        click.echo(f"{'':11}{click.style('finding:', fg='yellow', bold=True)} {_text(finding.text)}")


def _text(value: object) -> str:
    """A value as it is shown: what a coupon is called must not command the terminal."""
    return cell(value).translate(VISIBLE)


def _actor(event: Event) -> str | None:
    """Who it was, as far as the route tells: a relay by Velo never does."""
    if event.actor is None:
        return None
    return " ".join(part for part in (event.actor.type, event.actor.id) if part)


def _find(store: EventStore, text: str, site: str | None, moment: Asked) -> CouponState:
    """By id, else by the code that it has now, else by the one that it had at the moment asked for."""
    try:
        return store.coupon(text, site_id=site, **moment)
    except NotFound as error:
        unknown = error
    past = any(value is not None for value in moment.values())
    found = store.coupons(site_id=site, code=text, limit=20)
    if not found and past:
        if _is_there(store, text, site):
            raise unknown  # and says since when it is there
        found = store.coupons(site_id=site, code=text, limit=20, **moment)
    if not found:
        raise NotFound(f"no coupon has the id or code {text!r}")
    if len(found) > 1:
        ids = ", ".join(f"{each.coupon_id} ({'deleted' if each.deleted else 'there'})" for each in found)
        raise InputError(f"{len(found)} coupons have had the code {text!r}; give one's id: {ids}")
    return store.coupon(found[0].coupon_id, site_id=found[0].site_id, **moment)


def _is_there(store: EventStore, coupon_id: str, site: str | None) -> bool:
    try:
        store.coupon(coupon_id, site_id=site)
    except NotFound:
        return False
    return True


@click.command()
@site_option
@moment_options
@click.option("--status", type=click.Choice(STATUSES), help="Only coupons of this status.")
@click.option("--code", metavar="CODE", help="Only this code, in any case.")
@click.option("--limit", type=click.IntRange(1), help="Coupons at most.  [default: 100 in a table, else all]")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header line.")
@click.pass_context
def coupons(
    ctx: click.Context,
    site: str | None,
    status: str | None,
    code: str | None,
    limit: int | None,
    as_json: bool,
    as_csv: bool,
    as_of: datetime | None,
    known_at: datetime | None,
    at_position: int | None,
) -> None:
    """List the register of coupons with their status and usage, now or as of a moment.

    --as-of asks for what was true then, --known-at and --at-position for what was known then; together for what was known at
    one time of what was true at another.
    """
    from eventstore.projections.views import CouponStatus

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    wanted = None if status is None else CouponStatus(status)
    most = limit if limit is not None or as_json or as_csv else SHOWN_COUPONS
    with open_store(ctx) as store:
        store.project()
        moment: Asked = {"as_of": as_of, "known_at": known_at, "at_position": at_position}
        if not as_json and not as_csv:
            page = store.coupons(site_id=site, status=wanted, code=code, limit=(most or 0) + 1, **moment)
            _print_register(page[:most], more=len(page) > (most or 0))
            return
        found = islice(_all(store, site, wanted, code, moment), most)
        if as_json:
            print_json([state.model_dump() for state in found])
            return
        columns = _CSV_COLUMNS
        writer = csv.writer(_Lines(), lineterminator="\n")
        writer.writerow(columns)
        for state in found:
            told = state.model_dump(mode="json")
            told |= {name: told["usage"][name] for name in _CSV_USAGE} | {"findings": "; ".join(state.findings)}
            writer.writerow([_plain(told[name]) for name in columns])


class _Lines:
    """A file for `csv` whose rows go to standard output as they are made."""

    def write(self, line: str) -> None:
        click.echo(line, nl=False)


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _all(
    store: EventStore, site: str | None, status: CouponStatus | None, code: str | None, moment: Asked
) -> Iterator[CouponState]:
    """The whole register, a page in memory at a time."""
    after = None
    while True:
        page = store.coupons_page(site_id=site, status=status, code=code, after=after, limit=PAGE_COUPONS, **moment)
        yield from page.coupons
        if page.next is None:
            return
        after = page.next


def _print_register(found: list[CouponState], *, more: bool) -> None:
    for name, value in _said(found[0].as_of if found else None):
        click.echo(f"{name} {cell(value)}")
    print_table(
        None,
        ["code", "coupon", "status", "discount", "times used", "limit", "starts", "expires", "findings"],
        [
            (
                each.code,
                each.coupon_id,
                each.status.replace("_", " "),
                " ".join(cell(part) for part in (each.discount_type, each.discount_value) if part is not None),
                each.usage.times_used,
                each.usage_limit,
                each.start_time,
                each.expiration_time,
                "; ".join(each.findings),
            )
            for each in found
        ],
        right=["times used", "limit"],
    )
    if more:
        click.echo(f"the first {cell(len(found))} coupons; --limit shows more")


@click.command()
@site_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Coupons at most.")
@json_option
@click.pass_context
def usage(ctx: click.Context, site: str | None, limit: int, as_json: bool) -> None:
    """Show how often each coupon was used, our count beside Wix's own. `report usage-per-coupon` ranks them."""
    with open_store(ctx) as store:
        store.project()
        found = store.coupons(site_id=site, limit=limit)
    if as_json:
        print_json(
            [
                {"site_id": each.site_id, "coupon_id": each.coupon_id, "code": each.code, **each.usage.model_dump()}
                for each in found
            ]
        )
        return
    print_table(
        None,
        ["code", "coupon", "times used", "reported", "first used", "last used", "findings"],
        [
            (
                each.code,
                each.coupon_id,
                each.usage.times_used,
                each.usage.reported_usages,
                each.usage.first_used_at,
                each.usage.last_used_at,
                "; ".join(each.findings),
            )
            for each in found
        ],
        right=["times used", "reported"],
    )
    if len(found) == limit:
        click.echo(f"the first {cell(limit)} coupons; --limit shows more")
