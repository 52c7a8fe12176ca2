"""Engines for the two databases, and the few places where they differ."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import ConnectionPoolEntry

from eventstore.errors import InputError
from eventstore.log.turns import Turns, turns_at

BUSY_TIMEOUT_MS = 5_000
"""How long either engine waits for another process's write before it gives up: longer than any batch takes to commit."""

WRITE_CACHE_KB = 32 * 1024
"""What a connection that writes keeps of the file in memory, at most. Ids come in no order, so that each goes to another page of
the ledger; with SQLite's 2 MB nearly each would have to be read first."""
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""When a PostgreSQL server that has vanished without a word counts as lost: after about 25 s (libpq's names; seconds, but the
last in milliseconds). The operating system's own patience is hours."""
DURABLE_COMMIT = "coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on')"
"""SQL for what `synchronous_commit` is to be where commits are acknowledged: as the server has it, but never off."""
READ_ONLY = "25006"
"""SQLSTATE of a write on a server that may only read."""

CHECKPOINT_PAGES = 8_000
"""Pages of write-ahead log before SQLite moves them into the file: 32 MB. At its default of 1 000 every full batch would be
followed by a checkpoint, a third of the time of a bulk append; what is committed is as durable in the log as in the file."""


def store_url(url: str | Path) -> URL:
    """The database URL for what a caller may give: a URL, or the path of a SQLite file. Raises InputError."""
    text = str(url)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        # ValueError: a port that is no number. Neither it nor the text is told: either may hold a password.
        raise InputError(
            "not a database URL; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME, with what is special in "
            "a password written as %XX"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InputError(f"{backend} is not supported; use sqlite:///FILE or postgresql://HOST/NAME")
    if not parsed.database or parsed.database == ":memory:":
        raise InputError("an audit store in memory would be lost: give a file, as in sqlite:///eventstore.db")
    return parsed


_SECRETS = ("password", "sslpassword")


def shown(url: URL) -> str:
    """A database URL for people and logs, without its secrets: libpq also takes them behind the question mark."""
    return url.update_query_dict({name: "hidden" for name in _SECRETS if name in url.query}).render_as_string()


def is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def make_engine(url: str | Path) -> Engine:
    """An engine whose SQLite connections are durable (WAL, synchronous=FULL) and take the write lock at BEGIN when asked."""
    parsed = store_url(url)
    if parsed.get_backend_name() != "sqlite":
        # A turn waits for the one before it and then must see what that has committed: see append_postgresql.
        engine = create_engine(
            parsed,
            pool_pre_ping=True,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args=_postgresql_arguments(parsed),
        )
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "handle_error", _leave_a_server_that_only_reads)
        return engine
    arguments = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000}
    # Parameters hold personal data. The connection given back last is taken first: its cache is the warm one.
    engine = create_engine(parsed, connect_args=arguments, hide_parameters=True, pool_use_lifo=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    turns = _turns[engine] = turns_at(sqlite_path(engine))
    event.listen(engine, "engine_disposed", lambda _engine: turns.close())
    return engine


def _postgresql_arguments(url: URL) -> dict[str, str | int]:
    """How to connect, as far as the URL does not say."""
    # A replica that stands still with the head locked must not hang all the others. The URL's options come last and win.
    options = f"-c lock_timeout={BUSY_TIMEOUT_MS}"
    given = url.query.get("options")
    if given is not None:
        options += " " + (given if isinstance(given, str) else " ".join(given))
    return {**{name: value for name, value in PATIENCE.items() if name not in url.query}, "options": options}


def _prepare_postgresql(dbapi_connection: Any, _record: ConnectionPoolEntry) -> None:
    # An answer is given after the commit, which must then be on the disk, whatever a server's or a role's default.
    with dbapi_connection.cursor() as cursor:
        cursor.execute(
            # Also where it is on: set here it stays so when the server's configuration is changed and read anew.
            f"SELECT set_config('synchronous_commit', {DURABLE_COMMIT}, false)"
        )
    dbapi_connection.commit()


def _leave_a_server_that_only_reads(context: ExceptionContext) -> None:
    # After a failover the old primary, or a replica, still answers. A new connection may find the new one (a URL of several
    # hosts with target_session_attrs=read-write).
    if _only_reads(context.original_exception):
        context.is_disconnect = True


def _only_reads(error: BaseException) -> bool:
    return getattr(error, "sqlstate", None) == READ_ONLY


_OF_ITSELF = (READ_ONLY, "XX")
"""SQLSTATEs, or their beginnings, by which PostgreSQL speaks of itself and which its driver does not class as operational: a
server that may only read, as a replica after a failover, and one with a fault inside or damaged files."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unavailable(error: Exception) -> bool:
    """Whether the database cannot be used now: locked, full, out of reach, damaged, or there to be read only.

    SQLite gives a wrong statement the same class of error; that is a bug, to be seen as one.
    """
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(error, OperationalError | InterfaceError):
        return code != sqlite3.SQLITE_ERROR
    state = getattr(error.orig, "sqlstate", None) or ""
    return state.startswith(_OF_ITSELF) or (code is not None and code & 0xFF in _DAMAGED)


def is_away(error: Exception) -> bool:
    """Whether it passes by itself that a reader cannot go on: the database is not to be used now, or no connection is free."""
    if isinstance(error, NoConnectionFree):
        return True
    return getattr(error, "connection_invalidated", False) or is_unavailable(error)


def said(error: BaseException) -> str:
    """What the database said, in one line. Behind the first PostgreSQL repeats the statement, and may quote a row."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def writing(connection: Connection) -> Connection:
    """Mark a connection, before its transaction begins, as one that will write."""
    return connection.execution_options(eventstore_writes=True)


_turns: WeakKeyDictionary[Engine, Turns] = WeakKeyDictionary()


@contextmanager
def write_turn(engine: Engine) -> Iterator[None]:
    """Wait for the turn to write to a SQLite file, among threads and processes; nothing on PostgreSQL."""
    turns = _turns.get(engine)
    if turns is None:
        yield
        return
    with turns.turn():
        yield


@contextmanager
def bare_driver(connection: Connection) -> Iterator[Any]:
    """The driver's own connection, inside the connection's transaction; its errors come out as SQLAlchemy's.

    For the few statements of an append: SQLAlchemy's way of executing one takes longer than SQLite does, and it has no words
    for psycopg's pipeline.
    """
    dialect = connection.dialect
    base: type[Exception] = dialect.loaded_dbapi.Error
    try:
        yield connection.connection.driver_connection
    except base as error:
        lost = _only_reads(error) or dialect.is_disconnect(error, connection.connection, None)  # type: ignore[arg-type]
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, base, connection_invalidated=lost, hide_parameters=True, dialect=dialect
        ) from error


@contextmanager
def write_transaction(engine: Engine, *, durable: bool = True) -> Iterator[Connection]:
    """A connection in a transaction that will write, begun when it is this process's turn; committed at the end.

    `durable=False`: what is written can be made again, so that nobody waits until it is on the disk. It is there at the latest
    with the next transaction that is durable: both engines keep their commits in one sequence.
    """
    with write_turn(engine), engine.connect() as plain:
        connection = writing(plain).execution_options(eventstore_durable=durable)
        with connection.begin():
            if not durable and not is_sqlite(engine):
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection


def _prepare_sqlite(dbapi_connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # The driver's own transaction handling begins deferred and late; ours begins where SQLAlchemy says BEGIN.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    # Of two connections that turn a new file to WAL together one fails at once, whatever the busy timeout.
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns to writing fails at once with "database is locked", whatever the busy timeout.
    options = connection.get_execution_options()
    writes = options.get("eventstore_writes", False)
    level = "FULL" if options.get("eventstore_durable", True) else "NORMAL"
    if connection.info.get("synchronous", "FULL") != level:
        connection.exec_driver_sql(f"PRAGMA synchronous={level}")
        connection.info["synchronous"] = level
    if writes and not connection.info.get("cached"):
        connection.exec_driver_sql(f"PRAGMA cache_size=-{WRITE_CACHE_KB}")
        connection.info["cached"] = True
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def sync_directory(path: Path) -> None:
    """Make the creation of a file in this directory survive a power cut. A no-op where directories cannot be opened."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sqlite_path(engine: Engine) -> Path:
    database: Any = engine.url.database
    return Path(database)
