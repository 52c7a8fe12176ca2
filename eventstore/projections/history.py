"""What happened to one coupon, event by event: who, how it came, what it changed, and what is odd about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError
from sqlalchemy import Connection, Engine, select

from eventstore.differences import Facts
from eventstore.errors import InputError, NotFound, UnreadableDelivery
from eventstore.event import Coupon, Event, Source
from eventstore.log.records import RecordedEvent
from eventstore.log.schema import head_size
from eventstore.log.tables import events
from eventstore.projections import views
from eventstore.projections.moment import Moment, resolve
from eventstore.projections.timeline import LIFE, TOLD, Line, Timeline, by_time, read_timeline
from eventstore.projections.views import number
from eventstore.wix.coupon import CREATED as CREATED_NAMES
from eventstore.wix.coupon import read_coupon

PAGE_EVENTS = 1_000
"""Events whose entries are made at a time."""
LATE = timedelta(hours=1)
"""An event recorded so long after it happened is late: of Wix's deliveries it is the fourth try at the least."""


class Order(StrEnum):
    """How a history is ordered: as the log recorded it, or as it happened (by event time, then event id)."""

    RECORDED = "recorded"
    HAPPENED = "happened"


class Basis(StrEnum):
    """Where the changes of an event come from."""

    GIVEN = "given"
    COMPUTED = "computed"
    FIRST = "first"


def _in_json(value: Any) -> Any:
    return number(value) if isinstance(value, Decimal) else value


Value = Annotated[Any, PlainSerializer(_in_json, when_used="json")]
"""The value of a fact: text, number, time, flag, or whatever Wix gave."""


class Change(BaseModel):
    """One fact that an event changed."""

    model_config = ConfigDict(frozen=True)

    fact: str = Field(description="Its name as a coupon has it; a field that no fact is made of has Wix's own name.")
    before: Value = Field(description="Null: there was none; of first facts nothing is known before.")
    after: Value = Field(description="Null: there is none any more, or the event does not say.")


class Finding(BaseModel):
    """Something odd about an event: a word for programs, and a sentence for people."""

    model_config = ConfigDict(frozen=True)

    code: str
    text: str


class HistoryEntry(BaseModel):
    """One event of a coupon, where and when it was recorded, what it changed, and what is odd about it."""

    model_config = ConfigDict(frozen=True)

    position: int
    recorded_at: datetime
    event: Event
    changes: list[Change] = Field(description="Fact by fact, before and after.")
    basis: Basis | None = Field(
        description="given: Wix named the changed fields with their values before (modifiedFields). computed: found by "
        "comparing with the latest snapshot before it, by sequence or time, whenever that was recorded. first: nothing was "
        "known before, and these are the first facts. null: it changed nothing that is known."
    )
    findings: list[Finding]


class _Shown(Facts):
    """The facts whose changes a history shows: also those that Wix counts and times by itself."""

    expired: bool | None = None
    reported_usages: int | None = None


def page(
    engine: Engine,
    coupon_id: str,
    *,
    site_id: str | None = None,
    after: int = 0,
    limit: int = PAGE_EVENTS,
    order: Order = Order.RECORDED,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
) -> list[HistoryEntry]:
    """At most `limit` entries behind the one at the position `after` (0: from the beginning), in the order asked for.

    With a moment, those that count then. Raises NotFound for a coupon without any event, and InputError where `after` is no
    position of this history ordered as it happened, or several sites have a coupon of that id and none is given.
    """
    with engine.connect() as connection:
        timeline = _timeline(connection, coupon_id, site_id, as_of, known_at, at_position)
        lines = _ordered(timeline, order)
        if order is Order.RECORDED:
            lines = [line for line in lines if line.position > after]
        elif after:
            at = next((number for number, line in enumerate(lines) if line.position == after), None)
            if at is None:
                raise InputError(f"after={after} is no position of this coupon's history; give the `next` before")
            lines = lines[at + 1 :]
        return _entries(connection, timeline, lines[:limit])


def stream(
    engine: Engine,
    coupon_id: str,
    *,
    site_id: str | None = None,
    order: Order = Order.RECORDED,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
) -> Iterator[HistoryEntry]:
    """The whole history, PAGE_EVENTS in memory at a time. Raises NotFound for a coupon without any event."""
    with engine.connect() as connection:
        timeline = _timeline(connection, coupon_id, site_id, as_of, known_at, at_position)
        lines = _ordered(timeline, order)
        for start in range(0, len(lines), PAGE_EVENTS):
            yield from _entries(connection, timeline, lines[start : start + PAGE_EVENTS])


def _timeline(
    connection: Connection,
    coupon_id: str,
    site_id: str | None,
    as_of: datetime | None,
    known_at: datetime | None,
    at_position: int | None,
) -> Timeline:
    moment = resolve(connection, as_of=as_of, known_at=known_at, at_position=at_position)
    if moment is None:
        moment = resolve(connection, at_position=head_size(connection))
    assert isinstance(moment, Moment)
    site = site_id if site_id is not None else views.site_of(connection, coupon_id)
    timeline = read_timeline(connection, site, coupon_id, moment)
    if not timeline.lines:
        raise NotFound(f"no coupon {coupon_id!r} in the store" + (" at that moment" if as_of or known_at else ""))
    return timeline


def _ordered(timeline: Timeline, order: Order) -> Sequence[Line]:
    return timeline.lines if order is Order.RECORDED else sorted(timeline.lines, key=by_time)


def _entries(connection: Connection, timeline: Timeline, lines: Sequence[Line]) -> list[HistoryEntry]:
    before = {line.position: timeline.snapshots.than(line) for line in lines if line.type in TOLD}
    wanted = {line.position for line in lines} | {line.position for line in before.values() if line is not None}
    records = _records(connection, wanted)
    found = []
    for line in lines:
        record = records[line.position]
        earlier = before.get(line.position)
        known = None if earlier is None else records[earlier.position].event.coupon
        changes, basis = _changes(timeline, line, record.event, known)
        found.append(
            HistoryEntry(
                position=record.position,
                recorded_at=record.recorded_at,
                event=record.event,
                changes=changes,
                basis=basis,
                findings=list(_findings(timeline, line, record, known)),
            )
        )
    return found


def _records(connection: Connection, positions: Iterable[int]) -> dict[int, RecordedEvent]:
    columns = (events.c.position, events.c.recorded_at, events.c.payload, events.c.leaf_hash)
    found = {}
    wanted = sorted(positions)
    for start in range(0, len(wanted), PAGE_EVENTS):
        several = select(*columns).where(events.c.position.in_(wanted[start : start + PAGE_EVENTS]))
        for row in connection.execute(several):
            found[row.position] = RecordedEvent(*row)
    return found


# What an event changed


def _changes(timeline: Timeline, line: Line, event: Event, known: Coupon | None) -> tuple[list[Change], Basis | None]:
    if line.type not in TOLD:
        return [], None
    changes: list[Change] = []
    basis: Basis | None = None
    if event.changed:
        changes, basis = given_changes(event.changed, event.coupon), Basis.GIVEN
    elif event.coupon is not None:
        told = _Shown.of(event.coupon)
        if known is None:
            basis = Basis.FIRST
            changes = [Change(fact=name, before=None, after=value) for name, value in told if value is not None]
        else:
            basis = Basis.COMPUTED
            changes = [
                Change(fact=name, before=here, after=there) for name, here, there in _Shown.of(known).differing(told)
            ]
    if line.type in LIFE:
        lived = timeline.life.than(line)
        was_deleted = lived is not None and lived.type == "coupon.deleted"
        is_deleted = line.type == "coupon.deleted"
        if was_deleted != is_deleted:
            changes.insert(0, Change(fact="deleted", before=was_deleted, after=is_deleted))
            basis = basis or Basis.COMPUTED
    return changes, basis if changes else None


_DISCOUNT: Final = ("discount_type", "discount_value", "buy_x", "get_y")
_SCOPE: Final = ("scope_namespace", "scope_group", "scope_entity_id")
_FACTS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "code": ("code",),
        "name": ("name",),
        "startTime": ("start_time",),
        "expirationTime": ("expiration_time",),
        "usageLimit": ("usage_limit",),
        "limitPerCustomer": ("limit_per_customer",),
        "minimumSubtotal": ("minimum_subtotal",),
        "limitedToOneItem": ("limited_to_one_item",),
        "appliesToSubscriptions": ("applies_to_subscriptions",),
        "discountedCycleCount": ("discounted_cycle_count",),
        "active": ("active",),
        "expired": ("expired",),
        "numberOfUsages": ("reported_usages",),
        "scope": _SCOPE,
        "type": _DISCOUNT,
        "moneyOffAmount": _DISCOUNT,
        "percentOffRate": _DISCOUNT,
        "freeShipping": _DISCOUNT,
        "fixedPriceAmount": _DISCOUNT,
        "buyXGetY": _DISCOUNT,
    }
    | dict.fromkeys(CREATED_NAMES, ("created_at",))
)
"""Wix's name of a field → the facts that are made of it."""
_STEP: Final = re.compile(r"[^.\[\]'\"]+")


def given_changes(changed: Mapping[str, Any], coupon: Coupon | None) -> list[Change]:
    """The changes that `modifiedFields` tells: paths in Wix's spelling, flat or under `specification`, with the values before.

    The values are read as a coupon's are. What no fact is made of, or cannot be read so, is shown as Wix gave it.
    """
    before: dict[str, Any] = {}
    paths: dict[str, list[str]] = {}
    for path in changed:
        steps = [step for step in _STEP.findall(path) if step != "specification"] or [path]
        paths.setdefault(steps[0], []).append(path)
        _plant(before, steps, changed[path])
    try:
        was: _Shown | None = _Shown.of(Coupon.model_validate(read_coupon(before)))
    except (UnreadableDelivery, ValidationError, RecursionError):
        was = None
    told = None if coupon is None else _Shown.of(coupon)
    found: dict[str, Change] = {}
    for name in paths:
        facts = _FACTS_OF.get(name, ())
        if was is not None and told is not None and facts:
            for fact in facts:
                here, there = getattr(was, fact), getattr(told, fact)
                # Of a field that several facts are made of, not all need have changed.
                if len(facts) == 1 or here != there:
                    found[fact] = Change(fact=fact, before=here, after=there)
            continue
        for path in paths[name]:
            extra = None if coupon is None or coupon.extra is None else coupon.extra.get(name)
            found[path] = Change(fact=path, before=changed[path], after=extra)
    return list(found.values())


def _plant(tree: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    """Set the value at the end of a path of names, as far as what stands there already leaves room."""
    for step in steps[:-1]:
        inner = tree.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree.setdefault(steps[-1], value)


# What is odd about it


def _findings(timeline: Timeline, line: Line, record: RecordedEvent, known: Coupon | None) -> Iterator[Finding]:
    event = record.event
    waited = record.recorded_at - event.event_time
    if event.source is not Source.SNAPSHOT and waited > LATE:
        yield Finding(code="late", text=f"recorded {_span(waited)} after it happened")
    for code in event.findings:
        yield Finding(code=code, text=_TEXTS.get(code, code.replace("_", " ")).format(event=event))
    other = timeline.disagrees_with(line)
    if other is not None:
        side = "after" if (line.sequence or 0) > (other.sequence or 0) else "before"
        than = "before" if side == "after" else "after"
        yield Finding(
            code="sequence_disagrees_with_time",
            text=f"its sequence {line.sequence} is {side} the {other.sequence} of position {other.position}, "
            f"but it happened {than} that",
        )
    if line.type not in TOLD:
        return
    first = timeline.first_report(line)
    if first is not None and first.position != line.position:
        yield Finding(
            code="reported_again", text=f"the use was reported at position {first.position} already and counts once"
        )
        return
    lived = timeline.life.than(line)
    if line.type not in LIFE and lived is not None and lived.type == "coupon.deleted":
        did = "used" if line.type == "coupon.applied" else "reported by Wix"
        yield Finding(code="after_deletion", text=f"{did} after its deletion at position {lived.position}")
    if line.type == "coupon.applied":
        yield from _findings_of_use(timeline, line, event.coupon or known)


def _findings_of_use(timeline: Timeline, line: Line, facts: Coupon | None) -> Iterator[Finding]:
    """`facts`: the coupon at that time, as the use itself tells or else the latest before it."""
    if facts is None:
        return
    number = timeline.use_number(line)
    if facts.usage_limit is not None and number is not None and number > facts.usage_limit:
        yield Finding(code="over_limit", text=f"use {number} of {facts.usage_limit} allowed")
    if facts.start_time is not None and line.event_time < facts.start_time:
        yield Finding(code="used_before_start", text=f"used before {_moment(facts.start_time)}, when it begins")
    if facts.expiration_time is not None and line.event_time >= facts.expiration_time:
        yield Finding(code="used_after_expiration", text=f"used after it expired at {_moment(facts.expiration_time)}")
    if facts.active is False:
        yield Finding(code="used_while_inactive", text="used while it was switched off")


_TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "coupon_id_differs_from_entity_id": "it names the coupon {event.coupon_id}, but is about {event.entity_id}",
        "scope_and_minimum_subtotal": "it has a scope and a minimum subtotal, which exclude each other",
        "free_shipping_with_scope": "free shipping with a scope, which it cannot have",
        "bookings_not_limited_to_one_item": "a bookings coupon that is not limited to one item",
        "code_too_long": "its code is longer than Wix allows",
        "name_too_long": "its name is longer than Wix allows",
        "unknown_discount": "what its discount is cannot be told",
    }
)
"""The findings of `Event.findings` in words."""


def _span(waited: timedelta) -> str:
    if waited.days:
        return f"{waited.days:,} day{'s' * (waited.days != 1)}"
    hours = waited.seconds // 3600
    return f"{hours} hour{'s' * (hours != 1)}"


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
