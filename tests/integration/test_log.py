"""The log at work: the group-commit writer under load and in trouble, and bulk reading.

What holds of a log on any database stands in tests/conformance.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from eventstore.errors import InputError, StoreUnavailable
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.log import engine as log_engine
from eventstore.log.arrow import EVENT_SCHEMA, event_batches
from eventstore.log.engine import make_engine, store_url
from eventstore.log.records import Outcome, OutcomeKind, Prepared, prepare
from eventstore.log.types import to_micros
from eventstore.log.writer import Writer
from eventstore.store import EventStore
from tests.processes import FORKING
from tests.serving import PATIENCE

TIME = datetime(2026, 9, 1, tzinfo=UTC)


def event(number: int, *, site: str = "site", coupon: str | None = None, type_: str = "coupon.updated") -> Event:
    about = coupon or f"c{number % 3}"
    return Event(
        event_id=f"e{number}",
        type=type_,
        entity_id=about,
        coupon_id=about,
        event_time=TIME + timedelta(seconds=number),
        coupon=Coupon(code=f"CODE{number}", discount=Discount(type=DiscountType.FREE_SHIPPING)),
        source=Source.REST,
        site_id=site,
        sequence=number,
    )


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process's lock on the database, as the writer sees it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def no_gap(store: EventStore, size: int) -> None:
    assert [record.position for record in store.stream()] == list(range(1, size + 1))
    assert store.head() == size


# Group commit


def test_an_answer_comes_only_after_the_event_can_be_read_by_anyone(path: Path, sqlite_store: EventStore) -> None:
    with closing(sqlite3.connect(path)) as stranger:
        for number in range(1, 21):
            position = sqlite_store.append(event(number)).position
            assert stranger.execute("SELECT max(position) FROM events").fetchone() == (position,)


def test_a_caller_that_no_longer_waits_does_not_keep_others_from_being_answered(store: EventStore) -> None:
    abandoned = store.submit([prepare(event(1))])
    abandoned.cancel()
    assert store.append(event(2)).kind is OutcomeKind.APPENDED

    async def gone() -> None:
        task = asyncio.ensure_future(asyncio.wrap_future(store.submit([prepare(event(3))])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(gone())
    assert store.append(event(4)).kind is OutcomeKind.APPENDED
    no_gap(store, 4)


# Pushing back, closing


def test_a_full_queue_pushes_back_and_takes_events_again_once_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 60_000)
    with EventStore.open(path, queue_events=5) as store:
        accepted: list[Future[list[Outcome]]] = []
        with held(path):
            # Beside the five that may wait, the writer has taken what came before it, at most as many.
            with pytest.raises(StoreUnavailable, match="waiting"):
                accepted.extend(store.submit([prepare(event(number))]) for number in range(100))
            assert 5 <= len(accepted) <= 10
        for future in accepted:
            assert future.result()[0].kind is OutcomeKind.APPENDED
        assert store.append(event(100)).kind is OutcomeKind.APPENDED
        no_gap(store, len(accepted) + 1)


def test_a_piece_larger_than_the_queue_is_taken_when_nothing_waits(path: Path) -> None:
    with EventStore.open(path, queue_events=5) as store:
        outcomes = store.submit([prepare(event(number)) for number in range(50)]).result()
        assert [outcome.position for outcome in outcomes] == list(range(1, 51))


def test_close_writes_what_waits_and_then_refuses(path: Path) -> None:
    store = EventStore.open(path)
    with held(path):
        futures = [store.submit([prepare(event(number))]) for number in range(100)]
    store.close()
    assert sorted(future.result()[0].position or 0 for future in futures) == list(range(1, 101))
    with pytest.raises(StoreUnavailable, match="closing"):
        store.append(event(1000))
    with EventStore.open(path) as again:
        no_gap(again, 100)


# Trouble


def test_a_locked_database_is_unavailable_and_recovers_without_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 20)
    with EventStore.open(path) as store:
        store.append(event(1))
        with held(path), pytest.raises(StoreUnavailable, match="locked") as refused:
            store.append(event(2))
        assert refused.value.retry_after > 0
        assert store.append(event(2)).position == 2
        no_gap(store, 2)


def unfit(number: int, **wrong: object) -> Prepared:
    """An entry that can not be written: a mistake of whoever prepared it."""
    return prepare(event(number), b'{"exact": "bytes"}')._replace(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_time": "yesterday"},
        {"event_time": 2**63},
        {"sequence": 2**63},
        {"payload": b"\xff\xfe"},
        {"type": None},
        {"entity_id": object()},
        {"coupon_id": 7},
        {"event_id": 7},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_entry_that_the_log_refuses_is_quarantined_and_the_rest_of_its_batch_appended(
    sqlite_store: EventStore, wrong: dict[str, object]
) -> None:
    bad = unfit(2, **wrong)
    batch = sqlite_store.submit([prepare(event(1)), bad, prepare(event(3))])
    kinds = [outcome.kind.value for outcome in batch.result()]
    assert kinds == ["appended", "quarantined", "appended"]
    assert sqlite_store.append(event(4)).position == 3
    assert sqlite_store.status().quarantined == 1
    no_gap(sqlite_store, 3)


def test_entries_that_postgresql_refuses_are_quarantined_apart_from_the_rest(postgresql_store: EventStore) -> None:
    bad = [
        unfit(2, event_time=2**63),
        unfit(3, payload=b"\xff\xfe"),
        unfit(4, type=None),
        unfit(5, event_id="nul \x00"),
    ]
    outcomes = postgresql_store.submit([prepare(event(1)), *bad[:2], prepare(event(9)), *bad[2:]]).result()
    kinds = [outcome.kind.value for outcome in outcomes]
    assert kinds == ["appended", "quarantined", "quarantined", "appended", "quarantined", "quarantined"]
    no_gap(postgresql_store, 2)


def test_one_bad_piece_does_not_fail_the_pieces_committed_with_it(path: Path) -> None:
    with EventStore.open(path) as store:
        with held(path):
            futures = [store.submit([prepare(event(number))]) for number in range(1, 10)]
            bad = store.submit([unfit(99, event_time=None)])
            later = store.submit([prepare(event(10))])
        assert [future.result()[0].kind.value for future in futures] == ["appended"] * 9
        assert bad.result()[0].kind is OutcomeKind.QUARANTINED
        assert later.result()[0].kind is OutcomeKind.APPENDED
        no_gap(store, 10)


def test_what_not_even_quarantine_takes_is_told_to_its_caller_alone(store: EventStore) -> None:
    hopeless = unfit(2, site_id=None)
    with pytest.raises(Exception, match=r".") as told:
        store.submit([hopeless]).result()
    assert not isinstance(told.value, TimeoutError)
    assert store.append(event(3)).position == 1


def test_a_writer_told_of_every_commit_is_told_in_order(sqlite_store: EventStore) -> None:
    heard: list[int] = []
    writer = Writer(sqlite_store.engine, on_commit=heard.append)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: writer.submit([prepare(event(number))]).result(), range(100)))
    writer.close()
    assert heard == sorted(heard)
    assert heard[-1] == 100


@pytest.mark.parametrize("bad", [False, True], ids=["together", "one at a time"])
def test_a_writer_whose_listener_fails_answers_truly_and_goes_on(
    sqlite_store: EventStore, caplog: pytest.LogCaptureFixture, bad: bool
) -> None:
    def fail(_position: int) -> None:
        raise RuntimeError("can't start new thread")

    writer = Writer(sqlite_store.engine, on_commit=fail)
    for number in (1, 2, 3):
        entries = [prepare(event(number)), *([unfit(-number, event_time=None)] if bad else [])]
        outcome, *others = writer.submit([*entries]).result(PATIENCE)
        assert (outcome.kind, outcome.position) == (OutcomeKind.APPENDED, number)
        assert {other.kind for other in others} == ({OutcomeKind.QUARANTINED} if bad else set())
    writer.close()
    no_gap(sqlite_store, 3)
    assert {record.getMessage() for record in caplog.records} == {"a commit could not be told"}


# Several processes

PROCESSES, EACH = 2, 150


def append_in_another_process(url: str, number: int, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    with EventStore.open(url) as store:
        for index in range(EACH):
            # Every third event is told by both processes.
            shared = index % 3 == 0
            store.append(event(index if shared else 1000 * (number + 1) + index, site="shared" if shared else "own"))


def in_processes(url: str) -> None:
    start = FORKING.Barrier(PROCESSES)
    workers = [
        FORKING.Process(target=append_in_another_process, args=(url, number, start)) for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
        worker.close()


def checked_after(store: EventStore) -> None:
    size = EACH // 3 + PROCESSES * (EACH - EACH // 3)
    no_gap(store, size)
    recorded = list(store.stream())
    assert len({(record.event.site_id, record.event.event_id) for record in recorded}) == size
    assert [record.recorded_at for record in recorded] == sorted(record.recorded_at for record in recorded)
    assert store.status().conflicts == store.status().quarantined == 0


def test_two_processes_make_a_new_store_and_append_to_it_at_once_without_gap_or_loss(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    in_processes(url)
    with EventStore.open(url, create=False) as store:
        checked_after(store)


def test_two_processes_append_to_one_postgresql_at_once_without_gap_or_loss(postgresql_store: EventStore) -> None:
    in_processes(postgresql_store.engine.url.render_as_string(hide_password=False))
    checked_after(postgresql_store)


# Reading


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def read_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    """Thirty events, to be read only: two sites, three coupons, two types."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('read') / 'log.db'}"
    else:
        url = request.getfixturevalue("postgresql")().render_as_string(hide_password=False)
    with EventStore.open(url) as store:
        list(
            store.append_many(
                event(number, site="ab"[number % 2], type_=f"coupon.{'applied' if number % 5 == 0 else 'updated'}")
                for number in range(1, 31)
            )
        )
        yield store


@pytest.mark.parametrize(("after", "until"), [(0, 30), (0, 10_000), (7, 9), (29, 30), (30, 30), (12, 5)])
def test_bulk_batches_say_what_pages_say(read_store: EventStore, after: int, until: int) -> None:
    wanted = [record for record in read_store.stream() if after < record.position <= until]
    with event_batches(read_store.engine, after=after, until=until) as batches:
        found: pa.Table = batches.read_all()
    assert found.schema == EVENT_SCHEMA
    assert found.to_pylist() == [
        {
            "position": record.position,
            "event_time": to_micros(record.event.event_time),
            "recorded_at": to_micros(record.recorded_at),
            "payload": record.payload,
        }
        for record in wanted
    ]


def test_a_bulk_read_left_half_way_leaves_nothing_open(read_store: EventStore) -> None:
    for _ in range(5):
        with event_batches(read_store.engine, after=0, until=30) as batches:
            next(iter(batches))
    assert read_store.append(event(30, site="a")).kind is OutcomeKind.CONFLICT


def test_reading_goes_on_while_the_log_is_being_written(sqlite_store: EventStore) -> None:
    done = threading.Event()

    def write() -> None:
        list(sqlite_store.append_many(event(number) for number in range(3000)))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        head = sqlite_store.head()
        with event_batches(sqlite_store.engine, after=0, until=head) as batches:
            assert batches.read_all()["position"].to_pylist() == list(range(1, head + 1))
    thread.join()
    no_gap(sqlite_store, 3000)


# URLs


def test_a_path_is_a_sqlite_store_and_urls_of_both_engines_are_taken() -> None:
    assert str(store_url("some/file.db")) == "sqlite:///some/file.db"
    assert str(store_url(Path("/abs/file.db"))) == "sqlite:////abs/file.db"
    assert store_url("postgresql://host/name").drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "://", "what://"])
def test_a_url_that_cannot_hold_a_log_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        make_engine(url)
