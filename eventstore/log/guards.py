"""The guards that make the log append-only: that each stands, is enabled, and is what the migrations made.

What they should be is read from the migrations' own `.sql` files, so that there is no second list to keep. A guard is compared
as the database keeps it: on SQLite the text of the trigger, on PostgreSQL every property of the trigger and the text, language
and settings of its function. Whatever else could change rows on their way in, or let some in twice, is looked for as well.

Guards are a rail and no proof: whoever may drop one may put it back. `repair_guards` does so for what is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine, Table, func, inspect, select, text

from eventstore.errors import GuardsDown
from eventstore.log.engine import is_sqlite, write_transaction
from eventstore.log.expected_guards import (
    PARTITION,
    Trigger,
    expected_functions,
    expected_triggers,
    sqlite_guards,
    squeezed,
)
from eventstore.log.partitions import list_partitions, uncovered
from eventstore.log.roles import act_as_owner, log_schema, stop_appends
from eventstore.log.tables import event_keys, events, log_head, quarantine, wix_app_keys

GUARDED_TABLES: tuple[Table, ...] = (events, event_keys, log_head, quarantine, wix_app_keys)
"""The tables that can only grow, and the head."""

REPAIR = "run `eventstore init --repair-guards` as the tables' owner, then look at what was written meanwhile"
TABLE_REMEDY = "restore the table from a backup, or have the database's administrator mend it"


class Fault(StrEnum):
    """What is wrong with a guard, or with a table that it stands on."""

    MISSING = "missing"
    DISABLED = "disabled"
    ALTERED = "altered"
    FOREIGN = "foreign"
    TABLE = "table"


OURS = frozenset({Fault.MISSING, Fault.DISABLED, Fault.ALTERED})
"""The faults that `repair_guards` mends: what is missing of what we made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that no longer keeps the log from being changed: which guard or table, what is wrong, what to do."""

    name: str
    table: str
    fault: Fault
    problem: str
    remedy: str


def check_guards(engine: Engine) -> list[Finding]:
    """Everything that is wrong with the log's guards, in the order of the tables; empty when all is well."""
    with engine.connect() as connection:
        found = [*_check_sqlite(connection)] if is_sqlite(engine) else [*_check_postgresql(connection)]
        found += _check_keys(connection)
    order = {table.name: number for number, table in enumerate(GUARDED_TABLES)}
    return sorted(found, key=lambda each: (order.get(each.table, 0), each.table, each.name))


def missing_guards(engine: Engine) -> list[str]:
    """The names of the guards that should stand on the log and do not, or are disabled, sorted. Empty when all is well."""
    return sorted(missing_names(check_guards(engine)))


def missing_names(findings: Iterable[Finding]) -> set[str]:
    """The names of the guards that are missing or disabled."""
    return {each.name for each in findings if each.fault in (Fault.MISSING, Fault.DISABLED)}


def require_guards(engine: Engine) -> None:
    """Raise GuardsDown, naming the findings, unless every guard stands as it was made."""
    findings = check_guards(engine)
    if findings:
        told = "; ".join(f"{each.table}: {each.problem}" for each in findings)
        raise GuardsDown(
            f"the database does not keep the log append-only: {told}. `eventstore verify --guards` says what to do; "
            "`eventstore serve --unguarded` serves all the same"
        )


def repair_guards(engine: Engine) -> list[Finding]:
    """Put back the guards that are missing, disabled or altered; returns what was found of that kind.

    What is not ours (a foreign trigger, a table without its key) is left to a person. Needs the tables' owner.
    """
    mended = [each for each in check_guards(engine) if each.fault in OURS]
    if mended:
        with write_transaction(engine) as connection:
            if is_sqlite(engine):
                _repair_sqlite(connection, {each.name for each in mended})
            else:
                act_as_owner(connection)
                stop_appends(connection)
                _repair_postgresql(connection, {each.name for each in mended})
    return mended


# SQLite


def _check_sqlite(connection: Connection) -> Iterator[Finding]:
    expected = sqlite_guards()
    tables = {table.name for table in GUARDED_TABLES}
    rows = connection.execute(text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"))
    found = {name: (table, sql) for name, table, sql in rows}
    for name, (table, statement) in expected.items():
        if name not in found:
            yield _missing(name, table)
        elif squeezed(found[name][1]) != squeezed(statement):
            yield _altered(name, table, "its text is not the one that the migrations made")
    for name, (table, _) in found.items():
        if table.lower() in tables and name not in expected:
            yield _foreign(name, table.lower(), f"DROP TRIGGER {name}")


def _repair_sqlite(connection: Connection, names: set[str]) -> None:
    for name, (_, statement) in sqlite_guards().items():
        if name in names:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(statement)


# PostgreSQL


def _check_postgresql(connection: Connection) -> Iterator[Finding]:
    schema = log_schema(connection)
    partitions = list_partitions(connection)
    relations = {table.name: table.name for table in GUARDED_TABLES}
    relations |= {each.name: PARTITION for each in partitions}
    yield from _check_functions(connection, schema)
    yield from _check_triggers(connection, schema, relations)
    yield from _check_relations(connection, schema, list(relations))
    head = connection.execute(select(func.max(events.c.position))).scalar() or 0
    told = connection.execute(select(func.max(log_head.c.size))).scalar() or 0
    for first, last in uncovered(partitions, max(head, told, 1)):
        yield Finding(
            "partitions",
            "events",
            Fault.TABLE,
            f"no partition holds the positions {first} to {last}: one was detached or dropped",
            "attach it again (ALTER TABLE events ATTACH PARTITION …), or restore it from a backup",
        )
    for each in partitions:
        if each.detaching:
            yield Finding(
                each.name,
                each.name,
                Fault.TABLE,
                "the partition is being detached",
                f"ALTER TABLE events DETACH PARTITION {each.name} FINALIZE, then attach it again",
            )


_FUNCTIONS = """
SELECT p.proname, p.prosrc, l.lanname, p.prosecdef, p.proconfig, p.provolatile::text, p.prokind::text, t.typname
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
JOIN pg_catalog.pg_type t ON t.oid = p.prorettype
WHERE quote_ident(n.nspname) = :schema AND p.pronargs = 0
"""


def _check_functions(connection: Connection, schema: str) -> Iterator[Finding]:
    found = {row.proname: row for row in connection.execute(text(_FUNCTIONS), {"schema": schema})}
    for function in expected_functions(schema):
        row = found.get(function.name)
        if row is None:
            yield _missing(function.name, "events", "the function is not there")
            continue
        settings = [] if function.settings is None else [function.settings]
        wrong = [
            told
            for told, same in (
                ("its text", row.prosrc == function.body),
                ("its language", row.lanname == "plpgsql"),
                ("whose rights it has (SECURITY DEFINER)", not row.prosecdef),
                ("its settings", (row.proconfig or []) == settings),
                ("its kind", (row.provolatile, row.prokind, row.typname) == ("v", "f", "trigger")),
            )
            if not same
        ]
        if wrong:
            yield _altered(
                function.name, "events", f"of the function {', '.join(wrong)} is not as the migrations made it"
            )


_TRIGGERS = """
SELECT c.relname, t.tgname, t.tgenabled::text, t.tgtype::int, quote_ident(fn.nspname) AS function_schema, p.proname,
    t.tgqual IS NOT NULL OR t.tgnargs > 0 OR t.tgconstraint <> 0 OR t.tgdeferrable OR t.tgoldtable IS NOT NULL AS more,
    t.tgnewtable,
    ARRAY(
        SELECT a.attname::text FROM unnest(t.tgattr::int2[]) AS k (number)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = k.number
    ) AS columns
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace fn ON fn.oid = p.pronamespace
WHERE NOT t.tgisinternal AND quote_ident(n.nspname) = :schema AND c.relname = ANY(:tables)
"""


def _check_triggers(connection: Connection, schema: str, relations: dict[str, str]) -> Iterator[Finding]:
    rows = connection.execute(text(_TRIGGERS), {"schema": schema, "tables": list(relations)})
    found = {(row.relname, row.tgname): row for row in rows}
    expected = expected_triggers()
    wanted: dict[tuple[str, str], Trigger] = {}
    for table, kind in relations.items():
        for trigger in expected:
            # ATTACH gives a partition its own copy of each trigger of the rows.
            if trigger.table == kind or (kind == PARTITION and trigger.table == "events" and trigger.level == "ROW"):
                wanted[table, trigger.name] = trigger
    for (table, name), trigger in wanted.items():
        row = found.get((table, name))
        if row is None:
            yield _missing(name, table)
            continue
        same = (
            row.tgtype == trigger.type_bits
            and set(row.columns) == set(trigger.columns)
            and (row.function_schema, row.proname) == (schema, trigger.function)
            and row.tgnewtable == trigger.new_table
            and not row.more
        )
        if not same:
            yield _altered(name, table, "the trigger is not the one that the migrations made")
        if row.tgenabled != "A":
            how = {"D": "is disabled", "O": "does not fire in replication sessions", "R": "fires in replication only"}
            problem = f"the trigger {name} {how.get(row.tgenabled, 'is not enabled')}"
            yield Finding(name, table, Fault.DISABLED, problem, REPAIR)
    for table, name in found.keys() - wanted.keys():
        yield _foreign(name, table, f"DROP TRIGGER {name} ON {table}")


_RELATIONS = """
SELECT c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity OR c.relforcerowsecurity AS row_security,
    ARRAY(SELECT r.rulename::text FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid ORDER BY 1) AS rules,
    ARRAY(SELECT i.inhrelid::regclass::text FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid ORDER BY 1) AS heirs
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE quote_ident(n.nspname) = :schema AND c.relname = ANY(:tables)
"""


def _check_relations(connection: Connection, schema: str, tables: list[str]) -> Iterator[Finding]:
    for row in connection.execute(text(_RELATIONS), {"schema": schema, "tables": tables}):
        table = row.relname
        kind = "p" if table == events.name else "r"
        if row.relkind != kind:
            yield Finding(
                table, table, Fault.TABLE, "it is not a table of the kind that the migrations made", TABLE_REMEDY
            )
        for rule in row.rules:
            problem = f"the rule {rule} rewrites statements on it"
            yield Finding(
                rule, table, Fault.FOREIGN, problem, f"look at what it did, then: DROP RULE {rule} ON {table}"
            )
        for heir in row.heirs if table != events.name else ():
            problem = (
                f"the table {heir} inherits from it: its rows are read as if they stood here, and nothing guards them"
            )
            remedy = f"look at what it holds, then: ALTER TABLE {heir} NO INHERIT {table}"
            yield Finding(heir, table, Fault.FOREIGN, problem, remedy)
        if row.row_security:
            remedy = f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
            yield Finding(table, table, Fault.FOREIGN, "row-level security hides rows of it from some roles", remedy)
        if row.relpersistence != "p":
            remedy = f"ALTER TABLE {table} SET LOGGED"
            yield Finding(table, table, Fault.TABLE, "it is UNLOGGED: a crash of the server empties it", remedy)


def _repair_postgresql(connection: Connection, names: set[str]) -> None:
    schema = log_schema(connection)
    for function in expected_functions(schema):
        if function.name in names:
            # Without parameters all the same, the driver takes a single % for one.
            connection.exec_driver_sql(function.statement.replace("%", "%%"))
    partitions = [each.name for each in list_partitions(connection)]
    for trigger in expected_triggers():
        if trigger.name not in names:
            continue
        for table in partitions if trigger.table == PARTITION else [trigger.table]:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger.name} ON {schema}.{table}")
            connection.exec_driver_sql(trigger.statement_on(schema, table))
            always = [table]
            if trigger.table == events.name and trigger.level == "ROW":
                always += partitions
            for each in always:
                connection.exec_driver_sql(f"ALTER TABLE {schema}.{each} ENABLE ALWAYS TRIGGER {trigger.name}")


# Both


def _check_keys(connection: Connection) -> Iterator[Finding]:
    """The primary keys and unique constraints that keep an event from standing there twice."""
    inspector = inspect(connection)
    for table in GUARDED_TABLES:
        if not inspector.has_table(table.name):
            yield Finding(table.name, table.name, Fault.TABLE, "the table is not there", TABLE_REMEDY)
            continue
        key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        if list(key) != [column.name for column in table.primary_key.columns]:
            wanted = ", ".join(column.name for column in table.primary_key.columns)
            yield Finding(table.name, table.name, Fault.TABLE, f"its primary key ({wanted}) is missing", TABLE_REMEDY)
        nullable = {each["name"] for each in inspector.get_columns(table.name) if each["nullable"]}
        wrong = [each.name for each in table.columns if not each.nullable and each.name in nullable]
        if wrong:
            problem = f"it takes rows without {', '.join(wrong)}"
            yield Finding(table.name, table.name, Fault.TABLE, problem, TABLE_REMEDY)
    if not inspector.has_table(quarantine.name):
        return
    unique = [tuple(each["column_names"]) for each in inspector.get_unique_constraints(quarantine.name)]
    if ("site_id", "body_hash", "kind") not in unique:
        problem = "its unique constraint (site_id, body_hash, kind) is missing"
        yield Finding(quarantine.name, quarantine.name, Fault.TABLE, problem, TABLE_REMEDY)


def _missing(name: str, table: str, problem: str = "") -> Finding:
    return Finding(name, table, Fault.MISSING, problem or f"the trigger {name} is missing", REPAIR)


def _altered(name: str, table: str, problem: str) -> Finding:
    return Finding(name, table, Fault.ALTERED, f"{name} was altered: {problem}", REPAIR)


def _foreign(name: str, table: str, drop: str) -> Finding:
    problem = f"the trigger {name} is not one of this program's and may change what is written"
    return Finding(name, table, Fault.FOREIGN, problem, f"look at what it did, then: {drop}")
