"""`eventstore tail`: the latest events, and every new one, for people and for programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.demo import documented, month
from eventstore.errors import InputError
from eventstore.event import Event
from eventstore.following import TYPES, brief, types_named
from eventstore.store import EventStore
from tests.commands import Command
from tests.processes import Program
from tests.serving import (
    APPLIED,
    CREATED,
    DELETED,
    PATIENCE,
    applied,
    command,
    created,
    environment,
    ndjson,
    wrapped,
)
from tests.stores import NewUrl, PostgresqlServer

UPDATED = "wixMarketing_onCouponUpdated"


def fill(eventstore: Command) -> None:
    """A dozen events of three coupons."""
    for number in range(3):
        eventstore(
            "ingest", "-", given=ndjson(wrapped(CREATED, created(f"n-{number}", f"c-{number}", code=f"CODE{number}")))
        )
    uses = [applied(f"u-{number}", f"order-{number}", f"c-{number % 2}", f"CODE{number % 2}") for number in range(8)]
    eventstore("ingest", "-", given=ndjson(*[wrapped(APPLIED, use) for use in uses]))
    deleted = {"metadata": created("d-0", "c-2")["metadata"]}
    eventstore("ingest", "-", given=ndjson(wrapped(DELETED, deleted)))


@pytest.fixture(scope="module")
def twelve(new_url: NewUrl) -> Iterator[str]:
    """Those events, to copy."""
    with new_url() as url:
        fill(Command(url))
        yield url


@pytest.fixture
def filled(new_url: NewUrl, twelve: str, folder: Path) -> Iterator[Command]:
    """A store of them, in an empty folder."""
    assert folder.is_dir()
    with new_url(twelve) as url:
        yield Command(url)


def positions(lines: str) -> list[int]:
    return [json.loads(line)["position"] for line in lines.splitlines()]


def test_it_shows_the_last_ten_events_a_line_each(filled: Command) -> None:
    lines = filled("tail").splitlines()
    assert len(lines) == 10
    assert lines[0].split() == [
        "2025-03-01",
        "08:00:00",
        "3",
        "coupon.created",
        "CODE2",
        *["10", "%", "off"],
        *late(lines[0]),
    ]
    assert lines[1].split()[:7] == ["2025-03-02", "08:00:00", "4", "coupon.applied", "CODE0", "order", "order-0"]
    assert lines[-1].split()[:5] == ["2025-03-01", "08:00:00", "12", "coupon.deleted", "c-2"]
    assert "\x1b" not in "".join(lines)


def late(line: str) -> list[str]:
    """The words that say when an event was recorded that happened long before."""
    return line[line.index("(recorded") :].split()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", "2"], [11, 12]),
        (["-n", "0"], []),
        (["-n", "100"], list(range(1, 13))),
        (["--from", "beginning"], list(range(1, 13))),
        (["--from", "11"], [11, 12]),
        (["--from", "now"], []),
        (["--from", "2020-01-01"], list(range(1, 13))),
        (["--type", "coupon.created"], [1, 2, 3]),
        (["--type", "coupon.created", "--type", "coupon.deleted"], [1, 2, 3, 12]),
        (["--type", "coupon.*", "-n", "3"], [10, 11, 12]),
        (["--type", "loyalty_coupon.*"], []),
        (["--type", APPLIED, "-n", "2"], [10, 11]),
        (["--coupon", "c-1", "-n", "2"], [9, 11]),
        (["--coupon", "code1", "--type", "coupon.applied", "--from", "7"], [7, 9, 11]),
        (["--site", "local", "-n", "1"], [12]),
        (["--site", "elsewhere"], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_it_shows_what_is_asked_for(filled: Command, options: list[str], expected: list[int]) -> None:
    assert positions(filled("tail", "--json", *options)) == expected


def test_programs_are_told_the_canonical_event_and_where_it_stands(filled: Command) -> None:
    [line] = filled("tail", "--json", "-n", "1", "--type", "coupon.applied").splitlines()
    told = json.loads(line)
    assert list(told) == ["position", "recorded_at", "event"]
    shown = filled.json("event", str(told["position"]))
    assert told["recorded_at"] == shown["recorded_at"]
    with EventStore.open(filled.url) as store:
        assert told["event"] == json.loads(store.find(str(told["position"])).payload)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--type", "coupon.aplied"], 1, "unknown type 'coupon.aplied'; did you mean 'coupon.applied'?"),
        (["--type", "wixMarketing_onCouponAplied"], 1, f"did you mean '{APPLIED}'?"),
        (["--type", "nonsense"], 1, "the known ones are coupon.created"),
        (["--from", "yesterday"], 1, "'yesterday' says no place in the log"),
        (["--from", "0"], 1, "the first event has position 1"),
        (["--coupon", "of nobody"], 3, "no coupon has the id or code 'of nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_asked_wrongly_is_told_in_one_line(filled: Command, options: list[str], status: int, said: str) -> None:
    assert said in filled.refused("tail", *options, status=status)


def test_a_place_to_begin_and_a_number_of_events_exclude_each_other(filled: Command) -> None:
    done = filled.run("tail", "--from", "1", "-n", "1")
    assert done.returncode == 2
    assert "--from and -n exclude each other" in done.stderr


def test_a_code_that_several_coupons_have_had_is_told_with_their_ids(filled: Command) -> None:
    filled("ingest", "-", given=ndjson(wrapped(CREATED, created("again", "c-9", code="CODE2"))))
    line = filled.refused("tail", "--coupon", "CODE2", status=1)
    assert "c-2" in line
    assert "c-9" in line


def test_a_store_that_is_not_there_is_not_made(folder: Path) -> None:
    Command(folder / "none.db").refused("tail", status=1)
    assert not (folder / "none.db").exists()


def test_a_name_cannot_command_the_terminal_or_break_the_line(eventstore: Command) -> None:
    body = applied("bad", "o-1", code="A\nB\x1b[2J\x9b31m")
    eventstore("ingest", "-", given=ndjson(wrapped(APPLIED, body)))
    text = eventstore("tail")
    assert len(text.splitlines()) == 1
    assert not set(text) & {"\x1b", "\x9b"}


# Following


@contextmanager
def following(store: str, folder: Path, *options: str) -> Iterator[Program]:
    """A tail that follows, as a process of its own."""
    arguments = ["--store", store, "tail", "--follow", "--json", *options]
    program = Program(arguments, cwd=folder, env=environment(), errors=folder / "stderr.txt")
    try:
        yield program
    finally:
        program.kill()


def next_positions(lines: Iterator[str], count: int) -> list[int]:
    return [json.loads(next(lines))["position"] for _ in range(count)]


def test_every_new_event_is_shown_until_it_is_interrupted(filled: Command, folder: Path) -> None:
    with following(filled.url, folder, "-n", "2", "--type", "coupon.*") as program:
        lines = program.lines()
        assert next_positions(lines, 2) == [11, 12]
        for number in range(3):
            filled("ingest", "-", given=ndjson(wrapped(CREATED, created(f"new-{number}", f"c-new-{number}"))))
            assert next_positions(lines, 1) == [13 + number]
        program.send_signal(signal.SIGINT)
        assert program.ended(PATIENCE) == (130, "")
    assert (folder / "stderr.txt").read_text(encoding="utf-8").split() == ["interrupted"]


def test_sigterm_ends_it_too(filled: Command, folder: Path) -> None:
    with following(filled.url, folder, "-n", "1") as program:
        assert next_positions(program.lines(), 1) == [12]
        program.send_signal(signal.SIGTERM)
        assert program.ended(PATIENCE)[0] == 130


def test_it_waits_for_a_coupon_that_is_not_there_yet_and_says_so(filled: Command, folder: Path) -> None:
    with following(filled.url, folder, "--coupon", "c-later") as program:
        lines = program.lines()
        errors = folder / "stderr.txt"
        deadline = time.monotonic() + PATIENCE
        while not errors.exists() or "waiting" not in errors.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for number, coupon in enumerate(["c-1", "c-later"]):
            filled("ingest", "-", given=ndjson(wrapped(CREATED, created(f"later-{number}", coupon))))
        assert next_positions(lines, 1) == [14]


def test_it_ends_when_nobody_reads_it_any_more_though_nothing_comes(filled: Command, folder: Path) -> None:
    """As before `| head -1`, which closes the pipe while the log is quiet."""
    process = subprocess.Popen(
        command("--store", filled.url, "tail", "-f", "-n", "1"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"coupon.deleted" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
        process.stderr.close()
    finally:
        process.kill()
        process.wait()


def test_it_ends_quietly_where_its_reader_has_left_before_the_end(filled: Command, folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("--store", filled.url, "tail", "--from", "beginning"),
            cwd=folder,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_is_coloured_on_a_terminal(filled: Command, folder: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb", buffering=0)) as terminal:
        done = subprocess.run(
            command("--store", filled.url, "tail", "-n", "1"),
            cwd=folder,
            env=environment(TERM="xterm"),
            stdout=theirs,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        shown = terminal.read(4_096)
        os.close(theirs)
    assert b"\x1b[31m\x1b[1mcoupon.deleted" in shown


def test_it_outlives_a_postgresql_that_is_restarted(postgresql_server: PostgresqlServer, folder: Path) -> None:
    with postgresql_server.new() as url:
        with EventStore.open(url) as store:
            store.receive(json.dumps(created("before")).encode(), handler=CREATED)
        with following(url, folder, "-n", "1") as program:
            lines = program.lines()
            assert next_positions(lines, 1) == [1]
            postgresql_server.restart()
            with EventStore.open(url) as store:
                store.receive(json.dumps(created("after")).encode(), handler=CREATED)
            assert next_positions(lines, 1) == [2]


# What is told of an event


def event(type_: str, **fields: Any) -> Event:
    told = {"event_id": "e", "type": type_, "entity_id": "c", "event_time": "2026-09-01T00:00:00Z"}
    return Event.model_validate({**told, "source": "rest", "site_id": "s", **fields})


@pytest.mark.parametrize(
    ("discount", "said"),
    [
        ({"type": "MONEY_OFF", "value": "5"}, "5 off"),
        ({"type": "PERCENT_OFF", "value": "12.5"}, "12.5 % off"),
        ({"type": "FIXED_PRICE", "value": "100"}, "for 100"),
        ({"type": "FREE_SHIPPING"}, "free shipping"),
        ({"type": "BUY_X_GET_Y", "buy_x": 2, "get_y": 1}, "buy 2 get 1"),
        ({"type": "UNKNOWN", "raw_type": "MOON_OFF"}, "discount MOON_OFF"),
        ({"type": "MONEY_OFF"}, "? off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_new_coupon_is_told_with_what_it_is_good_for(discount: dict[str, Any], said: str) -> None:
    assert brief(event("coupon.created", coupon={"discount": discount})) == said
    limits = {"usage_limit": 1_000, "expiration_time": "2026-10-01T00:00:00Z", "minimum_subtotal": "30"}
    told = brief(event("coupon.created", coupon={"discount": discount, **limits, "active": False}))
    assert told == f"{said}, from 30 on, until 2026-10-01 00:00, at most 1,000 uses, switched off"


def test_an_update_is_told_with_what_it_changed_where_wix_says_so() -> None:
    coupon = {"discount": {"type": "PERCENT_OFF", "value": "20"}, "usage_limit": 20, "name": "New"}
    assert brief(event("coupon.updated", coupon=coupon)) == "20 % off, at most 20 uses"
    changed = {"usageLimit": 10, "name": "Old"}
    assert brief(event("coupon.updated", coupon=coupon, changed=changed)) == "usage_limit: 10 → 20, name: Old → New"


def test_whatever_a_shop_and_wix_s_own_examples_tell_is_a_line_each(eventstore: Command) -> None:
    with EventStore.open(eventstore.url) as store:
        for deliveries in (documented(200), month(events=400)):
            store.ingest((number, delivery.line()) for number, delivery in enumerate(deliveries, 1))
        head = store.head()
    lines = eventstore("tail", "--from", "beginning").splitlines()
    assert len(lines) == head
    assert positions(eventstore("tail", "--from", "beginning", "--json")) == list(range(1, head + 1))
    assert not any("None" in line for line in lines)


@given(st.text(max_size=40))
def test_a_type_is_known_or_wix_s_own_or_refused(name: str) -> None:
    found: frozenset[str] | None = frozenset()
    with suppress(InputError):
        found = types_named([name])
    if found is None:
        assert name == "*"
    elif not found <= set(TYPES):
        assert found == {name}
