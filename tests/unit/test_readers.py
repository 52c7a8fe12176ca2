"""Reading in other processes gives what reading here gives, and one that is lost is told, not waited for."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import errors
from eventstore.access import Scope, Token
from eventstore.errors import EventStoreError, NotAllowed, StoreUnavailable, UnknownHandler, UnreadableDelivery
from eventstore.ingest import Chunk, Route, SiteRule
from eventstore.lines import Piece, cut
from eventstore.readers import READERS_AT_MOST, Job, Readers, read_pieces, readers_for
from tests.serving import APPLIED, CREATED, applied, created, fixture, one_line, wrapped

TAKEN = datetime(2026, 9, 1, tzinfo=UTC)
LIMIT = 3_000
LINES = [
    json.dumps(wrapped(CREATED, created("e-1", name="ä\u2028b"))).encode(),
    json.dumps(wrapped(APPLIED, applied("e-2", "o-2"))).encode(),
    one_line(fixture("sdk_loyalty_coupon_created.json")).strip(),
    one_line(fixture("snapshot_query_coupons.json")).strip(),
    json.dumps(wrapped("onNothing", created("e-3"))).encode(),
    json.dumps(wrapped(CREATED, created("e-4"), site="theirs")).encode(),
    b'{"coupons": []}',
    b'{"metadata": {}}',
    b'{"route": "pigeon", "body": {}}',
    b"nope",
    b"\xff\xfe",
    b"[" * 100,
    b"",
    b" \t\r",
    b'{"x": "' + b"y" * LIMIT + b'"}',
    b'{"x": "' + b"y" * (2 * LIMIT) + b'"}',
]


def flat(chunks: Iterator[Chunk]) -> tuple[list[Any], list[Any]]:
    """All that chunks say of lines, and their entries, whatever the chunks' borders."""
    told, entries = [], []
    for chunk in chunks:
        told += [
            (number, type(each), str(each), vars(each)) if isinstance(each, EventStoreError) else (number, each)
            for number, each in zip(chunk.numbers, chunk.told, strict=True)
        ]
        entries += [(type(entry), entry) for entry in chunk.entries]
    return told, entries


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with Readers(2) as pool:
        yield pool


@settings(max_examples=60)
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=60),
    piece=st.integers(20, 5_000),
    chunk=st.integers(1, 20),
    here=st.sampled_from([0, 2_000]),
)
def test_readers_tell_of_any_lines_what_this_process_would(
    readers: Readers, lines: list[bytes], piece: int, chunk: int, here: int
) -> None:
    text = b"\n".join(lines)
    job = Job(Route(observed_at=TAKEN), SiteRule("mine"), LIMIT, chunk)

    def read(pool: Readers | None, piece_bytes: int, here_bytes: int) -> tuple[list[Any], list[Any]]:
        pieces = cut(io.BytesIO(text), max_line_bytes=LIMIT, piece_bytes=piece_bytes)
        return flat(read_pieces(pieces, job, pool, here_bytes=here_bytes))

    alone = read(None, 1_000_000, 0)
    assert read(readers, piece, here) == alone
    assert [number for number, *_ in alone[0]] == [number for number, line in enumerate(lines, 1) if line.strip()]


def test_no_chunk_is_larger_than_it_was_asked_to_be(readers: Readers) -> None:
    text = b"\n".join(LINES * 50)
    for pool in (None, readers):
        job = Job(Route(observed_at=TAKEN), SiteRule("mine"), LIMIT, 7)
        chunks = list(read_pieces(cut(io.BytesIO(text)), job, pool, here_bytes=0))
        assert max(len(chunk.numbers) for chunk in chunks) == 7
        assert chunks[-1].end is not None


def test_a_token_s_rule_is_kept_by_readers(readers: Readers) -> None:
    token = Token("tok_1", "shop", "mine", frozenset({Scope.INGEST}), TAKEN)
    job = Job(Route(), partial(token.site_for, default="default"), LIMIT)
    text = LINES[0] + b"\n" + LINES[5] + b"\n"
    [chunk] = read_pieces(cut(io.BytesIO(text)), job, readers, here_bytes=0)
    taken, refused = chunk.told
    assert (taken, chunk.entries[0].site_id) == (1, "mine")
    assert isinstance(refused, NotAllowed)


def test_a_killed_reader_is_an_error_and_the_next_piece_is_read_by_another() -> None:
    # Small enough for one piece each, long enough that the reader is at work when it is killed.
    text = b"\n".join(LINES[:2] * 20_000) + b"\n"
    job = Job(Route(), SiteRule("mine"), LIMIT)
    [piece] = cut(io.BytesIO(text), piece_bytes=len(text) + 1)
    with Readers(1) as pool:
        future = pool.submit(piece, job)
        second = pool.submit(piece, job)
        [process_id] = started(pool)
        os.kill(process_id, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match=r"killed by SIGKILL .*too little memory.*send the rest again"):
            future.result(60)
        # Whether that reader had it already or not.
        assert isinstance(second.exception(60), StoreUnavailable | None)
        [again] = cut(io.BytesIO(LINES[0]))
        [chunk] = pool.submit(again, job).result(60)
        assert chunk.told == [1]
        assert pool.process_ids != [process_id]


def test_a_reader_that_ended_while_it_had_nothing_to_do_is_replaced_and_nothing_lost() -> None:
    job = Job(Route(), SiteRule("mine"), LIMIT)
    [piece] = cut(io.BytesIO(LINES[0]))
    with Readers(1) as pool:
        for _ in range(3):
            assert pool.submit(piece, job).result(60)[0].told == [1]
            [process_id] = started(pool)
            os.kill(process_id, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while pool.process_ids:
                assert time.monotonic() < deadline
                time.sleep(0.01)


class Unheard(NotAllowed):
    """A refusal that can be sent and not be received: what a parent without memory makes of an answer."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _out_of_memory, ()


def _out_of_memory() -> None:
    raise MemoryError


def refuse_unheard(_site: str | None) -> str:
    raise Unheard("no")


def test_an_answer_that_cannot_be_taken_in_is_told_and_no_piece_is_given_another_s() -> None:
    [piece] = cut(io.BytesIO(LINES[0]))
    sound = Job(Route(), SiteRule("mine"), LIMIT)
    with Readers(1) as pool:
        # Both are with the process before it has started: the answer to the second comes behind the one that fails.
        futures = [pool.submit(piece, Job(Route(), refuse_unheard, LIMIT)), pool.submit(Piece(101, LINES[0]), sound)]
        with pytest.raises(MemoryError):
            futures[0].result(60)
        assert isinstance(futures[1].exception(60), MemoryError | None)
        for first in (201, 301, 401):
            [chunk] = pool.submit(Piece(first, LINES[0]), sound).result(60)
            assert chunk.numbers == [first]


def test_a_reader_that_cannot_be_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(Route(), SiteRule("mine"), LIMIT)
    [piece] = cut(io.BytesIO(LINES[0]))
    with Readers(1) as pool:
        with monkeypatch.context() as without:
            without.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(StoreUnavailable, match=r"could not be started: .*No such file.*send the rest again"):
                pool.submit(piece, job).result(60)
        assert pool.submit(piece, job).result(60)[0].told == [1]


def started(pool: Readers) -> list[int]:
    deadline = time.monotonic() + 60
    while len(pool.process_ids) < pool.count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pool.process_ids


def test_closing_ends_the_processes_and_tells_who_waits() -> None:
    text = b"\n".join(LINES[:2] * 20_000) + b"\n"
    [piece] = cut(io.BytesIO(text), piece_bytes=len(text) + 1)
    pool = Readers(2)
    futures = [pool.submit(piece, Job(Route(), SiteRule("mine"), LIMIT)) for _ in range(9)]
    ids = started(pool)
    pool.close()
    assert pool.process_ids == []
    for process_id in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
    for future in futures:
        assert isinstance(future.exception(60), StoreUnavailable)
    with pytest.raises(StoreUnavailable, match="closing"):
        pool.submit(piece, Job(Route(), SiteRule("mine"), LIMIT))


def test_a_pool_that_is_never_used_starts_nothing() -> None:
    with Readers(4) as pool:
        assert list(read_pieces(cut(io.BytesIO(LINES[0])), Job(Route(), SiteRule("mine"), LIMIT), pool)) != []
        assert pool.process_ids == []


def test_what_is_wrong_in_a_reader_itself_is_raised_with_its_trace(readers: Readers) -> None:
    [piece] = cut(io.BytesIO(LINES[0]))
    future = readers.submit(piece, Job(Route(), partial(divmod, 1), LIMIT))
    with pytest.raises(RuntimeError, match="TypeError"):
        future.result(60)


@pytest.mark.parametrize(
    "error",
    [
        UnreadableDelivery("not a time", where="entity.startTime", malformed=True),
        UnknownHandler("onNothing", ("a", "b")),
        errors.StoreUnavailable("full", retry_after=3.0),
        errors.NotGenuine("no", "signature"),
        errors.TooManyFailures("slowly", retry_after=2.0),
        errors.UnsupportedEncoding("br", ("gzip",)),
        NotAllowed("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_their_meaning_between_processes(error: EventStoreError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_readers_by_cores() -> None:
    assert [readers_for(cores) for cores in (1, 2, 3, 4, 8, 64)] == [0, 2, 2, 3, READERS_AT_MOST, READERS_AT_MOST]


@pytest.mark.parametrize("shared", [True, False])
def test_what_was_good_of_a_file_that_is_cut_short_is_read_before_the_error(readers: Readers, shared: bool) -> None:
    def pieces() -> Iterator[Piece]:
        yield from cut(io.BytesIO(text), piece_bytes=1_000)
        raise errors.InputError("cut short")

    text = (LINES[0] + b"\n") * 100
    chunks: list[Chunk] = []
    with pytest.raises(errors.InputError, match="cut short"):
        chunks.extend(
            read_pieces(pieces(), Job(Route(), SiteRule("mine"), LIMIT), readers if shared else None, here_bytes=0)
        )
    assert sum(len(chunk.entries) for chunk in chunks) == 100
