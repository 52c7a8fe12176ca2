"""What the command line tells of a store, and rebuilding it: status, coupon, usage, rebuild-projections."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.commands import Command, cells
from tests.rows import Stranger
from tests.serving import (
    APPLIED,
    CREATED,
    PATIENCE,
    applied,
    command,
    created,
    environment,
    ndjson,
    wrapped,
)

MADE = ndjson(wrapped(CREATED, created("e-1")))
MADE_OTHERWISE = ndjson(wrapped(CREATED, created("e-1", code="OTHER")))
USED = ndjson(wrapped(APPLIED, applied("e-3", "order")))


# Status


def test_status_shows_the_log_the_guards_and_the_projections(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MADE + MADE_OTHERWISE + USED)
    shown = eventstore("status")
    rows = {row[0]: row[1:] for row in cells(shown)}
    assert rows["events"] == ["2"]
    assert rows["conflicts in quarantine"] == ["1"]
    assert rows["append-only guards"] == ["all in place"]
    assert rows["coupons"] == ["1", "2", "0"]
    told = eventstore.json("status")
    assert told["missing_guards"] == []
    assert told["url"] == str(make_url(eventstore.url))
    assert told["last_recorded_at"].endswith("Z")
    assert {each["name"]: (each["rows"], each["position"], each["lag"]) for each in told["projections"]} == {
        "coupons": (1, 2, 0),
        "redemptions": (1, 2, 0),
        "coupon_usage": (1, 2, 0),
        "loyalty_coupons": (0, 2, 0),
    }


def test_a_guard_that_was_taken_away_shows_and_fails(eventstore: Command) -> None:
    with Stranger(eventstore.url) as stranger:
        stranger.drop_guard("quarantine", "quarantine_no_rewrite")
    done = eventstore.run("status")
    assert done.returncode == 1
    assert "MISSING: quarantine_no_rewrite" in done.stdout
    assert "guards are missing" in done.stderr
    told = eventstore.run("status", "--json")
    assert json.loads(told.stdout)["missing_guards"] == ["quarantine_no_rewrite"]
    assert told.returncode == 1


# Coupons


def test_an_event_is_not_found_by_a_number_of_any_length(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MADE)
    for digits in ("2", "9" * 19, "9" * 20, "9" * 5_000):
        assert "no event" in eventstore.refused("event", digits, status=3)


def test_a_coupon_is_found_by_its_id_and_by_its_code_in_any_case(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MADE + USED)
    by_id = eventstore.json("coupon", "c-1")
    assert (by_id["coupon_id"], by_id["code"], by_id["usage"]["times_used"]) == ("c-1", "SPRING", 1)
    assert [each["event"]["event_id"] for each in by_id["history"]] == ["e-1", "e-3"]
    for code in ("SPRING", "spring", "SprinG"):
        assert eventstore.json("coupon", code) == by_id
    assert eventstore.json("coupon", "c-1", "--no-history")["history"] == []
    shown = eventstore("coupon", "c-1")
    assert shown.startswith("Coupon SPRING")
    assert ["times used", "1"] in cells(shown)
    assert "coupon.applied" in shown
    assert "coupon.applied" not in eventstore("coupon", "c-1", "--no-history")
    [row] = eventstore.json("usage")
    assert (row["coupon_id"], row["times_used"]) == ("c-1", 1)
    assert any(row[:3] == ["SPRING", "c-1", "1"] for row in cells(eventstore("usage")))
    assert eventstore.json("usage", "--site", "elsewhere") == []
    assert "no coupon has the id or code" in eventstore.refused("coupon", "unheard", status=3)
    eventstore.refused("coupon", "c-1", "--site", "elsewhere", status=3)


def test_a_code_or_id_that_means_several_coupons_asks_which(eventstore: Command) -> None:
    lines = [wrapped(CREATED, created("e-1", "c-1")), wrapped(CREATED, created("e-2", "c-2", code="spring"))]
    eventstore("ingest", "-", given=ndjson(*lines, wrapped(CREATED, created("e-3", "c-3", code="X"), site="other")))
    told = eventstore.refused("coupon", "SPRING", status=1)
    assert "c-1" in told
    assert "c-2" in told
    assert eventstore.json("coupon", "c-2")["code"] == "spring"
    eventstore("ingest", "-", given=ndjson(wrapped(CREATED, created("e-4", "c-1"), site="other")))
    assert "say which site" in eventstore.refused("coupon", "c-1", status=1)
    assert eventstore.json("coupon", "c-1", "--site", "other")["site_id"] == "other"


def test_a_name_with_markup_and_escape_sequences_is_shown_as_text(eventstore: Command) -> None:
    name = "[red]Sale[/red] [link=http://x]"
    eventstore("ingest", "-", given=ndjson(wrapped(CREATED, created("e-1", name=name))))
    assert name in eventstore("coupon", "c-1")


def test_a_name_cannot_command_the_terminal(eventstore: Command) -> None:
    eventstore("ingest", "-", given=ndjson(wrapped(CREATED, created("e-1", name="a\x1b[2Jb\x07", code="\x1b[31m"))))
    for arguments in (["coupon", "c-1"], ["usage"], ["report", "usage-per-coupon"]):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", eventstore(*arguments))


# Rebuilding


def test_projections_are_rebuilt_all_or_by_name_and_stay_the_same(eventstore: Command) -> None:
    lines = [wrapped(APPLIED, applied(f"e-{number}", f"o-{number}", f"c-{number % 3}")) for number in range(30)]
    eventstore("ingest", "-", given=ndjson(*lines))
    before = eventstore.json("usage")
    assert [each["times_used"] for each in before] == [10, 10, 10]
    told = eventstore.json("rebuild-projections")
    assert told["position"] == 30
    assert told["rows"] == {"coupons": 3, "redemptions": 30, "coupon_usage": 3, "loyalty_coupons": 0}
    assert told["seconds"] > 0
    shown = eventstore("rebuild-projections", "coupons")
    assert shown.startswith("Rebuilt from 30 events in ")
    assert ["coupons", "3"] in cells(shown)
    assert eventstore.json("usage") == before
    told = eventstore.refused("rebuild-projections", "cupons", status=3)
    assert "coupon_usage" in told


def test_a_rebuild_puts_right_what_was_written_into_a_projection_by_hand(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MADE + USED)
    before = eventstore.json("coupon", "c-1")
    eventstore.change("UPDATE coupons SET code = 'FORGED'", "UPDATE coupon_usage SET times_used = 99")
    assert eventstore.json("coupon", "c-1") != before
    eventstore("rebuild-projections")
    assert eventstore.json("coupon", "c-1") == before


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("columns", "as_rows"), [("200", False), ("60", True)])
def test_on_a_terminal_too_narrow_for_a_table_each_row_stands_by_itself(
    eventstore: Command, folder: Path, columns: str, as_rows: bool
) -> None:
    eventstore("ingest", "-", given=MADE + USED)
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb", buffering=0)) as terminal:
        done = subprocess.run(
            command("--store", eventstore.url, "coupons"),
            cwd=folder,
            env=environment(TERM="dumb", COLUMNS=columns),
            stdout=theirs,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        shown = terminal.read(65_536).decode()
        os.close(theirs)
    assert ("row 1" in shown) is as_rows
    # Nothing of it is broken in its midst.
    assert {"c-1", "SPRING"} <= {word for line in shown.splitlines() for word in line.split()}
