"""A whole file on its way into the log: read by several processes, written by one thread, in bounded memory.

A second run of the same file appends nothing, and one after a run that was cut short goes on where that ended: what is in the
log is known again by its ids.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eventstore.errors import EventStoreError, InputError, StoreUnavailable
from eventstore.ingest import Chunk, IngestSummary, LineAnswer, Route, SiteOf, Submit, append_chunks
from eventstore.lines import MAX_LINE_BYTES, Deliveries
from eventstore.readers import HERE_BYTES, Job, Readers, read_pieces, readers_for, usable_cores

CHUNKS_UNDER_WAY = 8
"""Chunks between reading and commit at once: two of the writer's batches, so that it need not wait for the next one."""


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far a file has been taken: lines answered, and bytes of it as it lies there. `bytes_total` None: not known."""

    lines: int
    bytes_read: int
    bytes_total: int | None


def ingest_file(
    file: str | Path | IO[bytes],
    how: Route,
    site_of: SiteOf,
    submit: Submit,
    *,
    name: str | None = None,
    readers: int | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    here_bytes: int = HERE_BYTES,
    on_problem: Callable[[LineAnswer], None] | None = None,
    on_progress: Callable[[IngestProgress], None] | None = None,
) -> IngestSummary:
    """Append the deliveries of a file, given by its path or open for reading bytes; it may be compressed. Errors call it `name`.

    `on_problem` is called for each line that was refused, quarantined or in conflict, in order; `on_progress` after every
    few hundred lines. `readers`: how many processes read (default: what pays on this machine; 0: this one alone); the first
    `here_bytes` are always read in this one. Raises InputError for a file that cannot be read to its end, StoreUnavailable
    for a log that takes no more or a reader that was lost; both say how much was taken before.
    """
    count = readers_for(usable_cores()) if readers is None else readers
    summary = IngestSummary()
    name = name or (str(file) if isinstance(file, str | Path) else str(getattr(file, "name", "the input")))
    opened = _open(file, name) if isinstance(file, str | Path) else nullcontext(file)
    with opened as stream, Readers(count) if count else nullcontext() as pool:
        total = _size(stream)
        deliveries = Deliveries(stream, name)
        chunks = read_pieces(deliveries.pieces(), Job(how, site_of, max_line_bytes), pool, here_bytes=here_bytes)
        try:
            end = 0
            for chunk in append_chunks(chunks, submit, chunks_under_way=CHUNKS_UNDER_WAY):
                summary.add_chunk(chunk)
                if on_problem is not None:
                    for answer in problems(chunk):
                        on_problem(answer)
                end = end if chunk.end is None else chunk.end
                if on_progress is not None:
                    on_progress(IngestProgress(summary.lines, end, total))
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{name}: stopped after {summary.lines} answered lines: {error}; run it again, what is in is not appended "
                "twice"
            ) from error
        except InputError as error:
            if not summary.lines:
                raise
            raise InputError(
                f"{error}. The {summary.lines:,} lines before that were taken; run it again once it is mended, what is in is "
                "not appended twice"
            ) from error
    return summary


def problems(chunk: Chunk) -> Iterator[LineAnswer]:
    """The answers to those lines of a chunk that were not simply taken."""
    refused = any(isinstance(told, EventStoreError) for told in chunk.told)
    if refused or any(outcome.reason is not None for outcome in chunk.outcomes):
        for answer in chunk.answers():
            if answer.error is not None or any(outcome.reason is not None for outcome in answer.outcomes):
                yield answer


def _open(path: str | Path, name: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error


def _size(stream: IO[bytes]) -> int | None:
    """The size of what is a plain file and read from its beginning."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, AttributeError):  # not a file of the system's
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
