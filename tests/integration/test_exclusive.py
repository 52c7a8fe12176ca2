"""What one process at a time may do: who else tries is kept out, and has it as soon as the holder is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from eventstore.log.engine import make_engine
from eventstore.log.exclusive import Exclusive, worker_name

PATIENCE = 30.0
HOLD = """
import sys, time
from eventstore.log.engine import make_engine
from eventstore.log.exclusive import Exclusive
one = Exclusive(make_engine(sys.argv[1]), "runner")
print(one.take(), flush=True)
time.sleep(600)
"""


def left_beside(url: str) -> list[str]:
    """Lock files that stand beside a SQLite store; none on PostgreSQL."""
    database = make_url(url)
    if database.get_backend_name() != "sqlite":
        return []
    path = Path(database.database or "")
    return [each.name for each in path.parent.glob(f"{path.name}-runner")]


def test_one_has_it_and_the_next_only_when_it_is_given_back(store_url: str) -> None:
    first, second = (Exclusive(make_engine(store_url), "runner") for _ in range(2))
    with first, second:
        assert first.take()
        assert first.take()
        assert not second.take()
        assert not second.held
        first.release()
        assert not first.held
        assert second.take()
        assert not first.take()
    assert left_beside(store_url) == []


def test_two_different_things_do_not_keep_each_other_out(store_url: str) -> None:
    engine = make_engine(store_url)
    with Exclusive(engine, "runner") as one, Exclusive(engine, "rebuild") as other:
        assert one.take()
        assert other.take()
        assert one.held
    engine.dispose()


def test_of_a_process_that_is_killed_the_next_one_takes_over(store_url: str) -> None:
    engine = make_engine(store_url)
    command = [sys.executable, "-c", HOLD, store_url]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder,
        Exclusive(engine, "runner") as next_one,
    ):
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert not next_one.take()
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        deadline = time.monotonic() + PATIENCE
        while not next_one.take():
            assert time.monotonic() < deadline, "nobody takes over"
            time.sleep(0.02)
        assert next_one.held
    engine.dispose()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_who_loses_the_connection_has_lost_it(store_url: str) -> None:
    engine = make_engine(store_url)
    with Exclusive(engine, "runner") as one, Exclusive(engine, "runner") as other:
        assert one.take()
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'eventstore runner'"
            )
        assert not one.held
        assert other.take()
    engine.dispose()


def test_a_process_says_which_it_is() -> None:
    assert worker_name().startswith("process ")
