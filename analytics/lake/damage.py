"""A lake that cannot be read: files that are gone, cut short, changed or not ours. It is derived, so the way out is the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import duckdb

from eventstore.errors import StoreUnavailable

_TOLD_BY_ARROW = ("IO Error:", "Invalid Input Error: Failed to read file", "TProtocolException")
"""How messages of DuckDB's about a file begin where Arrow passes them on."""


class LakeUnreadable(StoreUnavailable):
    """Files of the lake are gone or damaged. The message says how to have it made anew."""

    def __init__(self, location: str, error: BaseException, *, table: str = "") -> None:
        said = first_line(error)
        # Where DuckDB does not say which file it is.
        which = "" if table or location in said else " (`eventstore lake verify` names the file)"
        where = f"{location}/{table}" if table else location
        super().__init__(
            f"the lake {where} cannot be read: {said}{which}; remove {location}, it is made anew from the log"
        )


def first_line(error: BaseException) -> str:
    """What an error says, without what DuckDB adds below."""
    return str(error).splitlines()[0].strip() if str(error).strip() else type(error).__name__


def is_damage(error: Exception, files: Collection[str] = ()) -> bool:
    """Whether what DuckDB tells of somebody's query is about the files that it reads, which are `files`, and not the query."""
    if isinstance(error, duckdb.InterruptException | duckdb.OutOfMemoryException):
        return False
    # What DuckDB's reader of Parquet stumbles over in a file's own description has no class of its own.
    if type(error) is duckdb.Error or isinstance(error, duckdb.IOException | duckdb.SerializationException):
        return True
    said = str(error)
    return said.startswith(_TOLD_BY_ARROW) or any(file in said for file in files)


@contextmanager
def readable(location: str) -> Iterator[None]:
    """What DuckDB fails with at work of our own on the lake's files, which are as we have written them, is LakeUnreadable."""
    try:
        yield
    except (duckdb.InterruptException, duckdb.OutOfMemoryException):
        raise
    except duckdb.Error as error:
        raise LakeUnreadable(location, error) from error
