"""`eventstore import-coupons`: the files that it takes, what it prints, and with which status it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from eventstore.store import EventStore
from tests.commands import Command, Done
from tests.pages import gone, page, spring, tell
from tests.serving import CREATED, created, fixture, ndjson, wrapped


def imports(eventstore: Command, *arguments: str, given: bytes = b"") -> Done:
    return eventstore.run("import-coupons", *arguments, given=given)


def told_by(eventstore: Command, *arguments: str, given: bytes = b"") -> Any:
    return eventstore.json("import-coupons", *arguments, given=given)


def head(eventstore: Command) -> int:
    with EventStore.open(eventstore.url) as store:
        return store.head()


def test_a_file_is_imported_at_its_own_date_so_that_a_second_run_finds_duplicates(eventstore: Command) -> None:
    os.utime(eventstore.file("page.json", fixture("snapshot_query_coupons.json")), (1_700_000_000, 1_700_000_000))
    shown = imports(eventstore, "page.json")
    assert (shown.returncode, shown.stderr) == (0, "")
    for said in ("1 lines read, the log now holds 2 events", "used 41 times by Wix's count", "(+41)"):
        assert said in shown.stdout
    again = told_by(eventstore, "page.json", "--complete")
    assert (again["events"], again["counts"], again["head"]) == ({"duplicate": 2}, {"drifted": 1}, 2)
    assert (again["dry_run"], again["absent_known"], again["agreeing"]) == (False, True, 1)
    later = told_by(eventstore, "page.json", "--observed-at", "2026-09-01", "--site", "elsewhere", "--dry-run")
    assert (later["events"], later["counts"]) == ({"appended": 2}, {"missing": 2, "drifted": 1})
    assert {each["site_id"] for each in later["differences"]} == {"elsewhere"}
    assert head(eventstore) == 2


COUPONS = [spring("c-1"), {"_id": "c-2", "code": "FLAT", "type": "PercentOff", "percentOffRate": 5}]
SHAPES = {
    "a page": json.dumps(page(*COUPONS, totalResults=2)).encode(),
    "a page with paging metadata": json.dumps(page(*COUPONS, pagingMetadata={"count": 2}, metadata={"a": 1})).encode(),
    "an indented page": json.dumps(page(*COUPONS), indent=2).encode(),
    "a list of pages": json.dumps([page(each) for each in COUPONS], indent=2).encode(),
    "a list of coupons": json.dumps(COUPONS).encode(),
    "a page a line": ndjson(*[page(each) for each in COUPONS], page()),
    "a coupon a line": b"\xef\xbb\xbf" + ndjson(*COUPONS),
    "a wrapped coupon a line": ndjson(*[{"coupon": each, "metadata": {}} for each in COUPONS]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_coupons_are_taken_in_every_shape_that_a_file_of_them_has(eventstore: Command, shape: str) -> None:
    told = told_by(eventstore, "-", given=SHAPES[shape])
    assert (told["events"], told["problems"]) == ({"appended": 2}, [])
    assert [(each["kind"], each["code"]) for each in told["differences"]] == [
        ("missing", "SPRING"),
        ("missing", "FLAT"),
    ]


def test_an_empty_page_is_fine(eventstore: Command) -> None:
    told = told_by(eventstore, "-", given=b'{"coupons": []}')
    assert (told["lines"], told["events"], told["differences"]) == (1, {}, [])


def test_what_is_no_page_is_refused_with_its_file_its_line_and_what_is_expected(eventstore: Command) -> None:
    eventstore.file("notes.txt", b'Dear reader,\n\n{"some": "thing"}\n')
    eventstore.file("events.ndjson", ndjson(wrapped(CREATED, created("e-1")), created("e-2")))
    done = imports(eventstore, "notes.txt", "events.ndjson")
    assert done.returncode == 1
    told = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        "notes.txt:1",
        "notes.txt:3",
        "events.ndjson:1",
        "events.ndjson:2",
    ]
    for line in told:
        assert ": refused: " in line
        assert '{"coupons": […]}' in line
    assert head(eventstore) == 0


def test_an_unreadable_coupon_is_shown_with_its_place_and_fails_the_command_but_not_its_page(
    eventstore: Command,
) -> None:
    pages = page(spring("c-1"), spring("c-2", active="perhaps"), spring("c-3"))
    eventstore.file("page.json", json.dumps(pages).encode())
    done = imports(eventstore, "page.json", "--complete")
    assert done.returncode == 1
    assert "page.json:1: quarantined: coupons[1].specification.active: " in done.stderr
    assert head(eventstore) == 2
    done = imports(eventstore, "-", "--complete", given=b'{"coupons": ["none"]}')
    assert "absent coupons are not shown" in done.stderr


def test_people_see_the_first_fifty_differences_and_programs_all(eventstore: Command) -> None:
    given = json.dumps(page(*[spring(f"c-{number:03}") for number in range(60)])).encode()
    shown = imports(eventstore, "-", "--dry-run", given=given)
    assert "c-049" in shown.stdout
    assert "c-050" not in shown.stdout
    assert "… and 10 more; --json lists them all" in shown.stdout
    assert len(told_by(eventstore, "-", "--dry-run", given=given)["differences"]) == 60


def test_every_kind_of_difference_is_told_in_words(eventstore: Command) -> None:
    with EventStore.open(eventstore.url) as store:
        tell(store, wrapped(CREATED, created("e-1")), gone("e-2"), wrapped(CREATED, created("e-3", "c-3")))
    done = imports(
        eventstore, "-", "--complete", given=json.dumps(page(spring(name="Back", uses=2), spring("c-2"))).encode()
    )
    for said in (
        "deleted here, but at Wix; name: – → Back",
        "0 uses in the log, 2 by Wix's count (+2)",
        "made –, used 0 times by Wix's count",
        "last heard of 2025-03-01 08:00",
    ):
        assert said in done.stdout


def test_a_dry_run_makes_no_store(folder: Path) -> None:
    told = Command("new.db").refused("import-coupons", "-", "--dry-run", given=b'{"coupons": []}', status=1)
    assert "`eventstore init` makes one" in told
    assert list(folder.iterdir()) == []


def test_what_was_compared_is_told_though_a_later_file_cannot_be_read(eventstore: Command) -> None:
    eventstore.file("good.json", json.dumps(page(spring())).encode())
    eventstore.file("cut.json", b"[\n" + json.dumps(page(spring("c-2"))).encode())
    done = imports(eventstore, "good.json", "cut.json", "--complete", "--json")
    assert done.returncode == 1
    assert "cut.json is not JSON" in done.stderr
    told = json.loads(done.stdout)
    assert (told["counts"], told["absent_known"], told["head"]) == ({"missing": 1}, False, 1)
