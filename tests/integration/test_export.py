"""Files to hand over: what is in them, in which order, and that each is there as a whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import analytics
from analytics.columns import event_columns
from analytics.query import ask, flat
from analytics.results import csv_text
from eventstore.demo import examples, month
from eventstore.errors import InputError, NotFound
from eventstore.event import Event
from eventstore.store import EventStore
from tests.commands import Command, run_bytes
from tests.processes import Program
from tests.serving import CREATED, PATIENCE, PROJECTIONS, created, environment, ndjson, wrapped
from tests.stores import NewUrl

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
MODULE = import_module("analytics.export")
"""The verb's module, behind the verb of the same name."""
TABLES = (
    "events",
    "facts",
    "coupons",
    "redemptions",
    "coupon_usage",
    "loyalty_coupons",
    "deliveries",
    "changes",
)
KEYS = {
    "events": "position",
    "facts": "position",
    "changes": "position, fact",
    "redemptions": "site_id, coupon_id, order_id",
    "loyalty_coupons": "site_id, loyalty_coupon_id",
    "deliveries": "ALL",
}
ODD = (
    '=HYPERLINK("http://x")',
    "+1",
    "-1",
    "@x",
    "\tx",
    "a,b",
    'say "yes"',
    "two\r\nlines",
    "one\nline",
    "back\\slash",
    "",
    "ä€😀",
    "'quoted'",
    "\x1b[2J",
)


@pytest.fixture(scope="module")
def shop(new_url: NewUrl) -> Iterator[str]:
    """A month of a shop, Wix's documented examples, and coupons with names that trouble spreadsheets and parsers."""
    with new_url() as url:
        with EventStore.open(url) as store:
            lines = [delivery.line() for delivery in (*examples(), *month(events=400))]
            lines += [
                orjson.dumps(wrapped(CREATED, created(f"odd-{number}", f"odd-{number}", name=name), site="odd"))
                for number, name in enumerate(ODD)
            ]
            store.ingest(enumerate(lines, start=1))
        yield url


@pytest.fixture(scope="module")
def db(shop: str) -> Iterator[analytics.AnalyticsConnection]:
    with analytics.connect(shop) as opened:
        yield opened


def rows_of(db: analytics.AnalyticsConnection, table: str, where: str = "true") -> list[tuple[Any, ...]]:
    order = KEYS.get(table, "site_id, coupon_id")
    with ask(db, f"SELECT * FROM {table} WHERE {where} ORDER BY {order}") as answer:
        return list(answer.rows())


def as_json(value: Any) -> Any:
    """What a JSON parser that keeps every digit makes of a value."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


# --- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_each_format_holds_every_row_in_order_with_every_value(
    shop: str, db: analytics.AnalyticsConnection, tmp_path: Path, table: str
) -> None:
    wanted = rows_of(db, table)
    assert wanted
    names = [name for name, *_ in db.execute(f"DESCRIBE {table}").fetchall()]
    done = {
        form: analytics.export(shop, tmp_path / f"out.{form}", table=table) for form in ("parquet", "csv", "ndjson")
    }
    for form, each in done.items():
        path = tmp_path / f"out.{form}"
        assert (each.table, each.format, each.rows, each.position) == (table, form, len(wanted), db.position)
        assert each.bytes == path.stat().st_size
    with analytics.connect(shop) as again:  # read by DuckDB's own reader, elsewhere than in this process' Arrow
        described = again.execute(f"DESCRIBE {table}").fetchall()
    arrow = pq.read_table(tmp_path / "out.parquet")
    assert arrow.column_names == [name for name, *_ in described]
    maps = {name: each for name, each, *_ in described}
    read = [tuple(_python(row[name], maps[name]) for name in names) for row in arrow.to_pylist()]
    assert read == wanted
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *([csv_text(flat(value)) for value in row] for row in wanted)])
    assert (tmp_path / "out.csv").read_bytes() == text.getvalue().encode()
    if table != "events":
        lines = (tmp_path / "out.ndjson").read_bytes().splitlines()
        objects = [json.loads(line, parse_float=Decimal) for line in lines]
        assert objects == [dict(zip(names, map(as_json, row), strict=True)) for row in wanted]


def _python(value: Any, type_: str) -> Any:
    if type_.startswith("MAP") and value is not None:
        return dict(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def test_a_parquet_file_says_what_its_columns_are_and_how_far_it_looks(
    shop: str, db: analytics.AnalyticsConnection, tmp_path: Path
) -> None:
    analytics.export(shop, tmp_path / "facts.parquet", table="facts")
    found = pq.read_schema(tmp_path / "facts.parquet")
    docs = {each.name: each.doc for each in event_columns()}
    assert {each.name: each.metadata[b"comment"].decode() for each in found} == {
        each.name: docs[each.name] for each in found
    }
    assert found.metadata[b"position"] == str(db.position).encode()
    assert str(found.field("discount_value").type) == "decimal128(18, 6)"
    assert str(found.field("event_time").type) == "timestamp[us, tz=UTC]"
    assert "payload" not in found.names


def test_an_exported_event_is_the_payload_byte_for_byte(shop: str, tmp_path: Path) -> None:
    analytics.export(shop, tmp_path / "events.ndjson")
    with EventStore.open(shop) as store:
        wanted = [
            b'{"position":%d,"recorded_at":"%s","event":%s}'
            % (each.position, as_json(each.recorded_at).encode(), each.payload.encode())
            for each in store.stream()
        ]
    assert (tmp_path / "events.ndjson").read_bytes().split(b"\n") == [*wanted, b""]


def test_exported_events_make_the_same_store_elsewhere_and_a_second_time_nothing(
    shop: str, new_url: NewUrl, tmp_path: Path
) -> None:
    analytics.export(shop, tmp_path / "events.ndjson")
    with new_url() as url, EventStore.open(url) as copy, EventStore.open(shop) as store:
        for wanted in ("appended", "duplicate"):
            with (tmp_path / "events.ndjson").open("rb") as lines:
                outcomes = list(copy.append_many(analytics.exported_events(lines)))
            assert {each.kind.value for each in outcomes} == {wanted}
        told = [(each.position, each.payload) for each in store.stream()]
        assert [(each.position, each.payload) for each in copy.stream()] == told
        store.project()
        copy.project()
        for name in ("coupons", "redemptions", "coupon_usage", "loyalty_coupons"):
            assert list(copy.stream_projection(name)) == list(store.stream_projection(name))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{nope", "Invalid JSON"),
        (b'{"position":1,"recorded_at":"2026-09-01T00:00:00Z"}', "event: Field required"),
        (b'{"position":1,"recorded_at":"2026-09-01T00:00:00Z","event":{"type":"x"}}', "event.event_id: Field required"),
    ],
    ids=["broken", "lacking", "incomplete"],
)
def test_a_line_that_was_not_exported_is_named(line: bytes, why: str) -> None:
    with pytest.raises(InputError, match=f"line 1 is no exported event: {why}"):
        list(analytics.exported_events([line]))


# --- which rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "chosen", "where"),
    [
        ("events", {"after": 100}, "position > 100"),
        ("facts", {"after": 10**9}, "false"),
        ("facts", {"since": "2026-09-10"}, "event_time >= '2026-09-10'"),
        (
            "facts",
            {"until": datetime(2026, 9, 10, 12, tzinfo=UTC), "site": "local", "after": 50},
            "event_time < '2026-09-10 12:00:00+00' AND site_id = 'local' AND position > 50",
        ),
        ("changes", {"after": 40, "since": "2026-09-02"}, "position > 40 AND event_time >= '2026-09-02'"),
        ("redemptions", {"until": "2026-09-10T00:00:00+02:00"}, "redeemed_at < '2026-09-09 22:00:00+00'"),
        ("coupons", {"site": "odd"}, "site_id = 'odd'"),
        ("coupons", {"site": "'; DROP VIEW coupons; --"}, "false"),
    ],
    ids=["after", "beyond", "since", "all", "changes", "redemptions", "site", "quoted"],
)
def test_rows_are_chosen_by_time_position_and_site(
    shop: str, db: analytics.AnalyticsConnection, tmp_path: Path, table: str, chosen: dict[str, Any], where: str
) -> None:
    wanted = rows_of(db, table, where)
    told: list[tuple[int, int]] = []
    done = analytics.export(
        shop,
        tmp_path / "out.parquet",
        table=table,
        on_progress=lambda at: told.append((at.rows, at.total)),
        **chosen,
    )
    assert done.rows == len(wanted) == pq.read_table(tmp_path / "out.parquet").num_rows
    assert (told[-1] if told else (0, 0)) == (len(wanted), len(wanted))
    assert bool(wanted) == (where != "false")
    names = [str(name) for name, *_ in db.execute(f"DESCRIBE {table}").fetchall()]
    name = "position" if "position" in names else "coupon_id"
    column = pq.read_table(tmp_path / "out.parquet").column(name).to_pylist()
    assert column == [row[names.index(name)] for row in wanted]


def test_what_comes_later_is_exported_after_the_position_that_was_told(
    shop: str, new_url: NewUrl, tmp_path: Path
) -> None:
    with new_url(of=shop) as url, EventStore.open(url) as store:
        first = analytics.export(store.engine, tmp_path / "first.ndjson")
        store.ingest([(1, orjson.dumps(wrapped(CREATED, created("later", "later"))))])
        second = analytics.export(store.engine, tmp_path / "second.ndjson", after=first.position)
        whole = analytics.export(store.engine, tmp_path / "whole.ndjson")
    assert (second.rows, second.position) == (1, first.position + 1)
    parts = (tmp_path / "first.ndjson").read_bytes() + (tmp_path / "second.ndjson").read_bytes()
    assert parts == (tmp_path / "whole.ndjson").read_bytes()
    assert whole.rows == first.rows + second.rows


@pytest.mark.parametrize("form", ["csv", "parquet", "ndjson"])
def test_many_files_and_pieces_come_in_the_order_of_the_log(
    new_url: NewUrl, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PIECE_EVENTS", 7), ("LINES", 3), ("ROW_GROUP_ROWS", 10)):
        monkeypatch.setattr(MODULE, name, value)
    lines = [delivery.line() for delivery in islice(month(events=400), 100)]
    with new_url() as url, EventStore.open(url) as store:
        lake = analytics.Lake(tmp_path / "lake")
        for start in range(0, len(lines), 20):
            store.ingest(enumerate(lines[start : start + 20], start=1))
            lake.catch_up(store.engine)
        for _ in range(2):
            done = analytics.export(store.engine, tmp_path / f"out.{form}", lake=tmp_path / "lake", table="events")
            assert done.rows == store.head() > 50
            if form == "parquet":
                found = pq.read_table(tmp_path / "out.parquet").column("position").to_pylist()
                assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups > 2
            elif form == "csv":
                with (tmp_path / "out.csv").open(newline="") as file:
                    found = [int(row["position"]) for row in csv.DictReader(file)]
            else:
                found = [json.loads(line)["position"] for line in (tmp_path / "out.ndjson").read_bytes().splitlines()]
            assert found == list(range(1, store.head() + 1))
            lake.compact()


def test_an_empty_store_exports_files_without_rows(store: EventStore, tmp_path: Path) -> None:
    for table in TABLES:
        for form in ("parquet", "csv", "ndjson"):
            done = analytics.export(store.engine, tmp_path / f"{table}.{form}", table=table)
            assert (done.rows, done.position) == (0, 0)
        assert pq.read_table(tmp_path / f"{table}.parquet").num_rows == 0
        assert len((tmp_path / f"{table}.csv").read_text().splitlines()) == 1
        assert (tmp_path / f"{table}.ndjson").read_bytes() == b""


def test_a_projection_of_one_s_own_is_exported_too(shop: str, new_url: NewUrl, tmp_path: Path) -> None:
    folder = PROJECTIONS / "app_weeks"
    with new_url(of=shop) as url, EventStore.open(url, projections=[folder]) as store:
        store.rebuild_projections()
        wanted = len(list(store.stream_projection("app_weeks")))
        for form in ("parquet", "csv", "ndjson"):
            done = analytics.export(url, tmp_path / f"own.{form}", table="app_weeks", projections=[folder])
            assert done.rows == wanted > 0


def test_a_lake_is_exported_without_its_store(shop: str, tmp_path: Path) -> None:
    analytics.export(shop, tmp_path / "first.csv", lake=tmp_path / "lake")
    analytics.export(None, tmp_path / "second.csv", lake=tmp_path / "lake")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    with pytest.raises(InputError, match="name a lake"):
        analytics.export(None, tmp_path / "third.csv")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("out.csv", {"table": "coupons", "since": "2026-09-01"}, "coupons cannot be chosen by since"),
        ("out.csv", {"table": "redemptions", "after": 3}, "redemptions cannot be chosen by after"),
        ("out.csv", {"since": "yesterday"}, "the parameter since takes a date"),
        ("out.csv", {"since": datetime(2026, 9, 1)}, "the parameter since takes a date"),  # noqa: DTZ001
        ("out.csv", {"after": -1}, "after=-1 is no position"),
        ("out.csv", {"memory_limit": "lots"}, "memory_limit='lots'"),
        ("out.csv", {"format": "xlsx"}, "not as 'xlsx'"),
        ("out.xlsx", {}, "the ending of .* tells none"),
        ("none/out.csv", {}, "cannot be written: No such file or directory"),
        (".", {"format": "csv"}, "it is a folder"),
    ],
    ids=["time", "position", "text", "zone", "negative", "memory", "format", "ending", "folder", "itself"],
)
def test_a_wrong_wish_is_refused_and_leaves_no_file(
    shop: str, tmp_path: Path, name: str, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        analytics.export(shop, tmp_path / name, **given)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_table_is_refused_with_the_nearest(shop: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no table 'cupons' \(did you mean coupons\?\); there are events, facts"):
        analytics.export(shop, tmp_path / "out.csv", table="cupons")


# --- whole or not at all ----------------------------------------------------------------------------------------------


def stand_still(url: str, output: str) -> None:
    """Export, and stop for ever once something was written."""

    def told(_: object) -> None:
        print("writing", flush=True)
        time.sleep(10 * PATIENCE)

    analytics.export(url, output, table="facts", on_progress=told)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_an_export_that_is_ended_leaves_the_file_that_was_there(
    shop: str, tmp_path: Path, form: str, how: signal.Signals
) -> None:
    target = tmp_path / "out" / f"facts.{form}"
    target.parent.mkdir()
    target.write_bytes(b"the one of yesterday")
    process = Program([shop, str(target)], cwd=tmp_path, env=environment(), errors=tmp_path / "err", call=stand_still)
    try:
        assert next(process.lines()) == "writing"
        process.send_signal(how)
        process.ended(PATIENCE)
    finally:
        process.kill()
    assert target.read_bytes() == b"the one of yesterday"
    left = [each.name for each in target.parent.iterdir() if each != target]
    assert left == ([f".facts.{form}.{process.pid}.coming"] if how is signal.SIGKILL else [])
    analytics.export(shop, target, table="facts")
    assert target.stat().st_size > 1_000


def test_a_failure_on_the_way_leaves_nothing(shop: str, tmp_path: Path) -> None:
    def told(_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        analytics.export(shop, tmp_path / "out.csv", on_progress=told)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_and_a_device_is_written_to(shop: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "out.csv")
    analytics.export(shop, link, table="coupons")
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.csv").stat().st_size > 100
    analytics.export(shop, "/dev/null", format="csv", table="coupons")
    assert Path("/dev/null").is_char_device()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_files_and_to_standard_output(eventstore: Command, folder: Path) -> None:
    eventstore(
        "ingest",
        "-",
        given=ndjson(wrapped(CREATED, created("e-1", name="=1+1")), wrapped(CREATED, created("e-2", "c-2"))),
    )
    said = eventstore("export", "--output", "facts.csv", "--table", "facts")
    assert said.startswith("facts.csv: 2 rows of facts, ")
    assert said.endswith(", up to position 2\n")
    with (folder / "facts.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["'=1+1", ""]
    told = eventstore.json("export", "-o", "events.ndjson")
    assert told == {
        "table": "events",
        "format": "ndjson",
        "rows": 2,
        "bytes": (folder / "events.ndjson").stat().st_size,
        "position": 2,
        "file": "events.ndjson",
    }
    done = run_bytes("--store", eventstore.url, "export", "-o", "-", "--format", "ndjson", "--after", "1")
    assert done.returncode == 0
    [line] = done.stdout.splitlines()
    assert line == (folder / "events.ndjson").read_bytes().splitlines()[1]
    assert Event.from_payload(orjson.dumps(orjson.loads(line)["event"])).event_id == "e-2"
    assert done.stderr.decode().startswith("1 rows of events, ")
    done = run_bytes("--store", eventstore.url, "export", "-o", "-", "--format", "parquet", "--table", "coupons")
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 2


def test_the_command_tells_in_one_line_what_is_wrong(eventstore: Command) -> None:
    assert "name a format" in eventstore.refused("export", "-o", "-", status=1)
    assert "did you mean coupons?" in eventstore.refused("export", "-o", "x.csv", "--table", "coupon", status=3)
    assert "since takes a date" in eventstore.refused("export", "-o", "x.csv", "--since", "1.9.", status=1)
