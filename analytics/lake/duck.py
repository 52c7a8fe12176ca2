"""A DuckDB that reads the lake and the log's rows, for work and not for questions."""

from __future__ import annotations

import duckdb


def worker() -> duckdb.DuckDBPyConnection:
    """One in memory, for UTC, that never spills into the working directory. Close it."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET temp_directory = ''")
    return connection
