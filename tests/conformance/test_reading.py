"""What readers are given: pages, streams and tails, and when an event can be seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice, product
from typing import Any
from uuid import uuid4

import pytest

from eventstore.errors import InputError, NotFound
from eventstore.event import Event
from eventstore.log import reader
from eventstore.log.records import RecordedEvent
from eventstore.store import EventStore
from tests.conformance.events import event

SITES = tuple(f"site-{uuid4()}" for _ in range(2))
NUMBERS = range(1, 31)
NOWHERE = f"site-{uuid4()}"
OFTEN = 0.01
"""Seconds between two looks of a tail that is not to be woken by hints."""


def positions(found: list[RecordedEvent]) -> list[int]:
    return [record.position for record in found]


@pytest.fixture(scope="module")
def filled(url: str) -> Iterator[tuple[EventStore, int]]:
    """A log whose last thirty events are of two sites, three coupons and two types; and the position before them."""
    with EventStore.open(url, create=False) as log:
        start = log.head()
        told = [event(number, SITES[number % 2]) for number in NUMBERS]
        assert [one.position for one in log.append_many(told)] == [*range(start + 1, start + 31)]
        yield log, start


def test_pages_follow_one_another_without_a_gap_or_a_repeat(filled: tuple[EventStore, int]) -> None:
    log, start = filled
    found: list[int] = []
    while page := log.read(after=found[-1] if found else start, limit=7):
        assert len(page) <= 7
        found += positions(page)
    assert found == [*range(start + 1, start + 31)]
    assert log.read(after=start + 30) == log.read(after=start + 1_000_000) == []
    assert positions(log.read(after=start, limit=1)) == [start + 1]


@pytest.mark.parametrize(
    ("after", "until"), [(0, 30), (0, 10_000), (7, 9), (29, 30), (30, 30), (12, 5), (0, 0)], ids=lambda at: str(at)
)
def test_a_stream_ends_where_it_is_told_to(filled: tuple[EventStore, int], after: int, until: int) -> None:
    log, start = filled
    wanted = [start + number for number in NUMBERS if after < number <= until]
    for page in (1, 7, 1_000):
        found = reader.stream(log.engine, after=start + after, until=start + until, page=page)
        assert positions([*found]) == wanted
    assert positions([*log.stream(after=start + after, until=start + until)]) == wanted


FILTERS = [
    {"site_id": site, "coupon_id": coupon, "type_": type_}
    for site, coupon, type_ in product(
        (None, *SITES, NOWHERE), (None, "c0", "c1", "nothing"), (None, "coupon.applied", "coupon.exploded")
    )
]


def is_wanted(one: Event, wanted: dict[str, str | None]) -> bool:
    return (
        wanted["site_id"] in (None, one.site_id)
        and wanted["coupon_id"] in (None, one.coupon_id)
        and wanted["type_"] in (None, one.type)
    )


def test_filters_combine_for_pages_streams_and_tails_alike(filled: tuple[EventStore, int]) -> None:
    log, start = filled
    everything = [record.event for record in log.stream(after=start)]
    assert everything == [event(number, SITES[number % 2]) for number in NUMBERS]
    for wanted in FILTERS:
        filters: dict[str, Any] = wanted
        expected = [one for one in everything if is_wanted(one, wanted)]
        for found in (
            log.read(after=start, **filters),
            log.stream(after=start, **filters),
            log.tail(after=start, idle_timeout=0, **filters),
            reader.stream(log.engine, after=start, page=2, **filters),
            [record for page in log.tail_pages(after=start, idle_timeout=0, page=2, **filters) for record in page],
        ):
            assert [record.event for record in found] == expected, wanted


def test_an_event_is_found_by_its_id_and_by_its_position(filled: tuple[EventStore, int]) -> None:
    log, start = filled
    assert log.find("e7", site_id=SITES[1]).event == event(7, SITES[1])
    assert log.find(str(start + 7)).event == event(7, SITES[1])
    for unknown in ("nothing", str(start + 1_000_000)):
        with pytest.raises(NotFound, match=unknown):
            log.find(unknown)
    with pytest.raises(NotFound, match="e7"):
        log.find("e7", site_id=SITES[0])


def test_an_id_that_several_sites_have_is_found_by_its_site(log: EventStore, site: str) -> None:
    name = f"e-{site}"
    sites = [site, f"{site}-2"]
    told = [event(1, of, event_id=name) for of in sites]
    assert len([*log.append_many(told)]) == 2
    with pytest.raises(InputError, match="several sites"):
        log.find(name)
    assert [log.find(name, site_id=of).event for of in sites] == told


def test_a_stream_begun_before_an_append_ends_where_the_log_ended(log: EventStore, site: str) -> None:
    start = log.head()
    list(log.append_many(event(number, site) for number in range(30)))
    stream = reader.stream(log.engine, after=start, page=10)
    first = next(stream)
    log.append(event(1_000, site))
    assert positions([first, *stream]) == [*range(start + 1, start + 31)]


def test_an_answer_comes_only_after_anyone_can_read_the_event(log: EventStore, url: str, site: str) -> None:
    with EventStore.open(url, create=False) as stranger:
        for number in range(20):
            position = log.append(event(number, site)).position
            assert position is not None
            assert stranger.head() == position
            assert [record.event for record in stranger.read(after=position - 1)] == [event(number, site)]


def test_a_reader_never_sees_a_position_before_those_below_it(log: EventStore, url: str, site: str) -> None:
    """Two writers, and a reader that asks again and again for all that is new and more."""
    start = log.head()
    done = threading.Event()
    each = 1_500

    def write(store: EventStore, number: int) -> None:
        pieces = (range(first, first + 30) for first in range(0, each, 30))
        for piece in pieces:
            list(store.append_many(event(number * each + index, site) for index in piece))

    with EventStore.open(url, create=False) as other, EventStore.open(url, create=False) as third:
        threads = [threading.Thread(target=write, args=(store, at)) for at, store in enumerate((log, other))]

        def wait() -> None:
            for thread in threads:
                thread.join()
            done.set()

        for thread in [*threads, threading.Thread(target=wait)]:
            thread.start()
        last = start
        ended = False
        while not ended:
            ended = done.is_set()
            known = third.head()
            found = positions(third.read(after=start, limit=10 * each))
            assert found == [*range(start + 1, start + len(found) + 1)]
            assert start + len(found) >= known >= last, "what the head has said is there"
            last = start + len(found)
        assert last == start + 2 * each


# Tails


def test_a_tail_gives_what_is_there_and_then_what_comes_from_anywhere(log: EventStore, url: str, site: str) -> None:
    start = log.head()
    log.append(event(1, site))
    with EventStore.open(url, create=False) as other:
        tail = log.tail(after=start, poll=OFTEN)
        assert next(tail).event == event(1, site)
        for number in range(2, 12):
            (log if number % 2 else other).append(event(number, site))
            assert next(tail).event == event(number, site)
        pages = log.tail_pages(after=start, page=4, poll=OFTEN)
        assert [len(page) for page in islice(pages, 3)] == [4, 4, 3]


def test_a_tail_ends_when_it_has_been_idle_for_so_long(log: EventStore, site: str) -> None:
    start = log.head()
    log.append(event(1, site))
    assert positions([*log.tail(after=start, idle_timeout=0)]) == [start + 1]
    assert positions([*log.tail(after=start, idle_timeout=0.05, poll=OFTEN)]) == [start + 1]
    assert [*log.tail(after=start + 1, idle_timeout=0)] == []
    assert [*log.tail(after=start + 1_000_000, idle_timeout=0)] == []
    # Others' events are no news for one who does not want them.
    assert [*log.tail(after=start, site_id=NOWHERE, idle_timeout=0.05, poll=OFTEN)] == []


def test_a_tail_ends_when_it_is_told_to_from_elsewhere(log: EventStore, site: str) -> None:
    start = log.head()
    enough = threading.Event()
    given: list[int] = []

    def follow() -> None:
        given.extend(record.position for record in log.tail(after=start, stop=enough, poll=OFTEN))

    reading = threading.Thread(target=follow)
    reading.start()
    log.append(event(1, site))
    while not given and reading.is_alive():
        time.sleep(OFTEN)
    enough.set()
    reading.join(60)
    assert not reading.is_alive()
    assert given == [start + 1]
    assert [*log.tail(after=start, stop=lambda: True)] == []


def test_a_filtered_tail_waits_for_what_it_wants_while_other_events_come(log: EventStore, url: str, site: str) -> None:
    start = log.head()
    with EventStore.open(url, create=False) as other:
        tail = log.tail(after=start, site_id=site, coupon_id="c1", poll=OFTEN)
        wanted: list[RecordedEvent] = []
        for first in range(0, 120, 12):
            told = [event(first + number, (f"{site}-2", site)[number % 2]) for number in range(12)]
            list(other.append_many(told))
            wanted += islice(tail, 2)
        expected = [number for number in range(120) if number % 2 and number % 3 == 1]
        assert [record.event for record in wanted] == [event(number, site) for number in expected]


def test_many_tails_at_once_are_each_given_everything(log: EventStore, url: str, site: str) -> None:
    start = log.head()
    count = 400
    given: list[list[int]] = [[] for _ in range(6)]

    def follow(store: EventStore, number: int) -> None:
        tail = store.tail(after=start, poll=OFTEN, listen=number % 2 == 0)
        given[number].extend(record.position for record in islice(tail, count))

    with EventStore.open(url, create=False) as other:
        readers = [
            threading.Thread(target=follow, args=((log, other)[number % 2], number)) for number in range(len(given))
        ]
        for each in readers:
            each.start()
        for number in range(0, count, 4):
            list((log, other)[number % 8 // 4].append_many(event(number + index, site) for index in range(4)))
        for each in readers:
            each.join(120)
            assert not each.is_alive()
    assert given == [[*range(start + 1, start + count + 1)]] * len(given)
