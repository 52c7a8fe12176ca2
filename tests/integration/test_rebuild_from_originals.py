"""Rebuilding from the original deliveries: a reader's fault is put right, and the log stays what it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson
import pytest

from eventstore import wix
from eventstore.demo import month
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.projections import rebuild
from eventstore.store import EventStore
from eventstore.wix import snapshot
from eventstore.wix.coupon import read_coupon
from tests.commands import Command
from tests.serving import CREATED, created, wrapped
from tests.slow_model import stored
from tests.stores import NewUrl

EVENTS = 150


def ingest(store: EventStore) -> None:
    lines = islice(((number, each.line()) for number, each in enumerate(month())), EVENTS)
    # A page of coupons does not say when it was taken.
    store.ingest(lines, observed_at=datetime(2026, 9, 30, tzinfo=UTC))


@pytest.fixture(scope="module")
def right(new_url: NewUrl) -> Iterator[EventStore]:
    """What the deliveries say."""
    with new_url() as url, EventStore.open(url) as store:
        ingest(store)
        store.project()
        yield store


def faulty(read: Any) -> Any:
    """A reader that loses the app of a use, and takes each coupon for free shipping."""

    def read_wrongly(*arguments: Any, **named: Any) -> list[Event]:
        events = []
        for event in read(*arguments, **named):
            wrong: dict[str, Any] = {"app_id": None}
            if event.coupon is not None:
                discount = Discount(type=DiscountType.FREE_SHIPPING)
                wrong["coupon"] = event.coupon.model_copy(update={"discount": discount})
            events.append(event.model_copy(update=wrong))
        return events

    return read_wrongly


@pytest.fixture
def wrong(store: EventStore) -> EventStore:
    """A store whose events were read by a reader with a fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wix, "read", faulty(wix.read))
        ingest(store)
    store.project()
    return store


def python_built(name: str) -> Event:
    return Event(
        event_id=name,
        type="coupon.created",
        entity_id=name,
        coupon_id=name,
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        coupon=Coupon(code=name, discount=Discount(type=DiscountType.UNKNOWN)),
        source=Source.VELO,
        site_id="s",
    )


def test_a_rebuild_from_the_originals_puts_right_what_a_reader_got_wrong(
    right: EventStore, wrong: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "ORIGINALS_PIECE_EVENTS", 40)
    told = [record.payload for record in wrong.stream()]
    assert stored(wrong.engine) != stored(right.engine)
    result = wrong.rebuild_projections(from_original=True)
    assert stored(wrong.engine) == stored(right.engine)
    assert result.reread is not None
    assert (result.reread.read, result.reread.without_original, result.reread.unreadable) == (wrong.head(), 0, 0)
    differing = sum(ours.payload != theirs.payload for ours, theirs in zip(wrong.stream(), right.stream(), strict=True))
    assert result.reread.differed == differing > 0
    # The log says what it said, and so does a rebuild of it.
    assert [record.payload for record in wrong.stream()] == told
    wrong.rebuild_projections()
    assert stored(wrong.engine) != stored(right.engine)


def test_what_readers_understand_as_ever_makes_the_same_rows(right: EventStore) -> None:
    before = stored(right.engine)
    result = right.rebuild_projections(from_original=True)
    assert stored(right.engine) == before
    assert result.reread is not None
    assert (result.reread.read, result.reread.differed) == (right.head(), 0)


def test_events_without_an_original_or_with_one_that_cannot_be_read_go_in_as_the_log_has_them(
    store: EventStore, eventstore: Command
) -> None:
    store.append(python_built("alone"))
    store.append(python_built("strange"), original=b"no JSON at all")
    store.append(python_built("another"), original=orjson.dumps(wrapped(CREATED, created("e-1", "c-1"))))
    store.ingest([(1, orjson.dumps(wrapped(CREATED, created("e-2", "c-2"))))])
    store.project()
    before = stored(store.engine)
    result = store.rebuild_projections(from_original=True)
    assert stored(store.engine) == before
    told = result.reread
    assert told is not None
    assert (told.read, told.differed, told.without_original, told.unreadable) == (1, 0, 1, 2)
    assert [problem.partition(":")[0] for problem in told.problems] == ["position 2", "position 3"]
    assert "another" in told.problems[1]
    done = eventstore.run("rebuild-projections", "--from-original")
    assert "1 read again, 0 of them say something else" in done.stdout
    assert "1 without an original, 2 that can no longer be read" in done.stdout
    assert done.stderr.splitlines()[0].strip().startswith("position 2: ")


def test_each_coupon_of_a_page_that_was_read_wrongly_is_the_one_that_it_was(store: EventStore) -> None:
    coupons = [{"id": f"c-{each}", "specification": {"name": f"{each}", "code": f"C{each}"}} for each in (1, 2, 3)]
    with pytest.MonkeyPatch.context() as patch:
        # The ids of a page's events are made of what was read.
        honest = read_coupon
        patch.setattr(snapshot, "read_coupon", lambda entity: {**honest(entity), "name": "?"})
        taken = store.receive(orjson.dumps({"coupons": coupons}), route="snapshot", site="s")
    assert len(taken) == 3
    store.project()
    ids = [coupon.snapshot_event_id for coupon in store.coupons()]
    assert {coupon.name for coupon in store.coupons()} == {"?"}
    store.rebuild_projections(from_original=True)
    assert [coupon.name for coupon in store.coupons()] == ["1", "2", "3"]
    assert [coupon.snapshot_event_id for coupon in store.coupons()] == ids
