"""`eventstore ingest`: files of deliveries, whole ones and faulty ones."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from tests.commands import Command, cells
from tests.serving import (
    APPLIED,
    CREATED,
    INDEX,
    SITE,
    applied,
    created,
    fixture,
    ndjson,
    wrapped,
)

MIXED = [
    ndjson(wrapped(CREATED, created("e-1"))),
    b"\n",
    ndjson(wrapped(CREATED, created("e-1"))),
    ndjson(wrapped(CREATED, created("e-1", code="OTHER"))),
    b"{nope\n",
    ndjson(wrapped(CREATED, {"metadata": {}})),
    ndjson(wrapped("onNothing", created("e-2"))),
    b"\xff\xfe\n",
    ndjson(wrapped(APPLIED, applied("e-3", "order"))).rstrip(b"\n"),
]


def test_a_file_with_every_kind_of_line_is_taken_line_by_line(eventstore: Command) -> None:
    name = eventstore.file("mixed.ndjson", b"".join(MIXED))
    told = eventstore.json("ingest", name, status=1)
    assert told["lines"] == 8
    assert told["events"] == {"appended": 2, "duplicate": 1, "conflict": 1, "quarantined": 1, "refused": 3}
    assert told["head"] == 2
    problems = [(each["file"], each["line"], each["outcome"]) for each in told["problems"]]
    assert problems == [
        (name, 4, "conflict"),
        (name, 5, "refused"),
        (name, 6, "quarantined"),
        (name, 7, "refused"),
        (name, 8, "refused"),
    ]
    assert all(each["reason"] for each in told["problems"])
    # Once more: nothing is appended, and what was wrong is wrong again.
    again = eventstore.run("ingest", name)
    assert again.returncode == 1
    counts = {row[0]: row[1] for row in cells(again.stdout) if len(row) == 2}
    assert {kind: counts[kind] for kind in told["events"]} == {
        "appended": "0",
        "duplicate": "3",
        "conflict": "1",
        "quarantined": "1",
        "refused": "3",
    }
    assert f"{name}:5: refused: " in again.stderr
    status = eventstore.json("status")
    assert (status["events"], status["quarantined"], status["conflicts"]) == (2, 1, 1)


def test_a_file_without_fault_ends_with_0_and_again_with_nothing_new(eventstore: Command) -> None:
    name = eventstore.file("good.ndjson", MIXED[0] + MIXED[-1])
    assert eventstore.json("ingest", name)["events"] == {"appended": 2}
    assert eventstore.json("ingest", name) == {"lines": 2, "events": {"duplicate": 2}, "head": 2, "problems": []}


def test_a_conflict_is_kept_and_shown_and_is_no_failure(eventstore: Command) -> None:
    done = eventstore.run("ingest", eventstore.file("conflict.ndjson", MIXED[0] + MIXED[3]))
    assert done.returncode == 0
    assert "conflict.ndjson:2: conflict: event id e-1" in done.stderr


def test_of_a_run_that_an_unreadable_file_ends_the_refused_lines_and_what_was_appended_are_told_all_the_same(
    eventstore: Command,
) -> None:
    faulty = eventstore.file("faulty.ndjson", ndjson(wrapped(CREATED, created("e-1"))) + b"nope\n")
    broken = eventstore.file("broken.gz", gzip.compress(ndjson(wrapped(APPLIED, applied("e-2", "order"))))[:40])
    done = eventstore.run("ingest", faulty, broken, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    refused, error = done.stderr.splitlines()
    assert refused.startswith(f"{faulty}:2: refused: ")
    assert error.startswith(f"error: {broken} cannot be decompressed")
    assert eventstore.json("coupon", "c-1")["coupon_id"] == "c-1"


def test_standard_input_and_several_files_are_taken(eventstore: Command) -> None:
    assert eventstore.json("ingest", "-", given=MIXED[0])["events"] == {"appended": 1}
    first = eventstore.file("first.ndjson", MIXED[0])
    second = eventstore.file("second.ndjson", MIXED[-1])
    assert eventstore.json("ingest", first, second)["events"] == {"duplicate": 1, "appended": 1}
    assert eventstore.json("ingest", "-", given=b"")["lines"] == 0


def test_each_documented_delivery_is_taken_as_the_indented_file_it_is(eventstore: Command) -> None:
    outcomes: dict[str, int] = {}
    for delivery in INDEX["deliveries"]:
        if delivery["file"] not in (
            "velo_coupon_created.json",
            "rest_coupon_created.json",
            "sdk_loyalty_coupon_created.json",
        ):
            continue
        name = eventstore.file(delivery["file"], fixture(delivery["file"]))
        options = ["--handler", delivery["handler"]] if delivery["route"] == "velo" else []
        told = eventstore.json("ingest", name, "--route", delivery["route"], "--site", SITE, *options)
        for kind, count in told["events"].items():
            outcomes[kind] = outcomes.get(kind, 0) + count
        assert told["lines"] == 1
    assert outcomes == {"appended": 3}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_an_indented_list_is_taken_an_item_at_a_time(eventstore: Command, mark: bytes) -> None:
    items = [wrapped(CREATED, created("e-1")), 5, wrapped(APPLIED, applied("e-2", "order"))]
    name = eventstore.file("list.json", mark + json.dumps(items, indent=2).encode())
    told = eventstore.json("ingest", name, status=1)
    assert told["events"] == {"appended": 2, "refused": 1}
    assert [each["line"] for each in told["problems"]] == [2]


def test_an_indented_file_that_is_cut_short_is_refused(eventstore: Command) -> None:
    whole = json.dumps([wrapped(CREATED, created("e-1"))], indent=2).encode()
    name = eventstore.file("cut.json", whole[:-10])
    assert "cut.json is not JSON" in eventstore.refused("ingest", name, status=1)
    name = eventstore.file("cut-object.json", json.dumps(created("e-1"), indent=2).encode()[:-10])
    assert eventstore.json("ingest", name, status=1)["events"] == {"refused": 1}


def test_a_snapshot_imported_twice_gives_duplicates_and_at_another_time_new_observations(eventstore: Command) -> None:
    name = eventstore.file("page.json", fixture("snapshot_query_coupons.json"))
    os.utime(name, (1_700_000_000, 1_700_000_000))
    assert eventstore.json("ingest", name, "--site", SITE)["events"] == {"appended": 2}
    assert eventstore.json("ingest", name, "--site", SITE)["events"] == {"duplicate": 2}
    told = eventstore.json("ingest", name, "--site", SITE, "--observed-at", "2026-09-01")
    assert told == {"lines": 1, "events": {"appended": 2}, "head": 4, "problems": []}
    state = eventstore.json("coupon", "B2G1")
    assert (state["first_event_time"], state["last_event_time"]) == ("2023-11-14T22:13:20Z", "2026-09-01T00:00:00Z")
    assert state["usage"]["reported_usages"] == 41


def test_wrong_ways_to_call_ingest_are_refused(eventstore: Command) -> None:
    assert CREATED in eventstore.refused("ingest", "-", "--handler", "onNothing", status=1)
    for arguments, told in (
        (["ingest"], "FILE…"),
        (["ingest", "none.ndjson"], "does not exist"),
        (["ingest", "."], "is a directory"),
        (["ingest", "-", "--route", "pigeon"], "velo"),
        (["ingest", "-", "--observed-at", "soon"], "--observed-at"),
    ):
        done = eventstore.run(*arguments)
        assert done.returncode == 2
        assert told in done.stderr
