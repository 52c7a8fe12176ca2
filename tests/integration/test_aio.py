"""The store in an event loop: the same answers, nobody kept waiting, and whatever is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import eventstore
from eventstore import AsyncEventStore, Event, OutcomeKind
from eventstore.aio import CHUNK_EVENTS, READ_THREADS
from eventstore.errors import InputError, NotFound, StoreNotReady, StoreUnavailable
from eventstore.log import engine as log_engine
from eventstore.log.engine import is_sqlite, make_engine, writing
from eventstore.store import EventStore
from tests.tailing import event

NEVER = 3_600.0
"""A tail that polls this seldom is woken by a hint, or the test fails."""
PATIENCE = 120.0


def numbered(number: int) -> Event:
    return event(f"e{number}", number)


def in_a_loop(work: Awaitable[None]) -> None:
    """Run it in a loop of its own. Whatever it waits for for ever is a failure, and so is a task that it leaves behind."""

    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(run())


@contextmanager
def locked(url: str) -> Iterator[Callable[[], None]]:
    """Another program that stands still in the midst of a write, until the block ends or it is told to go on."""
    engine = make_engine(url)
    with engine.connect() as connection:
        writing(connection).execute(text("SELECT size FROM log_head" + ("" if is_sqlite(engine) else " FOR UPDATE")))
        try:
            yield connection.rollback
        finally:
            connection.rollback()
    engine.dispose()


# The verbs


def test_each_verb_answers_as_its_namesake_does(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url, site="mine") as store:
            assert await store.head() == 0
            first = await store.append(numbered(1), original=b"as delivered")
            assert first == (OutcomeKind.APPENDED, "e1", 1, None, None)
            assert (await store.append(numbered(1)))[:3] == (OutcomeKind.DUPLICATE, "e1", 1)
            conflict = await store.append(numbered(1).model_copy(update={"anonymize": True}))
            assert conflict[:3] == (OutcomeKind.CONFLICT, "e1", 1)
            assert await store.run(store.sync.original, 1) == b"as delivered"
            outcomes = [outcome async for outcome in store.append_many(numbered(number) for number in range(1, 31))]
            assert [outcome.position for outcome in outcomes] == [*range(1, 31)]
            assert await store.head() == 30
            assert (await store.find("e7")).event == numbered(7)
            with pytest.raises(NotFound):
                await store.find("nothing")
            for filters in ({}, {"coupon_id": "c3"}, {"site_id": "nowhere"}, {"after": 20, "type_": "coupon.updated"}):
                wanted: dict[str, Any] = filters
                expected = store.sync.read(**wanted)
                assert await store.read(**wanted) == expected
                assert [record async for record in store.stream(**wanted)] == expected
                assert [record async for record in store.tail(idle_timeout=0, **wanted)] == expected
            assert [record.position async for record in store.stream(after=3, until=9)] == [*range(4, 10)]
            pages = [len(page) async for page in store.tail_pages(idle_timeout=0, page=12)]
            assert pages == [12, 12, 6]
            assert store.sync.default_site == "mine"

    in_a_loop(use())


def test_a_store_is_opened_by_await_too_and_over_one_that_is_open(path: Path) -> None:
    async def use() -> None:
        store = await AsyncEventStore.open(path, create=False)
        await store.append(numbered(1))
        await store.close()
        over = AsyncEventStore(EventStore.open(path))
        assert await over.head() == 1
        await over.close()
        with pytest.raises(StoreNotReady):
            await AsyncEventStore.open(path.with_name("absent.db"), create=False)
        with pytest.raises(InputError):
            async with AsyncEventStore.open("mysql://host/name"):
                pass

    in_a_loop(use())


def test_what_the_package_exports_is_there() -> None:
    for name in eventstore.__all__:
        assert getattr(eventstore, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        eventstore.nothing_of_the_kind  # noqa: B018


# Appending


def test_many_callers_at_once_are_each_told_the_truth(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            outcomes = await asyncio.gather(*(store.append(numbered(number % 300)) for number in range(600)))
            kinds = [outcome.kind for outcome in outcomes]
            assert kinds.count(OutcomeKind.APPENDED) == kinds.count(OutcomeKind.DUPLICATE) == 300
            stands = {record.event.event_id: record.position async for record in store.stream()}
            assert {outcome.event_id: outcome.position for outcome in outcomes} == stands
            assert sorted(stands.values()) == [*range(1, 301)]

    in_a_loop(use())


def test_the_loop_goes_on_while_an_append_waits_for_the_database(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            with locked(store_url) as release:
                appending = asyncio.create_task(store.append(numbered(1)))
                many = asyncio.create_task(anext(store.append_many([numbered(2)])))
                for _ in range(50):
                    await asyncio.sleep(0.002)
                    assert await store.head() == 0
                assert not appending.done()
                release()
                assert (await appending).kind is OutcomeKind.APPENDED
                assert (await many).kind is OutcomeKind.APPENDED

    in_a_loop(use())


def test_a_cancelled_append_may_be_durable_and_is_not_kept_twice(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            with locked(store_url):
                tasks = [asyncio.create_task(store.append(numbered(number))) for number in range(20)]
                await asyncio.sleep(0.05)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks[::2], return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in done)
            assert {(await task).kind for task in tasks[1::2]} == {OutcomeKind.APPENDED}
            again = [await store.append(numbered(number)) for number in range(20)]
            assert {outcome.kind for outcome in again[1::2]} == {OutcomeKind.DUPLICATE}
            assert await store.head() == 20
            assert len({record.event.event_id async for record in store.stream()}) == 20

    in_a_loop(use())


def test_an_append_that_the_queue_has_no_room_for_is_refused_and_a_stream_waits_for_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 60_000)

    async def use() -> None:
        async with AsyncEventStore.open(path, queue_events=5) as store:
            with locked(f"sqlite:///{path}"):
                waiting = [asyncio.create_task(store.append(numbered(number))) for number in range(20)]
                stream = store.append_many(numbered(number) for number in range(100, 103))
                streaming = asyncio.create_task(anext(stream))
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
                with pytest.raises(StoreUnavailable, match="waiting"):
                    await done.pop()
                await asyncio.sleep(0.2)
                assert not streaming.done()
            assert (await streaming).kind is OutcomeKind.APPENDED
            assert [outcome.kind async for outcome in stream] == [OutcomeKind.APPENDED] * 2
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            taken = [answer for answer in answers if not isinstance(answer, BaseException)]
            # Five wait in the queue, and the writer took no more than a queue's worth before it stood before the lock.
            assert 5 <= len(taken) <= 10
            assert await store.head() == len(taken) + 3

    in_a_loop(use())


@pytest.mark.parametrize("kind", ["list", "generator", "asynchronous"])
def test_a_stream_of_any_source_gets_one_outcome_each_in_order(store_url: str, kind: str) -> None:
    count = 3 * CHUNK_EVENTS + 7
    told = [numbered(number // 2) for number in range(count)]

    async def source() -> AsyncGenerator[Event, None]:
        for number, one in enumerate(told):
            if number % 500 == 0:
                await asyncio.sleep(0)
            yield one

    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            sources: dict[str, Iterable[Event] | AsyncIterable[Event]] = {
                "list": told,
                "generator": (one for one in told),
                "asynchronous": source(),
            }
            events = sources[kind]
            outcomes = [outcome async for outcome in store.append_many(events)]
            assert [outcome.event_id for outcome in outcomes] == [one.event_id for one in told]
            assert [outcome.position for outcome in outcomes] == [number // 2 + 1 for number in range(count)]

    in_a_loop(use())


def test_events_of_a_slow_source_are_appended_as_they_come(store_url: str) -> None:
    heard: asyncio.Queue[int | None] = asyncio.Queue()

    async def source() -> AsyncGenerator[Event, None]:
        for number in range(5):
            yield numbered(number)
            # It gives nothing more until what it gave is durable.
            assert await heard.get() == number + 1

    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            async for outcome in store.append_many(source()):
                await heard.put(outcome.position)
            assert await store.head() == 5

    in_a_loop(use())


@pytest.mark.parametrize("asynchronous", [True, False], ids=["asynchronous", "plain"])
def test_when_a_source_fails_its_error_comes_after_the_outcomes_of_what_it_gave(path: Path, asynchronous: bool) -> None:
    count = CHUNK_EVENTS + 5

    def plain() -> Iterator[Event]:
        yield from (numbered(number) for number in range(count))
        raise ValueError("the source is dry")

    async def source() -> AsyncGenerator[Event, None]:
        for number in range(count):
            yield numbered(number)
        raise ValueError("the source is dry")

    async def use() -> None:
        async with AsyncEventStore.open(path) as store:
            stream = store.append_many(source() if asynchronous else plain())
            for _ in range(count):
                assert (await anext(stream)).kind is OutcomeKind.APPENDED
            with pytest.raises(ValueError, match="dry"):
                await anext(stream)
            assert await store.head() == count

    in_a_loop(use())


def test_a_source_that_was_cancelled_ends_the_stream_after_the_outcomes_of_what_it_gave(path: Path) -> None:
    async def source() -> AsyncGenerator[Event, None]:
        yield numbered(1)
        # What it waits for is another task's, which somebody has cancelled.
        gone = asyncio.ensure_future(asyncio.sleep(NEVER))
        gone.cancel()
        await gone

    async def use() -> None:
        async with AsyncEventStore.open(path) as store:
            stream = store.append_many(source())
            assert (await anext(stream)).kind is OutcomeKind.APPENDED
            ending = asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait({ending}, timeout=PATIENCE / 2)
            assert done, "it never ends"
            assert ending.cancelled()
            assert (await store.append(numbered(2))).position == 2

    in_a_loop(use())


def test_a_stream_that_is_left_reads_its_source_no_further(path: Path) -> None:
    taken = 0
    closed = False

    async def source() -> AsyncGenerator[Event, None]:
        nonlocal taken, closed
        try:
            while True:
                taken += 1
                yield numbered(taken)
                await asyncio.sleep(0)
        finally:
            closed = True

    async def use() -> None:
        async with AsyncEventStore.open(path) as store:
            async with aclosing(source()) as events, aclosing(store.append_many(events)) as stream:
                async for outcome in stream:
                    if outcome.position == 10:
                        break
            before = taken
            await asyncio.sleep(0.05)
            assert taken == before
            assert closed

    in_a_loop(use())


# Tailing


async def follow(store: AsyncEventStore, given: list[int], **options: Any) -> None:
    async for record in store.tail(**options):
        given.append(record.position)  # noqa: PERF401 - seen while it goes on


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.005)


def test_more_tails_than_there_are_threads_are_each_given_everything_as_it_comes(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store:
            given: list[list[int]] = [[] for _ in range(READ_THREADS * 5)]
            tails = [asyncio.create_task(follow(store, each, poll=NEVER)) for each in given]
            for number in range(1, 6):
                await store.append(numbered(number))
                await until(lambda: all(each == [*range(1, number + 1)] for each in given))  # noqa: B023
            # While they all wait, reads find threads and connections.
            assert [record.position for record in await store.read()] == [1, 2, 3, 4, 5]
            for tail in tails:
                tail.cancel()
            await asyncio.wait(tails)
            assert all(tail.cancelled() for tail in tails)

    in_a_loop(use())


def test_a_tail_hears_what_another_process_commits(store_url: str) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(store_url) as store, AsyncEventStore.open(store_url) as other:
            poll = 0.02 if is_sqlite(store.sync.engine) else NEVER
            given: list[int] = []
            tail = asyncio.create_task(follow(store, given, poll=poll))
            for number in range(1, 6):
                await other.append(numbered(number))
                await until(lambda: given == [*range(1, number + 1)])  # noqa: B023
            tail.cancel()
            await asyncio.wait({tail})

    in_a_loop(use())


def test_a_cancelled_or_abandoned_tail_holds_nothing_any_more(postgresql_store: EventStore) -> None:
    def listeners() -> int:
        with postgresql_store.engine.connect() as connection:
            return int(
                connection.execute(
                    text(
                        "SELECT count(*) FROM pg_stat_activity "
                        "WHERE application_name = 'eventstore listener' AND datname = current_database()"
                    )
                ).scalar_one()
            )

    async def use() -> None:
        store = AsyncEventStore(postgresql_store)
        given: list[int] = []
        await store.append(numbered(1))
        tails = [asyncio.create_task(follow(store, given, poll=0.01)) for _ in range(20)]
        await until(lambda: len(given) == 20)
        while await store.run(listeners) != 1:
            await asyncio.sleep(0.005)
        for tail in tails:
            tail.cancel()
        await asyncio.wait(tails)
        async with aclosing(store.tail()) as left:
            async for record in left:
                assert record.position == 1
                break
        while await store.run(listeners):
            await asyncio.sleep(0.005)
        await until(lambda: postgresql_store.engine.pool.status().endswith("Current Checked out connections: 0"))

    in_a_loop(use())


def test_an_idle_tail_ends_and_a_nonsensical_one_is_refused_before_it_begins(path: Path) -> None:
    async def use() -> None:
        async with AsyncEventStore.open(path) as store:
            await store.append(numbered(1))
            assert [record.position async for record in store.tail(idle_timeout=0.05)] == [1]
            with pytest.raises(InputError, match="poll"):
                store.tail(poll=-1)

    in_a_loop(use())


# Closing


def test_closing_writes_what_waits_ends_the_tails_and_refuses_what_comes_later(path: Path) -> None:
    async def use() -> None:
        store = await AsyncEventStore.open(path)
        given: list[int] = []
        tails = [asyncio.create_task(follow(store, given, poll=poll)) for poll in (0.001, NEVER)]
        await store.append(numbered(0))
        await until(lambda: len(given) == 2)
        with locked(f"sqlite:///{path}") as release:
            appending = [asyncio.create_task(store.append(numbered(number))) for number in range(1, 50)]
            await asyncio.sleep(0)
            closing_it = asyncio.create_task(store.close())
            await asyncio.sleep(0.02)
            release()
            await closing_it
        assert {(await each).kind for each in appending} == {OutcomeKind.APPENDED}
        await asyncio.gather(*tails)
        for refused in (store.append(numbered(99)), store.head(), store.read()):
            with pytest.raises(StoreUnavailable):
                await refused
        with pytest.raises(StoreUnavailable, match="closed"):
            store.tail()

    in_a_loop(use())
    with EventStore.open(path, create=False) as again:
        assert again.head() == 50


def test_an_opening_that_is_cancelled_leaves_no_store_open(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    async def use() -> None:
        opening = asyncio.create_task(_open(path))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        # The thread makes it all the same, and closes it, so that the file alone is left.
        await until(lambda: path.exists() and [each.name for each in tmp_path.iterdir()] == ["new.db"])

    asyncio.run(use())


async def _open(path: Path) -> AsyncEventStore:
    return await AsyncEventStore.open(path)
