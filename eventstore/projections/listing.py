"""Any projection's rows as they are shown to readers, page by page: your own ones have no views of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Engine, bindparam, select, tuple_

from eventstore.errors import InputError
from eventstore.projections import tables
from eventstore.projections.catalogue import Projection

PAGE_ROWS = 1_000
"""Rows in a page unless the caller says otherwise."""
Row = dict[str, Any]


def rows(
    engine: Engine,
    model: Projection,
    *,
    site_id: str | None = None,
    after: Mapping[str, Any] | None = None,
    limit: int = PAGE_ROWS,
) -> list[Row]:
    """A page of the projection's rows in the order of its key: times are aware and UTC, amounts Decimal, JSON is decoded.

    `after` is the last row of the page before. Raises InputError for a site where the projection has none, or an `after` that is
    no row of it; ProjectionError where it has not been built yet.
    """
    with engine.connect() as connection:
        table = tables.served(connection, model)
        statement = select(*[table.c[column.name] for column in model.shown])
        key = [table.c[name] for name in model.key]
        if site_id is not None:
            if "site_id" not in {column.name for column in model.shown}:
                raise InputError(f"the projection {model.name} does not say of which site its rows are")
            statement = statement.where(table.c.site_id == site_id)
        if after is not None:
            if not all(name in after for name in model.key):
                raise InputError(f"after= takes a row of {model.name}, with its {', '.join(model.key)}")
            last = [bindparam(None, after[column.name], type_=column.type) for column in key]
            statement = statement.where(tuple_(*key) > tuple_(*last))
        names = [column.name for column in model.shown]
        found = connection.execute(statement.order_by(*key).limit(limit))
        return [dict(zip(names, row, strict=True)) for row in found]


def all_rows(engine: Engine, model: Projection, *, site_id: str | None = None) -> Iterator[Row]:
    """Every row of the projection in the order of its key, a page at a time: memory stays bounded, and rows that change
    meanwhile are shown as they were or as they are."""
    after: Row | None = None
    while page := rows(engine, model, site_id=site_id, after=after):
        yield from page
        after = page[-1]
