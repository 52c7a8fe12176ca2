"""Copies, on this machine, of the files of a lake in an object store: each is made once, for a file of a lake never changes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from pyarrow import fs

from analytics.lake.place import cache_folder
from eventstore.errors import StoreUnavailable

KEPT_SECONDS = 24 * 60 * 60
"""How long a copy is kept that nobody wants any more who looks at the lake: who has connected before may still read it."""
COPY_BYTES = 4 * 1024 * 1024


def copies_of(location: str) -> Path:
    """The folder, in the user's cache, of the copies of a lake's files."""
    return cache_folder() / "lake-files" / hashlib.sha256(location.encode()).hexdigest()[:16]


def brought_here(table_uri: str, files: list[str], options: Mapping[str, str]) -> list[str]:
    """The paths of copies of a table's files, which are made if they are not there. Raises StoreUnavailable."""
    location, _, name = table_uri.rpartition("/")
    found = [copies_of(location) / name / file for file in files]
    lacking = [(file, path) for file, path in zip(files, found, strict=True) if not path.exists()]
    try:
        if lacking:
            source = _filesystem(table_uri, options)
            for file, path in lacking:
                _copy(source, file, path)
        for path in found:
            os.utime(path)  # wanted now
    except OSError as error:
        raise StoreUnavailable(f"files of {table_uri} cannot be copied to {copies_of(location)}: {error}") from error
    return [str(path) for path in found]


def remove_unwanted(location: str) -> None:
    """Remove the copies of a lake's files that nobody has wanted for KEPT_SECONDS."""
    for file in copies_of(location).rglob("part-*"):
        with suppress(FileNotFoundError):  # another process is at it too
            if time.time() - file.stat().st_mtime > KEPT_SECONDS:
                file.unlink()


def _copy(source: fs.FileSystem, file: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coming = path.with_name(f"{path.name}.{token_hex(8)}.coming")
    with source.open_input_stream(file) as stream, coming.open("wb") as out:
        while piece := stream.read(COPY_BYTES):
            out.write(piece)
    coming.replace(path)


def _filesystem(table_uri: str, options: Mapping[str, str]) -> fs.FileSystem:
    from deltalake.fs import DeltaStorageHandler

    return fs.PyFileSystem(DeltaStorageHandler(table_uri, dict(options) or None))
