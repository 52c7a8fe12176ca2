"""The projections there are: each a `.sql` file whose header says its key and columns, and whose two queries make it.

`[lift]` turns facts (or another projection's rows) into partial rows; `[merge]` turns partial rows into one row a key. A
merged row is itself a partial row (its columns include those of the lift), and merging is associative, commutative and, for
models from facts, idempotent. That is why one file serves live updates, rebuilds and as-of queries alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, Table, Text

from eventstore.errors import NotFound, ProjectionError
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

    @cached_property
    def table(self) -> Table:
        """The table that holds it in the store's database."""
        return self.make_table(self.name)

    def make_table(self, name: str) -> Table:
        """The same table under another name."""
        columns = [
            Column(column.name, _TYPES[column.type], primary_key=column.name in self.key) for column in self.columns
        ]
        table = Table(name, MetaData(), *columns, sqlite_with_rowid=False)
        for number, names in enumerate(self.indexes):
            Index(f"ix_{name}_{number}", *[table.c[each] for each in names])
        return table

    @property
    def shown(self) -> tuple[ProjectionColumn, ...]:
        """The columns meant for readers."""
        return tuple(column for column in self.columns if not column.is_memory)


def parse(text: str, where: str) -> Projection:
    """A Projection from the text of its `.sql` file. Raises ProjectionError naming `where` and what is missing."""
    header: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _HEADER.match(line)
        if match:
            header.setdefault(match[1], []).append(match[2].strip())
    for needed in ("projection", "version", "from", "key", "about", "column"):
        if needed not in header:
            raise ProjectionError(f"{where}: the header lacks `-- {needed}:`")
    parts = re.split(r"^-- \[(lift|merge)\]\n", text, flags=re.MULTILINE)
    queries = dict(zip(parts[1::2], parts[2::2], strict=True))
    if set(queries) != {"lift", "merge"}:
        raise ProjectionError(f"{where}: needs one `-- [lift]` and one `-- [merge]` query")
    columns = []
    for line in header["column"]:
        name, type_, doc = line.split(None, 2)
        if type_ not in _TYPES:
            raise ProjectionError(f"{where}: column {name} has the type {type_}; known are {', '.join(_TYPES)}")
        columns.append(ProjectionColumn(name, type_, doc))
    source, _, watched = header["from"][0].partition(" ")
    return Projection(
        name=header["projection"][0],
        version=int(header["version"][0]),
        about=header["about"][0],
        source=source,
        watched=_names(watched.strip("()")),
        key=_names(header["key"][0]),
        columns=tuple(columns),
        indexes=tuple(_names(each) for each in header.get("index", [])),
        lift=queries["lift"].strip(),
        merge=queries["merge"].strip(),
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
    """The store's own projections and those in the folders, in the order given: each folder holds `.sql` models.

    Raises ProjectionError naming the file and what is wrong with it.
    """
    models = list(projections())
    for folder in folders:
        found = sorted(Path(folder).glob("*.sql"))
        if not found:
            raise ProjectionError(f"{folder}: no folder with a `.sql` model")
        models += [parse(file.read_text(encoding="utf-8"), str(file)) for file in found]
    return Catalogue(models) if folders else projections()


@lru_cache(maxsize=1)
def facts_sql() -> str:
    """The query that makes `facts` from `batch`."""
    return (files("eventstore.projections") / "facts.sql").read_text(encoding="utf-8")


def projection(name: str) -> Projection:
    """The projection of that name that every store has. Raises NotFound, listing the known ones."""
    return projections().find(name)
