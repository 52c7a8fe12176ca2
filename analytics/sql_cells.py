"""What a notebook's SQL cells ask: an analytics connection in the shape of an ADBC one, which marimo knows.

Through it a cell's answer is an Arrow table, so that no dataframe library is needed, and the tables and columns show in
marimo's panel of data sources. It runs what `AnalyticsConnection.arrow` runs, within its limits, and can do no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from analytics.connect import AnalyticsConnection
from eventstore.projections.duck import quoted

_DESCRIBED = """
    SELECT table_name, column_name, data_type
    FROM information_schema.columns
    WHERE table_schema = 'main'
    ORDER BY table_name, ordinal_position
"""
_CATALOG, _SCHEMA = "memory", "main"


class SqlCells:
    """Give it to `mo.sql(…, engine=…)`. Nothing is ever written, so commit and rollback have nothing to do."""

    def __init__(self, connection: AnalyticsConnection) -> None:
        self._connection = connection

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection)

    def commit(self) -> None:
        """Nothing was written."""

    def rollback(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """The connection is its opener's to close."""

    adbc_current_catalog = _CATALOG
    adbc_current_db_schema = _SCHEMA

    def adbc_get_info(self) -> dict[str | int, Any]:
        """Whose SQL it speaks."""
        return {"vendor_name": "duckdb"}

    def adbc_get_objects(self, *, depth: str = "all", **filters: str | None) -> pa.RecordBatchReader:  # noqa: ARG002
        """The tables, in ADBC's nesting of catalogue, schema and table; there is one of each of the first two."""
        names = dict.fromkeys(row["table_name"] for row in self._described())
        tables = [{"table_name": name, "table_type": "VIEW"} for name in names]
        schemas = [{"db_schema_name": _SCHEMA, "db_schema_tables": tables}]
        return pa.Table.from_pylist([{"catalog_name": _CATALOG, "catalog_db_schemas": schemas}]).to_reader()

    def adbc_get_table_schema(self, table_name: str, *, db_schema_filter: str | None = None) -> list[pa.Field]:  # noqa: ARG002
        """A table's columns."""
        return list(self._connection.arrow(f"SELECT * FROM {quoted(table_name)} LIMIT 0").schema)

    def _described(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._connection.arrow(_DESCRIBED).to_pylist()
        return found


class _Cursor:
    """One query at a time, its answer whole."""

    def __init__(self, connection: AnalyticsConnection) -> None:
        self._connection = connection
        self._answer: pa.Table | None = None

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """DB-API's seven values a column, of which the name is known; None before a query."""
        if self._answer is None:
            return None
        return [(name, None, None, None, None, None, None) for name in self._answer.column_names]

    def execute(self, query: str, parameters: Sequence[object] = ()) -> _Cursor:
        """Run a query. Raises as `AnalyticsConnection.arrow` does."""
        self._answer = self._connection.arrow(query, list(parameters) or None)
        return self

    def fetch_arrow_table(self) -> pa.Table:
        """The answer."""
        assert self._answer is not None
        return self._answer

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The answer as DB-API gives it."""
        answer = self.fetch_arrow_table()
        return list(zip(*(column.to_pylist() for column in answer.columns), strict=True))

    def close(self) -> None:
        """Let go of the answer."""
        self._answer = None
