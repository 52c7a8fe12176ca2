"""`eventstore run-handlers`, `eventstore handlers` and `serve --handlers`: what they print, and with which status they end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventstore.handlers.examples import examples
from eventstore.store import EventStore
from tests.commands import Command, run
from tests.handling import PATIENCE, fill, noted, until
from tests.processes import Program, command_line
from tests.serving import CREATED, NewServer, command, created, environment

EVENTS_PY = """
from pathlib import Path
from eventstore.handlers import CouponEvent, on

NOTES = Path(__file__).with_name("notes")

@on("coupon.updated", attempts=1)
def note(event: CouponEvent) -> None:
    if event.coupon_id == "c2" and not NOTES.with_name("mended").exists():
        raise ValueError("no c2 here")
    with NOTES.open("a") as notes:
        notes.write(f"{event.position} {event.coupon_id}\\n")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "events.py"
    found.write_text(EVENTS_PY)
    return found


@contextmanager
def started(url: str, *arguments: str, cwd: Path) -> Iterator[Program]:
    """`eventstore run-handlers` as a process."""
    program = Program(
        ["--store", url, "run-handlers", *arguments],
        cwd=cwd,
        env=environment(),
        errors=cwd / "errors",
        call=command_line,
    )
    try:
        yield program
    finally:
        program.kill()


def once(url: str, *arguments: str, cwd: Path) -> tuple[int, str, str]:
    """The same to its end: its status, what it printed, and what it said on standard error."""
    (cwd / "errors").unlink(missing_ok=True)
    with started(url, *arguments, cwd=cwd) as program:
        status, printed = program.ended(PATIENCE)
    return status, printed, (cwd / "errors").read_text()


def test_a_file_s_handlers_are_run_and_what_they_could_not_take_is_dealt_with(
    store: EventStore, store_url: str, eventstore: Command, file: Path, tmp_path: Path
) -> None:
    assert "no handler has run" in eventstore.run("handlers", "status").stdout
    fill(store, 12, coupons=3)
    status, _, said = once(store_url, str(file), "--from", "beginning", "--once", "--name", "shop", cwd=tmp_path)
    assert (status, "running the handler note as 'shop'" in said) == (0, True)
    assert said.splitlines()[-1] == "handled: 8; waiting for a person: 1 (`eventstore handlers dead-letters`)"
    [failure] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert (failure["event"], failure["handler"], failure["error"]) == ("a handler failed", "note", "ValueError")
    assert "no c2 here" not in said
    assert {coupon for _, coupon in noted(tmp_path / "notes")} == {"c0", "c1"}
    [stands] = json.loads(eventstore.run("handlers", "status", "--json").stdout)
    assert (stands["name"], stands["handler"], stands["behind"], stands["handled"]) == ("shop", "note", 0, 8)
    assert (stands["parked"], stands["waiting_for_people"]) == (1, 1)
    table = eventstore.run("handlers", "status", "--name", "shop").stdout
    assert "shows what waits for people" in table
    assert "waits for you" in eventstore.run("handlers", "dead-letters").stdout
    [letter] = json.loads(eventstore.run("handlers", "dead-letters", "--handler", "note", "--json").stdout)
    assert (letter["subject_id"], letter["position"]) == ("c2", 2)
    assert letter["reason"].startswith("ValueError: no c2 here (events.py, line ")
    (tmp_path / "mended").touch()
    number = str(letter["id"])
    assert "1 will be tried again" in eventstore.run("handlers", "retry", number).stdout
    assert once(store_url, str(file), "--once", "--name", "shop", cwd=tmp_path)[0] == 0
    assert sorted(position for position, _ in noted(tmp_path / "notes")) == list(range(1, 13))
    assert eventstore.run("handlers", "dead-letters").stdout == "none\n"
    assert "handled" in eventstore.run("handlers", "dead-letters", "--all").stdout
    replayed = eventstore.run("handlers", "replay", "shop", "--from", "9")
    assert replayed.stdout == "note: goes on after position 8, stood at 12\n"
    assert once(store_url, str(file), "--once", "--name", "shop", cwd=tmp_path)[0] == 0
    assert len(noted(tmp_path / "notes")) == 16
    _, _, said = once(store_url, str(file), "--from", "beginning", "--once", "--name", "shop", cwd=tmp_path)
    assert "note: each goes on where it was; `eventstore handlers replay shop --from …` moves them" in said
    assert said.splitlines()[-1] == "handled: 0"
    assert "no handler has run under the name 'sohp'" in eventstore.refused(
        "handlers", "status", "--name", "sohp", status=3
    )


def test_what_a_handler_prints_into_a_file_is_there_at_once(store: EventStore, store_url: str, tmp_path: Path) -> None:
    file = tmp_path / "events.py"
    file.write_text("from eventstore.handlers import on\n@on('*')\ndef tell(event):\n    print(event.position)\n")
    fill(store, 2, coupons=1)
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            command("--store", store_url, "run-handlers", str(file), "--from", "beginning"),
            cwd=tmp_path,
            env=environment(),
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: printed.read_text() == "1\n2\n")
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def test_skip_wants_a_note_and_ids_are_checked(store: EventStore, eventstore: Command) -> None:
    assert eventstore.run("handlers", "skip", "1").returncode == 2
    assert eventstore.run("handlers", "skip", "1", "--note", "x").returncode == 3
    assert eventstore.run("handlers", "retry", "7").returncode == 3
    assert eventstore.run("handlers", "retry").returncode == 2
    assert eventstore.run("handlers", "retry", "1", "--all").returncode == 2
    assert eventstore.run("handlers", "retry", "1", "--name", "x").returncode == 2
    assert json.loads(eventstore.run("handlers", "retry", "--all", "--json").stdout) == {"to_be_tried": 0}
    missing = eventstore.run("handlers", "replay", "nobody", "--from", "beginning")
    assert (missing.returncode, "handlers status" in missing.stderr) == (3, True)
    assert store.handlers.status() == []


def test_a_dry_run_tells_what_each_would_be_given_and_calls_none(
    store: EventStore, eventstore: Command, file: Path, tmp_path: Path
) -> None:
    fill(store, 9, coupons=3)
    told = eventstore.run("run-handlers", str(file), "--dry-run", "--from", "4", "--json")
    assert json.loads(told.stdout) == [{"handler": "note", "after": 3, "events": 6, "first": 4, "last": 9}]
    assert "6 calls" in eventstore.run("run-handlers", str(file), "--dry-run", "--from", "4").stdout
    assert store.handlers.status() == []
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        ("def wixMarketing_onCouponAplied(event): pass", (), "did you mean wixMarketing_onCouponApplied"),
        ("x = 1", (), "no handler"),
        (None, (), "cannot be read"),
        (EVENTS_PY, ("--from", "tomorrow"), "no place in the log"),
        (EVENTS_PY, ("--name", "a b"), "cannot name a set"),
        (EVENTS_PY, ("--once", "--dry-run"), "--dry-run calls nothing"),
    ],
    ids=["misspelt", "empty", "missing", "place", "name", "both"],
)
def test_what_is_wrong_is_told_before_anything_runs(
    store: EventStore, eventstore: Command, tmp_path: Path, text: str | None, arguments: tuple[str, ...], word: str
) -> None:
    if text is not None:
        (tmp_path / "events.py").write_text(text)
    done = eventstore.run("run-handlers", str(tmp_path / "events.py"), *arguments)
    assert done.returncode in (1, 2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert store.handlers.status() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_follows_the_log_until_it_is_told_to_stop_and_ends_in_good_order(
    store: EventStore, store_url: str, file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with started(store_url, str(file), cwd=tmp_path) as program:
        until(lambda: store.handlers.status() != [])
        fill(store, 5, coupons=2)
        until(lambda: len(noted(tmp_path / "notes")) == 5)
        program.send_signal(number)
        assert program.ended(PATIENCE)[0] == 0
    [status] = store.handlers.status()
    assert (status.position, status.handled) == (5, 5)
    assert "stopped" in (tmp_path / "errors").read_text()


def test_a_server_runs_handlers_beside_it(new_server: NewServer, file: Path, tmp_path: Path) -> None:
    (tmp_path / "mended").touch()
    file.write_text(EVENTS_PY.replace('"coupon.updated"', '"coupon.created"'))
    with new_server("--handlers", str(file)) as server, server.client() as client:
        assert client.post(f"/v1/velo/{CREATED}", json=created("one", "one")).status_code == 200
        until(lambda: len(noted(tmp_path / "notes")) == 1)


def test_a_server_whose_handlers_are_misspelt_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "events.py").write_text("def wixMarketing_onCouponAplied(event): pass")
    done = run("--store", str(tmp_path / "x.db"), "serve", "--handlers", str(tmp_path / "events.py"), "--port", "0")
    assert done.returncode == 1
    assert "wixMarketing_onCouponApplied" in done.stderr
    assert not (tmp_path / "x.db").exists()


def test_examples_are_listed_and_printed_as_they_are() -> None:
    listed = run("handlers", "example").stdout
    for each in examples():
        assert each.name in listed
        assert "from eventstore.handlers import" in run("handlers", "example", each.name).stdout
    missing = run("handlers", "example", "nonsense")
    assert missing.returncode == 3
