"""Lines on their way into the log: answered in order, in bounded pieces, and never wrongly when the log is unavailable."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from eventstore.errors import InputError, NotAllowed, StoreUnavailable, UnknownHandler, UnreadableDelivery
from eventstore.ingest import (
    CHUNK_LINES,
    CHUNKS_UNDER_WAY,
    IngestSummary,
    LineAnswer,
    Route,
    append_chunks,
    ingest_lines,
    read_delivery,
    read_lines,
)
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected
from tests.serving import APPLIED, CREATED, SITE, applied, created, fixture, wrapped

Entries = list[Prepared | Rejected]


def my_site(named: str | None) -> str:
    """The rule of a caller that is bound to no site."""
    return named or "mine"


def use(number: int) -> bytes:
    return json.dumps(wrapped(APPLIED, applied(f"e-{number}", f"o-{number}"))).encode()


class Log:
    """A log that writes a piece only once its outcome is waited for, and remembers how it was used."""

    def __init__(self, *, full_after: int | None = None, failing: int | None = None) -> None:
        self.pieces: list[int] = []
        self.most_under_way = 0
        self._written = 0
        self._full_after = full_after
        self._failing = failing
        self._position = 0

    def submit(self, entries: Sequence[Prepared | Rejected]) -> Future[list[Outcome]]:
        number = len(self.pieces)
        if number == self._full_after:
            raise StoreUnavailable("full")
        self.pieces.append(len(entries))
        self.most_under_way = max(self.most_under_way, len(self.pieces) - self._written)
        return _Late(lambda: self._write(number, entries))

    def _write(self, number: int, entries: Sequence[Prepared | Rejected]) -> list[Outcome]:
        self._written += 1
        if number == self._failing:
            raise StoreUnavailable("the disk is full")
        return [self._outcome(entry) for entry in entries]

    def _outcome(self, entry: Prepared | Rejected) -> Outcome:
        if isinstance(entry, Rejected):
            return Outcome(OutcomeKind.QUARANTINED, None, None, 1, entry.reason)
        self._position += 1
        return Outcome(OutcomeKind.APPENDED, entry.event_id, self._position)


class _Late(Future[list[Outcome]]):
    def __init__(self, write: Callable[[], list[Outcome]]) -> None:
        super().__init__()
        self._write = write

    def result(self, timeout: float | None = None) -> list[Outcome]:
        self.set_result(self._write())
        return super().result(timeout)


def ingested(lines: list[bytes], log: Log, how: Route | None = None, limit: int | None = None) -> list[LineAnswer]:
    found = ingest_lines(enumerate(lines, 1), how or Route(), my_site, log.submit, max_line_bytes=limit)
    return list(found)


def test_each_line_has_one_answer_in_order_whatever_became_of_it() -> None:
    lines = [use(1), b"{nope", b"", b" \t\r\n", b'{"metadata": {}}', b'{"coupons": []}', use(2), b"[]"]
    told = ingested(lines, Log())
    assert [(each.line, each.outcome) for each in told] == [
        (1, "appended"),
        (2, "refused"),
        (5, "quarantined"),
        (6, "empty"),
        (7, "appended"),
        (8, "refused"),
    ]
    assert isinstance(told[1].error, UnreadableDelivery)
    assert told[0].outcomes[0].event_id == "e-1"
    assert told[4].outcomes[0].event_id == "e-2"


def test_nothing_in_gives_nothing_out_and_asks_nothing_of_the_log() -> None:
    log = Log()
    assert ingested([b"", b"\n"], log) == []
    assert log.pieces == []


def test_a_page_whose_coupons_fare_differently_is_mixed() -> None:
    appended = Outcome(OutcomeKind.APPENDED, "a", 1)
    duplicate = Outcome(OutcomeKind.DUPLICATE, "b", 2)
    assert LineAnswer(1, (appended, duplicate)).outcome == "mixed"
    assert LineAnswer(1, (duplicate, duplicate)).outcome == "duplicate"


@pytest.mark.parametrize("size", [1, CHUNK_LINES - 1, CHUNK_LINES, CHUNK_LINES + 1, 3 * CHUNK_LINES])
def test_lines_go_to_the_log_in_pieces_of_a_bounded_size(size: int) -> None:
    log = Log()
    told = ingested([use(number) for number in range(size)], log)
    assert [each.line for each in told] == list(range(1, size + 1))
    whole, rest = divmod(size, CHUNK_LINES)
    assert log.pieces == [CHUNK_LINES] * whole + [rest] * bool(rest)


def test_no_more_is_read_than_the_log_can_follow() -> None:
    log = Log()
    total = 20 * CHUNK_LINES
    read = 0

    def lines() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        for read in range(1, total + 1):
            yield read, use(read)

    answered = 0
    for answer in ingest_lines(lines(), Route(), my_site, log.submit):
        answered += 1
        assert answer.line == answered
        assert read - answered < CHUNKS_UNDER_WAY * CHUNK_LINES
    assert answered == total
    assert log.most_under_way == CHUNKS_UNDER_WAY


@pytest.mark.parametrize(
    ("log", "why", "answered"),
    [
        pytest.param(Log(full_after=0), "full", 0, id="full at once"),
        pytest.param(Log(full_after=2), "full", 2, id="full later"),
        pytest.param(Log(full_after=CHUNKS_UNDER_WAY + 2), "full", CHUNKS_UNDER_WAY + 2, id="full much later"),
        pytest.param(Log(failing=0), "the disk is full", 0, id="failing at once"),
        pytest.param(Log(failing=1), "the disk is full", 1, id="failing later"),
    ],
)
def test_when_the_log_takes_no_more_what_it_took_before_is_still_answered_and_nothing_else(
    log: Log, why: str, answered: int
) -> None:
    lines = enumerate((use(number) for number in range(10 * CHUNK_LINES)), 1)
    told: list[LineAnswer] = []
    with pytest.raises(StoreUnavailable, match=why):
        told.extend(ingest_lines(lines, Route(), my_site, log.submit))
    assert [each.line for each in told] == list(range(1, answered * CHUNK_LINES + 1))
    assert {each.outcome for each in told} <= {"appended"}


def test_a_line_over_the_limit_is_refused_and_its_ending_does_not_count() -> None:
    line = use(1)
    told = ingested([line + b"\r\n", line + b"\n", line, line + b" ", line + b" \n"], Log(), limit=len(line))
    assert [each.outcome for each in told] == ["appended", "appended", "appended", "refused", "refused"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_the_way_a_line_ends_is_no_part_of_its_delivery(ending: bytes) -> None:
    kept: Entries = []

    def submit(entries: Entries) -> Future[list[Outcome]]:
        kept.extend(entries)
        return Log().submit(entries)

    list(ingest_lines([(1, use(1) + ending), (2, b"{}" + ending)], Route(), my_site, submit))
    appended, rejected = kept
    assert isinstance(appended, Prepared)
    assert appended.original is not None
    assert zlib.decompress(appended.original) == use(1)
    assert isinstance(rejected, Rejected)
    assert rejected.body == b"{}"


def test_what_the_site_rule_says_against_a_line_refuses_that_line_alone() -> None:
    def only_mine(named: str | None) -> str:
        if named not in (None, "mine"):
            raise NotAllowed(f"not {named}")
        return "mine"

    lines = [use(1), fixture("sdk_loyalty_coupon_created.json").replace(b"\n", b""), use(2)]
    told = list(ingest_lines(enumerate(lines, 1), Route(), only_mine, Log().submit))
    assert [each.outcome for each in told] == ["appended", "refused", "appended"]
    assert str(told[1].error) == f"not {SITE}"


def test_a_wrapper_says_what_the_body_does_not() -> None:
    body = created("e-1")
    line = json.dumps(wrapped(CREATED, body, site="theirs")).encode()
    [entry] = read_delivery(line, Route("rest"), my_site)
    assert isinstance(entry, Prepared)
    assert (entry.source, entry.handler, entry.site_id, entry.type) == ("velo", CREATED, "theirs", "coupon.created")


def test_a_wrapper_is_no_delivery_where_the_door_has_said_all_there_is_to_say() -> None:
    line = json.dumps(wrapped(CREATED, created("e-1"))).encode()
    [entry] = read_delivery(line, Route("velo", CREATED), my_site, may_wrap=False)
    assert isinstance(entry, Rejected)
    assert entry.body == line


def test_an_unknown_handler_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(UnknownHandler, match=CREATED):
        read_delivery(json.dumps(created("e-1")).encode(), Route("velo", "onNothing"), my_site)


def test_the_summary_counts_lines_and_events() -> None:
    summary = IngestSummary()
    for answer in ingested([use(1), b"nope", b"{}", use(2), b'{"coupons": []}'], Log()):
        summary.add(answer)
    assert summary.lines == 5
    assert summary.counts == {"appended": 2, "refused": 1, "quarantined": 1}
    assert summary.last_position == 2


def test_a_chunk_is_counted_as_its_answers_are() -> None:
    lines = [use(1), b"nope", b"{}", use(2), b'{"coupons": []}', b"", use(3)]
    together, apart = IngestSummary(), IngestSummary()
    for chunk in append_chunks(read_lines(enumerate(lines, 1), Route(), my_site, chunk_lines=3), Log().submit):
        together.add_chunk(chunk)
        for answer in chunk.answers():
            apart.add(answer)
    assert together == apart
    assert together.counts == {"appended": 3, "refused": 1, "quarantined": 1}
    both = IngestSummary()
    both += together
    both += apart
    assert (both.lines, both.last_position) == (12, 3)
    assert both.counts == {"appended": 6, "refused": 2, "quarantined": 2}


def test_an_error_of_the_reading_is_raised_behind_the_answers_to_what_was_read_before() -> None:
    def lines() -> Iterator[tuple[int, bytes]]:
        for number in range(1, 3 * CHUNK_LINES + 1):
            yield number, use(number)
        raise InputError("the file is cut short")

    told: list[LineAnswer] = []
    with pytest.raises(InputError, match="cut short"):
        told.extend(ingest_lines(lines(), Route(), my_site, Log().submit))
    assert [each.line for each in told] == list(range(1, 3 * CHUNK_LINES + 1))
