"""An answer: the rows of a report, and how programs, spreadsheets and people get to read them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from analytics.catalogue import ParameterValue, ReportColumn

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = "–"
"""What people are shown for a value that is not there."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet take a text for a formula (OWASP, CSV injection)."""
LIMIT = "limit"
"""The parameter that says how many rows there are to be at most."""
_LIMITED_APART = {"findings": "code"}
"""Reports that take so many of each, and the column by which they are told apart."""
_LIMITED_TOGETHER = {"code-reuse": ("site_id", "code")}
"""Reports that take so many of what has several rows, and the columns that say what that is, in any case."""
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters and changes of direction, with which a coupon's name could rewrite a terminal's screen."""


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A report's answer. Values are str, int, bool, Decimal, aware UTC datetimes, dates, or None.

    `parameters` are the values that it was asked with; `position` is how far into the log it looked.
    """

    name: str
    title: str
    parameters: dict[str, ParameterValue]
    position: int
    columns: tuple[ReportColumn, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def cut(self) -> bool:
        """Whether there may be more rows than these: as many were found as the parameter `limit` allows."""
        limit = self.parameters.get(LIMIT)
        if not isinstance(limit, int):
            return False
        names = [column.name for column in self.columns]
        if self.name in _LIMITED_APART:
            place = names.index(_LIMITED_APART[self.name])
            return any(count >= limit for count in Counter(row[place] for row in self.rows).values())
        if self.name in _LIMITED_TOGETHER:
            places = [names.index(each) for each in _LIMITED_TOGETHER[self.name]]
            return len({tuple(str(row[place]).lower() for place in places) for row in self.rows}) >= limit
        return len(self.rows) >= limit

    def to_json(self) -> bytes:
        """A list of one object a row. Times are ISO 8601 with a Z, days as 2026-09-01, amounts are numbers with every digit."""
        names = [column.name for column in self.columns]
        objects = [dict(zip(names, map(_json, row), strict=True)) for row in self.rows]
        return orjson.dumps(objects, option=orjson.OPT_UTC_Z)

    def to_csv(self) -> str:
        """CSV (RFC 4180) under a line of column names; nothing for a value that is not there.

        Coupons' names and codes are typed by people, and a spreadsheet runs a text that looks like a formula: such a text
        gets an apostrophe before it.
        """
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([column.name for column in self.columns])
        writer.writerows([[csv_text(value) for value in row] for row in self.rows])
        return out.getvalue()

    def to_arrow(self) -> pa.Table:
        """An Arrow table: counts are int64, times microseconds of UTC, amounts, percentages and seconds decimal(38, 6), also
        where a column holds nothing; see `analytics.parquet`."""
        from analytics.parquet import to_arrow

        return to_arrow(self)

    def to_parquet(self) -> bytes:
        """The same as a Parquet file, whose columns say what they are."""
        from analytics.parquet import to_parquet

        return to_parquet(self)

    def __str__(self) -> str:
        """The rows as people read them, one below the other, under the columns' names."""
        lines = [[column.name for column in self.columns], *self.cells()]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def cells(self) -> list[list[str]]:
        """The rows as people read them: minutes of UTC, amounts without idle zeros, milliseconds, yes and no, – for nothing."""
        units = [column.unit for column in self.columns]
        return [[cell(value, unit) for value, unit in zip(row, units, strict=True)] for row in self.rows]


def plain(amount: Decimal) -> str:
    """The number without exponent and without idle zeros: 12.5, 10, 0."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(value: date) -> str:
    """A day, or an aware time of UTC, as ISO 8601 has it."""
    return value.isoformat().replace("+00:00", "Z")


def _json(value: Any) -> Any:
    # A float would lose digits, and a text would not be a number.
    return orjson.Fragment(plain(value)) if isinstance(value, Decimal) else value


def csv_text(value: Any) -> str:
    """A value as CSV has it; see `ReportResult.to_csv`."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return plain(value)
        case date():
            return iso(value)
        case str() if value.startswith(FORMULA_STARTS):
            return "'" + value
        case _:
            return str(value)


def cell(value: Any, unit: str) -> str:
    """A value as people read it; see `ReportResult.cells`. `unit`: its column's, one of `catalogue.UNITS`, or "" for none."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case Decimal() if unit == "seconds":
            return f"{value:.3f}"
        case Decimal():
            # The report rounds percentages, and in a column they read best with as many digits everywhere.
            return str(value) if unit == "percent" else plain(value)
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M")
        case _:
            return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(value))
