"""`demo`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import open_store, print_table, settings_of
from eventstore.cli.report import print_report
from eventstore.errors import InputError

if TYPE_CHECKING:
    from eventstore.demo import Delivery
    from eventstore.store import EventStore

TOP = 12
"""Rows of the usage report that the demo shows."""


@click.command()
@click.option("--seed", default=7, show_default=True, help="Another seed, another month.")
@click.option(
    "--events", default=3_000, show_default=True, type=click.IntRange(400, 1_000_000), help="Events in the month."
)
@click.pass_context
def demo(ctx: click.Context, seed: int, events: int) -> None:
    """Fill a store with Wix's documented examples and a month of a shop, and show what it can tell.

    The month is made from a seed: coupons of every kind, orders reported twice, deliveries that come late, twice and out
    of order, uses after deletion. It goes into ./eventstore.db (or --store), which must be new or hold only this demo; the
    tour in the README goes on with it. A second run finds only duplicates.
    """
    from eventstore import demo as shop
    from eventstore.log.engine import shown

    settings = settings_of(ctx)
    with open_store(ctx, create=True, settings=settings) as store:
        _refuse_real_store(store, shop.SITE_ID)
        click.secho(f"1. Deliveries arrive: Wix's documented examples and a month of a shop (seed {seed})", bold=True)
        deliveries = [*shop.examples(), *shop.month(seed, events=events)]
        _print_arrivals(deliveries)
        summary = store.ingest(_lines(deliveries), site=shop.SITE_ID, observed_at=datetime(2026, 9, 1, tzinfo=UTC))
        counts = summary.counts
        click.secho("2. Each event is appended once, for ever", bold=True)
        print_table(
            None,
            ["outcome", "events", "meaning"],
            [
                ("appended", counts.get("appended", 0), "new in the log"),
                ("duplicate", counts.get("duplicate", 0), "told before: by a resend or by another route"),
                ("conflict", counts.get("conflict", 0), "an id used for two different events: kept in quarantine"),
            ],
            right=["events"],
        )
        click.secho("3. Projections follow the log, and are rebuilt from it", bold=True)
        store.project()
        result = store.rebuild_projections()
        print_table(None, ["projection", "rows"], list(result.rows.items()), right=["rows"])
        click.secho("4. DuckDB answers questions", bold=True)
        print_report(store, "usage-per-coupon", {}, limit=TOP)
        print_report(store, "usage-per-discount-type", {})
        _print_trap(store)
        where = shown(store.engine.url)
    click.secho("Go on with", bold=True)
    click.echo(
        "  eventstore status                      the store at a glance\n"
        "  eventstore coupon FLASH24              a code that two coupons have had\n"
        "  eventstore coupon SummerSale           Wix's own example: deleted in January, used in July\n"
        "  eventstore report usage-per-coupon --csv\n"
        "  eventstore rebuild-projections\n"
        "  eventstore serve                       the same over HTTP, with its API page\n"
        f"The store is {where}."
    )


def _refuse_real_store(store: EventStore, site_id: str) -> None:
    from eventstore.log.engine import shown

    others = [record for record in store.read(limit=1) if record.event.site_id != site_id]
    if others:
        raise InputError(
            f"the store {shown(store.engine.url)} holds real events; give the demo its own: "
            "eventstore --store demo.db demo"
        )


def _lines(deliveries: Iterable[Delivery]) -> Iterator[tuple[int, bytes]]:
    return enumerate((delivery.line() for delivery in deliveries), 1)


def _print_arrivals(deliveries: list[Delivery]) -> None:
    routes: dict[str, int] = {}
    for delivery in deliveries:
        routes[delivery.route] = routes.get(delivery.route, 0) + 1
    told = {
        "velo": "the site's events.js, through the relay",
        "rest": "Wix's webhook, decoded",
        "sdk": "an app built on @wix/sdk",
        "snapshot": "a page of Query Coupons",
    }
    print_table(
        None,
        ["route", "deliveries", "what it is"],
        [(route, count, told[route]) for route, count in routes.items()],
        right=["deliveries"],
    )


def _print_trap(store: EventStore) -> None:
    state = next(iter(store.coupons(code="SummerSale", limit=1)), None)
    if state is None or state.deleted_at is None or state.usage.last_used_at is None:
        return
    click.echo(
        f"Wix's own documentation deletes the coupon {state.code} on {state.deleted_at:%Y-%m-%d} and applies it on "
        f"{state.usage.last_used_at:%Y-%m-%d}.\nThe store says: deleted; uses counted: {state.usage.times_used}, "
        f"{state.usage.uses_after_deletion} of it after its deletion.\n"
    )
