"""From bytes to log entries: one delivery, or a file of them.

A file or batch is NDJSON, one delivery a line, or one JSON document. A line is either the delivery itself or a delivery
wrapped with what its body does not say: `{"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}`; the
wrapper may also name the `site` and, for snapshots, `observed_at`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from eventstore import wix
from eventstore.errors import (
    DeliveryTooLarge,
    EventStoreError,
    InputError,
    NotAllowed,
    StoreUnavailable,
    UnreadableDelivery,
)
from eventstore.event import Source
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
class IngestSummary:
    """Totals of an ingestion: lines read, and events by outcome (refused ones count lines)."""

    lines: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    last_position: int = 0

    def add(self, answer: LineAnswer) -> None:
        self.lines += 1
        if answer.error is not None:
            self._count("refused")
        for outcome in answer.outcomes:
            self._count(outcome.kind.value)
            if outcome.kind is OutcomeKind.APPENDED and outcome.position is not None:
                self.last_position = max(self.last_position, outcome.position)

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


Submit = Callable[[list[Prepared | Rejected]], Future[list[Outcome]]]
Read = Callable[[bytes, Route, SiteOf], list[Prepared | Rejected]]


def ingest_lines(
    lines: Iterable[tuple[int, bytes]],
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
    under_way: deque[_Chunk] = deque()
    chunk = _Chunk()
    for number, ended in lines:
        line = ended.removesuffix(b"\n").removesuffix(b"\r")
        if not line.strip():
            continue
        if max_line_bytes is not None and len(line) > max_line_bytes:
            chunk.refuse(number, DeliveryTooLarge(f"the line is over the limit of {max_line_bytes} bytes"))
        else:
            chunk.add(number, line, read, how, site_of)
        if max(chunk.lines, chunk.entries) >= CHUNK_LINES:
            yield from _hand_over(chunk, submit, under_way)
            chunk = _Chunk()
            if len(under_way) >= CHUNKS_UNDER_WAY:
                yield from under_way.popleft().answers()
    if chunk.lines:
        yield from _hand_over(chunk, submit, under_way)
    while under_way:
        yield from under_way.popleft().answers()


def _hand_over(chunk: _Chunk, submit: Submit, under_way: deque[_Chunk]) -> Iterator[LineAnswer]:
    """Give the chunk to the writer. If it cannot take it, the answers to those before it are still owed."""
    try:
        under_way.append(chunk.send(submit))
    except StoreUnavailable:
        while under_way:
            yield from under_way.popleft().answers()
        raise


class _Chunk:
    """Consecutive lines on their way into the log."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int | EventStoreError]] = []
        self._entries: list[Prepared | Rejected] = []
        self._future: Future[list[Outcome]] | None = None

    @property
    def lines(self) -> int:
        return len(self._parts)

    @property
    def entries(self) -> int:
        return len(self._entries)

    def add(self, number: int, line: bytes, read: Read, how: Route, site_of: SiteOf) -> None:
        try:
            entries = read(line, how, site_of)
        except EventStoreError as error:
            self.refuse(number, error)
            return
        self._parts.append((number, len(entries)))
        self._entries.extend(entries)

    def refuse(self, number: int, error: EventStoreError) -> None:
        self._parts.append((number, error))

    def send(self, submit: Submit) -> _Chunk:
        self._future = submit(self._entries)
        return self

    def answers(self) -> Iterator[LineAnswer]:
        assert self._future is not None
        outcomes = iter(self._future.result())
        for number, part in self._parts:
            if isinstance(part, EventStoreError):
                yield LineAnswer(number, error=part)
            else:
                yield LineAnswer(number, tuple(next(outcomes) for _ in range(part)))
