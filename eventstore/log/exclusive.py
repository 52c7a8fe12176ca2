"""What one process at a time may do on a store: follow its log, or rebuild its projections. The others stand by.

What keeps them out ends with whoever holds it, however that ends, and needs no clock: on PostgreSQL an advisory lock of a
session of its own, on SQLite the system's lock on a file beside the database. Nothing of the store depends on it for being
right: two runners would only do the same work twice, for checkpoints move by comparison.
"""

from __future__ import annotations

import os
import socket
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from eventstore.log.announce import Line
from eventstore.log.engine import is_sqlite, sqlite_path
from eventstore.log.turns import is_there, open_beside

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody is kept out
    fcntl = None  # type: ignore[assignment]

_CLASS = 0x4556
"""The first of the two numbers of our advisory locks; the second is made of the log's schema and what is done."""


def worker_name() -> str:
    """This process, for people: where it runs and under which number."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class Exclusive:
    """The right to do something, `name`, that one process of a store has at a time. For one thread; release it, or use it as a
    context."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._held: Line | int | None = None

    def take(self) -> bool:
        """Have it if nobody else does. True also if this object has it already, and still.

        Raises SQLAlchemy's or the driver's error where the database cannot be reached, OSError where the file cannot be made.
        """
        if self.held:
            return True
        self._held = self._lock_file() if is_sqlite(self._engine) else self._lock_in_database()
        return self._held is not None

    @property
    def held(self) -> bool:
        """Whether this object has it. It may have been lost: with the connection, or with the file."""
        if isinstance(self._held, Line):
            try:
                self._held.driver.execute("SELECT 1")
            except Exception:  # noqa: BLE001 - whatever it is, the session and its locks are gone
                self.release()
        elif self._held is not None and not is_there(self._path, self._held):
            self.release()
        return self._held is not None

    def release(self) -> None:
        """Let others have it."""
        held, self._held = self._held, None
        if isinstance(held, Line):
            held.close()
        elif held is not None:
            with suppress(OSError):
                if is_there(self._path, held):
                    self._path.unlink()
            os.close(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def _path(self) -> Path:
        # The file itself, whatever link leads to it.
        database = sqlite_path(self._engine).resolve()
        return database.with_name(f"{database.name}-{self._name}")

    def _lock_file(self) -> int | None:
        # Of a file that its holder has unlinked meanwhile the lock is worth nothing: then once more, with the new one.
        while True:
            file = open_beside(sqlite_path(self._engine), self._path)
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return None
            except BaseException:
                os.close(file)
                raise
            if is_there(self._path, file):
                return file
            os.close(file)

    def _lock_in_database(self) -> Line | None:
        line = Line(self._engine, f"eventstore {self._name}")
        try:
            number = zlib.crc32(f"{line.channel} {self._name}".encode()) - 2**31
            [taken] = line.driver.execute("SELECT pg_try_advisory_lock(%s, %s)", [_CLASS, number]).fetchone()
        except BaseException:
            line.close()
            raise
        if taken:
            return line
        line.close()
        return None
