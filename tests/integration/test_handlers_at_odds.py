"""Handlers where things go against each other: outages, replays beside parked coupons, skips beside tries, one that always asks
to be tried later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from eventstore.errors import InputError
from eventstore.handlers import CouponEvent, Handlers, TryLater
from eventstore.handlers.dead_letters import HandlerDeadLetter
from eventstore.handlers.gate import LEAST_ASKED, Gate, Rules
from eventstore.handlers.session import Limits
from eventstore.store import EventStore
from tests.handling import NOTE, QUICK, Seen, book, caught_up, fill, in_order, make_book, run_once, running, told, until
from tests.stores import PostgresqlServer, text_of


@pytest.fixture(scope="module")
def server_of_its_own() -> Iterator[PostgresqlServer]:
    """A PostgreSQL that may be restarted."""
    server = PostgresqlServer()
    yield server
    server.end()


def test_a_postgresql_that_is_restarted_or_ends_all_connections_is_waited_for(
    server_of_its_own: PostgresqlServer,
) -> None:
    seen, handlers = Seen(), Handlers()

    @handlers.on("*")
    def note(event: CouponEvent) -> None:
        event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})
        seen.add(event.position, str(event.coupon_id))

    url = text_of(server_of_its_own.new_database("template_log"))
    with EventStore.open(url) as store:
        make_book(store)
        with running(store, handlers):
            for round_ in range(3):
                fill(store, 40, coupons=8, first=store.head() + 1)
                if round_ == 0:
                    with store.engine.connect() as connection:
                        connection.execute(
                            text(
                                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                            )
                        )
                elif round_ == 1:
                    server_of_its_own.restart()
                until(lambda: _is(store, lambda: caught_up(store)))
        assert sorted(position for position, _ in book(store)) == list(range(1, 121))
        assert in_order(book(store))
        assert not store.handlers.dead_letters()


def _is(store: EventStore, condition: object) -> bool:
    assert callable(condition)
    try:
        return bool(condition())
    except Exception:  # noqa: BLE001 - the database is away
        store.engine.dispose()
        return False


def test_one_event_that_always_asks_to_be_tried_later_holds_up_no_other_for_long(store: EventStore) -> None:
    fill(store, 20, coupons=20)
    seen, handlers = Seen(), Handlers()

    @handlers.on("*")
    def outside(event: CouponEvent) -> None:
        if event.position == 4:
            raise TryLater("it answered 502", seconds=0.02)
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        while not store.handlers.dead_letters():
            fill(store, 1, coupons=3, first=store.head() + 1)
            until(lambda: len(seen.events) >= store.head() // 2)
        last = store.head()
        until(lambda: caught_up(store))
        [letter] = store.handlers.dead_letters()
        assert (letter.position, letter.reason) == (4, "it answered 502")
    assert {position for position, _ in seen.events} == set(range(1, last + 1)) - {4}


def test_a_gate_lets_one_that_asks_too_often_be_parked_only_where_others_go() -> None:
    gate = Gate(Rules(pause_seconds=(0.0,)), 1)
    one, other = ("shop", "one"), ("shop", "other")
    for _ in range(50):
        assert gate.asked_later(one, "away", 0.0, alone=False), "while nobody goes it is what is outside"
        assert gate.tick() == one
    for times in range(LEAST_ASKED):
        assert gate.asked_later(one, "away", 0.0, alone=False), times
        gate.succeeded(other)
    assert not gate.asked_later(one, "away", 0.0, alone=False)
    assert gate.asked_later(one, "away", 0.0, alone=False), "and then it begins anew"


def test_a_rest_with_nothing_held_ends_by_itself_and_says_so() -> None:
    gate = Gate(Rules(pause_seconds=(0.0,)), 5)
    gate.shut("broken", None)
    told = [gate.reason]
    assert gate.tick() is None
    assert gate.is_open
    assert [*told, gate.reason] == ["broken", None]


def test_a_replay_beside_parked_coupons_gives_every_event_again(store: EventStore) -> None:
    fill(store, 30, coupons=3)
    mended = threading.Event()
    seen, handlers = Seen(), Handlers()

    @handlers.on("*", attempts=1)
    def strict(event: CouponEvent) -> None:
        if event.coupon_id == "c1" and not mended.is_set():
            raise ValueError("not yet")
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: caught_up(store) and store.handlers.status()[0].waiting_for_people == 1)
        mended.set()
        [done] = store.handlers.replay("shop", begin="beginning")
        assert done.closed == 1
        until(lambda: len({position for position, _ in seen.events}) == 30)
    assert not store.handlers.dead_letters()
    assert in_order([each for each in seen.events if each[1] == "c1"])
    with pytest.raises(InputError, match="no position of the log yet"):
        store.handlers.replay("shop", begin="32")


def test_a_skip_means_the_event_that_is_tried_and_not_one_that_was_handled(store: EventStore) -> None:
    make_book(store)
    fill(store, 5, coupons=1)
    handlers = Handlers()
    stage = {"failing": {1}}

    @handlers.on("*", attempts=1)
    def strict(event: CouponEvent) -> None:
        if event.position in stage["failing"]:
            raise ValueError("no")
        event.transaction.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})

    with running(store, handlers):
        until(lambda: len(store.handlers.dead_letters()) == 1)
        stage["failing"] = {3}
        [letter] = store.handlers.dead_letters()
        store.handlers.retry([letter.id])
        until(lambda: [(each.position, each.follows) for each in store.handlers.dead_letters()] == [(3, False)])
        with pytest.raises(InputError, match="was handled already"):
            store.handlers.skip(letter.id, "a test")
        [later] = store.handlers.dead_letters()
        store.handlers.skip(later.id, "a test")
        until(lambda: not store.handlers.dead_letters())
    assert [position for position, _ in book(store)] == [1, 2, 4, 5]
    assert [(each.position, each.resolution, each.note) for each in store.handlers.dead_letters(resolved=True)] == [
        (1, "handled", None),
        (3, "skipped", "a test"),
    ]


def test_a_skip_leaves_out_one_event_and_those_behind_it_that_fail_are_tried_and_wait_on_their_own(
    store: EventStore,
) -> None:
    fill(store, 6, coupons=1)
    calls: list[int] = []
    handlers = Handlers()

    @handlers.on("*", attempts=2)
    def strict(event: CouponEvent) -> None:
        calls.append(event.position)
        if event.position in (2, 4, 5):
            raise ValueError("no")

    def wait_for_a_person() -> HandlerDeadLetter:
        until(lambda: [each.retry_at for each in store.handlers.dead_letters()] == [None])
        [letter] = store.handlers.dead_letters()
        return letter

    with running(store, handlers):
        for position in (2, 4, 5):
            letter = wait_for_a_person()
            assert (letter.position, letter.attempts, letter.reason[:14]) == (position, 2, "ValueError: no")
            store.handlers.skip(letter.id, f"the event at {position}")
            until(lambda letter=letter: store.handlers.dead_letter(letter.id).resolved_at is not None)  # type: ignore[misc]
        until(lambda: not store.handlers.dead_letters())
    assert calls == [1, 2, 2, 3, 4, 4, 5, 5, 6]
    assert [(each.position, each.resolution, each.note) for each in store.handlers.dead_letters(resolved=True)] == [
        (2, "skipped", "the event at 2"),
        (4, "skipped", "the event at 4"),
        (5, "skipped", "the event at 5"),
    ]


def test_a_second_skip_of_the_same_event_is_refused(store: EventStore) -> None:
    fill(store, 3, coupons=1)
    handlers = Handlers()

    @handlers.on("*", attempts=1)
    def failing(event: CouponEvent) -> None:
        raise ValueError(event.position)

    assert run_once(store, handlers)
    [letter] = store.handlers.dead_letters()
    store.handlers.skip(letter.id, "once")
    with pytest.raises(InputError, match="is to be skipped already, as soon as its handler runs: once"):
        store.handlers.skip(letter.id, "twice")
    assert run_once(store, handlers)
    with pytest.raises(InputError, match="was skipped already"):
        store.handlers.skip(letter.id, "three times")


def test_a_skip_that_is_given_while_the_event_is_tried_holds(store: EventStore) -> None:
    fill(store, 4, coupons=1)
    entered, leave = threading.Event(), threading.Event()
    tries: list[int] = []
    seen, handlers = Seen(), Handlers()

    @handlers.on("*", attempts=1)
    def strict(event: CouponEvent) -> None:
        if event.position == 2:
            tries.append(event.position)
            if len(tries) == 2:
                entered.set()
                leave.wait(30)
            raise ValueError("no")
        seen.add(event.position, str(event.coupon_id))

    with running(store, handlers):
        until(lambda: store.handlers.status()[0].waiting_for_people == 1)
        [letter] = store.handlers.dead_letters()
        store.handlers.retry([letter.id])
        entered.wait(30)
        store.handlers.skip(letter.id, "enough")
        leave.set()
        until(lambda: not store.handlers.dead_letters())
    assert seen.positions == [1, 3, 4]
    assert len(tries) == 2


def test_ends_in_good_order_are_no_deaths(store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
    fill(store, 60, coupons=30)
    handlers = Handlers()
    away = threading.Event()
    away.set()
    seen = Seen()

    @handlers.on("*", attempts=1)
    def outside(event: CouponEvent) -> None:
        if away.is_set():
            raise TryLater("away", seconds=30)
        seen.add(event.position, str(event.coupon_id))

    with caplog.at_level(logging.WARNING, "eventstore.handlers"):
        for _ in range(5):
            with running(store, handlers):
                until(lambda: store.handlers.status()[0].paused == "away")
        away.clear()
        assert run_once(store, handlers)
    assert seen.positions == list(range(1, 61))
    assert not store.handlers.dead_letters(resolved=True)
    assert "the process before ended" not in caplog.text


def test_a_constraint_that_fails_at_the_commit_is_a_failure_of_its_event(store: EventStore) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        connection.execute(
            text("CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
        )
    fill(store, 4, coupons=4)
    handlers = Handlers()

    @handlers.on("*", attempts=1)
    def orphan(event: CouponEvent) -> None:
        if event.position == 2:
            event.transaction.execute(text("INSERT INTO children VALUES (7)"))

    assert run_once(store, handlers)
    [letter] = store.handlers.dead_letters()
    assert letter.position == 2
    assert "IntegrityError" in letter.reason
    assert store.handlers.status()[0].handled == 3


def test_once_ends_though_events_go_on_coming(store: EventStore) -> None:
    fill(store, 50, coupons=5)
    seen, handlers = Seen(), Handlers()

    @handlers.on("*")
    def breed(event: CouponEvent) -> None:
        seen.add(event.position, str(event.coupon_id))
        store.append(told(1_000 + event.position, "another"))

    assert run_once(store, handlers)
    assert seen.positions == list(range(1, 51))
    assert store.head() == 100


def test_dead_letters_rest_with_their_handler(store: EventStore) -> None:
    fill(store, 40, coupons=40)
    calls: list[float] = []
    handlers = Handlers()
    stage = {"fail": True}

    @handlers.on("*", attempts=1000)
    def outside(event: CouponEvent) -> None:
        if event.position <= 15 and stage["fail"]:
            raise ValueError("no")
        if not stage["fail"]:
            calls.append(time.monotonic())
            raise TryLater("away", seconds=30)

    slow = Limits(rules=Rules(retry_seconds=(0.5,), attempts=1000, pause_seconds=(30.0,)))
    with running(store, handlers, limits=slow):
        until(lambda: len(store.handlers.dead_letters()) == 15 and caught_up(store))
        stage["fail"] = False
        until(lambda: store.handlers.status()[0].paused == "away")
        time.sleep(1.5)
    assert len(calls) <= QUICK.workers


def test_a_database_locked_while_the_runner_ends_does_not_keep_it(sqlite_store: EventStore) -> None:
    handlers = Handlers()
    entered, leave = threading.Event(), threading.Event()

    @handlers.on("*")
    def hold(event: CouponEvent) -> None:
        entered.set()
        leave.wait(30)

    fill(sqlite_store, 1, coupons=1)
    runner = sqlite_store.handlers.runner(list(handlers), name="shop", begin="beginning")
    runner.start()
    entered.wait(30)
    locked = sqlite_store.engine.raw_connection()
    try:
        locked.cursor().execute("BEGIN IMMEDIATE")
        leave.set()
        runner.stop()
    finally:
        locked.rollback()
        locked.close()
    assert not runner.leads
