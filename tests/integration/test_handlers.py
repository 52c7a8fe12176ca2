"""Handlers on a store: order, retries, parking, pauses, limits, transactions, replays."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import text

from eventstore.errors import InputError, NotFound, StoreUnavailable
from eventstore.handlers import CouponEvent, Handlers, TryLater
from eventstore.handlers.gate import FAILING_SUBJECTS
from eventstore.handlers.session import Limits
from eventstore.store import EventStore
from tests.handling import (
    NOTE,
    QUICK,
    Seen,
    book,
    caught_up,
    fill,
    in_order,
    make_book,
    run_once,
    running,
    told,
    until,
)


def noting(seen: Seen, handlers: Handlers, *types: str, **options: Any) -> None:
    """Add a handler that only notes what it is given."""

    def note(event: CouponEvent) -> None:
        seen.add(event.position, str(event.coupon_id))

    handlers.add(note, *(types or ("*",)), **{"name": "note", **options})


def test_every_event_is_handled_once_and_each_coupon_s_in_order(store: EventStore) -> None:
    fill(store, 3_000, coupons=40)
    seen, handlers = Seen(), Handlers()
    noting(seen, handlers)
    assert run_once(store, handlers)
    assert seen.positions == list(range(1, 3_001))
    assert in_order(seen.events)
    [status] = store.handlers.status()
    assert (status.position, status.behind, status.handled, status.parked) == (3_000, 0, 3_000, 0)
    assert run_once(store, handlers)
    assert len(seen.events) == 3_000


def test_async_handlers_are_called_at_once_and_each_coupon_s_in_order(store: EventStore) -> None:
    fill(store, 600, coupons=60)
    seen, handlers = Seen(), Handlers()
    busy, most = 0, 0

    @handlers.on("*")
    async def note(event: CouponEvent) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.002)
        seen.add(event.position, str(event.coupon_id))
        busy -= 1

    assert run_once(store, handlers)
    assert seen.positions == list(range(1, 601))
    assert in_order(seen.events)
    assert most > 10


def test_of_different_coupons_several_are_handled_at_once(store: EventStore) -> None:
    fill(store, 16, coupons=16)
    meeting = threading.Barrier(4)
    handlers = Handlers()

    @handlers.on("*")
    def meet(event: CouponEvent) -> None:
        meeting.wait(30)

    assert run_once(store, handlers)


def test_what_is_appended_while_it_runs_is_handled_at_once(store: EventStore) -> None:
    seen, handlers = Seen(), Handlers()
    noting(seen, handlers, "coupon.updated")
    with running(store, handlers):
        for number in range(1, 31):
            store.append(told(number, f"c{number % 3}", "coupon.deleted" if number % 10 == 0 else "coupon.updated"))
        until(lambda: len(seen.events) == 27 and caught_up(store))
    assert seen.positions == [number for number in range(1, 31) if number % 10]


def test_a_handler_that_was_never_run_begins_where_it_is_told_and_later_where_it_was(store: EventStore) -> None:
    fill(store, 10, coupons=3)
    for begin, expected in (("now", []), ("4", [4, 5, 6, 7, 8, 9, 10]), ("beginning", list(range(1, 11)))):
        seen, handlers = Seen(), Handlers()
        noting(seen, handlers)
        assert run_once(store, handlers, name=f"from-{begin}", begin=begin)
        assert seen.positions == expected
    moment = store.read(after=6, limit=1)[0].recorded_at
    first = next(each.position for each in store.read(limit=10) if each.recorded_at >= moment)
    seen, handlers = Seen(), Handlers()
    noting(seen, handlers)
    assert run_once(store, handlers, name="from-time", begin=moment.isoformat())
    assert seen.positions == list(range(first, 11))
    store.append(told(11, "c1"))
    for name in ("from-now", "from-4"):
        seen, handlers = Seen(), Handlers()
        noting(seen, handlers)
        assert run_once(store, handlers, name=name, begin="beginning")
        assert seen.positions == [11]


@pytest.mark.parametrize("begin", ["", "0", "yesterday", "-1", "1.5", "9" * 25])
def test_a_place_that_is_none_is_refused(store: EventStore, begin: str) -> None:
    handlers = Handlers()
    noting(Seen(), handlers)
    with pytest.raises(InputError, match=r"position|place"):
        run_once(store, handlers, begin=begin)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 51, "ü"])
def test_a_set_s_name_is_plain(store: EventStore, name: str) -> None:
    handlers = Handlers()
    noting(Seen(), handlers)
    with pytest.raises(InputError, match="cannot name a set"):
        run_once(store, handlers, name=name)


def test_one_coupon_that_always_fails_holds_up_nothing_else_and_is_replayed_in_order(store: EventStore) -> None:
    events, coupons, bad = 10_000, 100, "c7"
    fill(store, events, coupons=coupons)
    seen, handlers = Seen(), Handlers()
    mended = threading.Event()

    @handlers.on("*")
    def strict(event: CouponEvent) -> None:
        if event.coupon_id == bad and not mended.is_set():
            raise ValueError(f"no {event.coupon_id} here")
        seen.add(event.position, str(event.coupon_id))

    noting(other := Seen(), handlers)
    with running(store, handlers):
        until(lambda: caught_up(store))
        until(lambda: store.handlers.status()[1].waiting_for_people == 1)
        assert other.positions == list(range(1, events + 1))
        assert {coupon for _, coupon in seen.events} == {f"c{number}" for number in range(coupons)} - {bad}
        assert len(seen.events) == events - events // coupons
        [letter] = store.handlers.dead_letters()
        assert (letter.handler, letter.subject_id, letter.position, letter.attempts) == ("strict", bad, 7, 4)
        assert letter.reason.startswith("ValueError: no c7 here (test_handlers.py, line ")
        mended.set()
        assert store.handlers.retry([letter.id]) == 1
        until(lambda: not store.handlers.dead_letters())
        store.append(told(events + 1, bad))
        until(lambda: len(seen.events) == events + 1)
    assert in_order(seen.events)
    assert seen.positions == list(range(1, events + 2))
    assert store.handlers.dead_letter(letter.id).resolution == "handled"


def test_a_failure_is_tried_again_by_itself_and_counts_its_attempts(store: EventStore) -> None:
    fill(store, 3, coupons=1)
    tried, handlers = [], Handlers()

    @handlers.on("*")
    def third_time(event: CouponEvent) -> None:
        tried.append((event.position, event.attempt, event.idempotency_key))
        if event.position == 1 and event.attempt < 3:
            raise OSError("away")

    with running(store, handlers):
        until(lambda: len(tried) == 5)
        until(lambda: not store.handlers.dead_letters())
    key = "shop/third_time/shop/e"
    assert tried == [(1, 1, f"{key}1"), (1, 2, f"{key}1"), (1, 3, f"{key}1"), (2, 1, f"{key}2"), (3, 1, f"{key}3")]


def test_one_that_asks_to_try_later_pauses_whole_and_loses_no_attempt(store: EventStore) -> None:
    fill(store, 50, coupons=25)
    away = threading.Event()
    away.set()
    seen, asked, handlers = Seen(), [], Handlers()

    @handlers.on("*")
    def outside(event: CouponEvent) -> None:
        if away.is_set():
            asked.append(event.attempt)
            raise TryLater("the post is closed", seconds=0.05)
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: len(asked) >= 12)
        until(lambda: store.handlers.status()[0].paused == "the post is closed")
        assert set(asked) == {1}
        assert not store.handlers.dead_letters()
        away.clear()
        until(lambda: len(seen.events) == 50)
        until(lambda: store.handlers.status()[0].paused is None)
    assert in_order(seen.events)


def test_once_says_that_a_handler_rests(store: EventStore) -> None:
    fill(store, 2, coupons=1)
    handlers = Handlers()

    @handlers.on("*")
    def outside(event: CouponEvent) -> None:
        raise TryLater("closed", seconds=600)

    assert not run_once(store, handlers)
    assert store.handlers.status()[0].behind == 2


def test_a_handler_that_fails_for_every_coupon_rests_and_does_not_park_them_all(store: EventStore) -> None:
    fill(store, 2_000, coupons=1_000)
    mended = threading.Event()
    seen, handlers = Seen(), Handlers()

    @handlers.on("*")
    def broken(event: CouponEvent) -> None:
        if not mended.is_set():
            raise NameError("name 'prnit' is not defined")
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: store.handlers.status()[0].paused is not None)
        parked = store.handlers.status()[0].parked
        assert FAILING_SUBJECTS <= parked < FAILING_SUBJECTS + 40
        assert "coupons in a row failed" in (store.handlers.status()[0].paused or "")
        mended.set()
        until(lambda: caught_up(store))
        store.handlers.retry()
        until(lambda: not store.handlers.dead_letters())
    assert seen.positions == list(range(1, 2_001))
    assert in_order(seen.events)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_that_takes_too_long_is_parked_and_the_others_go_on(store: EventStore, kind: str) -> None:
    fill(store, 40, coupons=10)
    released = threading.Event()
    seen, handlers = Seen(), Handlers()

    if kind == "plain":

        @handlers.on("*", name="slow", time_limit=0.2, attempts=1)
        def slow(event: CouponEvent) -> None:
            if event.coupon_id == "c3" and not released.is_set():
                released.wait(30)
                return
            seen.add(event.position, str(event.coupon_id))
    else:

        @handlers.on("*", name="slow", time_limit=0.2, attempts=1)
        async def slow_async(event: CouponEvent) -> None:
            if event.coupon_id == "c3" and not released.is_set():
                await asyncio.sleep(30)
            seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: len(seen.events) == 36 and store.handlers.status()[0].waiting_for_people == 1)
        [letter] = store.handlers.dead_letters()
        assert letter.subject_id == "c3"
        assert "longer than 0.2 s" in letter.reason
        released.set()
        store.handlers.retry()
        until(lambda: len(seen.events) == 40)
    assert in_order(seen.events)


def test_what_a_handler_writes_is_kept_with_the_record_that_it_did_or_not_at_all(store: EventStore) -> None:
    make_book(store)
    fill(store, 60, coupons=6)
    tries: Counter[int] = Counter()
    handlers = Handlers()

    @handlers.on("*")
    def write(event: CouponEvent) -> None:
        event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})
        tries[event.position] += 1
        if event.position % 20 == 0 and tries[event.position] < 3:
            raise ValueError("not yet")

    with running(store, handlers):
        until(lambda: caught_up(store) and not store.handlers.dead_letters())
    assert sorted(position for position, _ in book(store)) == list(range(1, 61))
    assert in_order(book(store))
    assert {position for position, times in tries.items() if times == 3} == {20, 40, 60}


def test_an_async_handler_can_write_through_its_transaction(store: EventStore) -> None:
    make_book(store)
    fill(store, 30, coupons=6)
    handlers = Handlers()

    @handlers.on("*")
    async def write(event: CouponEvent) -> None:
        event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})

    assert run_once(store, handlers)
    assert sorted(position for position, _ in book(store)) == list(range(1, 31))


def test_a_skipped_event_is_left_out_for_good_and_those_behind_it_follow(store: EventStore) -> None:
    fill(store, 9, coupons=3)
    seen, handlers = Seen(), Handlers()

    @handlers.on("*", attempts=1)
    def strict(event: CouponEvent) -> None:
        if event.position == 4:
            raise ValueError("never")
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: store.handlers.status() != [] and store.handlers.status()[0].waiting_for_people == 1)
        [letter] = store.handlers.dead_letters()
        with pytest.raises(InputError, match="say why"):
            store.handlers.skip(letter.id, " ")
        store.handlers.skip(letter.id, "a test order")
        until(lambda: not store.handlers.dead_letters())
    assert seen.positions == [1, 2, 3, 5, 6, 7, 8, 9]
    done = store.handlers.dead_letter(letter.id)
    assert (done.resolution, done.note) == ("skipped", "a test order")
    with pytest.raises(InputError, match="was skipped already"):
        store.handlers.retry([letter.id])
    with pytest.raises(NotFound):
        store.handlers.dead_letter(letter.id + 1)


def test_a_replay_gives_the_log_again_under_the_same_keys_while_it_runs(store: EventStore) -> None:
    fill(store, 20, coupons=4)
    given, handlers = [], Handlers()

    @handlers.on("*")
    def note(event: CouponEvent) -> None:
        given.append((event.position, event.idempotency_key))

    with running(store, handlers):
        until(lambda: caught_up(store) and len(given) == 20)
        [done] = store.handlers.replay("shop", begin="11")
        assert (done.handler, done.position, done.before, done.closed) == ("note", 10, 20, 0)
        until(lambda: len(given) == 30 and caught_up(store))
    assert Counter(given) == Counter({each: 1 + (each[0] > 10) for each in given})
    with pytest.raises(NotFound, match="handlers status"):
        store.handlers.replay("nobody", begin="beginning")


def test_a_replay_of_one_that_writes_through_its_transaction_writes_anew(store: EventStore) -> None:
    make_book(store)
    fill(store, 10, coupons=2)
    handlers = Handlers()

    @handlers.on("*")
    def write(event: CouponEvent) -> None:
        event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})

    assert run_once(store, handlers)
    store.handlers.replay("shop", begin="beginning", handler="write")
    assert run_once(store, handlers)
    assert sorted(position for position, _ in book(store)) == sorted([*range(1, 11), *range(1, 11)])


def test_two_runners_of_one_name_never_work_at_once_and_the_other_takes_over(store: EventStore) -> None:
    seen, handlers = Seen(), Handlers()
    noting(seen, handlers)
    fill(store, 5, coupons=2)
    with running(store, handlers) as first:
        until(lambda: first.leads)
        with running(store, handlers) as second:
            with pytest.raises(StoreUnavailable, match="another process runs"):
                run_once(store, handlers)
            fill(store, 5, coupons=2, first=6)
            until(lambda: caught_up(store))
            assert not second.leads
            first.stop()
            fill(store, 5, coupons=2, first=11)
            until(lambda: second.leads and caught_up(store))
    assert seen.positions == list(range(1, 16))


def test_sets_of_other_names_and_other_handlers_know_nothing_of_each_other(store: EventStore) -> None:
    fill(store, 4, coupons=2)
    for name in ("one", "two"):
        seen, handlers = Seen(), Handlers()
        noting(seen, handlers)
        assert run_once(store, handlers, name=name)
        assert seen.positions == [1, 2, 3, 4]
    later, handlers = Seen(), Handlers()
    noting(Seen(), handlers)
    noting(later, handlers, name="later")
    assert run_once(store, handlers, name="two")
    assert later.positions == [1, 2, 3, 4]
    assert [(each.name, each.handler) for each in store.handlers.status()] == [
        ("one", "note"),
        ("two", "later"),
        ("two", "note"),
    ]
    assert [each.handler for each in store.handlers.status("one")] == ["note"]


def test_a_preview_calls_nothing_and_writes_nothing(store: EventStore) -> None:
    fill(store, 30, coupons=3)
    handlers = Handlers()

    @handlers.on("*", coupon="c1")
    def never(event: CouponEvent) -> None:
        raise AssertionError("called")

    [found] = store.handlers.preview(list(handlers), begin="10")
    assert (found.handler, found.begin, found.events, found.first, found.last) == ("never", 9, 7, 10, 28)
    assert store.handlers.status() == []


def test_a_handler_that_ends_the_program_only_fails(store: EventStore) -> None:
    fill(store, 2, coupons=2)
    handlers = Handlers()

    @handlers.on("*", attempts=1)
    def leave(event: CouponEvent) -> None:
        if event.position == 1:
            raise SystemExit(3)

    assert run_once(store, handlers)
    [letter] = store.handlers.dead_letters()
    assert letter.reason.startswith("the handler ended the program (SystemExit)")


def test_a_plain_handler_that_gives_something_to_await_fails(store: EventStore) -> None:
    fill(store, 1, coupons=1)

    async def later(event: CouponEvent) -> None:
        seen.append(event)

    seen: list[CouponEvent] = []
    handlers = Handlers()
    pending: list[Any] = []

    @handlers.on("*", attempts=1)
    def forgot(event: CouponEvent) -> Any:
        pending.append(later(event))
        return pending[-1]

    assert run_once(store, handlers)
    [letter] = store.handlers.dead_letters()
    assert "async def" in letter.reason
    pending[0].close()


def test_calls_that_never_end_end_the_runner_rather_than_pile_up(store: EventStore) -> None:
    fill(store, 60, coupons=60)
    released = threading.Event()
    handlers = Handlers()

    @handlers.on("*", time_limit=0.05, attempts=1)
    def stuck(event: CouponEvent) -> None:
        released.wait(30)

    try:
        with running(store, handlers, limits=Limits(workers=8, rules=QUICK.rules)) as runner:
            until(lambda: "never end" in (runner.last_error or ""))
    finally:
        released.set()


def test_a_handler_may_ask_the_store_that_it_runs_on(store: EventStore) -> None:
    fill(store, 12, coupons=3)
    counts, handlers = [], Handlers()

    @handlers.on("*")
    def count(event: CouponEvent) -> None:
        earlier = event.transaction.execute(
            text("SELECT count(*) FROM events WHERE coupon_id = :coupon AND position < :position"),
            {"coupon": event.coupon_id, "position": event.position},
        ).scalar_one()
        counts.append((event.position, earlier))

    assert run_once(store, handlers)
    assert sorted(counts) == [(position, (position - 1) // 3) for position in range(1, 13)]


def test_a_runner_told_to_stop_lets_calls_under_way_end(store: EventStore) -> None:
    fill(store, 4, coupons=4)
    entered, seen, handlers = threading.Event(), Seen(), Handlers()

    @handlers.on("*")
    def slow(event: CouponEvent) -> None:
        entered.set()
        time.sleep(0.3)
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers) as runner:
        entered.wait(30)
        runner.stop()
        found = len(seen.events)
        assert found == store.handlers.status()[0].handled > 0
