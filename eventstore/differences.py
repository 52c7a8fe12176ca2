"""How a coupon as Wix shows it may differ from what the store knows of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from pydantic import BaseModel
from sqlalchemy import Engine, and_, select

from eventstore.event import Amount, Coupon, UtcTime
from eventstore.projections import tables
from eventstore.projections.catalogue import projection


class DifferenceKind(StrEnum):
    """How Wix and the store may differ over a coupon."""

    MISSING = "missing"
    CHANGED = "changed"
    DRIFTED = "drifted"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference over one coupon; a coupon may have several.

    `details`, by kind. missing (the store never heard what it is): `created_at` and `number_of_usages` by Wix. changed: for
    each fact its name and `{"ours", "wix"}`; `deleted` is the fact that it is deleted here. drifted: `times_used` by our
    count, `number_of_usages` by Wix's, and `difference`, Wix's less ours. absent: `last_event_time`.
    """

    kind: DifferenceKind
    site_id: str
    coupon_id: str
    code: str | None
    details: dict[str, Any]


class Facts(BaseModel):
    """What is compared of a coupon. Display data, spellings and what changes by the clock (`expired`) take no part."""

    code: str | None = None
    name: str | None = None
    discount_type: str | None = None
    discount_value: Amount | None = None
    buy_x: int | None = None
    get_y: int | None = None
    scope_namespace: str | None = None
    scope_group: str | None = None
    scope_entity_id: str | None = None
    start_time: UtcTime | None = None
    expiration_time: UtcTime | None = None
    created_at: UtcTime | None = None
    usage_limit: int | None = None
    limit_per_customer: int | None = None
    minimum_subtotal: Amount | None = None
    limited_to_one_item: bool | None = None
    applies_to_subscriptions: bool | None = None
    discounted_cycle_count: int | None = None
    active: bool | None = None

    @classmethod
    def of(cls, coupon: Coupon) -> Self:
        """The facts of an observed coupon."""
        told = {name: getattr(coupon, name) for name in cls.model_fields if name in Coupon.model_fields}
        discount, scope = coupon.discount, coupon.scope
        told |= {"discount_type": discount.type.value, "discount_value": discount.value}
        told |= {"buy_x": discount.buy_x, "get_y": discount.get_y}
        if scope is not None:
            told |= {"scope_namespace": scope.namespace, "scope_group": scope.group, "scope_entity_id": scope.entity_id}
        return cls(**told)

    def changes(self, wix_says: Facts) -> dict[str, dict[str, Any]]:
        """Each fact that Wix has otherwise: its name → ours and Wix's."""
        return {name: {"ours": ours, "wix": theirs} for name, ours, theirs in self.differing(wix_says)}

    def differing(self, other: Self) -> Iterator[tuple[str, Any, Any]]:
        """Each fact that the other has otherwise, with the value here and there."""
        for name in type(self).model_fields:
            here, there = getattr(self, name), getattr(other, name)
            untold = name in _MAY_BE_UNTOLD and (here is None or there is None)
            if not untold and _to_the_second(here) != _to_the_second(there):
                yield name, here, there


_MAY_BE_UNTOLD: Final = frozenset({"active", "created_at"})
"""Every coupon has these: where one is absent it was left out, while an absent limit means that there is none."""


def _to_the_second(fact: Any) -> Any:
    """The fact, a time without its fraction: of Wix's spellings of one time some have it and some have not."""
    return fact.replace(microsecond=0) if isinstance(fact, datetime) else fact


class Known(BaseModel):
    """What the store knew of a coupon. `told`: whether any event has said what it is; a use or a deletion need not."""

    facts: Facts
    told: bool
    deleted: bool
    last_event_time: UtcTime
    times_used: int


def compare(site_id: str, coupon: Coupon, observed_at: datetime, known: Known | None) -> list[Difference] | None:
    """The differences between an observed coupon and what was known of it; None if the store is newer.

    Newer is a store that has an event of the coupon from after the observation: it is right to differ.
    """

    def found(kind: DifferenceKind, **details: Any) -> Difference:
        return Difference(kind, site_id, str(coupon.id), coupon.code, details)

    reported = coupon.reported_usages
    differences = []
    if known is None or not known.told:
        differences.append(found(DifferenceKind.MISSING, created_at=coupon.created_at, number_of_usages=reported))
    if known is not None and known.last_event_time > observed_at:
        return differences or None
    if known is not None:
        changes = known.facts.changes(Facts.of(coupon)) if known.told else {}
        if known.deleted:
            changes["deleted"] = {"ours": True, "wix": False}
        if changes:
            differences.append(found(DifferenceKind.CHANGED, **changes))
    counted = 0 if known is None else known.times_used
    if reported != counted:
        told = {"times_used": counted, "number_of_usages": reported, "difference": reported - counted}
        differences.append(found(DifferenceKind.DRIFTED, **told))
    return differences


def known_coupons(engine: Engine, site_id: str, coupon_ids: Collection[str]) -> dict[str, Known]:
    """What the projections know of these coupons of a site, by id, looked up with one statement."""
    if not coupon_ids:
        return {}
    with engine.connect() as connection:
        coupon = tables.served(connection, projection("coupons"))
        usage = tables.served(connection, projection("coupon_usage"))
        same = and_(usage.c.site_id == coupon.c.site_id, usage.c.coupon_id == coupon.c.coupon_id)
        statement = (
            select(
                coupon.c.coupon_id,
                *[coupon.c[name] for name in Facts.model_fields],
                coupon.c.deleted,
                coupon.c.last_event_time,
                coupon.c.snapshot_event_id,
                usage.c.times_used,
            )
            .select_from(coupon.outerjoin(usage, same))
            .where(coupon.c.site_id == site_id, coupon.c.coupon_id.in_(coupon_ids))
        )
        return {row.coupon_id: _known(row._mapping) for row in connection.execute(statement)}


def _known(row: Any) -> Known:
    return Known(
        facts=Facts(**{name: row[name] for name in Facts.model_fields}),
        told=row["snapshot_event_id"] is not None,
        deleted=row["deleted"],
        last_event_time=row["last_event_time"],
        times_used=row["times_used"] or 0,
    )
