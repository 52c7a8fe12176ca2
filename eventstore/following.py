"""The log as people and programs follow it: which events are asked for, where to begin, and what is told of each.

`eventstore tail` and `GET /v1/events/stream` are doors over this; both tell a program the same JSON object of an event.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from eventstore.errors import InputError, NotFound
from eventstore.event import Coupon, Discount, DiscountType, Event
from eventstore.handlers import feed
from eventstore.log import reader
from eventstore.log.reader import Filter
from eventstore.log.records import RecordedEvent
from eventstore.log.tail import Stop
from eventstore.nearest import nearest
from eventstore.wix.catalogue import BY_EVENT_TYPE, FAMILIES, HANDLERS, OBSERVED, OWN_TYPES

if TYPE_CHECKING:
    from eventstore.store import EventStore

LAST_EVENTS = 10
"""Events of the past that are shown first unless told otherwise, as `tail` does with lines."""
LATE = timedelta(hours=1)
"""An event recorded so long after it happened is shown with both times."""
TYPES: Final = (*(family.type for family in FAMILIES), OBSERVED)
"""The canonical types that the store gives. Others are Wix's own `eventType`, kept as it was told."""
GROUPS: Final = tuple(sorted({f"{type_.partition('.')[0]}.*" for type_ in TYPES}))
_EVERYTHING: Final = "*"
_LINE_ENDS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
_MOST_CHANGES = 4
"""Changed facts that a line names; of more it tells how many."""


def types_named(names: Iterable[str]) -> frozenset[str] | None:
    """The canonical types that these names mean: `coupon.applied`, `coupon.*`, a handler's or Wix's own name. None: any.

    Raises InputError for an unknown one, with the nearest that there is.
    """
    found: set[str] = set()
    for name in names:
        if name == _EVERYTHING:
            return None
        if name in GROUPS:
            found.update(type_ for type_ in TYPES if type_.startswith(name.removesuffix("*")))
        elif name in BY_EVENT_TYPE:
            found.add(BY_EVENT_TYPE[name].type)
        else:
            found.add(HANDLERS.get(name) or _one_type(name))
    return frozenset(found) or None


def _one_type(name: str) -> str:
    if name in TYPES:
        return name
    near = nearest(name, (*TYPES, *GROUPS, *HANDLERS, *BY_EVENT_TYPE), cutoff=0.75)
    if near is not None:
        raise InputError(f"unknown type {name!r}; did you mean {near!r}?")
    # Wix has events that the store has no name for, and those are kept under Wix's own.
    if not name.startswith(OWN_TYPES) and (name.startswith("wix.") or (name.isalnum() and name[0].isupper())):
        return name
    raise InputError(
        f"unknown type {name!r}; the known ones are {', '.join(TYPES)}, {', '.join(GROUPS)}, and any eventType of Wix's "
        "(wix.loyalty.v1.reward_updated, AppInstalled)"
    )


def coupon_named(store: EventStore, text: str, site_id: str | None = None) -> str:
    """The id of the coupon that has this id or, in any case, this code.

    Raises NotFound where no event of it is in the log, InputError where several coupons have had the code.
    """
    if reader.read(store.engine, limit=1, site_id=site_id, coupon_id=text):
        return text
    store.project()
    found = sorted({coupon.coupon_id for coupon in store.coupons(site_id=site_id, code=text, limit=20)})
    if not found:
        raise NotFound(f"no coupon has the id or code {text!r}")
    if len(found) > 1:
        raise InputError(f"{len(found)} coupons have had the code {text!r}; give one's id: {', '.join(found)}")
    return found[0]


def pages(
    store: EventStore,
    wanted: Filter,
    *,
    begin: str | None = None,
    last: int = LAST_EVENTS,
    follow: bool = False,
    stop: Stop | None = None,
) -> Generator[list[RecordedEvent], None, None]:
    """The wanted events, in order, in pages of at least one: up to the end of the log as it is now, or with `follow` for ever.

    They begin where `begin` says (see `feed.beginning`: a position, a time, `beginning` or `now`), or else with the last
    `last` of them. `stop`, and how a followed log survives outages: see `EventStore.tail`. Raises InputError.
    """
    if begin is None:
        after = reader.before_last(store.engine, wanted, last)
    else:
        after = feed.beginning(store.engine, begin)
    if follow:
        return store.tail_pages(after=after, **wanted._asdict(), stop=stop)
    return reader.stream_pages(store.engine, after=after, until=store.head(), **wanted._asdict())


# What is told of an event


def json_of(record: RecordedEvent) -> str:
    """`{"position", "recorded_at", "event"}` on one line; the event is its canonical JSON, written as the log holds it.

    Only what some programs take for a line's end, though JSON lets it stand, is escaped.
    """
    recorded_at = record.recorded_at.isoformat().replace("+00:00", "Z")
    payload = record.payload if record.payload.isascii() else record.payload.translate(_LINE_ENDS)
    return f'{{"position":{record.position},"recorded_at":"{recorded_at}","event":{payload}}}'


def subject_of(event: Event) -> str:
    """The name that a person knows the event's coupon by: its code if the event tells it, else its id."""
    if event.coupon is not None and event.coupon.code:
        return event.coupon.code
    return event.coupon_id or event.entity_id


def brief(event: Event) -> str:
    """What happened, in a few words: what a new coupon is good for, what an update changed, the order of a use."""
    told: list[str] = []
    if event.type == "coupon.applied":
        told += [f"order {event.order_id}"] if event.order_id else []
        told += [f"app {event.app_id}"] if event.app_id else []
    elif event.changed:
        told += _changes(event)
    elif event.coupon is not None:
        told += _offer(event.coupon)
        if event.type == OBSERVED:
            told.append(f"used {event.coupon.reported_usages:,} times by Wix's count")
    if event.loyalty is not None:
        told += [each for each in (event.loyalty.reward_name, event.loyalty.status) if each]
    if not event.recognised:
        told.append(f"about {event.entity_id}")
    return ", ".join(told)


def is_late(record: RecordedEvent) -> bool:
    """Whether the event was recorded so long after it happened that both times should be told."""
    return record.recorded_at - record.event.event_time > LATE


def _offer(coupon: Coupon) -> list[str]:
    found = [_discount(coupon.discount)]
    if coupon.minimum_subtotal is not None:
        found.append(f"from {coupon.minimum_subtotal:f} on")
    if coupon.scope is not None:
        found.append(f"on {'/'.join(part for part in (coupon.scope.namespace, coupon.scope.group) if part)}")
    if coupon.expiration_time is not None:
        found.append(f"until {coupon.expiration_time:%Y-%m-%d %H:%M}")
    if coupon.usage_limit is not None:
        found.append(f"at most {coupon.usage_limit:,} uses")
    if coupon.active is False:
        found.append("switched off")
    return found


def _discount(discount: Discount) -> str:
    value = "?" if discount.value is None else f"{discount.value:f}"
    match discount.type:
        case DiscountType.MONEY_OFF:
            return f"{value} off"
        case DiscountType.PERCENT_OFF:
            return f"{value} % off"
        case DiscountType.FIXED_PRICE:
            return f"for {value}"
        case DiscountType.FREE_SHIPPING:
            return "free shipping"
        case DiscountType.BUY_X_GET_Y:
            return f"buy {discount.buy_x or '?'} get {discount.get_y or '?'}"
        case _:
            return f"discount {discount.raw_type or 'unknown'}"


def _changes(event: Event) -> list[str]:
    from eventstore.projections.history import given_changes

    changes = given_changes(event.changed or {}, event.coupon)
    found = [f"{each.fact}: {_value(each.before)} → {_value(each.after)}" for each in changes[:_MOST_CHANGES]]
    if len(changes) > _MOST_CHANGES:
        found.append(f"and {len(changes) - _MOST_CHANGES} more")
    return found


def _value(value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
