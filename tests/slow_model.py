"""What every projection must say of a set of events: slow, obvious, and written from what the models' headers promise.

`project` takes canonical events, one for each (site, event id), in any order. It gives for each projection a dict from key to
the row that readers are shown. `shown` reads the same out of a store, so that the two can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select

from eventstore.event import Coupon, Event
from eventstore.projections.catalogue import projections

Row = dict[str, Any]
Rows = dict[tuple[str, ...], Row]

COUPON_TYPES = {"coupon.created", "coupon.updated", "coupon.deleted", "coupon.applied", "coupon.observed"}
LOYALTY_TYPES = {"loyalty_coupon.created", "loyalty_coupon.updated", "loyalty_coupon.deleted"}


def project(events: Iterable[Event]) -> dict[str, Rows]:
    """Every projection of these events."""
    told = list(events)
    redemptions = _redemptions(told)
    return {
        "coupons": _coupons(told),
        "redemptions": redemptions,
        "coupon_usage": _coupon_usage(redemptions),
        "loyalty_coupons": _loyalty_coupons(told),
    }


def shown(engine: Engine) -> dict[str, Rows]:
    """The rows that a store shows its readers, in the shape that `project` gives."""
    found: dict[str, Rows] = {}
    with engine.connect() as connection:
        for model in projections():
            columns = [model.table.c[column.name] for column in model.shown]
            rows = [dict(row._mapping) for row in connection.execute(select(*columns))]
            found[model.name] = {tuple(row[name] for name in model.key): row for row in rows}
            assert len(found[model.name]) == len(rows), f"{model.name} holds a key twice"
    return found


def stored(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every projection as its bytes stand in the database, the memory of the merge included, in key order."""
    with engine.connect() as connection:
        return {
            model.name: [
                tuple(row)
                for row in connection.exec_driver_sql(
                    f"SELECT {', '.join(column.name for column in model.columns)} FROM {model.name} "
                    f"ORDER BY {', '.join(model.key)}"
                )
            ]
            for model in projections()
        }


def states(events: Iterable[Event], at: datetime) -> Rows:
    """What a reader is told of every coupon: its row, its usage beside it, and its status at that instant."""
    told = project(events)
    rows: Rows = {}
    for key, coupon in told["coupons"].items():
        usage = told["coupon_usage"].get(key, {})
        gone, back = coupon["deleted_at"], coupon["restored_at"]
        uses = [use["redeemed_at"] for use in told["redemptions"].values() if (use["site_id"], use["coupon_id"]) == key]
        rows[key] = {
            **{name: value for name, value in coupon.items() if name != "reported_usages"},
            "usage": {
                "times_used": usage.get("times_used", 0),
                "reported_usages": coupon["reported_usages"],
                "first_used_at": usage.get("first_used_at"),
                "last_used_at": usage.get("last_used_at"),
                "by_app": usage.get("by_app", {}),
                "uses_after_deletion": sum(
                    gone is not None and use > gone and (back is None or use < back) for use in uses
                ),
            },
            "status": status(coupon, usage.get("times_used"), at),
        }
    return rows


def status(coupon: Row, times_used: int | None, at: datetime) -> str:
    """What a coupon is good for at an instant; what is not known decides nothing."""
    limit = coupon["usage_limit"]
    if coupon["deleted"]:
        return "deleted"
    if coupon["snapshot_event_id"] is None:
        return "unknown"
    if coupon["active"] is False:
        return "inactive"
    if coupon["expired"] or (coupon["expiration_time"] is not None and coupon["expiration_time"] <= at):
        return "expired"
    if limit is not None and limit > 0 and max(times_used or 0, coupon["reported_usages"] or 0) >= limit:
        return "used_up"
    if coupon["start_time"] is not None and coupon["start_time"] > at:
        return "scheduled"
    return "active" if coupon["active"] else "unknown"


# Which of two events is the later


def latest(events: Iterable[Event]) -> Event | None:
    """The latest event: the highest sequence among those that carry one, against the latest in time among those that do not."""
    told = list(events)
    sequenced = [event for event in told if event.sequence is not None]
    others = [event for event in told if event.sequence is None]
    champions = []
    if sequenced:
        champions.append(max(sequenced, key=lambda event: (event.sequence, event.event_time, event.event_id)))
    if others:
        champions.append(max(others, key=by_time))
    return max(champions, key=by_time, default=None)


def by_time(event: Event) -> tuple[Any, ...]:
    return event.event_time, event.event_id


def _grouped(events: Iterable[Event], key: Callable[[Event], tuple[str, ...]]) -> dict[tuple[str, ...], list[Event]]:
    groups: dict[tuple[str, ...], list[Event]] = defaultdict(list)
    for event in events:
        groups[key(event)].append(event)
    return groups


def _about(event: Event) -> tuple[str, str]:
    """The coupon that an event is about: the one it names, else its entity."""
    return event.site_id, event.coupon_id or event.entity_id


# The four projections


def _coupons(events: list[Event]) -> Rows:
    rows: Rows = {}
    for key, told in _grouped((event for event in events if event.type in COUPON_TYPES), _about).items():
        snapshot = latest(event for event in told if event.coupon is not None)
        life = latest(event for event in told if event.type in {"coupon.created", "coupon.deleted"})
        deletions = [event.event_time for event in told if event.type == "coupon.deleted"]
        creations = [event.event_time for event in told if event.type == "coupon.created"]
        deleted_at = max(deletions, default=None)
        restored_at = None
        if deleted_at is not None and creations and max(creations) > deleted_at:
            restored_at = max(creations)
        rows[key] = {
            "site_id": key[0],
            "coupon_id": key[1],
            **_snapshot_columns(snapshot.coupon if snapshot else None),
            "deleted": life is not None and life.type == "coupon.deleted",
            "deleted_at": deleted_at,
            "restored_at": restored_at,
            "first_event_time": min(event.event_time for event in told),
            "last_event_time": max(event.event_time for event in told),
            "snapshot_event_id": snapshot.event_id if snapshot else None,
            "snapshot_time": snapshot.event_time if snapshot else None,
        }
    return rows


_OF_COUPON = (
    "code",
    "name",
    "start_time",
    "expiration_time",
    "created_at",
    "usage_limit",
    "limit_per_customer",
    "minimum_subtotal",
    "limited_to_one_item",
    "applies_to_subscriptions",
    "discounted_cycle_count",
    "active",
    "expired",
    "reported_usages",
)


def _snapshot_columns(coupon: Coupon | None) -> Row:
    discount = coupon.discount if coupon else None
    scope = coupon.scope if coupon else None
    return {
        **{name: getattr(coupon, name) if coupon else None for name in _OF_COUPON},
        "discount_type": discount.type.value if discount else None,
        "discount_value": discount.value if discount else None,
        "buy_x": discount.buy_x if discount else None,
        "get_y": discount.get_y if discount else None,
        "raw_type": discount.raw_type if discount else None,
        "scope_namespace": scope.namespace if scope else None,
        "scope_group": scope.group if scope else None,
        "scope_entity_id": scope.entity_id if scope else None,
    }


def _redemptions(events: list[Event]) -> Rows:
    applied = [event for event in events if event.type == "coupon.applied"]
    rows: Rows = {}
    for key, reports in _grouped(applied, lambda event: (*_about(event), _order(event))).items():
        first = min(reports, key=by_time)
        later = sorted(event.event_id for event in reports if event is not first)
        rows[key] = {
            "site_id": key[0],
            "coupon_id": key[1],
            "order_id": key[2],
            "redeemed_at": first.event_time,
            "event_id": first.event_id,
            "app_id": first.app_id,
            "code": first.coupon.code if first.coupon else None,
            "reports": len(reports),
            "later_event_ids": later or None,
        }
    return rows


def _order(event: Event) -> str:
    return event.order_id if event.order_id is not None else f"event:{event.event_id}"


def _coupon_usage(redemptions: Rows) -> Rows:
    uses: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for (site_id, coupon_id, _), redemption in redemptions.items():
        uses[site_id, coupon_id].append(redemption)
    rows: Rows = {}
    for key, found in uses.items():
        by_app: dict[str, int] = defaultdict(int)
        for redemption in found:
            by_app[redemption["app_id"] or ""] += 1
        rows[key] = {
            "site_id": key[0],
            "coupon_id": key[1],
            "times_used": len(found),
            "first_used_at": min(redemption["redeemed_at"] for redemption in found),
            "last_used_at": max(redemption["redeemed_at"] for redemption in found),
            "by_app": dict(by_app),
        }
    return rows


def _loyalty_coupons(events: list[Event]) -> Rows:
    loyal = [event for event in events if event.type in LOYALTY_TYPES]
    rows: Rows = {}
    for key, told in _grouped(loyal, lambda event: (event.site_id, event.entity_id)).items():
        snapshot = max((event for event in told if event.loyalty is not None), key=_by_revision, default=None)
        linked = max((event for event in told if event.coupon_id is not None), key=by_time, default=None)
        deletions = [event.event_time for event in told if event.type == "loyalty_coupon.deleted"]
        loyalty = snapshot.loyalty if snapshot else None
        coupon = snapshot.coupon if snapshot else None
        rows[key] = {
            "site_id": key[0],
            "loyalty_coupon_id": key[1],
            "coupon_id": linked.coupon_id if linked else None,
            "code": coupon.code if coupon else None,
            "status": loyalty.status if loyalty else None,
            "reward_name": loyalty.reward_name if loyalty else None,
            "revision": loyalty.revision if loyalty else None,
            "discount_type": coupon.discount.type.value if coupon else None,
            "discount_value": coupon.discount.value if coupon else None,
            "transaction_id": loyalty.transaction_id if loyalty else None,
            "refundable": loyalty.refundable if loyalty else False,
            "coupon_deleted": loyalty.coupon_deleted if loyalty else False,
            "created_at": loyalty.created_at if loyalty else None,
            "updated_at": loyalty.updated_at if loyalty else None,
            "deleted": bool(deletions),
            "deleted_at": max(deletions, default=None),
            "first_event_time": min(event.event_time for event in told),
            "last_event_time": max(event.event_time for event in told),
            "snapshot_event_id": snapshot.event_id if snapshot else None,
        }
    return rows


def _by_revision(event: Event) -> tuple[Any, ...]:
    revision = event.loyalty.revision if event.loyalty else None
    return _or_lowest(revision), _or_lowest(event.sequence), event.event_time, event.event_id


def _or_lowest(number: int | None) -> int:
    return -1 if number is None else number
