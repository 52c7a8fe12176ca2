"""Database roles on PostgreSQL: one that owns the log, one that appends, one that reads.

Nobody logs in as one of the three: the database's administrator makes a login and grants it one. The owner may do anything to
the tables, drop the guards included, so that a server should run as the writer, who may append, project and answer, and
could not change a row even if every guard were gone. Rebuilding projections, migrating and making partitions make tables, and
are the owner's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, select, text
from sqlalchemy.exc import DBAPIError

from eventstore.errors import InputError, NotOwner
from eventstore.log.engine import is_sqlite, said, write_transaction
from eventstore.log.tables import (
    api_tokens,
    dead_letters,
    delivery_counts,
    event_keys,
    events,
    handler_dead_letters,
    handler_done,
    handler_positions,
    log_head,
    metadata,
    projection_checkpoints,
    projection_work,
    quarantine,
    wix_app_instances,
    wix_app_keys,
    wix_apps,
)

DEFAULT_PREFIX = "eventstore"
"""What the names of the roles begin with."""
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,50}")

WRITER_RIGHTS: dict[Table, tuple[str, ...]] = {
    events: ("SELECT", "INSERT"),
    event_keys: ("SELECT", "INSERT"),
    log_head: ("SELECT", "UPDATE (size, recorded_at)"),
    quarantine: ("SELECT", "INSERT", "UPDATE (resolved_at, resolution)"),
    delivery_counts: ("SELECT", "INSERT", "UPDATE (count)"),
    api_tokens: ("SELECT", "INSERT", "UPDATE (revoked_at)"),
    # Of all columns, for without it the table cannot be locked, as it is while apps are registered.
    wix_apps: ("SELECT", "INSERT", "UPDATE"),
    wix_app_keys: ("SELECT", "INSERT", "UPDATE (retired_at)"),
    wix_app_instances: ("SELECT", "INSERT", "UPDATE (removed_at)"),
    projection_checkpoints: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    projection_work: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    dead_letters: ("SELECT", "INSERT", "UPDATE (reason, parked_at, resolved_at, resolution, note)"),
    handler_positions: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    handler_done: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    handler_dead_letters: ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""What the writer may do to each table of the log. Of the derived tables it may do anything to the rows."""
SECRET = frozenset({api_tokens})
"""What the reader never sees: of tokens even the hashes and names are nobody's report."""
_VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class Roles:
    """The three roles, which of them were made now, and the statements that give a login one of them."""

    owner: str
    writer: str
    reader: str
    made: tuple[str, ...]

    @property
    def grants(self) -> tuple[str, ...]:
        """What the database's administrator runs for each login of theirs."""
        return (
            f"GRANT {self.writer} TO …;  -- the login that `eventstore serve` and `ingest` use",
            f"GRANT {self.reader} TO …;  -- logins for reports and notebooks",
            f"GRANT {self.owner} TO …;  -- the login for init, maintain and rebuild-projections",
        )


_LOG = """
SELECT quote_ident(n.nspname) AS schema, quote_ident(r.rolname) AS owner, r.rolname = current_user AS ours,
    pg_has_role(current_user, r.oid, :become) AS member, current_user::text AS myself
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
WHERE c.oid = to_regclass('events')
"""


def log_schema(connection: Connection) -> str:
    """The schema that holds the log, quoted."""
    return str(_log(connection).schema)


def _log(connection: Connection) -> Row[Any]:
    return connection.execute(text(_LOG), {"become": _become(connection)}).one()


def _become(connection: Connection) -> str:
    """The right to act as another role: from PostgreSQL 16 on a membership may be one without it."""
    return "SET" if (connection.dialect.server_version_info or (0,)) >= (16,) else "MEMBER"


def act_as_owner(connection: Connection) -> None:
    """For the rest of the transaction, be the role that owns the log: what is made then is its own, whoever has logged in.

    Raises NotOwner where the role that has logged in is no member of it. Nothing on SQLite.
    """
    if is_sqlite(connection.engine):
        return
    found = _log(connection)
    if found.ours:
        return
    if not found.member:
        raise NotOwner(
            f"the database role {found.myself} may not make or change the log's tables: they belong to {found.owner}; "
            "run this with a login that is a member of it"
        )
    connection.exec_driver_sql(f"SET LOCAL ROLE {found.owner}")


def require_owner(engine: Engine) -> None:
    """Raise NotOwner if this login may not make tables as the log's owner: before long work, rather than at its end."""
    with engine.connect() as connection:
        act_as_owner(connection)


def stop_appends(connection: Connection) -> None:
    """Let no append begin until the transaction ends, before tables are changed: each append begins with log_head and holds it
    while it goes on to the others, so that whoever comes by another way round would end in a deadlock. Nothing on SQLite."""
    if not is_sqlite(connection.engine):
        connection.exec_driver_sql(f"LOCK TABLE {log_schema(connection)}.log_head IN ACCESS EXCLUSIVE MODE")


_GRANTED_LIKE_CHECKPOINTS = """
SELECT DISTINCT quote_ident(r.rolname) AS role, a.privilege_type AS privilege
FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE c.oid = to_regclass('projection_checkpoints') AND a.grantee <> c.relowner
    AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
ORDER BY 1, 2
"""


def share_derived(connection: Connection, table: str) -> None:
    """Let those who may use the projections' checkpoints use a projection's new table likewise. Nothing on SQLite."""
    if is_sqlite(connection.engine):
        return
    for role, privilege in connection.execute(text(_GRANTED_LIKE_CHECKPOINTS)).all():
        connection.exec_driver_sql(f"GRANT {privilege} ON {table} TO {role}")


def make_roles(engine: Engine, *, prefix: str = DEFAULT_PREFIX) -> Roles:
    """Make the three roles where they are missing, and give each the rights that are its own and no others. Safe to repeat.

    Run it again after an upgrade that brought new tables. Raises InputError on SQLite and for a bad prefix, NotOwner where the
    role that has logged in may not make roles or give the tables away.
    """
    if is_sqlite(engine):
        raise InputError("roles are PostgreSQL's: who may read or write a SQLite file, the file system says")
    if not _PREFIX.fullmatch(prefix):
        raise InputError(f"not a prefix for the names of roles: {prefix!r}; use small letters, digits and underscores")
    owner, writer, reader = names = [f"{prefix}_{each}" for each in ("owner", "writer", "reader")]
    try:
        with write_transaction(engine) as connection:
            made = tuple(name for name in names if _make_role(connection, name))
            roles = Roles(owner, writer, reader, made)
            schema = log_schema(connection)
            stop_appends(connection)
            _join(connection, roles.owner)
            connection.exec_driver_sql(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {roles.owner}")
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {roles.writer}, {roles.reader}")
            _give_away(connection, schema, roles.owner)
            connection.exec_driver_sql(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {roles.writer}, {roles.reader}")
            _grant(connection, schema, roles)
            _require_schema_rights(connection, schema, roles)
    except DBAPIError as error:
        raise NotOwner(
            f"the roles could not be made: {said(error)}; it takes a superuser, or the tables' owner with CREATEROLE"
        ) from error
    return roles


_SCHEMA_RIGHTS = """
SELECT has_schema_privilege(:owner, :schema, 'USAGE') AND has_schema_privilege(:owner, :schema, 'CREATE')
    AND has_schema_privilege(:writer, :schema, 'USAGE') AND NOT has_schema_privilege(:writer, :schema, 'CREATE')
    AND has_schema_privilege(:reader, :schema, 'USAGE') AND NOT has_schema_privilege(:reader, :schema, 'CREATE')
"""


def _require_schema_rights(connection: Connection, schema: str, roles: Roles) -> None:
    """Of rights that are not one's own to give or take PostgreSQL only warns."""
    names = {"schema": schema, "owner": roles.owner, "writer": roles.writer, "reader": roles.reader}
    # The function takes the name as it is, not quoted.
    names["schema"] = str(connection.scalar(text("SELECT parse_ident(:schema)"), {"schema": schema})[0])
    if not connection.scalar(text(_SCHEMA_RIGHTS), names):
        raise NotOwner(f"the rights on the schema {schema} could not be given or taken: run this as the schema's owner")


def _make_role(connection: Connection, name: str) -> bool:
    there = connection.execute(text("SELECT true FROM pg_catalog.pg_roles WHERE rolname = :name"), {"name": name})
    if there.scalar():
        return False
    connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")
    return True


def _join(connection: Connection, owner: str) -> None:
    """Tables can be given only to a role that one is a member of, which the maker of a role is not of itself."""
    member = text("SELECT pg_has_role(current_user, :owner, :become)")
    if not connection.execute(member, {"owner": owner, "become": _become(connection)}).scalar():
        connection.exec_driver_sql(f"GRANT {owner} TO CURRENT_USER")


_OURS = """
SELECT c.relname, c.relkind::text, i.inhparent IS NOT NULL AS partition
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = to_regclass('events')
WHERE quote_ident(n.nspname) = :schema AND c.relkind IN ('r', 'p')
    AND (c.relname = ANY(:tables) OR i.inhparent IS NOT NULL)
ORDER BY 1
"""


def _tables(connection: Connection, schema: str) -> list[tuple[str, bool]]:
    """Every table of the store, with whether it is a partition of events."""
    named = [*metadata.tables, _VERSION_TABLE, *_derived(connection)]
    rows = connection.execute(text(_OURS), {"schema": schema, "tables": named})
    return [(row.relname, row.partition) for row in rows]


def _derived(connection: Connection) -> list[str]:
    """The projections' tables: each has a checkpoint."""
    return list(connection.scalars(select(projection_checkpoints.c.name)))


def _give_away(connection: Connection, schema: str, owner: str) -> None:
    for name, _ in _tables(connection, schema):
        connection.exec_driver_sql(f"ALTER TABLE {schema}.{name} OWNER TO {owner}")
    functions = text(
        "SELECT p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
        "WHERE quote_ident(n.nspname) = :schema AND p.proname LIKE 'eventstore#_%' ESCAPE '#' AND p.pronargs = 0"
    )
    for name in connection.execute(functions, {"schema": schema}).scalars().all():
        connection.exec_driver_sql(f"ALTER FUNCTION {schema}.{name}() OWNER TO {owner}")


def _grant(connection: Connection, schema: str, roles: Roles) -> None:
    derived = set(_derived(connection))
    rights = {table.name: given for table, given in WRITER_RIGHTS.items()}
    secret = {table.name for table in SECRET}
    for name, partition in _tables(connection, schema):
        table = f"{schema}.{name}"
        connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM PUBLIC, {roles.writer}, {roles.reader}")
        # Whoever may use events reaches its partitions through it, and through it alone.
        if partition:
            continue
        given = ("SELECT", "INSERT", "UPDATE", "DELETE") if name in derived else rights.get(name, ("SELECT",))
        connection.exec_driver_sql(f"GRANT {', '.join(given)} ON {table} TO {roles.writer}")
        if name not in secret:
            connection.exec_driver_sql(f"GRANT SELECT ON {table} TO {roles.reader}")
    for numbered in (quarantine, dead_letters, wix_app_keys, wix_app_instances):
        sequence = connection.execute(
            text("SELECT pg_get_serial_sequence(:table, 'id')"), {"table": f"{schema}.{numbered.name}"}
        ).scalar()
        connection.exec_driver_sql(f"REVOKE ALL ON SEQUENCE {sequence} FROM PUBLIC, {roles.writer}, {roles.reader}")
        connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE {sequence} TO {roles.writer}")
