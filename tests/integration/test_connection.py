"""The analytics connection: what it shows of a store, and that nothing else can be reached or changed through it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import WriterProperties

import analytics
from analytics.columns import DELIVERY_COLUMNS, added_keys, event_columns
from analytics.lake import LakeUnreadable, in_lake
from analytics.lake.models import LakeSession
from analytics.sql_cells import SqlCells
from analytics.views import change_columns
from eventstore.demo import examples, month
from eventstore.errors import InputError, StoreNotReady
from eventstore.log.engine import is_sqlite
from eventstore.projections.catalogue import projections
from eventstore.projections.duck import ModelSession
from eventstore.store import EventStore
from tests.rows import change
from tests.stores import NewUrl

COPYING = "WITH x AS (COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)) FROM x"
"""Is a SELECT to DuckDB, and writes."""
REFUSED = "only answers questions"


@pytest.fixture(scope="module")
def shop(new_url: NewUrl) -> Iterator[str]:
    """A month of a shop, and Wix's documented examples."""
    with new_url() as url:
        with EventStore.open(url) as store:
            lines = [delivery.line() for delivery in (*examples(), *month(events=400))]
            store.ingest(enumerate(lines, start=1))
        yield url


@pytest.fixture(scope="module")
def db(shop: str) -> Iterator[analytics.AnalyticsConnection]:
    with analytics.connect(shop) as opened:
        yield opened


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM glob('{lake}/*')",
        "SELECT * FROM read_text('{lake}/catching-up.lock')",
        "SELECT * FROM parquet_scan('{lake}/**/*.parquet')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM sniffed_from_python",
    ],
)
def test_a_query_reaches_no_file_but_those_of_its_moment(
    db: analytics.AnalyticsConnection, shop: str, sql: str
) -> None:
    sniffed_from_python = pa.table({"secret": [1]})
    with EventStore.open(shop) as store:
        lake = analytics.default_lake(store.engine)
    with pytest.raises(duckdb.Error):
        db.execute(sql.format(lake=lake)).fetchall()
    assert sniffed_from_python.num_rows == 1
    assert db.execute("SELECT count(*) > 10 FROM coupons").fetchall() == [(True,)]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{folder}/other.db'",
        "ATTACH ':memory:' AS other",
        "DETACH memory",
        "COPY coupons TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{file}' (FORMAT parquet)",
        "COPY coupons FROM '/etc/passwd'",
        "EXPORT DATABASE '{folder}/out'",
        "IMPORT DATABASE '{folder}/out'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPLAIN /* */ ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{file}'",
        "{copying}",
        "({copying})",
        "({copying}) UNION ALL SELECT 1",
        "EXPLAIN ANALYZE {copying}",
        "EXPLAIN (ANALYZE) {copying}",
        "EXPLAIN (ANALYZE) ({copying})",
        "SUMMARIZE {copying}",
        "DESCRIBE {copying}",
        "SELECT * FROM ({copying})",
        "WITH a AS (SELECT 1), b AS ({copying}) FROM b",
        "WITH x AS MATERIALIZED (COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)) FROM x",
        "WITH x AS (COPY (SELECT 1 AS a) TO '{file}' (FORMAT csv)) FROM x",
        "WITH x AS (INSERT INTO coupons SELECT * FROM coupons RETURNING *) FROM x",
        "WITH x AS (UPDATE coupons SET code = 'x' RETURNING *) FROM x",
        "WITH x AS (DELETE FROM coupons RETURNING *) FROM x",
        "FROM json_execute_serialized_sql(json_serialize_sql($sql${copying}$sql$))",
        "EXPLAIN ANALYZE FROM json_execute_serialized_sql(json_serialize_sql($sql${copying}$sql$))",
        "SELECT * FROM (FROM JSON_Execute_Serialized_SQL(json_serialize_sql($sql${copying}$sql$)))",
        "FROM query($sql${copying}$sql$)",
        "FROM query('SELECT 1')",
        "FROM main.query('SELECT 1')",
        "SELECT (SELECT max(a) FROM query('SELECT 1 AS a'))",
        "FROM checkpoint()",
        "FROM enable_profiling(save_location = '{file}')",
        "FROM enable_logging(storage = 'file', storage_path = '{folder}/logs')",
        "FROM arrow_scan(0::UBIGINT::POINTER, 0::UBIGINT::POINTER, 0::UBIGINT::POINTER)",
        "PIVOT coupons ON discount_type USING count(*)",
        "INSTALL httpfs",
        "FORCE INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/evil.duckdb_extension'",
        "SET memory_limit = '64GB'",
        "RESET memory_limit",
        "SET temp_directory = '{folder}'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
        "SET VARIABLE x = 1",
        "PRAGMA enable_profiling",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CHECKPOINT",
        "CREATE TABLE mine AS SELECT 1 AS one",
        "CREATE TEMP TABLE mine AS SELECT 1 AS one",
        "CREATE OR REPLACE VIEW coupons AS SELECT 1 AS one",
        "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "DROP VIEW coupons",
        "ALTER VIEW coupons RENAME TO others",
        "COMMENT ON VIEW coupons IS 'nothing'",
        "INSERT INTO coupons SELECT * FROM coupons",
        "UPDATE coupons SET code = 'x'",
        "DELETE FROM coupons",
        "BEGIN",
        "PREPARE q AS SELECT 1",
        "USE memory",
        "VACUUM",
    ],
)
def test_what_is_no_query_is_refused_and_changes_nothing(
    db: analytics.AnalyticsConnection, tmp_path: Path, shop: str, sql: str
) -> None:
    [(file,)] = db.execute("SELECT DISTINCT unnest(current_setting('allowed_paths')) LIMIT 1").fetchall()
    kept = Path(file).read_bytes()
    copying = COPYING.format(file=file)
    for ask in (db.execute, db.sql, db.arrow):
        with pytest.raises(InputError, match=REFUSED):
            ask(sql.format(folder=tmp_path, file=file, copying=copying))
    assert list(tmp_path.iterdir()) == []
    assert Path(file).read_bytes() == kept
    assert db.execute("SELECT count(*) > 10 FROM coupons").fetchall() == [(True,)]


@pytest.mark.parametrize("sql", ["", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW coupons"])
def test_it_takes_one_statement(db: analytics.AnalyticsConnection, sql: str) -> None:
    with pytest.raises(InputError, match="one query is wanted here"):
        db.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DESCRIBE coupons",
        "SHOW TABLES",
        "SUMMARIZE coupons",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM coupons",
        "FROM facts",
        "VALUES (1)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) FROM n",
        "PIVOT coupons ON discount_type IN ('MONEY_OFF') USING count(*)",
        "SELECT '\"type\":\"COPY_QUERY_NODE\"', 'COPY', 'query(1)'",
        "SELECT code, unnest(['COPY', 'DELETE']) AS query FROM coupons, range(2) UNION SELECT 'a', 'b' ORDER BY ALL",
        "FROM known_at('2999-01-01')",
        "FROM information_schema.columns",
        "FROM duckdb_columns()",
        "FROM histogram(facts, event_date)",
    ],
)
def test_it_takes_all_that_only_asks(db: analytics.AnalyticsConnection, sql: str) -> None:
    assert db.execute(sql).fetchall()


def test_a_query_past_the_memory_limit_is_refused_with_the_way_out(shop: str) -> None:
    with (
        analytics.connect(shop, memory_limit="32MB") as opened,
        pytest.raises(InputError, match="memory_limit='32MB'; connect with a larger one"),
    ):
        opened.execute("SELECT list(uuid()::VARCHAR) FROM range(10000000)")


def test_a_query_past_the_time_limit_is_ended_and_the_next_is_answered(shop: str) -> None:
    with analytics.connect(shop, time_limit=0.2) as opened:
        with pytest.raises(InputError, match=r"took longer than 0\.2 seconds"):
            opened.execute("SELECT sum(sqrt(a.range * b.range)) FROM range(1000000) a, range(1000000) b")
        endless = "SELECT a.range + b.range FROM range(10000000) a, range(10000000) b"
        with pytest.raises(InputError, match=r"took longer than 0\.2 seconds"):
            # What comes bit by bit is computed while it is fetched.
            opened.limited(lambda: opened.execute(endless).fetchall())
        with pytest.raises(InputError, match=r"took longer than 0\.2 seconds"):
            opened.arrow(endless)
        # A notebook's SQL cell.
        with pytest.raises(InputError, match=r"took longer than 0\.2 seconds"):
            SqlCells(opened).cursor().execute("SELECT count(*) FROM range(100000000000) WHERE range % 7 = 3")
        assert opened.execute("SELECT count(*) > 10 FROM coupons").fetchall() == [(True,)]


def test_another_thread_can_end_a_query(db: analytics.AnalyticsConnection) -> None:
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.05):
            db.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(duckdb.InterruptException):
            db.execute("SELECT sum(sqrt(a.range * b.range)) FROM range(1000000) a, range(1000000) b")
    finally:
        ended.set()
        thread.join()


def test_there_must_be_a_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with pytest.raises(StoreNotReady, match="eventstore init"):
        analytics.connect(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("this is no database, and long enough to be seen as none")
    with pytest.raises(StoreNotReady):
        analytics.connect(f"sqlite:///{path}")


def test_wrong_arguments_are_named(shop: str) -> None:
    with pytest.raises(InputError, match="memory_limit='plenty'"):
        analytics.connect(shop, memory_limit="plenty")
    with pytest.raises(InputError, match="connect to a store, or name a lake"):
        analytics.connect()


def short(type_: str) -> str:
    return type_.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")


# --- what it reads ----------------------------------------------------------------------------------------------------


def spoil(file: Path, *, from_row_group: int) -> None:
    """Make what the row groups from that one on hold unreadable; the file's description of itself stays."""
    described = pq.ParquetFile(file).metadata
    content = bytearray(file.read_bytes())
    for number in range(from_row_group, described.num_row_groups):
        for column in range(described.num_columns):
            chunk = described.row_group(number).column(column)
            start = min(each for each in (chunk.data_page_offset, chunk.dictionary_page_offset) if each)
            content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_files_and_row_groups_that_the_statistics_rule_out_are_not_read(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spoiled is not missed by a question about what stands before it: by position, by time and by day."""
    monkeypatch.setattr("analytics.lake.delta.WRITER", WriterProperties(max_row_group_size=20))
    lake = tmp_path / "lake"
    for day in (1, 2):  # two files, of two row groups each
        for number in range(40):
            told = {"metadata": {"id": f"e{day}-{number}", "entityId": "c"}}
            told["metadata"]["eventTime"] = f"2026-09-0{day}T{10 + number // 20}:00:00Z"
            store.receive(orjson.dumps(told), handler="wixMarketing_onCouponDeleted", site="shop")
        analytics.connect(store.engine, lake=lake).close()
    files = sorted((lake / "events").glob("*.parquet"), key=lambda each: each.stat().st_mtime_ns)
    assert [pq.ParquetFile(each).metadata.num_row_groups for each in files] == [2, 2]
    spoil(files[0], from_row_group=1)
    spoil(files[1], from_row_group=0)
    with analytics.connect(lake=lake) as opened:
        for where in (
            "position <= 20",
            "position BETWEEN 5 AND 6",
            "event_time < TIMESTAMPTZ '2026-09-01 11:00:00Z'",
        ):
            query = f"SELECT count(*), count(payload), max(length(payload)) > 0 FROM events WHERE {where}"
            [(count, payloads, there)] = opened.execute(query).fetchall()
            assert (count == payloads, there) == (True, True)
            assert count in (20, 2)
        for where in (
            "position <= 21",
            "event_time <= TIMESTAMPTZ '2026-09-01 11:00:00Z'",
            "event_date = '2026-09-02'",
        ):
            with pytest.raises(LakeUnreadable):
                opened.execute(f"SELECT max(payload) FROM events WHERE {where}").fetchall()


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_columns_have_their_types_and_say_what_they_are(db: analytics.AnalyticsConnection, tmp_path: Path) -> None:
    told = db.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
    ).fetchall()
    found = {
        (table, column): (type_.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), comment)
        for table, column, type_, comment in told
    }
    with_signs = in_lake(projections())
    session = LakeSession(with_signs.models, memory_limit="512MB", temp_directory=str(tmp_path))
    for model in with_signs:
        made = dict(
            session.connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {model.name})").fetchall()
        )
        for column in model.shown:
            assert found.pop((model.name, column.name)) == (short(made[column.name]), column.doc)
        for each in added_keys(model):
            assert found.pop((model.name, each.name)) == (each.type, each.doc)
    session.close()
    for name, columns in (("events", event_columns()), ("facts", event_columns()[:-1]), ("changes", change_columns())):
        for each in columns:
            assert found.pop((name, each.name)) == (each.type, each.doc)
    for each in DELIVERY_COLUMNS:
        assert found.pop(("deliveries", each.name)) == (each.type, each.doc)
    assert not found  # nothing that only serves the merge
    about = dict(db.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
    assert all(about[model.name] == model.about for model in with_signs)
    assert set(about) == set(db.tables)
    assert all(about.values())


def test_the_events_say_what_the_models_are_told(shop: str, db: analytics.AnalyticsConnection) -> None:
    with EventStore.open(shop) as store:
        rows = [(each.position, each.recorded_at, each.payload) for each in store.stream()]
    session = ModelSession(projections())
    try:
        session.load_facts(
            db.sql(
                "SELECT position, epoch_us(event_time) AS event_time, epoch_us(recorded_at) AS recorded_at, payload FROM events"
            ).to_arrow_table()
        )
        names = ", ".join(session.connection.sql("FROM facts").columns)
        wanted = session.connection.sql(f"SELECT {names} FROM facts ORDER BY position").fetchall()
    finally:
        session.close()
    assert db.execute(f"SELECT {names} FROM events ORDER BY position").fetchall() == wanted
    stored = db.execute("SELECT position, recorded_at, payload FROM events ORDER BY position").fetchall()
    assert [(position, payload) for position, _, payload in stored] == [(position, text) for position, _, text in rows]
    assert [at for _, at, _ in stored] == [at for _, at, _ in rows]


def test_a_key_is_the_same_in_every_table(db: analytics.AnalyticsConnection) -> None:
    """Two rows have the same number where, and only where, they have the same texts."""
    for table, texts in (("redemptions", "coupon_id"), ("coupons", "coupon_id"), ("coupon_usage", "coupon_id")):
        sql = f"SELECT DISTINCT site_id, {texts}, coupon_key FROM {table}"
        found = db.execute(f"SELECT * FROM ({sql}) EXCEPT SELECT site_id, coupon_id, coupon_key FROM facts").fetchall()
        assert found == []
    counts = "count(DISTINCT coupon_key), count(DISTINCT (site_id, coupon_id)), count(DISTINCT event_key), count(*)"
    [(keys, coupons, events, rows)] = db.execute(f"SELECT {counts} FROM facts WHERE coupon_id IS NOT NULL").fetchall()
    assert (keys, events) == (coupons, rows)
    joined = "SELECT count(*) FROM redemptions r JOIN facts f ON f.event_key = r.event_key AND f.event_id = r.event_id"
    assert db.execute(joined).fetchall() == db.execute("SELECT count(*) FROM redemptions").fetchall()
    assert db.execute("SELECT count(*) FROM facts WHERE (coupon_id IS NULL) <> (coupon_key IS NULL)").fetchall() == [
        (0,)
    ]


def test_results_come_as_arrow_too(db: analytics.AnalyticsConnection) -> None:
    relation = db.sql("SELECT code, discount_value FROM coupons WHERE code = $code", {"code": "SummerSale"})
    assert relation.to_arrow_table().to_pylist() == [{"code": "SummerSale", "discount_value": Decimal(10)}]


def test_values_come_in_python_s_own_types(db: analytics.AnalyticsConnection) -> None:
    sql = "SELECT later_event_ids, reports, redeemed_at FROM redemptions WHERE reports > 1 LIMIT 1"
    [(others, reports, at)] = db.execute(sql).fetchall()
    assert len(others) == reports - 1
    assert at.tzinfo is not None
    [(by_app, times)] = db.execute(
        "SELECT by_app, times_used FROM coupon_usage ORDER BY times_used DESC LIMIT 1"
    ).fetchall()
    assert sum(by_app.values()) == times > 0
    assert db.execute(
        "SELECT count(*) > 0 FROM facts WHERE active AND discount_value > ?", [Decimal("0.5")]
    ).fetchall() == [(True,)]


def test_all_views_show_one_moment_whatever_is_appended_meanwhile(shop: str, new_url: NewUrl) -> None:
    with new_url(of=shop) as url, EventStore.open(url) as store, analytics.connect(url) as opened:
        before = store.head()
        store.receive(
            b'{"metadata": {"id": "later", "entityId": "new", "eventTime": "2026-09-09T00:00:00Z"}}',
            handler="wixMarketing_onCouponDeleted",
            site="shop",
        )
        count = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM coupons WHERE coupon_id = 'new')"
        assert (opened.position, opened.execute(count).fetchall()) == (before, [(before, 0)])
        with analytics.connect(url) as later:
            assert (later.position, later.execute(count).fetchall()) == (before + 1, [(before + 1, 1)])
        assert opened.execute(count).fetchall() == [(before, 0)]


def test_a_lake_is_asked_without_its_store_as_it_was_left(shop: str, tmp_path: Path) -> None:
    with analytics.connect(shop, lake=tmp_path / "lake") as opened:
        codes = opened.execute("SELECT site_id, code FROM coupons ORDER BY ALL").fetchall()
    with analytics.connect(lake=tmp_path / "lake") as alone:
        assert alone.execute("SELECT site_id, code FROM coupons ORDER BY ALL").fetchall() == codes
    with analytics.connect(lake=tmp_path / "none") as nothing:
        assert (nothing.position, nothing.execute("SELECT count(*) FROM coupons").fetchall()) == (0, [(0,)])


def test_the_register_as_of_a_time_is_what_the_store_says_in_both_meanings(
    shop: str, db: analytics.AnalyticsConnection
) -> None:
    names = [column.name for column in projections().find("coupons").shown]
    shown = ", ".join(names)
    now = f"SELECT {shown} FROM coupons ORDER BY ALL"
    assert (
        db.execute(f"SELECT {shown} FROM coupons_as_of('2999-01-01') ORDER BY ALL").fetchall()
        == db.execute(now).fetchall()
    )
    with EventStore.open(shop) as store:
        events = list(store.stream())
        for record in events[:: max(1, len(events) // 8)]:
            at: Any
            for macro, name, at in (
                ("coupons_as_of", "as_of", record.event.event_time),
                ("known_at", "known_at", record.recorded_at),
            ):
                asked = f"SELECT {shown} FROM {macro}($at) ORDER BY site_id, coupon_id"
                wanted = store.projection_as_of("coupons", **{name: at})
                assert db.execute(asked, {"at": at}).fetchall() == [
                    tuple(row[each] for each in names) for row in wanted
                ]


def test_changes_are_the_facts_that_differ_from_the_snapshot_before(store: EventStore) -> None:
    def told(number: int, handler: str, **entity: Any) -> None:
        body: dict[str, Any] = {
            "metadata": {"id": f"e{number}", "entityId": "c", "eventTime": f"2026-09-0{number}T00:00:00Z"}
        }
        body["entity"] = {"_id": "c", "name": "Ten", "code": "TEN", "type": "PercentOff", "active": True, **entity}
        store.receive(orjson.dumps(body), handler=f"wixMarketing_onCoupon{handler}", site="shop")

    told(3, "Updated", percentOffRate=15, active=False)
    told(1, "Created", percentOffRate=10)
    told(2, "Updated", percentOffRate=10, usageLimit=5)
    with analytics.connect(store.engine) as opened:
        found = opened.execute(
            "SELECT position, event_id, fact, before, after FROM changes ORDER BY event_time, fact"
        ).fetchall()
    assert found == [
        (3, "e2", "usage_limit", None, "5"),
        (1, "e3", "active", "true", "false"),
        (1, "e3", "discount_value", "10.000000", "15.000000"),
        (1, "e3", "usage_limit", "5", None),
    ]


def test_what_a_rebuild_has_not_made_yet_is_in_the_lake_all_the_same(shop: str, new_url: NewUrl) -> None:
    """The lake is made of the log: tables of an older model, or none, in the database are nothing to it."""
    with new_url(of=shop) as url:
        change(url, "UPDATE projection_checkpoints SET version = 99 WHERE name = 'coupons'", "DELETE FROM coupons")
        with analytics.connect(url) as opened:
            assert opened.execute("SELECT count(*) > 10 FROM coupons").fetchall() == [(True,)]


def test_the_default_lake_lies_beside_a_file_and_else_in_the_cache(shop: str) -> None:
    with EventStore.open(shop) as store:
        place = analytics.default_lake(store.engine)
        assert place.endswith(".db.lake" if is_sqlite(store.engine) else f"{store.engine.url.database}.lake")
    assert Path(place, "events", "_delta_log").is_dir()
