"""Answering a report: its parameters checked and bound, its tables loaded, its rows in Python's own values."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from analytics.catalogue import Report, report
from analytics.connect import AnalyticsConnection, connect
from analytics.results import ReportResult


def run_report(store: str | Path | Engine | AnalyticsConnection, name: str, /, **parameters: object) -> ReportResult:
    """Answer the report `name` on a store (URL, SQLite path or engine) or over a connection that is open already.

    Parameters may be given typed or as text. Raises ReportError for an unknown report or a wrong parameter, before anything
    is read, and StoreNotReady.
    """
    asked = report(name)
    values = asked.values(parameters)
    if isinstance(store, AnalyticsConnection):
        return _answer(store, asked, values)
    with connect(store) as connection:
        return _answer(connection, asked, values)


def _answer(connection: AnalyticsConnection, asked: Report, values: dict[str, Any]) -> ReportResult:
    found = connection.execute(asked.sql, values).fetchall()
    rows = tuple(tuple(_value(value) for value in row) for row in found)
    return ReportResult(asked.name, asked.title, values, connection.position, asked.columns, rows)


def _value(value: Any) -> Any:
    # DuckDB's zone is one of pytz's objects: equal in meaning, foreign to every comparison with `is UTC`.
    return value.astimezone(UTC) if isinstance(value, datetime) else value
