"""Reconciliation: what pages of Query Coupons say, beside what the store knew before they were imported.

Wix loses events now and then and tells none of what was before the store; its own advice is to compare with Query Coupons.
Each coupon of a page becomes a `coupon.observed` event and is compared with the store's current state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from eventstore import wix
from eventstore.differences import Difference, DifferenceKind, Known, compare, known_coupons
from eventstore.errors import InputError, UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.ingest import IngestSummary, LineAnswer, Lines, Route, SiteOf, ingest_lines, read_delivery
from eventstore.log import append
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected
from eventstore.log.types import from_micros
from eventstore.projections import views
from eventstore.wix.coupon import coupon_id

if TYPE_CHECKING:
    from eventstore.store import EventStore

LOOKUP_COUPONS = 500
"""Coupons looked up with one statement."""

EXPECTED: Final = (
    'expected is a page, {"coupons": […]}, or a coupon, {"coupon": {…}} or {"id": …, "specification": {…}}'
)


class Reconciliation:
    """An import of pages that remembers what the store knew before it. Close it; of one thread's use.

    Memory is bounded: what is to be compared waits in a temporary file. Where a coupon stands on several pages, the latest
    observation is compared, of equally late ones the last.
    """

    summary: IngestSummary
    """Lines read and events by outcome so far; in a dry run, as they would be."""
    newer: int
    """Coupons passed over because the store knows something newer. Complete once `differences` has been read through."""
    agreeing: int
    """Coupons observed without any difference. Complete once `differences` has been read through."""

    def __init__(self, store: EventStore, site_id: str, *, complete: bool = False, dry_run: bool = False) -> None:
        self.site_id = site_id
        self.summary = IngestSummary()
        self.newer = self.agreeing = 0
        store.project()
        self._store = store
        self._complete = complete
        self._dry_run = dry_run
        self._earliest: datetime | None = None
        self._unnamed = 0
        """Pages and coupons that were not read, so that it is not known which coupons they name."""
        # A private temporary database: on disk once it is large, gone when it is closed.
        self._memory = sqlite3.connect("", isolation_level=None)
        self._memory.executescript(_MEMORY)

    def close(self) -> None:
        """Forget what was compared."""
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(
        self,
        lines: Lines,
        *,
        observed_at: datetime,
        on_answer: Callable[[LineAnswer], None] | None = None,
    ) -> None:
        """Append numbered lines, a page or a coupon each, observed at that time. Raises StoreUnavailable as `ingest` does.

        A line that is neither is refused; an unreadable coupon is kept in quarantine, alone. In a dry run nothing is kept.
        """
        how = Route(Source.SNAPSHOT, observed_at=observed_at)
        try:
            for answer in ingest_lines(lines, how, lambda _: self.site_id, self._submit, read=_read_page):
                self.summary.add(answer)
                if answer.error is None:
                    self._earliest = min(observed_at, self._earliest or observed_at)
                else:
                    self._unnamed += 1
                if on_answer is not None:
                    on_answer(answer)
        except BaseException:
            self._unnamed += 1
            raise

    @property
    def whole(self) -> bool:
        """Whether it was said, and can be trusted, that the pages name every coupon of the site: all were read, and of each
        coupon in quarantine at least the id."""
        return self._complete and self._earliest is not None and not self._unnamed

    def differences(self) -> Iterator[Difference]:
        """Every difference, in the order of coupon ids; last those that are absent at Wix, if the pages are the whole list."""
        self.newer = self.agreeing = 0
        for known, observed_at, payload in self._memory.execute(_OBSERVED):
            coupon = Event.from_payload(payload).coupon
            assert coupon is not None
            before = None if known is None else Known.model_validate_json(known)
            found = compare(self.site_id, coupon, from_micros(observed_at), before)
            self.newer += found is None
            self.agreeing += found == []
            yield from found or ()
        if self.whole:
            yield from self._absent()

    def _absent(self) -> Iterator[Difference]:
        after = None
        while page := self._store.coupons(site_id=self.site_id, deleted=False, after=after, limit=LOOKUP_COUPONS):
            after = views.cursor(page[-1].site_id, page[-1].coupon_id)
            for state in page:
                if self._memory.execute(_NAMED, {"id": state.coupon_id}).fetchone():
                    continue
                if self._earliest is None or state.last_event_time > self._earliest:
                    self.newer += 1
                    continue
                details = {"last_event_time": state.last_event_time}
                yield Difference(DifferenceKind.ABSENT, self.site_id, state.coupon_id, state.code, details)

    def _submit(self, entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        observed = [entry for entry in entries if isinstance(entry, Prepared)]
        for start in range(0, len(observed), LOOKUP_COUPONS):
            self._remember(observed[start : start + LOOKUP_COUPONS])
        for entry in entries:
            if isinstance(entry, Rejected):
                named = _id_in(entry.body)
                self._unnamed += named is None
                self._memory.execute("INSERT OR IGNORE INTO unread VALUES (?)", [named or ""])
        return self._rehearsed(entries) if self._dry_run else self._store.submit_patiently(entries)

    def _remember(self, observed: Sequence[Prepared]) -> None:
        """Keep the observations and what the store knows: the first time, since later it may know these very pages."""
        known = known_coupons(self._store.engine, self.site_id, {entry.entity_id for entry in observed})
        for entry in observed:
            before = known.get(entry.entity_id)
            before_json = None if before is None else before.model_dump_json()
            self._memory.execute(_REMEMBER, (entry.entity_id, before_json, entry.event_time, entry.payload))

    def _rehearsed(self, entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        """The outcomes that the log would give."""
        with self._store.engine.connect() as connection:
            known = append.known(connection, [entry for entry in entries if isinstance(entry, Prepared)])
        outcomes = []
        for entry in entries:
            if isinstance(entry, Rejected):
                outcomes.append(Outcome(OutcomeKind.QUARANTINED, None, None, reason=entry.reason))
                continue
            there = known.get((entry.site_id, entry.event_id))
            first = self._memory.execute("INSERT OR IGNORE INTO rehearsed VALUES (?)", [entry.event_id]).rowcount == 1
            kind = OutcomeKind.APPENDED if first and there is None else OutcomeKind.DUPLICATE
            outcomes.append(Outcome(kind, entry.event_id, None if there is None else there.position))
        future: Future[list[Outcome]] = Future()
        future.set_result(outcomes)
        return future


def _read_page(line: bytes, how: Route, site_of: SiteOf) -> list[Prepared | Rejected]:
    """The entries of a line that is a page or a coupon. Raises InputError for anything else, which is no import's matter."""
    try:
        document = wix.decode(line)
    except UnreadableDelivery as error:
        raise InputError(f"{error}; {EXPECTED}") from None
    if "coupons" not in document and "coupon" not in document:
        if not _is_coupon(document):
            raise InputError(f"not a page of coupons; {EXPECTED}")
        line = b'{"coupon":%b}' % line
    return read_delivery(line, how, site_of, may_wrap=False)


def _is_coupon(document: dict[str, Any]) -> bool:
    named = document.get("id") or document.get("_id")
    return bool(named) and ("specification" in document or "code" in document)


def _id_in(body: bytes) -> str | None:
    """The id of the one coupon of a page that could not be read, if at least that can be."""
    page = wix.decode(body)
    coupons = page.get("coupons", [page.get("coupon")])
    if not isinstance(coupons, list) or len(coupons) != 1 or not isinstance(coupons[0], dict):
        return None
    try:
        return coupon_id(coupons[0])
    except UnreadableDelivery:
        return None


_MEMORY: Final = """
PRAGMA journal_mode = OFF;
CREATE TABLE seen (coupon_id TEXT PRIMARY KEY, known TEXT, observed_at INTEGER NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE unread (coupon_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE rehearsed (event_id TEXT PRIMARY KEY) WITHOUT ROWID;
BEGIN;
"""
_OBSERVED: Final = "SELECT known, observed_at, payload FROM seen ORDER BY coupon_id"
_NAMED: Final = "SELECT 1 FROM seen WHERE coupon_id = :id UNION ALL SELECT 1 FROM unread WHERE coupon_id = :id"
_REMEMBER: Final = """
INSERT INTO seen VALUES (?, ?, ?, ?)
ON CONFLICT (coupon_id) DO UPDATE SET observed_at = excluded.observed_at, payload = excluded.payload
WHERE excluded.observed_at >= seen.observed_at
"""
