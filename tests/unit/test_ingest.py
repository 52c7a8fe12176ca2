"""Lines on their way into the log: answered in order, in bounded pieces, and never wrongly when the log is unavailable."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from eventstore.errors import NotAllowed, StoreUnavailable, UnknownHandler, UnreadableDelivery
from eventstore.ingest import (
    CHUNK_LINES,
    CHUNKS_UNDER_WAY,
    IngestSummary,
    LineAnswer,
    Route,
    ingest_lines,
    read_delivery,
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
    """A log that takes what it is given when the test lets it, and remembers in which pieces."""

    def __init__(self, *, at_once: bool = True, full_after: int | None = None, failing: int | None = None) -> None:
        self.pieces: list[int] = []
        self.waiting: list[Callable[[], None]] = []
        self._at_once = at_once
        self._full_after = full_after
        self._failing = failing
        self._position = 0

    def submit(self, entries: Sequence[Prepared | Rejected]) -> Future[list[Outcome]]:
        if self._full_after is not None and len(self.pieces) >= self._full_after:
            raise StoreUnavailable("full")
        number = len(self.pieces)
        self.pieces.append(len(entries))
        future: Future[list[Outcome]] = Future()

        def write() -> None:
            if number == self._failing:
                future.set_exception(StoreUnavailable("the disk is full"))
            else:
                future.set_result([self._outcome(entry) for entry in entries])

        if self._at_once:
            write()
        else:
            self.waiting.append(write)
        return future

    def _outcome(self, entry: Prepared | Rejected) -> Outcome:
        if isinstance(entry, Rejected):
            return Outcome(OutcomeKind.QUARANTINED, None, None, 1, entry.reason)
        self._position += 1
        return Outcome(OutcomeKind.APPENDED, entry.event_id, self._position)


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


def test_reading_stops_while_the_pieces_under_way_are_not_written() -> None:
    log = Log(at_once=False)
    read = 0

    def lines() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        for number in range(1, 20 * CHUNK_LINES + 1):
            read = number
            # The log falls behind as far as it may: its oldest piece is written only when everyone waits for it.
            if number % CHUNK_LINES == 0 and len(log.waiting) == CHUNKS_UNDER_WAY - 1:
                pending.append(log.waiting.pop(0))
            yield number, use(number)
            while pending:
                pending.pop()()

    pending: list[Callable[[], None]] = []
    found = ingest_lines(lines(), Route(), my_site, log.submit)
    seen = 0
    for answer in found:
        seen += 1
        assert answer.line == seen
        assert read - seen < CHUNKS_UNDER_WAY * CHUNK_LINES
        if read == 20 * CHUNK_LINES:
            for write in log.waiting:
                write()
            log.waiting.clear()
    assert seen == 20 * CHUNK_LINES


def test_when_the_log_takes_no_more_what_it_took_before_is_still_answered() -> None:
    lines = enumerate((use(number) for number in range(10 * CHUNK_LINES)), 1)
    told = []
    found = ingest_lines(lines, Route(), my_site, Log(full_after=2).submit)
    with pytest.raises(StoreUnavailable, match="full"):
        for answer in found:
            told.append(answer)  # noqa: PERF402 - those before the error count
    assert [each.line for each in told] == list(range(1, 2 * CHUNK_LINES + 1))
    assert {each.outcome for each in told} == {"appended"}


def test_when_a_piece_could_not_be_written_no_line_of_it_and_none_behind_it_is_answered() -> None:
    lines = enumerate((use(number) for number in range(10 * CHUNK_LINES)), 1)
    told = []
    found = ingest_lines(lines, Route(), my_site, Log(failing=1).submit)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        for answer in found:
            told.append(answer)  # noqa: PERF402 - those before the error count
    assert [each.line for each in told] == list(range(1, CHUNK_LINES + 1))


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
