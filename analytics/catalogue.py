"""The reports there are: each a `.sql` file in `reports/`, named after the report, that answers one question.

The file begins with a header in comments:

    -- report: usage-per-coupon
    -- title: Usage per coupon
    -- group: usage
    -- question: What it answers, in a sentence for people.
    -- parameter: site   text       null  Only this site; null: every site.
    -- column: code      text             What the customer types.
    -- table: code, times_used

A parameter has a name, a type, a default and a sentence; the query reads it as `$name` and it is bound, never pasted. Its type
is one of EXPECTED, or the words that a text may be, as in `day|week|month`: they are taken in any case, and the query is given
them as the header spells them. So with a `zone`: it is given as IANA spells it, and `$tz` says where days begin, those too that
since and until name. A `count` is a bigint that is not negative. A `moment` is a timestamp that state is asked for as of: a date
means its end. A column has a name, a unit (see UNITS) and a sentence, in the order of the query's.
`table` names the columns that a table for people shows, where all would be too wide to read; programs get every column.
`group` is one of GROUPS, under which the report is listed.

What several reports ask in the same words stands once, in `clauses/`: common table expressions, each with the comma behind it,
put in the place of a line `-- include: NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo, available_timezones

from eventstore.errors import ReportError
from eventstore.nearest import did_you_mean

ParameterValue = str | int | date | datetime | None
"""What a query is given for a parameter: times are aware and UTC, and None is SQL's NULL (no restriction)."""

GROUPS = {
    "usage": "How coupons are used",
    "coupons": "What coupons there are",
    "checks": "What does not add up",
    "log": "What arrived, and who did what",
}
"""What reports are listed under: the word in their headers, and for people."""
UNITS = (
    "text",
    "boolean",
    "time",
    "date",
    "coupons",
    "uses",
    "events",
    "deliveries",
    "amount",
    "percent",
    "seconds",
    "days",
    "average",
)
"""What a column may hold. `time` is UTC and `date` one of its days, or of the zone that the report was asked for; `amount` is
in the site's currency; `percent` counts to 100; `seconds` is a span of time, to the microsecond,
and `days` one in days; an `average` of counts need not be whole; the rest are counts."""
EXPECTED = {
    "text": "a text",
    "date": "a date, as in 2026-09-01",
    "timestamp": "a date (its midnight, UTC or of `tz`) or a time with its zone, as in 2026-09-01 or 2026-09-01T12:00:00Z",
    "moment": "a date (its end, UTC or of `tz`) or a time with its zone, as in 2026-09-01 or 2026-09-01T12:00:00Z",
    "bigint": "a whole number",
    "count": "a whole number from 0 on",
    "boolean": "true or false",
    "zone": "an IANA time zone, as in Europe/Berlin or UTC",
}
"""The types of parameters, in words for people; a text may also be limited to choices."""

ALL = "all"
"""What is written for no value, which for a restriction means none: `limit=all`."""
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
_BIGINT = range(-(2**63), 2**63)
_CHOICES = re.compile(r"\w+(\|\w+)+")
_UTC = "UTC"
_HEADER = re.compile(r"^-- (report|title|group|question|parameter|column|table): +(.*)$")
_INCLUDE = re.compile(r"^-- include: +(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a report. `type` is one of EXPECTED; `choices`, of a text, are the words that it may be, if not any."""

    name: str
    type: str
    default: ParameterValue
    doc: str
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What it takes, in words for people."""
        return f"one of {_listed(self.choices)}" if self.choices else EXPECTED[self.type]

    @property
    def nullable(self) -> bool:
        """Whether it can be written that it has no value: as "" or ALL, which may themselves be meant where any text may be."""
        return (self.default is None or "null:" in self.doc) and (
            self.type not in ("text", "zone") or bool(self.choices)
        )

    def read(self, value: object, zone: str = "UTC") -> ParameterValue:
        """The value as the query takes it: typed already, or as text from a command line or a URL; None is no value, and of a
        zone or of choices the default. "" and ALL are no value where that means something (`nullable`). `zone`: whose days dates
        are.

        Raises ValueError saying what was expected.
        """
        if self.nullable and isinstance(value, str) and value.lower() in ("", ALL):
            return None
        if value is None:
            return self.default if self.choices or self.type == "zone" else None
        try:
            if isinstance(day := read_day(value), date) and self.type in ("timestamp", "moment"):
                return _begin(day, zone) if self.type == "timestamp" else _end(day, zone)
            return _chosen(value, self.choices) if self.choices else _READERS[self.type](value)
        except (ValueError, OverflowError) as error:
            hint = _hint(self, value)
            raise ValueError(f"the parameter {self.name} takes {self.expected}, not {value!r}{hint}") from error


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of a report. `unit` is one of UNITS."""

    name: str
    unit: str
    doc: str


@dataclass(frozen=True, slots=True)
class Report:
    """One question: what it is called, what it asks for and tells, and the query (DuckDB's dialect) that answers it.

    `table`: the columns that people are shown. `group`: one of GROUPS, or "" for one that is listed under none.
    """

    name: str
    title: str
    question: str
    parameters: tuple[Parameter, ...]
    columns: tuple[ReportColumn, ...]
    table: tuple[str, ...]
    sql: str
    group: str = ""

    def values(self, given: Mapping[str, object]) -> dict[str, ParameterValue]:
        """A value for every parameter: the given ones typed, else the defaults.

        Raises ReportError for a parameter that the report does not have, and for a value that is none of its type.
        """
        known = [each.name for each in self.parameters]
        for name in given:
            if name not in known:
                raise ReportError(
                    f"the report {self.name} has no parameter {name!r}{did_you_mean(name, known)}; it has {_listed(known)}"
                )
        try:
            # The zone first: where there is one, dates are days of it.
            zones = [each.read(given.get(each.name)) for each in self.parameters if each.type == "zone"]
            zone = str(zones[0]) if zones else _UTC
            found = {
                each.name: each.read(given[each.name], zone) if each.name in given else each.default
                for each in self.parameters
            }
        except ValueError as error:
            raise ReportError(f"the report {self.name}: {error}") from error
        since, until = found.get("since"), found.get("until")
        if isinstance(since, datetime) and isinstance(until, datetime) and since >= until:
            raise ReportError(
                f"the report {self.name}: nothing lies from since={since.isoformat()} to before until={until.isoformat()}; "
                "until is to be later, as the day after the last"
            )
        return found


@lru_cache(maxsize=1)
def reports() -> tuple[Report, ...]:
    """Every report, by name."""
    found = [
        parse(each.read_text(encoding="utf-8"), each.name)
        for each in (files("analytics") / "reports").iterdir()
        if each.name.endswith(".sql")
    ]
    return tuple(sorted(found, key=lambda each: each.name))


def report(name: str) -> Report:
    """The report of that name. Raises ReportError, listing the known ones and suggesting the nearest."""
    for each in reports():
        if each.name == name:
            return each
    known = [each.name for each in reports()]
    raise ReportError(f"there is no report {name!r}{did_you_mean(name, known)}; there are {_listed(known)}")


def parse(text: str, file_name: str) -> Report:
    """A Report from the text of its file. Raises ReportError naming the file and what is wrong with it."""
    header: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _HEADER.match(line)
        if match:
            header.setdefault(match[1], []).append(match[2].strip())
    for needed in ("report", "title", "question", "parameter", "column"):
        if needed not in header:
            raise ReportError(f"{file_name}: the header lacks `-- {needed}:`")
    name = header["report"][0]
    if file_name != f"{name}.sql":
        raise ReportError(f"{file_name}: the report calls itself {name}; name the file {name}.sql")
    try:
        parameters = tuple(_parameter(line) for line in header["parameter"])
        columns = tuple(_column(line) for line in header["column"])
    except ValueError as error:
        raise ReportError(f"{file_name}: {error}") from error
    names = [column.name for column in columns]
    shown = tuple(part.strip() for line in header.get("table", []) for part in line.split(",")) or tuple(names)
    if not set(shown) <= set(names):
        raise ReportError(
            f"{file_name}: the table shows {_listed(sorted(set(shown) - set(names)))}, which is no column"
        )
    group = header.get("group", [""])[0]
    if group and group not in GROUPS:
        raise ReportError(f"{file_name}: the group {group} is none of {_listed(GROUPS)}")
    sql = _INCLUDE.sub(lambda found: _clause(found[1], file_name), text)
    return Report(name, header["title"][0], header["question"][0], parameters, columns, shown, sql, group)


def _clause(name: str, file_name: str) -> str:
    """The text of a clause that a report includes."""
    try:
        return (files("analytics") / "clauses" / f"{name}.sql").read_text(encoding="utf-8").rstrip()
    except OSError as error:
        raise ReportError(f"{file_name}: `-- include: {name}` names no file {name}.sql in clauses/") from error


def _parameter(line: str) -> Parameter:
    name, type_, default, doc = _parts(line, 4, "a parameter's name, type, default and what it means")
    choices: tuple[str, ...] = ()
    if _CHOICES.fullmatch(type_):
        type_, choices = "text", tuple(type_.split("|"))
    if type_ not in EXPECTED:
        raise ValueError(
            f"the parameter {name} has the type {type_}; known are {', '.join(EXPECTED)}, and choices such as day|week"
        )
    undecided = Parameter(name, type_, None, doc, choices)
    return replace(undecided, default=undecided.read(None if default == "null" else default))


def _column(line: str) -> ReportColumn:
    name, unit, doc = _parts(line, 3, "a column's name, unit and what it means")
    if unit not in UNITS:
        raise ValueError(f"the column {name} has the unit {unit}; known are {', '.join(UNITS)}")
    return ReportColumn(name, unit, doc)


def _parts(line: str, count: int, wanted: str) -> list[str]:
    parts = line.split(None, count - 1)
    if len(parts) < count:
        raise ValueError(f"expected {wanted}, not {line!r}")
    return parts


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(value)


def _chosen(value: object, choices: tuple[str, ...]) -> str:
    spelled = {each.lower(): each for each in choices}
    if isinstance(value, str) and value.lower() in spelled:
        return spelled[value.lower()]
    raise ValueError(value)


def _zone(value: object) -> str:
    if isinstance(value, ZoneInfo) and value.key is not None:
        value = value.key
    if isinstance(value, str):
        # Known without any database of zones, for a machine may have none and this is the reports' default.
        if value.upper() == _UTC:
            return _UTC
        if value.lower() in _zones():
            return _zones()[value.lower()]
    raise ValueError(value)


@lru_cache(maxsize=1)
def _zones() -> dict[str, str]:
    """The names of time zones that this machine knows, by themselves in lower case."""
    # What it is set to itself is no name that another machine, or DuckDB, would understand.
    return {name.lower(): name for name in available_timezones() if name != "localtime"}


def _hint(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str):
        return ""
    if parameter.choices:
        return did_you_mean(value, parameter.choices)
    if parameter.type == "zone":
        if not _zones():
            return "; this machine has no database of time zones: `pip install tzdata` brings one"
        return did_you_mean(value, _zones().values())
    return ""


def read_day(value: object) -> date | None:
    """The value if it is a day, and not a time of one. Raises ValueError for one that no month has."""
    # A date has many spellings in ISO 8601; one is enough for people to read and to write.
    if isinstance(value, str) and _DATE.fullmatch(value):
        return date.fromisoformat(value)
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _date(value: object) -> date:
    found = read_day(value)
    if found is None:
        raise ValueError(value)
    return found


def _begin(day: date, zone: str) -> datetime:
    """When a day begins in a zone, in UTC: its midnight, or where clocks skip that, the moment that they do."""
    return datetime.combine(day, time(), _tzinfo(zone)).astimezone(UTC)


def _end(day: date, zone: str) -> datetime:
    """The last microsecond of a day in a zone, in UTC. As of a day the day is over, as everywhere that state is asked for as of
    one."""
    if day == date.max:
        return datetime.combine(day, time.max, UTC)
    return _begin(day + timedelta(days=1), zone) - timedelta(microseconds=1)


def _tzinfo(zone: str) -> tzinfo:
    return UTC if zone == _UTC else ZoneInfo(zone)


def _timestamp(value: object) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    # Without its zone a time could be any of a day's: better to ask than to guess.
    raise ValueError(value)


def _bigint(value: object) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in _BIGINT:
        return value
    raise ValueError(value)


def _count(value: object) -> int:
    number = _bigint(value)
    if number < 0:
        raise ValueError(value)
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError(value)


_READERS: dict[str, Callable[[object], ParameterValue]] = {
    "text": _text,
    "date": _date,
    "timestamp": _timestamp,
    "moment": _timestamp,
    "bigint": _bigint,
    "count": _count,
    "boolean": _boolean,
    "zone": _zone,
}
