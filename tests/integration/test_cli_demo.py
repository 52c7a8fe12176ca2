"""The demonstration, and the reports over what it leaves: a SQLite file in the working directory, as a newcomer has it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import Command, cells, run
from tests.serving import (
    CREATED,
    PATIENCE,
    cli,
    command,
    created,
    environment,
    ndjson,
    wrapped,
)

pytestmark = pytest.mark.usefixtures("folder")
TRAP = "03a35393-7835-44b0-af53-6019a484b48b"


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where `eventstore demo` ran, as a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = cli("demo", "--events", "400", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture
def demo(demo_run: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the demo printed; its folder is the working directory."""
    monkeypatch.chdir(demo_run[0])
    return demo_run[1]


def test_the_demo_fills_a_store_here_and_prints_both_reports(demo_run: tuple[Path, str], demo: str) -> None:
    folder, printed = demo_run
    assert sorted(each.name for each in folder.iterdir()) == ["eventstore.db", "eventstore.db.lake"]
    for told in ("Usage per coupon", "Usage per discount type", "PERCENT_OFF", "SummerSale", "conflict"):
        assert told in printed
    status = json.loads(run("status", "--json").stdout)
    assert status["events"] > 400
    assert status["quarantined"] == 0
    assert {each["lag"] for each in status["projections"]} == {0}


def test_a_second_demo_appends_nothing(demo: str) -> None:
    done = run("demo", "--events", "400")
    assert (done.returncode, done.stderr) == (0, "")
    assert ["appended", "0", "new in the log"] in cells(done.stdout)
    assert done.stdout[done.stdout.index("3. ") :] == demo[demo.index("3. ") :]


def test_the_demo_s_own_suggestions_work(demo: str) -> None:
    suggested = re.findall(r"^  eventstore (.+?)(?: {2,}.*)?$", demo, re.MULTILINE)
    assert len(suggested) >= 5
    for line in suggested:
        if line != "serve":
            done = run(*line.split())
            # FLASH24 is there to show that a code may mean two coupons.
            assert done.returncode == (1 if line == "coupon FLASH24" else 0), done.stderr
    told = json.loads(run("coupon", TRAP, "--json").stdout)
    assert (told["deleted"], told["usage"]["times_used"], told["usage"]["uses_after_deletion"]) == (True, 1, 1)
    assert any("after its deletion" in finding for finding in told["findings"])


def test_the_demo_keeps_out_of_a_store_with_real_events(eventstore: Command) -> None:
    eventstore("ingest", "-", given=ndjson(wrapped(CREATED, created("e-1"))))
    assert "holds real events" in eventstore.refused("demo", "--events", "400", status=1)
    assert eventstore.json("status")["events"] == 1


def test_reports_are_listed_with_what_they_answer(tmp_path: Path) -> None:
    listed = json.loads(run("report", "--list", "--json").stdout)
    assert {"usage-per-coupon", "usage-per-discount-type"} <= {each["name"] for each in listed}
    assert all(each["question"].endswith("?") for each in listed)
    shown = run("report")
    assert shown.returncode == 0
    for each in listed:
        assert each["name"] in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_the_same_in_json_and_csv_and_agrees_with_the_projections(demo: str) -> None:
    rows = json.loads(run("report", "usage-per-coupon", "--json").stdout)
    table = list(csv.DictReader(io.StringIO(run("report", "usage-per-coupon", "--csv").stdout)))
    assert [row["coupon_id"] for row in rows] == [row["coupon_id"] for row in table]
    assert [row["times_used"] for row in rows] == [int(row["times_used"]) for row in table]
    usage = json.loads(run("usage", "--json", "--limit", "10000").stdout)
    assert {row["coupon_id"]: row["times_used"] for row in rows} == {
        row["coupon_id"]: row["times_used"] for row in usage
    }
    by_type = json.loads(run("report", "usage-per-discount-type", "--json").stdout)
    assert sum(row["times_used"] for row in by_type) == sum(row["times_used"] for row in rows)
    none = json.loads(run("report", "usage-per-coupon", "--json", "--site", "elsewhere").stdout)
    assert none == []


def test_a_report_s_table_can_be_cut_short(demo: str) -> None:
    shown = run("report", "usage-per-coupon", "--limit", "2").stdout
    assert re.search(r"… and \d+ more rows", shown)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["unheard"], 1, "usage-per-coupon"),
        (["usage-per-coupon", "-p", "colour=blue"], 1, "since"),
        (["usage-per-coupon", "-p", "since=never"], 1, "since"),
        (["usage-per-coupon", "-p", "since"], 2, "NAME=VALUE"),
        (["usage-per-coupon", "--limit", "0"], 2, "--limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_report_or_parameter_is_refused_with_what_there_is(
    eventstore: Command, arguments: list[str], status: int, told: str
) -> None:
    done = eventstore.run("report", *arguments)
    assert done.returncode == status
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_of_a_pipe_that_has_seen_enough_is_no_error(demo_run: tuple[Path, str]) -> None:
    with subprocess.Popen(
        command("usage", "--json"),
        cwd=demo_run[0],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) in (0, 1)
