"""Batches over HTTP: a line an answer, whatever the others are."""

from __future__ import annotations

import json

import httpx
import pytest

from eventstore.ingest import CHUNK_LINES
from tests.serving import (
    APPLIED,
    CREATED,
    DELETED,
    NewServer,
    Serving,
    answers,
    applied,
    created,
    fixture,
    head,
    kept_body,
    ndjson,
    only,
    settled,
    wrapped,
)


def test_each_line_is_answered_in_order_and_a_wrong_one_is_refused_alone(client: httpx.Client, server: Serving) -> None:
    sound = ndjson(wrapped(CREATED, created("mixed-1", "mixed")))
    lines = [
        sound,
        b"{nope\n",
        b"\n",
        b"   \r\n",
        ndjson(wrapped(APPLIED, applied("mixed-2", "order", "mixed"))).replace(b"\n", b"\r\n"),
        b"[]\n",
        ndjson(wrapped("wixMarketing_onNothing", created("mixed-3"))),
        sound,
        ndjson(wrapped(CREATED, created("mixed-1", "mixed", code="OTHER"))),
        ndjson({"route": "velo", "handler": CREATED, "body": {"metadata": {}}}),
        ndjson({"route": "pigeon", "body": {}}),
        ndjson({"coupons": []}),
        ndjson(wrapped(DELETED, {"metadata": created("mixed-4", "mixed")["metadata"]})).rstrip(b"\n"),
    ]
    told = answers(client.post("/v1/events", content=b"".join(lines)))
    assert [(each["line"], each["outcome"]) for each in told] == [
        (1, "appended"),
        (2, "refused"),
        (5, "appended"),
        (6, "refused"),
        (7, "refused"),
        (8, "duplicate"),
        (9, "conflict"),
        (10, "quarantined"),
        (11, "refused"),
        (12, "empty"),
        (13, "appended"),
    ]
    by_line = {each["line"]: each for each in told}
    assert by_line[8]["position"] == by_line[1]["position"]
    assert [by_line[line]["problem"]["status"] for line in (2, 6, 7, 11)] == [400, 400, 404, 400]
    assert CREATED in by_line[7]["problem"]["known_handlers"]
    assert "pigeon" in by_line[11]["problem"]["detail"]
    assert kept_body(server, by_line[9]["quarantine_id"]) == ("conflict", lines[8].rstrip(b"\n"))
    assert kept_body(server, by_line[10]["quarantine_id"]) == ("quarantined", lines[9].rstrip(b"\n"))
    state = settled(client, by_line[13]["position"], "/v1/coupons/mixed")
    assert (state["deleted"], state["usage"]["times_used"]) == (True, 1)


def test_an_empty_batch_has_no_answers(client: httpx.Client) -> None:
    assert answers(client.post("/v1/events", content=b"")) == []
    assert answers(client.post("/v1/events", content=b"\n\r\n  \n")) == []


def test_lines_without_a_wrapper_take_their_route_and_handler_from_the_address(client: httpx.Client) -> None:
    parameters = {"route": "velo", "handler": APPLIED}
    lines = ndjson(applied("bare-1", "order", "bare"), wrapped(CREATED, created("bare-2", "bare")))
    told = answers(client.post("/v1/events", params=parameters, content=lines))
    assert [each["outcome"] for each in told] == ["appended", "appended"]
    found = settled(client, told[-1]["position"], "/v1/coupons/bare/history")["events"]
    assert [each["event"]["type"] for each in found] == ["coupon.applied", "coupon.created"]


def test_a_velo_line_that_says_no_handler_is_quarantined_unless_it_can_only_be_a_use(client: httpx.Client) -> None:
    told = answers(client.post("/v1/events", content=ndjson(created("told-1"), applied("told-2", "order", "told"))))
    assert [each["outcome"] for each in told] == ["quarantined", "appended"]
    assert CREATED in told[0]["reason"]


def test_a_line_over_the_limit_is_refused_alone_and_the_next_ones_are_appended(new_server: NewServer) -> None:
    limit = 2_000
    with new_server(EVENTSTORE_MAX_BODY_BYTES=str(limit)) as server, server.client() as client:

        def line_of(size: int, event_id: str) -> bytes:
            bare = ndjson(wrapped(CREATED, created(event_id))).rstrip(b"\n")
            return bare + b" " * (size - len(bare))

        lines = [
            line_of(limit, "fits") + b"\n",
            line_of(limit, "fits-too") + b"\r\n",
            line_of(limit + 1, "one-over") + b"\n",
            line_of(limit + 2, "two-over") + b"\r\n",
            line_of(limit + 3, "three-over") + b"\n",
            line_of(5_000_000, "far-over") + b"\n",
            line_of(limit, "carriage returns") + b"\r" * 5_000 + b"\n",
            line_of(400, "small") + b"\n",
            b"x" * 10_000,
        ]
        told = answers(client.post("/v1/events", content=b"".join(lines)))
        assert [each["line"] for each in told] == list(range(1, len(lines) + 1))
        refused = [each["line"] for each in told if each["outcome"] == "refused"]
        assert refused == [3, 4, 5, 6, 7, 9]
        assert {each["problem"]["status"] for each in told if each["outcome"] == "refused"} == {413}
        assert [each["event_id"] for each in told if each["outcome"] == "appended"] == ["fits", "fits-too", "small"]


def test_a_batch_of_many_pieces_is_answered_whole_and_counted(new_server: NewServer) -> None:
    total, coupons = 12 * CHUNK_LINES, 50
    lines = [
        wrapped(APPLIED, applied(f"use-{number}", f"order-{number}", f"c-{number % coupons:02}"))
        for number in range(total)
    ]
    with new_server() as server, server.client() as client:
        body = ndjson(*lines)
        told = answers(client.post("/v1/events", content=body))
        assert [(each["line"], each["outcome"], each["position"]) for each in told] == [
            (number, "appended", number) for number in range(1, total + 1)
        ]
        again = answers(client.post("/v1/events", content=body))
        assert {each["outcome"] for each in again} == {"duplicate"}
        assert [each["position"] for each in again] == list(range(1, total + 1))
        assert head(client) == total
        usage = settled(client, total, "/v1/usage")["usage"]
        assert [each["times_used"] for each in usage] == [total // coupons] * coupons


def test_a_page_of_coupons_on_one_line_is_answered_an_event_each(client: httpx.Client, server: Serving) -> None:
    taken = "2025-05-03T10:00:00Z"
    page = json.loads(fixture("snapshot_query_coupons.json"))
    line = {"route": "snapshot", "site": "pages", "observed_at": taken, "body": page}
    first, again = (only(answers(client.post("/v1/events", content=ndjson(line)))) for _ in range(2))
    assert (first["outcome"], again["outcome"]) == ("appended", "duplicate")
    assert [each["position"] for each in first["events"]] == [each["position"] for each in again["events"]]
    assert [each["event_id"] for each in first["events"]] == [each["event_id"] for each in again["events"]]
    assert len({each["event_id"] for each in first["events"]}) == 2
    # Each coupon's event keeps its own part of the page, which can be read alone.
    for event, coupon in zip(first["events"], page["coupons"], strict=True):
        assert json.loads(server.original(event["position"])) == {"coupons": [coupon]}
    # One coupon more on the page: the others are known.
    page["coupons"].append({**page["coupons"][0], "id": "0d0d0d0d-0000-4000-8000-000000000005"})
    mixed = only(answers(client.post("/v1/events", content=ndjson(line))))
    assert mixed["outcome"] == "mixed"
    assert [each["outcome"] for each in mixed["events"]] == ["duplicate", "duplicate", "appended"]


@pytest.mark.parametrize("taken", ["yesterday", "2025-05-03T10:00:00", "2025-02-30T00:00:00Z"])
def test_a_wrapper_with_a_time_that_is_none_is_refused(client: httpx.Client, taken: str) -> None:
    line = {"route": "snapshot", "observed_at": taken, "body": {"coupons": []}}
    told = only(answers(client.post("/v1/events", content=ndjson(line))))
    assert (told["outcome"], told["problem"]["status"]) == ("refused", 400)


@pytest.mark.parametrize("site", ["", "x" * 201, "a\nb", 5, ["x"]])
def test_a_wrapper_with_a_site_that_is_none_is_refused(client: httpx.Client, site: object) -> None:
    told = only(answers(client.post("/v1/events", content=ndjson(wrapped(CREATED, created("no-site"), site=site)))))
    assert (told["outcome"], told["problem"]["status"]) == ("refused", 400)
    assert "site" in told["problem"]["detail"]


def test_an_event_repeated_within_one_batch_is_appended_once_wherever_it_stands(client: httpx.Client) -> None:
    line = wrapped(CREATED, created("again", "again"))
    others = [wrapped(CREATED, created(f"again-{number}", "again")) for number in range(2 * CHUNK_LINES)]
    told = answers(client.post("/v1/events", content=ndjson(line, line, *others, line)))
    assert [told[0]["outcome"], told[1]["outcome"], told[-1]["outcome"]] == ["appended", "duplicate", "duplicate"]
    assert {told[1]["position"], told[-1]["position"]} == {told[0]["position"]}
    assert {each["outcome"] for each in told[2:-1]} == {"appended"}
