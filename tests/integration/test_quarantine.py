"""Quarantine as people work with it: listing, showing and marking as dealt with."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventstore.errors import InputError, NotFound
from eventstore.event import Event, Source
from eventstore.quarantine import Difference, Entry
from eventstore.store import EventStore
from tests.quarantined import (
    HEADERS,
    conflict,
    encoded,
    keep,
    listed,
    retry,
    unreadable,
)
from tests.serving import (
    CREATED,
    created,
)

# Listing


def test_open_entries_are_listed_oldest_first_and_a_page_at_a_time(store: EventStore) -> None:
    kept = [keep(store, unreadable(number)) for number in range(5)]
    store.resolve_quarantined([kept[1]], "not ours")
    pages = [store.list_quarantined(limit=2)]
    while pages[-1]:
        pages.append(store.list_quarantined(after=pages[-1][-1].id, limit=2))
    assert [[entry.id for entry in page] for page in pages] == [[kept[0], kept[2]], [kept[3], kept[4]], []]
    assert [entry.id for entry in store.list_quarantined(resolved=True)] == kept


def test_a_listed_entry_says_what_is_known_of_the_delivery(store: EventStore) -> None:
    before = datetime.now(UTC)
    number = keep(store, unreadable())
    [entry] = store.list_quarantined()
    assert before - timedelta(seconds=1) < entry.received_at < datetime.now(UTC) + timedelta(seconds=1)
    assert entry == Entry(
        number,
        "quarantined",
        "shop",
        "velo",
        CREATED,
        None,
        None,
        "an older reader could not read it",
        len(unreadable()),
        entry.received_at,
        None,
        None,
    )


def test_the_list_is_of_one_kind_or_site_if_asked(store: EventStore) -> None:
    elsewhere = keep(store, unreadable(1), site="other shop")
    contradiction = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    assert [entry.id for entry in store.list_quarantined(kind="conflict")] == [contradiction]
    assert [entry.id for entry in store.list_quarantined(site_id="other shop")] == [elsewhere]
    assert store.list_quarantined(kind="conflict", site_id="other shop") == []
    with pytest.raises(InputError, match="kinds are conflict, quarantined"):
        store.list_quarantined(kind="unread")


# Showing


def test_an_entry_is_shown_with_its_exact_bytes_and_headers(store: EventStore) -> None:
    body = b'\xef\xbb\xbf {"spelt":   "as it was" }\r\n'
    shown = store.show_quarantined(keep(store, body))
    assert (shown.body, shown.size, shown.headers, shown.contradiction) == (body, len(body), HEADERS, None)


@pytest.mark.parametrize("number", [7, 0, -1, 2**63, 2**200])
def test_an_entry_that_is_not_there_is_not_found(store: EventStore, number: int) -> None:
    with pytest.raises(NotFound, match=f"no entry {number} in quarantine"):
        store.show_quarantined(number)
    with pytest.raises(NotFound):
        store.retry_quarantined([number])
    with pytest.raises(NotFound):
        store.resolve_quarantined([number], "dealt with")


def test_a_conflict_is_shown_beside_what_stands_in_the_log(store: EventStore) -> None:
    number = conflict(store, created("e-1"), created("e-1", code="OTHER", percentOffRate=15, name="Summer"))
    against = store.show_quarantined(number).contradiction
    assert against is not None
    assert (against.position, against.problem) == (1, None)
    assert against.differences == (
        Difference("coupon.code", "SPRING", "OTHER"),
        Difference("coupon.discount.value", "10", "15"),
        Difference("coupon.name", None, "Summer"),
    )


def test_a_conflict_of_two_sequences_shows_them(store: EventStore) -> None:
    first = Event(
        event_id="e-1",
        type="coupon.updated",
        entity_id="c-1",
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        source=Source.REST,
        site_id="shop",
        sequence=1,
    )
    store.append(first)
    outcome = store.append(first.model_copy(update={"sequence": 2}))
    assert outcome.quarantine_id is not None
    against = store.show_quarantined(outcome.quarantine_id).contradiction
    assert against is not None
    assert against.differences == (Difference("sequence", 1, 2),)


# Resolving


def test_a_person_resolves_entries_with_a_note(store: EventStore) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    store.resolve_quarantined([second, first, second], "Sent again by hand – 通知済み")
    found = listed(store)
    assert {found[number].resolution for number in (first, second)} == {"Sent again by hand – 通知済み"}
    assert store.list_quarantined() == []
    assert store.status().quarantined == 0


def test_a_resolved_entry_is_not_resolved_again_and_the_error_says_when_and_how_it_was(store: EventStore) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    store.resolve_quarantined([second], "not ours")
    before = listed(store)
    assert before[second].resolved_at is not None
    when = f"{before[second].resolved_at:%Y-%m-%d %H:%M:%S} UTC"
    with pytest.raises(InputError, match=f"entry {second} was resolved at {when}: not ours"):
        store.resolve_quarantined([first, second], "dealt with")
    assert listed(store) == before


@pytest.mark.parametrize("note", ["", "   ", "x" * 501, "two\nlines", "bell\a", "\x9b2J", "half \ud800", "a\u2028b"])
def test_a_note_is_one_line_of_text(store: EventStore, note: str) -> None:
    number = keep(store, unreadable())
    with pytest.raises(InputError, match="a note"):
        store.resolve_quarantined([number], note)
    assert [entry.id for entry in store.list_quarantined()] == [number]


def test_of_many_who_resolve_an_entry_at_once_one_does(store: EventStore) -> None:
    number = keep(store, unreadable())
    barrier = threading.Barrier(5)

    def call(person: int) -> bool:
        barrier.wait()
        try:
            store.resolve_quarantined([number], f"by {person}")
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(call, range(5))).count(True) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM quarantine",
        "UPDATE quarantine SET reason = 'none', resolution = 'none'",
        "UPDATE quarantine SET event_id = 'forged' WHERE resolved_at IS NOT NULL",
    ],
)
def test_an_entry_stays_what_it_was_however_it_was_resolved(store: EventStore, statement: str) -> None:
    retry(store, keep(store, encoded(created("e-1"))))
    store.resolve_quarantined([keep(store, unreadable())], "not ours")
    before = listed(store)
    with store.engine.connect() as connection, pytest.raises(DBAPIError, match="quarantine"):
        connection.execute(text(statement))
    assert listed(store) == before
