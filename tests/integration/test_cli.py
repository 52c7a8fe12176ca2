"""The command line: what each command says, does, and ends with."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy.exc import OperationalError

from eventstore.cli.main import COMMANDS, main
from eventstore.config import Settings
from tests.serving import (
    APPLIED,
    CREATED,
    INDEX,
    PATIENCE,
    SITE,
    applied,
    cli,
    command,
    created,
    environment,
    fixture,
    ndjson,
    wrapped,
)

TRAP = "03a35393-7835-44b0-af53-6019a484b48b"
HELP = {
    (): ["--store URL", "--version", "EVENTSTORE_URL", *COMMANDS],
    ("demo",): ["--seed", "--events"],
    ("init",): ["Safe to repeat"],
    ("serve",): ["--host", "--port", "--site", "EVENTSTORE_PORT"],
    ("ingest",): ["--route", "--handler", "--site", "--observed-at", "--json", "FILE…"],
    ("import-coupons",): ["--site", "--observed-at", "--complete", "--dry-run", "--json", "FILE…"],
    ("rebuild-projections",): ["--json", "[NAME…]"],
    ("status",): ["--json"],
    ("coupon",): ["--site", "--history", "--json", "ID|CODE"],
    ("usage",): ["--site", "--limit", "--json"],
    ("report",): ["--list", "--param", "--site", "--json", "--csv", "--limit"],
    ("event",): ["--site", "--original", "--check-signature", "--json", "ID|POSITION"],
    ("quarantine",): ["list", "show", "retry", "resolve"],
    ("quarantine", "list"): ["--all", "--kind", "--site", "--after", "--limit", "--json"],
    ("quarantine", "show"): ["--body", "--json", "ID"],
    ("quarantine", "retry"): ["--all", "--kind", "--site", "--derived-id", "--json"],
    ("quarantine", "resolve"): ["--note"],
    ("app",): ["add", "list", "rotate", "remove"],
    ("app", "add"): ["--name", "--key-file", "--instance", "--test-instance", "--accept-new-instances", "--json"],
    ("app", "list"): ["--removed", "--json"],
    ("app", "rotate"): ["--name", "--key-file", "--grace"],
    ("app", "remove"): ["--name"],
    ("token",): ["create", "list", "revoke"],
    ("token", "create"): ["--site", "--any-site", "--name", "--scopes", "--json"],
    ("token", "list"): ["--json"],
    ("token", "revoke"): ["TOKEN"],
    ("relay",): ["events.js"],
}


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, given: bytes = b"") -> Done:
    """Call the command line's own entry point in this process, with streams of its own.

    A process for each of the many calls here would mostly test how fast Python starts; `cli` makes one where it matters.
    """
    kept = sys.argv, sys.stdin, sys.stdout, sys.stderr
    streams = [io.TextIOWrapper(io.BytesIO(content), encoding="utf-8") for content in (given, b"", b"")]
    sys.argv = ["eventstore", *arguments]
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        main()
        status: int | str | None = None
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = kept
    out, err = (_written(stream) for stream in streams[1:])
    return Done(status if isinstance(status, int) else 0, out, err)


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


class Command:
    """The CLI on one store, in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent

    def __call__(self, *arguments: str, given: bytes = b"", status: int = 0) -> str:
        """What the command prints; it must end with `status`."""
        done = self.run(*arguments, given=given)
        assert done.returncode == status, done.stderr or done.stdout
        return done.stdout

    def run(self, *arguments: str, given: bytes = b"") -> Done:
        return run("--store", str(self.path), *arguments, given=given)

    def refused(self, *arguments: str, status: int) -> str:
        """The one line in which the command says why it will not."""
        done = self.run(*arguments)
        assert done.returncode == status, done.stderr or done.stdout
        [line] = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    def json(self, *arguments: str, given: bytes = b"", status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", given=given, status=status))

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the commands: empty, and without settings in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVENTSTORE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def eventstore(path: Path) -> Command:
    """The CLI on an empty store."""
    return Command(path)


def cells(table: str) -> list[list[str]]:
    """The rows of a printed table."""
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines() if line.strip()]


# Help


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_names_what_a_command_takes(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in HELP[arguments]:
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_its_help_tested() -> None:
    assert {name for name, *_ in filter(None, HELP)} == COMMANDS.keys()


def test_without_a_command_the_help_is_shown_as_wrong_usage(tmp_path: Path) -> None:
    done = cli(cwd=tmp_path)
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("stats", "status"), ("repot", "report"), ("rebuild", "rebuild-projections")]
)
def test_an_unknown_command_suggests_the_one_that_may_be_meant(typed: str, meant: str) -> None:
    done = run(typed)
    assert done.returncode == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in done.stderr


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"eventstore, version \d+\.\d+\.\d+\n", run("--version").stdout)


# Making a store, and doing without one


def test_a_store_is_made_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    eventstore = Command(tmp_path / "new.db")
    assert eventstore("init").startswith("made ")
    assert eventstore("init").startswith("already there")
    assert eventstore.json("status")["events"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["coupon", "c-1"],
        ["usage"],
        ["rebuild-projections"],
        ["token", "list"],
        ["token", "revoke", "tok_1"],
        ["report", "usage-per-coupon"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_question_to_a_store_that_is_not_there_is_one_line_and_makes_none(
    tmp_path: Path, arguments: list[str]
) -> None:
    assert "`eventstore init` makes one" in Command(tmp_path / "none.db").refused(*arguments, status=1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear reader, " * 100)
    before = letter.read_bytes()
    for name in ("status", "init", "serve"):
        assert "file is not a database" in Command(letter).refused(name, status=1)
    assert letter.read_bytes() == before
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE events (name TEXT)")
    assert "this project did not make" in Command(other).refused("init", status=1)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://host/name", "mysql is not supported"),
        ("sqlite://", "in memory would be lost"),
        ("postgresql://nobody@127.0.0.1:1/name", "cannot be opened"),
        ("nowhere/log.db", "does not exist"),
        ("://", "not a database URL"),
    ],
)
def test_a_store_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path, url: str, why: str) -> None:
    done = run("--store", url, "init")
    assert done.returncode == 1
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_PORT", "http")
    done = run("serve")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the setting port is wrong" in done.stderr
    assert "EVENTSTORE_PORT" in done.stderr
    monkeypatch.delenv("EVENTSTORE_PORT")
    for broken, named in (("port = ", "eventstore.toml cannot be read"), ("prot = 1", "the setting prot is wrong")):
        (tmp_path / "eventstore.toml").write_text(broken)
        done = run("status")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert named in done.stderr


def test_the_store_is_named_by_the_option_then_the_environment_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eventstore.toml").write_text('url = "sqlite:///file.db"')
    run("init")
    monkeypatch.setenv("EVENTSTORE_URL", "sqlite:///environment.db")
    run("init")
    run("--store", "option.db", "init")
    assert {each.name for each in tmp_path.glob("*.db")} == {"file.db", "environment.db", "option.db"}


def test_a_store_that_another_process_keeps_locked_says_try_again(eventstore: Command) -> None:
    with closing(sqlite3.connect(eventstore.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked; try again" in eventstore.refused("token", "create", "--site", "s", status=75)


def test_a_store_whose_tables_were_tampered_with_is_not_told_to_try_again(eventstore: Command) -> None:
    eventstore.change("DROP TABLE api_tokens")
    with pytest.raises(OperationalError, match="no such table"):
        eventstore("token", "list")


# Ingesting


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
    os.utime(eventstore.folder / name, (1_700_000_000, 1_700_000_000))
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


# Status


def test_status_shows_the_log_the_guards_and_the_projections(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MIXED[0] + MIXED[3] + MIXED[-1])
    shown = eventstore("status")
    rows = {row[0]: row[1:] for row in cells(shown)}
    assert rows["events"] == ["2"]
    assert rows["conflicts in quarantine"] == ["1"]
    assert rows["append-only guards"] == ["all in place"]
    assert rows["coupons"] == ["1", "2", "0"]
    told = eventstore.json("status")
    assert told["missing_guards"] == []
    assert told["url"].endswith("log.db")
    assert told["last_recorded_at"].endswith("Z")
    assert {each["name"]: (each["rows"], each["position"], each["lag"]) for each in told["projections"]} == {
        "coupons": (1, 2, 0),
        "redemptions": (1, 2, 0),
        "coupon_usage": (1, 2, 0),
        "loyalty_coupons": (0, 2, 0),
    }


def test_a_guard_that_was_taken_away_shows_and_fails(eventstore: Command) -> None:
    eventstore.change("DROP TRIGGER events_no_delete")
    done = eventstore.run("status")
    assert done.returncode == 1
    assert "MISSING: events_no_delete" in done.stdout
    assert "guards are missing" in done.stderr
    told = eventstore.run("status", "--json")
    assert json.loads(told.stdout)["missing_guards"] == ["events_no_delete"]
    assert told.returncode == 1


# Coupons


def test_a_coupon_is_found_by_its_id_and_by_its_code_in_any_case(eventstore: Command) -> None:
    eventstore("ingest", "-", given=MIXED[0] + MIXED[-1])
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
    eventstore("ingest", "-", given=MIXED[0] + MIXED[-1])
    before = eventstore.json("coupon", "c-1")
    eventstore.change("UPDATE coupons SET code = 'FORGED'", "UPDATE coupon_usage SET times_used = 99")
    assert eventstore.json("coupon", "c-1") != before
    eventstore("rebuild-projections")
    assert eventstore.json("coupon", "c-1") == before


# Tokens


def test_tokens_are_made_listed_and_revoked_and_their_secrets_shown_once(eventstore: Command) -> None:
    made = eventstore.run("token", "create", "--site", "my-site", "--name", "the relay")
    secret = made.stdout.strip()
    assert re.fullmatch(r"evs_[\w-]{43}", secret)
    assert "bound to my-site, may ingest and read" in made.stderr
    told = eventstore.json("token", "create", "--any-site", "--scopes", "read")
    assert (told["site_id"], told["scopes"], told["name"]) == (None, ["read"], "any site")
    listed = eventstore("token", "list")
    assert secret not in listed
    assert told["token"] not in listed
    eventstore("token", "revoke", told["token_id"])
    first, second = eventstore.json("token", "list")
    assert (first["name"], first["revoked_at"]) == ("the relay", None)
    assert second["token_id"] == told["token_id"]
    assert second["revoked_at"] is not None
    assert "token" not in first
    assert "no live token" in eventstore.refused("token", "revoke", told["token_id"], status=3)


def test_wrong_ways_to_make_a_token_are_refused(eventstore: Command) -> None:
    for options in ([], ["--site", "s", "--any-site"]):
        done = eventstore.run("token", "create", *options)
        assert done.returncode == 2
        assert "say which site it is bound to" in done.stderr
    assert "scopes are ingest, read, admin" in eventstore.refused(
        "token", "create", "--site", "s", "--scopes", "write", status=1
    )
    assert "at least one scope" in eventstore.refused("token", "create", "--site", "s", "--scopes", ",", status=1)
    assert eventstore.json("token", "list") == []


def test_the_relay_is_printed_as_it_is_shipped(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "eventstore" / "relay" / "events.js"
    done = cli("relay", cwd=tmp_path)
    assert done.stdout == shipped.read_text(encoding="utf-8")
    assert CREATED in done.stdout


# Reports and the demo


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
    assert [each.name for each in folder.iterdir()] == ["eventstore.db"]
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
    eventstore("ingest", "-", given=MIXED[0])
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


def test_the_shell_sees_how_a_command_ended(path: Path) -> None:
    lines = MIXED[0] + MIXED[4]
    for status, arguments in ((1, ["ingest", "-"]), (0, ["coupon", "c-1"]), (2, ["coupon"]), (3, ["coupon", "c-2"])):
        done = cli("--store", str(path), *arguments, cwd=path.parent, given=lines)
        assert done.returncode == status, done.stderr
        assert bool(done.stderr) == (status != 0)
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
