"""`ingest`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import orjson

from eventstore.cli.common import json_option, open_store, print_json, print_table, progress
from eventstore.errors import InputError, StoreUnavailable

if TYPE_CHECKING:
    from eventstore.ingest import LineAnswer

ROUTES = ["velo", "rest", "sdk", "snapshot"]
MAX_FILE_DOCUMENT = 64 * 1024 * 1024
"""Bytes of a file that is one JSON document rather than lines."""
BOM = b"\xef\xbb\xbf"
"""What some programs on Windows begin a UTF-8 file with; it is no part of the first delivery."""
SHOWN_PROBLEMS = 20
"""Refused or quarantined lines shown; the rest is counted."""


@click.command()
@click.argument(
    "files", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option(
    "--route", type=click.Choice(ROUTES), help="What the deliveries are; found out by their shape if not given."
)
@click.option(
    "--handler", metavar="NAME", help="The Velo handler the deliveries came to, as in wixMarketing_onCouponCreated."
)
@click.option("--site", metavar="ID", help="The site they belong to; else the one each names.")
@click.option(
    "--observed-at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    help="When a snapshot was taken (UTC); else the file's own date, so that a second run finds duplicates.",
)
@json_option
@click.pass_context
def ingest(
    ctx: click.Context,
    files: tuple[str, ...],
    route: str | None,
    handler: str | None,
    site: str | None,
    observed_at: datetime | None,
    as_json: bool,
) -> None:
    """Append deliveries from files: NDJSON (one delivery a line) or one JSON document each; `-` reads standard input.

    A line may also wrap a delivery with what its body does not say:
    {"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}. Running a file again appends nothing new.
    Exit status 1 if any line was refused or quarantined.
    """
    from eventstore.ingest import IngestSummary
    from eventstore.wix import HANDLERS

    if handler is not None and handler not in HANDLERS:
        raise InputError(f"unknown handler {handler!r}; the known ones are {', '.join(HANDLERS)}")
    totals = IngestSummary()
    problems = _Problems()
    with open_store(ctx, create=True) as store:
        for name in files:
            taken_at = observed_at.replace(tzinfo=UTC) if observed_at is not None else _file_time(name)
            with progress(name, "lines") as update:
                done = 0

                def on_answer(answer: LineAnswer, name: str = name, update=update) -> None:  # type: ignore[no-untyped-def]
                    nonlocal done
                    done += 1
                    totals.add(answer)
                    problems.add(name, answer)
                    if done % 100 == 0:
                        update(done, None)

                try:
                    store.ingest(
                        _lines(name), route=route, handler=handler, site=site, observed_at=taken_at, on_answer=on_answer
                    )
                except StoreUnavailable as error:
                    raise StoreUnavailable(
                        f"{name}: stopped after {done} answered lines: {error}; run it again, what is in is not appended twice"
                    ) from error
        store.project()
        head = store.head()
    if as_json:
        print_json({"lines": totals.lines, "events": totals.counts, "head": head, "problems": problems.shown})
    else:
        print_table(
            f"{totals.lines:,} lines read, the log now holds {head:,} events",
            ["outcome", "events"],
            [
                (kind, totals.counts.get(kind, 0))
                for kind in ("appended", "duplicate", "conflict", "quarantined", "refused")
            ],
            right=["events"],
        )
        for each in problems.shown:
            click.echo(f"{each['file']}:{each['line']}: {each['outcome']}: {each['reason']}", err=True)
        if problems.count > len(problems.shown):
            click.echo(f"… and {problems.count - len(problems.shown):,} more", err=True)
    ctx.exit(1 if totals.counts.get("refused") or totals.counts.get("quarantined") else 0)


@dataclass
class _Problems:
    shown: list[dict[str, object]] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, answer: LineAnswer) -> None:
        found = [(answer.outcome, str(answer.error))] if answer.error is not None else []
        found += [(outcome.kind.value, outcome.reason) for outcome in answer.outcomes if outcome.reason is not None]
        for outcome, reason in found:
            self.count += 1
            if len(self.shown) < SHOWN_PROBLEMS:
                self.shown.append({"file": name, "line": answer.line, "outcome": outcome, "reason": reason})


def _file_time(name: str) -> datetime:
    return datetime.now(UTC) if name == "-" else datetime.fromtimestamp(Path(name).stat().st_mtime, UTC)


def _lines(name: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file. One JSON document over several lines is line 1; of a list, each item is a line."""
    with click.open_file(name, "rb") as opened:
        line = opened.readline(MAX_FILE_DOCUMENT).removeprefix(BOM)
        if line.lstrip()[:1] == b"[" or (line.lstrip()[:1] == b"{" and _parsed(line) is None):
            yield from _document(name, line, opened)
            return
        number = 0
        while line:
            number += 1
            yield number, line
            line = opened.readline(MAX_FILE_DOCUMENT)


def _document(name: str, first: bytes, opened: IO[bytes]) -> Iterator[tuple[int, bytes]]:
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
