"""A DuckDB that reads the lake and the log's rows, for work and not for questions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

_free: list[tuple[int, duckdb.DuckDBPyConnection]] = []
"""Those that nobody uses, with the process that made them: what a fork has copied is of no use."""
KEPT = 2
"""So many are kept: one takes 20 ms to make, a fifth of a small catching up in all."""

_INTERRUPTED = "Query interrupted"
"""What DuckDB makes of a KeyboardInterrupt that a signal raises while it works."""


@contextmanager
def worker() -> Iterator[duckdb.DuckDBPyConnection]:
    """One in memory, for UTC, that never spills into the working directory, lent to one at a time. Nothing is left in it."""
    connection = None
    while connection is None and _free:
        pid, found = _free.pop()
        connection = found if pid == os.getpid() else None
    if connection is None:
        connection = duckdb.connect(":memory:")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET temp_directory = ''")
    try:
        with interruptible():
            yield connection
    except BaseException:
        connection.close()
        raise
    if len(_free) < KEPT:
        _free.append((os.getpid(), connection))
    else:
        connection.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C while DuckDB works is Ctrl-C, where DuckDB tells of an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
