"""Logs of the server: one line an event on standard error, JSON for programs or text for a terminal.

What is logged is chosen where it happens: fields by name, never a token, a body, a path or a message that could quote one.
This module only writes them down, and keeps out what an exception says: its kind and where it arose are enough to find it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_FIELDS = ["asctime", "levelname", "process", "name", "message"]
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure(*, level: str = "info", style: str = "auto") -> None:
    """Log to standard error from now on. `style`: json, text, or auto (text on a terminal, else JSON)."""
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Of others' libraries only what is wrong: at a lower level some of them tell what they were given.
    for name in ("uvicorn", "sqlalchemy", "alembic", "asyncio", "limits"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Json(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            _FIELDS,
            rename_fields={
                "asctime": "time",
                "levelname": "level",
                "process": "pid",
                "name": "logger",
                "message": "event",
            },
            reserved_attrs=[*_OWN],
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _iso(record)

    def formatException(self, ei: _Raised) -> str:  # noqa: N802 - logging's name
        return _frames(ei)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(process)d %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        told = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _OWN)
        line, newline, rest = super().format(record).partition("\n")
        return f"{line} {told}".rstrip() + newline + rest

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _iso(record)

    def formatException(self, ei: _Raised) -> str:  # noqa: N802 - logging's name
        return _frames(ei)


def _iso(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _frames(raised: _Raised) -> str:
    kind = "" if raised[0] is None else raised[0].__name__
    return "".join(traceback.format_tb(raised[2])) + kind
