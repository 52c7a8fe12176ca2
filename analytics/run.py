"""Answering a report: its parameters checked and bound, its rows in Python's own values."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from analytics.catalogue import Report, report
from analytics.connect import AnalyticsConnection, connect
from analytics.results import ReportResult
from eventstore.errors import InputError

FETCHED_ROWS = 1_000
"""Rows that become Python's values at a time: meanwhile no other thread can run, for some milliseconds."""


def run_report(store: str | Path | Engine | AnalyticsConnection, name: str, /, **parameters: object) -> ReportResult:
    """Answer the report `name` on a store (URL, SQLite path or engine) or over a connection that is open already.

    Parameters may be given typed or as text. Raises ReportError for an unknown report or a wrong parameter, before anything
    is read, and StoreNotReady.
    """
    asked = report(name)
    values = asked.values(parameters)
    if isinstance(store, AnalyticsConnection):
        return answer(store, asked, values)
    with connect(store) as connection:
        return answer(connection, asked, values)


def answer(
    connection: AnalyticsConnection, asked: Report, values: dict[str, Any], *, at_most: int | None = None
) -> ReportResult:
    """Answer a report with values that `Report.values` has made. Raises InputError if it has more than `at_most` rows."""
    rows: list[tuple[Any, ...]] = []

    def ask() -> None:
        found = connection.execute(asked.sql, values)
        while page := found.fetchmany(FETCHED_ROWS):
            rows.extend(tuple(_value(value) for value in row) for row in page)
            if at_most is not None and len(rows) > at_most:
                raise InputError(f"the answer has more than {at_most:,} rows")

    connection.limited(ask)
    return ReportResult(asked.name, asked.title, values, connection.position, asked.columns, tuple(rows))


def _value(value: Any) -> Any:
    # DuckDB's zone is one of pytz's objects: equal in meaning, foreign to every comparison with `is UTC`.
    return value.astimezone(UTC) if isinstance(value, datetime) else value
