"""The projections there are: each a `.sql` file whose header says its key and columns, and whose two queries make it.

`[lift]` turns facts (or another projection's rows) into partial rows; `[merge]` turns partial rows into one row a key. A
merged row is itself a partial row (its columns include those of the lift), and merging is associative, commutative and, for
models from facts, idempotent. That is why one file serves live updates, rebuilds and as-of queries alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.errors import NotFound, ProjectionError
from eventstore.log.tables import metadata
from eventstore.log.types import AmountText, JsonText, UtcMicros

FACTS = "facts"
_MODELS = ("coupons", "redemptions", "coupon_usage", "loyalty_coupons")
"""In dependency order: a model stands after the one it reads from."""
_TYPES: dict[str, Any] = {
    "text": Text,
    "bigint": BigInteger,
    "boolean": Boolean,
    "timestamp": UtcMicros,
    "decimal": AmountText,
    "json": JsonText,
}
NARROW_COLUMNS = 16
"""A table of more has rows too wide for SQLite to keep in the B-tree of the key."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COLUMN_NAME = re.compile(r"_?[a-z][a-z0-9_]{0,38}")
_SOURCE = re.compile(r"([a-z0-9_]+)(?:\s*\(([^()]*)\))?")
_FOREIGN = ("sqlite_", "pg_", "duckdb_")
"""How the names of tables begin that are the databases' own."""
_WORKING_NAMES = frozenset(
    {
        "deliveries",
        "batch",
        "partial",
        "changes",
        "anew",
        "fresh",
        "stored",
        "coupon_signs",
        "lake_events",
        "lake_batch",
    }
)
"""Names that analytics or the models' queries use for something else."""
_HEADER = re.compile(r"^-- (projection|version|from|key|index|about|column): +(.*)$")


@dataclass(frozen=True, slots=True)
class ProjectionColumn:
    """A documented column. `type` is one of text, bigint, boolean, timestamp (UTC), decimal, json."""

    name: str
    type: str
    doc: str

    @property
    def is_memory(self) -> bool:
        """Whether it only serves the merge; readers are not shown it."""
        return self.name.startswith("_")


@dataclass(frozen=True)
class Projection:
    """One model. `source` is `facts` or another projection's name; `watched` are the columns of that which the lift reads."""

    name: str
    version: int
    about: str
    source: str
    watched: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[ProjectionColumn, ...]
    indexes: tuple[tuple[str, ...], ...]
    lift: str
    merge: str
    where: str = field(default="", compare=False)
    """The file that it stands in, for errors."""

    @cached_property
    def table(self) -> Table:
        """The table that holds it in the store's database."""
        return self.make_table(self.name)

    def make_table(self, name: str) -> Table:
        """The same table under another name."""
        columns = [
            Column(column.name, _TYPES[column.type], primary_key=column.name in self.key) for column in self.columns
        ]
        # Without a rowid there is no second B-tree for the key; but wide rows would spill over their pages, at three times
        # the size.
        table = Table(name, MetaData(), *columns, sqlite_with_rowid=len(columns) > NARROW_COLUMNS)
        for number, names in enumerate(self.indexes):
            Index(f"ix_{name}_{number}", *[table.c[each] for each in names])
        return table

    @property
    def key_columns(self) -> tuple[ProjectionColumn, ...]:
        """The columns of the key, in its order."""
        return tuple(next(column for column in self.columns if column.name == name) for name in self.key)

    @property
    def shown(self) -> tuple[ProjectionColumn, ...]:
        """The columns meant for readers."""
        return tuple(column for column in self.columns if not column.is_memory)


def parse(text: str, where: str, *, ours: bool = False) -> Projection:
    """A Projection from the text of its `.sql` file. Raises ProjectionError naming `where`, what is wrong and what to do.

    `ours`: it is one of analytics', whose names nobody else may take.
    """
    head, *parts = re.split(r"^-- \[(lift|merge)\][ \t]*\n", text, flags=re.MULTILINE)
    header = _header(head, where)
    if sorted(parts[0::2]) != ["lift", "merge"]:
        raise ProjectionError(
            f"{where}: needs one `-- [lift]` and one `-- [merge]` query, each behind a line of its own"
        )
    queries = {name: query.strip().rstrip(";").rstrip() for name, query in zip(parts[0::2], parts[1::2], strict=True)}
    source = _SOURCE.fullmatch(header["from"][0])
    if source is None:
        raise ProjectionError(
            f"{where}: `-- from: {header['from'][0]}` is not `{FACTS}` or a projection with the columns that are read of it, "
            "as in `-- from: redemptions (redeemed_at, app_id)`"
        )
    version = header["version"][0]
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise ProjectionError(f"{where}: `-- version: {version}` is not a whole number from 1 on")
    model = Projection(
        name=header["projection"][0],
        version=int(version),
        about=header["about"][0],
        source=source[1],
        watched=_names(source[2] or ""),
        key=_names(header["key"][0]),
        columns=tuple(_column(line, where) for line in header["column"]),
        indexes=tuple(_names(each) for each in header.get("index", [])),
        lift=queries["lift"],
        merge=queries["merge"],
        where=where,
    )
    _check_names(model, ours=ours)
    return model


def _header(text: str, where: str) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _HEADER.match(line)
        if match:
            header.setdefault(match[1], []).append(match[2].strip())
    for needed in ("projection", "version", "from", "key", "about", "column"):
        if needed not in header:
            raise ProjectionError(f"{where}: the header lacks `-- {needed}:`")
        if needed != "column" and len(header[needed]) > 1:
            raise ProjectionError(f"{where}: the header has `-- {needed}:` more than once")
    return header


def _column(line: str, where: str) -> ProjectionColumn:
    parts = line.split(None, 2)
    if len(parts) < 3:
        raise ProjectionError(
            f"{where}: `-- column: {line}` needs a name, a type and what it is, as in `-- column: uses  bigint  how often`"
        )
    name, type_, doc = parts
    if not _COLUMN_NAME.fullmatch(name):
        raise ProjectionError(
            f"{where}: {name!r} is no name for a column: use small letters, digits and underscores, a letter first (behind "
            "one underscore if it is only the merge's memory), 40 characters at most"
        )
    if type_ not in _TYPES:
        raise ProjectionError(f"{where}: column {name} has the type {type_}; known are {', '.join(_TYPES)}")
    return ProjectionColumn(name, type_, doc)


def _check_names(model: Projection, *, ours: bool) -> None:
    """That the model has a name that a table can have, and that what its header speaks of is declared, once."""
    if not _NAME.fullmatch(model.name) or "__" in model.name or model.name.startswith(_FOREIGN):
        raise ProjectionError(
            f"{model.where}: {model.name!r} is no name for a projection: use small letters, digits and single underscores, a "
            f"letter first, 40 characters at most, and none that begins with {', '.join(_FOREIGN)}"
        )
    taken = {*metadata.tables, "alembic_version", FACTS, *(() if ours else _WORKING_NAMES)}
    if model.name in taken or model.name in _reserved_words():
        raise ProjectionError(
            f"{model.where}: a projection cannot be named {model.name}: that is a table of the log, a name that queries use "
            "for something else, or a word of SQL; choose another"
        )
    declared = [column.name for column in model.columns]
    for name in declared:
        if declared.count(name) > 1:
            raise ProjectionError(f"{model.where}: the column {name} is declared twice")
    for line, names in (("key", model.key), *(("index", each) for each in model.indexes)):
        for name in names or ("",):
            if name not in declared or names.count(name) > 1:
                raise ProjectionError(
                    f"{model.where}: `-- {line}:` names {name or 'no column'!r}; it takes columns that are declared, each once"
                )
    for column in model.key_columns:
        if column.is_memory:
            raise ProjectionError(f"{model.where}: {column.name} cannot be in the key: it is only the merge's memory")
    if model.source == FACTS and model.watched:
        raise ProjectionError(f"{model.where}: `-- from: {FACTS}` takes no columns: facts never change")


@lru_cache(maxsize=1)
def _reserved_words() -> frozenset[str]:
    """The words that neither engine takes as the name of a table."""
    return frozenset().union(
        *(dialect.dialect().identifier_preparer.reserved_words for dialect in (sqlite, postgresql))
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


class Catalogue:
    """The projections of a store, each after the one it reads from. Never changes."""

    def __init__(self, models: Iterable[Projection]) -> None:
        self.models = tuple(models)

    def __iter__(self) -> Iterator[Projection]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def find(self, name: str) -> Projection:
        """The projection of that name. Raises NotFound, listing the known ones."""
        for each in self.models:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.models)
        raise NotFound(f"there is no projection {name!r}; the known ones are {known}")

    def with_dependents(self, names: tuple[str, ...]) -> tuple[Projection, ...]:
        """The named projections (none named: all) with those they read from and those that read from them, in order.

        What reads from another shares its checkpoint, so they are only ever rebuilt together.
        """
        if not names:
            return self.models
        roots = {self.root(self.find(name)) for name in names}
        return tuple(each for each in self.models if self.root(each) in roots)

    def root(self, each: Projection) -> str:
        """The name of the projection from facts that this one is made of, directly or through others; its own if it is one."""
        return each.name if each.source == FACTS else self.root(self.find(each.source))


@lru_cache(maxsize=1)
def projections() -> Catalogue:
    """The projections that every store has."""
    folder = files("eventstore.projections") / "models"
    return Catalogue(parse((folder / f"{name}.sql").read_text(encoding="utf-8"), f"{name}.sql") for name in _MODELS)


def load_catalogue(folders: Sequence[str | Path] = ()) -> Catalogue:
    """The store's own projections and those in the folders: each folder holds `.sql` models, which are run over nothing once.

    Raises ProjectionError naming the file, what is wrong with it and what to do.
    """
    if not folders:
        return projections()
    models = list(projections())
    coming = [parse(_read(file), str(file)) for folder in folders for file in _files(Path(folder))]
    for number, model in enumerate(coming):
        for other in (*models, *coming[:number]):
            if other.name == model.name:
                raise ProjectionError(
                    f"{model.where}: there is a projection {model.name} already, in {other.where}; choose another name"
                )
    while coming:
        known = {model.name: model for model in models}
        ready = [model for model in coming if model.source == FACTS or model.source in known]
        if not ready:
            model = coming[0]
            sources = ", ".join([FACTS, *known])
            raise ProjectionError(f"{model.where}: `-- from: {model.source}` is no projection; there are {sources}")
        for model in ready:
            if model.source != FACTS:
                _check_source(model, known[model.source])
        models += ready
        coming = [model for model in coming if model not in ready]
    from eventstore.projections.duck import ModelSession

    ModelSession(models, threads=1).close()
    return Catalogue(models)


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.sql")) if folder.is_dir() else []
    if not found:
        what = "holds no `.sql` file" if folder.is_dir() else "is no folder"
        raise ProjectionError(
            f"the folder {folder} of your own projections {what}; mend the setting `projections` (EVENTSTORE_PROJECTIONS)"
        )
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectionError(f"{file}: cannot be read as text: {error}") from error


def _check_source(model: Projection, source: Projection) -> None:
    """That a model made of another can be followed: what it reads is there, and its rows can be found by the other's."""
    there = {column.name: column.type for column in source.columns}
    known = ", ".join(there)
    if not model.watched:
        raise ProjectionError(
            f"{model.where}: `-- from: {source.name}` needs the columns that the lift reads, so that a row which changes is "
            f"counted anew: `-- from: {source.name} ({source.columns[-1].name})`; there are {known}"
        )
    for name in model.watched:
        if name not in there:
            raise ProjectionError(f"{model.where}: {source.name} has no column {name} to read; there are {known}")
    shared = [column for column in model.key_columns if column.name in there]
    if not shared:
        raise ProjectionError(
            f"{model.where}: the key needs a column of {source.name}, as it stands there, by which the rows are found that "
            f"are counted anew: site_id at the least; there are {known}"
        )
    for column in shared:
        if column.type != there[column.name]:
            raise ProjectionError(
                f"{model.where}: the key's {column.name} is {column.type} and that of {source.name} {there[column.name]}; "
                "give it another name, or the same values"
            )


@lru_cache(maxsize=1)
def facts_sql() -> str:
    """The query that makes `facts` from `batch`."""
    return (files("eventstore.projections") / "facts.sql").read_text(encoding="utf-8")


def projection(name: str) -> Projection:
    """The projection of that name that every store has. Raises NotFound, listing the known ones."""
    return projections().find(name)
