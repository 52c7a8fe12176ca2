"""State as of a moment is what the models say of the part of the log that counts then, in both meanings of a moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventstore.event import Event
from eventstore.projections.catalogue import projections
from eventstore.projections.views import CouponState
from eventstore.store import EventStore
from tests import slow_model
from tests.histories import deliveries, histories
from tests.slow_model import Rows, project, shown
from tests.stores import OpenStore, tried

LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def told(states: list[CouponState]) -> Rows:
    """What readers are told of each coupon, without what it is as of."""
    rows: Rows = {
        (state.site_id, state.coupon_id): state.model_dump(exclude={"as_of", "parked", "findings"}) for state in states
    }
    assert len(rows) == len(states)
    return rows


def without_status(rows: Rows) -> Rows:
    return {key: {name: value for name, value in row.items() if name != "status"} for key, row in rows.items()}


def whole(store: EventStore, **moment: Any) -> dict[str, Rows]:
    """Every projection as of a moment, in the shape that the slow model gives."""
    return {
        model.name: {
            tuple(row[name] for name in model.key): row for row in store.projection_as_of(model.name, **moment)
        }
        for model in projections()
    }


def test_as_of_now_is_what_live_and_a_rebuild_and_the_slow_model_say(new_store: OpenStore, dialect: str) -> None:
    @tried(4, dialect)
    @given(data=st.data(), history=histories())
    def holds(data: st.DataObject, history: list[Event]) -> None:
        with new_store() as store:
            list(store.append_many(data.draw(deliveries(history))))
            store.project()
            live = shown(store.engine)
            now = store.coupons()
            assert without_status(told(store.coupons(as_of=LAST))) == without_status(told(now))
            assert without_status(told(store.coupons(at_position=store.head()))) == without_status(told(now))
            moments: list[dict[str, Any]] = [{}, {"as_of": LAST}, {"at_position": store.head()}]
            assert whole(store, **data.draw(st.sampled_from(moments))) == live
            store.rebuild_projections()
            assert shown(store.engine) == live == project(history)

    holds()


def test_what_was_known_at_a_position_is_what_the_store_said_when_its_log_ended_there(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(4, dialect)
    @given(data=st.data(), history=histories(8))
    def holds(data: st.DataObject, history: list[Event]) -> None:
        with new_store() as store:
            then = [without_status(told(store.coupons()))]
            for event in (arrival := data.draw(st.permutations(history))):
                store.append(event)
                store.project()
                then.append(without_status(told(store.coupons())))
            some = data.draw(st.integers(0, len(history)))
            for state in store.coupons(at_position=some):
                assert store.coupon(state.coupon_id, site_id=state.site_id, at_position=some) == state
            recorded = [record.recorded_at for record in store.read()]
            for position, said in enumerate(then):
                found = told(store.coupons(at_position=position))
                assert without_status(found) == said
                if position:
                    time = recorded[position - 1]
                    assert found == slow_model.states(arrival[:position], time)
                    # Two events of one microsecond are known together.
                    last = max(number for number, other in enumerate(recorded, start=1) if other <= time)
                    assert without_status(told(store.coupons(known_at=time))) == then[last]

    holds()


def test_what_was_true_at_a_time_is_what_the_slow_model_says_of_the_events_that_had_happened(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(5, dialect)
    @given(data=st.data(), history=histories(10))
    def holds(data: st.DataObject, history: list[Event]) -> None:
        with new_store() as store:
            arrival = data.draw(st.permutations(history))
            list(store.append_many(arrival))
            store.project()
            for time in sorted({event.event_time for event in history}):
                happened = [event for event in history if event.event_time <= time]
                assert told(store.coupons(as_of=time)) == slow_model.states(happened, time)
            if history:
                time = data.draw(st.sampled_from(history)).event_time
                position = data.draw(st.integers(0, len(history)))
                known = [event for event in arrival[:position] if event.event_time <= time]
                assert told(store.coupons(as_of=time, at_position=position)) == slow_model.states(known, time)
                assert whole(store, as_of=time, at_position=position) == project(known)

    holds()
