"""A report's answer as Parquet: typed columns that say what they are, for DuckDB, Spark, pandas and whatever else reads it."""

from __future__ import annotations

import orjson
import pyarrow as pa
from pyarrow import parquet

from analytics.catalogue import ReportColumn
from analytics.results import ReportResult

NUMBER = pa.decimal128(38, 6)
"""An amount, and whatever else need not be whole: as many digits as a sum of amounts has, six of them behind the point."""
TYPES = {
    "text": pa.string(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "amount": NUMBER,
    "percent": NUMBER,
    "seconds": NUMBER,
    "days": NUMBER,
    "average": NUMBER,
}
"""By unit; what is not here is counted in whole numbers."""


def to_arrow(result: ReportResult) -> pa.Table:
    """An Arrow table. Each column's metadata says its `unit` and `comment`; the table's, the `report`, its `parameters` as JSON
    and the log's `position`."""
    columns = list(zip(*result.rows, strict=True)) or [()] * len(result.columns)
    fields = [_field(column) for column in result.columns]
    about = {
        "report": result.name,
        "title": result.title,
        "parameters": orjson.dumps(result.parameters, option=orjson.OPT_UTC_Z),
        "position": str(result.position),
    }
    arrays = [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=about))


def to_parquet(result: ReportResult) -> bytes:
    """`to_arrow` as a Parquet file (zstd), with the same metadata."""
    table = to_arrow(result)
    out = pa.BufferOutputStream()
    with parquet.ParquetWriter(out, table.schema, compression="zstd") as writer:
        writer.write_table(table)
    written: bytes = out.getvalue().to_pybytes()
    return written


def _field(column: ReportColumn) -> pa.Field:
    return pa.field(
        column.name, TYPES.get(column.unit, pa.int64()), metadata={"unit": column.unit, "comment": column.doc}
    )
