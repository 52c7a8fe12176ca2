"""A file that somebody waits for: under its name there is all of it, or what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from eventstore.errors import InputError
from eventstore.log.engine import sync_directory


@contextmanager
def new_file(target: str | Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name, in one step, when the block ends well; an older one of that name is replaced.

    Until then it lies beside it as `.NAME.PROCESS.coming`, which a failure removes and only a process that is killed leaves
    behind. What is no plain file, as a pipe or /dev/null, is written to directly. Raises InputError where it cannot be written.
    """
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise InputError(f"{target} cannot be written: it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        with _told(target), path.open("wb") as special:
            yield special
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.coming")
    try:
        with _told(target):
            with beside.open("wb") as coming:
                yield coming
                coming.flush()
                os.fsync(coming.fileno())
            beside.replace(path)
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextmanager
def _told(target: str | Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error
