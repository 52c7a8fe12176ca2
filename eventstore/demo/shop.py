"""A month of a shop: campaigns, uses, loyalty rewards, and the awkward cases an audit must notice."""

from __future__ import annotations

import math
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

from eventstore.demo.catalogue import CAMPAIGNS, CONFLICTING, MONEY_OFF, OLDER, PERCENT_OFF, Card, Plan
from eventstore.demo.delivery import SITE_ID, Delivery, event_id
from eventstore.demo.disorder import Told, deliver
from eventstore.demo.loyalty import LOYALTY_HANDLERS, LoyaltyFact, Member, Reward
from eventstore.demo.spelling import Fact, nested, spell
from eventstore.demo.stream import documented

__all__ = ["MINIMUM_EVENTS", "SITE_ID", "Delivery", "documented", "month"]

MINIMUM_EVENTS = 400
"""Fewer would leave no room for the ordinary uses beside the awkward cases."""
FIRST_DAY = datetime(2026, 9, 1, tzinfo=UTC)
SECOND_REPORTS = 0.02
"""The share of uses whose order is paid by hand later, and then reported again under another event id."""
REWARDS = 18
MEMBERS = 11
_PLAN_DAYS = 30
_OPENING_COUNT = {"B2G1": 412, "SHIPFREE": 1893}
"""What the older coupons had counted before the month."""

WEEKDAYS = (0.90, 0.85, 0.90, 1.00, 1.15, 1.35, 1.25)
"""How busy each day is, Monday first."""
HOURS = (2, 1, 1, 0.5, 0.5, 1, 2, 4, 6, 8, 9, 11, 12, 10, 9, 9, 10, 12, 15, 18, 17, 13, 8, 4)
"""How busy each hour is, UTC."""


@dataclass(frozen=True, slots=True)
class _Happening:
    """Something that happens to one coupon, before it is known what the coupon looks like by then."""

    time: datetime
    coupon: str
    what: str
    changes: dict[str, Any] | None = None
    order_id: str | None = None


def month(seed: int = 7, *, events: int = 3000, days: int = 30, start: datetime = FIRST_DAY) -> Iterator[Delivery]:
    """The deliveries of a shop's month in the order in which they reach us; the same seed gives the same bytes.

    `events` counts distinct facts told (a snapshot page as one); about 6 % of them are delivered twice on top. The
    campaigns set up in the ten days before `start` are among them. Raises ValueError if `events` is under
    `MINIMUM_EVENTS`, `days` under 7, or `start` is naive.
    """
    if events < MINIMUM_EVENTS:
        raise ValueError(f"events: at least {MINIMUM_EVENTS}, not {events}")
    if days < 7:
        raise ValueError(f"days: at least 7, not {days}")
    if start.tzinfo is None:
        raise ValueError("start must carry a time zone")
    yield from _Month(random.Random(seed), events, days, start.astimezone(UTC)).deliveries()  # noqa: S311 - repeatable


class _Month:
    def __init__(self, rng: random.Random, events: int, days: int, start: datetime) -> None:
        self.rng, self.events, self.days, self.start = rng, events, days, start
        self.end = start + timedelta(days=days)
        self.cards: dict[str, Card] = {}
        self.wires: dict[str, str] = {}
        self.happenings: list[_Happening] = []
        self.told: list[Told] = []

    def deliveries(self) -> Iterator[Delivery]:
        plans = [(plan, self._open(plan)) for plan in (*OLDER, *CAMPAIGNS)]
        self._snapshot()
        self._unknown_family()
        self._rewards()
        self._uses(plans)
        self._tell()
        yield from deliver(self.rng, self.told)

    def _id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def _day(self, day: float) -> datetime:
        return self.start + timedelta(seconds=round(day * self.days / _PLAN_DAYS * 86_400))

    def _happen(self, time: datetime, coupon: str, what: str, **more: Any) -> None:
        self.happenings.append(
            _Happening(time + timedelta(microseconds=self.rng.randrange(1_000_000)), coupon, what, **more)
        )

    def _open(self, plan: Plan) -> Card:
        created = self._day(plan.created)
        namespace, group = plan.scope or (None, None)
        card = Card(
            id=self._id(),
            code=plan.code,
            name=plan.name,
            kind=plan.kind,
            value=plan.value,
            created=created,
            start=created,
            end=None if plan.end is None else self._day(plan.end),
            namespace=namespace,
            group=group,
            group_id=None if group is None else self._id(),
            limit=plan.limit,
            per_customer=plan.per_customer,
            minimum=plan.minimum,
            one_item=plan.one_item,
            cycles=plan.cycles,
            usages=_OPENING_COUNT.get(plan.code, 0),
        )
        self.cards[card.id], self.wires[card.id] = card, plan.wire
        if plan not in OLDER:
            self._happen(created, card.id, "created")
        for day, changes in plan.changes:
            moved = {key: self._day(value) if key == "end" else value for key, value in changes.items()}
            self._happen(self._day(day), card.id, "updated", changes=moved)
        if plan.deleted is not None:
            self._happen(self._day(plan.deleted), card.id, "deleted")
        if plan.restored is not None:
            self._happen(self._day(plan.restored), card.id, "restored")
        if plan.code == CONFLICTING:
            self._happen(self._day(3.6), card.id, "conflict")
        return card

    def _snapshot(self) -> None:
        time = self._day(0.02)
        older = [card for card in self.cards.values() if card.code in _OPENING_COUNT]
        page = [nested(Fact("", "observed", time, card), wrapped=False, id_key="id") for card in older]
        self.told.append(Told(time, "snapshot", None, {"coupons": page, "totalResults": len(page)}, steady=True))

    def _unknown_family(self) -> None:
        reward = self._id()
        body = {
            "id": self._id(),
            "entityFqdn": "wix.loyalty.v1.reward",
            "slug": "updated",
            "entityId": reward,
            "updatedEvent": {"currentEntityAsJson": f'{{"id":"{reward}","name":"10% off"}}'},
            "eventTime": (self._day(8.6)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "triggeredByAnonymizeRequest": False,
        }
        self.told.append(Told(self._day(8.6), "rest", None, body))

    # Loyalty: two coupons are made at once, and only the marketing one tells of its use.

    def _rewards(self) -> None:
        rng = self.rng
        members = [Member(self._id(), self._id()) for _ in range(MEMBERS)]
        for n in range(REWARDS):
            time = self._day(0.5 + 26 * (n + rng.random()) / REWARDS).replace(microsecond=0)
            kind, value, name = rng.choice(
                (
                    (PERCENT_OFF, 10, "10% off reward"),
                    (MONEY_OFF, 5, "€5 off reward"),
                    (MONEY_OFF, 12.5, "€12.50 off reward"),
                )
            )
            product = rng.random() < 0.3
            code = "LOYAL-" + "".join(rng.choices("23456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=5))
            card = Card(
                self._id(),
                code,
                name,
                kind,
                value,
                time,
                time,
                limit=1,
                per_customer=1,
                namespace="stores" if product else None,
                group="product" if product else None,
                group_id=self._id() if product else None,
            )
            self.cards[card.id], self.wires[card.id] = card, "velo" if n % 3 else "velo_v2"
            reward = Reward(self._id(), rng.choice(members), self._id(), card)
            self._happen(time, card.id, "created")
            self._tell_reward(LoyaltyFact(self._id(), "created", time + timedelta(milliseconds=320), reward, 1), n)
            taken_back = n % 5 == 2
            if taken_back:
                gone = time + timedelta(days=rng.uniform(0.5, 2.5))
                fact = LoyaltyFact(self._id(), "deleted", gone, reward, 2, anonymize=n == 2)
                self._tell_reward(fact, n)
                self._happen(gone, card.id, "deleted")
            elif n % 5 != 4:
                self._use(card.id, time + timedelta(days=rng.uniform(0.05, 3.0)))

    def _tell_reward(self, fact: LoyaltyFact, n: int) -> None:
        if n % 2 == 0:
            self.told.append(Told(fact.time, "rest", None, fact.rest()))
        if n % 4 in (0, 1):
            self.told.append(Told(fact.time, "sdk", None, fact.sdk()))
        if n % 4 == 3:
            self.told.append(Told(fact.time, "velo", LOYALTY_HANDLERS[fact.what], fact.velo()))

    # Uses follow the shop's rhythm, a few coupons dominate, and some come when the coupon no longer should serve.

    def _use(self, coupon: str, time: datetime) -> str:
        order = self._id()
        self._happen(
            min(time, self.end - timedelta(seconds=self.rng.uniform(1, 3600))), coupon, "applied", order_id=order
        )
        return order

    def _uses(self, plans: list[tuple[Plan, Card]]) -> None:
        distinct = len(self.happenings) + len({event_id(told.body) for told in self.told})
        room = self.events - distinct
        exact = sum(plan.uses or 0 for plan, _ in plans) + sum(plan.stragglers for plan, _ in plans)
        again = round(room * SECOND_REPORTS)
        shares = self._shares([plan for plan, _ in plans], room - exact - again)
        for (plan, card), share in zip(plans, shares, strict=True):
            self._uses_of(plan, card, share)
        self._second_reports(again)

    def _shares(self, plans: list[Plan], total: int) -> list[int]:
        """How many uses each coupon gets: by weight, inside its limit, the rest to the most used."""
        weights = [0.0 if plan.uses is not None else plan.weight for plan in plans]
        whole = sum(weights)
        counts = [
            min(int(total * weight / whole), plan.limit or total) if plan.uses is None else plan.uses
            for plan, weight in zip(plans, weights, strict=True)
        ]
        open_ended = sum(count for plan, count in zip(plans, counts, strict=True) if plan.uses is None)
        counts[weights.index(max(weights))] += total - open_ended
        return counts

    def _uses_of(self, plan: Plan, card: Card, count: int) -> None:
        rng = self.rng
        ups_and_downs = sorted(
            [(self._day(day), changes["active"]) for day, changes in plan.changes if "active" in changes]
            + ([(self._day(plan.deleted), False)] if plan.deleted is not None else [])
            + ([(self._day(plan.restored), True)] if plan.restored is not None else [])
        )
        ends = [card.end, *(self._day(changes["end"]) for _, changes in plan.changes if "end" in changes)]
        last_end = ends[-1] or self.end
        closed = min(last_end, self.end)
        if ups_and_downs and not ups_and_downs[-1][1]:
            closed = min(closed, ups_and_downs[-1][0])
        opened = max(card.start + timedelta(minutes=20), self.start)

        def serving(moment: datetime) -> bool:
            state = True
            for change, active in ups_and_downs:
                state = active if change <= moment else state
            return state

        hours = [
            opened + timedelta(hours=h) for h in range(max(1, math.ceil((closed - opened) / timedelta(hours=1)) - 1))
        ]
        hours = [h for h in hours if serving(h) and serving(h + timedelta(hours=1))] or [opened]
        weights = list(accumulate(self._busy(hour, card.start) for hour in hours))
        for hour in rng.choices(hours, cum_weights=weights, k=count):
            self._use(card.id, hour + timedelta(seconds=rng.uniform(0, 3600)))
        hidden = round(count * plan.unreported)
        for hour in rng.choices(hours, cum_weights=weights, k=hidden):
            self._happen(hour, card.id, "unreported")
        over = closed if plan.deleted is None else self._day(plan.deleted)
        for _ in range(plan.stragglers):
            self._use(card.id, over + timedelta(days=rng.uniform(0.1, 3.5) * self.days / _PLAN_DAYS))

    def _busy(self, hour: datetime, launch: datetime) -> float:
        age = (hour - launch) / timedelta(days=1)
        return WEEKDAYS[hour.weekday()] * HOURS[hour.hour] * (1 + 2.5 * math.exp(-age / 2))

    def _second_reports(self, count: int) -> None:
        latest = self.end - timedelta(hours=2)
        uses = sorted((h for h in self.happenings if h.what == "applied" and h.time < latest), key=lambda h: h.time)
        for use in self.rng.sample(uses, count):
            last = min(self.end, use.time + timedelta(days=4))
            paid = use.time + (last - use.time) * self.rng.uniform(0.1, 0.99)
            self.happenings.append(replace(use, time=paid, what="paid"))

    # The coupon's state is folded in order of time, so that every body shows what Wix would have shown then.

    def _tell(self) -> None:
        rng = self.rng
        order = sorted(range(len(self.happenings)), key=lambda n: (self.happenings[n].time, n))
        sequences: Counter[str] = Counter()
        created: dict[str, str] = {}
        deleted: dict[str, datetime] = {}
        for happening in (self.happenings[n] for n in order):
            coupon, what = happening.coupon, happening.what
            card, wire = self.cards[coupon], self.wires[coupon]
            before = None
            if what in ("applied", "unreported"):
                card = replace(card, usages=card.usages + 1)
            elif happening.changes is not None:
                before = {key: getattr(card, key) for key in happening.changes}
                card = replace(card, **happening.changes)
            self.cards[coupon] = card
            if what == "unreported":
                continue
            # Wix promises that the sequence grows, not that it has no gaps.
            sequences[coupon] += rng.choice((1, 1, 1, 2))
            known_as = created[coupon] if what == "conflict" else self._id()
            if what == "created":
                created[coupon] = known_as
            elif what == "deleted":
                deleted[coupon] = happening.time
            use = what in ("applied", "paid")
            fact = Fact(
                known_as,
                {"paid": "applied", "conflict": "deleted"}.get(what, what),
                happening.time,
                card,
                sequences[coupon],
                happening.order_id,
                before,
                deleted.get(coupon),
                entity_id=self._id() if use and wire == "rest_json" and rng.random() < 0.1 else None,
                identity=self._identity(use=use) if wire == "sdk" else None,
                bare=use and wire == "sdk" and rng.random() < 0.05,
            )
            steady = card.code == CONFLICTING
            self.told.append(Told(happening.time, *spell(fact, wire), steady=steady))

    def _identity(self, *, use: bool) -> dict[str, str]:
        if not use:
            return {"identityType": "WIX_USER", "wixUserId": "6f1c9a52-0d3e-4b7a-9c58-2e4d7a1b9f30"}
        if self.rng.random() < 0.6:
            return {"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": self._id()}
        return {"identityType": "MEMBER", "memberId": self._id()}
