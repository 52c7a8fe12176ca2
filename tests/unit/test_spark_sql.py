"""DuckDB's SQL written for Spark: what can be said of it without a Spark. That it means the same, test_spark.py asks Spark."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

import analytics
from analytics import spark
from eventstore.errors import InputError

sqlglot = pytest.importorskip("sqlglot", reason="SQLGlot is not installed: pip install '.[spark]'")

from analytics.spark_sql import spark_query, spark_type  # noqa: E402 - it imports SQLGlot


@pytest.mark.parametrize("name", [each.name for each in analytics.reports()])
def test_every_report_is_written_for_spark_and_bound(name: str) -> None:
    report = analytics.report(name)
    texts = {
        each.name: f"{each.name} '; DROP" for each in report.parameters if each.type == "text" and not each.choices
    }
    query = spark_query(report.sql, report.values(texts))
    tree = sqlglot.parse_one(query.text, read="spark")
    assert [column.alias_or_name for column in tree.selects] == [column.name for column in report.columns]
    assert query.texts.items() >= texts.items()
    assert "DROP" not in query.text
    assert "$" not in query.text
    assert "--" not in query.text


def test_values_are_typed_literals_and_texts_are_left_for_spark_to_bind() -> None:
    given = {
        "number": 7,
        "amount": Decimal("-1.50"),
        "yes": True,
        "day": date(2026, 9, 1),
        "time": datetime(2026, 9, 1, 12, tzinfo=UTC),
        "text": "it's",
        "nothing": None,
    }
    query = spark_query("SELECT $number, $amount, $yes, $day, $time, $text, $nothing", given)
    assert query.text == (
        "SELECT CAST(7 AS BIGINT), CAST(-1.50 AS DECIMAL(3, 2)), TRUE, CAST('2026-09-01' AS DATE), "
        "CAST('2026-09-01T12:00:00+00:00' AS TIMESTAMP), :text, NULL"
    )
    assert query.texts == {"text": "it's"}


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.5, "1.5"), (datetime(2026, 9, 1), "a time with its zone"), (Decimal("NaN"), "NaN"), (["a"], "a")],  # noqa: DTZ001
    ids=str,
)
def test_a_value_that_both_engines_would_not_read_alike_is_refused(value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        spark_query("SELECT $value", {"value": value})


def test_calls_of_macros_become_their_queries_with_names_of_their_own() -> None:
    text = spark_query("SELECT * FROM coupons_as_of(now()) AS a JOIN known_at(now()) AS b USING (coupon_id)").text
    names = [each.alias for each in sqlglot.parse_one(text, read="spark").find_all(sqlglot.exp.CTE)]
    assert len(names) == len(set(names)) == 14
    assert "coupons_as_of(" not in text


@pytest.mark.parametrize(
    ("duck", "there"),
    [
        ("VARCHAR", "STRING"),
        ("TIMESTAMPTZ", "TIMESTAMP"),
        ("DECIMAL(18,6)", "DECIMAL(18, 6)"),
        ("MAP(VARCHAR, BIGINT)", "MAP<STRING, BIGINT>"),
        ("VARCHAR[]", "ARRAY<STRING>"),
        ("JSON", "STRING"),
    ],
)
def test_columns_have_spark_s_types(duck: str, there: str) -> None:
    assert spark_type(duck) == there


def test_files_are_found_by_the_names_that_hadoop_has_for_their_places() -> None:
    assert spark.address("/lake/events/part-0.parquet") == "file:///lake/events/part-0.parquet"
    assert spark.address("s3://shop/lake/part-0.parquet") == "s3a://shop/lake/part-0.parquet"
    assert spark.address("gs://shop/lake/part-0.parquet") == "gs://shop/lake/part-0.parquet"


def test_without_spark_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(InputError, match=r"pip install .*\[spark\]"):
        spark.connect("sqlite:///there-is-none.db")
