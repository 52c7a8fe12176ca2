"""The signs by which reports tell the few coupons whose events they look at from the rest."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given

import analytics
from eventstore.event import Event
from eventstore.store import EventStore
from tests.lakes import Way, bring_up, lake_of, ways
from tests.stores import NewUrl, tried

DIALECT = "sqlite"  # the lake is the same of both stores
TELLING = {"coupon.created", "coupon.updated", "coupon.deleted", "coupon.applied", "coupon.observed"}


def coupon_of(event: Event) -> str | None:
    return event.coupon_id or (event.entity_id if event.type.startswith("coupon.") else None)


def slow_signs(log: Iterable[Event]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the header of the model promises, of the events in the order of their positions."""
    several = defaultdict(list)
    for event in log:
        about = coupon_of(event)
        if about is not None:
            several[event.site_id, about].append(event)
    return {key: _signs(events) for key, events in several.items()}


def _signs(events: list[Event]) -> dict[str, Any]:
    telling = [each for each in events if each.type in TELLING]
    shown = [(each.event_time, each.coupon) for each in telling if each.coupon is not None]
    codes = [(coupon.code, time) for time, coupon in shown if coupon.code is not None]
    bare = [each.event_time for each in telling if each.type == "coupon.applied" and each.coupon is None]
    deleted = [each for each in telling if each.type == "coupon.deleted"]
    other = [each for each in telling if each.type in {"coupon.updated", "coupon.applied", "coupon.observed"}]
    arrived = [(each.sequence, each.event_time) for each in events if each.sequence is not None]
    return {
        "least_code": min((code.encode() for code, _ in codes), default=b"").decode() or None,
        "greatest_code": max((code.encode() for code, _ in codes), default=b"").decode() or None,
        "coded_first": min((time for _, time in codes), default=None),
        "coded_last": max((time for _, time in codes), default=None),
        "least_limit": min((coupon.usage_limit for _, coupon in shown if coupon.usage_limit is not None), default=None),
        "latest_start": max((coupon.start_time for _, coupon in shown if coupon.start_time is not None), default=None),
        "earliest_expiration": min(
            (coupon.expiration_time for _, coupon in shown if coupon.expiration_time is not None), default=None
        ),
        "was_inactive": any(coupon.active is False for _, coupon in shown),
        "bare_use_first": min(bare, default=None),
        "bare_use_last": max(bare, default=None),
        "deleted_first": min((each.event_time for each in deleted), default=None),
        "deleted_sequence": min((each.sequence for each in deleted if each.sequence is not None), default=None),
        "told_last": max((each.event_time for each in other), default=None),
        "told_sequence": max((each.sequence for each in other if each.sequence is not None), default=None),
        "in_order": all(one[0] <= other[0] and one[1] <= other[1] for one, other in itertools.pairwise(arrived)),
    }


def test_however_a_lake_was_brought_up_to_date_the_signs_of_its_coupons_are_those_of_their_events(
    new_url: NewUrl, dialect: str, tmp_path: Path
) -> None:
    numbers = itertools.count()

    @tried(10, dialect)
    @given(way=ways(max_size=24))
    def holds(way: Way) -> None:
        folder = tmp_path / str(next(numbers))
        with new_url() as url, EventStore.open(url) as store:
            bring_up(lake_of(store, folder), store, way)
            wanted = slow_signs(each.event for each in store.stream())
            with analytics.connect(lake=folder) as db:
                names = ["site_id", "coupon_id", *next(iter(wanted.values()), {})]
                found = {
                    (row[0], row[1]): dict(zip(names[2:], row[2:], strict=True))
                    for row in db.execute(f"SELECT {', '.join(names)} FROM coupon_signs").fetchall()
                }
                assert found == wanted
                assert _later_keys_are_those_of_their_events(db)
        shutil.rmtree(folder, ignore_errors=True)

    holds()


def _later_keys_are_those_of_their_events(db: analytics.AnalyticsConnection) -> bool:
    wrong = db.execute(
        """SELECT count(*)
        FROM (
            SELECT site_id, unnest(later_event_ids) AS event_id, unnest(later_event_keys) AS event_key FROM redemptions
        ) AS later
        LEFT JOIN facts USING (site_id, event_id, event_key)
        WHERE facts.position IS NULL"""
    ).fetchall()
    return wrong == [(0,)]
