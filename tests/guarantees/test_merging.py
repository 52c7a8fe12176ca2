"""The law that every model keeps: the model of a union is the merge of the models, for any split, order or repetition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.event import Event
from eventstore.log.arrow import EVENT_SCHEMA
from eventstore.log.types import from_micros, to_micros
from eventstore.projections.catalogue import FACTS, Projection, load_catalogue, projection, projections
from eventstore.projections.duck import ModelSession
from tests.histories import every_close_call, histories, parts
from tests.serving import PROJECTIONS
from tests.slow_model import project

Rows = list[tuple[Any, ...]]

FROM_FACTS = [model.name for model in projections() if model.source == FACTS]
EXAMPLES = load_catalogue([PROJECTIONS / "app_weeks", PROJECTIONS / "coupon_days"])
"""The store's own projections and the examples of what its owner may add."""


@pytest.fixture(scope="module")
def session() -> Iterator[ModelSession]:
    opened = ModelSession(EXAMPLES)
    yield opened
    opened.close()


def in_key_order(rows: Rows) -> Rows:
    return sorted(rows, key=repr)


def modelled(session: ModelSession, model: Projection, events: Sequence[Event]) -> Rows:
    """`model(facts(events))`, in the store's encodings."""
    batch = pa.Table.from_pylist(
        [
            {
                "position": position,
                "event_time": to_micros(event.event_time),
                "recorded_at": 0,
                "payload": event.encode()[0].decode(),
            }
            for position, event in enumerate(events, start=1)
        ],
        EVENT_SCHEMA,
    )
    session.load_facts(batch)
    session.lift(model)
    session.merge(model)
    return in_key_order(session.stored_rows(model))


READ: dict[str, Callable[[Any], Any]] = {"timestamp": from_micros, "decimal": Decimal, "json": orjson.loads}
"""How the store's encodings of values are read."""


def readable(model: Projection, rows: Rows) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows in the store's encodings as readers are shown them, by key."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        shown: dict[str, Any] = {
            column.name: READ.get(column.type, lambda plain: plain)(value) if value is not None else None
            for column, value in zip(model.columns, row, strict=True)
            if not column.is_memory
        }
        found[tuple(shown[name] for name in model.key)] = shown
    assert len(found) == len(rows)
    return found


def merged(session: ModelSession, model: Projection, several: Sequence[Rows]) -> Rows:
    """The merge of rows that went through the store's encodings, as those of a live projection do."""
    for rows in several:
        session.put("part", model.columns, rows, like=f"{model.name}__merged")
        session.add_partial(model, "part")
    session.merge(model)
    return in_key_order(session.stored_rows(model))


def as_the_slow_model_says(session: ModelSession, history: Sequence[Event]) -> None:
    expected = project(history)
    for name in FROM_FACTS:
        model = projection(name)
        the_same(readable(model, modelled(session, model, history)), expected[name])
    found = usage(session, modelled(session, projection("redemptions"), history))
    the_same(readable(projection("coupon_usage"), found), expected["coupon_usage"])


def the_same(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    """Assert equality by the first key that differs: of thousands, no difference can be shown."""
    for key in expected.keys() | found.keys():
        assert found.get(key) == expected.get(key), key


@given(history=histories())
@settings(max_examples=20)
def test_every_model_says_of_any_history_what_the_slow_one_says(session: ModelSession, history: list[Event]) -> None:
    as_the_slow_model_says(session, history)


def test_every_model_says_what_the_slow_one_says_however_close_the_call(session: ModelSession) -> None:
    as_the_slow_model_says(session, every_close_call())


def test_every_close_call_goes_the_same_way_when_merged_from_apart_or_overlapping_parts(session: ModelSession) -> None:
    calls = every_close_call()
    for name in FROM_FACTS:
        model = projection(name)
        whole = readable(model, modelled(session, model, calls))
        for parts_hold in ([{"e2"}, {"e0"}, {"e1"}], [{"e1", "e2"}, {"e0", "e1"}, {"e2", "e0"}]):
            pieces = [
                modelled(session, model, [call for call in calls if call.event_id in held]) for held in parts_hold
            ]
            piece_by_piece = merged(session, model, [merged(session, model, pieces[:2]), pieces[2]])
            the_same(readable(model, piece_by_piece), whole)


def test_every_close_call_is_counted_the_same_from_disjoint_parts(session: ModelSession) -> None:
    model = projection("coupon_usage")
    redemptions = modelled(session, projection("redemptions"), every_close_call())
    pieces = [usage(session, redemptions[start::2]) for start in (0, 1)]
    the_same(readable(model, merged(session, model, pieces)), readable(model, usage(session, redemptions)))


@pytest.mark.parametrize("name", [*FROM_FACTS, "coupon_days"])
@given(data=st.data(), history=histories())
@settings(max_examples=8)
def test_the_model_of_a_union_is_the_merge_of_the_models(
    session: ModelSession, name: str, data: st.DataObject, history: list[Event]
) -> None:
    model = EXAMPLES.find(name)
    whole = modelled(session, model, history)
    pieces = [modelled(session, model, piece) for piece in data.draw(parts(history, overlap=True))]
    assert merged(session, model, data.draw(st.permutations(pieces))) == whole


@pytest.mark.parametrize("name", FROM_FACTS)
@given(data=st.data(), history=histories())
@settings(max_examples=5)
def test_the_order_and_repetition_of_facts_do_not_matter_to_a_model(
    session: ModelSession, name: str, data: st.DataObject, history: list[Event]
) -> None:
    model = projection(name)
    again = data.draw(st.permutations(history + history[: len(history) // 2]))
    assert modelled(session, model, again) == modelled(session, model, history)


@pytest.mark.parametrize("name", FROM_FACTS)
@given(data=st.data(), history=histories())
@settings(max_examples=5)
def test_it_does_not_matter_which_parts_are_merged_first_and_merging_twice_changes_nothing(
    session: ModelSession, name: str, data: st.DataObject, history: list[Event]
) -> None:
    model = projection(name)
    split = data.draw(parts(history, overlap=True, most=3))
    first, *rest = [modelled(session, model, piece) for piece in split]
    from_left = first
    for piece in rest:
        from_left = merged(session, model, [from_left, piece])
    from_right = merged(session, model, [first, merged(session, model, rest)])
    assert from_left == from_right
    assert merged(session, model, [from_left, from_left]) == from_left


@pytest.mark.parametrize("name", ["coupon_usage", "app_weeks"])
@given(data=st.data(), history=histories())
@settings(max_examples=8)
def test_what_is_made_of_all_redemptions_is_the_merge_of_what_is_made_of_disjoint_parts(
    session: ModelSession, name: str, data: st.DataObject, history: list[Event]
) -> None:
    model = EXAMPLES.find(name)
    redemptions = modelled(session, projection("redemptions"), history)
    whole = of_redemptions(session, model, redemptions)
    pieces = [of_redemptions(session, model, piece) for piece in data.draw(parts(redemptions, overlap=False))]
    assert merged(session, model, data.draw(st.permutations(pieces))) == whole


@given(data=st.data(), history=histories())
@settings(max_examples=8)
def test_usage_per_app_per_week_does_not_depend_on_the_order_or_repetition_of_events(
    session: ModelSession, data: st.DataObject, history: list[Event]
) -> None:
    def weeks(events: Sequence[Event]) -> Rows:
        return of_redemptions(session, EXAMPLES.find("app_weeks"), modelled(session, projection("redemptions"), events))

    again = data.draw(st.permutations(history + history[: len(history) // 2]))
    assert weeks(again) == weeks(history)


def usage(session: ModelSession, redemptions: Rows) -> Rows:
    return of_redemptions(session, projection("coupon_usage"), redemptions)


def of_redemptions(session: ModelSession, model: Projection, redemptions: Rows) -> Rows:
    source = projection("redemptions")
    merged(session, source, [redemptions])
    session.lift(model)
    session.merge(model)
    return in_key_order(session.stored_rows(model))
