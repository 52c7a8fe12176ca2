"""Processes of the tests, forked from one that has loaded the program already.

Loading it takes a second of a core, most of what a server takes to start, and the tests start hundreds. What is forked is a
process like any other: it has its own memory, files and number, is sent signals and is killed with -9. That the command starts
from nothing is tested where `tests.serving.cli` or `subprocess` starts it.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKING: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
"""What makes the processes. A process of the tests has one that they are forked from."""


class Program:
    """`eventstore` in a process of its own, begun at once: as much of `subprocess.Popen` as the tests need of it.

    `call`: a module's function to call with the arguments, if it is not the command line's entry point.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        errors: Path,
        call: Callable[..., None] | None = None,
    ) -> None:
        self._said, theirs = FORKING.Pipe(duplex=False)
        self._part = b""
        self._process = FORKING.Process(
            target=_run,
            args=(call or command_line, list(arguments), str(cwd), dict(env), theirs, str(errors)),
            name="eventstore",
        )
        self._process.start()
        theirs.close()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus a signal's number where that ended it; None while it runs."""
        status: int | None = self._process.exitcode
        return status

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def lines(self) -> Iterator[str]:
        """What it prints, a line at a time, until it closes its output."""
        while True:
            line, newline, rest = self._part.partition(b"\n")
            if newline:
                self._part = rest
                yield line.decode()
            elif not self._read():
                return

    def ended(self, timeout: float) -> tuple[int, str]:
        """Wait for its end: its exit status, and what it has printed since. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not self._read():
                break
        self._process.join(max(0.0, deadline - time.monotonic()))
        status = self.returncode
        if status is None:
            raise subprocess.TimeoutExpired("eventstore", timeout)
        self._said.close()
        return status, self._part.decode()

    def _read(self) -> bool:
        """Whether there was more of it."""
        more = os.read(self._said.fileno(), 65536)
        self._part += more
        return bool(more)


def command_line(*arguments: str) -> None:
    """Call the command line's entry point."""
    from eventstore.cli.main import main

    sys.argv = ["eventstore", *arguments]
    main()


def _run(
    call: Callable[..., None], arguments: list[str], cwd: str, env: dict[str, str], said: Connection, errors: str
) -> None:
    """What the process does: be as if started by a shell with these streams, and make the call."""
    os.dup2(said.fileno(), 1)
    said.close()
    with Path(errors).open("ab") as log:
        os.dup2(log.fileno(), 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call(*arguments)
