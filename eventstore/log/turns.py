"""Turns to write to a SQLite file: one after the other, among the threads of a process and among processes.

SQLite lets one write at a time and has the others sleep and look again, up to a tenth of a second at a time. Whoever writes
batch after batch, as a busy server or an ingestion does, takes the lock again while the others sleep: they wait for seconds.
So those who are about to write stand in line first. Only SQLite's own lock keeps writes apart; the line makes it fair, and a
process that cannot stand in it, or has stood there for long, goes to SQLite's lock at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

try:
    import fcntl
except ImportError:  # not a POSIX system: SQLite's own waiting has to do
    fcntl = None  # type: ignore[assignment]

SUFFIX = "-turn"
"""The line of the processes is locks on this file, empty, beside SQLite's own `-wal` and `-shm`. Like those it goes when the
store is closed, and may be left by a process that was killed: the system has given its locks back."""
LOOK_SECONDS = 0.002
"""How often a process in line looks whether it is its turn: far less than a batch takes."""
PATIENCE_SECONDS = 2.5
"""How long it stands in line: longer than a batch each of a dozen processes. Then the one before it has most likely stopped in
the midst of it, and SQLite's lock will tell."""

_WRITING, _NEXT = 0, 1
"""The bytes of the file that are locked: by who writes, and by who comes next. Only the next one waits for the writer to end.
The writer, who would take the lock again in no time, finds the place of the next one taken and is the last in line."""


_lines: WeakValueDictionary[Path, Turns] = WeakValueDictionary()
_making = threading.Lock()


def turns_at(database: Path) -> Turns:
    """The turns at this file, the same for all engines of the process: the system's locks are the process's, not the
    descriptor's, so that two of its engines would never see each other, and one that closes would let go of the other's."""
    path = database.resolve()
    with _making:
        found = _lines.get(path)
        if found is None:
            found = _lines[path] = Turns(path)
        return found


class Turns:
    """The turns of one process at one SQLite file. Thread-safe. See `turns_at`."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + SUFFIX)
        self._database = database
        self._lock = threading.Lock()
        self._file: int | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn and keep it to the end of the block."""
        # Of threads the next one is woken as soon as the one before it has committed.
        first = self._lock.acquire(timeout=min(PATIENCE_SECONDS, threading.TIMEOUT_MAX))
        taken = self._take() if first else None
        try:
            yield
        finally:
            if taken is not None:
                with suppress(OSError):
                    fcntl.lockf(taken, fcntl.LOCK_UN, 1, _WRITING)
            if first:
                self._lock.release()

    def close(self) -> None:
        """Leave no file behind, unless a thread is at work all the same. Who still stands in line makes another one."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._file is not None:
                with suppress(OSError):
                    if is_there(self._path, self._file):
                        self._path.unlink()
                os.close(self._file)
                self._file = None
        finally:
            self._lock.release()

    def _take(self) -> int | None:
        """The file on which the turn is taken; None if there is nobody to wait for that could be found."""
        if fcntl is None:
            return None
        try:
            file = self._open()
            deadline = time.monotonic() + PATIENCE_SECONDS
            if not _locked(file, _NEXT, deadline):
                return None
            try:
                return file if _locked(file, _WRITING, deadline) else None
            finally:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _NEXT)
        except OSError:  # a folder that cannot be written to, a file system without locks
            return None

    def _open(self) -> int:
        if self._file is not None and not is_there(self._path, self._file):
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file = open_beside(self._database, self._path)
        return self._file


def open_beside(database: Path, path: Path) -> int:
    """Open the file, made if it is not there, for whoever may write to the database. Raises OSError."""
    mode = database.stat().st_mode & 0o666
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    with suppress(OSError):  # who has not made it may not, and need not
        os.fchmod(file, mode)  # whatever the umask
    return file


def is_there(path: Path, file: int) -> bool:
    """Whether the open file is still the one that others find."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _locked(file: int, byte: int, deadline: float) -> bool:
    """Lock one byte, waiting for it until the deadline."""
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)
        else:
            return True
