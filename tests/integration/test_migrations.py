"""Making a store, bringing it up to date, and refusing what is not one of ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL

from eventstore.errors import StoreNotReady
from eventstore.log.engine import make_engine, writing
from eventstore.log.schema import GUARDS, HEAD_REVISION, migrate, missing_guards, revision
from eventstore.log.tables import metadata
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore


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
    derived = {model.name for model in projections()}

    def ours(_: object, name: str | None, type_: str, *rest: object) -> bool:
        return not (type_ == "table" and (name in derived or name == "alembic_version"))

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_guard_stands_on_a_new_store(store: EventStore) -> None:
    assert GUARDS[store.engine.dialect.name]
    assert missing_guards(store.engine) == []


def test_every_trigger_that_a_migration_makes_is_a_guard_that_is_checked() -> None:
    for engine, guards in GUARDS.items():
        scripts = sorted((Path(str(files("migrations"))) / "sql").glob(f"*_guards_{engine}.sql"))
        text = "".join(script.read_text(encoding="utf-8") for script in scripts)
        made = {line.split()[2] for line in text.splitlines() if line.startswith("CREATE TRIGGER")}
        assert made == guards


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
def test_a_store_of_a_newer_program_is_refused(path: Path, create: bool) -> None:
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreNotReady, match="9999"):
        EventStore.open(path, create=create)


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


def test_a_server_that_does_not_answer_is_said_so_without_the_password() -> None:
    with pytest.raises(StoreNotReady, match="cannot be opened") as refused:
        EventStore.open("postgresql://user:secret@127.0.0.1:1/log")
    assert "secret" not in str(refused.value)
