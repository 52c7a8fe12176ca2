"""Handlers that hang, hold on to their transaction, or raise what cannot be told: the runner, and the store, go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventstore.errors import EventStoreError
from eventstore.handlers import CouponEvent, Handlers, TryLater
from eventstore.handlers import pool as pools
from eventstore.handlers.calls import Call, Mine
from eventstore.handlers.feed import Fed
from eventstore.handlers.pool import Pool
from eventstore.handlers.positions import Holder
from eventstore.handlers.session import Limits
from eventstore.store import EventStore
from tests.handling import NOTE, QUICK, Seen, book, caught_up, fill, make_book, run_once, running, told, until


def note_in_the_store(event: CouponEvent) -> None:
    event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})


def hanging_threads(name: str) -> int:
    return sum(each.name == name for each in threading.enumerate())


class Rude(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Careless(TryLater):
    """One whose own `__init__` forgets the base's."""

    def __init__(self) -> None:
        Exception.__init__(self, "later")


# What handlers raise


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b", id="nul"),
        pytest.param(ValueError("file \udcff.txt"), "ValueError: file ?.txt", id="surrogate"),
        pytest.param(Rude(), "Rude: its text cannot be made (RuntimeError)", id="rude"),
        pytest.param(ValueError("x" * 5_000), "ValueError: xxx", id="long"),
    ],
)
def test_whatever_a_handler_raises_its_event_is_parked_with_a_reason(
    store: EventStore, error: Exception, expected: str
) -> None:
    fill(store, 2, coupons=2)
    handlers = Handlers()

    @handlers.on("*", attempts=1)
    def raising(event: CouponEvent) -> None:
        raise error

    assert run_once(store, handlers)
    assert [letter.reason.startswith(expected) for letter in store.handlers.dead_letters()] == [True, True]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(TryLater("x\0y \udcff"), "x\N{REPLACEMENT CHARACTER}y ?", id="unstorable"),
        pytest.param(TryLater("in ages", seconds=1e300), "in ages", id="in-ages"),
        pytest.param(Careless(), "later", id="careless"),
    ],
)
def test_whatever_it_says_as_it_asks_to_try_later_the_handler_rests(
    store: EventStore, error: TryLater, reason: str
) -> None:
    fill(store, 1, coupons=1)
    handlers = Handlers()

    @handlers.on("*")
    def closed(event: CouponEvent) -> None:
        raise error

    assert not run_once(store, handlers)
    assert store.handlers.status()[0].paused == reason


def test_one_that_asks_to_try_a_parked_event_in_ages_is_put_off_no_longer_than_can_be_stored(store: EventStore) -> None:
    fill(store, 1, coupons=1)
    calls, handlers = [], Handlers()

    @handlers.on("*")
    def closed(event: CouponEvent) -> None:
        calls.append(event.attempt)
        raise ValueError("no") if len(calls) == 1 else TryLater("in ages", seconds=1e15)

    with running(store, handlers):
        until(lambda: len(calls) == 2)
        hence = datetime.now(UTC) + timedelta(hours=1)
        until(lambda: (at := store.handlers.dead_letters()[0].retry_at) is not None and at > hence)


def test_an_event_that_cannot_be_made_for_a_handler_is_that_event_s_failure(store: EventStore) -> None:
    handlers = Handlers()

    @handlers.on("*")
    def never(event: CouponEvent) -> None:
        raise AssertionError("called")

    [handler] = list(handlers)
    broken: Any = Fed("coupon.updated", (), "e1", None)  # type: ignore[arg-type]
    outcome = Call(Mine(store.engine, handler, Holder("shop", handler.name, 1)), broken).run()
    assert (outcome.reason or "").startswith("ValueError")


# Transactions


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_handler_cannot_commit_its_transaction_itself(store: EventStore, kind: str) -> None:
    make_book(store)
    fill(store, 1, coupons=1)
    handlers = Handlers()

    def hasty(event: CouponEvent) -> None:
        note_in_the_store(event)
        with suppress(RuntimeError):  # as one that catches everything
            event.transaction.commit()

    async def hasty_async(event: CouponEvent) -> None:
        hasty(event)

    handlers.add(hasty if kind == "plain" else hasty_async, "*", name="hasty", attempts=1)
    assert run_once(store, handlers)
    assert book(store) == []
    assert "must not commit" in store.handlers.dead_letters()[0].reason


def test_a_transaction_that_is_asked_for_after_the_call_is_refused_and_holds_up_nothing(store: EventStore) -> None:
    make_book(store)
    fill(store, 2, coupons=2)
    kept: list[CouponEvent] = []
    handlers = Handlers()

    @handlers.on("*")
    def keep(event: CouponEvent) -> None:
        if event.position == 2:
            note_in_the_store(event)
        kept.append(event)

    assert run_once(store, handlers)
    for event in kept:
        with pytest.raises(RuntimeError, match="its transaction is over"):
            _ = event.transaction
    store.append(told(3, "c1"))
    assert [position for position, _ in book(store)] == [2]


@pytest.mark.parametrize("kind", ["asleep", "in a statement", "writes on"])
def test_one_that_hangs_in_its_transaction_is_parked_and_loses_it_and_the_store_takes_events(
    store: EventStore, kind: str
) -> None:
    make_book(store)
    fill(store, 20, coupons=20)
    released, ended, handlers = threading.Event(), threading.Event(), Handlers()
    sqlite = store.engine.dialect.name == "sqlite"
    long = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        if sqlite
        else "SELECT pg_sleep(60)"
    )

    @handlers.on("*", time_limit=0.3, attempts=1)
    def write(event: CouponEvent) -> None:
        note_in_the_store(event)
        if event.coupon_id == "c3":
            try:
                if kind == "in a statement":
                    event.transaction.exec_driver_sql(long)
                kept = event.transaction
                released.wait(30)
                if kind == "writes on":
                    kept.execute(NOTE, {"position": 99, "coupon": "c3"})
            finally:
                ended.set()

    try:
        with running(store, handlers):
            until(lambda: store.handlers.status()[0].waiting_for_people == 1 and len(book(store)) == 19)
            fill(store, 1, coupons=20, first=21)
            until(lambda: len(book(store)) == 20)
            released.set()
            until(ended.is_set)
            fill(store, 1, coupons=20, first=22)
            until(lambda: len(book(store)) == 21)
            [letter] = store.handlers.dead_letters()
    finally:
        released.set()
    assert "longer than 0.3 s" in letter.reason
    assert {coupon for _, coupon in book(store)} == {f"c{number}" for number in range(20) if number != 3}


def test_who_waits_for_its_transaction_is_not_given_up_for_that(store: EventStore) -> None:
    make_book(store)
    fill(store, 20, coupons=20)
    handlers = Handlers()

    @handlers.on("*", time_limit=0.5, attempts=1)
    def write(event: CouponEvent) -> None:
        note_in_the_store(event)
        time.sleep(0.08)

    with running(store, handlers, limits=Limits(workers=20, rules=QUICK.rules)) as runner:
        until(lambda: caught_up(store) and len(book(store)) == 20)
        assert runner.last_error is None
    assert store.handlers.dead_letters() == []


def test_with_more_workers_than_connections_the_runner_itself_still_finds_one(store: EventStore) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("there one writes at a time anyway")
    make_book(store)
    fill(store, 40, coupons=40)
    released, handlers = threading.Event(), Handlers()
    seen = Seen()

    @handlers.on("*")
    def write(event: CouponEvent) -> None:
        note_in_the_store(event)
        seen.add(event.position, str(event.coupon_id))
        released.wait(30)

    with running(store, handlers, limits=Limits(workers=32, rules=QUICK.rules)) as runner:
        until(lambda: len(seen.events) == 8)
        assert store.handlers.status()[0].handled == 0
        fill(store, 1, coupons=40, first=41)
        assert (len(seen.events), runner.last_error) == (8, None)
        released.set()
        until(lambda: len(book(store)) == 41)


def test_async_handlers_that_wait_inside_their_transaction_take_turns_and_each_writes_once(store: EventStore) -> None:
    make_book(store)
    fill(store, 60, coupons=30)
    handlers = Handlers()
    tries: Counter[int] = Counter()

    @handlers.on("*")
    async def write(event: CouponEvent) -> None:
        note_in_the_store(event)
        await asyncio.sleep(0.002)
        tries[event.position] += 1
        if event.position == 7 and tries[7] == 1:
            raise ValueError("not yet")

    @handlers.on("*")
    def plain(event: CouponEvent) -> None:
        note_in_the_store(event)

    with running(store, handlers) as runner:
        until(lambda: caught_up(store) and not store.handlers.dead_letters())
        assert runner.last_error is None
    assert sorted(position for position, _ in book(store)) == sorted([*range(1, 61), *range(1, 61)])
    assert [letter.position for letter in store.handlers.dead_letters(resolved=True)] == [7]


# Calls that do not end


def test_a_call_that_ends_in_the_moment_in_which_it_is_given_up_leaves_nothing_hanging(store: EventStore) -> None:
    fill(store, 60, coupons=20)
    seen, handlers = Seen(), Handlers()

    @handlers.on("*", time_limit=0.1, attempts=9)
    def close_by(event: CouponEvent) -> None:
        # The limit is looked at every tenth of a second: of these some end just as it is.
        if event.position <= 20 and event.attempt == 1:
            time.sleep(0.1 + event.position * 0.005)
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: caught_up(store) and not store.handlers.dead_letters())
        letters = store.handlers.dead_letters(resolved=True)
        until(lambda: {position for position, _ in seen.events} == set(range(1, 61)))
    assert max(Counter(letter.subject_id for letter in letters).values(), default=0) <= 1


def test_threads_of_calls_that_were_given_up_are_forgotten_once_they_end(store: EventStore) -> None:
    fill(store, 5, coupons=5)
    released, handlers = threading.Event(), Handlers()

    @handlers.on("*", time_limit=0.1, attempts=1)
    def stuck(event: CouponEvent) -> None:
        released.wait(30)

    before = hanging_threads("eventstore-handler")
    with running(store, handlers, limits=Limits(workers=2, rules=QUICK.rules)) as runner:
        until(lambda: store.handlers.status()[0].waiting_for_people == 5)
        assert hanging_threads("eventstore-handler") == before + 7
        released.set()
        until(lambda: hanging_threads("eventstore-handler") == before + 2)
        pool: Pool = runner._session._pool  # type: ignore[union-attr]
        until(lambda: (len(pool._workers), len(pool._abandoned)) == (2, 0))


def test_an_async_call_that_will_not_be_cancelled_is_parked_and_the_others_go_on(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "CANCEL_SECONDS", 0.2)
    fill(store, 20, coupons=10)
    released, ended, seen, handlers = threading.Event(), threading.Event(), Seen(), Handlers()

    @handlers.on("*", time_limit=0.2, attempts=1)
    async def stubborn(event: CouponEvent) -> None:
        if event.coupon_id == "c3" and not released.is_set():
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)
            ended.set()
            return
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers, limits=Limits(concurrency=1, rules=QUICK.rules)):
        until(lambda: len(seen.events) == 18 and store.handlers.status()[0].waiting_for_people == 1)
        assert "still ran then" in store.handlers.dead_letters()[0].reason
        released.set()
        until(ended.is_set)
        store.handlers.retry()
        until(lambda: len(seen.events) == 20 and not store.handlers.dead_letters())


def test_a_handler_that_blocks_the_event_loop_ends_the_runner_with_its_name_and_place(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "BLOCKED_SECONDS", 0.3)
    fill(store, 20, coupons=20)
    released, handlers = threading.Event(), Handlers()

    @handlers.on("*", name="other")
    async def other(event: CouponEvent) -> None:
        await asyncio.sleep(0)

    @handlers.on("*", name="blocks", time_limit=0.2)
    async def blocks(event: CouponEvent) -> None:
        if event.position == 3:
            released.wait(30)

    try:
        with running(store, handlers) as runner:
            until(lambda: "blocks the event loop" in (runner.last_error or ""))
            assert "'blocks'" in (runner.last_error or "")
    finally:
        released.set()


def test_one_that_ends_the_event_loop_ends_the_runner_with_a_reason(store: EventStore) -> None:
    fill(store, 1, coupons=1)
    handlers = Handlers()

    @handlers.on("*")
    async def leave(event: CouponEvent) -> None:
        async def exits() -> None:
            raise SystemExit(3)

        await asyncio.gather(exits())

    runner = store.handlers.runner(list(handlers), name="shop", begin="beginning", limits=QUICK)
    with pytest.raises(EventStoreError, match="ended by one of them: SystemExit"):
        runner.run()


# Stopping


@pytest.mark.parametrize("kind", ["plain", "async", "async in its transaction"])
def test_what_still_runs_when_the_runner_stops_is_no_failure_and_is_handled_again(
    store: EventStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.handlers.runner.STOP_SECONDS", 0.2)
    make_book(store)
    fill(store, 3, coupons=3)
    entered, released, seen, handlers = threading.Event(), threading.Event(), Seen(), Handlers()

    def plain(event: CouponEvent) -> None:
        if not released.is_set():
            note_in_the_store(event)
            entered.set()
            released.wait(30)
        seen.add(event.position, str(event.coupon_id))

    async def slow(event: CouponEvent) -> None:
        if not released.is_set():
            if kind != "async":
                note_in_the_store(event)
            entered.set()
            await asyncio.sleep(30)
        seen.add(event.position, str(event.coupon_id))

    handlers.add(plain if kind == "plain" else slow, "*", name="slow", attempts=1)
    with running(store, handlers):
        until(entered.is_set)
    assert store.handlers.dead_letters() == []
    assert book(store) == []
    fill(store, 1, coupons=4, first=4)  # nothing is held any more
    released.set()
    assert run_once(store, handlers)
    assert {position for position, _ in seen.events} == {1, 2, 3, 4}


STOPS = """
import asyncio, sys, threading, time
from eventstore.handlers import Handlers
from eventstore.handlers import runner as runners
from eventstore.store import EventStore
runners.STOP_SECONDS = 0.1
with EventStore.open(sys.argv[1]) as store:
    entered, handlers = threading.Event(), Handlers()

    @handlers.on("*")
    async def slow(event):
        entered.set()
        await asyncio.to_thread(time.sleep, 600)

    runner = store.handlers.runner(list(handlers), name="shop", begin="beginning")
    runner.start()
    entered.wait(30)
    runner.stop()
    print("stopped", flush=True)
"""


def test_a_program_ends_though_a_handler_is_in_a_thread_for_minutes_and_says_nothing_of_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with EventStore.open(url) as store:
        fill(store, 1, coupons=1)
    done = subprocess.run([sys.executable, "-c", STOPS, url], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
