"""The rebuild that one would write by hand in plain Python: the peer of the `rebuild` benchmark.

A driver's cursor over the log in position order, `json.loads` of each payload, a dict for each projection, then the rows
written by executemany. The rules are those of `eventstore/projections/models/*.sql`, told a second time and independently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from eventstore.projections.catalogue import projection

Row = tuple[Any, ...]
Key = tuple[str, str]

COUPON_EVENTS = frozenset({"coupon.created", "coupon.updated", "coupon.deleted", "coupon.applied", "coupon.observed"})
LOYALTY_EVENTS = frozenset({"loyalty_coupon.created", "loyalty_coupon.updated", "loyalty_coupon.deleted"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Coupon:
    """What must be remembered of a coupon; each champion is `(what it is compared by, its snapshot or its kind)`."""

    __slots__ = (
        "created_last",
        "deleted_at",
        "first",
        "last",
        "life_sequenced",
        "life_unsequenced",
        "sequenced",
        "unsequenced",
    )

    def __init__(self, time: int) -> None:
        self.first = self.last = time
        self.sequenced: tuple[tuple[int, int, str], dict[str, Any]] | None = None
        self.unsequenced: tuple[tuple[int, str], dict[str, Any]] | None = None
        self.life_sequenced: tuple[int, int, str, bool] | None = None
        self.life_unsequenced: tuple[int, str, bool] | None = None
        self.deleted_at: int | None = None
        self.created_last: int | None = None


class _Redemption:
    __slots__ = ("app_id", "at", "code", "event_id", "later")

    def __init__(self, at: int, event_id: str, app_id: str | None, code: str | None) -> None:
        self.at, self.event_id, self.app_id, self.code = at, event_id, app_id, code
        self.later: list[str] | None = None


class _Loyalty:
    __slots__ = ("coupon_id", "deleted_at", "first", "last", "latest")

    def __init__(self, time: int) -> None:
        self.first = self.last = time
        self.latest: tuple[tuple[int, int, int, str], dict[str, Any]] | None = None
        self.coupon_id: tuple[int, str, str] | None = None
        self.deleted_at: int | None = None


@dataclass(slots=True)
class Fold:
    """The state after some events, in any order."""

    coupons: dict[Key, _Coupon] = field(default_factory=dict)
    redemptions: dict[tuple[str, str, str], _Redemption] = field(default_factory=dict)
    loyalty: dict[Key, _Loyalty] = field(default_factory=dict)

    def take(self, rows: Iterable[tuple[int, str]]) -> int:
        """Take in `(event_time, payload)` rows of the log; returns how many there were."""
        count = 0
        for time, payload in rows:
            count += 1
            event = json.loads(payload)
            kind = event["type"]
            if kind in COUPON_EVENTS:
                self._coupon(time, event, kind)
            elif kind in LOYALTY_EVENTS:
                self._loyalty(time, event, kind)
        return count

    def _coupon(self, time: int, event: dict[str, Any], kind: str) -> None:
        site_id, event_id = event["site_id"], event["event_id"]
        coupon_id = event.get("coupon_id") or event["entity_id"]
        sequence, snapshot = event.get("sequence"), event.get("coupon")
        coupon = self.coupons.get((site_id, coupon_id))
        if coupon is None:
            coupon = self.coupons[site_id, coupon_id] = _Coupon(time)
        coupon.first = min(coupon.first, time)
        coupon.last = max(coupon.last, time)
        if snapshot is not None:
            if sequence is not None:
                by_sequence = (sequence, time, event_id)
                if coupon.sequenced is None or by_sequence > coupon.sequenced[0]:
                    coupon.sequenced = (by_sequence, snapshot)
            else:
                by_time = (time, event_id)
                if coupon.unsequenced is None or by_time > coupon.unsequenced[0]:
                    coupon.unsequenced = (by_time, snapshot)
        if kind == "coupon.applied":
            self._redemption(time, event, site_id, coupon_id)
        elif kind in {"coupon.created", "coupon.deleted"}:
            deleted = kind == "coupon.deleted"
            if deleted:
                coupon.deleted_at = time if coupon.deleted_at is None else max(coupon.deleted_at, time)
            else:
                coupon.created_last = time if coupon.created_last is None else max(coupon.created_last, time)
            if sequence is not None:
                life = (sequence, time, event_id, deleted)
                if coupon.life_sequenced is None or life > coupon.life_sequenced:
                    coupon.life_sequenced = life
            else:
                told = (time, event_id, deleted)
                if coupon.life_unsequenced is None or told > coupon.life_unsequenced:
                    coupon.life_unsequenced = told

    def _redemption(self, time: int, event: dict[str, Any], site_id: str, coupon_id: str) -> None:
        event_id, coupon = event["event_id"], event.get("coupon")
        key = (site_id, coupon_id, event.get("order_id") or f"event:{event_id}")
        app_id, code = event.get("app_id"), None if coupon is None else coupon.get("code")
        use = self.redemptions.get(key)
        if use is None:
            self.redemptions[key] = _Redemption(time, event_id, app_id, code)
            return
        if use.later is None:
            use.later = []
        if (time, event_id) < (use.at, use.event_id):
            use.later.append(use.event_id)
            use.at, use.event_id, use.app_id, use.code = time, event_id, app_id, code
        else:
            use.later.append(event_id)

    def _loyalty(self, time: int, event: dict[str, Any], kind: str) -> None:
        key, event_id, coupon_id = (event["site_id"], event["entity_id"]), event["event_id"], event.get("coupon_id")
        reward = self.loyalty.get(key)
        if reward is None:
            reward = self.loyalty[key] = _Loyalty(time)
        reward.first = min(reward.first, time)
        reward.last = max(reward.last, time)
        if kind == "loyalty_coupon.deleted":
            reward.deleted_at = time if reward.deleted_at is None else max(reward.deleted_at, time)
        if event.get("loyalty") is not None:
            by = (event["loyalty"].get("revision", -1), event.get("sequence", -1), time, event_id)
            if reward.latest is None or by > reward.latest[0]:
                reward.latest = (by, event)
        if coupon_id is not None and (reward.coupon_id is None or (time, event_id) > reward.coupon_id[:2]):
            reward.coupon_id = (time, event_id, coupon_id)

    def rows(self) -> dict[str, list[Row]]:
        """The rows of every projection, in the order of its columns and its key."""
        return {
            "coupons": sorted(_coupon_rows(self.coupons), key=_first_two),
            "redemptions": sorted(_redemption_rows(self.redemptions)),
            "coupon_usage": sorted(_usage_rows(self.redemptions), key=_first_two),
            "loyalty_coupons": sorted(_loyalty_rows(self.loyalty), key=_first_two),
        }


COLUMNS = {
    "coupons": (
        *("site_id", "coupon_id", "code", "name", "discount_type", "discount_value", "buy_x", "get_y", "raw_type"),
        *("scope_namespace", "scope_group", "scope_entity_id", "start_time", "expiration_time", "created_at"),
        *("usage_limit", "limit_per_customer", "minimum_subtotal", "limited_to_one_item", "applies_to_subscriptions"),
        *("discounted_cycle_count", "active", "expired", "reported_usages", "deleted", "deleted_at", "restored_at"),
        *("first_event_time", "last_event_time", "snapshot_event_id", "snapshot_time"),
        *("_code", "_sequenced", "_unsequenced", "_life_sequenced", "_life_unsequenced", "_created_last"),
    ),
    "redemptions": (
        *("site_id", "coupon_id", "order_id", "redeemed_at", "event_id", "app_id", "code", "reports"),
        "later_event_ids",
    ),
    "coupon_usage": ("site_id", "coupon_id", "times_used", "first_used_at", "last_used_at", "by_app"),
    "loyalty_coupons": (
        *("site_id", "loyalty_coupon_id", "coupon_id", "code", "status", "reward_name", "revision", "discount_type"),
        *("discount_value", "transaction_id", "refundable", "coupon_deleted", "created_at", "updated_at", "deleted"),
        *("deleted_at", "first_event_time", "last_event_time", "snapshot_event_id", "_latest", "_coupon_id"),
    ),
}
"""The columns of the rows, table by table: the models' own, which `require_same_columns` compares."""


def require_same_columns() -> None:
    """Raise AssertionError if a model has changed its columns since this was written."""
    for name, columns in COLUMNS.items():
        expected = tuple(column.name for column in projection(name).columns)
        if columns != expected:
            raise AssertionError(f"the fold makes other columns of {name} than the model: {columns}, {expected}")


def _first_two(row: Row) -> Row:
    return row[:2]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _micros(text: str | None) -> int | None:
    return None if text is None else (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def _time_text(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(" ")


def _coupon_rows(coupons: dict[Key, _Coupon]) -> Iterator[Row]:
    for (site_id, coupon_id), coupon in coupons.items():
        snapshot, at, event_id = _latest_snapshot(coupon)
        discount, scope = snapshot.get("discount", {}), snapshot.get("scope", {})
        restored = (
            coupon.created_last
            if coupon.created_last is not None
            and coupon.deleted_at is not None
            and coupon.created_last > coupon.deleted_at
            else None
        )
        yield (
            site_id,
            coupon_id,
            snapshot.get("code"),
            snapshot.get("name"),
            discount.get("type"),
            discount.get("value"),
            discount.get("buy_x"),
            discount.get("get_y"),
            discount.get("raw_type"),
            scope.get("namespace"),
            scope.get("group"),
            scope.get("entity_id"),
            _micros(snapshot.get("start_time")),
            _micros(snapshot.get("expiration_time")),
            _micros(snapshot.get("created_at")),
            snapshot.get("usage_limit"),
            snapshot.get("limit_per_customer"),
            snapshot.get("minimum_subtotal"),
            snapshot.get("limited_to_one_item"),
            snapshot.get("applies_to_subscriptions"),
            snapshot.get("discounted_cycle_count"),
            snapshot.get("active"),
            snapshot.get("expired"),
            snapshot.get("reported_usages"),
            _is_deleted(coupon),
            coupon.deleted_at,
            restored,
            coupon.first,
            coupon.last,
            event_id,
            at,
            (snapshot.get("code") or "").lower() or snapshot.get("code"),
            *_coupon_memory(coupon),
        )


def _latest_snapshot(coupon: _Coupon) -> tuple[dict[str, Any], int | None, str | None]:
    """The snapshot that counts, its event's time and id: by sequence, unless one without a sequence is later."""
    sequenced, unsequenced = coupon.sequenced, coupon.unsequenced
    if sequenced is not None and (unsequenced is None or sequenced[0][1:] >= unsequenced[0]):
        (_, at, event_id), snapshot = sequenced
        return snapshot, at, event_id
    if unsequenced is not None:
        (at, event_id), snapshot = unsequenced
        return snapshot, at, event_id
    return {}, None, None


def _is_deleted(coupon: _Coupon) -> bool:
    sequenced, unsequenced = coupon.life_sequenced, coupon.life_unsequenced
    if sequenced is not None and (unsequenced is None or sequenced[1:3] >= unsequenced[:2]):
        return sequenced[3]
    return unsequenced is not None and unsequenced[2]


def _coupon_memory(coupon: _Coupon) -> Row:
    """The columns by which the table could go on from here."""
    sequenced = unsequenced = life_sequenced = life_unsequenced = None
    if coupon.sequenced is not None:
        (sequence, at, event_id), snapshot = coupon.sequenced
        told = {"sequence": sequence, "event_time": _time_text(at), "event_id": event_id, "coupon": _compact(snapshot)}
        sequenced = _compact(told)
    if coupon.unsequenced is not None:
        (at, event_id), snapshot = coupon.unsequenced
        unsequenced = _compact({"event_time": _time_text(at), "event_id": event_id, "coupon": _compact(snapshot)})
    if coupon.life_sequenced is not None:
        sequence, at, event_id, deleted = coupon.life_sequenced
        life_sequenced = _compact(
            {"sequence": sequence, "event_time": _time_text(at), "event_id": event_id, "deleted": deleted}
        )
    if coupon.life_unsequenced is not None:
        at, event_id, deleted = coupon.life_unsequenced
        life_unsequenced = _compact({"event_time": _time_text(at), "event_id": event_id, "deleted": deleted})
    return sequenced, unsequenced, life_sequenced, life_unsequenced, coupon.created_last


def _redemption_rows(redemptions: dict[tuple[str, str, str], _Redemption]) -> Iterator[Row]:
    for (site_id, coupon_id, order_id), use in redemptions.items():
        reports = 1 if use.later is None else 1 + len(use.later)
        later = None if use.later is None else _compact(sorted(use.later))
        yield site_id, coupon_id, order_id, use.at, use.event_id, use.app_id, use.code, reports, later


def _usage_rows(redemptions: dict[tuple[str, str, str], _Redemption]) -> Iterator[Row]:
    usage: dict[Key, tuple[dict[str, int], list[int]]] = {}
    for (site_id, coupon_id, _), use in redemptions.items():
        found = usage.get((site_id, coupon_id))
        if found is None:
            found = usage[site_id, coupon_id] = ({}, [use.at, use.at])
        apps, span = found
        app_id = use.app_id or ""
        apps[app_id] = apps.get(app_id, 0) + 1
        span[0] = min(span[0], use.at)
        span[1] = max(span[1], use.at)
    for (site_id, coupon_id), (apps, (first, last)) in usage.items():
        yield site_id, coupon_id, sum(apps.values()), first, last, _compact(dict(sorted(apps.items())))


def _loyalty_rows(loyalty: dict[Key, _Loyalty]) -> Iterator[Row]:
    for (site_id, loyalty_coupon_id), reward in loyalty.items():
        by, event = reward.latest or ((-1, -1, 0, ""), {})
        told = event.get("loyalty", {})
        coupon = event.get("coupon") or {}
        discount = coupon.get("discount", {})
        latest = None
        if reward.latest is not None:
            revision, sequence, at, event_id = by
            kept = {name: told.get(name) for name in _LOYALTY_KEPT}
            shown = {"code": coupon.get("code"), "discount": {name: discount.get(name) for name in ("type", "value")}}
            latest = _compact(
                {
                    "revision": revision,
                    "sequence": sequence,
                    "event_time": _time_text(at),
                    "event_id": event_id,
                    "loyalty": _compact({"loyalty": kept, "coupon": shown}),
                }
            )
        linked = None
        if reward.coupon_id is not None:
            at, event_id, coupon_id = reward.coupon_id
            linked = _compact({"event_time": _time_text(at), "event_id": event_id, "coupon_id": coupon_id})
        yield (
            site_id,
            loyalty_coupon_id,
            None if reward.coupon_id is None else reward.coupon_id[2],
            coupon.get("code"),
            told.get("status"),
            told.get("reward_name"),
            told.get("revision"),
            discount.get("type"),
            discount.get("value"),
            told.get("transaction_id"),
            told.get("refundable", False),
            told.get("coupon_deleted", False),
            _micros(told.get("created_at")),
            _micros(told.get("updated_at")),
            reward.deleted_at is not None,
            reward.deleted_at,
            reward.first,
            reward.last,
            None if reward.latest is None else by[3],
            latest,
            linked,
        )


_LOYALTY_KEPT = (
    *("status", "reward_name", "revision", "transaction_id", "refundable", "coupon_deleted", "created_at"),
    "updated_at",
)
