"""Rebuilding projections from the log while everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import inspect, select
from sqlalchemy.exc import IntegrityError

from eventstore.demo import month
from eventstore.errors import InputError, NotFound, ProjectionError
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.log.engine import write_transaction
from eventstore.log.tables import dead_letters
from eventstore.projections import duck, rebuild
from eventstore.projections.catalogue import Projection, projections
from eventstore.projections.duck import ModelSession
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


def count(store: EventStore, table: str) -> int:
    with store.engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


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


def test_what_does_not_fit_into_memory_is_merged_in_parts_to_the_same_bytes(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored(filled.engine)
    register = list(filled.projection_as_of("coupons"))
    merged = list[str]()
    whole = ModelSession._merge

    def merge(session: ModelSession, model: Projection, partial: str) -> None:
        merged.append(model.name)
        whole(session, model, partial)

    monkeypatch.setattr(ModelSession, "_merge", merge)
    # As if the limit were of a few kilobytes.
    monkeypatch.setattr(duck, "PART_OF_MEMORY", 1e-5)
    result = filled.rebuild_projections()
    assert merged.count("coupons") > 3
    assert merged.count("redemptions") > 2
    assert result.rows == {name: len(rows) for name, rows in before.items()}
    assert stored(filled.engine) == before
    assert list(filled.projection_as_of("coupons")) == register


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
    assert list(dict.fromkeys(progress.stage for progress in told)) == ["read", "merge", "write", "catch_up", "swap"]
    assert [progress.position for progress in told if progress.stage == "read"] == [
        min(piece, head) for piece in range(40, head + 40, 40)
    ]
    assert {progress.head for progress in told} == {head}


@pytest.mark.parametrize("stage", ["read", "merge", "write", "catch_up"])
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


def test_a_rebuild_leaves_no_shadows_and_keeps_what_it_has_replaced_until_the_next_one(filled: EventStore) -> None:
    before = set(inspect(filled.engine).get_table_names())
    old = {f"{model.name}__old" for model in projections()}
    vandalise(filled, "coupons")
    filled.rebuild_projections()
    assert set(inspect(filled.engine).get_table_names()) == before | old
    assert count(filled, "coupons__old") == 0
    filled.rebuild_projections()
    assert set(inspect(filled.engine).get_table_names()) == before | old
    assert count(filled, "coupons__old") == count(filled, "coupons") > 0
    filled.rebuild_projections("coupons", keep=False)
    assert set(inspect(filled.engine).get_table_names()) == before | old - {"coupons__old"}
    status = filled.rebuild_status()
    assert status is not None
    assert set(status.kept) == old - {"coupons__old"}
    assert set(filled.drop_kept_tables()) == set(status.kept)
    assert set(inspect(filled.engine).get_table_names()) == before


# Events that a model cannot take

NUMBERS = """-- projection: numbers
-- version: 1
-- from: facts
-- key: site_id, coupon_id
-- about: Codes that are numbers; no other code can be taken.
-- column: site_id    text    the site
-- column: coupon_id  text    the coupon
-- column: number     bigint  its highest code

-- [lift]
SELECT site_id, coupon_id, max(CAST(code AS BIGINT)) AS number
FROM facts
WHERE code IS NOT NULL
GROUP BY site_id, coupon_id

-- [merge]
SELECT site_id, coupon_id, max(number) AS number
FROM partial
GROUP BY site_id, coupon_id
"""


def created(number: int, code: str) -> Event:
    return Event(
        event_id=f"e-{number}",
        type="coupon.created",
        entity_id=f"c-{number}",
        coupon_id=f"c-{number}",
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        coupon=Coupon(code=code, discount=Discount(type=DiscountType.UNKNOWN)),
        source=Source.VELO,
        site_id="s",
    )


@pytest.fixture
def numbered(store_url: str, tmp_path: Path) -> Iterator[EventStore]:
    """A store with a projection that takes numbers only, one of whose thirty codes is none."""
    (tmp_path / "numbers.sql").write_text(NUMBERS, encoding="utf-8")
    with EventStore.open(store_url, projections=[tmp_path]) as store:
        events = [created(number, "FREE" if number == 17 else str(number)) for number in range(1, 31)]
        assert [outcome.position for outcome in store.append_many(events)] == list(range(1, 31))
        yield store


def letter(store: EventStore, position: int, **resolved: object) -> None:
    with write_transaction(store.engine) as connection:
        connection.execute(
            dead_letters.insert().values(
                projection="numbers",
                position=position,
                site_id="s",
                subject_id=f"c-{position}",
                event_id=f"e-{position}",
                reason="no number",
                parked_at=datetime.now(UTC),
                **resolved,
            )
        )


@pytest.mark.parametrize("piece", [7, 100])
def test_an_event_that_a_model_cannot_take_is_named_and_the_old_tables_stay(
    numbered: EventStore, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(rebuild, "PIECE_EVENTS", piece)
    before = numbered.status().projections
    with pytest.raises(ProjectionError, match=r"projection numbers .* position 17 \(id e-17\): .*old tables stay"):
        numbered.rebuild_projections()
    assert numbered.status().projections == before
    status = numbered.rebuild_status()
    assert status is not None
    assert status.outcome == "failed"
    assert "position 17" in (status.message or "")
    # The others do not read of it.
    assert numbered.rebuild_projections("coupons").rows == {"coupons": 30}


def test_an_event_that_comes_during_the_rebuild_and_cannot_be_taken_is_named_too(
    numbered: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter(numbered, 17, resolved_at=datetime.now(UTC), resolution="skipped")
    monkeypatch.setattr(rebuild, "FEW_EVENTS", 5)

    def meanwhile(progress: RebuildProgress) -> None:
        if progress.stage == "write":
            list(numbered.append_many([created(number, "NONE" if number == 38 else "1") for number in range(31, 41)]))

    with pytest.raises(ProjectionError, match=r"numbers .* position 38"):
        numbered.rebuild_projections("numbers", on_progress=meanwhile)
    assert count(numbered, "numbers") == 0


def test_skipped_events_are_left_out_of_their_projection_alone_and_the_parked_ones_are_taken_in(
    numbered: EventStore,
) -> None:
    letter(numbered, 17, resolved_at=datetime.now(UTC), resolution="skipped")
    letter(numbered, 5)
    letter(numbered, 6)
    result = numbered.rebuild_projections()
    assert (result.rows["numbers"], result.rows["coupons"]) == (29, 30)
    with numbered.engine.connect() as connection:
        found = connection.execute(select(dead_letters.c.position, dead_letters.c.resolution))
        assert {position: resolution for position, resolution in found} == {17: "skipped", 5: "retried", 6: "retried"}


def test_a_letter_that_is_skipped_during_a_rebuild_stops_its_swap(numbered: EventStore) -> None:
    letter(numbered, 17, resolved_at=datetime.now(UTC), resolution="skipped")

    def meanwhile(progress: RebuildProgress) -> None:
        if progress.stage == "write":
            letter(numbered, 3, resolved_at=datetime.now(UTC), resolution="skipped")

    with pytest.raises(ProjectionError, match=r"skipped or retried during the rebuild; nothing was swapped"):
        numbered.rebuild_projections("numbers", on_progress=meanwhile)
    assert count(numbered, "numbers") == 0


# Catching up


@pytest.mark.parametrize("few", [0, 1000])
def test_after_the_swap_everything_appended_before_it_is_in_the_tables(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(rebuild, "FEW_EVENTS", few)
    monkeypatch.setattr(rebuild, "STEP_EVENTS", 17)
    later: list[int] = []

    def meanwhile(progress: RebuildProgress) -> None:
        if progress.stage in ("write", "catch_up") and len(later) < 2:
            ingest(filled, 60, after=150 + 60 * len(later))
            later.append(filled.head())

    result = filled.rebuild_projections(on_progress=meanwhile)
    assert later[0] < later[1] == result.position == filled.head()
    assert {each.lag for each in filled.status().projections} == {0}
    # Without a step of the live runner.
    assert shown(filled.engine) == project(log_of(filled))
    assert result.rows == {name: len(rows) for name, rows in stored(filled.engine).items()}


def test_a_rebuild_needs_an_amount_of_memory_that_it_understands(filled: EventStore) -> None:
    with pytest.raises(InputError, match="not an amount of memory: 'lots'; write it as 512MB"):
        filled.rebuild_projections(memory_limit="lots")
    before = stored(filled.engine)
    with pytest.raises(ProjectionError, match=r"(?i)memory.*old tables stay"):
        filled.rebuild_projections(memory_limit="1MB")
    assert stored(filled.engine) == before
    filled.rebuild_projections(memory_limit="64 MiB")
    assert stored(filled.engine) == before
