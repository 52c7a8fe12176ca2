"""What was appended is given back exactly as it was, and nothing can change it."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from pydantic import ValidationError
from sqlalchemy import Executable, delete, insert, literal, select, update
from sqlalchemy.exc import DBAPIError

from eventstore.event import INT64_MAX, Account, Coupon, Discount, DiscountType, Event
from eventstore.log.leaf import leaf_hash, stored_hashes
from eventstore.log.records import OutcomeKind, Rejected, prepare
from eventstore.log.tables import event_keys, events, log_head, quarantine
from eventstore.log.types import to_micros
from eventstore.store import EventStore
from tests.conformance.events import contradiction, event

LARGEST_TEXT = 20_000
MEBIBYTE = 1024 * 1024

TEXTS = {
    "nothing": "",
    "a space": " ",
    "spaces around": "  Summer  ",
    "quotes": "'; DROP TABLE events; -- \" ` \\ \\' %s %(name)s :name ? $1 {}",
    "lines": "one\ntwo\r\nthree\ttabbed\x0bvertical",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "what sorts last": "\uffff\U0010ffff\ufeff",
    "hebrew": "קופון קיץ",
    "emoji": "🎁👩‍👩‍👧‍👦🇮🇱",
    "composed": "é",
    "decomposed": "e\u0301",
    "turkish": "İiıI",
    "line separators": "a\u2028b\u2029c\u0085d",
    "bidirectional": "\u202eabc\u202c",
    "json": '{"a": ["\\u0000", null]}',
    "what looks like a number": "007e1",
    "what looks like null": "NULL",
    "long": "ß" * LARGEST_TEXT,
}
ALIKE = (
    *("a", "A", "á", "a\u0301", "a ", " a", "a.", "а", "ａ", "ß", "ss", "1", "01", "1.0"),
    *("%", "_", "'", '"', "\\", "NULL", "null"),
)
"""Ids that a database might take for one another: by case, accents, width, padding or as numbers."""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_text_is_given_back_as_it_was(log: EventStore, site: str, text: str) -> None:
    told = event(
        1,
        site,
        coupon=Coupon(code=text, name=text, discount=Discount(type=DiscountType.UNKNOWN, raw_type=text)),
        body={"text": text, text: [text]},
    )
    position = log.append(told).position
    assert position is not None
    [record] = log.read(after=position - 1, limit=1)
    assert record.event == told
    assert record.payload.encode() == told.encode()[0]
    assert log.append(told).kind is OutcomeKind.DUPLICATE


def test_a_nul_in_a_text_is_refused_before_it_comes_to_the_log(site: str) -> None:
    for fields in (
        {"event_id": "a\x00b"},
        {"site_id": "a\x00"},
        {"coupon": {"code": "\x00", "discount": {"type": "UNKNOWN"}}},
    ):
        with pytest.raises(ValidationError):
            event(1, site, **fields)


def test_ids_are_told_apart_by_their_bytes(log: EventStore, site: str) -> None:
    told = [event(number, site, event_id=name, coupon_id=name) for number, name in enumerate(ALIKE)]
    assert {log.append(one).kind for one in told} == {OutcomeKind.APPENDED}
    for one in told:
        assert log.find(one.event_id, site_id=site).event == one
        assert [found.event for found in log.read(site_id=site, coupon_id=one.coupon_id)] == [one]


def test_sites_are_told_apart_by_their_bytes(log: EventStore, site: str) -> None:
    told = [event(1, f"{site} {name}") for name in ALIKE]
    assert {one.kind for one in log.submit([prepare(one) for one in told]).result()} == {OutcomeKind.APPENDED}
    for one in told:
        assert [found.event for found in log.read(site_id=one.site_id)] == [one]


def test_ids_of_every_length_up_to_the_longest_are_kept(log: EventStore, site: str) -> None:
    lengths = (1, 63, 64, 127, 128, 199, 200)
    told = [event(number, site, event_id="é" * number, coupon_id="\U0001f381" * number) for number in lengths]
    assert {one.kind for one in log.append_many(told)} == {OutcomeKind.APPENDED}
    assert [record.event for record in log.stream(site_id=site)] == told


EXTREMES = [
    {"sequence": INT64_MAX},
    {"sequence": -INT64_MAX},
    {"sequence": 0},
    {"sequence": None},
    {"event_time": datetime(1, 1, 1, tzinfo=UTC)},
    {"event_time": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
    {"event_time": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
    {"event_time": datetime(2026, 9, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))},
    {"coupon_id": None, "coupon": None},
    {"account": Account(account_id="a", site_id="s"), "changed": {"name": None, "x": [1.5, True, {}]}},
    {"coupon": Coupon(discount=Discount(type=DiscountType.MONEY_OFF, value=Decimal("999999999999.999999")))},
]


@pytest.mark.parametrize("fields", EXTREMES, ids=[str(number) for number in range(len(EXTREMES))])
def test_the_largest_the_smallest_and_the_absent_are_given_back_as_they_were(
    log: EventStore, site: str, fields: dict[str, object]
) -> None:
    told = event(1, site, **fields)
    assert log.append(told).kind is OutcomeKind.APPENDED
    [record] = log.read(site_id=site)
    assert record.event == told
    with log.engine.connect() as connection:
        row = connection.execute(select(events).where(events.c.position == record.position)).one()
    assert (row.event_time, row.sequence, row.coupon_id) == (told.event_time, told.sequence, told.coupon_id)


ORIGINALS = {
    "nothing": b"",
    "one byte": b"\x00",
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xc3(",
    "line ends": b'{"a":1}\r\n\n\r',
    "what does not compress": random.Random(7).randbytes(MEBIBYTE),
    "what compresses well": b"a" * (8 * MEBIBYTE),
}


@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
def test_the_bytes_that_were_delivered_are_given_back_exactly(log: EventStore, site: str, original: bytes) -> None:
    position = log.append(event(1, site), original=original).position
    assert position is not None
    assert log.original(position) == original
    kept = log.submit([Rejected(site, "rest", None, None, "unreadable", original)]).result()[0].quarantine_id
    assert kept is not None
    assert log.show_quarantined(kept).body == original


def test_an_event_without_original_bytes_has_none(log: EventStore, site: str) -> None:
    position = log.append(event(1, site)).position
    assert position is not None
    assert log.original(position) is None


def test_a_batch_of_large_events_is_kept_whole(log: EventStore, site: str) -> None:
    start = log.head()
    told = [event(number, site, body={"text": "x" * MEBIBYTE, "number": number}) for number in range(24)]
    assert [one.position for one in log.append_many(told)] == [*range(start + 1, start + 25)]
    assert [record.event for record in log.stream(after=start)] == told


def test_the_time_of_recording_never_runs_backwards_though_the_clock_does(
    log: EventStore, url: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.append(event(1, site)).position
    assert before is not None
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 0)
        log.append(event(2, site))
        with EventStore.open(url, create=False) as other:
            other.append(event(3, site))
    log.append(event(4, site))
    first, second, third, fourth = [record.recorded_at for record in log.read(after=before - 1)]
    assert first == second == third <= fourth
    assert first.tzinfo is not None
    assert datetime.now(UTC) - first < timedelta(days=1)


def test_every_leaf_hash_follows_from_the_stored_row(log: EventStore, site: str) -> None:
    start = log.head()
    log.append(event(1, site), original=b"as delivered")
    log.append(event(2, site, sequence=None, coupon_id=None, event_id="é" * 200))
    with log.engine.connect() as connection:
        rows = connection.execute(select(events).where(events.c.position > start).order_by(events.c.position)).all()
    assert len(rows) == 2
    for row, record in zip(rows, log.read(after=start), strict=True):
        expected = leaf_hash(
            row.site_id,
            row.event_id,
            row.type,
            row.source,
            row.entity_id,
            row.coupon_id,
            to_micros(row.event_time),
            to_micros(row.recorded_at),
            row.sequence,
            row.anonymize,
            stored_hashes(row.payload.encode(), row.original),
        )
        assert row.leaf_hash == record.leaf_hash == expected


# Nothing changes it


def attacks(position: int, evidence: int) -> dict[str, Executable]:
    """What a stranger might try with the row at a position, in statements that any database takes."""
    here = events.c.position == position
    again = select(*[column for column in events.c if column.name != "position"]).where(here).subquery()
    names = [column.name for column in events.c if column.name != "position"]

    def copied_to(at: int) -> Executable:
        return insert(events).from_select(["position", *names], select(literal(at), *again.c))

    return {
        "rewrite an event": update(events).where(here).values(payload="{}"),
        "rewrite all events": update(events).values(recorded_at=datetime(2020, 1, 1, tzinfo=UTC)),
        "move an event": update(events).where(here).values(position=position + 1_000_000),
        "delete an event": delete(events).where(here),
        "delete all events": delete(events),
        "insert past the head": copied_to(position + 1_000),
        "insert where one stands": copied_to(position),
        "insert before the first": copied_to(0),
        "forget an id": delete(event_keys).where(event_keys.c.position == position),
        "give an id to another": update(event_keys).where(event_keys.c.position == position).values(position=1),
        "set the head back": update(log_head).values(size=0),
        "delete the head": delete(log_head),
        "delete evidence": delete(quarantine).where(quarantine.c.id == evidence),
        "rewrite evidence": update(quarantine).where(quarantine.c.id == evidence).values(body=b"forged"),
    }


def contents(log: EventStore, site: str) -> list[object]:
    with log.engine.connect() as connection:
        return [
            connection.execute(select(events).where(events.c.site_id == site).order_by(events.c.position)).all(),
            connection.execute(select(event_keys).where(event_keys.c.site_id == site)).all(),
            connection.execute(select(quarantine).where(quarantine.c.site_id == site)).all(),
            connection.execute(select(log_head)).all(),
        ]


@pytest.mark.parametrize("attack", [*attacks(1, 1)])
def test_the_database_refuses_to_change_what_is_kept(log: EventStore, site: str, attack: str) -> None:
    position = log.append(event(1, site), original=b"as delivered").position
    evidence = log.append(contradiction(1, site)).quarantine_id
    assert position is not None
    assert evidence is not None
    before = contents(log, site)
    with pytest.raises(DBAPIError), log.engine.begin() as connection:
        connection.execute(attacks(position, evidence)[attack])
    assert contents(log, site) == before
    assert log.append(event(2, site)).position == position + 1


def test_an_event_is_what_was_told_first_whatever_was_told_afterwards(log: EventStore, site: str) -> None:
    first: Event = event(1, site)
    log.append(first, original=b"first")
    for later in (contradiction(1, site), event(1, site, originated_from="elsewhere")):
        log.append(later, original=b"later")
    found = log.find("e1", site_id=site)
    assert found.event == first
    assert log.original(found.position) == b"first"
