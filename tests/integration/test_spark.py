"""The reports on Spark: whatever is asked, they answer as DuckDB does, row by row and in the same order.

Wants PySpark (`pip install '.[spark]'`) and Java, and is skipped without. What Spark reads is the lake, which is the same of a
SQLite store and of a PostgreSQL one, so these run on SQLite.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings

import analytics
from analytics.catalogue import Parameter
from analytics.connect import AnalyticsConnection
from analytics.lake import Lake, levels
from eventstore.demo import examples, month
from eventstore.errors import InputError
from eventstore.event import Event
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore
from tests.commands import run
from tests.histories import every_close_call, histories
from tests.serving import command, environment
from tests.stores import SqliteStores

pytest.importorskip("sqlglot", reason="SQLGlot is not installed: pip install '.[spark]'")
pytest.importorskip("pyspark", reason="PySpark is not installed: pip install '.[spark]'")
if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
    pytest.skip("Java is not installed, and Spark runs on it", allow_module_level=True)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from analytics.spark import SparkConnection

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "OFF",
    "spark.driver.memory": "2g",
    # No query runs for long enough to be worth compiling well.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}
"""One process on this machine, and nothing on its streams."""
AT = datetime(2026, 9, 20, 12, 30, tzinfo=UTC)
"""What is now to reports that look at the clock, which would else tell each engine another time."""
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "EST")
DRAWS = 1
"""Questions with parameters drawn at random, for each report and store, beside the one without any: each takes Spark seconds."""
HISTORIES = 60
"""Histories drawn at random, each in sites of its own."""
EVERY = 9
"""Of the close calls every so-manieth."""
NAMES = [each.name for each in analytics.reports()]
SPARK_SECONDS = 300.0
"""What a process with a Spark of its own may take."""


@dataclasses.dataclass(frozen=True)
class Both:
    """A moment of a lake, open for both engines."""

    duck: AnalyticsConnection
    spark: SparkConnection

    def agree(self, name: str, **parameters: object) -> analytics.ReportResult:
        """What both answer."""
        here, there = analytics.run_report(self.duck, name, **parameters), self.spark.run_report(name, **parameters)
        asked = f"{name} {parameters}"
        assert len(here.rows) == len(there.rows), asked
        for number, (ours, theirs) in enumerate(zip(here.rows, there.rows, strict=True)):
            assert exactly(ours) == exactly(theirs), f"row {number} of {asked}"
        assert dataclasses.replace(here, rows=()) == dataclasses.replace(there, rows=())
        return here

    def same(self, query: str, parameters: dict[str, object] | None = None) -> list[tuple[Any, ...]]:
        """What both answer to free SQL."""
        here = self.duck.execute(query, parameters).fetchall()
        there = self.spark.sql(query, parameters).toArrow()
        columns = [column.to_pylist() for column in there.columns]
        assert [tuple(map(plain, row)) for row in here] == [
            tuple(map(plain, row)) for row in zip(*columns, strict=True)
        ]
        return here


def exactly(row: tuple[Any, ...]) -> list[tuple[type, str]]:
    """A row with its types and digits: 1, 1.0, Decimal("1") and True are four things, and so are 1.5 and 1.50."""
    return [(type(value), repr(value)) for value in row]


def plain(value: Any) -> Any:
    """Maps are pairs to Arrow, and times have a zone that is equal to UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, dict):
        return sorted(value.items())
    return sorted(value) if isinstance(value, list) and value and isinstance(value[0], tuple) else value


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    """A Spark in this process."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("tests")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    started = builder.getOrCreate()
    yield started
    started.stop()


@contextmanager
def both(url: str, session: SparkSession, **more: Any) -> Iterator[Both]:
    from analytics import spark

    with analytics.connect(url, **more) as duck, spark.connect(url, session=session, catch_up=False, **more) as other:
        yield Both(duck, other)


@pytest.fixture(scope="module")
def shop_url(sqlite_stores: SqliteStores) -> Iterator[str]:
    """Wix's examples and a month of a shop."""
    with sqlite_stores.new() as url:
        with EventStore.open(url) as store:
            told = [*examples(), *month(events=900)]
            store.ingest(enumerate((delivery.line() for delivery in told), start=1))
        analytics.connect(url).close()  # which brings its lake up to date
        yield url


@pytest.fixture(scope="module")
def shop(shop_url: str, session: SparkSession) -> Iterator[Both]:
    with both(shop_url, session) as opened:
        yield opened


@pytest.fixture(scope="module")
def odd(sqlite_stores: SqliteStores, session: SparkSession) -> Iterator[Both]:
    """What Wix might tell at its worst: everything collides, letters of every kind, and both ends of the calendar."""
    close = [each for each in every_close_call() if int(each.site_id.removeprefix("site-")) % EVERY == 0]
    with sqlite_stores.new() as url:
        with EventStore.open(url) as store:
            list(store.append_many([*close, *drawn_events()]))
        with both(url, session) as opened:
            yield opened


def drawn_events() -> list[Event]:
    """The same histories each time, each in sites of its own."""
    found: list[list[Event]] = []

    @settings(max_examples=HISTORIES, derandomize=True, database=None, phases=[Phase.generate])
    @given(histories())
    def draw(history: list[Event]) -> None:
        found.append(history)

    draw()
    return [
        event.model_copy(update={"site_id": f"{event.site_id} {number}"})
        for number, history in enumerate(found)
        for event in history
    ]


def drawn_value(parameter: Parameter, answer: analytics.ReportResult, chance: random.Random) -> object:
    """A value that a parameter might be given, so that the answer often has something of what it has without any."""
    if parameter.choices:
        return chance.choice(parameter.choices)
    match parameter.type:
        case "zone":
            return chance.choice(ZONES)
        case "boolean":
            return chance.random() < 0.5
        case "count" | "bigint":
            return chance.choice([None, 0, 1, 7, 400, 10**9])
        case "timestamp" | "moment":
            shown = _values(answer, "time")
            moment = chance.choice([None, *shown])
            step = timedelta(microseconds=chance.choice([0, 0, 1, 3_600_000_000]))
            return moment if moment is None or moment.year in (1, 9999) else moment + step
        case _:
            named = {"site": ("site_id",), "coupon": ("coupon_id", "code")}.get(parameter.name, (parameter.name,))
            shown = [value for name in named for value in _column(answer, name) if value is not None]
            return chance.choice([None, "none of them", *shown[:50], *shown[:50]])


def _values(answer: analytics.ReportResult, unit: str) -> list[Any]:
    found = [number for number, column in enumerate(answer.columns) if column.unit == unit]
    return [row[number] for row in answer.rows for number in found if row[number] is not None]


def _column(answer: analytics.ReportResult, name: str) -> list[Any]:
    found = [number for number, column in enumerate(answer.columns) if column.name == name]
    return [row[number] for row in answer.rows for number in found]


def ask_at_random(stores: Both, name: str) -> None:
    parameters = analytics.report(name).parameters
    clock = {"at": AT} if any(each.name == "at" for each in parameters) else {}
    whole = stores.agree(name, **clock)
    chance = random.Random(name)
    for _ in range(DRAWS):
        asked = {each.name: drawn_value(each, whole, chance) for each in parameters} | clock
        since, until = asked.get("since"), asked.get("until")
        if isinstance(since, datetime) and isinstance(until, datetime) and since >= until:
            # A span that nothing lies in is refused before either is asked.
            asked["since"], asked["until"] = until, since if since > until else None
        stores.agree(name, **asked)


# Reports


@pytest.mark.parametrize("name", NAMES)
def test_a_report_on_spark_answers_row_by_row_as_on_duckdb(shop: Both, name: str) -> None:
    ask_at_random(shop, name)


@pytest.mark.parametrize("name", NAMES)
def test_so_it_does_where_everything_collides(odd: Both, name: str) -> None:
    ask_at_random(odd, name)


def test_every_report_of_an_empty_store_is_the_same(sqlite_stores: SqliteStores, session: SparkSession) -> None:
    with sqlite_stores.new() as url, both(url, session) as empty:
        answers = {name: empty.agree(name).rows for name in NAMES}
    assert not any(answers.values())


def test_spark_shows_the_rows_that_stand_where_a_projection_is_in_levels(
    sqlite_stores: SqliteStores, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small levels, so that a few hundred events fill all four.
    monkeypatch.setattr(levels, "LEVEL_ROWS", (None, 120, 40, 10))
    told = [delivery.line() for delivery in month(events=500)]
    catalogue = projections()
    with sqlite_stores.new() as url:
        with EventStore.open(url) as store:
            cuts = [0, 300, 380, 430, 460, 480, 490, 495, len(told)]
            for begin, end in pairwise(cuts):
                store.ingest(enumerate(told[begin:end], start=1))
                Lake(analytics.default_lake(store.engine), catalogue=catalogue).catch_up(store.engine)
            snapshot = Lake(analytics.default_lake(store.engine), catalogue=catalogue).snapshot()
        assert max(len(several) for several in snapshot.projections.values()) >= 3
        with both(url, session) as layered:
            for name in ("usage-per-coupon", "redemptions", "loyalty-rewards", "reconciliation"):
                assert layered.agree(name).rows
            for model in catalogue:
                layered.same(f"SELECT * FROM {model.name} ORDER BY {', '.join(model.key)}")


def test_a_lake_further_on_than_its_projections_shows_one_position(shop_url: str, session: SparkSession) -> None:
    from analytics.spark import SparkConnection

    whole = Lake(shop_url.removeprefix("sqlite:///") + ".lake").snapshot()
    earlier = dataclasses.replace(whole, position=100)
    with SparkConnection(earlier, projections(), session=session) as opened:
        [counted] = opened.sql("SELECT count(*) AS n, max(position) AS last FROM facts").toArrow().to_pylist()
    assert (opened.position, counted) == (100, {"n": 100, "last": 100})


# Free SQL


def test_views_have_the_same_names_columns_and_rows(shop: Both) -> None:
    assert shop.spark.tables == shop.duck.tables
    for view in shop.spark.tables:
        described = shop.duck.execute(f"DESCRIBE {view}").fetchall()
        shown = shop.spark.sql(f"SELECT * FROM {view}")
        assert shown.columns == [name for name, *_ in described]
        # Spark has no order of maps.
        order = ", ".join(name for name, type_, *_ in described if not type_.startswith("MAP"))
        assert shop.same(f"SELECT * FROM {view} ORDER BY {order}")


def test_what_changed_is_told_in_the_same_words(odd: Both) -> None:
    changes = odd.same("SELECT * FROM changes ORDER BY position, fact")
    assert {"start_time", "discount_value", "active", "name"} <= {row[8] for row in changes}


def test_the_register_as_of_a_time_is_the_same_and_macros_can_meet_in_one_query(odd: Both) -> None:
    moment: dict[str, object] = {"moment": datetime(2026, 9, 1, 13, tzinfo=UTC)}
    order = "ORDER BY site_id, coupon_id"
    assert odd.same(f"SELECT * FROM coupons_as_of($moment) {order}", moment)
    assert odd.same(f"SELECT * FROM register($moment, now()) AS there {order}", moment)
    assert not odd.same(f"SELECT * FROM known_at($moment) {order}", moment)
    # Each with the words that the macros use for their own parts.
    assert odd.same(
        """
        WITH told AS (SELECT * FROM coupons_as_of($moment))
        SELECT told.site_id, told.coupon_id, told.deleted AS was, later.deleted AS is_now
        FROM told
        JOIN known_at(now()) AS later ON later.site_id = told.site_id AND later.coupon_id = told.coupon_id
        ORDER BY told.site_id, told.coupon_id
        """,
        moment,
    )


@pytest.mark.parametrize(
    "value",
    [
        "O'Brien\\",
        "\\' OR 1 = 1 -- ",
        'say "hi"\n\t$moment :moment ${spark.app.name}',
        "ünï \uffff \U0001d11e",
        "",
        True,
        -(2**63),
        Decimal("-999999999999.999999"),
        AT.date(),
        datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1582, 10, 10, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        None,
    ],
    ids=str,
)
def test_a_parameter_arrives_as_it_is(shop: Both, value: object) -> None:
    assert shop.same("SELECT $value AS given", {"value": value}) == [(value,)]


@pytest.mark.parametrize(
    "expression",
    [
        "lower('ΟΔΟΣ İI ẞ Ǆ')",
        "round(100.0 * number / 8, 1), round(number / 200, 2), number / 3, number // 3",
        "concat('a', number, NULL, 'b'), concat_ws('-', 'a', NULL, 'b')",
        "epoch_us(TIMESTAMPTZ '0001-01-01 00:00:00Z'), strftime(TIMESTAMPTZ '0900-03-04 05:06:07Z', '%Y-%m-%d %H:%M:%S')",
        "greatest(number, NULL), least(NULL, number), CASE WHEN number > 3 THEN 'x' END",
    ],
)
def test_the_words_of_the_reports_mean_the_same(shop: Both, expression: str) -> None:
    assert (
        len(shop.same(f"SELECT number, {expression} FROM (SELECT position AS number FROM facts) ORDER BY number")) > 800
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT FROM WHERE", "cannot be read"),
        ("DROP VIEW facts", "one query is wanted"),
        ("SELECT 1; SELECT 2", "one query is wanted"),
        ("SELECT $there", "\\$there is not given"),
        ("SELECT * FROM register(now())", "true_at and known_by, not 1"),
        ("SELECT nothing FROM facts", "Spark cannot answer: .*nothing"),
        ("SELECT * FROM nowhere", "Spark cannot answer: .*nowhere"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_one_line(shop: Both, query: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        shop.spark.sql(query)
    assert "\n" not in str(raised.value)


# Doors


def test_a_lake_may_lie_in_a_folder_with_any_allowed_name(
    sqlite_stores: SqliteStores, session: SparkSession, shop_url: str, tmp_path: Path
) -> None:
    with both(shop_url, session, lake=tmp_path / "a {b,c} d, ü=1 'e'") as odd_place:
        assert odd_place.agree("usage-per-coupon").rows


def test_someone_else_s_views_and_settings_are_left_alone(shop_url: str, session: SparkSession) -> None:
    from analytics import spark

    session.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    session.sql("SELECT 'mine' AS whose").createOrReplaceTempView("coupons")
    try:
        with spark.connect(shop_url, session=session) as opened:
            assert opened.sql("SELECT count(*) AS n FROM coupons").toArrow().to_pylist()[0]["n"] > 10
        assert session.sql("SELECT whose FROM coupons").toArrow().to_pylist() == [{"whose": "mine"}]
        assert session.conf.get("spark.sql.session.timeZone") == "Asia/Tokyo"
    finally:
        session.catalog.dropTempView("coupons")


def test_the_command_answers_the_same_on_either_engine(
    shop_url: str, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTSTORE_URL", shop_url)
    asked = ("report", "usage-over-time", "-p", "per=week", "--tz", "Europe/Berlin")
    for output in ("--json", "--csv", "--limit=3"):
        here, there = run(*asked, output), run(*asked, output, "--engine", "spark")
        assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
        assert len(here.stdout) > 100
    wrong = run("report", "usage-over-time", "--engine", "spark", "--tz", "Berlin")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Europe/Berlin" in wrong.stderr


def test_the_command_begins_a_spark_of_its_own(shop_url: str, tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        command("report", "usage-per-coupon", "--json", "--engine", "spark"),
        cwd=tmp_path,
        env=environment(EVENTSTORE_URL=shop_url, MASTER="local[1]"),
        capture_output=True,
        timeout=SPARK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    here = analytics.run_report(shop_url, "usage-per-coupon")
    assert json.loads(done.stdout) == json.loads(here.to_json())
    assert not list(tmp_path.iterdir())


def test_without_java_the_command_says_what_is_missing(shop_url: str, tmp_path: Path) -> None:
    import subprocess

    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "ps", "tr", "cat", "sh"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    kept = {name: value for name, value in environment(EVENTSTORE_URL=shop_url).items() if name != "JAVA_HOME"}
    done = subprocess.run(
        command("report", "usage-per-coupon", "--engine", "spark"),
        cwd=tmp_path,
        env=kept | {"PATH": str(tools)},
        capture_output=True,
        timeout=SPARK_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Spark does not start" in done.stderr
    assert b"Java" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_interpreter_s_own_zone_does_not_matter(shop: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    if sys.platform == "win32":
        pytest.skip("Windows has no tzset")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert shop.agree("redemptions", limit=5, since="2026-09-10T00:00:00Z").rows
    finally:
        monkeypatch.undo()
        time.tzset()
