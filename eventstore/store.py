"""EventStore: the façade a Python caller opens. Every door (CLI, HTTP) is a thin wrapper over a verb of this class."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from sqlalchemy.exc import SQLAlchemyError

from eventstore import access
from eventstore.backoff import FULL_QUEUE_SECONDS
from eventstore.config import DEFAULT_SITE, DEFAULT_URL, Settings
from eventstore.errors import InputError, NotFound, StoreUnavailable, reason_of
from eventstore.event import Event
from eventstore.ingest import (
    CHUNK_LINES,
    UNKNOWN_ROUTE,
    IngestSummary,
    LineAnswer,
    Lines,
    Route,
    SiteRule,
    ingest_lines,
    read_delivery,
)
from eventstore.log import guards, partitions, reader, roles, schema
from eventstore.log import tail as tailing
from eventstore.log.announce import Announcer
from eventstore.log.counts import Refusals
from eventstore.log.engine import is_sqlite, make_engine
from eventstore.log.hints import Hints
from eventstore.log.reader import Filter, Types
from eventstore.log.records import Outcome, Prepared, RecordedEvent, Rejected, prepare
from eventstore.log.tail import Tail
from eventstore.log.writer import QUEUE_EVENTS, Writer
from eventstore.projections import listing, rebuild_work, tables, views
from eventstore.projections.catalogue import load_catalogue
from eventstore.projections.views import CouponState, CouponStatus, Page

if TYPE_CHECKING:
    from eventstore.bulk import IngestProgress
    from eventstore.handlers.desk import HandlerDesk
    from eventstore.projections.asof import Sessions
    from eventstore.projections.dead_letters import DeadLetter
    from eventstore.projections.history import HistoryEntry, Order
    from eventstore.projections.rebuild import RebuildProgress, RebuildResult
    from eventstore.projections.rebuild_work import RebuildStatus
    from eventstore.projections.retrying import Revived
    from eventstore.projections.runner import Runner
    from eventstore.projections.upgrade import Upgraded
    from eventstore.quarantine import Entry, KeptEntry
    from eventstore.readers import Readers
    from eventstore.reconcile import Reconciliation
    from eventstore.retry import Retried
    from eventstore.signatures import SignatureCheck
    from eventstore.status import Status
    from eventstore.webhooks import Webhooks

APPEND_TIMEOUT = 60.0
"""Seconds that a synchronous append waits for its commit before it gives up with an error."""


class EventStore:
    """An append-only log of coupon events with projections that follow it.

    Open it with `EventStore.open(url)` and close it, or use it as a context manager. All methods may be called from any
    thread. Methods raise EventStoreError's subclasses and nothing else on purpose.
    """

    def __init__(
        self,
        url: str | Path = DEFAULT_URL,
        *,
        site: str = DEFAULT_SITE,
        queue_events: int = QUEUE_EVENTS,
        projections: Sequence[str | Path] = (),
        lake: str | Path | None = None,
    ) -> None:
        self.catalogue = load_catalogue(projections)
        self.lake = lake
        """Where the lake is that questions are asked of; None: where `analytics.default_lake` says."""
        self.engine = make_engine(url)
        self.default_site = site
        self._webhooks: Webhooks | None = None
        self._refusals = Refusals()
        self._runner: Runner | None = None
        self._readers: Readers | None = None
        self._sessions: Sessions | None = None
        self._making = Lock()
        self._maintainer: partitions.Maintainer | None = None
        self.hints = Hints(self.engine)
        self._announcer = None if is_sqlite(self.engine) else Announcer(self.engine)
        self._writer = Writer(self.engine, on_commit=self._committed, queue_events=queue_events)

    @classmethod
    def open(
        cls,
        url: str | Path = DEFAULT_URL,
        *,
        create: bool = True,
        site: str = DEFAULT_SITE,
        queue_events: int = QUEUE_EVENTS,
        projections: Sequence[str | Path] = (),
        lake: str | Path | None = None,
    ) -> Self:
        """Open the store at a URL or a SQLite path, making it first where there is none.

        `create=False` refuses to make or migrate one (StoreNotReady). `projections`: folders with models of your own, beside
        those that every store has (ProjectionError).
        """
        store = cls(url, site=site, queue_events=queue_events, projections=projections, lake=lake)
        try:
            if create:
                store.init()
            else:
                schema.require_ready(store.engine)
                tables.ensure(store.engine, store.catalogue)
            # What a rebuild that was killed has left: nothing, as a rule, and quickly seen.
            rebuild_work.clear_up(store.engine)
        except BaseException:
            store.engine.dispose()
            raise
        return store

    @classmethod
    def configured(cls, settings: Settings, *, create: bool = False) -> Self:
        """Open the store that the settings name, as they want it. Raises as `open` does."""
        return cls.open(
            settings.url,
            create=create,
            site=settings.site,
            queue_events=settings.queue_events,
            projections=settings.projections,
            lake=settings.lake,
        )

    def init(self) -> bool:
        """Make the store's tables, or bring them to this version. Returns whether anything was done."""
        done = schema.migrate(self.engine)
        tables.ensure(self.engine, self.catalogue)
        return done

    def close(self) -> None:
        """Write what waits, end the tails, stop the live projections, release the database."""
        if self._readers is not None:
            self._readers.close()
        self._writer.close()
        if self._announcer is not None:
            self._announcer.close()
        self.hints.close()
        if self._sessions is not None:
            self._sessions.close()
        with suppress(SQLAlchemyError):
            self.flush_refusals()
        if self._runner is not None:
            self._runner.stop()
        if self._maintainer is not None:
            self._maintainer.stop()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Appending

    def append(self, event: Event, *, original: bytes | None = None) -> Outcome:
        """Append one event and wait until it is durable. `original`: the exact bytes it was delivered as.

        Raises StoreUnavailable when too much is waiting already, when the database does not take it, or after APPEND_TIMEOUT
        seconds; it may be durable then all the same. Sent again, it is not kept twice.
        """
        return self._durable([prepare(event, original)])[0]

    def append_many(self, events: Iterable[Event]) -> Iterator[Outcome]:
        """Append a stream of events, giving one outcome each, in order, once it is durable. Memory stays bounded.

        Nothing happens before it is iterated over. Raises StoreUnavailable as `append` does, but where too much is waiting
        it waits for room first, up to APPEND_TIMEOUT seconds.
        """
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

    @property
    def waiting(self) -> int:
        """Events that wait for this store's writer."""
        return self._writer.waiting

    def submit_patiently(self, entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        """`submit` for bulk callers, who wait for room in the queue rather than fail: up to APPEND_TIMEOUT seconds."""
        deadline = time.monotonic() + APPEND_TIMEOUT
        while True:
            try:
                return self.submit(entries)
            except StoreUnavailable:
                if time.monotonic() > deadline or self._writer.closing:
                    raise
                time.sleep(FULL_QUEUE_SECONDS)

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
        with self._making:
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

    def note_answer(self, answer: LineAnswer, route: str | None) -> None:
        """Count the delivery of a line if it was refused. `route`: as the caller gave it."""
        if answer.error is not None:
            self.note_refusal(route or UNKNOWN_ROUTE, reason_of(answer.error))

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
        lines: Lines,
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
            self.note_answer(answer, route)
            if on_answer is not None:
                on_answer(answer)
        return summary

    def ingest_file(
        self,
        file: str | Path | IO[bytes],
        *,
        name: str | None = None,
        route: str | None = None,
        handler: str | None = None,
        site: str | None = None,
        observed_at: datetime | None = None,
        readers: int | None = None,
        on_problem: Callable[[LineAnswer], None] | None = None,
        on_progress: Callable[[IngestProgress], None] | None = None,
    ) -> IngestSummary:
        """Take in a file of deliveries of any size, plain or compressed; see `eventstore.bulk.ingest_file`.

        A large one is read by several processes (`readers`; 0: by this one alone). Run again, it appends nothing new.
        """
        from eventstore.bulk import ingest_file

        def told(answer: LineAnswer) -> None:
            self.note_answer(answer, route)
            if on_problem is not None:
                on_problem(answer)

        return ingest_file(
            file,
            Route(route, handler, observed_at),
            self._site_rule(site),
            self.submit_patiently,
            name=name,
            readers=readers,
            on_problem=told,
            on_progress=on_progress,
        )

    def reconcile(self, *, site: str | None = None, complete: bool = False, dry_run: bool = False) -> Reconciliation:
        """Begin an import of Query Coupons pages that tells how they differ from what the store knew; close it.

        `complete`: the pages are all that Wix has of the site, so that what they lack is absent. `dry_run`: append nothing.
        """
        from eventstore.reconcile import Reconciliation

        return Reconciliation(self, site or self.default_site, complete=complete, dry_run=dry_run)

    @property
    def readers(self) -> Readers:
        """Processes that read for all batches of this store; made on first use, and started when the first large one comes."""
        with self._making:
            if self._readers is None:
                from eventstore.readers import Readers

                self._readers = Readers()
            return self._readers

    def _site_rule(self, given: str | None) -> SiteRule:
        return SiteRule(self.default_site, given)

    # Handlers

    @property
    def handlers(self) -> HandlerDesk:
        """What can be done with handlers: run them, see where they are, deal with what they could not take."""
        from eventstore.handlers.desk import HandlerDesk

        return HandlerDesk(self.engine, self.hints)

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
        type_: Types | None = None,
    ) -> list[RecordedEvent]:
        """A page of at most `limit` events with positions above `after`, in order; [] when there are none.

        `site_id`, `coupon_id` and `type_` choose among them, and combine. The next page is after the last one's position.
        """
        return reader.read(self.engine, after=after, limit=limit, site_id=site_id, coupon_id=coupon_id, type_=type_)

    def stream(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
    ) -> Iterator[RecordedEvent]:
        """Every event above `after`, in order, up to `until` (default: the head as it is now), in bounded memory.

        `site_id`, `coupon_id` and `type_` choose among them, and combine. To go on from there as the log grows: `tail`.
        """
        return reader.stream(self.engine, after=after, until=until, site_id=site_id, coupon_id=coupon_id, type_=type_)

    def tail(
        self,
        *,
        after: int = 0,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
        idle_timeout: float | None = None,
        stop: tailing.Stop | None = None,
        poll: float | None = None,
        listen: bool = True,
    ) -> Iterator[RecordedEvent]:
        """Every event above `after`, in order, each once, and then every new one as it is committed, by whatever process.

        It waits for ever in the calling thread, in bounded memory, and ends when the caller stops iterating; when `stop`, a
        threading.Event or a function, says so; when the store is closed; or after `idle_timeout` seconds without an event
        (0: as soon as there is no more). To go on later, give the last event's position as `after`.

        The log is looked at every `poll` seconds (default: 0.25 on PostgreSQL, 0.05 on SQLite). A commit of this store is
        seen at once, and one of another process on PostgreSQL too, unless `listen` is False; that takes one connection for
        all tails of this store. While the database is away the tail waits for it; only when `idle_timeout` is up meanwhile
        it raises StoreUnavailable. Raises InputError for a parameter that makes no sense.
        """
        return tailing.records(
            self.tail_pages(
                after=after,
                site_id=site_id,
                coupon_id=coupon_id,
                type_=type_,
                idle_timeout=idle_timeout,
                stop=stop,
                poll=poll,
                listen=listen,
            )
        )

    def tail_pages(
        self,
        *,
        after: int = 0,
        site_id: str | None = None,
        coupon_id: str | None = None,
        type_: Types | None = None,
        page: int = reader.PAGE_EVENTS,
        idle_timeout: float | None = None,
        stop: tailing.Stop | None = None,
        poll: float | None = None,
        listen: bool = True,
    ) -> Generator[list[RecordedEvent], None, None]:
        """`tail` in lists of at most `page` events and at least one: for those who write down what they read in batches."""
        return tailing.pages(
            Tail(
                self.engine,
                self.hints,
                Filter(site_id, coupon_id, type_),
                after=after,
                page=page,
                idle_timeout=idle_timeout,
                stop=stop,
                poll=poll,
                listen=listen,
            )
        )

    def find(self, event_id: str, *, site_id: str | None = None) -> RecordedEvent:
        """The event with this id, or at this position. Raises NotFound, and InputError if several sites have that id."""
        found = reader.find_all(self.engine, event_id, site_id=site_id, limit=2)
        if len(found) > 1:
            raise InputError(f"several sites have an event {event_id!r}: say which site")
        if (
            not found
            and len(event_id) <= 19
            and event_id.isascii()
            and event_id.isdigit()
            and 0 < int(event_id) <= self.head()
        ):
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
        """Check Wix's own signature on an event's original bytes again, with the keys that were valid when it was recorded.

        Raises NotFound where there is no event.
        """
        from eventstore.signatures import check_signature

        return check_signature(self.engine, position)

    # Projections

    @property
    def runner(self) -> Runner:
        """The live runner of the projections; made on first use."""
        with self._making:
            if self._runner is None:
                from eventstore.projections.runner import Runner

                self._runner = Runner(self.engine, self.catalogue)
            return self._runner

    def start_projections(self) -> None:
        """Follow the log in a thread of its own until `close`."""
        self.runner.start()

    def project(self, *, on_progress: Callable[[int, int], None] | None = None) -> int:
        """Take everything the log holds into the projections, now; returns the position reached."""
        return self.runner.catch_up(on_progress=on_progress)

    def wait(self, position: int, timeout: float = 10.0, *, projections: Sequence[str] = ()) -> bool:
        """Wait until the projections have taken in `position` (read your own writes); False when the time is up.

        Whichever process follows the log. `projections`: only those; else all that every store has, and your own that are
        followed.
        """
        return self.runner.wait(position, timeout, names=projections)

    def rebuild_projections(
        self,
        *names: str,
        from_original: bool = False,
        keep: bool = True,
        memory_limit: str | None = None,
        on_progress: Callable[[RebuildProgress], None] | None = None,
    ) -> RebuildResult:
        """Rebuild the named projections (none named: all) from the log, while ingestion and readers go on.

        `from_original`: of what today's readers make of the original deliveries. `keep`: what is replaced stays as NAME__old
        until the next rebuild. `memory_limit`: DuckDB's, as "512MB". Raises NotFound for an unknown name, RebuildUnderWay,
        RebuildAborted, and ProjectionError for an event that a model cannot take; the tables are then as they were.
        """
        from eventstore.projections.duck import MEMORY_LIMIT
        from eventstore.projections.rebuild import rebuild_projections

        return rebuild_projections(
            self.engine,
            self.catalogue,
            names,
            from_original=from_original,
            keep=keep,
            memory_limit=MEMORY_LIMIT if memory_limit is None else memory_limit,
            on_progress=on_progress,
        )

    def projections_behind(self) -> tuple[str, ...]:
        """The projections whose tables today's models have not made, or not of all events: `upgrade` rebuilds them. Older
        tables are served meanwhile, what they lack as null."""
        with self.engine.connect() as connection:
            found = tables.read_checkpoints(connection)
        return tuple(model.name for model in tables.behind(found, self.catalogue))

    def upgrade(self, *, on_progress: Callable[[RebuildProgress], None] | None = None) -> Upgraded:
        """Bring the store to this program: migrate its schema, rebuild the projections that are behind. Safe to repeat.

        Servers go on meanwhile, and serve the older tables until they are replaced. Raises StoreNotReady where there is no
        store or a newer one, NotOwner, and what `rebuild_projections` raises.
        """
        from eventstore.projections.upgrade import upgrade

        return upgrade(self.engine, self.catalogue, on_progress=on_progress)

    def projection_rows(
        self,
        name: str,
        *,
        site_id: str | None = None,
        after: Mapping[str, Any] | None = None,
        limit: int = listing.PAGE_ROWS,
    ) -> list[dict[str, Any]]:
        """A page of a projection's rows, one of your own for example, in the order of its key; `after`: the last row of the
        page before. Raises NotFound for an unknown projection, ProjectionError for one that has not been built yet."""
        return listing.rows(self.engine, self.catalogue.find(name), site_id=site_id, after=after, limit=limit)

    def stream_projection(self, name: str, *, site_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Every row of a projection in the order of its key, in bounded memory. Raises as `projection_rows` does."""
        return listing.all_rows(self.engine, self.catalogue.find(name), site_id=site_id)

    def rebuild_status(self) -> RebuildStatus | None:
        """The rebuild under way, or the last one; None before the first. Clears up after one that was killed."""
        return rebuild_work.rebuild_status(self.engine, self.catalogue)

    def abort_rebuild(self) -> RebuildStatus | None:
        """Ask the rebuild under way to stop, in whatever process; it does so within a second or two and changes nothing."""
        return rebuild_work.abort_rebuild(self.engine, self.catalogue)

    def drop_kept_tables(self) -> list[str]:
        """Drop the tables that rebuilds have replaced and kept; their names. Raises RebuildUnderWay, NotOwner."""
        return rebuild_work.drop_kept(self.engine, self.catalogue)

    def coupons(
        self,
        *,
        site_id: str | None = None,
        code: str | None = None,
        deleted: bool | None = None,
        after: str | None = None,
        status: CouponStatus | None = None,
        limit: int = views.PAGE_COUPONS,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> list[CouponState]:
        """At most `limit` coupons with their usage, in (site, coupon id) order; `code` is compared without case.

        As they are now, or as of a moment. `as_of`: what was true then, of the events that had happened. `known_at` or
        `at_position`: what was known then, of the events that had been recorded. Both: what was known at one time of what was
        true at another; code, deletion and status are those of the moment. Raises StoreUnavailable for a position that the
        live projections have not reached.
        """
        found: list[CouponState] = []
        while len(found) < limit:
            page = self.coupons_page(
                site_id=site_id,
                code=code,
                deleted=deleted,
                status=status,
                after=after,
                limit=limit - len(found),
                as_of=as_of,
                known_at=known_at,
                at_position=at_position,
            )
            found += page.coupons
            if page.next is None:
                break
            after = page.next
        return found

    def coupons_page(
        self,
        *,
        site_id: str | None = None,
        code: str | None = None,
        deleted: bool | None = None,
        status: CouponStatus | None = None,
        after: str | None = None,
        limit: int = views.PAGE_COUPONS,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> Page:
        """A page of `coupons` and the `after` of the one that follows. As of a moment a page may be short, and others follow."""
        if as_of is None and known_at is None and at_position is None:
            return views.coupons(
                self.engine, site_id=site_id, code=code, deleted=deleted, status=status, after=after, limit=limit
            )
        from eventstore.projections import asof

        return asof.coupons(
            self.engine,
            self._as_of_sessions,
            site_id=site_id,
            code=code,
            deleted=deleted,
            status=status,
            after=after,
            limit=limit,
            as_of=as_of,
            known_at=known_at,
            at_position=at_position,
        )

    def coupon(
        self,
        coupon_id: str,
        *,
        site_id: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> CouponState:
        """One coupon by its id, as it is now or as of a moment (see `coupons`), of which a future one only moves its status.

        Raises NotFound, and InputError if several sites have that id and none is given.
        """
        if as_of is not None or known_at is not None or at_position is not None:
            from eventstore.projections import asof

            return asof.coupon(
                self.engine,
                self._as_of_sessions,
                coupon_id,
                site_id=site_id,
                as_of=as_of,
                known_at=known_at,
                at_position=at_position,
            )
        return views.coupon(self.engine, coupon_id, site_id)

    @property
    def _as_of_sessions(self) -> Sessions:
        with self._making:
            if self._sessions is None:
                from eventstore.projections.asof import Sessions

                self._sessions = Sessions()
            return self._sessions

    def projection_as_of(
        self,
        name: str,
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows of any projection as of a moment (see `coupons`; none given: of the whole log), in key order.

        The whole log is read for it, in bounded memory. Raises NotFound for an unknown name.
        """
        from eventstore.projections import asof

        return asof.rows(self.engine, self.catalogue, name, as_of=as_of, known_at=known_at, at_position=at_position)

    def history(
        self,
        coupon_id: str,
        *,
        site_id: str | None = None,
        after: int = 0,
        limit: int = reader.PAGE_EVENTS,
        order: Order | str = "recorded",
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> list[HistoryEntry]:
        """A page of what happened to a coupon, with what each event changed and what is odd about it.

        In the order recorded, or "happened": by event time. `after` is the position of the last entry of the page before.
        With a moment (see `coupons`), the events that count then. Raises NotFound for an unknown coupon.
        """
        from eventstore.projections import history

        return history.page(
            self.engine,
            coupon_id,
            site_id=site_id,
            after=after,
            limit=limit,
            order=history.Order(order),
            as_of=as_of,
            known_at=known_at,
            at_position=at_position,
        )

    def stream_history(
        self,
        coupon_id: str,
        *,
        site_id: str | None = None,
        order: Order | str = "recorded",
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        at_position: int | None = None,
    ) -> Iterator[HistoryEntry]:
        """The whole `history` of a coupon, however long, a page in memory at a time."""
        from eventstore.projections import history

        return history.stream(
            self.engine,
            coupon_id,
            site_id=site_id,
            order=history.Order(order),
            as_of=as_of,
            known_at=known_at,
            at_position=at_position,
        )

    def status(self) -> Status:
        """Sizes, positions and the state of the guards."""
        from eventstore.status import status

        return status(self.engine, self.catalogue)

    # The database

    def check_guards(self) -> list[guards.Finding]:
        """All that is wrong with what keeps the log append-only; empty when all is well."""
        return guards.check_guards(self.engine)

    def require_guards(self) -> None:
        """Raise GuardsDown unless every guard stands as the migrations made it."""
        guards.require_guards(self.engine)

    def repair_guards(self) -> list[guards.Finding]:
        """Put back the guards that are missing, disabled or altered; returns what was found. Raises NotOwner."""
        return guards.repair_guards(self.engine)

    def maintain(
        self, *, ahead: int = partitions.PARTITIONS_AHEAD, positions: int = partitions.PARTITION_POSITIONS
    ) -> partitions.Maintenance:
        """Make partitions until `ahead` empty ones are ahead of the log; SQLite needs none. Raises NotOwner, StoreUnavailable."""
        return partitions.maintain(self.engine, ahead=ahead, positions=positions)

    def make_roles(self, *, prefix: str = roles.DEFAULT_PREFIX) -> roles.Roles:
        """Make PostgreSQL roles that own, write and read the store. Raises InputError on SQLite, NotOwner."""
        return roles.make_roles(self.engine, prefix=prefix)

    def start_maintenance(self) -> None:
        """Maintain the store now and every hour, in a thread of its own, until `close`; what fails is logged."""
        self._maintainer = partitions.Maintainer(self.engine)
        self._maintainer.start()

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

    # Dead letters

    def dead_letters(
        self,
        *,
        projection: str | None = None,
        site_id: str | None = None,
        resolved: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """A page of the events that a projection could not take and whose coupons wait, oldest first; `resolved`: also those
        dealt with."""
        from eventstore.projections.dead_letters import list_dead_letters

        return list_dead_letters(
            self.engine, projection=projection, site_id=site_id, resolved=resolved, after=after, limit=limit
        )

    def dead_letter(self, letter_id: int) -> DeadLetter:
        """One dead letter. Raises NotFound."""
        from eventstore.projections.dead_letters import show_dead_letter

        with self.engine.connect() as connection:
            return show_dead_letter(connection, letter_id)

    def retry_dead_letters(self, ids: Iterable[int] | None = None) -> Iterator[Revived]:
        """Try dead letters again (none given: all that are open): their events, and what waits behind them.

        Each in turn gives its answer; nothing is done for those not iterated over. Raises NotFound, InputError for one that is
        resolved, ProjectionError, StoreUnavailable.
        """
        from eventstore.projections.retrying import retry_dead_letters

        return retry_dead_letters(self.engine, self.catalogue, ids)

    def skip_dead_letter(self, letter_id: int, note: str) -> Revived:
        """Leave a dead letter's event out of its projection for good, the note saying why, and take in what waited behind it.

        Raises as `retry_dead_letters` does.
        """
        from eventstore.projections.retrying import skip_dead_letter

        return skip_dead_letter(self.engine, self.catalogue, letter_id, note)

    # Access

    def create_token(self, *, name: str, site_id: str | None, scopes: str = "ingest,read") -> tuple[str, access.Token]:
        """Make a bearer token: `(secret, token)`. The secret is shown this once."""
        return access.create_token(self.engine, name=name, site_id=site_id, scopes=access.parse_scopes(scopes))

    def _committed(self, position: int) -> None:
        self.hints.give(position)
        if self._announcer is not None:
            self._announcer.committed(position)
        if self._runner is not None:
            self._runner.wake()
