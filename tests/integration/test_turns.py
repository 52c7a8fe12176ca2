"""The line in which processes stand that want to write to one SQLite file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import text

from eventstore.log import engine as log_engine
from eventstore.log import turns
from eventstore.log.engine import make_engine, write_transaction
from eventstore.log.turns import SUFFIX, Turns
from tests.serving import PATIENCE, environment

HOLDER = """
import fcntl, sys, time
from pathlib import Path
from eventstore.log import turns

turns.PATIENCE_SECONDS = float(sys.argv[2])
line, order = turns.Turns(Path(sys.argv[1])), Path(sys.argv[1] + "-order")

def somebody_is_next():
    try:
        fcntl.lockf(line._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, turns._NEXT)
    except OSError:
        return True
    fcntl.lockf(line._file, fcntl.LOCK_UN, 1, turns._NEXT)
    return False

with line.turn():
    print("it is my turn", flush=True)
    sys.stdin.readline()
    while not somebody_is_next():
        time.sleep(0.001)
    order.open("a").write("holder ")
with line.turn():
    order.open("a").write("holder again")
print("done", flush=True)
"""
"""A process that has the turn, waits until another one is in line, ends it, and wants it again at once."""


@contextmanager
def holder(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the turn."""
    arguments = [sys.executable, "-c", HOLDER, str(database), str(PATIENCE)]
    with subprocess.Popen(
        arguments, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "it is my turn\n"
            yield process
        finally:
            process.kill()


def write(database: Path) -> None:
    engine = make_engine(database)
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE api_tokens SET revoked_at = NULL"))
    engine.dispose()


def test_who_has_written_and_wants_to_again_comes_after_the_one_in_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", PATIENCE)
    order = Path(f"{path}-order")
    line = Turns(path)

    def stand_in_line() -> None:
        with line.turn(), order.open("a") as file:
            file.write("other ")

    with holder(path) as process:
        waiting = Thread(target=stand_in_line)
        waiting.start()
        process.communicate("go on\n", timeout=PATIENCE)
        waiting.join()
    line.close()
    assert order.read_text() == "holder other holder again"


def test_a_process_killed_in_its_turn_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", float("inf"))
    with holder(path) as process:
        waiting = Thread(target=write, args=(path,), daemon=True)
        waiting.start()
        process.send_signal(signal.SIGKILL)
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_a_process_that_stands_still_in_its_turn_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.05)
    with holder(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        write(path)


TAKE = """
import fcntl, sys
from eventstore.log import turns

with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, turns._WRITING)
    except OSError:
        print("taken")
    else:
        print("free")
"""
"""A process that looks whether it is somebody's turn."""


def test_two_engines_of_one_process_stand_in_one_line_and_one_that_leaves_does_not_give_away_the_other_s_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", PATIENCE)
    # Who does not stand in line but asks SQLite at once is refused.
    monkeypatch.setattr(log_engine, "BUSY_TIMEOUT_MS", 20)
    link = path.with_name("link.db")
    link.symlink_to(path)
    engine = make_engine(path)
    with ThreadPoolExecutor(1) as thread:
        write(link)
        with write_transaction(engine):
            other = make_engine(link)
            other.dispose()
            looking = [sys.executable, "-c", TAKE, str(path.with_name(path.name + SUFFIX))]
            # Meanwhile, and for longer than SQLite would wait.
            waiting = thread.submit(write, link)
            said = subprocess.run(looking, env=environment(), capture_output=True, encoding="utf-8", check=True).stdout
            assert said == "taken\n"
            assert not waiting.done()
        waiting.result(PATIENCE)
    engine.dispose()


def test_where_there_can_be_no_line_writing_goes_on(path: Path) -> None:
    path.with_name(path.name + SUFFIX).mkdir()
    write(path)


def test_who_leaves_takes_the_file_away_and_those_who_stay_stand_in_one_line(path: Path) -> None:
    file = path.with_name(path.name + SUFFIX)
    staying, leaving = Turns(path), Turns(path)
    with staying.turn(), leaving.turn():
        pass
    leaving.close()
    assert not file.exists()
    with staying.turn():
        assert file.exists()
        first = file.stat().st_ino
    with leaving.turn(), staying.turn():
        assert file.stat().st_ino == first
    staying.close()
    leaving.close()
    assert not file.exists()
