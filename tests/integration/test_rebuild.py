"""Rebuilding projections from the log while everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from eventstore.demo import month
from eventstore.errors import NotFound, ProjectionError
from eventstore.event import Event
from eventstore.projections import rebuild
from eventstore.projections.catalogue import projections
from eventstore.projections.rebuild import RebuildProgress
from eventstore.store import EventStore
from tests.slow_model import project, shown, stored
from tests.stores import NewUrl


def ingest(store: EventStore, count: int, *, after: int = 0) -> None:
    lines = islice(((number, delivery.line()) for number, delivery in enumerate(month())), after, after + count)
    store.ingest(lines)


def log_of(store: EventStore) -> list[Event]:
    return [record.event for record in store.stream()]


def vandalise(store: EventStore, *names: str) -> None:
    with store.engine.begin() as connection:
        for name in names:
            connection.exec_driver_sql(f"DELETE FROM {name}")


@pytest.fixture(scope="module")
def filled_once(new_url: NewUrl) -> Iterator[str]:
    """A store of a hundred and fifty deliveries, projected."""
    with new_url() as url:
        with EventStore.open(url) as store:
            ingest(store, 150)
            store.project()
        yield url


@pytest.fixture
def filled(filled_once: str, new_url: NewUrl) -> Iterator[EventStore]:
    """Such a store, to do with as one likes."""
    with new_url(of=filled_once) as url, EventStore.open(url) as store:
        yield store


def test_a_rebuild_brings_back_whatever_was_lost(filled: EventStore) -> None:
    before = stored(filled.engine)
    vandalise(filled, "coupons", "redemptions", "coupon_usage", "loyalty_coupons")
    result = filled.rebuild_projections()
    assert stored(filled.engine) == before
    assert result.position == filled.head()
    assert result.rows == {name: len(rows) for name, rows in before.items()}


def test_a_rebuild_can_be_repeated(filled: EventStore) -> None:
    before = stored(filled.engine)
    for _ in range(3):
        filled.rebuild_projections()
    assert stored(filled.engine) == before


def test_a_rebuild_in_small_pieces_makes_the_same_rows(filled: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored(filled.engine)
    monkeypatch.setattr(rebuild, "PIECE_EVENTS", 11)
    monkeypatch.setattr(rebuild, "WRITE_ROWS", 3)
    filled.rebuild_projections()
    assert stored(filled.engine) == before


@pytest.mark.parametrize(
    ("named", "rebuilt"),
    [
        ("coupons", {"coupons"}),
        ("coupon_usage", {"redemptions", "coupon_usage"}),
    ],
)
def test_a_named_projection_is_rebuilt_with_those_that_hang_together_with_it_and_no_other(
    filled: EventStore, named: str, rebuilt: set[str]
) -> None:
    before = stored(filled.engine)
    vandalise(filled, *before)
    result = filled.rebuild_projections(named)
    assert set(result.rows) == rebuilt
    after = stored(filled.engine)
    assert {name for name, rows in after.items() if rows == before[name]} >= rebuilt
    assert all(after[name] == [] for name in set(before) - rebuilt)


def test_an_unknown_projection_is_refused_with_the_known_ones(filled: EventStore) -> None:
    with pytest.raises(NotFound, match=r"nothing.*coupons, redemptions, coupon_usage, loyalty_coupons"):
        filled.rebuild_projections("nothing")


def test_the_live_projections_go_on_where_the_rebuild_ended(filled: EventStore) -> None:
    filled.rebuild_projections()
    ingest(filled, 50, after=150)
    filled.project()
    assert shown(filled.engine) == project(log_of(filled))


def test_projections_that_were_rebuilt_alone_and_are_ahead_are_caught_up_with(
    filled: EventStore,
) -> None:
    ingest(filled, 50, after=150)
    filled.rebuild_projections("redemptions")
    assert {status.lag == 0 for status in filled.status().projections} == {True, False}
    ingest(filled, 20, after=200)
    filled.project()
    assert shown(filled.engine) == project(log_of(filled))
    assert {status.lag for status in filled.status().projections} == {0}


def test_ingestion_and_live_projections_go_on_during_a_rebuild(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "PIECE_EVENTS", 40)
    done = 150

    def meanwhile(progress: RebuildProgress) -> None:
        nonlocal done
        if progress.stage == "swap":
            return
        size = filled.head()
        ingest(filled, 10, after=done)
        done += 10
        assert filled.head() > size
        filled.project()
        assert shown(filled.engine) == project(log_of(filled))

    filled.rebuild_projections(on_progress=meanwhile)
    filled.project()
    assert shown(filled.engine) == project(log_of(filled))


def test_progress_is_told_up_to_the_swap(filled: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "PIECE_EVENTS", 40)
    told: list[RebuildProgress] = []
    filled.rebuild_projections(on_progress=told.append)
    head = filled.head()
    assert list(dict.fromkeys(progress.stage for progress in told)) == ["read", "merge", "write", "swap"]
    assert [progress.position for progress in told if progress.stage == "read"] == [
        min(piece, head) for piece in range(40, head + 40, 40)
    ]
    assert {progress.head for progress in told} == {head}


@pytest.mark.parametrize("stage", ["read", "merge", "write"])
def test_a_rebuild_given_up_on_leaves_the_old_tables_as_they_were(filled: EventStore, stage: str) -> None:
    vandalise(filled, "coupons")
    before = stored(filled.engine)
    positions = [status.position for status in filled.status().projections]

    def give_up(progress: RebuildProgress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled.rebuild_projections(on_progress=give_up)
    assert stored(filled.engine) == before
    assert [status.position for status in filled.status().projections] == positions
    filled.rebuild_projections()
    assert shown(filled.engine) == project(log_of(filled))


def test_shadow_rows_that_went_missing_are_noticed_and_nothing_is_swapped(filled: EventStore) -> None:
    before = stored(filled.engine)

    def steal(progress: RebuildProgress) -> None:
        if progress.stage == "write":
            with filled.engine.begin() as connection:
                shadow = next(name for name in inspect(connection).get_table_names() if "redemptions__shadow" in name)
                connection.exec_driver_sql(f"DELETE FROM {shadow}")

    with pytest.raises(ProjectionError, match=r"redemptions.*nothing was swapped"):
        filled.rebuild_projections(on_progress=steal)
    assert stored(filled.engine) == before


def test_a_rebuilt_table_has_the_indexes_of_the_first_and_still_holds_a_key_once(
    filled: EventStore,
) -> None:

    def indexes() -> dict[str, list[tuple[str, ...]]]:
        inspector = inspect(filled.engine)
        return {
            model.name: [
                tuple(inspector.get_pk_constraint(model.name)["constrained_columns"]),
                *sorted(
                    tuple(str(each) for each in index["column_names"]) for index in inspector.get_indexes(model.name)
                ),
            ]
            for model in projections()
        }

    before = indexes()
    filled.rebuild_projections()
    assert indexes() == before
    for model in projections():
        with filled.engine.connect() as connection, pytest.raises(IntegrityError):
            connection.exec_driver_sql(f"INSERT INTO {model.name} SELECT * FROM {model.name}")


def test_a_rebuild_leaves_no_shadows(filled: EventStore) -> None:
    before = set(inspect(filled.engine).get_table_names())
    filled.rebuild_projections()
    assert set(inspect(filled.engine).get_table_names()) == before
