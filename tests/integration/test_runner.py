"""The live runner: exactly once, whoever else runs and however it dies."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

from eventstore.demo import documented, month
from eventstore.errors import StoreUnavailable
from eventstore.event import Event
from eventstore.log import engine as log_engine
from eventstore.log.engine import make_engine
from eventstore.projections import runner, tables
from eventstore.projections.runner import Runner
from eventstore.store import EventStore
from tests.rows import Stranger, held
from tests.slow_model import project, shown, stored
from tests.stores import OpenStore

PATIENCE = 30.0
"""Seconds until a test gives up waiting for what must come."""


def ingest(store: EventStore, count: int, *, after: int = 0) -> None:
    """The demonstration month's deliveries: late, doubled, contradictory."""
    lines = islice(((number, delivery.line()) for number, delivery in enumerate(month())), after, after + count)
    store.ingest(lines)


def log_of(store: EventStore) -> list[Event]:
    return [record.event for record in store.stream()]


def checked(store: EventStore) -> None:
    """The projections say what the slow model says, and a rebuild makes the same rows."""
    store.project()
    assert shown(store.engine) == project(log_of(store))
    live = stored(store.engine)
    store.rebuild_projections()
    assert stored(store.engine) == live


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


# Exactly once


def test_the_demonstration_month_projects_as_the_slow_model_says(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 400)
    ingest(store, 600)
    checked(store)


def test_documented_events_in_large_number_project_as_the_slow_model_says(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 900)
    store.ingest((number, delivery.line()) for number, delivery in enumerate(documented(1500)))
    checked(store)


def test_two_runners_at_once_on_one_store_take_each_event_once(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 9)
    ingest(store, 60)

    def follow(_: int) -> None:
        engine = make_engine(store.engine.url.render_as_string(hide_password=False))
        one = Runner(engine, store.catalogue)
        try:
            while (reached := one.catch_up()) < store.head():
                assert one.position() >= reached, "what it says was done, by itself or by the other"
            assert one.position() >= reached
        finally:
            one.stop()
            engine.dispose()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(follow, range(2)))
    checked(store)


def at_least(store: EventStore, position: int) -> bool:
    return store.status().projections[0].position >= position


# Trouble


def test_a_step_that_fails_half_way_leaves_nothing_behind_and_the_next_one_does_it_all(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, 30)
    store.project()
    ingest(store, 30, after=30)
    before = stored(store.engine)
    honest = tables.upsert
    written: list[str] = []

    def fails_at_the_third(connection: Any, model: Any, rows: Any, **more: Any) -> None:
        if len(written) == 2:
            raise RuntimeError("power cut")
        written.append(model.name)
        honest(connection, model, rows, **more)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "upsert", fails_at_the_third)
        with pytest.raises(RuntimeError, match="power cut"):
            store.project()
    assert len(written) == 2
    assert stored(store.engine) == before
    assert {status.position for status in store.status().projections} == {
        store.head() - store.status().projections[0].lag
    }
    checked(store)


def test_a_locked_database_is_unavailable_to_the_projections_and_they_recover(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 20)
    with EventStore.open(store_url) as store:
        ingest(store, 50)
        with held(store_url, "projection_checkpoints"), pytest.raises(StoreUnavailable, match=r"locked|lock timeout"):
            store.project()
        assert store.status().projections[0].position == 0
        checked(store)


def test_the_thread_that_follows_the_log_outlives_a_locked_database_and_says_what_was_wrong(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 20)
    with EventStore.open(store_url) as store:
        ingest(store, 50)
        with held(store_url, "projection_checkpoints"):
            store.start_projections()
            eventually(lambda: store.runner.last_error)
            assert re.search(r"locked|lock timeout", str(store.runner.last_error))
        assert store.wait(store.head(), PATIENCE)
        eventually(lambda: store.runner.last_error is None)
        assert shown(store.engine) == project(log_of(store))


def test_an_event_of_a_coupon_that_does_not_name_it_does_not_stop_the_others(store: EventStore) -> None:
    ingest(store, 30)
    nameless = [
        event.model_copy(update={"event_id": f"nameless-{event.event_id}", "coupon_id": None})
        for event in log_of(store)
    ]
    list(store.append_many(nameless))
    checked(store)


# Following


def test_whoever_waits_for_a_position_reads_their_own_write(store: EventStore, new_store: OpenStore) -> None:
    with new_store() as other:
        ingest(other, 40)
        events = [event for event in log_of(other) if event.type.startswith("coupon.")]
    assert len(events) >= 10
    store.start_projections()
    for number, event in enumerate(events[:6], start=1):
        position = store.append(event).position
        assert position == number
        assert store.wait(position, PATIENCE)
        assert event.coupon_id is not None
        assert store.coupon(event.coupon_id).last_event_time >= event.event_time
    assert shown(store.engine) == project(log_of(store))


def test_events_that_another_process_appended_are_followed_too(store_url: str) -> None:
    with EventStore.open(store_url) as follower, EventStore.open(store_url) as other:
        follower.start_projections()
        ingest(other, 50)
        assert follower.wait(other.head(), PATIENCE)
        assert shown(follower.engine) == project(log_of(other))


def test_waiting_for_what_nobody_takes_in_ends_with_no(store: EventStore) -> None:
    ingest(store, 5)
    assert store.wait(0)
    assert not store.wait(store.head(), 0.05)


def test_progress_is_told_step_by_step_up_to_the_head(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 10)
    ingest(store, 45)
    head = store.head()
    told: list[tuple[int, int]] = []
    assert store.project(on_progress=lambda position, of: told.append((position, of))) == head
    assert told == [(min(step, head), head) for step in range(10, head + 10, 10)]


def test_a_store_closed_while_its_projections_run_leaves_them_sound(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, EventStore.open(store_url) as store:
        patch.setattr(runner, "STEP_EVENTS", 5)
        ingest(store, 200)
        store.start_projections()
        eventually(lambda: at_least(store, 5))
    with EventStore.open(store_url) as again:
        at = again.status().projections[0].position
        assert at < again.head(), "closing waits for the step under way, not for all there is to do"
        assert shown(again.engine) == project(log_of(again)[:at])
        checked(again)


def test_a_table_of_another_version_stays_as_it_is_and_the_others_follow(store_url: str) -> None:
    with EventStore.open(store_url) as store:
        ingest(store, 60)
        store.project()
        at = store.head()
        ingest(store, 20, after=60)
    with Stranger(store_url) as stranger:
        stranger.execute("UPDATE projection_checkpoints SET version = 99 WHERE name = 'redemptions'")
    with EventStore.open(store_url) as store:
        head = store.project()
        assert head > at
        assert {each.name: each.position for each in store.status().projections} == {
            "coupons": head,
            "redemptions": at,
            "coupon_usage": at,
            "loyalty_coupons": head,
        }
        # Of what stays behind nobody is told that their writes are in it.
        assert store.wait(head, 0.1, projections=("coupons", "loyalty_coupons"))
        assert not store.wait(head, 0.1)
        store.rebuild_projections("redemptions")
        checked(store)
