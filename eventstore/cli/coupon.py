"""`coupon` and `usage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventstore.cli.common import cell, json_option, open_store, print_json, print_table, site_option
from eventstore.errors import InputError, NotFound

if TYPE_CHECKING:
    from eventstore.event import Event
    from eventstore.projections.views import CouponState
    from eventstore.store import EventStore


@click.command()
@click.argument("coupon_id", metavar="ID|CODE")
@site_option
@click.option("--history/--no-history", default=True, help="Also list the events it is made of.", show_default=True)
@json_option
@click.pass_context
def coupon(ctx: click.Context, coupon_id: str, site: str | None, history: bool, as_json: bool) -> None:
    """Show one coupon, by its id or its code: state, usage, findings, history."""
    with open_store(ctx) as store:
        store.project()
        state = _find(store, coupon_id, site)
        records = store.history(state.coupon_id, site_id=state.site_id) if history else []
    if as_json:
        print_json(
            {
                **state.model_dump(),
                "history": [
                    {
                        "position": record.position,
                        "recorded_at": record.recorded_at,
                        "event": record.event.model_dump(exclude_none=True),
                        "findings": record.event.findings,
                    }
                    for record in records
                ],
            }
        )
        return
    shown = state.model_dump(exclude={"usage", "findings"})
    print_table(
        f"Coupon {state.code or state.coupon_id}",
        ["fact", "value"],
        [(name, value) for name, value in shown.items() if value is not None]
        + [
            ("times used", state.usage.times_used),
            ("reported by Wix", state.usage.reported_usages),
            ("first used", state.usage.first_used_at),
            ("last used", state.usage.last_used_at),
        ],
    )
    for finding in state.findings:
        click.echo(f"{click.style('finding:', fg='yellow', bold=True)} {finding}")
    if records:
        print_table(
            "History, in the order recorded",
            ["position", "type", "event time", "recorded", "source", "actor", "order", "findings"],
            [
                (
                    record.position,
                    record.event.type,
                    record.event.event_time,
                    record.recorded_at,
                    record.event.source.value,
                    _actor(record.event),
                    record.event.order_id,
                    ", ".join(record.event.findings),
                )
                for record in records
            ],
            right=["position"],
        )


def _actor(event: Event) -> str | None:
    """Who it was, as far as the route tells: a relay by Velo never does."""
    if event.actor is None:
        return None
    return " ".join(part for part in (event.actor.type, event.actor.id) if part)


def _find(store: EventStore, text: str, site: str | None) -> CouponState:
    try:
        return store.coupon(text, site_id=site)
    except NotFound:
        found = store.coupons(site_id=site, code=text, limit=20)
    if not found:
        raise NotFound(f"no coupon has the id or code {text!r}")
    if len(found) > 1:
        ids = ", ".join(f"{each.coupon_id} ({'deleted' if each.deleted else 'there'})" for each in found)
        raise InputError(f"{len(found)} coupons have had the code {text!r}; give one's id: {ids}")
    return found[0]


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
