"""State does not depend on how the facts arrived: any order, any repetition, any pace, live or rebuilt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.demo import examples
from eventstore.event import Event
from eventstore.log.records import OutcomeKind
from eventstore.projections import runner
from eventstore.store import EventStore
from tests.histories import deliveries, histories, parts
from tests.slow_model import project, shown, stored
from tests.stores import OpenStore, tried


def key(event: Event) -> tuple[str, str]:
    return event.site_id, event.event_id


def test_the_log_holds_each_event_once_however_often_and_in_whatever_order_it_was_told(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(8, dialect)
    @given(data=st.data(), history=histories())
    def holds(data: st.DataObject, history: list[Event]) -> None:
        told = data.draw(deliveries(history))
        with new_store() as store:
            outcomes = list(store.append_many(told))
            recorded = store.read()
        first_tellings = list({key(event): event for event in reversed(told)}.values())[::-1]
        assert [record.position for record in recorded] == list(range(1, len(history) + 1))
        assert sorted(map(key, history)) == sorted(key(record.event) for record in recorded)
        assert [record.event for record in recorded] == sorted(first_tellings, key=lambda event: told.index(event))
        for event, outcome in zip(told, outcomes, strict=True):
            assert outcome.kind in {OutcomeKind.APPENDED, OutcomeKind.DUPLICATE}
            assert outcome.position is not None
            assert key(recorded[outcome.position - 1].event) == key(event)
        assert sum(outcome.kind is OutcomeKind.APPENDED for outcome in outcomes) == len(history)

    holds()


def test_live_projections_say_what_the_facts_say_in_any_order_and_a_rebuild_makes_the_same_rows(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(8, dialect)
    @given(data=st.data(), history=histories(), step=st.sampled_from([1, 3, 7]))
    def holds(data: st.DataObject, history: list[Event], step: int) -> None:
        told = data.draw(deliveries(history))
        pieces = data.draw(parts(told, overlap=True, most=3))
        with new_store() as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "STEP_EVENTS", step)
            for piece in pieces:
                list(store.append_many(piece))
                assert store.project() == store.head()
            assert shown(store.engine) == project(history)
            live = stored(store.engine)
            store.rebuild_projections()
            assert stored(store.engine) == live

    holds()


def test_two_orders_of_the_same_facts_make_the_same_bytes(new_store: OpenStore, dialect: str) -> None:
    @tried(4, dialect)
    @given(history=histories(max_size=8))
    def holds(history: list[Event]) -> None:
        found = []
        for told in (history, history[::-1]):
            with new_store() as store:
                list(store.append_many(told))
                store.rebuild_projections()
                found.append(stored(store.engine))
        assert found[0] == found[1]

    holds()


def test_a_rebuild_in_the_middle_and_events_after_it_change_nothing(new_store: OpenStore, dialect: str) -> None:
    @tried(4, dialect)
    @given(data=st.data(), history=histories(max_size=8))
    def holds(data: st.DataObject, history: list[Event]) -> None:
        middle = data.draw(st.integers(0, len(history)))
        with new_store() as store:
            list(store.append_many(history[:middle]))
            store.rebuild_projections()
            assert shown(store.engine) == project(history[:middle])
            list(store.append_many(history[middle:]))
            store.project()
            assert shown(store.engine) == project(history)

    holds()


def test_an_empty_store_rebuilds_to_empty_projections(store: EventStore) -> None:
    result = store.rebuild_projections()
    assert result.position == 0
    assert set(result.rows.values()) == {0}
    assert shown(store.engine) == project([])
    assert store.project() == 0


def test_wix_own_documented_deliveries_project_as_the_slow_model_says(store: EventStore) -> None:
    for delivery in examples():
        store.ingest([(1, delivery.line())])
    store.project()
    assert shown(store.engine) == project(record.event for record in store.stream())
    live = stored(store.engine)
    store.rebuild_projections()
    assert stored(store.engine) == live
