"""The schema's revision: making a store, migrating one, and refusing one that is not ours."""

from __future__ import annotations

from importlib.resources import files

from sqlalchemy import Connection, Engine, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from eventstore.errors import StoreNotReady
from eventstore.log.engine import is_sqlite, said, shown, sqlite_path, sync_directory, writing
from eventstore.log.roles import act_as_owner
from eventstore.log.tables import log_head

HEAD_REVISION = "0005"
"""The revision this code works with: the newest in `migrations/versions`; a test compares."""
NO_STORE = "there is no store at {}; `eventstore init` makes one, --store or EVENTSTORE_URL names another"
_LOG_TABLES = {"events", "event_keys", "log_head"}
_MIGRATION_LOCK = 0x436F75706F6E
"""PostgreSQL advisory lock key, so that two processes started at once do not both create the tables."""


def revision(engine: Engine) -> str | None:
    """The schema revision of the store, or None where there is no store yet. Raises StoreNotReady if it cannot be read."""
    if is_sqlite(engine) and not sqlite_path(engine).exists():
        return None
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except DBAPIError as error:
        raise StoreNotReady(f"{shown(engine.url)} cannot be opened as a store: {said(error)}") from error


def _revision(connection: Connection) -> str | None:
    names = set(inspect(connection).get_table_names())
    ours = _LOG_TABLES & names
    found = None
    if "alembic_version" in names:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if ours and found is None:
        raise StoreNotReady(
            f"{shown(connection.engine.url)} has tables named like the log's that this project did not make"
        )
    if found is not None and ours != _LOG_TABLES:
        raise StoreNotReady(
            f"{shown(connection.engine.url)} is another project's: it has a revision, {found}, and no log"
        )
    return None if found is None else str(found)


def migrate(engine: Engine) -> bool:
    """Bring the store to HEAD_REVISION, making it first where there is none. Returns whether anything was done."""
    if revision(engine) == HEAD_REVISION:
        return False
    from alembic import command
    from alembic.config import Config

    if is_sqlite(engine):
        parent = sqlite_path(engine).absolute().parent
        if not parent.is_dir():
            raise StoreNotReady(f"the directory {parent} does not exist; make it, or choose another --store")
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    try:
        with engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                if not is_sqlite(engine):
                    # Another process may be at it, and a large log takes minutes: that is waited for, whatever lock_timeout.
                    patience = connection.scalar(text("SELECT current_setting('lock_timeout')"))
                    connection.execute(text("SET LOCAL lock_timeout = 0"))
                    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                    connection.execute(
                        text("SELECT set_config('lock_timeout', :patience, true)"), {"patience": patience}
                    )
                if _refuse_newer(connection) is not None and not is_sqlite(engine):
                    act_as_owner(connection)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    except DBAPIError as error:
        raise StoreNotReady(f"{shown(engine.url)} cannot be migrated: {said(error)}") from error
    if is_sqlite(engine):
        sync_directory(parent)
    return True


def _refuse_newer(connection: Connection) -> str | None:
    """The revision that is there, which must not be newer than this program's."""
    found = _revision(connection)
    if found is not None and found > HEAD_REVISION:
        raise StoreNotReady(
            f"the store is of revision {found}, newer than this program's {HEAD_REVISION}: upgrade the program"
        )
    return found


def require_ready(engine: Engine) -> None:
    """Raise StoreNotReady unless the store is there and of this code's revision."""
    found = revision(engine)
    if found is None:
        raise StoreNotReady(
            f"there is no store at {shown(engine.url)}; `eventstore init` makes one, --store or EVENTSTORE_URL names another"
        )
    if found != HEAD_REVISION:
        raise StoreNotReady(
            f"the store is of revision {found}, this program needs {HEAD_REVISION}; run `eventstore init`"
        )


def head_size(connection: Connection) -> int:
    """How many events the log holds; also the last position."""
    return int(connection.execute(select(log_head.c.size)).scalar_one())
