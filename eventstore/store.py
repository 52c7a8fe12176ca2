"""EventStore: the façade a Python caller opens. Every door (CLI, HTTP) is a thin wrapper over a verb of this class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from eventstore import access
from eventstore.config import DEFAULT_SITE, DEFAULT_URL
from eventstore.errors import EventStoreError, InputError, NotFound, StoreUnavailable, reason_of
from eventstore.event import Event
from eventstore.ingest import CHUNK_LINES, UNKNOWN_ROUTE, IngestSummary, LineAnswer, Route, ingest_lines, read_delivery
from eventstore.log import reader, schema
from eventstore.log.counts import Refusals
from eventstore.log.engine import make_engine
from eventstore.log.records import Outcome, Prepared, RecordedEvent, Rejected, prepare
from eventstore.log.tables import quarantine
from eventstore.log.writer import QUEUE_EVENTS, Writer
from eventstore.projections import tables, views
from eventstore.projections.catalogue import projections
from eventstore.projections.views import CouponState

if TYPE_CHECKING:
    from eventstore.projections.rebuild import RebuildProgress, RebuildResult
    from eventstore.projections.runner import Runner
    from eventstore.quarantine import Entry, KeptEntry
    from eventstore.reconcile import Reconciliation
    from eventstore.retry import Retried
    from eventstore.webhooks import Webhooks

APPEND_TIMEOUT = 60.0
"""Seconds that a synchronous append waits for its commit before it gives up with an error."""


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """How far a projection is: `lag` is the number of events it has yet to take in."""

    name: str
    rows: int
    position: int
    lag: int


@dataclass(frozen=True, slots=True)
class Status:
    """The store at a glance."""

    url: str
    revision: str
    events: int
    last_recorded_at: datetime | None
    quarantined: int
    conflicts: int
    missing_guards: tuple[str, ...]
    projections: tuple[ProjectionStatus, ...]


class SignatureCheck(NamedTuple):
    """Whether Wix's own signature on an event's original bytes holds: by which app and key, or why not.

    `agrees`: those bytes, read by today's readers, say what the log says.
    """

    valid: bool
    agrees: bool
    reason: str
    app: str | None = None
    key_id: str | None = None


class EventStore:
    """An append-only log of coupon events with projections that follow it.

    Open it with `EventStore.open(url)` and close it, or use it as a context manager. All methods may be called from any
    thread. Methods raise EventStoreError's subclasses and nothing else on purpose.
    """

    def __init__(
        self, url: str | Path = DEFAULT_URL, *, site: str = DEFAULT_SITE, queue_events: int = QUEUE_EVENTS
    ) -> None:
        self.engine = make_engine(url)
        self.default_site = site
        self._webhooks: Webhooks | None = None
        self._refusals = Refusals()
        self._runner: Runner | None = None
        self._writer = Writer(self.engine, on_commit=self._committed, queue_events=queue_events)

    @classmethod
    def open(
        cls,
        url: str | Path = DEFAULT_URL,
        *,
        create: bool = True,
        site: str = DEFAULT_SITE,
        queue_events: int = QUEUE_EVENTS,
    ) -> Self:
        """Open the store at a URL or a SQLite path, making it first where there is none.

        `create=False` refuses to make or migrate one (StoreNotReady).
        """
        store = cls(url, site=site, queue_events=queue_events)
        try:
            if create:
                store.init()
            else:
                schema.require_ready(store.engine)
                tables.ensure(store.engine)
        except BaseException:
            store.engine.dispose()
            raise
        return store

    def init(self) -> bool:
        """Make the store's tables, or bring them to this version. Returns whether anything was done."""
        done = schema.migrate(self.engine)
        tables.ensure(self.engine)
        return done

    def close(self) -> None:
        """Write what waits, stop the live projections, release the database."""
        self._writer.close()
        with suppress(SQLAlchemyError):
            self.flush_refusals()
        if self._runner is not None:
            self._runner.stop()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Appending

    def append(self, event: Event, *, original: bytes | None = None) -> Outcome:
        """Append one event and wait until it is durable. `original`: the exact bytes it was delivered as."""
        return self._durable([prepare(event, original)])[0]

    def append_many(self, events: Iterable[Event]) -> Iterator[Outcome]:
        """Append a stream of events, giving one outcome each, in order, once it is durable. Memory stays bounded."""
        under_way: list[Future[list[Outcome]]] = []
        chunk: list[Prepared | Rejected] = []
        for event in events:
            chunk.append(prepare(event))
            if len(chunk) == CHUNK_LINES * 4:
                under_way.append(self.submit_patiently(chunk))
                chunk = []
                if len(under_way) == 3:
                    yield from under_way.pop(0).result()
        if chunk:
            under_way.append(self.submit_patiently(chunk))
        for future in under_way:
            yield from future.result()

    def submit(self, entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        """Hand prepared entries to the writer; the future gives one outcome each. Raises StoreUnavailable when too many wait."""
        return self._writer.submit(entries)

    def submit_patiently(self, entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        """`submit` for bulk callers, who wait for room in the queue rather than fail: up to APPEND_TIMEOUT seconds."""
        deadline = time.monotonic() + APPEND_TIMEOUT
        while True:
            try:
                return self.submit(entries)
            except StoreUnavailable:
                if time.monotonic() > deadline or self._writer.closing:
                    raise
                time.sleep(0.02)

    def receive(
        self, body: bytes, *, route: str | None = None, handler: str | None = None, site: str | None = None
    ) -> list[Outcome]:
        """Take in one delivery as its exact bytes and wait until it is durable; one outcome for each event in it.

        Raises UnreadableDelivery for what is not JSON; what is JSON but no event is kept in quarantine and says so.
        """
        entries = read_delivery(body, Route(route, handler), self._site_rule(site))
        return self._durable(entries)

    @property
    def webhooks(self) -> Webhooks:
        """The reader of signed webhooks; made on first use."""
        if self._webhooks is None:
            from eventstore.webhooks import Webhooks

            self._webhooks = Webhooks(self.engine)
        return self._webhooks

    def receive_webhook(self, token: bytes, *, headers: dict[str, str] | None = None) -> Outcome:
        """Take in one signed webhook as the exact bytes that Wix posted, and wait until it is durable.

        Raises UnreadableDelivery for what is no JWT, NotGenuine for what no registered app signed or is out of date, and
        UnknownInstance for what was signed for another app's site. Genuine, but unreadable, is kept in quarantine.
        """
        return self._durable(self.webhooks.receive(token, headers=headers))[0]

    def note_refusal(self, route: str, reason: str) -> None:
        """Count a delivery that was refused; `flush_refusals` writes the counts down."""
        self._refusals.note(route, reason)

    def flush_refusals(self) -> None:
        """Write down how many deliveries were refused since the last time."""
        self._refusals.flush(self.engine)

    def _durable(self, entries: list[Prepared | Rejected]) -> list[Outcome]:
        try:
            return self.submit(entries).result(APPEND_TIMEOUT)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the events were not written within {APPEND_TIMEOUT:.0f} s; they may be yet: sent again, none is kept twice"
            ) from error

    def ingest(
        self,
        lines: Iterable[tuple[int, bytes]],
        *,
        route: str | None = None,
        handler: str | None = None,
        site: str | None = None,
        observed_at: datetime | None = None,
        on_answer: Callable[[LineAnswer], None] | None = None,
    ) -> IngestSummary:
        """Take in numbered lines, one delivery each (see `eventstore.ingest`); totals at the end, an answer a line meanwhile."""
        summary = IngestSummary()
        for answer in ingest_lines(
            lines, Route(route, handler, observed_at), self._site_rule(site), self.submit_patiently
        ):
            summary.add(answer)
            if answer.error is not None:
                self.note_refusal(route or UNKNOWN_ROUTE, reason_of(answer.error))
            if on_answer is not None:
                on_answer(answer)
        return summary

    def reconcile(self, *, site: str | None = None, complete: bool = False, dry_run: bool = False) -> Reconciliation:
        """Begin an import of Query Coupons pages that tells how they differ from what the store knew; close it.

        `complete`: the pages are all that Wix has of the site, so that what they lack is absent. `dry_run`: append nothing.
        """
        from eventstore.reconcile import Reconciliation

        return Reconciliation(self, site or self.default_site, complete=complete, dry_run=dry_run)

    def _site_rule(self, given: str | None) -> Callable[[str | None], str]:
        return lambda named: given or named or self.default_site

    # Reading

    def head(self) -> int:
        """The position of the last event; 0 for an empty log."""
        return reader.head(self.engine)

    def read(
        self,
        *,
        after: int = 0,
        limit: int = reader.PAGE_EVENTS,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: str | None = None,
    ) -> list[RecordedEvent]:
        """A page of events with positions above `after`, in order."""
        return reader.read(self.engine, after=after, limit=limit, site_id=site_id, coupon_id=coupon_id, type_=type_)

    def stream(self, *, after: int = 0, until: int | None = None) -> Iterator[RecordedEvent]:
        """Every event above `after`, in order, up to `until` (default: the head now), in bounded memory."""
        return reader.stream(self.engine, after=after, until=until)

    def find(self, event_id: str, *, site_id: str | None = None) -> RecordedEvent:
        """The event with this id, or at this position. Raises NotFound, and InputError if several sites have that id."""
        found = reader.find_all(self.engine, event_id, site_id=site_id, limit=2)
        if len(found) > 1:
            raise InputError(f"several sites have an event {event_id!r}: say which site")
        if not found and event_id.isascii() and event_id.isdigit() and 0 < int(event_id) <= self.head():
            at = int(event_id)
            found = self.read(after=at - 1, limit=1)
            found = [each for each in found if each.position == at and site_id in (None, each.event.site_id)]
        if not found:
            raise NotFound(f"no event has the id or position {event_id!r}")
        return found[0]

    def original(self, position: int) -> bytes | None:
        """The exact bytes that the event at this position was delivered as; None if it was built in Python."""
        return reader.original(self.engine, position)

    def check_signature(self, position: int) -> SignatureCheck:
        """Check Wix's own signature on an event's original bytes again, with the keys that were valid when it was recorded."""
        from eventstore.wix.jwt import is_jwt

        [record] = self.read(after=position - 1, limit=1)
        token = self.original(position)
        if token is None or not is_jwt(token):
            route = record.event.source.value
            return SignatureCheck(False, False, f"it did not come as a signed webhook, but by the route {route}")
        from eventstore.quarantine import first_received
        from eventstore.webhooks import check, entries

        # What waited in quarantine had proved itself when it came, and not when it was read at last.
        received_at = first_received(self.engine, record.event.site_id, token) or record.recorded_at
        try:
            signed = check(self.engine, token, min(received_at, record.recorded_at))
        except EventStoreError as error:
            return SignatureCheck(False, False, str(error))
        # An event that only its receipt dates has its time from there.
        [entry] = entries(signed, received_at=record.event.event_time)
        agrees = isinstance(entry, Prepared) and record.event.encode()[1] in (
            entry.content_hash,
            # Appended under a derived id, for its own was taken.
            Event.from_payload(entry.payload).with_derived_id().encode()[1],
        )
        reason = "" if agrees else "the signed bytes, as they are read today, say something else than the log"
        return SignatureCheck(True, agrees, reason, signed.app.name, signed.key.key_id)

    # Projections

    @property
    def runner(self) -> Runner:
        """The live runner of the projections; made on first use."""
        if self._runner is None:
            from eventstore.projections.runner import Runner

            self._runner = Runner(self.engine)
        return self._runner

    def start_projections(self) -> None:
        """Follow the log in a thread of its own until `close`."""
        self.runner.start()

    def project(self, *, on_progress: Callable[[int, int], None] | None = None) -> int:
        """Take everything the log holds into the projections, now; returns the position reached."""
        return self.runner.catch_up(on_progress=on_progress)

    def wait(self, position: int, timeout: float = 10.0) -> bool:
        """Wait until the live projections have taken in `position` (read your own writes); False when the time is up."""
        return self.runner.wait(position, timeout)

    def rebuild_projections(
        self, *names: str, on_progress: Callable[[RebuildProgress], None] | None = None
    ) -> RebuildResult:
        """Rebuild the named projections (none named: all) from the log. Raises NotFound for an unknown name."""
        from eventstore.projections.rebuild import rebuild_projections

        return rebuild_projections(self.engine, names, on_progress=on_progress)

    def coupons(
        self,
        *,
        site_id: str | None = None,
        code: str | None = None,
        deleted: bool | None = None,
        after: str | None = None,
        limit: int = views.PAGE_COUPONS,
    ) -> list[CouponState]:
        """A page of coupons with their usage, in (site, coupon id) order; `code` is compared without case."""
        return views.coupons(self.engine, site_id=site_id, code=code, deleted=deleted, after=after, limit=limit)

    def coupon(self, coupon_id: str, *, site_id: str | None = None) -> CouponState:
        """One coupon by its id. Raises NotFound, and InputError if several sites have that id and none is given."""
        found = views.coupons(self.engine, site_id=site_id, coupon_id=coupon_id, limit=2)
        if not found:
            raise NotFound(f"no coupon {coupon_id!r} in the store")
        if len(found) > 1:
            raise InputError(f"several sites have a coupon {coupon_id!r}: say which site")
        return found[0]

    def history(
        self, coupon_id: str, *, site_id: str | None = None, after: int = 0, limit: int = reader.PAGE_EVENTS
    ) -> list[RecordedEvent]:
        """A page of the coupon's events in the order they were recorded. Raises NotFound for an unknown coupon."""
        site = site_id if site_id is not None else self.coupon(coupon_id).site_id
        found = self.read(site_id=site, coupon_id=coupon_id, after=after, limit=limit)
        if not found and after == 0:
            raise NotFound(f"no coupon {coupon_id!r} in the store")
        return found

    def status(self) -> Status:
        """Sizes, positions and the state of the guards."""
        with self.engine.connect() as connection:
            size = schema.head_size(connection)
            positions = tables.positions(connection)
            open_entries = connection.execute(
                select(quarantine.c.kind, func.count())
                .where(quarantine.c.resolved_at.is_(None))
                .group_by(quarantine.c.kind)
            )
            kinds: dict[str, int] = {kind: count for kind, count in open_entries}
            rows = {
                model.name: int(connection.execute(select(func.count()).select_from(model.table)).scalar_one())
                for model in projections()
            }
        last = self.read(after=size - 1, limit=1) if size else []
        return Status(
            url=self.engine.url.render_as_string(),
            revision=schema.revision(self.engine) or "",
            events=size,
            last_recorded_at=last[0].recorded_at if last else None,
            quarantined=kinds.get("quarantined", 0),
            conflicts=kinds.get("conflict", 0),
            missing_guards=tuple(schema.missing_guards(self.engine)),
            projections=tuple(
                ProjectionStatus(name, count, positions.get(name, 0), size - positions.get(name, 0))
                for name, count in rows.items()
            ),
        )

    # Quarantine

    def list_quarantined(
        self,
        *,
        kind: str | None = None,
        site_id: str | None = None,
        resolved: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[Entry]:
        """A page of quarantine's open entries, oldest first; `resolved`: also those dealt with."""
        from eventstore.quarantine import list_quarantined

        return list_quarantined(self.engine, kind=kind, site_id=site_id, resolved=resolved, after=after, limit=limit)

    def show_quarantined(self, entry_id: int) -> KeptEntry:
        """One entry with its exact bytes, a conflict with what it contradicts in the log. Raises NotFound."""
        from eventstore.quarantine import show_quarantined

        return show_quarantined(self.engine, entry_id)

    def retry_quarantined(
        self,
        ids: Iterable[int] | None = None,
        *,
        kind: str | None = None,
        site_id: str | None = None,
        derived_id: bool = False,
    ) -> Iterator[Retried]:
        """Read entries anew (none given: all that are open, of a kind or site if given) and append what they hold.

        Each in turn gives its answer; nothing is done for those not iterated over. `derived_id`: an event whose id stands in
        the log with other content is appended under an id derived from its own. Raises NotFound, StoreUnavailable.
        """
        from eventstore.retry import retry_quarantined

        return retry_quarantined(self.engine, self._durable, ids, kind=kind, site_id=site_id, derived_id=derived_id)

    def resolve_quarantined(self, ids: Iterable[int], note: str) -> None:
        """Mark entries as dealt with by a person, the note saying how; all or none. Raises NotFound, InputError."""
        from eventstore.quarantine import resolve_quarantined

        resolve_quarantined(self.engine, ids, note)

    # Access

    def create_token(self, *, name: str, site_id: str | None, scopes: str = "ingest,read") -> tuple[str, access.Token]:
        """Make a bearer token: `(secret, token)`. The secret is shown this once."""
        return access.create_token(self.engine, name=name, site_id=site_id, scopes=access.parse_scopes(scopes))

    def _committed(self, position: int) -> None:  # noqa: ARG002 - the runner looks for itself
        if self._runner is not None:
            self._runner.wake()
