"""A page of coupons is taken a coupon at a time: one that cannot be read keeps no other from the log."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore.errors import UnreadableDelivery
from eventstore.ingest import CHUNK_LINES, Route, ingest_lines, read_delivery
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected
from eventstore.wix.snapshot import read_parts

TAKEN = datetime(2026, 9, 1, tzinfo=UTC)


def coupon(number: int, **specification: Any) -> dict[str, Any]:
    return {"id": f"c-{number}", "specification": {"code": f"CODE{number}", "percentOffRate": 10, **specification}}


def entries(page: Any, **how: Any) -> list[Prepared | Rejected]:
    return read_delivery(json.dumps(page).encode(), Route(observed_at=TAKEN, **how), lambda named: named or "mine")


def body(entry: Prepared | Rejected) -> Any:
    """The delivery that is kept of an entry."""
    if isinstance(entry, Rejected):
        return json.loads(entry.body)
    assert entry.original is not None
    return json.loads(zlib.decompress(entry.original))


BAD = coupon(3, startTime="soon")
PAGE: dict[str, Any] = {"coupons": [coupon(0), "none", coupon(2), BAD, {"code": "NOID"}, coupon(5)], "totalResults": 6}


def test_an_unreadable_coupon_is_quarantined_alone_in_the_order_of_the_page() -> None:
    found = entries(PAGE)
    assert [type(each) for each in found] == [Prepared, Rejected, Prepared, Rejected, Rejected, Prepared]
    assert [each.coupon_id for each in found if isinstance(each, Prepared)] == ["c-0", "c-2", "c-5"]
    reasons = [each.reason.partition(": ")[0] for each in found if isinstance(each, Rejected)]
    assert reasons == ["coupons[1]", "coupons[3].specification.startTime", "coupons[4].id"]
    assert {each.route for each in found if isinstance(each, Rejected)} == {"snapshot"}


def test_each_coupon_of_several_is_kept_with_its_own_part_of_the_page() -> None:
    assert [body(entry) for entry in entries(PAGE)] == [{"coupons": [part]} for part in PAGE["coupons"]]


def test_the_kept_part_of_a_page_is_refused_or_taken_as_it_was_in_the_page() -> None:
    for entry in entries(PAGE):
        [again] = entries(body(entry))
        assert type(again) is type(entry)
        if isinstance(entry, Prepared) and isinstance(again, Prepared):
            assert again.payload == entry.payload


@pytest.mark.parametrize("part", [coupon(1), BAD], ids=["readable", "unreadable"])
@pytest.mark.parametrize("name", ["coupons", "coupon"])
def test_a_page_of_one_is_kept_with_its_exact_bytes(name: str, part: dict[str, Any]) -> None:
    page = {name: [part] if name == "coupons" else part, "totalResults": 1}
    [entry] = entries(page)
    assert isinstance(entry, Rejected if part is BAD else Prepared)
    assert body(entry) == page


@pytest.mark.parametrize("coupons", [None, {}, "c-1", 5])
def test_a_page_whose_coupons_are_no_list_is_one_entry(coupons: Any) -> None:
    page = {"coupons": coupons, "totalResults": 2}
    [entry] = entries(page)
    assert isinstance(entry, Rejected)
    assert entry.reason.startswith("coupons: ")
    assert body(entry) == page


def test_an_empty_page_has_no_entries() -> None:
    assert entries({"coupons": [], "pagingMetadata": {"count": 0}}) == []


def test_a_wrapper_names_the_site_and_the_time_of_readable_and_unreadable_coupons_alike() -> None:
    line = {"route": "snapshot", "site": "theirs", "observed_at": "2026-08-01T00:00:00Z", "body": PAGE}
    found = entries(line)
    assert {each.site_id for each in found} == {"theirs"}
    assert {each.event_time for each in found if isinstance(each, Prepared)} == {1_785_542_400_000_000}


def test_parts_are_read_without_raising_and_a_page_that_is_none_raises() -> None:
    parts = read_parts(PAGE, site_id="mine", observed_at=TAKEN)
    assert [part.coupon for part in parts] == PAGE["coupons"]
    assert [isinstance(part.read, UnreadableDelivery) for part in parts] == [False, True, False, True, True, False]
    with pytest.raises(UnreadableDelivery, match="not a page of coupons"):
        read_parts({"items": []}, site_id="mine", observed_at=TAKEN)


def test_the_answer_to_a_page_with_an_unreadable_coupon_is_mixed_with_an_outcome_a_coupon() -> None:
    def submit(given: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = Future()
        kinds = [OutcomeKind.QUARANTINED if isinstance(each, Rejected) else OutcomeKind.APPENDED for each in given]
        future.set_result([Outcome(kind, None, None) for kind in kinds])
        return future

    [answer] = ingest_lines([(1, json.dumps(PAGE).encode())], Route(), lambda _: "mine", submit)
    assert answer.outcome == "mixed"
    told = [each.kind.value for each in answer.outcomes]
    assert told == ["appended", "quarantined", "appended", "quarantined", "quarantined", "appended"]


def test_pages_go_to_the_log_in_pieces_of_a_bounded_number_of_coupons() -> None:
    pieces = []

    def submit(given: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        pieces.append(len(given))
        future: Future[list[Outcome]] = Future()
        future.set_result([Outcome(OutcomeKind.APPENDED, None, None)] * len(given))
        return future

    def pages() -> Iterator[tuple[int, bytes]]:
        for page in range(12):
            coupons = [coupon(100 * page + number) for number in range(100)]
            yield page + 1, json.dumps({"coupons": coupons}).encode()

    told = list(ingest_lines(pages(), Route(), lambda _: "mine", submit))
    assert pieces == [CHUNK_LINES, CHUNK_LINES, 200]
    assert [len(each.outcomes) for each in told] == [100] * 12
