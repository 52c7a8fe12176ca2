"""`eventstore sql`: the answer in each form, parameters, limits, what is refused and how that is said; and what it teaches."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import analytics
from analytics.query import ask
from analytics.teaching import find
from eventstore.errors import InputError, NotFound
from eventstore.projections.catalogue import projections
from tests.commands import Command, cells, run, run_bytes
from tests.processes import Program
from tests.serving import APPLIED, CREATED, PATIENCE, applied, created, environment, ndjson, wrapped

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
WORKED_SECONDS = 1.5
"""After so much of the processors' time a command that the tests start computes its answer: all before that takes less."""
ENDLESS = "SELECT a.range * b.range AS x FROM range(1000000) a, range(1000000) b"
COUNTED = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
SHOP = ndjson(
    wrapped(CREATED, created("e-1", "c-1", code="=SUM(A1)", name="Ten, off")),
    wrapped(CREATED, created("e-2", "c-2", code="TWENTY", percentOffRate=12.5)),
    wrapped(APPLIED, applied("e-3", "o-1", "c-1", code="=SUM(A1)")),
)


@pytest.fixture
def shop(eventstore: Command) -> Command:
    """Two coupons, one of them used once."""
    eventstore("ingest", "-", given=SHOP)
    return eventstore


# --- the answer -------------------------------------------------------------------------------------------------------


def test_an_answer_comes_as_a_table_json_csv_and_parquet(shop: Command, folder: Path) -> None:
    query = "SELECT coupon_id, code, discount_value, first_event_time AS at FROM coupons ORDER BY coupon_id"
    assert cells(shop("sql", query))[0] == ["coupon_id", "code", "discount_value", "at"]
    assert ["c-2", "TWENTY", "12.5", "2025-03-01 08:00:00"] in cells(shop("sql", query))
    assert shop.json("sql", query) == [
        {"coupon_id": "c-1", "code": "=SUM(A1)", "discount_value": None, "at": "2025-03-01T08:00:00Z"},
        {"coupon_id": "c-2", "code": "TWENTY", "discount_value": 12.5, "at": "2025-03-01T08:00:00Z"},
    ]
    done = run_bytes("--store", shop.url, "sql", query, "--csv")
    assert done.stdout == (
        b"coupon_id,code,discount_value,at\r\n"
        b"c-1,'=SUM(A1),,2025-03-01T08:00:00Z\r\n"
        b"c-2,TWENTY,12.5,2025-03-01T08:00:00Z\r\n"
    )
    assert shop("sql", query, "--parquet", "answer.parquet") == "answer.parquet: 2 rows at position 3\n"
    assert pq.read_table(folder / "answer.parquet").to_pylist()[0] == {
        "coupon_id": "c-1",
        "code": "=SUM(A1)",
        "discount_value": None,
        "at": datetime(2025, 3, 1, 8, tzinfo=UTC),
    }


def test_a_query_is_read_from_standard_input_or_a_file(shop: Command) -> None:
    query = b"-- how many\nSELECT count(*) AS coupons\nFROM coupons; -- that is all\n"
    assert shop.json("sql", "-", given=query) == [{"coupons": 2}]
    assert shop.json("sql", "--file", shop.file("query.sql", query)) == [{"coupons": 2}]
    assert "No such file" in shop.refused("sql", "--file", "none.sql", status=1)
    assert "is not UTF-8" in shop.refused("sql", "-", given=b"SELECT '\xff'", status=1)


def test_a_parameter_is_bound_as_text_and_never_pasted(shop: Command) -> None:
    query = "SELECT $given AS given, (SELECT count(*) FROM coupons WHERE code = $given) AS found"
    for text, found in (("TWENTY", 1), ("' OR 1=1 --", 0), ("1", 0), ("a=b", 0), ("", 0)):
        assert shop.json("sql", query, "-p", f"given={text}") == [{"given": text, "found": found}]
    late = "SELECT count(*) AS n FROM facts WHERE event_date >= CAST($day AS DATE)"
    assert shop.json("sql", late, "-p", "day=2025-03-02") == [{"n": 1}]
    assert "parameters: given" in shop.refused("sql", query, status=1)
    assert "Expected 0, got 1" in shop.refused("sql", "SELECT 1", "-p", "a=1", status=1)
    assert "Could not convert string 'x'" in shop.refused("sql", "SELECT CAST($a AS INT)", "-p", "a=x", status=1)
    assert run("--store", shop.url, "sql", "SELECT 1", "-p", "a").returncode == 2


def test_a_long_answer_is_cut_for_people_and_whole_for_programs(shop: Command) -> None:
    query = "SELECT range AS n FROM range(25000)"
    shown = shop("sql", query)
    assert [row for row in cells(shown) if row[0].isdigit()] == [[str(number)] for number in range(100)]
    assert "… and more rows: --limit N shows more" in shown
    assert "more rows" not in shop("sql", "SELECT range AS n FROM range(100)")
    assert [row[0] for row in cells(shop("sql", query, "--limit", "3"))[2:5]] == ["0", "1", "2"]
    assert [each["n"] for each in shop.json("sql", query)] == list(range(25_000))
    rows = list(csv.reader(io.StringIO(shop("sql", query, "--csv"))))
    assert rows == [["n"], *([str(number)] for number in range(25_000))]


def test_rows_too_wide_for_a_table_are_shown_one_below_the_other(shop: Command) -> None:
    shown = shop("sql", "SELECT * FROM events WHERE position = 2")
    assert ["row 1"] in cells(shown)
    assert ["coupon_id", "c-2"] in cells(shown)
    assert ["discount_value", "12.5"] in cells(shown)


def test_no_rows_and_no_values_are_told(shop: Command) -> None:
    assert "no rows" in shop("sql", "SELECT code FROM coupons WHERE false")
    assert shop.json("sql", "SELECT code FROM coupons WHERE false") == []
    assert shop("sql", "SELECT code FROM coupons WHERE false", "--csv").splitlines() == ["code"]
    assert shop.json("sql", "SELECT NULL AS nothing, '' AS empty") == [{"nothing": None, "empty": ""}]


def test_every_type_has_its_text(shop: Command) -> None:
    query = """
        SELECT 170141183460469231731687303715884105727::HUGEINT AS huge, 9007199254740993 AS big, 1.50::DECIMAL(9, 2) AS amount,
            DATE '2026-09-01' AS day, TIMESTAMP '2026-09-01 12:00:00.5' AS local, TIMESTAMPTZ '2026-09-01 12:00:00+02' AS at,
            TIME '10:00' AS clock, INTERVAL 90 MINUTE AS span, 'ab'::BLOB AS bytes, [1.5, NULL] AS list,
            {'a': DATE '2026-09-01', 'b': [true]} AS made, MAP {'x': 1} AS counts, 0.1::DOUBLE AS half,
            'nan'::DOUBLE AS unknown, '7b2e1c50-9d0f-4f57-9a4d-0d6f4a1c7b11'::UUID AS id
    """
    [row] = json.loads(shop("sql", query, "--json"), parse_float=Decimal)
    assert row == {
        "huge": 170141183460469231731687303715884105727,
        "big": 9007199254740993,
        "amount": Decimal("1.5"),
        "day": "2026-09-01",
        "local": "2026-09-01T12:00:00.500000",
        "at": "2026-09-01T10:00:00Z",
        "clock": "10:00:00",
        "span": "1:30:00",
        "bytes": "6162",
        "list": [Decimal("1.5"), None],
        "made": {"a": "2026-09-01", "b": [True]},
        "counts": {"x": 1},
        "half": Decimal("0.1"),
        "unknown": None,
        "id": "7b2e1c50-9d0f-4f57-9a4d-0d6f4a1c7b11",
    }
    [names, values] = csv.reader(io.StringIO(shop("sql", query, "--csv")))
    told = dict(zip(names, values, strict=True))
    assert told["huge"] == "170141183460469231731687303715884105727"
    assert (told["local"], told["at"]) == ("2026-09-01T12:00:00.500000", "2026-09-01T10:00:00Z")
    assert (told["list"], told["made"]) == ("[1.5,null]", '{"a":"2026-09-01","b":[true]}')
    assert shop("sql", query)


def test_two_columns_of_one_name_are_refused_where_one_would_be_lost(shop: Command, folder: Path) -> None:
    query = "SELECT 1 AS a, 2 AS a"
    for form in (["--json"], ["--parquet", "x.parquet"]):
        assert "two columns are called 'a'" in shop.refused("sql", query, *form, status=1)
    assert shop("sql", query, "--csv").splitlines() == ["a,a", "1,2"]
    assert not (folder / "x.parquet").exists()


def test_a_plan_and_a_description_are_shown(shop: Command) -> None:
    assert "╭" in shop("sql", "EXPLAIN SELECT count(*) FROM coupons")
    assert ["code", "VARCHAR", "YES", "–", "–", "–"] in cells(shop("sql", "DESCRIBE coupons"))
    assert {"name": "coupons"} in shop.json("sql", "SHOW TABLES")


def test_a_text_cannot_command_the_terminal(shop: Command) -> None:
    for arguments in (["SELECT chr(27) || '[2J' AS a"], ["SELECT [chr(27)] AS a"], ['SELECT 1 AS "a\x1b[2J"']):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", shop("sql", *arguments))


# --- its limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [[], ["--csv"], ["--json"], ["--parquet", "x.parquet"]], ids=["table", "csv", "json", "parquet"]
)
def test_a_query_past_its_time_is_ended_whether_or_not_it_has_begun_to_answer(
    shop: Command, folder: Path, form: list[str]
) -> None:
    assert "took longer than 0.3 seconds" in shop.refused("sql", COUNTED, "--time-limit", "0.3", *form, status=1)
    if form:
        done = shop.run("sql", ENDLESS, "--time-limit", "0.3", *form)
        assert done.returncode == 1
        assert "took longer than 0.3 seconds" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not list(folder.glob("*x.parquet*"))
    assert shop.json("sql", "SELECT 1 AS a") == [{"a": 1}]


def test_the_reader_s_own_time_is_not_counted(shop: Command) -> None:
    with (
        analytics.connect(shop.url) as connection,
        ask(connection, "SELECT range FROM range(30000)", time_limit=2) as answer,
    ):
        rows = answer.rows()
        assert next(rows) == (0,)
        ended = datetime.now(UTC) + timedelta(seconds=2.5)
        while datetime.now(UTC) < ended:
            pass
        assert sum(1 for _ in rows) == 29_999


def test_a_query_past_its_memory_is_refused(shop: Command) -> None:
    query = "SELECT list(uuid()::VARCHAR) FROM range(10000000)"
    assert "needs more memory" in shop.refused("sql", query, "--memory-limit", "64MB", status=1)
    assert "memory_limit='lots'" in shop.refused("sql", query, "--memory-limit", "lots", status=1)
    for size in ("1KB", "100KB"):
        for arguments in (["sql", query], ["export", "-o", "x.csv"]):
            assert "memory" in shop.refused(*arguments, "--memory-limit", size, status=1)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_ctrl_c_ends_a_query(shop: Command, folder: Path) -> None:
    arguments = ["--store", shop.url, "sql", ENDLESS, "--csv"]
    process = Program(arguments, cwd=folder, env=environment(), errors=folder / "stderr.txt")
    try:
        lines = process.lines()
        assert [next(lines).strip(), next(lines).strip()] == ["x", "0"]
        process.send_signal(signal.SIGINT)
        for _ in lines:
            pass
        status, _ = process.ended(PATIENCE)
    finally:
        process.kill()
    assert status == 130
    assert (folder / "stderr.txt").read_text().splitlines()[-1] == "interrupted"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("form", "number"),
    [(["--csv"], signal.SIGINT), (["--parquet", "x.parquet"], signal.SIGTERM)],
    ids=["csv-SIGINT", "parquet-SIGTERM"],
)
def test_a_signal_ends_a_query_before_its_first_row_too(
    shop: Command, folder: Path, form: list[str], number: signal.Signals
) -> None:
    shop("lake", "catch-up")
    counting = "SELECT count(*) AS n FROM range(100000000000) WHERE range % 7 = 3"
    arguments = ["--store", shop.url, "sql", counting, "--time-limit", "600", *form]
    process = Program(arguments, cwd=folder, env=environment(), errors=folder / "stderr.txt")
    try:
        used = 0.0
        deadline = time.monotonic() + PATIENCE
        while used < WORKED_SECONDS:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            told = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
        process.send_signal(number)
        status, _ = process.ended(PATIENCE)
    finally:
        process.kill()
    assert (folder / "stderr.txt").read_text().split() == ["interrupted"]
    assert status == 130
    assert not list(folder.glob("*x.parquet*"))


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("DROP VIEW coupons", "only answers questions: .*; not DROP"),
        ("COPY coupons TO 'out.csv'", "only answers questions"),
        ("SET memory_limit = '64GB'", "only answers questions"),
        ("ATTACH 'other.db'", "only answers questions"),
        ("SELECT 1; SELECT 2", "one query is wanted here, not 2"),
        ("", "one query is wanted here, not 0"),
        ("SELECT * FROM '/etc/passwd'", "there is no table '/etc/passwd'; there are events, facts"),
        ("SELECT * FROM read_csv('/etc/passwd')", "file system operations are disabled|Cannot access"),
        ("SELECT * FROM coupns", r"no table 'coupns' \(did you mean coupons"),
        ("SELECT 1\nFROM Redemption", r"no table 'Redemption' \(did you mean redemptions\?\) \(line 2\)"),
        ("SELECT * FROM coupon_as_of('2026-09-01')", r"did you mean coupons_as_of"),
        ("SELECT cod FROM coupons", '"cod" not found in FROM clause! Candidate bindings: "code"'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 'a'::INT", "Could not convert string 'a'"),
    ],
)
def test_a_refusal_is_one_line_that_says_why(shop: Command, folder: Path, query: str, why: str) -> None:
    before = sorted(folder.iterdir())
    assert re.search(why, shop.refused("sql", query, status=1))
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["SELECT 1", "--file", "x.sql"],
        ["SELECT 1", "--json", "--parquet", "x"],
        ["--tables", "coupons", "--csv"],
        ["SELECT 1", "--tables", "coupons"],
        ["SELECT 1", "--time-limit", "0"],
        ["SELECT 1", "--time-limit", "nan"],
        ["SELECT 1", "--csv", "--json"],
        ["SELECT 1", "--csv", "--limit", "3"],
        ["SELECT $a", "-p", "a=1", "-p", "a=2"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_as_such(shop: Command, arguments: list[str]) -> None:
    assert shop.run("sql", *arguments).returncode == 2


def test_a_file_that_cannot_be_written_is_named(shop: Command) -> None:
    assert "none/x.parquet cannot be written" in shop.refused(
        "sql", "FROM coupons", "--parquet", "none/x.parquet", status=1
    )
    assert "CAST it" in shop.refused("sql", "SELECT INTERVAL 1 DAY AS i", "--parquet", "x.parquet", status=1)


# --- what it teaches --------------------------------------------------------------------------------------------------


def test_it_teaches_what_there_is_to_ask_without_a_store(folder: Path) -> None:
    listed = run("sql", "--tables")
    assert listed.returncode == 0
    for name in ("events", "facts", "coupons", "redemptions", "coupon_usage", "changes", "coupons_as_of(moment)"):
        assert any(row[0] == name and len(row) == 3 for row in cells(listed.stdout))
    told = json.loads(run("sql", "--tables", "--json").stdout)
    assert all(column["doc"] and column["type"] for each in told for column in each["columns"])
    one = run("sql", "--tables", "coupons").stdout
    for column in projections().find("coupons").shown:
        assert any(row[0] == column.name and row[2] == column.doc for row in cells(one))
    unknown = run("sql", "--tables", "cupons")
    assert unknown.returncode == 3
    assert "did you mean coupons?" in unknown.stderr
    assert list(folder.iterdir()) == []


def test_what_it_teaches_is_what_the_connection_has(shop: Command) -> None:
    with analytics.connect(shop.url) as connection:
        for each in analytics.askable():
            called = each.usage.partition("(")[0]
            if "(" in each.usage:
                called += "(" + ", ".join("now()" for _ in each.usage.split(",")) + ")"
            found = connection.execute(f"DESCRIBE SELECT * FROM {called}").fetchall()
            told = [(column.name, column.type) for column in each.columns]
            assert [
                (name, type_.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for name, type_, *_ in found
            ] == told
        assert set(connection.tables) <= {each.name for each in analytics.askable()}


def test_the_lake_that_is_named_is_asked(shop: Command, folder: Path) -> None:
    assert shop.json("sql", "SELECT count(*) AS n FROM events", "--lake", str(folder / "elsewhere")) == [{"n": 3}]
    assert (folder / "elsewhere" / "events").is_dir()


# --- the library ------------------------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_in_python(shop: Command) -> None:
    with analytics.connect(shop.url) as connection:
        with analytics.ask(connection, "SELECT code FROM coupons WHERE code = $code", {"code": "TWENTY"}) as answer:
            assert [(each.name, each.type) for each in answer.columns] == [("code", "VARCHAR")]
            assert list(answer.rows()) == [("TWENTY",)]
            assert answer.position == 3
        with pytest.raises(InputError, match="only answers"), analytics.ask(connection, "DROP VIEW coupons") as answer:
            list(answer.rows())
        with analytics.ask(connection, "SELECT 1") as answer:
            assert list(answer.rows()) == [(1,)]
    with pytest.raises(NotFound, match="did you mean facts"):
        find("fact", analytics.askable())
