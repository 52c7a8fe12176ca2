"""The command line, called in this process: a process for each command would mostly test how fast Python starts.

`tests.serving.cli` makes a process where one matters.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from eventstore.cli.main import main
from tests.rows import change


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Written(NamedTuple):
    """How a command ended, with the exact bytes that it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(*arguments: str, given: bytes = b"") -> Done:
    """Call the command line's own entry point in this process, with streams of its own."""
    done = run_bytes(*arguments, given=given)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_bytes(*arguments: str, given: bytes = b"") -> Written:
    """The same, with what was printed as bytes."""
    kept = sys.argv, sys.stdin, sys.stdout, sys.stderr
    buffers = [io.BytesIO(content) for content in (given, b"", b"")]
    streams = [io.TextIOWrapper(buffer, encoding="utf-8") for buffer in buffers]
    sys.argv = ["eventstore", *arguments]
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        main()
        status: int | str | None = None
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = kept
    for stream in streams[1:]:
        stream.flush()
    _, out, err = (buffer.getvalue() for buffer in buffers)
    return Written(status if isinstance(status, int) else 0, out, err)


class Command:
    """The CLI on one store, in the working directory."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)

    def __call__(self, *arguments: str, given: bytes = b"", status: int = 0) -> str:
        """What the command prints; it must end with `status`."""
        done = self.run(*arguments, given=given)
        assert done.returncode == status, done.stderr or done.stdout
        return done.stdout

    def run(self, *arguments: str, given: bytes = b"") -> Done:
        """How the command ends."""
        return run("--store", self.url, *arguments, given=given)

    def refused(self, *arguments: str, status: int, given: bytes = b"") -> str:
        """The one line in which the command says why it will not; nothing stands on standard output."""
        done = self.run(*arguments, given=given)
        assert done.returncode == status, done.stderr or done.stdout
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    def json(self, *arguments: str, given: bytes = b"", status: int = 0) -> Any:
        """What the command tells programs."""
        return json.loads(self(*arguments, "--json", given=given, status=status))

    def file(self, name: str, content: bytes) -> str:
        """Write a file into the working directory; its name."""
        Path(name).write_bytes(content)
        return name

    def change(self, *statements: str) -> None:
        """Change the store by statements of a stranger's."""
        change(self.url, *statements)


def cells(table: str) -> list[list[str]]:
    """The rows of a printed table."""
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines() if line.strip()]
