"""Answering reports to many at once: what is kept and for how long, who brings the lake up to date, and what fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

import analytics
from analytics.answering import CLOCK, QUESTIONS_AT_ONCE, Answering, Question
from analytics.kept import KeptAnswer
from eventstore.demo import month
from eventstore.errors import InputError, ReportError, StoreUnavailable
from eventstore.event import Coupon, Discount, DiscountType, Event
from eventstore.log.records import prepare
from eventstore.log.types import to_micros
from eventstore.store import EventStore
from tests.serving import PATIENCE

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
BEGIN = datetime(2026, 9, 1, 12, tzinfo=UTC)


@contextmanager
def clock(moment: datetime) -> Iterator[None]:
    """The machine's clock stands at this moment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: to_micros(moment) * 1000)
        yield


@pytest.fixture
def answering(store: EventStore) -> Iterator[Answering]:
    found = Answering(store.engine, catalogue=store.catalogue)
    yield found
    found.close()


def told(coupon: str, number: int, ends: datetime | None = None) -> Event:
    """The coupon is updated for the `number`th time."""
    return Event(
        event_id=f"{coupon}-{number}",
        type="coupon.created" if number == 1 else "coupon.updated",
        source="velo",
        site_id="shop",
        entity_id=coupon,
        coupon_id=coupon,
        event_time=BEGIN + timedelta(minutes=number),
        coupon=Coupon(
            code=f"{coupon.upper()}{number}",
            active=True,
            expiration_time=ends,
            discount=Discount(type=DiscountType.MONEY_OFF, raw_type="moneyOffAmount"),
        ),
    )


def asked(answering: Answering, name: str, **parameters: object) -> KeptAnswer:
    question = Question(name, parameters)
    return answering.look(question, answering.moment(question)) or answering.answer(question)


def column(answer: KeptAnswer, name: str) -> list[Any]:
    index = [each.name for each in answer.result.columns].index(name)
    return [row[index] for row in answer.result.rows]


def at_once(number: int, function: Callable[[int], None]) -> None:
    """Call it in so many threads; what it raises is raised here."""
    failed: list[BaseException] = []

    def call(which: int) -> None:
        try:
            function(which)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            failed.append(error)

    threads = [threading.Thread(target=call, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


# --- for how long an answer is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("report", analytics.reports(), ids=lambda report: report.name)
def test_a_report_looks_at_the_clock_only_where_nobody_says_what_time_it_is(report: analytics.Report) -> None:
    sql = re.sub(r"--[^\n]*", "", report.sql)
    looks = (
        r"(?i)\b(now|today|get_current_\w+|transaction_timestamp)\s*\(|\b(current_(date|time|timestamp)|localtime\w*)\b"
    )
    asks = f"coalesce(CAST(${CLOCK} AS TIMESTAMPTZ), now())"
    assert re.search(looks, sql.replace(asks, "")) is None
    has = [
        each for each in report.parameters if each.name == CLOCK and each.type == "timestamp" and each.default is None
    ]
    assert (asks in sql) == bool(has)


def test_a_report_that_looks_at_the_clock_is_answered_anew_each_minute(store: EventStore, answering: Answering) -> None:
    noon = datetime(2026, 9, 10, 12, tzinfo=UTC)
    store.append(told("ends", 1, ends=noon + timedelta(seconds=30)))
    store.append(told("lasts", 1, ends=noon + timedelta(days=1)))
    with clock(noon + timedelta(seconds=10)):
        first = asked(answering, "unused-and-expiring")
        assert column(first, "coupon_id") == ["ends", "lasts"]
        assert first.result.parameters[CLOCK] == noon
    with clock(noon + timedelta(seconds=59, microseconds=999_999)):
        assert asked(answering, "unused-and-expiring") is first
    with clock(noon + timedelta(minutes=1)):
        later = asked(answering, "unused-and-expiring")
        assert column(later, "coupon_id") == ["lasts"]
        assert later.version != first.version
        # Who says what time it is, is answered the same for ever.
        assert asked(answering, "unused-and-expiring", at=noon) is first


def test_an_answer_is_kept_until_the_log_moves(store: EventStore, answering: Answering) -> None:
    store.append(told("a", 1))
    first = asked(answering, "usage-per-coupon")
    assert asked(answering, "usage-per-coupon") is first
    store.append(told("b", 1))
    second = asked(answering, "usage-per-coupon")
    assert sorted(column(second, "coupon_id")) == ["a", "b"]
    assert (first.result.position, second.result.position) == (1, 2)
    assert answering.tallies()["usage-per-coupon"].computed == 2
    assert set(answering.tallies()) == {"usage-per-coupon"}


def test_a_dead_letter_that_is_skipped_changes_the_answers_though_the_log_stays(
    store: EventStore, answering: Answering
) -> None:
    poison = prepare(told("a", 2))._replace(payload=b'{"site_id": "shop", "secret": "Ada Lovelace')
    store.submit([prepare(told("a", 1)), poison, prepare(told("a", 3))]).result()
    store.project()
    before = asked(answering, "usage-per-coupon")
    assert column(before, "code") == ["A1"]
    for letter in store.dead_letters():
        store.skip_dead_letter(letter.id, "no event")
    after = asked(answering, "usage-per-coupon")
    assert column(after, "code") == ["A3"]
    assert before.result.position == after.result.position == 3
    assert asked(answering, "usage-per-coupon") is after


def test_other_values_and_other_sites_have_answers_of_their_own(store: EventStore, answering: Answering) -> None:
    store.append(told("a", 1))
    questions: list[dict[str, object]] = [{}, {"site": "shop"}, {"site": "other"}, {"since": "2026-09-01"}]
    found = [asked(answering, "usage-per-coupon", **each) for each in questions]
    assert len({each.version for each in found}) == len(found)
    assert [column(each, "coupon_id") for each in found] == [["a"], ["a"], [], ["a"]]


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_ask_at_once_and_the_lake_is_made_once(store: EventStore, answering: Answering) -> None:
    lines = [delivery.line() for delivery in month(events=400)]
    store.ingest(enumerate(lines, start=1), site="shop")
    names = ["usage-per-coupon", "usage-per-app", "redemptions", "findings"]
    found: dict[int, KeptAnswer] = {}

    def ask(which: int) -> None:
        found[which] = asked(answering, names[which % len(names)])

    at_once(12, ask)
    with analytics.connect(store.engine) as connection:
        for which, answer in found.items():
            assert answer.result.rows == analytics.run_report(connection, names[which % len(names)]).rows
    assert DeltaTable(f"{analytics.default_lake(store.engine)}/events").version() == 0
    tallies = answering.tallies()
    assert sum(each.computed + each.kept for each in tallies.values()) == 12
    assert all(each.computed <= QUESTIONS_AT_ONCE for each in tallies.values())


def test_whoever_asks_while_events_come_in_is_shown_what_there_was(store: EventStore, answering: Answering) -> None:
    def ask(_which: int) -> None:
        for _ in range(4):
            head = store.head()
            assert asked(answering, "usage-per-coupon").result.position >= head

    ended = threading.Event()

    def append() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            store.append(told("a", number))
            time.sleep(0.005)

    appending = threading.Thread(target=append)
    appending.start()
    try:
        at_once(4, ask)
    finally:
        ended.set()
        appending.join()
    assert asked(answering, "usage-per-coupon").result.position == store.head()


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_lake_that_cannot_be_written_is_told_to_who_asks_and_tried_again(store: EventStore, tmp_path: Path) -> None:
    store.append(told("a", 1))
    place = tmp_path / "lake"
    place.write_text("in the way")
    answering = Answering(store.engine, lake=place)
    for _ in range(2):
        with pytest.raises(InputError, match=r"lake .* cannot be written"):
            asked(answering, "usage-per-coupon")
    place.unlink()
    assert column(asked(answering, "usage-per-coupon"), "coupon_id") == ["a"]
    answering.close()


def test_what_is_asked_wrongly_is_known_before_anything_is_read(answering: Answering) -> None:
    with pytest.raises(ReportError, match="there is no report"):
        asked(answering, "usage")
    with pytest.raises(ReportError, match="takes a date"):
        asked(answering, "usage-per-coupon", since="soon")


def test_too_many_rows_are_refused_and_nothing_is_kept_of_them(store: EventStore) -> None:
    for number in range(1, 4):
        store.append(told(f"c{number}", 1))
    answering = Answering(store.engine, most_rows=2)
    with pytest.raises(
        InputError, match=r"report usage-per-coupon: the answer has more than 2 rows; ask for less by site"
    ):
        asked(answering, "usage-per-coupon")
    assert len(answering.kept) == 0
    assert asked(answering, "usage-per-coupon", site="nowhere").result.rows == ()
    answering.close()


def test_after_closing_nothing_is_answered(store: EventStore) -> None:
    answering = Answering(store.engine)
    asked(answering, "usage-per-coupon")
    answering.close()
    assert len(answering.kept) == 0
    with pytest.raises(StoreUnavailable, match="closed"):
        answering.answer(Question("usage-per-coupon", {}))
