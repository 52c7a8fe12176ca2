"""Where a store's lake lies, and whose turn it is to bring it up to date."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from eventstore.errors import InputError, StoreUnavailable
from eventstore.log.engine import is_sqlite, sqlite_path

try:
    import fcntl
except (
    ImportError
):  # not a POSIX system: two that catch up at once do the same work, and Delta refuses the second commit
    fcntl = None  # type: ignore[assignment]

_NO_NAME = re.compile(r"[\[\]^|*?\\\x00-\x1f]|%[0-9A-Fa-f]{2}")
"""What URLs, patterns of file names and Delta's protocol make something else of."""
LOCK = "catching-up.lock"
"""Locked in the lake's folder by who brings it up to date, or tidies it. It is empty, and may be left behind."""
PATIENCE_SECONDS = 600.0
"""How long somebody waits for another who is at it: exporting some millions of events takes a minute or two."""
LOOK_SECONDS = 0.02


def default_lake(engine: Engine) -> str:
    """The lake of a store that names none: beside a SQLite file; of a PostgreSQL database in the user's cache folder, for
    whoever asks need not be on the machine that it runs on."""
    if is_sqlite(engine):
        path = sqlite_path(engine)
        return str(path.with_name(path.name + ".lake"))
    return str(cache_folder() / f"{_name(engine.url)}.lake")


def cache_folder() -> Path:
    """Where the user's system keeps what can be made again, and in it what is ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eventstore"


def _name(url: URL) -> str:
    host = url.host or "".join(url.query.get("host", ())) or "local"
    parts = (host, str(url.port or 5432), url.database or "")
    return "-".join("".join(each if each.isalnum() or each in "._" else "_" for each in part) for part in parts)


def is_remote(location: str) -> bool:
    """Whether it is an object store's address: s3://…, gs://…, az://… ."""
    return "://" in location and not location.startswith("file://")


def folder(location: str) -> Path:
    """The folder of a lake that lies on a disk."""
    return Path(location.removeprefix("file://"))


def address(location: str) -> str:
    """Where a lake lies, in full: `~` is the user's folder. Raises InputError for no place, or a store without its bucket."""
    plain = location.strip().rstrip("/")
    if is_remote(location):
        if plain.endswith(":") or not plain.partition("://")[2]:
            raise InputError(f"the lake {location} names no bucket; write it as in s3://bucket/lake")
        return plain
    if not location.strip():
        raise InputError("the lake is named by an empty text; name a folder or an object store's address")
    return str(Path(location.rstrip("/").removeprefix("file://") or "/").expanduser().absolute())


def require_plain_name(location: str) -> None:
    """Raise InputError for a folder whose name Delta's and DuckDB's readers would take for something else than a name."""
    found = _NO_NAME.search(folder(location).as_posix())
    if not is_remote(location) and found is not None:
        raise InputError(
            f"a lake cannot lie in {location}: {found[0]!r} in a folder's name is more than a name to those who read it; "
            "name another folder (EVENTSTORE_LAKE, --lake)"
        )


@contextmanager
def turn(location: str) -> Iterator[None]:
    """The right to write to the lake, of one process or thread at a time; who finds it taken waits.

    In an object store nobody is kept out: Delta refuses the later of two commits of the same events. Raises StoreUnavailable
    after PATIENCE_SECONDS, and InputError where the folder cannot be written.
    """
    if is_remote(location) or fcntl is None:
        yield
        return
    path = folder(location) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(
            f"the lake {location} cannot be written: {error.strerror}; name another folder (EVENTSTORE_LAKE, --lake)"
        ) from error
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreUnavailable(
                        f"the lake {location} is being written by another process; ask again"
                    ) from None
                time.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(file)
