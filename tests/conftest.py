"""Stores to test with: real SQLite files and a real PostgreSQL, each test with its own.

A test that touches a store runs once on each engine: it takes `store`, `store_url`, `new_store`, `new_url`, `new_server`,
`server` or `eventstore`. On one engine stand

- what is about that engine by nature: files and where they lie, a full disk, SQLite's loose types and pragmas, PostgreSQL's roles
  and connections. Such tests take `path`, `sqlite_store`, `postgresql` or `postgresql_store`, or name a file themselves;
- what a database cannot change and is dear: the API's page in a browser (test_api_page.py), the relay and Wix's SDK under Node
  (test_relay_end_to_end.py, test_real_sdk.py), the demonstration in the working directory, which is a SQLite file by default
  (test_cli_demo.py), and the reading of tokens and bodies before any store is asked (test_forgery.py,
  test_http_bad_input.py, most of test_fuzz_webhook.py); and what is asked of the lake, the same of both stores, over the
  command line, HTTP, in reports, notebooks, files and on Spark (test_reports*.py, test_changes_by_actor.py, test_cli_sql.py,
  test_cli_lake.py, test_export.py, test_http_reports.py, test_answering.py, test_notebooks.py, test_spark.py). All on SQLite.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import URL

from eventstore.config import Settings
from eventstore.store import EventStore
from tests.commands import Command
from tests.processes import FORKING
from tests.serving import NewServer, Serving, serving
from tests.stores import ENGINES, NewUrl, OpenStore, PostgresqlServer, SqliteStores

__all__ = ["NewServer", "OpenStore"]

# Slow machines are no failures: examples have no deadline.
settings.register_profile("eventstore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("eventstore")

# What the processes of the tests are forked with.
FORKING.set_forkserver_preload(
    [
        "tests.tailing",
        "eventstore.api.server",
        "eventstore.projections.rebuild",
        "alembic.command",
        "psycopg",
        "uvloop",
        "tests.lakes",
        "analytics.answering",
    ]
)


def pytest_xdist_auto_num_workers() -> int:
    """Four more processes than cores: a good part of the tests wait for servers that start and end."""
    return (os.cpu_count() or 1) + 4


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lakes of PostgreSQL databases lie in the user's cache folder: here in one that goes with the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def sqlite_stores(tmp_path_factory: pytest.TempPathFactory) -> SqliteStores:
    """Makes SQLite stores."""
    return SqliteStores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL of this process's own; under xdist each worker has one."""
    server = PostgresqlServer()
    yield server
    server.end()


# On each engine


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says `DIALECT = …` runs on that engine alone, as a single test does that is parametrised so."""
    alone = getattr(metafunc.module, "DIALECT", None)
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if alone is not None and "dialect" in metafunc.fixturenames and "dialect" not in chosen:
        metafunc.definition.add_marker(pytest.mark.parametrize("dialect", [alone], indirect=True))


@pytest.fixture(scope="module", params=ENGINES)
def dialect(request: pytest.FixtureRequest) -> str:
    """The engine that a test runs on, by SQLAlchemy's name for it: whoever takes a store from here runs once on each."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def new_url(request: pytest.FixtureRequest, dialect: str) -> NewUrl:
    """Makes empty stores, or copies of others, and removes each when its block ends."""
    stores: SqliteStores | PostgresqlServer = request.getfixturevalue(
        "sqlite_stores" if dialect == "sqlite" else "postgresql_server"
    )
    return stores.new


@pytest.fixture(scope="module")
def new_store(new_url: NewUrl) -> OpenStore:
    """Opens an empty store, another one at each call; for property tests, where one test needs many."""

    @contextmanager
    def open_one() -> Iterator[EventStore]:
        with new_url() as url, EventStore.open(url) as store:
            yield store

    return open_one


@pytest.fixture
def store_url(new_url: NewUrl) -> Iterator[str]:
    """The URL of an empty store."""
    with new_url() as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[EventStore]:
    """An open, empty store."""
    with EventStore.open(store_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def new_server(new_url: NewUrl, tmp_path_factory: pytest.TempPathFactory) -> NewServer:
    """Starts a server over an empty store, in a folder of its own; another one at each call."""

    @contextmanager
    def start(*options: str, **settings: str) -> Iterator[Serving]:
        with new_url() as url, serving(tmp_path_factory.mktemp("served"), *options, url=url, **settings) as server:
            yield server

    return start


# A server for the tests that keep to a site, or to ids, of their own


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    """A server over a store that was empty at first: one for all the tests of a module."""
    with new_server() as running:
        yield running
        assert running.complaints == []


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    """A client of that server, with its first token."""
    with server.client() as opened:
        yield opened


# On one engine


@pytest.fixture(scope="session")
def template(sqlite_stores: SqliteStores) -> Path:
    """An empty, migrated SQLite store, to copy: making one anew takes ten times as long."""
    return sqlite_stores.template


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
def postgresql(postgresql_server: PostgresqlServer) -> Callable[[], URL]:
    """Makes an empty, migrated PostgreSQL database, another one at each call; it stays until the tests end."""
    return postgresql_server.new_database


@pytest.fixture
def postgresql_store(postgresql_server: PostgresqlServer) -> Iterator[EventStore]:
    """An open, empty PostgreSQL store."""
    with postgresql_server.new() as url, EventStore.open(url) as opened:
        yield opened


# The command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of commands called in this process: empty, and without settings in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVENTSTORE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def eventstore(store_url: str, folder: Path) -> Command:
    """The CLI on an empty store, in an empty folder."""
    return Command(store_url)
