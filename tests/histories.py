"""Histories as Wix might tell them at its worst: few sites, coupons, orders, times and sequences, so that everything collides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any, TypeVar

from hypothesis import strategies as st

from eventstore.event import (
    INT64_MAX,
    Account,
    Actor,
    Coupon,
    Discount,
    DiscountType,
    Event,
    Loyalty,
    Scope,
    Source,
)

Item = TypeVar("Item")

SITES = ("site-a", "site-b")
COUPONS = ("c1", "c2")
LOYALTY_COUPONS = ("L1", "L2")
START = datetime(2026, 9, 1, 12, tzinfo=UTC)
HISTORY_EVENTS = 14
"""Events in a history at most: enough for every pair of them to meet, few enough to shrink to something readable."""

# Words that a careless quote, escape, collation or path would trip over. Code points past U+FFFF sort differently in UTF-16.
WORDS = (
    "SAVE",
    "save",
    "Summer Sale",
    'say "hi"',
    "back\\slash",
    "line\nbreak",
    "ünï",
    "\uffff",
    "\U0001d11e",
    "null",
    "1",
    "{}",
)
IDS = ("app-1", "app-2", 'a"b', "a'b", "a\\b", "a b", "ß", "\uffff", "\U0001d11e", "$[0]", "null", "7")


def _optional(values: st.SearchStrategy[Item]) -> st.SearchStrategy[Item | None]:
    return st.none() | values


words = st.sampled_from(WORDS)
ids = st.sampled_from(IDS)
times = st.one_of(
    st.sampled_from([START + timedelta(hours=hour) for hour in range(4)]),
    st.sampled_from([START + timedelta(microseconds=step) for step in (1, 2, 999_999)]),
    st.sampled_from(
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ]
    ),
)
"""Ordinary times that tie, times a microsecond apart, and the ends of the calendar."""
sequences = _optional(st.sampled_from([0, 1, 2, 3, 2**53 + 1, 2**53 + 2, INT64_MAX]))
"""None, a few that tie, and some that a float would round together."""
counts = st.sampled_from([0, 1, 2, 3, 999, INT64_MAX, -1])
amounts = st.one_of(
    st.sampled_from([Decimal(text) for text in ("0", "5", "10.5", "0.000001", "999999999999.999999", "100", "-2.25")]),
    st.decimals(min_value=-1000, max_value=1000, places=6, allow_nan=False, allow_infinity=False),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words | st.just("source"), inner, max_size=2),
    max_leaves=4,
)
extras = _optional(st.dictionaries(words, json_values, max_size=2))

discounts = st.builds(
    Discount,
    type=st.sampled_from(DiscountType),
    value=_optional(amounts),
    buy_x=_optional(counts),
    get_y=_optional(counts),
    raw_type=_optional(words),
)
scopes = st.builds(Scope, namespace=_optional(words), group=_optional(words), entity_id=_optional(words))
coupons = st.builds(
    Coupon,
    id=_optional(st.sampled_from(COUPONS)),
    code=_optional(words),
    name=_optional(words),
    discount=discounts,
    scope=_optional(scopes),
    start_time=_optional(times),
    expiration_time=_optional(times),
    created_at=_optional(times),
    usage_limit=_optional(counts),
    limit_per_customer=_optional(counts),
    minimum_subtotal=_optional(amounts),
    limited_to_one_item=st.booleans(),
    applies_to_subscriptions=st.booleans(),
    discounted_cycle_count=_optional(counts),
    active=_optional(st.booleans()),
    expired=st.booleans(),
    reported_usages=counts,
    extra=extras,
)
loyalties = st.builds(
    Loyalty,
    account_id=_optional(ids),
    member_id=_optional(ids),
    transaction_id=_optional(ids),
    status=_optional(st.sampled_from(["ACTIVE", "APPLIED", "ARCHIVED"])),
    reward_name=_optional(words),
    revision=_optional(st.sampled_from([0, 1, 2, 3, 2**53 + 1, 2**53 + 2])),
    created_at=_optional(times),
    updated_at=_optional(times),
    refundable=st.booleans(),
    coupon_deleted=st.booleans(),
    extra=extras,
)
actors = st.builds(Actor, type=st.sampled_from(["MEMBER", "APP", "WIX_USER", "UNKNOWN"]), id=_optional(ids))
accounts = st.builds(Account, account_id=_optional(ids), site_id=_optional(ids))
told: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from([Source.VELO, Source.REST, Source.SDK]),
    "sequence": sequences,
    "originated_from": _optional(words),
    "actor": _optional(actors),
    "account": _optional(accounts),
    "changed": _optional(st.dictionaries(words | st.just("source"), json_values, max_size=2)),
}
"""How an event may be told."""

event_ids = st.one_of(
    st.integers(0, 40).map(lambda number: f"e{number}"), st.sampled_from(["é", "\uffff", "\U0001d11e", "e 1", 'e"1'])
)
_head: dict[str, st.SearchStrategy[Any]] = {
    "event_id": event_ids,
    "site_id": st.sampled_from([SITES[0], *SITES]),
    "event_time": times,
    "anonymize": st.booleans(),
}


def _coupon_events(
    type_: str, *, coupon: st.SearchStrategy[Coupon | None], **more: st.SearchStrategy[Any]
) -> st.SearchStrategy[Event]:
    """Events of one coupon; now and then its id is only the entity's."""
    about = st.sampled_from([{"coupon_id": one, "entity_id": one} for one in COUPONS] * 3 + [{"entity_id": COUPONS[0]}])
    rest = st.fixed_dictionaries({"coupon": coupon, **_head, **told, **more})
    return st.tuples(about, rest).map(lambda both: Event(type=type_, **both[0], **both[1]))


created = _coupon_events("coupon.created", coupon=_optional(coupons), restored=st.booleans())
updated = _coupon_events("coupon.updated", coupon=coupons)
deleted = _coupon_events("coupon.deleted", coupon=st.none())
observed = _coupon_events("coupon.observed", coupon=coupons, source=st.just(Source.SNAPSHOT), sequence=st.none())
applied = _coupon_events(
    "coupon.applied",
    coupon=_optional(coupons),
    order_id=_optional(st.sampled_from(["o1", "o2", "o3", '"o"'])),
    app_id=_optional(ids),
)
loyal = st.builds(
    Event,
    type=st.sampled_from(["loyalty_coupon.created", "loyalty_coupon.updated", "loyalty_coupon.deleted"]),
    entity_id=st.sampled_from(LOYALTY_COUPONS),
    coupon_id=_optional(st.sampled_from(COUPONS)),
    coupon=_optional(coupons),
    loyalty=_optional(loyalties),
    **_head,
    **told,
)
unrecognised = st.builds(
    Event,
    type=st.sampled_from(["wix.loyalty.v1.reward_updated", "coupon.exploded", "loyalty_coupon.expired"]),
    recognised=st.just(False),
    entity_id=st.sampled_from([*COUPONS, *LOYALTY_COUPONS]),
    body=json_values,
    **_head,
    **told,
)

events = st.one_of(created, updated, deleted, observed, applied, applied, applied, loyal, loyal, unrecognised)
"""One event of any kind."""


def every_close_call() -> list[Event]:
    """Every way in which a few events of one coupon, of its uses or of one reward can agree and disagree in time, sequence,
    revision and order of ids; each history in a site of its own. Every snapshot tells whose it is."""
    mine = [
        {"type": type_, "sequence": sequence, "event_time": START + timedelta(hours=hour)}
        for type_, numbers, hours in (
            ("coupon.created", (None, 0, 1), (0, 1)),
            ("coupon.deleted", (None, 0, 1), (0, 1)),
            ("coupon.updated", (None, 1), (0,)),
        )
        for sequence in numbers
        for hour in hours
    ]
    uses = [
        {"type": "coupon.applied", "order_id": order, "app_id": app, "event_time": START + timedelta(hours=hour)}
        for order in (None, "o1", "o2")
        for app in (None, "app-1")
        for hour in (0, 1)
    ]
    rewards = [
        {
            "type": type_,
            "revision": revision,
            "sequence": sequence,
            "event_time": START + timedelta(hours=hour),
            "linked": linked,
        }
        for type_ in ("loyalty_coupon.created", "loyalty_coupon.deleted")
        for revision in (None, 0, 1)
        for sequence in (None, 0)
        for hour in (0, 1)
        for linked in (False, True)
    ]
    happened: list[tuple[dict[str, Any], ...]] = [
        *product(mine, repeat=3),
        *product(uses, repeat=3),
        *product(rewards, repeat=2),
    ]
    return [
        _close_call(f"site-{site}", f"e{number}", **facts)
        for site, history in enumerate(happened)
        for number, facts in enumerate(history)
    ]


def _close_call(
    site_id: str, event_id: str, *, revision: int | None = None, linked: bool = True, **facts: Any
) -> Event:
    loyal, told = facts["type"].startswith("loyalty"), not facts["type"].endswith("deleted")
    about = f"coupon-of-{event_id}" if loyal else "c1"
    return Event(
        event_id=event_id,
        site_id=site_id,
        entity_id="L1" if loyal else about,
        coupon_id=about if linked else None,
        coupon=Coupon(code=event_id, discount=Discount(type=DiscountType.FREE_SHIPPING)) if told else None,
        loyalty=Loyalty(status=event_id, revision=revision) if told and loyal else None,
        source=Source.REST,
        **facts,
    )


def _key(event: Event) -> tuple[str, str]:
    return event.site_id, event.event_id


def histories(max_size: int = HISTORY_EVENTS) -> st.SearchStrategy[list[Event]]:
    """What happened: at most one event for each (site, event id)."""
    return st.lists(events, max_size=max_size, unique_by=_key)


@st.composite
def deliveries(draw: st.DrawFn, history: Sequence[Event]) -> list[Event]:
    """How it reaches us: every event at least once, in any order, with any repetition."""
    again = draw(st.lists(st.sampled_from(history), max_size=len(history))) if history else []
    return draw(st.permutations([*history, *again]))


@st.composite
def parts(draw: st.DrawFn, items: Sequence[Item], *, overlap: bool, most: int = 3) -> list[list[Item]]:
    """Any split of the items into a few lists that together hold them all; with `overlap`, some stand in several lists."""
    number = draw(st.integers(1, most))
    split: list[list[Item]] = [[] for _ in range(number)]
    for item in items:
        for place in draw(st.sets(st.integers(0, number - 1), min_size=1, max_size=number if overlap else 1)):
            split[place].append(item)
    return split


@st.composite
def retold(draw: st.DrawFn, event: Event) -> Event:
    """The same event as another route would tell it: all that is not what happened may differ; its sequence may be missing."""
    update = {name: draw(strategy) for name, strategy in told.items()}
    update["sequence"] = draw(st.sampled_from([None, event.sequence]))
    return event.model_copy(update=update)


@st.composite
def contradicted(draw: st.DrawFn, event: Event) -> Event:
    """Another event under the same id: something that happened differs."""
    change: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"event_time": event.event_time.replace(year=2000 if event.event_time.year != 2000 else 2001)},
                {"anonymize": not event.anonymize},
                {"type": f"{event.type}.other", "recognised": False},
                {"order_id": f"{event.order_id}-other"},
                {"entity_id": f"{event.entity_id}-other"},
            ]
        )
    )
    return event.model_copy(update=change)
