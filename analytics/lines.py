"""Rows as lines of text, rendered by DuckDB: a thousand times as many as Python renders in the time, and the same text.

A line of CSV or NDJSON is one SQL expression over a row's columns, with its ending, so that a column of them is the file's own
bytes. `ReportResult.to_csv` and `to_json` say how a value is written; a test compares the two. Of each type that a documented
column may have; what else a model of your own may make goes by its JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from analytics.columns import TableColumn
from analytics.results import FORMULA_STARTS
from eventstore.projections.duck import literal, quoted

NUMBERS = ("BIGINT", "BOOLEAN")
"""Types whose text is the same in JSON, in CSV and in SQL."""
_GUARDED = "^[" + "".join(rf"\x{ord(each):02x}" for each in FORMULA_STARTS) + "]"
_WITH_APOSTROPHE = r"'\0"
_SPECIAL = r'[",\r\n]'


def csv_header(columns: Sequence[TableColumn]) -> bytes:
    """The line of names."""
    return (",".join(each.name for each in columns) + "\r\n").encode()


def csv_line(columns: Sequence[TableColumn]) -> str:
    """SQL for a row's line of CSV (RFC 4180)."""
    # concat takes NULL for nothing.
    return "concat(" + ", ',', ".join(_csv(each) for each in columns) + ", chr(13), chr(10))"


def json_line(columns: Sequence[TableColumn]) -> str:
    """SQL for a row's JSON object, in a line: every column, null where there is nothing."""
    parts = []
    for number, each in enumerate(columns):
        key = ("{" if number == 0 else ",") + f'"{each.name}":'
        parts.append(f"{literal(key)}, coalesce({_json(each)}, 'null')")
    return "concat(" + ", ".join(parts) + ", '}', chr(10))"


def event_line() -> str:
    """SQL for an event's line: what the log says of it, and its payload's own bytes."""
    recorded = _time(quoted("recorded_at"))
    parts = [
        "'{\"position\":'",
        "position",
        '\',"recorded_at":"\'',
        recorded,
        '\'","event":\'',
        "payload",
        "'}'",
        "chr(10)",
    ]
    return f"concat({', '.join(parts)})"


def written_bytes(lines: pa.Array) -> Iterator[memoryview]:
    """The bytes of a column of lines, none of them null, without a copy."""
    chunks = lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]
    for each in chunks:
        if len(each) == 0:
            continue
        _, offsets, data = each.buffers()
        flat = memoryview(offsets).cast("B")
        ends = flat.cast("q") if pa.types.is_large_string(each.type) else flat.cast("i")
        yield memoryview(data).cast("B")[ends[each.offset] : ends[each.offset + len(each)]]


def _csv(column: TableColumn) -> str:
    name = quoted(column.name)
    if column.type in NUMBERS or column.type == "DATE":
        return name
    if column.type == "TIMESTAMPTZ":
        return _time(name)
    if column.type.startswith("DECIMAL"):
        return _plain(name)
    if column.type != "VARCHAR":
        return _quoted_cell(f"CAST(to_json({name}) AS VARCHAR)")
    return _quoted_cell(name, f"regexp_replace({name}, {literal(_GUARDED)}, {literal(_WITH_APOSTROPHE)})")


def _quoted_cell(text: str, shown: str | None = None) -> str:
    """SQL for a text in quotes if it needs any. `shown`: what to write, which has no other characters that would."""
    # Each mention is planned and evaluated by itself: so there are few.
    shown = shown or text
    quotes = f"""'"' || replace({shown}, '"', '""') || '"'"""
    return f"CASE WHEN regexp_matches({text}, {literal(_SPECIAL)}) THEN {quotes} ELSE {shown} END"


def _json(column: TableColumn) -> str:
    name = quoted(column.name)
    if column.type in NUMBERS:
        return f"CAST({name} AS VARCHAR)"
    if column.type == "DATE":
        return f"""'"' || CAST({name} AS VARCHAR) || '"'"""
    if column.type == "TIMESTAMPTZ":
        return f"""'"' || {_time(name)} || '"'"""
    if column.type.startswith("DECIMAL"):
        return _plain(name)
    return f"CAST(to_json({name}) AS VARCHAR)"


def _time(value: str) -> str:
    """SQL for a time as Python's isoformat writes it, in UTC: with microseconds if there are any."""
    whole = f"strftime({value}, '%Y-%m-%dT%H:%M:%S')"
    return f"({whole} || CASE WHEN epoch_us({value}) % 1000000 = 0 THEN 'Z' ELSE strftime({value}, '.%fZ') END)"


def _plain(value: str) -> str:
    # A decimal's text always has its point, and six digits behind it.
    return f"rtrim(rtrim(CAST({value} AS VARCHAR), '0'), '.')"
