"""What the guards should be, read from the `.sql` files that the migrations run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from migrations.statements import FOLDER, statements

PARTITION = "{partition}"
"""Stands in the migrations' files, and here, for the name of any partition of events."""
_SCHEMA = "{schema}"

_FUNCTION = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION (?:{schema}\.)?(?P<name>\w+)\(\) RETURNS trigger LANGUAGE plpgsql"
    r"(?:\s+SET (?P<setting>\w+) = (?P<value>[^\n]+?))? AS\s+\$\$(?P<body>.*)\$\$",
    re.DOTALL,
)
_TRIGGER = re.compile(
    r"CREATE TRIGGER (?P<name>\w+)\s+(?P<timing>BEFORE|AFTER) (?P<events>[\w ,]+?) ON (?:{schema}\.)?(?P<table>\w+|{partition})"
    r"(?: REFERENCING NEW TABLE AS (?P<new_table>\w+))?\s+FOR EACH (?P<level>ROW|STATEMENT)"
    r"(?:\s+WHEN \((?P<condition>.*)\))?\s+EXECUTE FUNCTION (?:{schema}\.)?(?P<function>\w+)\(\)",
    re.DOTALL,
)
_EVENT = re.compile(r"(INSERT|DELETE|TRUNCATE|UPDATE)(?: OF (\w+(?:, \w+)*))?")
_DROPPED = re.compile(r"DROP (?P<kind>TRIGGER|FUNCTION) IF EXISTS (?:{schema}\.)?(?P<name>\w+)\b.*", re.DOTALL)
_SQLITE_TRIGGER = re.compile(
    r"CREATE TRIGGER (?P<name>\w+)\s+BEFORE (?:INSERT|UPDATE|DELETE) ON (?P<table>\w+)\s.*", re.DOTALL
)

_TYPE_BITS = {"ROW": 1, "STATEMENT": 0, "BEFORE": 2, "AFTER": 0, "INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
"""How pg_trigger.tgtype says when a trigger fires."""


@dataclass(frozen=True, slots=True)
class Function:
    """A trigger's function: plpgsql, without arguments, with the caller's rights. `settings` as in pg_proc.proconfig."""

    name: str
    body: str
    settings: str | None
    statement: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger on a table of the log, or on each partition of events (`table` is then PARTITION), always enabled."""

    name: str
    table: str
    timing: str
    events: tuple[str, ...]
    columns: tuple[str, ...]
    level: str
    new_table: str | None
    function: str
    condition: str | None
    statement: str

    @property
    def type_bits(self) -> int:
        """`pg_trigger.tgtype` of this trigger."""
        return sum(_TYPE_BITS[each] for each in (self.timing, self.level, *self.events))

    def statement_on(self, schema: str, table: str) -> str:
        """The statement that makes it on a table of its kind. The schema is quoted."""
        made = self.statement.replace(_SCHEMA, schema).replace(PARTITION, table)
        # Early migrations named tables and functions without their schema.
        made = made.replace(f" ON {table}", f" ON {schema}.{table}", 1)
        return made.replace(f"EXECUTE FUNCTION {self.function}", f"EXECUTE FUNCTION {schema}.{self.function}")


@lru_cache(maxsize=1)
def sqlite_guards() -> dict[str, tuple[str, str]]:
    """SQLite's triggers by name: `(table, statement)`."""
    found = {}
    for statement in _all_statements("sqlite"):
        matched = _SQLITE_TRIGGER.fullmatch(statement)
        if matched is None:
            raise ValueError(f"not a statement that makes a guard: {statement}")
        found[matched["name"]] = (matched["table"], statement)
    return found


def expected_functions(schema: str) -> tuple[Function, ...]:
    """PostgreSQL's functions in the schema, which is given quoted."""
    return tuple(
        Function(
            each.name,
            each.body.replace(_SCHEMA, schema),
            None if each.settings is None else each.settings.replace(_SCHEMA, schema),
            each.statement.replace(_SCHEMA, schema),
        )
        for each in _postgresql_guards()[0]
    )


def expected_triggers() -> tuple[Trigger, ...]:
    """PostgreSQL's triggers."""
    return _postgresql_guards()[1]


@lru_cache(maxsize=1)
def _postgresql_guards() -> tuple[tuple[Function, ...], tuple[Trigger, ...]]:
    functions: dict[str, Function] = {}
    triggers: dict[tuple[str, str], Trigger] = {}
    for statement in _all_statements("postgresql"):
        if matched := _FUNCTION.fullmatch(statement):
            functions[matched["name"]] = _function(matched, statement)
        elif matched := _TRIGGER.fullmatch(statement):
            triggers[matched["table"], matched["name"]] = _trigger(matched, statement)
        elif matched := _DROPPED.fullmatch(statement):
            if matched["kind"] == "FUNCTION":
                del functions[matched["name"]]
            else:
                [key] = [each for each in triggers if each[1] == matched["name"]]
                del triggers[key]
        elif re.match(r"(CREATE|DROP) (OR REPLACE )?(FUNCTION|TRIGGER|CONSTRAINT TRIGGER)\b", statement):
            raise ValueError(f"a guard of a kind that is not checked: {statement}")
    for trigger in triggers.values():
        if trigger.condition is not None:
            # PostgreSQL keeps a condition only as it understood it, which cannot be compared: it belongs into the function.
            raise ValueError(f"a guard with a condition is not checked: {trigger.statement}")
    return tuple(functions.values()), tuple(triggers.values())


def _all_statements(engine: str) -> list[str]:
    """Those of all revisions, in order: the files of one revision run in the order of their names."""
    return [each for path in sorted(FOLDER.glob(f"*_{engine}.sql")) for each in statements(path.name)]


def _function(matched: re.Match[str], statement: str) -> Function:
    settings = None if matched["setting"] is None else f"{matched['setting']}={matched['value']}"
    replacing = re.sub(
        r"^CREATE (OR REPLACE )?FUNCTION ({schema}\.)?", "CREATE OR REPLACE FUNCTION {schema}.", statement
    )
    return Function(matched["name"], matched["body"], settings, replacing)


def _trigger(matched: re.Match[str], statement: str) -> Trigger:
    kinds: list[str] = []
    columns: list[str] = []
    for each in matched["events"].split(" OR "):
        event = _EVENT.fullmatch(each)
        if event is None:
            raise ValueError(f"a guard of a kind that is not checked: {statement}")
        kinds.append(event[1])
        columns += event[2].split(", ") if event[2] else []
    return Trigger(
        matched["name"],
        matched["table"],
        matched["timing"],
        tuple(kinds),
        tuple(columns),
        matched["level"],
        matched["new_table"],
        matched["function"],
        matched["condition"],
        statement,
    )


def squeezed(sql: str) -> str:
    """SQL with every run of white space as one blank."""
    return " ".join(sql.split())
