"""Making a store, bringing it up to date, and refusing what is not one of ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from operator import itemgetter
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, update
from sqlalchemy.engine import URL

from eventstore.demo import examples
from eventstore.errors import StoreNotReady
from eventstore.log.engine import make_engine, writing
from eventstore.log.expected_guards import expected_functions, expected_triggers, sqlite_guards
from eventstore.log.guards import check_guards, missing_guards
from eventstore.log.partitions import PARTITION_POSITIONS, Partition, list_partitions
from eventstore.log.records import Outcome, OutcomeKind
from eventstore.log.schema import HEAD_REVISION, migrate, revision
from eventstore.log.tables import event_keys, events, log_head, metadata
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore
from tests.rows import change
from tests.stores import text_of


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    return config


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_the_revision_this_program_works_with_is_the_newest_script() -> None:
    assert ScriptDirectory.from_config(configuration()).get_heads() == [HEAD_REVISION]


def test_the_migrated_schema_is_the_declared_one(store: EventStore) -> None:
    with store.engine.connect() as connection:
        others = {model.name for model in projections()} | {"alembic_version"}
        if store.engine.dialect.name == "postgresql":
            others |= {each.name for each in list_partitions(connection)}

        def ours(_: object, name: str | None, type_: str, *rest: object) -> bool:
            return not (type_ == "table" and name in others)

        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_guard_stands_on_a_new_store(store: EventStore) -> None:
    assert missing_guards(store.engine) == []
    assert check_guards(store.engine) == []


def test_every_trigger_and_function_that_a_migration_left_is_a_guard_that_is_checked(store: EventStore) -> None:
    with store.engine.connect() as connection:
        if store.engine.dialect.name == "sqlite":
            made = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars())
            assert made == set(sqlite_guards())
            assert len(made) == 16
            return
        rows = connection.exec_driver_sql("SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgparentid = 0")
        assert {
            (row[0].replace("events_from_1", "{partition}"), row[1]) for row in rows if not row[0].endswith("0001")
        } == {(trigger.table, trigger.name) for trigger in expected_triggers()}
        names = connection.exec_driver_sql("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        assert set(names.scalars()) == {function.name for function in expected_functions("public")}


# Partitions


SHIFT = """INSERT INTO events SELECT {position}, event_id, site_id, type, source, entity_id, coupon_id, event_time, recorded_at,
sequence, anonymize, payload, original, leaf_hash FROM events WHERE position = 1"""


@pytest.fixture
def before_partitions(postgresql: Callable[[], URL]) -> Iterator[EventStore]:
    """A store of revision 0002, when events was one table, with Wix's examples in it."""
    with EventStore.open(text_of(postgresql())) as source:
        for delivery in examples():
            source.ingest([(1, delivery.line())])
        with source.engine.connect() as connection:
            rows = {
                table: [row._asdict() for row in connection.execute(select(table))] for table in (events, event_keys)
            }
            head = connection.execute(select(log_head.c.size, log_head.c.recorded_at)).one()._asdict()
    store = EventStore(text_of(postgresql()))
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
        config = configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(insert(events), sorted(rows[events], key=itemgetter("position")))
        connection.execute(insert(event_keys), rows[event_keys])
        connection.execute(update(log_head).values(**head))
    yield store
    store.close()


def stored_in(store: EventStore) -> dict[str, int]:
    """The file that each table of events is stored in: a table that was copied has another."""
    with store.engine.connect() as connection:
        names = "SELECT relname, relfilenode::bigint FROM pg_class WHERE relname LIKE 'events%%' AND relkind = 'r'"
        return {name: number for name, number in connection.exec_driver_sql(names)}


def test_a_table_with_events_becomes_the_first_partition_without_being_copied(before_partitions: EventStore) -> None:
    store = before_partitions
    assert revision(store.engine) == "0002"
    before, kept = stored_in(store), store.read()
    assert len(kept) >= 10
    assert store.init() is True
    with store.engine.connect() as connection:
        assert list_partitions(connection) == [
            Partition(f"events_from_{start}", start, start + PARTITION_POSITIONS)
            for start in (1, 1 + PARTITION_POSITIONS, 1 + 2 * PARTITION_POSITIONS)
        ]
        indexes = connection.exec_driver_sql(
            """SELECT child.relname, parent.relname FROM pg_inherits
            JOIN pg_class child ON child.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent
            WHERE child.relkind = 'i' AND child.relname LIKE 'events#_from#_1#_%%' ESCAPE '#' ORDER BY 1"""
        )
        assert [tuple(row) for row in indexes] == [
            ("events_from_1_event_time_idx", "ix_events_event_time"),
            ("events_from_1_pkey", "pk_events"),
            ("events_from_1_site_id_coupon_id_position_idx", "ix_events_site_id_coupon_id_position"),
        ]
    assert stored_in(store)["events_from_1"] == before["events"]
    assert store.read() == kept
    assert check_guards(store.engine) == []
    # The ledger knows them all, and the log goes on.
    for record in kept:
        assert store.append(record.event) == Outcome(OutcomeKind.DUPLICATE, record.event.event_id, record.position)
    last = store.append(kept[0].event.model_copy(update={"event_id": "after the migration"}))
    assert last.position == kept[-1].position + 1
    assert store.project() == last.position


def test_the_first_partition_reaches_past_what_the_table_held(before_partitions: EventStore) -> None:
    store = before_partitions
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER events_next_position ON events")
        connection.exec_driver_sql(SHIFT.format(position=3 * PARTITION_POSITIONS))
    assert store.init() is True
    with store.engine.connect() as connection:
        first, *ahead = list_partitions(connection)
    assert (first.start, first.end) == (1, 4 * PARTITION_POSITIONS + 1)
    assert [each.start for each in ahead] == [4 * PARTITION_POSITIONS + 1, 5 * PARTITION_POSITIONS + 1]


@pytest.mark.parametrize(
    ("made", "named", "dropped"),
    [
        pytest.param("CREATE VIEW audit AS SELECT position FROM events", "audit", "DROP VIEW audit", id="view"),
        pytest.param(
            "CREATE MATERIALIZED VIEW totals AS SELECT count(position) FROM events",
            "totals",
            "DROP MATERIALIZED VIEW totals",
            id="materialized view",
        ),
        pytest.param(
            "CREATE TABLE notes (at bigint REFERENCES events)",
            "foreign key notes_at_fkey of notes",
            "DROP TABLE notes",
            id="foreign key",
        ),
    ],
)
def test_what_others_made_on_the_table_and_would_not_follow_it_is_named_before_anything_is_changed(
    before_partitions: EventStore, made: str, named: str, dropped: str
) -> None:
    store = before_partitions
    kept, stored = store.read(), stored_in(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(made)
    with pytest.raises(StoreNotReady, match=f"would not follow: {named}; drop them"):
        store.init()
    assert revision(store.engine) == "0002"
    assert (store.read(), stored_in(store)) == (kept, stored)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(dropped)
    assert store.init() is True
    assert store.read() == kept


def test_whoever_could_read_the_table_can_read_the_partitioned_one(before_partitions: EventStore) -> None:
    store = before_partitions

    def may(table: str, privilege: str) -> bool:
        with store.engine.connect() as connection:
            asked = f"SELECT has_table_privilege('auditor', '{table}', '{privilege}')"
            return bool(connection.exec_driver_sql(asked).scalar_one())

    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE auditor")
        connection.exec_driver_sql("GRANT SELECT ON events TO auditor")
    try:
        assert store.init() is True
        assert may("events", "SELECT")
        assert not may("events", "INSERT")
        # Not past the table itself, where a partition's own guards are fewer.
        assert not may("events_from_1", "SELECT")
        assert check_guards(store.engine) == []
    finally:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY auditor")
            connection.exec_driver_sql("DROP ROLE auditor")


def test_a_migration_that_fails_leaves_the_store_as_it_was(before_partitions: EventStore) -> None:
    store = before_partitions
    kept = store.read()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE events_from_10000001 (in_the_way text)")
    with pytest.raises(StoreNotReady, match="events_from_10000001"):
        store.init()
    assert revision(store.engine) == "0002"
    assert store.read() == kept
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE events_from_10000001")
    assert store.init() is True
    assert store.read() == kept


def test_a_new_store_is_made_once_and_opening_it_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with EventStore(path) as store:
        assert revision(store.engine) is None
        assert store.init() is True
        assert store.init() is False
        assert revision(store.engine) == HEAD_REVISION
        assert migrate(store.engine) is False


def test_many_may_open_the_same_new_store_at_once(tmp_path: Path) -> None:
    openers = 4
    barrier = threading.Barrier(openers)

    def open_all(_: int) -> list[int]:
        heads = []
        for number in range(10):
            barrier.wait()
            with EventStore.open(tmp_path / f"{number}.db") as store:
                heads.append(store.head())
        return heads

    with ThreadPoolExecutor(openers) as pool:
        assert list(pool.map(open_all, range(openers))) == [[0] * 10] * openers


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with EventStore.open(tmp_path / "empty.db") as store:
        assert store.head() == 0


def test_a_folder_with_a_percent_sign_or_a_blank_is_as_good_as_any(tmp_path: Path) -> None:
    folder = tmp_path / "100% of it"
    folder.mkdir()
    with EventStore.open(folder / "a %(b)s.db") as store:
        assert store.head() == 0


def test_the_log_is_never_migrated_down(store: EventStore) -> None:
    config = configuration()
    with store.engine.connect() as plain:
        connection = writing(plain)
        config.attributes["connection"] = connection
        with connection.begin(), pytest.raises(RuntimeError, match="never migrated down"):
            command.downgrade(config, "base")
    assert revision(store.engine) == HEAD_REVISION
    assert store.head() == 0


@pytest.mark.parametrize("create", [True, False])
def test_a_store_of_a_newer_program_is_refused(store_url: str, create: bool) -> None:
    change(store_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreNotReady, match="9999"):
        EventStore.open(store_url, create=create)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("table", ["events", "event_keys", "log_head"])
def test_a_foreign_database_with_tables_of_our_names_is_refused_and_left_alone(
    tmp_path: Path, table: str, create: bool
) -> None:
    path = tmp_path / "foreign.db"
    execute(path, f"CREATE TABLE {table} (theirs TEXT)", f"INSERT INTO {table} VALUES ('precious')")
    with pytest.raises(StoreNotReady, match="did not make"):
        EventStore.open(path, create=create)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [(table,)]
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == [("precious",)]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("revision_", [HEAD_REVISION, "0000", "a1b2c3d4e5f6"])
def test_another_project_that_uses_alembic_is_refused_and_left_alone(
    tmp_path: Path, revision_: str, create: bool
) -> None:
    path = tmp_path / "foreign.db"
    execute(
        path,
        "CREATE TABLE alembic_version (version_num TEXT)",
        f"INSERT INTO alembic_version VALUES ('{revision_}')",
        "CREATE TABLE theirs (precious TEXT)",
    )
    with pytest.raises(StoreNotReady, match="another project's"):
        EventStore.open(path, create=create)
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    assert tables == [("alembic_version",), ("theirs",)]


def test_a_foreign_postgresql_database_is_refused(postgresql: Callable[[], URL]) -> None:
    url = postgresql().render_as_string(hide_password=False)
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    engine.dispose()
    with pytest.raises(StoreNotReady, match="did not make"):
        EventStore.open(url)


def test_a_missing_directory_is_refused_by_name_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreNotReady, match=r"nowhere.*does not exist"):
        EventStore.open(tmp_path / "nowhere" / "log.db")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but more than a page of somebody's notes\n" * 200)
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StoreNotReady, match="not a database"):
            EventStore.open(path, create=create)
    assert path.read_bytes() == before


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreNotReady):
        EventStore.open(tmp_path)


def test_a_store_that_is_not_there_is_not_made_when_told_not_to(tmp_path: Path) -> None:
    with pytest.raises(StoreNotReady, match="eventstore init"):
        EventStore.open(tmp_path / "absent.db", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret@127.0.0.1:1/log",
        "postgresql://user@127.0.0.1:1/log?password=secret",
        "postgresql://user@127.0.0.1:1/log?sslpassword=secret&application_name=mine",
    ],
)
def test_a_server_that_does_not_answer_is_said_so_without_the_password(url: str) -> None:
    with pytest.raises(StoreNotReady, match=r"127\.0\.0\.1:1/log.* cannot be opened") as refused:
        EventStore.open(url)
    assert "secret" not in str(refused.value)
