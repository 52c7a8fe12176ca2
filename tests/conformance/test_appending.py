"""The answer for each event, and the position that it gets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from eventstore.event import Event, Source
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, prepare
from eventstore.store import EventStore
from tests.conformance.events import contradiction, event

HUGE = 10_000
"""Events handed over as one piece: five times what the writer puts into one transaction otherwise."""


def told(outcomes: list[Outcome], start: int) -> list[tuple[str, int | None]]:
    """Kinds and positions, counted from the head before."""
    return [(one.kind.value, None if one.position is None else one.position - start) for one in outcomes]


def test_events_get_the_positions_that_follow_the_head_in_the_order_of_their_appending(
    log: EventStore, site: str
) -> None:
    start = log.head()
    outcomes = [log.append(event(number, site)) for number in (7, 3, 5)]
    assert told(outcomes, start) == [("appended", 1), ("appended", 2), ("appended", 3)]
    assert [one.event_id for one in outcomes] == ["e7", "e3", "e5"]
    assert [one.quarantine_id for one in outcomes] == [None] * 3
    assert log.head() == start + 3
    assert [(one.position - start, one.event.event_id) for one in log.read(after=start)] == [
        (1, "e7"),
        (2, "e3"),
        (3, "e5"),
    ]


def test_an_event_told_again_is_a_duplicate_at_its_first_position_whenever_and_by_whomever(
    log: EventStore, url: str, site: str
) -> None:
    start = log.head()
    assert told([log.append(event(1, site)), log.append(event(2, site))], start) == [("appended", 1), ("appended", 2)]
    by_another_route = event(1, site, source=Source.VELO, sequence=None)
    assert told([log.append(event(1, site)), log.append(by_another_route)], start) == [("duplicate", 1)] * 2
    with EventStore.open(url, create=False) as other:
        assert told([other.append(event(2, site))], start) == [("duplicate", 2)]
    assert log.head() == start + 2


def test_an_id_used_for_another_event_is_a_conflict_that_takes_no_position_and_is_kept(
    log: EventStore, site: str
) -> None:
    start = log.head()
    log.append(event(1, site))
    outcome = log.append(contradiction(1, site), original=b'{"as": "delivered"}')
    assert told([outcome], start) == [("conflict", 1)]
    assert outcome.quarantine_id is not None
    kept = log.show_quarantined(outcome.quarantine_id)
    assert kept.body == b'{"as": "delivered"}'
    assert log.append(event(2, site)).position == start + 2
    assert log.find("e1", site_id=site).event == event(1, site)


def test_the_same_id_with_another_sequence_is_a_conflict_and_with_none_a_duplicate(log: EventStore, site: str) -> None:
    assert log.append(event(1, site)).kind is OutcomeKind.APPENDED
    assert log.append(event(1, site, sequence=None)).kind is OutcomeKind.DUPLICATE
    assert log.append(event(1, site, sequence=99)).kind is OutcomeKind.CONFLICT


def test_one_event_id_in_two_sites_is_two_events(log: EventStore, site: str) -> None:
    start = log.head()
    outcomes = [log.append(event(1, of)) for of in (site, f"{site}-2", site)]
    assert told(outcomes, start) == [("appended", 1), ("appended", 2), ("duplicate", 1)]


def test_each_entry_of_a_batch_gets_its_own_outcome_in_order(log: EventStore, site: str) -> None:
    start = log.head()
    log.append(event(1, site))
    entries: list[Prepared | Rejected] = [
        prepare(event(2, site)),
        prepare(event(1, site)),
        prepare(contradiction(1, site)),
        prepare(event(2, site)),
        prepare(contradiction(2, site)),
        Rejected(site, "rest", None, None, "no entity", b"{}"),
        prepare(event(3, site)),
        prepare(event(1, f"{site}-2")),
        prepare(event(3, site, source=Source.VELO, sequence=None)),
    ]
    assert told(log.submit(entries).result(), start) == [
        ("appended", 2),
        ("duplicate", 1),
        ("conflict", 1),
        ("duplicate", 2),
        ("conflict", 2),
        ("quarantined", None),
        ("appended", 3),
        ("appended", 4),
        ("duplicate", 3),
    ]
    assert log.head() == start + 4
    kinds = [entry.kind for entry in log.list_quarantined(site_id=site)]
    assert sorted(kinds) == ["conflict", "conflict", "quarantined"]


def test_evidence_told_again_and_again_is_kept_once(log: EventStore, site: str) -> None:
    log.append(event(1, site))
    unreadable = Rejected(site, "rest", None, None, "no entity", b"\x00\xff{")
    conflicts = {log.append(contradiction(1, site)).quarantine_id for _ in range(3)}
    rejections = {log.submit([unreadable, unreadable]).result()[at].quarantine_id for at in (0, 1)}
    assert len(conflicts) == len(rejections) == 1
    assert not conflicts & rejections
    [rejection] = rejections
    assert rejection is not None
    assert log.show_quarantined(rejection).body == b"\x00\xff{"
    assert len(log.list_quarantined(site_id=site)) == 2


def test_nothing_is_appended_by_a_batch_of_what_is_known_already(log: EventStore, site: str) -> None:
    assert log.submit([]).result() == []
    assert list(log.append_many([])) == []
    log.append(event(1, site))
    start = log.head()
    entries: list[Prepared | Rejected] = [
        prepare(event(1, site)),
        Rejected(site, "rest", None, None, "no entity", b"{}"),
    ]
    assert told(log.submit(entries).result(), start) == [("duplicate", 0), ("quarantined", None)]
    assert log.head() == start


def test_a_huge_batch_is_appended_in_its_order_and_told_again_adds_nothing(log: EventStore, site: str) -> None:
    start = log.head()
    entries: list[Prepared | Rejected] = [prepare(event(number, site)) for number in range(1, HUGE + 1)]
    expected = range(start + 1, start + HUGE + 1)
    assert [one.position for one in log.submit(entries).result()] == [*expected]
    again = log.submit([*reversed(entries)]).result()
    assert {one.kind for one in again} == {OutcomeKind.DUPLICATE}
    assert [one.position for one in again] == [*reversed(expected)]
    assert log.head() == start + HUGE
    assert [one.event.sequence for one in log.stream(after=start)] == [*range(1, HUGE + 1)]


def test_a_stream_of_events_gets_one_outcome_each_in_order(log: EventStore, site: str) -> None:
    start = log.head()
    # Every third is told twice.
    numbers = [number for index in range(3_000) for number in ([index] if index % 3 else [index, index])]
    outcomes = list(log.append_many(event(number, site) for number in numbers))
    assert [one.event_id for one in outcomes] == [f"e{number}" for number in numbers]
    first: dict[int, int] = {}
    for number, outcome in zip(numbers, outcomes, strict=True):
        new = number not in first
        at = first.setdefault(number, start + len(first) + 1)
        assert outcome[:3] == (OutcomeKind.APPENDED if new else OutcomeKind.DUPLICATE, f"e{number}", at)
    assert log.head() == start + 3_000


def test_many_callers_at_once_are_each_told_the_truth(log: EventStore, site: str) -> None:
    start = log.head()
    callers, each = 32, 8
    barrier = threading.Barrier(callers)

    def call(caller: int) -> list[tuple[Event, Outcome]]:
        barrier.wait()
        # Every event is told by two callers, so that each is new to one of them and known to the other.
        mine = [event((caller // 2) * each + number, site) for number in range(each)]
        return [(one, log.append(one)) for one in mine]

    with ThreadPoolExecutor(callers) as pool:
        answers = [answer for found in pool.map(call, range(callers)) for answer in found]
    recorded = {record.position: record.event for record in log.stream(after=start)}
    assert [*recorded] == [*range(start + 1, start + callers // 2 * each + 1)]
    for one, outcome in answers:
        assert outcome.position is not None
        assert recorded[outcome.position] == one
    kinds = [outcome.kind for _, outcome in answers]
    assert kinds.count(OutcomeKind.APPENDED) == kinds.count(OutcomeKind.DUPLICATE) == len(recorded)


def test_one_caller_s_events_stand_in_the_order_in_which_they_were_answered(log: EventStore, site: str) -> None:
    def call(caller: int) -> list[int]:
        return [log.append(event(caller * 100 + number, site)).position or 0 for number in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for positions in pool.map(call, range(4)):
            assert all(before < after for before, after in pairwise(positions))
