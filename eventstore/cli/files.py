"""What the commands that read files share: their lines, when a file was taken, how far it is, what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventstore.errors import EventStoreError
from eventstore.lines import Deliveries, numbered

if TYPE_CHECKING:
    from eventstore.bulk import IngestProgress
    from eventstore.ingest import LineAnswer

PLAIN_PROGRESS_SECONDS = 10.0
"""How often progress is told where standard error is no terminal."""
SHOWN_PROBLEMS = 20
"""Refused or quarantined lines shown; the rest is counted."""

files_argument = click.argument(
    "files", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
observed_at_option = click.option(
    "--observed-at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    help="When a snapshot was taken (UTC); else the file's own date, so that a second run finds duplicates.",
)


@dataclass
class Problems:
    """The lines that were not simply taken: the first SHOWN_PROBLEMS of them, and how many there are."""

    shown: list[dict[str, object]] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, answer: LineAnswer) -> None:
        """Note what went wrong with a line of the file `name`, if anything did."""
        found = [(answer.outcome, str(answer.error))] if answer.error is not None else []
        found += [(outcome.kind.value, outcome.reason) for outcome in answer.outcomes if outcome.reason is not None]
        for outcome, reason in found:
            self.count += 1
            if len(self.shown) < SHOWN_PROBLEMS:
                self.shown.append({"file": name, "line": answer.line, "outcome": outcome, "reason": reason})

    def print(self) -> None:
        """One line each on standard error."""
        for each in self.shown:
            click.echo(f"{each['file']}:{each['line']}: {each['outcome']}: {each['reason']}", err=True)
        if self.count > len(self.shown):
            click.echo(f"… and {self.count - len(self.shown):,} more", err=True)


def taken_at(name: str, observed_at: datetime | None) -> datetime:
    """When a snapshot in the file `name` was taken: as the option says, else the file's own date; of `-`, now."""
    if observed_at is not None:
        return observed_at.replace(tzinfo=UTC)
    return datetime.now(UTC) if name == "-" else datetime.fromtimestamp(Path(name).stat().st_mtime, UTC)


def numbered_lines(name: str) -> Iterator[tuple[int, bytes | EventStoreError]]:
    """Numbered lines of a file, compressed or not. One JSON document over several lines is line 1; of a list, each item is a
    line."""
    with click.open_file(name, "rb") as stream:
        yield from numbered(Deliveries(stream, name).pieces())


@contextmanager
def file_progress(name: str) -> Iterator[Callable[[IngestProgress], None]]:
    """Bytes and lines done, rate and time left on standard error: a bar on a terminal, elsewhere a line now and then."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = Console(stderr=True)
    started = told = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]}"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bar:
        task = bar.add_task(Path(name).name.replace("[", r"\["), total=None, lines="")

        def update(at: IngestProgress) -> None:
            nonlocal told
            now = time.monotonic()
            lines = f"{at.lines:,} lines, {at.lines / max(now - started, 0.001):,.0f}/s"
            if terminal.is_terminal:
                bar.update(task, completed=at.bytes_read, total=at.bytes_total, lines=lines)
            elif now - told >= PLAIN_PROGRESS_SECONDS:
                told = now
                of, left = "", ""
                if at.bytes_total is not None and at.bytes_read:
                    of = f" of {decimal(at.bytes_total)}"
                    seconds = (at.bytes_total - at.bytes_read) / at.bytes_read * (now - started)
                    left = f", {timedelta(seconds=round(seconds))} left"
                click.echo(f"{name}: {decimal(at.bytes_read)}{of}, {lines}{left}", err=True)

        yield update
