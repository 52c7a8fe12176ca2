"""A DuckDB that reads the lake and the log's rows, for work and not for questions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import duckdb

_free: list[tuple[int, duckdb.DuckDBPyConnection]] = []
"""Those that nobody uses, with the process that made them: what a fork has copied is of no use."""
KEPT = 2
"""So many are kept: one takes 20 ms to make, a fifth of a small catching up in all."""

ASKED_AGAIN_SECONDS = 0.05
"""How often DuckDB is told again to end what may not have begun yet."""

_Made = TypeVar("_Made")
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
        with _interruptible():
            yield connection
    except BaseException:
        connection.close()
        raise
    if len(_free) < KEPT:
        _free.append((os.getpid(), connection))
    else:
        connection.close()


def interruptibly(work: Callable[[], _Made], interrupt: Callable[[], None]) -> _Made:
    """Do DuckDB's work; Ctrl-C ends it at once, by `interrupt`.

    DuckDB looks for signals only as long as the thread that asks has work of its own to do, and no other thread is told of any:
    so another one asks, and the main thread waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: Future[_Made] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            done.set_exception(error)

    thread = threading.Thread(target=run, name="eventstore-duckdb", daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        while not done.done():
            interrupt()
            thread.join(ASKED_AGAIN_SECONDS)
        # A thread that has yet to leave DuckDB's code when the interpreter ends takes the process down.
        thread.join()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C while DuckDB works is Ctrl-C, where DuckDB tells of an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
