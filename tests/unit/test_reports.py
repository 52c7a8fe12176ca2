"""Reports without a store: their files, their parameters, and the three ways to read an answer."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import analytics
from analytics.catalogue import EXPECTED, UNITS, Parameter, ReportColumn, parse
from analytics.results import ReportResult
from eventstore.errors import ReportError

FILE = """\
-- report: wide
-- title: Wide
-- question: How wide?
-- parameter: site   text    null  Only this site.
-- parameter: least  bigint  3     The least width.
-- column: width     uses    How wide it is.

SELECT 1 AS width WHERE $least < 4 OR $site IS NULL
"""

WITHOUT_SPAN = {
    "code-reuse",  # whether coupons met shows only over their whole lives
    "unused-and-expiring",  # it looks from a moment ahead
    "register",  # it tells of a moment
    "reconciliation",  # Wix counts from a coupon's first day on: against a span of time its counter says nothing
}
"""The reports that a span of time makes no sense for."""


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_file_in_the_folder_is_a_report_and_they_are_listed_by_name() -> None:
    names = sorted(each.name for each in (files("analytics") / "reports").iterdir())
    assert [f"{each.name}.sql" for each in analytics.reports()] == names
    assert {"usage-per-coupon", "usage-per-discount-type"} <= {each.name for each in analytics.reports()}


@pytest.mark.parametrize("report", analytics.reports(), ids=lambda report: report.name)
def test_every_report_says_all_that_its_readers_need(report: analytics.Report) -> None:
    assert report.title
    assert report.question.endswith("?")
    wanted = {"site"} if report.name in WITHOUT_SPAN else {"site", "since", "until"}
    assert wanted <= {each.name for each in report.parameters}
    for each in report.parameters:
        assert each.type in EXPECTED
        assert each.doc.endswith(".")
        assert f"${each.name}" in report.sql
    for column in report.columns:
        assert column.unit in UNITS
        assert column.doc.endswith(".")


def test_a_file_is_read_into_a_report() -> None:
    report = parse(FILE, "wide.sql")
    assert (report.name, report.title, report.question) == ("wide", "Wide", "How wide?")
    assert report.parameters == (
        Parameter("site", "text", None, "Only this site."),
        Parameter("least", "bigint", 3, "The least width."),
    )
    assert report.columns == (ReportColumn("width", "uses", "How wide it is."),)
    assert report.sql == FILE


def test_a_text_may_be_limited_to_choices_of_which_one_may_be_the_default() -> None:
    report = parse(FILE.replace("site   text    null", "site   here|over_there  HERE"), "wide.sql")
    assert report.parameters[0] == Parameter("site", "text", "here", "Only this site.", ("here", "over_there"))
    assert report.values({"site": "Over_There"}) == {"site": "over_there", "least": 3}
    assert report.values({"site": None}) == {"site": "here", "least": 3}


@pytest.mark.parametrize("part", ["report", "title", "question", "parameter", "column"])
def test_a_file_that_lacks_a_part_of_its_header_is_refused_by_name(part: str) -> None:
    text = "\n".join(line for line in FILE.splitlines() if not line.startswith(f"-- {part}:"))
    with pytest.raises(ReportError, match=rf"wide\.sql: .*{part}"):
        parse(text, "wide.sql")


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ("site   text    null  Only this site.", "site", "name, type, default"),
        ("site   text    null  Only this site.", "site varchar null Only this site.", "site has the type varchar"),
        ("site   text    null  Only this site.", "site a|b c Only this site.", "site takes one of a, b, not 'c'"),
        ("site   text    null  Only this site.", "site a|b| a Only this site.", r"site has the type a\|b\|"),
        ("site   text    null  Only this site.", "site zone Berlin Only this site.", "site takes an IANA time zone"),
        ("least  bigint  3     The least width.", "least bigint three The least width.", "least takes a whole number"),
        ("width     uses    How wide it is.", "width uses", "name, unit"),
        ("width     uses    How wide it is.", "width metres How wide it is.", "width has the unit metres"),
        ("report: wide", "report: narrow", "name the file narrow.sql"),
    ],
)
def test_a_wrong_header_line_is_refused_with_what_is_wrong(line: str, wrong: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        parse(FILE.replace(line, wrong), "wide.sql")


def test_what_several_reports_ask_is_put_in_where_they_include_it() -> None:
    parsed = parse(f"{FILE}\n-- include: after-deletion\n", "wide.sql")
    assert "-- include" not in parsed.sql
    assert "perhaps_deleted" in parsed.sql
    with pytest.raises(ReportError, match=r"wide\.sql: `-- include: before-noon` names no file before-noon\.sql"):
        parse(f"{FILE}\n-- include: before-noon\n", "wide.sql")
    clauses = {each.name.removesuffix(".sql") for each in (files("analytics") / "clauses").iterdir()}
    texts = [each.read_text(encoding="utf-8") for each in (files("analytics") / "reports").iterdir()]
    included = [name for name in clauses if sum(f"-- include: {name}\n" in text for text in texts) > 1]
    assert set(included) == clauses


def test_an_unknown_report_lists_what_there_is_and_suggests_the_nearest() -> None:
    with pytest.raises(ReportError) as refusal:
        analytics.report("usage-by-coupon")
    assert "did you mean usage-per-coupon?" in str(refusal.value)
    assert "usage-per-discount-type" in str(refusal.value)
    with pytest.raises(ReportError, match="no report 'xyzzy'; there are"):
        analytics.report("xyzzy")


# --- parameters -------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("type_", "given", "read"),
    [
        ("text", "ABC", "ABC"),
        ("text", "", ""),
        ("bigint", "-12", -12),
        ("bigint", 12, 12),
        ("bigint", str(2**63 - 1), 2**63 - 1),
        ("count", "0", 0),
        ("count", 2**63 - 1, 2**63 - 1),
        ("zone", "UTC", "UTC"),
        ("zone", "utc", "UTC"),
        ("zone", "Europe/Berlin", "Europe/Berlin"),
        ("zone", "america/argentina/buenos_aires", "America/Argentina/Buenos_Aires"),
        ("zone", ZoneInfo("Asia/Tokyo"), "Asia/Tokyo"),
        ("boolean", "Yes", True),
        ("boolean", "false", False),
        ("boolean", True, True),
        ("date", "2026-09-01", date(2026, 9, 1)),
        ("date", date(2026, 9, 1), date(2026, 9, 1)),
        ("timestamp", "2026-09-01", datetime(2026, 9, 1, tzinfo=UTC)),
        ("timestamp", date(2026, 9, 1), datetime(2026, 9, 1, tzinfo=UTC)),
        ("timestamp", "2026-09-01T12:00:00Z", NOON),
        ("timestamp", "2026-09-01 14:00+02:00", NOON),
        ("timestamp", NOON.astimezone(timezone(timedelta(hours=-7))), NOON),
        ("timestamp", None, None),
        ("moment", "2026-09-01", datetime(2026, 9, 1, 23, 59, 59, 999_999, UTC)),
        ("moment", date(2026, 9, 1), datetime(2026, 9, 1, 23, 59, 59, 999_999, UTC)),
        ("moment", "2026-09-01T14:00+02:00", NOON),
        ("moment", NOON, NOON),
        ("moment", None, None),
    ],
)
def test_a_value_is_read_as_its_type(type_: str, given: object, read: object) -> None:
    value = Parameter("p", type_, None, "").read(given)
    assert (value, type(value)) == (read, type(read))
    if isinstance(value, datetime):
        assert value.tzinfo is UTC


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        ("text", 5),
        ("bigint", "1.5"),
        ("bigint", "1_000"),
        ("bigint", "٣"),
        ("bigint", True),
        ("bigint", 2**63),
        ("bigint", "9999999999999999999"),
        ("count", "-1"),
        ("count", -1),
        ("count", "two"),
        ("zone", ""),
        ("zone", "+02:00"),
        ("zone", "/etc/passwd"),
        ("zone", "\x00"),
        ("zone", UTC),
        ("zone", 2),
        ("boolean", "maybe"),
        ("boolean", 1),
        ("date", "1.9.2026"),
        ("date", "2026-02-30"),
        ("date", NOON),
        ("timestamp", "yesterday"),
        ("timestamp", "2026-09-01T12:00:00"),
        ("timestamp", NOON.replace(tzinfo=None)),
        ("timestamp", "0001-01-01T00:00:00+14:00"),
        ("timestamp", 1_788_264_000),
        ("moment", "2026-09-01T12:00:00"),
        ("moment", "now"),
    ],
)
def test_a_value_of_another_type_is_refused_naming_what_was_given_and_expected(type_: str, given: object) -> None:
    report = parse(FILE.replace("least  bigint  3", f"least {type_} null"), "wide.sql")
    with pytest.raises(ReportError) as refusal:
        report.values({"least": given})
    assert str(refusal.value) == f"the report wide: the parameter least takes {EXPECTED[type_]}, not {given!r}"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("Europe/Berln", " (did you mean Europe/Berlin?)"),
        ("europe/pariss", " (did you mean Europe/Paris?)"),
        ("../Europe/Berlin", " (did you mean Europe/Berlin?)"),
        ("posix/Europe/Berlin", " (did you mean Europe/Berlin?)"),
        ("5", ""),
    ],
)
def test_a_zone_that_there_is_not_is_refused_with_the_nearest(given: str, hint: str) -> None:
    report = parse(FILE.replace("site   text    null", "site   zone    UTC"), "wide.sql")
    with pytest.raises(ReportError) as refusal:
        report.values({"site": given})
    wanted = f"the report wide: the parameter site takes {EXPECTED['zone']}, not {given!r}{hint}"
    assert str(refusal.value) == wanted


def test_a_machine_without_a_database_of_zones_knows_utc_and_says_what_is_missing() -> None:
    program = """
import analytics
report = analytics.report("usage-over-time")
print(report.values({})["tz"])
report.values({"tz": "Europe/Berlin"})
"""
    nowhere = os.environ | {"PYTHONTZPATH": os.sep + "nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=nowhere, capture_output=True, text=True, check=False)
    if importlib.util.find_spec("tzdata") is None:
        assert done.stdout == "UTC\n"
        assert "no database of time zones: `pip install tzdata` brings one" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_a_word_that_is_no_choice_is_refused_with_those_there_are() -> None:
    report = parse(FILE.replace("site   text    null", "site   day|week|month  day"), "wide.sql")
    with pytest.raises(ReportError) as refusal:
        report.values({"site": "weeks"})
    wanted = "the parameter site takes one of day, week, month, not 'weeks' (did you mean week?)"
    assert str(refusal.value) == f"the report wide: {wanted}"
    with pytest.raises(ReportError, match="takes one of day, week, month, not 7"):
        report.values({"site": 7})


@pytest.mark.parametrize(
    ("zone", "day", "begins", "ends"),
    [
        ("UTC", "2026-09-15", "2026-09-15T00:00:00+00:00", "2026-09-15T23:59:59.999999+00:00"),
        ("America/Los_Angeles", "2026-09-15", "2026-09-15T07:00:00+00:00", "2026-09-16T06:59:59.999999+00:00"),
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00+00:00", "2026-03-29T21:59:59.999999+00:00"),  # of 23 hours
        ("europe/berlin", "2026-10-25", "2026-10-24T22:00:00+00:00", "2026-10-25T22:59:59.999999+00:00"),  # of 25
        (
            "America/Santiago",
            "2026-09-06",
            "2026-09-06T04:00:00+00:00",
            "2026-09-07T02:59:59.999999+00:00",
        ),  # no midnight
        (
            "America/Havana",
            "2026-11-01",
            "2026-11-01T04:00:00+00:00",
            "2026-11-02T04:59:59.999999+00:00",
        ),  # two midnights
        ("Pacific/Kiritimati", "2026-01-01", "2025-12-31T10:00:00+00:00", "2026-01-01T09:59:59.999999+00:00"),
    ],
)
def test_a_date_is_a_day_of_the_zone_that_the_report_is_asked_for(zone: str, day: str, begins: str, ends: str) -> None:
    zoned = "-- parameter: tz     zone       UTC   The zone.\n-- parameter: since timestamp null From then.\n"
    text = FILE.replace("-- column", f"{zoned}-- parameter: as_of  moment     null  As of then.\n-- column")
    report = parse(text, "wide.sql")
    for given in (day, date.fromisoformat(day)):
        found = report.values({"since": given, "as_of": given, "tz": zone})
        assert found["since"] == datetime.fromisoformat(begins)
        assert found["as_of"] == datetime.fromisoformat(ends)
    assert report.values({"tz": zone, "since": f"{day}T12:00:00Z"})["since"] == datetime.fromisoformat(
        f"{day}T12:00:00Z"
    )
    assert parse(text.replace("tz     zone       UTC", "tz     text       UTC"), "wide.sql").values(
        {"since": day, "tz": zone}
    )["since"] == datetime.fromisoformat(f"{day}T00:00:00Z")


@pytest.mark.parametrize("given", ["all", "ALL", ""])
def test_all_or_nothing_lifts_a_restriction_but_where_it_is_a_text(given: str) -> None:
    for report, name in (
        ("redemptions", "limit"),
        ("findings", "since"),
        ("register", "status"),
        ("register", "as_of"),
    ):
        assert analytics.report(report).values({name: given})[name] is None
    assert analytics.report("redemptions").values({"site": given})["site"] == given
    for report, name in (("unused-and-expiring", "days"), ("usage-over-time", "per"), ("usage-over-time", "tz")):
        with pytest.raises(ReportError, match=f"the parameter {name} takes"):
            analytics.report(report).values({name: given})


def test_a_span_that_nothing_lies_in_is_refused() -> None:
    report = analytics.report("redemptions")
    for until in ("2026-09-01", "2026-08-31", "2026-09-01T00:00:00Z"):
        with pytest.raises(ReportError, match="until is to be later"):
            report.values({"since": "2026-09-01", "until": until})
    assert report.values({"since": "2026-09-01", "until": "2026-09-01T00:00:01Z"})["until"] is not None


def test_an_answer_that_its_limit_may_have_cut_says_so() -> None:
    def cut(name: str, columns: str, rows: list[tuple[str, str]], limit: int | None) -> bool:
        parts = tuple(ReportColumn(each, "text", "") for each in columns.split())
        return ReportResult(name, "", {"limit": limit}, 1, parts, tuple(rows)).cut

    rows = [("a", "X"), ("a", "x"), ("b", "X")]
    for limit, wanted in ((None, False), (2, True), (3, True), (4, False)):
        assert cut("redemptions", "site_id code", rows, limit) == wanted
    for limit, wanted in ((None, False), (1, True), (2, True), (3, False)):
        assert cut("code-reuse", "site_id code", rows, limit) == wanted  # two codes, one of two coupons
        assert cut("findings", "code what", rows, limit) == wanted  # two of one
    assert not ReportResult("r", "", {}, 1, (), ((),)).cut


def test_what_is_not_given_has_its_default() -> None:
    assert parse(FILE, "wide.sql").values({"site": "a"}) == {"site": "a", "least": 3}
    assert parse(FILE, "wide.sql").values({"least": None}) == {"site": None, "least": None}


def test_an_unknown_parameter_is_refused_with_those_there_are() -> None:
    with pytest.raises(ReportError, match=r"wide has no parameter 'sight' \(did you mean site\?\); it has site, least"):
        parse(FILE, "wide.sql").values({"sight": "a"})


# --- answers ----------------------------------------------------------------------------------------------------------


def answer(*values: Any, unit: str = "text") -> ReportResult:
    columns = tuple(ReportColumn(f"c{number}", unit, "") for number in range(len(values)))
    return ReportResult("r", "R", {}, 1, columns, (values,))


def test_json_has_exact_numbers_and_times_in_utc() -> None:
    time = datetime(2026, 9, 1, 12, 0, 5, tzinfo=UTC)
    told = answer(
        "a", 2**62, True, None, Decimal("12345678901.123456"), Decimal("10.000000"), time, time.replace(microsecond=40)
    ).to_json()
    assert told == (
        b'[{"c0":"a","c1":4611686018427387904,"c2":true,"c3":null,"c4":12345678901.123456,"c5":10,'
        b'"c6":"2026-09-01T12:00:05Z","c7":"2026-09-01T12:00:05.000040Z"}]'
    )
    assert json.loads(told, parse_float=Decimal)[0]["c4"] == Decimal("12345678901.123456")


@pytest.mark.parametrize(("amount", "text"), [("0.000000", "0"), ("-0.50", "-0.5"), ("1E+3", "1000"), ("100", "100")])
def test_an_amount_is_a_plain_number(amount: str, text: str) -> None:
    result = answer(Decimal(amount), unit="amount")
    assert result.to_json() == f'[{{"c0":{text}}}]'.encode()
    assert result.to_csv() == f"c0\r\n{text}\r\n"
    assert result.cells() == [[text]]


def test_csv_quotes_as_rfc_4180_says() -> None:
    values = ('say "hi", they said', "two\nlines", "plain", None, True, -3, Decimal("1.50"), NOON)
    told = answer(*values).to_csv()
    assert told == (
        'c0,c1,c2,c3,c4,c5,c6,c7\r\n"say ""hi"", they said","two\nlines",plain,,true,-3,1.5,2026-09-01T12:00:00Z\r\n'
    )
    assert list(csv.reader(io.StringIO(told, newline="")))[1][:2] == ['say "hi", they said', "two\nlines"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_text_that_a_spreadsheet_would_run_is_made_harmless(start: str) -> None:
    text = f'{start}HYPERLINK("http://evil","x")'
    told = list(csv.reader(io.StringIO(answer(text, "a=b").to_csv(), newline="")))
    assert told[1] == ["'" + text, "a=b"]


def test_people_read_minutes_and_no_idle_zeros() -> None:
    time = datetime(2026, 9, 1, 12, 0, 59, tzinfo=UTC)
    assert answer("A", None, True, False, 12, Decimal("12.500000"), time).cells() == [
        ["A", "–", "yes", "no", "12", "12.5", "2026-09-01 12:00"]
    ]
    assert answer(Decimal("40.0"), unit="percent").cells() == [["40.0"]]


def test_a_name_cannot_steer_the_terminal() -> None:
    assert answer("a\x1b[2Jb\u202ec").cells() == [["a\ufffd[2Jb\ufffdc"]]


def test_no_rows_are_an_empty_list_and_a_header_line() -> None:
    result = ReportResult("r", "R", {}, 0, (ReportColumn("a", "text", ""), ReportColumn("b", "uses", "")), ())
    assert (result.to_json(), result.to_csv(), result.cells()) == (b"[]", "a,b\r\n", [])
    assert str(result) == "a  b"


def test_an_answer_is_printed_in_columns() -> None:
    assert str(answer("A", None, 12)).splitlines() == ["c0  c1  c2", "A   –   12"]
