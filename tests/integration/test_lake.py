"""The lake: whatever way it was brought up to date, it is what the log is and what the store's projections are."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from hypothesis import given

import analytics
from analytics.lake import Lake, default_lake
from analytics.lake import lake as verbs
from eventstore.demo import month
from eventstore.errors import InputError, ProjectionError, StoreUnavailable
from eventstore.event import Event
from eventstore.projections import step
from eventstore.store import EventStore
from tests.integration.test_dead_letters import CODES, append, broken, told
from tests.integration.test_own_projections import STORY
from tests.lakes import Way, assert_shows, bring_up, lake_of, positions, projections_in_lake, small, ways
from tests.serving import PROJECTIONS
from tests.stores import NewUrl, tried

APP_WEEKS, COUPON_DAYS = PROJECTIONS / "app_weeks", PROJECTIONS / "coupon_days"
OWN = [APP_WEEKS, COUPON_DAYS]
AT_ONCE = timedelta(0)
"""Keep nothing that is not used any more."""


@pytest.fixture
def story(store_url: str) -> Iterator[EventStore]:
    """A store with two projections of its owner's, and a few uses."""
    with EventStore.open(store_url, projections=OWN) as store:
        list(store.append_many(STORY[:5]))
        yield store


@pytest.fixture
def lake(story: EventStore, tmp_path: Path) -> Lake:
    """Its lake, brought up to date in commits of two events."""
    found = lake_of(story, tmp_path / "lake")
    with small(commit_events=2):
        found.catch_up(story.engine)
    return found


def data_files(folder: Path | str) -> set[Path]:
    return set(Path(folder).rglob("*.parquet"))


def folder_of(lake: Lake) -> Path:
    return Path(lake.location)


# --- any way of catching up -------------------------------------------------------------------------------------------


def test_however_catching_up_and_appending_take_turns_the_lake_shows_what_the_store_does(
    new_url: NewUrl, dialect: str, tmp_path: Path
) -> None:
    numbers = itertools.count()

    @tried(5, dialect)
    @given(way=ways(max_size=16))
    def holds(way: Way) -> None:
        folder = tmp_path / str(next(numbers))
        with new_url() as url, EventStore.open(url, projections=OWN) as store:
            lake = lake_of(store, folder)
            bring_up(lake, store, way)
            before = assert_shows(lake, store)
            lake.compact()
            after = lake.snapshot()
            assert projections_in_lake(after, store.catalogue) == projections_in_lake(before, store.catalogue)
            assert positions(after) == positions(before)
        shutil.rmtree(folder, ignore_errors=True)

    holds()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_month_in_small_pieces_needs_every_level_and_says_what_is_gone(store_url: str, tmp_path: Path) -> None:
    levels: set[int] = set()
    gone = 0
    lines = [(number, delivery.line()) for number, delivery in enumerate(itertools.islice(month(), 36), start=1)]
    with EventStore.open(store_url, projections=OWN) as store:
        lake = lake_of(store, tmp_path / "lake")
        with small(step_events=20, commit_events=20):
            for first in range(0, len(lines), 6):
                store.ingest(iter(lines[first : first + 6]))
                lake.catch_up(store.engine)
                found = lake.snapshot()
                levels |= {level for several in found.projections.values() for level, _ in several}
            # One use in an earlier week than it was thought to be in, and nothing else in the later one.
            for use in (STORY[0], STORY[4]):
                store.append(use)
                lake.catch_up(store.engine)
        with duckdb.connect(":memory:") as connection:
            files = [file for _, several in lake.snapshot().projections["app_weeks"] for file in several]
            gone = len(connection.execute("FROM read_parquet(?) WHERE _gone", [files]).fetchall())
        assert_shows(lake, store)
        assert levels == {0, 1, 2, 3}
        assert gone > 0
        lake.compact()
        after = assert_shows(lake, store)
        assert {level for several in after.projections.values() for level, _ in several} == {0}
        assert len(after.events) == 1


def test_a_lake_of_nothing_shows_nothing_and_takes_in_what_comes(store: EventStore, tmp_path: Path) -> None:
    lake = lake_of(store, tmp_path / "lake")
    assert lake.catch_up(store.engine) == 0
    assert_shows(lake, store)
    lake.compact()
    # No reward yet, and then one: its table had no file before.
    append(store, told("a", 1))
    lake.catch_up(store.engine)
    assert lake.snapshot().projections["loyalty_coupons"] == ()
    reward = Event(
        event_id="r1",
        type="loyalty_coupon.created",
        source="rest",
        site_id="shop",
        entity_id="L1",
        event_time=told("a", 1).event_time,
    )
    append(store, reward)
    with small():
        lake.catch_up(store.engine)
    assert_shows(lake, store)


def test_it_is_brought_up_to_date_while_nothing_is_new_and_nothing_is_written(story: EventStore, lake: Lake) -> None:
    def written() -> set[Path]:
        return {path for path in folder_of(lake).rglob("*") if path.is_file()}

    before = written()
    lake.catch_up(story.engine)
    assert written() == before


# --- other logs, other folders ----------------------------------------------------------------------------------------


def test_the_lake_of_another_log_is_refused_and_made_anew_once_it_is_removed(
    story: EventStore, lake: Lake, new_url: NewUrl
) -> None:
    with new_url() as url, EventStore.open(url, projections=OWN) as other:
        list(other.append_many(STORY[:5]))
        with pytest.raises(InputError, match=r"the lake .* was made of another log.*remove the lake, it is made anew"):
            lake.catch_up(other.engine)
        assert_shows(lake, story)
        shutil.rmtree(folder_of(lake))
        lake.catch_up(other.engine)
        assert_shows(lake, other)


def test_the_lake_of_a_log_before_an_older_backup_was_restored_is_refused(new_url: NewUrl, tmp_path: Path) -> None:
    with new_url() as url:
        with EventStore.open(url) as store:
            append(store, told("a", 1), told("a", 2))
        with new_url(of=url) as backup:
            with EventStore.open(url) as store:
                append(store, told("a", 3))
                lake = lake_of(store, tmp_path / "lake")
                lake.catch_up(store.engine)
            with EventStore.open(backup) as restored:
                with pytest.raises(InputError, match="an older backup of it was restored"):
                    lake.catch_up(restored.engine)
                append(restored, told("a", 3), told("a", 4))
                with pytest.raises(InputError, match="their events at position 3 differ"):
                    lake.catch_up(restored.engine)
            # An older lake of the same log goes on with the copy.
            with new_url(of=backup) as copy, EventStore.open(copy) as again:
                other = lake_of(again, tmp_path / "other")
                other.catch_up(again.engine)
                assert_shows(other, again)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_lake_that_cannot_be_written_is_refused_with_the_way_out(story: EventStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(InputError, match=r"file/lake cannot be written: .*EVENTSTORE_LAKE"):
        lake_of(story, tmp_path / "file" / "lake").catch_up(story.engine)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["it's 50% off #1 for Ünï", "level=0/a~b+c,d;e=f&g$h(i)!"])
def test_a_folder_may_have_any_usual_name(story: EventStore, tmp_path: Path, name: str) -> None:
    lake = lake_of(story, tmp_path / name / "lake")
    lake.catch_up(story.engine)
    assert_shows(lake, story)
    list(story.append_many(STORY[5:]))
    lake.catch_up(story.engine)
    lake.compact(keep=AT_ONCE)
    assert_shows(lake, story)
    with analytics.connect(lake=lake.location, projections=story.catalogue) as db:
        assert db.execute("SELECT count(*), max(position) FROM events").fetchall() == [(7, 7)]


@pytest.mark.parametrize("name", ["shop[1]", "what?", "every*", "a%20b", "a^b", "a|b"])
def test_a_folder_whose_name_is_a_pattern_or_an_escape_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"is more than a name to those who read it; name another folder"):
        Lake(tmp_path / name)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("table", ["events", "coupons"])
def test_a_lake_that_has_lost_a_file_says_what_to_do(story: EventStore, lake: Lake, table: str) -> None:
    for path in (folder_of(lake) / table).rglob("part-*.parquet"):
        path.unlink()
    list(story.append_many(STORY[5:]))
    with small(), pytest.raises(StoreUnavailable, match=r"the lake .* cannot be read.*remove .*, it is made anew"):
        lake.catch_up(story.engine)
    shutil.rmtree(folder_of(lake))
    lake.catch_up(story.engine)
    assert_shows(lake, story)


# --- other models -----------------------------------------------------------------------------------------------------


def another_version(folder: Path, to: Path) -> Path:
    """The same models under version 2."""
    copied = shutil.copytree(folder, to)
    for file in copied.glob("*.sql"):
        file.write_text(file.read_text(encoding="utf-8").replace("-- version: 1", "-- version: 2"), encoding="utf-8")
    return copied


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_projections_come_go_come_back_and_change(store_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    with EventStore.open(store_url) as store:
        list(store.append_many(STORY[:2]))
        lake_of(store, folder).catch_up(store.engine)
    with EventStore.open(store_url, projections=OWN) as store:  # come
        list(store.append_many(STORY[2:4]))
        lake_of(store, folder).catch_up(store.engine)
        store.upgrade()
        assert_shows(lake_of(store, folder), store)
    with EventStore.open(store_url) as store:  # go
        list(store.append_many(STORY[4:5]))
        lake_of(store, folder).catch_up(store.engine)
        assert_shows(lake_of(store, folder), store)
    with EventStore.open(store_url, projections=OWN) as store:  # come back
        list(store.append_many(STORY[5:6]))
        lake_of(store, folder).catch_up(store.engine)
        store.upgrade()
        assert_shows(lake_of(store, folder), store)
    changed = [another_version(each, tmp_path / each.name) for each in OWN]
    with EventStore.open(store_url, projections=changed) as store:
        found = lake_of(store, folder)
        found.catch_up(store.engine)
        store.upgrade()
        assert_shows(found, store)
        list(store.append_many(STORY[6:]))
        found.catch_up(store.engine)
        assert_shows(found, store)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_lake_that_lacks_a_projection_says_so_to_who_does_not_bring_it_up_to_date(
    store_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "lake"
    with EventStore.open(store_url) as store:
        list(store.append_many(STORY))
        lake_of(store, folder).catch_up(store.engine)
    with pytest.raises(StoreUnavailable, match=r"has no app_weeks, coupon_days of this version; bring it up to date"):
        analytics.connect(lake=folder, projections=OWN)


# --- what a model cannot take -----------------------------------------------------------------------------------------


def test_an_event_that_is_no_json_stops_nothing_and_its_coupon_is_left_out(store: EventStore, tmp_path: Path) -> None:
    lake = lake_of(store, tmp_path / "lake")
    append(store, told("a", 1), told("b", 1))
    lake.catch_up(store.engine)
    # Nobody has parked it yet, and it is the last event of all.
    append(store, told("a", 2), broken(told("a", 3)))
    assert lake.catch_up(store.engine) == 4
    assert len(store.dead_letters()) == 3
    assert_shows(lake, store)
    with analytics.connect(store.engine, lake=lake.location) as db:
        rows = db.execute("SELECT event_id, site_id, coupon_id, code FROM facts ORDER BY position").fetchall()
        assert rows[2:] == [("a-2", "shop", "a", "A2"), ("a-3", "shop", "a", None)]
        assert db.execute("SELECT coupon_id, code FROM coupons ORDER BY ALL").fetchall() == [("a", "A2"), ("b", "B1")]
    append(store, told("a", 4), told("b", 2))
    lake.catch_up(store.engine)
    assert_shows(lake, store)
    for letter in store.dead_letters():
        store.skip_dead_letter(letter.id, "written by a faulty program")
    assert lake.catch_up(store.engine) == 6
    assert_shows(lake, store)
    with analytics.connect(store.engine, lake=lake.location) as db:
        assert db.execute("SELECT code FROM coupons ORDER BY ALL").fetchall() == [("A4",), ("B2",)]
    # Made anew, it comes to the same.
    shutil.rmtree(folder_of(lake))
    lake.catch_up(store.engine)
    assert_shows(lake, store)


@pytest.mark.parametrize("where", ["lift", "merge"])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_mended_model_takes_in_what_waited_for_it(store_url: str, tmp_path: Path, where: str) -> None:
    """`where` the model fails: while it reads the events, or while Delta writes the rows that it merges."""
    refuses = "CASE WHEN code = 'BOOM' THEN error('no such code') ELSE true END"
    assert "ELSE true END" in CODES
    lifting = CODES[: CODES.index("WHERE code IS NOT NULL")] + f"WHERE code IS NOT NULL AND {refuses}\n"
    lifting += CODES[CODES.index("GROUP BY site_id, coupon_id") :]
    merging = lifting.replace(refuses, "true").replace(
        "SELECT site_id, coupon_id, len(_seen) AS codes",
        "SELECT site_id, coupon_id, CASE WHEN list_contains(_seen, 3) THEN error('no third') ELSE len(_seen) END AS codes",
    )
    models = tmp_path / "models"
    models.mkdir()
    file = models / "codes.sql"
    file.write_text(lifting if where == "lift" else merging, encoding="utf-8")
    folder = tmp_path / "lake"
    with EventStore.open(store_url, projections=[models]) as store:
        append(store, told("a", 1), told("b", 1), told("a", 2, "BOOM"), told("a", 3))
        lake = lake_of(store, folder)
        lake.catch_up(store.engine)
        [letter] = store.dead_letters()
        assert letter.position == 3
        assert_shows(lake, store)
    file.write_text(CODES.replace("code = 'BOOM'", "false"), encoding="utf-8")
    with EventStore.open(store_url, projections=[models]) as store:
        assert [each.events for each in store.retry_dead_letters()] == [2]
        lake = lake_of(store, folder)
        lake.catch_up(store.engine)
        snapshot = assert_shows(lake, store)
        assert [row[2] for row in projections_in_lake(snapshot, store.catalogue)["codes"]] == [3, 1]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_model_that_can_take_hardly_anything_is_named(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MOST_PARKED", 3)
    (tmp_path / "codes.sql").write_text(CODES, encoding="utf-8")
    with EventStore.open(store_url, projections=[tmp_path]) as store:
        append(store, *[told(f"c{number}", 1, code="BOOM") for number in range(9)])
        with pytest.raises(ProjectionError, match=r"codes.* cannot take the events 1 to 9"):
            lake_of(store, tmp_path / "lake").catch_up(store.engine)
    with EventStore.open(store_url) as store:
        lake = lake_of(store, tmp_path / "lake")
        lake.catch_up(store.engine)
        assert_shows(lake, store)


# --- verify and compact -----------------------------------------------------------------------------------------------


def changed(table: DeltaTable) -> None:
    table.update(updates={"payload": "'{}'"}, predicate="position = 3")


def redated(table: DeltaTable) -> None:
    table.update(
        updates={"recorded_at": "arrow_cast('2020-01-01T00:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')"},
        predicate="position = 3",
    )


def missing(table: DeltaTable) -> None:
    table.delete("position = 3")


def doubled(table: DeltaTable) -> None:
    write_deltalake(table, _rows(table, "position = 3"), mode="append")


def replaced(table: DeltaTable) -> None:
    """One is missing and another doubled, so that there are as many."""
    write_deltalake(table, _rows(table, "position = 4"), mode="append")
    table.delete("position = 3")


def beyond(table: DeltaTable) -> None:
    rows = _rows(table, "position = 5")
    write_deltalake(table, rows.set_column(0, rows.schema.field(0), pa.array([3], pa.int64())), mode="append")


def _rows(table: DeltaTable, where: str) -> pa.Table:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(f"FROM read_parquet(?) WHERE {where}", params=[table.file_uris()]).to_arrow_table()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_lake_of_another_layout_is_made_anew(store: EventStore, tmp_path: Path) -> None:
    append(store, *STORY)
    former = CommitProperties(app_transactions=[Transaction("eventstore.events.former", 2)])
    rows = pa.table({"position": [1, 2], "event_id": ["a", "b"]})
    write_deltalake(tmp_path / "lake" / "events", rows, commit_properties=former)
    lake = Lake(tmp_path / "lake")
    assert lake.catch_up(store.engine) == store.head()
    assert all(segment.same for segment in lake.verify(store.engine))
    assert_shows(lake, store)


@pytest.mark.parametrize(
    "tamper", [changed, redated, missing, doubled, replaced, beyond], ids=lambda each: each.__name__
)
def test_verify_finds_the_segment_in_which_the_lake_is_not_the_log(
    story: EventStore, lake: Lake, tamper: Callable[[DeltaTable], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "SEGMENT_EVENTS", 2)
    assert [(each.first, each.last, each.in_log, each.in_lake, each.same) for each in lake.verify(story.engine)] == [
        (1, 2, 2, 2, True),
        (3, 4, 2, 2, True),
        (5, 5, 1, 1, True),
    ]
    tamper(DeltaTable(folder_of(lake) / "events"))
    assert [each.same for each in lake.verify(story.engine)] == [True, False, True]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_verify_counts_what_the_lake_lacks(story: EventStore, lake: Lake) -> None:
    list(story.append_many(STORY[5:]))
    [segment] = lake.verify(story.engine)
    assert (segment.in_log, segment.in_lake, segment.same) == (7, 5, False)
    [segment] = lake_of(story, folder_of(lake) / "none").verify(story.engine)
    assert (segment.in_log, segment.in_lake, segment.same) == (7, 0, False)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_compacting_joins_files_and_deletes_those_that_are_old_and_unused(story: EventStore, lake: Lake) -> None:
    with small(commit_events=1):
        list(story.append_many(STORY[5:]))
        lake.catch_up(story.engine)
    opened = lake.snapshot()
    before = data_files(folder_of(lake))
    assert all(number == 0 for number in lake.compact(keep=timedelta(minutes=20)).values()), "rounded up to an hour"
    assert before <= data_files(folder_of(lake))
    assert projections_in_lake(opened, story.catalogue) == projections_in_lake(lake.snapshot(), story.catalogue)
    assert positions(opened) == list(range(1, 8))
    # What a killed writer has left behind, long ago; and another just now, which may be at it still.
    [event_file] = lake.snapshot().events
    left, fresh = (folder_of(lake) / "events" / f"part-{name}.parquet" for name in ("left", "fresh"))
    for path in (left, fresh):
        shutil.copyfile(event_file, path)
    long_ago = time.time() - timedelta(days=30).total_seconds()
    os.utime(left, (long_ago, long_ago))
    assert lake.compact(keep=timedelta(days=1))["events"] == 1
    assert not left.exists()
    assert fresh.exists()
    deleted = lake.compact(keep=AT_ONCE)
    assert deleted["events"] > 1
    assert data_files(folder_of(lake)) - {path for path in folder_of(lake).rglob("_delta_log/*.parquet")} == {
        Path(file) for file in lake.snapshot().files
    }
    assert_shows(lake, story)
    assert set(lake.status().files.values()) <= {0, 1}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_is_joined_is_compressed_and_sorted_as_what_is_written(story: EventStore, lake: Lake) -> None:
    lake.compact()
    with duckdb.connect(":memory:") as connection:
        [file] = lake.snapshot().events
        found = connection.execute("SELECT DISTINCT compression FROM parquet_metadata(?)", [file]).fetchall()
        assert found == [("ZSTD",)]
        assert connection.execute("SELECT position FROM read_parquet(?)", [file]).fetchall() == [
            (position,) for position in range(1, 6)
        ]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_after_many_commits_a_table_still_knows_how_far_it_is(story: EventStore, lake: Lake) -> None:
    table = lake_of(story, folder_of(lake))._events.open()
    for _ in range(25):
        table.mark(5, {"other": 7})
    lake.compact(keep=AT_ONCE)
    reopened = lake_of(story, folder_of(lake))._events.open()
    assert (reopened.position, reopened.number("other")) == (5, 7)
    assert list((folder_of(lake) / "events" / "_delta_log").glob("*.checkpoint*"))
    assert_shows(lake, story)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_what_a_connection_was_opened_on_stays_as_it_was(story: EventStore, tmp_path: Path) -> None:
    location = default_lake(story.engine)
    with analytics.connect(story.engine, projections=story.catalogue) as db:
        asked = "SELECT position FROM events UNION ALL SELECT times_used FROM app_weeks ORDER BY ALL"
        before = db.execute(asked).fetchall()
        list(story.append_many(STORY[5:]))
        lake = lake_of(story, location)
        with small():
            lake.catch_up(story.engine)
        lake.compact()
        assert db.execute(asked).fetchall() == before
        with analytics.connect(story.engine, projections=story.catalogue) as later:
            assert len(later.execute(asked).fetchall()) > len(before)
