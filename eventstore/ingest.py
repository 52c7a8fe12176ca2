"""From bytes to log entries: one delivery, or a file of them.

A file or batch is NDJSON, one delivery a line, or one JSON document. A line is either the delivery itself or a delivery
wrapped with what its body does not say: `{"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}`; the
wrapper may also name the `site` and, for snapshots, `observed_at`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import orjson

from eventstore import wix
from eventstore.errors import EventStoreError, InputError, NotAllowed, UnreadableDelivery
from eventstore.event import Source
from eventstore.lines import too_long
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, now, prepare
from eventstore.wix.snapshot import PagePart, read_parts

CHUNK_LINES = 500
"""Lines handed to the writer as one piece, or fewer that hold as many events: enough to spread a commit, little enough to
answer early."""
CHUNKS_UNDER_WAY = 4
"""Pieces between reading and commit at once: keeps the writer busy while memory stays bounded."""

UNKNOWN_ROUTE = "unknown"
"""The route of a delivery that neither its door nor its shape tells."""

UNKNOWN_SITE = "unknown"
"""Where quarantine files a genuine webhook that does not say of which instance it is."""
OBSERVED_AT = "observed-at"
"""Under this name quarantine keeps, beside a delivery's headers, when a snapshot was taken, if its bytes do not say so."""

SiteOf = Callable[[str | None], str]
"""Given the site that a body names (or None), the site it is filed under; may raise NotAllowed."""


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of a delivery besides its body. `route` None: find out from the body's shape.

    `headers`: those of the request that may be kept with it in quarantine.
    """

    route: str | None = None
    handler: str | None = None
    observed_at: datetime | None = None
    headers: dict[str, str] | None = None


def read_delivery(body: bytes, how: Route, site_of: SiteOf, *, may_wrap: bool = True) -> list[Prepared | Rejected]:
    """The log entries of one delivery, its exact bytes kept with each; of a page of several coupons, each with its part.

    `may_wrap` False: the door has said all there is to say, so that a wrapper is taken for what it is, no delivery.
    What is JSON but cannot become an event gives a Rejected, for quarantine; of a page, the unreadable coupons alone.
    Raises UnreadableDelivery (malformed) for what is not JSON, UnknownHandler, InputError for a wrong wrapper, and what
    `site_of` raises.
    """
    document = wix.decode(body)
    inner, how = _unwrap(document, how) if may_wrap else (document, how)
    site_id = site_of(_named_site(document, inner))
    observed_at = how.observed_at or now()
    try:
        route = how.route or wix.detect_route(inner)
        if route == Source.SNAPSHOT:
            parts = read_parts(inner, site_id=site_id, observed_at=observed_at)
            return _page_entries(parts, body, how, site_id)
        [event] = wix.read(inner, route=route, handler=how.handler, site_id=site_id, observed_at=observed_at)
    except UnreadableDelivery as error:
        if error.malformed:
            raise
        told = how.route or UNKNOWN_ROUTE
        return [Rejected.of(error, site_id=site_id, route=told, handler=how.handler, body=body, headers=how.headers)]
    # What a reader found deeper in the body than `site_of` looked, or than a wrapper said.
    if event.site_id != site_id:
        raise NotAllowed(f"the delivery belongs to the site {event.site_id}, not to {site_id}")
    return [prepare(event, body, handler=how.handler, headers=how.headers)]


def _page_entries(parts: list[PagePart], body: bytes, how: Route, site_id: str) -> list[Prepared | Rejected]:
    """An entry for each coupon of a page, in the page's order: with the page's own bytes if it is the only one, else with
    its part of them as a page that can be read on its own."""
    entries: list[Prepared | Rejected] = []
    headers = how.headers
    if how.observed_at is not None:
        headers = {**(headers or {}), OBSERVED_AT: how.observed_at.isoformat()}
    for coupon, read in parts:
        own = body if len(parts) == 1 else orjson.dumps({"coupons": [coupon]})
        if isinstance(read, UnreadableDelivery):
            entries.append(
                Rejected.of(
                    read, site_id=site_id, route=Source.SNAPSHOT, handler=how.handler, body=own, headers=headers
                )
            )
        else:
            entries.append(prepare(read, own, handler=how.handler, headers=how.headers))
    return entries


def _named_site(document: dict[str, Any], inner: dict[str, Any]) -> str | None:
    wrapped = document.get("site") if inner is not document else None
    if wrapped is None:
        return wix.site_of(inner)
    if not isinstance(wrapped, str) or not 1 <= len(wrapped) <= 200 or not wrapped.isprintable():
        raise InputError("site must be a text of 1 to 200 printable characters")
    own = wix.site_of(inner)
    if own is not None and own != wrapped:
        raise InputError(f"the line says that it is of the site {wrapped}, the delivery in it of {own}")
    return wrapped


def _unwrap(document: dict[str, Any], how: Route) -> tuple[dict[str, Any], Route]:
    body = document.get("body")
    route = document.get("route")
    if not isinstance(body, dict) or not isinstance(route, str):
        return document, how
    if route not in set(Source):
        raise InputError(f"unknown route {route!r}; routes are {', '.join(Source)}")
    handler = document.get("handler")
    observed_at = how.observed_at
    if isinstance(document.get("observed_at"), str):
        try:
            observed_at = datetime.fromisoformat(document["observed_at"])
        except ValueError as error:
            raise InputError(f"observed_at is not a time: {document['observed_at']!r}; write it as ISO 8601") from error
        if observed_at.tzinfo is None:
            raise InputError(f"observed_at has no time zone: {document['observed_at']!r}; end it with Z or an offset")
    return body, Route(route, handler if isinstance(handler, str) else how.handler, observed_at, how.headers)


@dataclass(frozen=True, slots=True)
class SiteRule:
    """The site that a delivery is filed under: `given` if anything, else the one that it names, else `default`."""

    default: str
    given: str | None = None

    def __call__(self, named: str | None) -> str:
        return self.given or named or self.default


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What became of one line: the outcomes of its events, or the error it was refused for (nothing of it is kept then)."""

    line: int
    outcomes: tuple[Outcome, ...] = ()
    error: EventStoreError | None = None

    @property
    def outcome(self) -> str:
        """appended, duplicate, conflict, quarantined, refused, empty (a page without coupons), or mixed (a page whose events
        fared differently)."""
        if self.error is not None:
            return "refused"
        if not self.outcomes:
            return "empty"
        kinds = {outcome.kind.value for outcome in self.outcomes}
        return kinds.pop() if len(kinds) == 1 else "mixed"


@dataclass(slots=True)
class Chunk:
    """Consecutive lines that have been read: for each its number, and how many of the entries are its own or why it is refused.

    `end`: the bytes of the file that were read up to here, if this is the last chunk of a piece of one. `outcomes`: those of
    the entries, once they are durable.
    """

    numbers: list[int] = field(default_factory=list)
    told: list[int | EventStoreError] = field(default_factory=list)
    entries: list[Prepared | Rejected] = field(default_factory=list)
    end: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def answers(self) -> Iterator[LineAnswer]:
        """An answer for each line, in order."""
        outcomes = iter(self.outcomes)
        for number, told in zip(self.numbers, self.told, strict=True):
            if isinstance(told, EventStoreError):
                yield LineAnswer(number, error=told)
            else:
                yield LineAnswer(number, tuple(next(outcomes) for _ in range(told)))


@dataclass(slots=True)
class IngestSummary:
    """Totals of an ingestion: lines read, and events by outcome (refused ones count lines)."""

    lines: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    last_position: int = 0

    def add(self, answer: LineAnswer) -> None:
        """Count one line."""
        self.lines += 1
        if answer.error is not None:
            self._count("refused", 1)
        self._count_outcomes(answer.outcomes)

    def add_chunk(self, chunk: Chunk) -> None:
        """Count all lines of a chunk."""
        self.lines += len(chunk.numbers)
        refused = sum(isinstance(told, EventStoreError) for told in chunk.told)
        if refused:
            self._count("refused", refused)
        self._count_outcomes(chunk.outcomes)

    def __iadd__(self, other: IngestSummary) -> Self:
        self.lines += other.lines
        for kind, count in other.counts.items():
            self._count(kind, count)
        self.last_position = max(self.last_position, other.last_position)
        return self

    def _count_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for kind, count in Counter(outcome.kind.value for outcome in outcomes).items():
            self._count(kind, count)
        appended = [outcome.position or 0 for outcome in outcomes if outcome.kind is OutcomeKind.APPENDED]
        if appended:
            self.last_position = max(self.last_position, *appended)

    def _count(self, kind: str, count: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count


Submit = Callable[[list[Prepared | Rejected]], Future[list[Outcome]]]
Read = Callable[[bytes, Route, SiteOf], list[Prepared | Rejected]]
Lines = Iterable[tuple[int, bytes | EventStoreError]]
"""Numbered lines, with or without their newline; in place of one that cannot be had, the error that it is refused with."""


def ingest_lines(
    lines: Lines,
    how: Route,
    site_of: SiteOf,
    submit: Submit,
    *,
    read: Read = read_delivery,
    max_line_bytes: int | None = None,
) -> Iterator[LineAnswer]:
    """Read and append numbered lines, giving one answer a line, in order, each once it is durable. Blank lines are skipped.

    A line's ending is no part of its delivery. A line over `max_line_bytes` is refused. Memory is bounded: at most
    CHUNKS_UNDER_WAY pieces are between reading and commit. StoreUnavailable goes through once all that is known is told:
    lines without an answer may be in the log or not; sent again, none is appended twice.
    """
    chunks = read_lines(lines, how, site_of, read=read, max_line_bytes=max_line_bytes)
    for chunk in append_chunks(chunks, submit):
        yield from chunk.answers()


def read_lines(
    lines: Lines,
    how: Route,
    site_of: SiteOf,
    *,
    read: Read = read_delivery,
    max_line_bytes: int | None = None,
    chunk_lines: int = CHUNK_LINES,
) -> Iterator[Chunk]:
    """Read lines into chunks of `chunk_lines` lines, or of fewer that hold as many events. Appends nothing."""
    chunk = Chunk()
    for number, given in lines:
        if isinstance(given, EventStoreError):
            chunk.numbers.append(number)
            chunk.told.append(given)
        else:
            line = given.removesuffix(b"\n").removesuffix(b"\r")
            if not line or line.isspace():
                continue
            chunk.numbers.append(number)
            try:
                if max_line_bytes is not None and len(line) > max_line_bytes:
                    raise too_long(max_line_bytes)
                entries = read(line, how, site_of)
            except EventStoreError as error:
                chunk.told.append(error)
            else:
                chunk.told.append(len(entries))
                chunk.entries += entries
        if len(chunk.numbers) >= chunk_lines or len(chunk.entries) >= chunk_lines:
            yield chunk
            chunk = Chunk()
    if chunk.numbers:
        yield chunk


def append_chunks(
    chunks: Iterator[Chunk], submit: Submit, *, chunks_under_way: int = CHUNKS_UNDER_WAY
) -> Iterator[Chunk]:
    """Append what was read; each chunk comes out, in order, once its outcomes are known and durable.

    An error of the reading, or of a log that can take no more, is raised behind the chunks that were handed over before it.
    """
    under_way: deque[tuple[Chunk, Future[list[Outcome]]]] = deque()

    def oldest() -> Chunk:
        chunk, future = under_way.popleft()
        chunk.outcomes = future.result()
        chunk.entries = []
        return chunk

    while True:
        try:
            chunk = next(chunks, None)
            if chunk is None:
                break
            under_way.append((chunk, submit(chunk.entries)))
        except EventStoreError:
            while under_way:
                yield oldest()
            raise
        if len(under_way) >= chunks_under_way:
            yield oldest()
    while under_way:
        yield oldest()
