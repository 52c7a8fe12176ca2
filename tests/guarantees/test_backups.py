"""Backups of a store at work, made with the databases' own means: what is restored is a log, and goes on as one."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select

from eventstore import access
from eventstore.errors import StoreUnavailable
from eventstore.event import Event, Source
from eventstore.log.guards import missing_guards
from eventstore.log.leaf import leaf_hash, stored_hashes
from eventstore.log.records import OutcomeKind, RecordedEvent, Rejected
from eventstore.log.schema import HEAD_REVISION, revision
from eventstore.log.tables import event_keys, events
from eventstore.log.types import to_micros
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore
from tests.rows import REFUSED, Stranger
from tests.serving import PATIENCE
from tests.snapshots import libpq, postgresql_tool
from tests.stores import NewUrl, PostgresqlServer, text_of

BEFORE = 150
"""Events acknowledged before a backup begins."""
COUPONS = 7
CALLERS = 3
ATTACKS = (
    "UPDATE events SET payload = '{}' WHERE position = 1",
    "DELETE FROM events WHERE position = 1",
    "DELETE FROM event_keys",
    "DELETE FROM quarantine",
    "UPDATE log_head SET size = size - 1",
)


def use(event_id: str, coupon: int = 0, order: str | None = None) -> Event:
    return Event(
        event_id=event_id,
        type="coupon.applied",
        entity_id=f"c-{coupon}",
        coupon_id=f"c-{coupon}",
        order_id=order or event_id,
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        source=Source.VELO,
        site_id="shop",
    )


# Making one


Restore = Callable[[Callable[[], str]], str]
"""Restores a backup into a database that is made by what it is given (not for SQLite), and says where."""


@dataclass(frozen=True)
class Means:
    """A way to back up the store at a URL, with a folder for it."""

    name: str
    dialect: str
    back_up: Callable[[str, Path], Restore]


def _pg_dump_custom(url: str, folder: Path) -> Restore:
    file = folder / "backup.dump"
    postgresql_tool("pg_dump", "--format=custom", f"--file={file}", libpq(make_url(url)))

    def restore(empty: Callable[[], str]) -> str:
        into = empty()
        postgresql_tool("pg_restore", "--exit-on-error", "--dbname", libpq(make_url(into)), str(file))
        return into

    return restore


def _pg_dump_plain(url: str, folder: Path) -> Restore:
    script = postgresql_tool("pg_dump", libpq(make_url(url)))

    def restore(empty: Callable[[], str]) -> str:
        into = empty()
        options = ("--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--single-transaction")
        postgresql_tool("psql", *options, "--dbname", libpq(make_url(into)), given=script)
        return into

    return restore


def _backup_api(url: str, folder: Path) -> Restore:
    file = folder / "backup.db"
    with closing(sqlite3.connect(make_url(url).database or "")) as source, closing(sqlite3.connect(file)) as target:
        source.backup(target)
    return lambda _: f"sqlite:///{file}"


def _vacuum_into(url: str, folder: Path) -> Restore:
    file = folder / "backup.db"
    with closing(sqlite3.connect(make_url(url).database or "")) as source:
        source.execute("VACUUM INTO ?", (str(file),))
    return lambda _: f"sqlite:///{file}"


MEANS = (
    Means("pg_dump and pg_restore", "postgresql", _pg_dump_custom),
    Means("pg_dump and psql", "postgresql", _pg_dump_plain),
    Means("SQLite's backup API", "sqlite", _backup_api),
    Means("VACUUM INTO", "sqlite", _vacuum_into),
)


@pytest.fixture(params=MEANS, ids=[means.name for means in MEANS])
def means(request: pytest.FixtureRequest) -> Means:
    found: Means = request.param
    return found


@pytest.fixture
def source(request: pytest.FixtureRequest, means: Means) -> Iterator[str]:
    """An empty store on the engine of these means."""
    stores = request.getfixturevalue("sqlite_stores" if means.dialect == "sqlite" else "postgresql_server")
    new_url: NewUrl = stores.new
    with new_url() as url:
        yield url


@pytest.fixture
def empty(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes an empty PostgreSQL database."""

    def make() -> str:
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        return text_of(server.new_database("template0"))

    return make


class Load:
    """Callers that append, repeat, contradict and send what cannot be read, and remember what they were told."""

    def __init__(self, store: EventStore) -> None:
        self.told: dict[str, int] = {}
        self._store = store
        self._ending = threading.Event()
        self._strange: list[object] = []
        self._threads = [threading.Thread(target=self._run, args=(f"caller{n}",)) for n in range(CALLERS)]

    def _run(self, name: str) -> None:
        try:
            for number in itertools.count():
                if self._ending.is_set():
                    return
                event = use(f"{name}-{number}", number % COUPONS, f"order-{name}-{number // 2}")
                outcome = self._store.append(event)
                assert outcome.kind is OutcomeKind.APPENDED
                assert outcome.position is not None
                self.told[event.event_id] = outcome.position
                if number % 10 == 3:
                    assert self._store.append(event).kind is OutcomeKind.DUPLICATE
                    other = event.model_copy(update={"order_id": "another"})
                    assert self._store.append(other).kind is OutcomeKind.CONFLICT
                    body = f"{name}-{number} cannot be read".encode()
                    self._store.submit([Rejected("shop", "velo", None, None, "unreadable", body)]).result()
        except BaseException as error:  # noqa: BLE001 - the test is told
            self._strange.append(error)

    def wait_for_more(self, more: int) -> None:
        goal = len(self.told) + more
        deadline = time.monotonic() + PATIENCE
        while len(self.told) < goal:
            assert self._strange == []
            assert time.monotonic() < deadline, "nothing is appended any more"
            time.sleep(0.01)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in self._threads:
                thread.join()
        assert self._strange == []


@dataclass(frozen=True)
class Saved:
    """A store that was backed up while it was at work, and what was restored."""

    source: str
    restored: str
    acknowledged: dict[str, int]
    """What was known to be in the log when the backup began."""
    told: dict[str, int]
    """All that was acknowledged until the end."""
    secret: str


@pytest.fixture
def saved(means: Means, source: str, empty: Callable[[], str], tmp_path: Path) -> Saved:
    with EventStore.open(source) as store:
        secret, _ = store.create_token(name="operator", site_id=None)
        store.start_projections()
        load = Load(store)
        with load.at_work():
            load.wait_for_more(BEFORE)
            acknowledged = dict(load.told)
            restore = means.back_up(source, tmp_path)
            load.wait_for_more(30)
    return Saved(source, restore(empty), acknowledged, load.told, secret)


# What holds of it


def logged(store: EventStore) -> list[tuple[Any, ...]]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(events).order_by(events.c.position))]


def assert_is_a_log(store: EventStore, rows: list[tuple[Any, ...]]) -> None:
    """Positions from 1 without gaps, hashes that follow from the rows, and a ledger and a head that agree with them."""
    assert [row[0] for row in rows] == [*range(1, len(rows) + 1)]
    names = [column.name for column in events.columns]
    for values in rows:
        row = dict(zip(names, values, strict=True))
        ids = row["site_id"], row["event_id"], row["type"], row["source"], row["entity_id"], row["coupon_id"]
        times = to_micros(row["event_time"]), to_micros(row["recorded_at"])
        hashes = stored_hashes(row["payload"].encode(), row["original"])
        assert leaf_hash(*ids, *times, row["sequence"], row["anonymize"], hashes) == row["leaf_hash"], row["position"]
    with store.engine.connect() as connection:
        keys = connection.execute(select(event_keys.c.event_id, event_keys.c.position)).all()
    assert {event_id: position for event_id, position in keys} == {row[1]: row[0] for row in rows}
    assert store.head() == len(rows)


def assert_guarded(url: str, store: EventStore) -> None:
    """Every guard stands, is armed, and refuses."""
    assert missing_guards(store.engine) == []
    with Stranger(url) as stranger:
        for role in (None,) if stranger.sqlite else ("origin", "replica"):
            if role is not None:
                stranger.execute(f"SET session_replication_role = {role}")
            for attack in ATTACKS:
                with pytest.raises(REFUSED):
                    stranger.execute(attack)


def projected(store: EventStore) -> dict[str, list[tuple[Any, ...]]]:
    with store.engine.connect() as connection:
        return {
            model.name: sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {model.name}"))
            for model in projections()
        }


def test_a_backup_of_a_store_at_work_is_restored_as_a_log_that_is_guarded_and_goes_on(saved: Saved) -> None:
    with EventStore.open(saved.restored, create=False) as store, EventStore.open(saved.source) as live:
        rows = logged(store)
        assert_is_a_log(store, rows)
        assert rows == logged(live)[: len(rows)], "it is what the log was at one moment"
        assert saved.acknowledged.items() <= {row[1]: row[0] for row in rows}.items(), (
            "nothing acknowledged before is missing"
        )
        assert len(rows) < live.head(), "the store was at work meanwhile"
        assert revision(store.engine) == HEAD_REVISION
        assert_guarded(saved.restored, store)
        assert access.find_token(store.engine, access.digest(saved.secret)) is not None
        kept = store.list_quarantined(limit=1_000)
        assert kept == live.list_quarantined(limit=1_000)[: len(kept)]
        store.project()
        before = projected(store)
        store.rebuild_projections()
        assert projected(store) == before
        # It goes on: what is known is known, what is new takes the next position, and a reader goes on where it was.
        last = store.read(after=len(rows) - 1)[0]
        assert store.append(last.event)[:3] == (OutcomeKind.DUPLICATE, last.event.event_id, last.position)
        [kept_now] = store.submit([Rejected("shop", "velo", None, None, "unreadable", b"after the restore")]).result()
        assert kept_now.quarantine_id is not None
        assert kept_now.quarantine_id > kept[-1].id
        for number in (1, 2):
            assert store.append(use(f"new-{number}")).position == len(rows) + number
        assert [each.event.event_id for each in store.read(after=len(rows))] == ["new-1", "new-2"]
        assert [each.event.event_id for each in store.tail(after=len(rows), idle_timeout=0)] == ["new-1", "new-2"]
        assert_is_a_log(store, logged(store))


def test_what_a_backup_is_too_old_to_hold_is_taken_again_and_whoever_kept_a_leaf_hash_sees_the_difference(
    saved: Saved,
) -> None:
    with EventStore.open(saved.source) as live:
        seen = live.read(limit=10_000)
    with EventStore.open(saved.restored) as store:
        head = store.head()
        lost = [record for record in seen if record.position > head]
        assert lost
        assert store.head() < seen[-1].position, "a reader that had seen more sees that the log is shorter"
        for position, record in enumerate(reversed(lost), head + 1):
            again = store.append(record.event)
            assert (again.kind, again.position) == (OutcomeKind.APPENDED, position)
        for record in seen[:head]:
            assert store.append(record.event).kind is OutcomeKind.DUPLICATE
        now = store.read(limit=10_000)
        assert {each.event.event_id for each in now} == set(saved.told)
        assert_is_a_log(store, logged(store))
    assert hashes(now[:head]) == hashes(seen[:head])
    # Recorded at another time, each is another leaf, whatever order they came in.
    assert set(hashes(now[head:])).isdisjoint(hashes(seen[head:]))


def hashes(records: list[RecordedEvent]) -> list[bytes]:
    return [record.leaf_hash for record in records]


def test_a_copy_of_the_file_alone_may_lack_what_was_acknowledged_so_that_it_is_no_backup(
    path: Path, tmp_path: Path
) -> None:
    """Why a backup is made by SQLite: what was committed last stands beside the file, in its write-ahead log."""
    with EventStore.open(path) as store:
        store.append(use("acknowledged"))
        (tmp_path / "copy.db").write_bytes(path.read_bytes())
    with EventStore.open(tmp_path / "copy.db") as copy:
        assert copy.head() == 0
    with EventStore.open(path) as store:
        assert store.head() == 1


def test_a_damaged_file_is_no_fault_of_the_event(path: Path) -> None:
    with EventStore.open(path) as store:
        store.append(use("before"))
    with closing(sqlite3.connect(path)) as connection:
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'event_keys'").fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xaa" * size)
    with EventStore.open(path) as store:
        with pytest.raises(StoreUnavailable, match="malformed"):
            store.append(use("after"))
        assert store.list_quarantined() == []
