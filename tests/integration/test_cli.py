"""The command line as a whole: its help, how it finds or makes a store, and how a command ends."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from eventstore.cli.main import COMMANDS
from eventstore.log import engine as log_engine
from tests.commands import Command, run
from tests.rows import held
from tests.serving import (
    CREATED,
    PATIENCE,
    cli,
    created,
    environment,
    ndjson,
    wrapped,
)

pytestmark = pytest.mark.usefixtures("folder")
HELP = {
    (): ["--store URL", "--version", "EVENTSTORE_URL", *COMMANDS],
    ("demo",): ["--seed", "--events"],
    ("init",): ["--repair-guards", "--roles", "--prefix", "Safe to repeat"],
    ("serve",): ["--host", "--port", "--site", "--no-projections", "--handlers", "EVENTSTORE_PORT"],
    ("project",): ["--once", "--json"],
    ("run-handlers",): ["EVENTS.PY", "--name", "--from", "--once", "--dry-run", "--attempts", "event.transaction"],
    ("handlers",): ["status", "dead-letters", "retry", "skip", "replay", "example"],
    ("forward",): ["--to", "--secret-file", "--new-secret", "--type", "--once", "Standard Webhooks"],
    ("handlers", "status"): ["--name", "--json"],
    ("handlers", "dead-letters"): ["--all", "--handler", "--limit"],
    ("handlers", "retry"): ["--all", "ID…"],
    ("handlers", "skip"): ["--note"],
    ("handlers", "replay"): ["--from", "idempotency"],
    ("ingest",): ["--route", "--handler", "--site", "--observed-at", "--readers", "--json", "FILE…"],
    ("import-coupons",): ["--site", "--observed-at", "--complete", "--dry-run", "--json", "FILE…"],
    ("rebuild-projections",): [
        "--from-original",
        "--keep",
        "--drop",
        "--memory-limit",
        "--status",
        "--abort",
        "--drop-old",
        "--json",
        "[NAME…]",
    ],
    ("upgrade",): ["--json", "Safe to repeat"],
    ("projection",): ["--list", "--site", "--limit", "--json", "[NAME]"],
    ("status",): ["--json"],
    ("tail",): ["--follow", "--from", "-n", "--type", "--coupon", "--site", "--json", "coupon.*"],
    ("verify",): ["--guards", "--json"],
    ("maintain",): ["--ahead", "--positions", "--json"],
    ("coupon",): ["--site", "--as-of", "--known-at", "--at-position", "--history", "--by-time", "--json", "ID|CODE"],
    ("coupons",): [
        "--site",
        "--as-of",
        "--known-at",
        "--at-position",
        "--status",
        "--code",
        "--limit",
        "--json",
        "--csv",
    ],
    ("usage",): ["--site", "--limit", "--json"],
    ("report",): [
        "--list",
        "--describe",
        "--param",
        "--site",
        "--tz",
        "--json",
        "--csv",
        "--parquet",
        "--limit",
        "--engine",
        "--lake",
    ],
    ("sql",): [
        "--file",
        "--tables",
        "--json",
        "--csv",
        "--parquet",
        "--param",
        "--limit",
        "--time-limit",
        "--memory-limit",
        "--lake",
        "[QUERY]",
    ],
    ("export",): [
        "--format",
        "--output",
        "--table",
        "--since",
        "--until",
        "--after",
        "--site",
        "--memory-limit",
        "--lake",
        "--json",
        "Personal data",
    ],
    ("notebook",): ["--list", "--export", "--port", "--browser", "--param", "--json", "[NAME]"],
    ("dashboard",): ["--host", "--port", "--browser", "--param", "[NAME]"],
    ("lake",): ["catch-up", "status", "verify", "compact"],
    ("lake", "catch-up"): ["--lake", "--json"],
    ("lake", "status"): ["--lake", "--json"],
    ("lake", "verify"): ["--as-it-is", "--lake", "--json", "Exit status 1"],
    ("lake", "compact"): ["--keep", "--lake", "--json"],
    ("event",): ["--site", "--original", "--check-signature", "--json", "ID|POSITION"],
    ("quarantine",): ["list", "show", "retry", "resolve"],
    ("quarantine", "list"): ["--all", "--kind", "--site", "--after", "--limit", "--json"],
    ("quarantine", "show"): ["--body", "--json", "ID"],
    ("quarantine", "retry"): ["--all", "--kind", "--site", "--derived-id", "--json"],
    ("quarantine", "resolve"): ["--note"],
    ("dead-letters",): ["list", "show", "retry", "skip"],
    ("dead-letters", "list"): ["--all", "--projection", "--site", "--after", "--limit", "--json"],
    ("dead-letters", "show"): ["--json", "ID"],
    ("dead-letters", "retry"): ["--all", "--json"],
    ("dead-letters", "skip"): ["--note", "--json"],
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


@pytest.mark.parametrize("url", ["postgresql://user@host:secret/log", "://user:secret@host/log"])
def test_a_url_that_cannot_be_read_is_refused_and_not_shown_for_it_may_hold_a_password(url: str) -> None:
    for name in ("init", "status", "serve"):
        said = Command(url).refused(name, status=1)
        assert "not a database URL" in said
        assert "secret" not in said


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_behind_the_question_mark_of_a_url_is_never_shown(store_url: str, name: str) -> None:
    eventstore = Command(f"{store_url}&{name}=secret&application_name=mine")
    told = eventstore.json("status")["url"]
    assert f"{name}=hidden" in told
    assert "application_name=mine" in told
    for shown in (told, eventstore("status"), eventstore("init"), eventstore("demo", "--events", "400")):
        assert "secret" not in shown


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


def test_a_store_that_another_process_keeps_locked_says_try_again(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 20)
    with held(eventstore.url, "api_tokens"):
        told = eventstore.refused("token", "create", "--site", "s", status=75)
    assert re.search(r"the database failed: .*(locked|lock timeout); try again$", told)


def test_a_store_whose_tables_were_tampered_with_is_not_told_to_try_again(eventstore: Command) -> None:
    eventstore.change("DROP TABLE api_tokens")
    with pytest.raises(DBAPIError, match=r"no such table|does not exist"):
        eventstore("token", "list")


def test_the_relay_is_printed_as_it_is_shipped() -> None:
    shipped = Path(__file__).parents[2] / "eventstore" / "relay" / "events.js"
    done = run("relay")
    assert done.stdout == shipped.read_text(encoding="utf-8")
    assert CREATED in done.stdout


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_the_shell_sees_how_a_command_ended(store_url: str, tmp_path: Path) -> None:
    lines = ndjson(wrapped(CREATED, created("e-1"))) + b"{nope\n"
    for status, arguments in ((1, ["ingest", "-"]), (0, ["coupon", "c-1"]), (2, ["coupon"]), (3, ["coupon", "c-2"])):
        done = cli("--store", store_url, *arguments, cwd=tmp_path, given=lines)
        assert done.returncode == status, done.stderr
        assert bool(done.stderr) == (status != 0)
        assert "Traceback" not in done.stderr


COMMANDED = """
import sys
from eventstore.cli.main import main
sys.argv = ["eventstore", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted({"duckdb", "fastapi", "pyarrow"} & set(sys.modules)))
"""


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_short_command_loads_nothing_that_it_does_not_need(store_url: str, tmp_path: Path) -> None:
    for arguments in (["token", "list"], ["tail"]):
        done = subprocess.run(
            [sys.executable, "-c", COMMANDED, "--store", store_url, *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]"
