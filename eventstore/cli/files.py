"""What the commands that read files share: numbered lines, when a file was taken, what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import orjson

from eventstore.errors import InputError

if TYPE_CHECKING:
    from eventstore.ingest import LineAnswer

MAX_FILE_DOCUMENT = 64 * 1024 * 1024
"""Bytes of a file that is one JSON document rather than lines."""
BOM = b"\xef\xbb\xbf"
"""What some programs on Windows begin a UTF-8 file with; it is no part of the first delivery."""
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


def numbered_lines(name: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file. One JSON document over several lines is line 1; of a list, each item is a line."""
    with click.open_file(name, "rb") as opened:
        line = opened.readline(MAX_FILE_DOCUMENT).removeprefix(BOM)
        if line.lstrip()[:1] == b"[" or (line.lstrip()[:1] == b"{" and _parsed(line) is None):
            yield from _of_document(name, line, opened)
            return
        number = 0
        while line:
            number += 1
            yield number, line
            line = opened.readline(MAX_FILE_DOCUMENT)


def _of_document(name: str, first: bytes, opened: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    whole = first + opened.read(MAX_FILE_DOCUMENT)
    if opened.read(1):
        raise InputError(
            f"{name} is one JSON document of over {MAX_FILE_DOCUMENT:,} bytes; split it, or write one delivery a line"
        )
    document = _parsed(whole)
    if isinstance(document, list):
        for number, item in enumerate(document, 1):
            yield number, orjson.dumps(item)
    elif isinstance(document, dict) or first.strip() == b"{":
        yield 1, whole
    elif first.strip() == b"[":
        raise InputError(f"{name} is not JSON: it begins as a list and never ends well; is it cut short?")
    else:
        # Lines after all, of which the first is wrong: each is judged alone.
        yield from enumerate(whole.splitlines(keepends=True), 1)


def _parsed(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
