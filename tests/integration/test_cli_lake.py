"""`eventstore lake`: bring it up to date, look at it, compare it with the log, tidy it; and `--lake` where it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree, rmtree

import duckdb
import pyarrow.parquet as pq
import pytest

import analytics
from tests.commands import Command, cells
from tests.serving import APPLIED, CREATED, applied, cli, created, ndjson, wrapped

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores


def coupons(first: int, last: int) -> bytes:
    return ndjson(*(wrapped(CREATED, created(f"e-{number}", f"c-{number}")) for number in range(first, last + 1)))


@pytest.fixture
def lake(folder: Path) -> Path:
    return folder / "lake"


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log of thirty events, and a lake of them, to copy."""
    folder = tmp_path_factory.mktemp("thirty")
    made, lake = Command(folder / "log.db"), folder / "lake"
    made("init")
    made("ingest", "-", given=coupons(1, 30))
    made("lake", "catch-up", "--lake", str(lake))
    return folder / "log.db", lake


@pytest.fixture
def shop(thirty: tuple[Path, Path], folder: Path, lake: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A log of thirty events, and a lake of them where the environment says."""
    monkeypatch.setenv("EVENTSTORE_LAKE", str(lake))
    store, made = thirty
    copytree(made, lake)
    return Command(copyfile(store, folder / "log.db"))


def rewrite(lake: Path, query: str) -> None:
    """Write the file of events anew, as a stranger would: of what the query makes of its rows."""
    [file] = (lake / "events").glob("*.parquet")
    made = query.format(rows=f"read_parquet('{file}')")
    duckdb.execute(f"COPY ({made}) TO '{file}.new' (FORMAT parquet)")
    Path(f"{file}.new").replace(file)


# --- catch-up and status ----------------------------------------------------------------------------------------------


def test_the_lake_is_made_and_brought_up_to_date_in_sight(eventstore: Command, lake: Path) -> None:
    where = ("--lake", str(lake))
    eventstore("ingest", "-", given=coupons(1, 3))
    assert "not made yet" in eventstore("lake", "status", *where)
    assert not lake.exists()
    told = eventstore.json("lake", "status", *where)
    assert (told["lake"], told["head"], told["position"], told["behind"]) == (str(lake), 3, 0, 3)
    assert eventstore("lake", "catch-up", *where).startswith(f"{lake}: at position 3, 3 new events in ")
    assert eventstore("lake", "catch-up", *where) == f"{lake}: at position 3, 0 new events\n"
    eventstore("ingest", "-", given=coupons(4, 5))
    told = eventstore.json("lake", "status", *where)
    assert (told["position"], told["behind"]) == (3, 2)
    assert "2 behind" in eventstore("lake", "status", *where)
    told = eventstore.json("lake", "catch-up", *where)
    assert (told["lake"], told["before"], told["position"]) == (str(lake), 3, 5)
    told = eventstore.json("lake", "status", *where)
    assert set(told["projections"]) == {"coupons", "redemptions", "coupon_usage", "loyalty_coupons", "coupon_signs"}
    assert set(told["projections"].values()) == {5}
    assert told["files"]["events"] == 2
    sizes = {
        name: sum(each.stat().st_size for each in (lake / name).rglob("*.parquet")) for name in ("events", "deliveries")
    }
    assert {name: told["bytes"][name] for name in sizes} == sizes
    rows = {row[0]: row[1:] for row in cells(eventstore("lake", "status", *where))}
    assert rows["state"] == ["up to date"]
    assert rows["events"][:2] == ["5", "2"]


def test_an_empty_store_has_a_lake_that_is_up_to_date(eventstore: Command, lake: Path) -> None:
    assert eventstore("lake", "catch-up", "--lake", str(lake)) == f"{lake}: at position 0, 0 new events\n"
    told = eventstore.json("lake", "verify", "--lake", str(lake))
    assert (told["lake"], told["same"], told["segments"], told["broken"]) == (str(lake), True, [], [])
    assert eventstore.json("lake", "status", "--lake", str(lake))["behind"] == 0


def test_a_lake_of_another_log_is_refused(shop: Command, eventstore: Command, lake: Path, folder: Path) -> None:
    other = Command(folder / "other.db")
    other("init")
    other("ingest", "-", given=coupons(1, 40))
    assert "made of another log" in other.refused("lake", "catch-up", "--lake", str(lake), status=1)
    assert shop.json("lake", "verify")["same"]


def test_a_folder_that_cannot_be_written_is_named(eventstore: Command, folder: Path) -> None:
    (folder / "file").write_text("no folder")
    told = eventstore.refused("lake", "catch-up", "--lake", str(folder / "file"), status=1)
    assert "cannot be written" in told
    assert (folder / "file").read_text() == "no folder"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_the_lake_commands_as_processes(store_url: str, folder: Path) -> None:
    store, lake = store_url.removeprefix("sqlite:///"), folder / "lake"
    for status, arguments, given in (
        (0, ["ingest", "-"], coupons(1, 5)),
        (0, ["lake", "catch-up", "--lake", str(lake)], None),
        (0, ["lake", "verify", "--lake", str(lake)], None),
        (0, ["lake", "compact", "--lake", str(lake)], None),
        (2, ["lake", "compact", "--keep", "soon"], None),
        (3, ["lake", "compact", "--lake", str(folder / "none")], None),
    ):
        done = cli("--store", store, *arguments, cwd=folder, given=given)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    rewrite(lake, "SELECT * FROM {rows} WHERE position <> 3")
    done = cli("--store", store, "lake", "verify", "--lake", str(lake), cwd=folder)
    assert done.returncode == 1
    assert done.stderr == f"1 of 1 segments differ: remove {lake}, the lake is made anew\n"
    assert "1 to 5" in done.stdout


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_lake_that_is_the_log_s_is_found_so(shop: Command, lake: Path) -> None:
    told = f"{lake}: 30 events are as in the log (segments: 1), 4 of 4 projections as in the store\n"
    assert shop("lake", "verify") == told
    shop("ingest", "-", given=coupons(31, 32))
    told = shop.json("lake", "verify")
    assert told["same"]
    assert told["segments"] == [{"first": 1, "last": 32, "in_log": 32, "in_lake": 32, "same": True, "error": ""}]
    assert [(each["name"], each["in_store"], each["in_lake"], each["same"]) for each in told["projections"]] == [
        ("coupons", 32, 32, True),
        ("redemptions", 0, 0, True),
        ("coupon_usage", 0, 0, True),
        ("loyalty_coupons", 0, 0, True),
    ]


@pytest.mark.parametrize(
    ("query", "held"),
    [
        (
            """SELECT * REPLACE (CASE WHEN position = 17 THEN replace(payload, 'SPRING', 'WINTER') ELSE payload END AS payload)
            FROM {rows}""",
            10,
        ),
        (
            """SELECT * REPLACE (CASE WHEN position = 17 THEN recorded_at + INTERVAL 1 MICROSECOND ELSE recorded_at END
            AS recorded_at) FROM {rows}""",
            10,
        ),
        ("SELECT * REPLACE (CASE WHEN position = 17 THEN 'WINTER' ELSE code END AS code) FROM {rows}", 10),
        ("SELECT * REPLACE (CASE WHEN position = 17 THEN NULL ELSE coupon_key END AS coupon_key) FROM {rows}", 10),
        ("SELECT * FROM {rows} WHERE position <> 17", 9),
        ("SELECT * FROM {rows} UNION ALL SELECT * FROM {rows} WHERE position = 17", 11),
    ],
    ids=["payload", "time", "typed", "key", "lost", "doubled"],
)
def test_the_segment_that_differs_is_named_and_fails(
    shop: Command, lake: Path, query: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics.lake.lake.SEGMENT_EVENTS", 10)
    rewrite(lake, query)
    done = shop.run("lake", "verify", "--as-it-is")
    assert done.returncode == 1
    assert "1 of 3 segments differ" in done.stderr
    assert ["11 to 20", "10", str(held)] in cells(done.stdout)
    told = shop.json("lake", "verify", "--as-it-is", status=1)
    assert [(each["first"], each["last"], each["same"]) for each in told["segments"]] == [
        (1, 10, True),
        (11, 20, False),
        (21, 30, True),
    ]
    assert (told["same"], told["segments"][1]["in_lake"]) == (False, held)


def test_a_lake_that_is_behind_differs_only_as_it_is(shop: Command) -> None:
    shop("ingest", "-", given=coupons(31, 33))
    told = shop.json("lake", "verify", "--as-it-is", status=1)
    assert told["segments"] == [{"first": 1, "last": 33, "in_log": 33, "in_lake": 30, "same": False, "error": ""}]
    assert shop.json("lake", "verify")["same"]


def no_parquet(file: Path) -> None:
    file.write_bytes(b"this was a Parquet file" * 100)


def other_columns(file: Path) -> None:
    duckdb.execute(f"COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet)")


def other_bytes(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(4, len(content) - 600, 7):
        content[place] ^= 0xA5
    file.write_bytes(content)


def other_footer(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(len(content) - 400, len(content) - 8, 7):
        content[place] ^= 0xA5
    file.write_bytes(content)


DAMAGES = (Path.unlink, no_parquet, other_columns, other_bytes, other_footer)
DAMAGED = [("events", each) for each in DAMAGES] + [("coupons", other_bytes), ("deliveries", no_parquet)]
"""What may become of a file; tables are read by the same few lines, so that of the others one way each is tried."""


@pytest.mark.parametrize(("table", "damage"), [*DAMAGED, ("coupon_signs", Path.unlink)])
def test_verify_names_the_files_that_are_gone_or_damaged_whoever_else_can_go_on(
    shop: Command, lake: Path, table: str, damage: Callable[[Path], None]
) -> None:
    shop("ingest", "-", given=coupons(1, 2))  # duplicates, so that there are counts of deliveries
    shop("lake", "catch-up")
    [file] = (lake / table).rglob("*.parquet")
    damage(file)
    for arguments in (("lake", "verify"), ("lake", "verify", "--as-it-is")):
        done = shop.run(*arguments)
        assert done.returncode == 1
        assert f"remove {lake}, the lake is made anew" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Files that cannot be read" in done.stdout
        told = shop.json(*arguments, status=1)
        assert [(each["table"], each["file"]) for each in told["broken"]] == [(table, str(file))]
        assert not told["same"]
    rmtree(lake)
    assert shop.json("lake", "verify")["same"]


@pytest.mark.parametrize(("table", "damage"), DAMAGED)
def test_a_damaged_file_is_told_in_one_line_with_the_way_out(
    shop: Command, lake: Path, table: str, damage: Callable[[Path], None]
) -> None:
    shop("ingest", "-", given=coupons(1, 2))
    shop("lake", "catch-up")
    [file] = (lake / table).rglob("*.parquet")
    damage(file)
    for arguments in (
        ["sql", f"FROM {table}", "--csv"],
        ["sql", f"FROM {table}", "--parquet", "x.parquet"],
        ["report", {"deliveries": "delivery-log"}.get(table, "usage-per-coupon")],
        ["export", "-o", "x.csv", "--table", table],
        *([] if table == "coupons" else [["lake", "catch-up"]]),  # its rows are not needed where nothing is new
    ):
        told = shop.refused(*arguments, status=1)
        assert f"remove {lake}, it is made anew" in told
    assert not list(Path().glob("*x.*"))
    rmtree(lake)
    assert shop.json("sql", f"SELECT count(*) > 0 AS there FROM {table}") == [{"there": True}]


def test_a_projection_that_is_not_the_store_s_is_found(shop: Command, lake: Path) -> None:
    [file] = (lake / "coupons").rglob("*.parquet")
    rows = f"SELECT * REPLACE (CASE WHEN coupon_id = 'c-7' THEN 'WINTER' ELSE code END AS code) FROM '{file}'"
    duckdb.execute(f"COPY ({rows}) TO '{file}.new' (FORMAT parquet)")
    Path(f"{file}.new").replace(file)
    done = shop.run("lake", "verify")
    assert done.returncode == 1
    assert f"projections that differ: coupons: remove {lake}" in done.stderr
    told = shop.json("lake", "verify", status=1)
    assert [each["name"] for each in told["projections"] if not each["same"]] == ["coupons"]
    assert not told["broken"]
    shop.change("UPDATE projection_checkpoints SET position = position - 1")
    told = shop.json("lake", "verify", "--as-it-is")
    assert [each["same"] for each in told["projections"]] == [None] * 4
    assert "coupons was not compared: the store's is at position 29" in shop("lake", "verify", "--as-it-is")


def test_a_table_whose_log_is_no_json_any_more_is_named_with_the_way_out(shop: Command, lake: Path) -> None:
    (lake / "coupons" / "_delta_log" / "00000000000000000000.json").write_text("{broken")
    for arguments in (["lake", "status"], ["lake", "verify"], ["report", "findings"]):
        told = shop.refused(*arguments, status=1)
        assert f"{lake}/coupons cannot be read" in told
        assert f"remove {lake}, it is made anew" in told


# --- compact ----------------------------------------------------------------------------------------------------------


def test_compacting_joins_files_and_deletes_old_ones_and_no_answer_changes(shop: Command, lake: Path) -> None:
    for number in range(31, 36):
        shop("ingest", "-", given=coupons(number, number))
        shop("lake", "catch-up")
    asked = ("sql", "SELECT *, (SELECT count(*) FROM events) AS events FROM coupons ORDER BY coupon_id", "--csv")
    before, answer = shop.json("lake", "status"), shop(*asked)
    assert before["files"]["events"] == 6
    kept = shop.json("lake", "compact")
    assert kept["files"]["events"] == 1
    assert set(kept["deleted"].values()) == {0}  # out of use, but young
    gone = shop.json("lake", "compact", "--keep", "0")
    assert gone["deleted"]["events"] == 6
    assert len(list((lake / "events").glob("*.parquet"))) == 1
    assert shop(*asked) == answer
    assert shop.json("lake", "verify")["same"]
    rows = {row[0]: row[1:] for row in cells(shop("lake", "compact", "--keep", "0"))}
    assert rows["events"][:2] == ["1", "1"]


def test_there_is_nothing_to_compact_where_no_lake_is(eventstore: Command, lake: Path) -> None:
    assert "the store has no events yet" in eventstore.refused("lake", "compact", "--lake", str(lake), status=3)
    eventstore("ingest", "-", given=coupons(1, 2))
    assert "`eventstore lake catch-up` makes it" in eventstore.refused("lake", "compact", "--lake", str(lake), status=3)
    assert not lake.exists()


# --- where it lies, and who may write it ------------------------------------------------------------------------------


def test_an_address_that_is_none_is_refused_and_a_home_is_the_user_s(
    eventstore: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(folder.iterdir())
    for place, told in (("", "empty text"), ("s3://", "names no bucket"), ("s3:///", "names no bucket")):
        for arguments in (("lake", "status"), ("sql", "SELECT 1"), ("export", "-o", "x.csv")):
            assert told in eventstore.refused(*arguments, "--lake", place, status=1)
    assert sorted(folder.iterdir()) == before
    monkeypatch.setenv("HOME", str(folder / "home"))
    eventstore("ingest", "-", given=coupons(1, 1))
    eventstore("lake", "catch-up", "--lake", "~/lake")
    assert (folder / "home" / "lake" / "events").is_dir()
    assert not (folder / "~").exists()


def test_a_lake_is_asked_as_it_is_without_a_write(shop: Command, lake: Path) -> None:
    (lake / "catching-up.lock").unlink()
    shop("ingest", "-", given=coupons(31, 33))
    before = sorted(lake.rglob("*"))
    assert shop.json("sql", "SELECT count(*) AS n FROM events", "--as-it-is") == [{"n": 30}]
    assert len(shop.json("report", "usage-per-coupon", "--as-it-is")) == 30
    assert len(shop("export", "-o", "-", "--format", "ndjson", "--as-it-is").splitlines()) == 30
    assert sorted(lake.rglob("*")) == before
    assert shop.json("sql", "SELECT count(*) AS n FROM events") == [{"n": 33}]


def test_the_status_of_another_store_s_lake_says_so(shop: Command, folder: Path) -> None:
    other = Command(folder / "other.db")
    other("init")
    assert "further on than the log" in other("lake", "status")


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_is_asked_of_the_lake_that_is_named(shop: Command, folder: Path) -> None:
    assert len(shop.json("report", "usage-per-coupon", "--lake", str(folder / "other"))) == 30
    assert (folder / "other" / "events").is_dir()


def test_a_report_is_written_as_parquet_with_its_types(shop: Command, folder: Path) -> None:
    for report in analytics.reports():
        name = f"{report.name}.parquet"
        said = shop("report", report.name, "--parquet", name)
        found = pq.read_table(folder / name)
        assert said == f"{name}: {found.num_rows:,} rows at position 30\n"
        assert found.column_names == [each.name for each in report.columns]
        assert {each.name: each.metadata[b"comment"].decode() for each in found.schema} == {
            each.name: each.doc for each in report.columns
        }
        for each in report.columns:
            kind = str(found.schema.field(each.name).type)
            assert ("timestamp" in kind, "date" in kind) == (each.unit == "time", each.unit == "date")
    [row] = [
        each for each in pq.read_table(folder / "usage-per-coupon.parquet").to_pylist() if each["coupon_id"] == "c-7"
    ]
    assert (row["code"], row["times_used"], row["discount_value"]) == ("SPRING", 0, 10)
    assert "cannot be written" in shop.refused("report", "findings", "--parquet", "none/x.parquet", status=1)
    assert shop.run("report", "findings", "--parquet", "x.parquet", "--csv").returncode == 2


def test_a_report_that_its_limit_may_have_cut_says_so_beside_the_answer(shop: Command) -> None:
    uses = ndjson(
        *(wrapped(CREATED, created(f"late-{n}", f"c-{n}", percentOffRate=200, active=True)) for n in range(31, 34))
    )
    shop("ingest", "-", given=uses)
    shop("ingest", "-", given=ndjson(*(wrapped(APPLIED, applied(f"u-{n}", f"o-{n}", "c-1")) for n in range(5))))
    for form in ("--csv", "--json"):
        done = shop.run("report", "redemptions", "-p", "limit=3", form)
        assert done.stderr == "limit=3 was reached, there may be more: -p limit=all gives all of it\n"
        assert "limit" not in shop.run("report", "redemptions", "-p", "limit=all", form).stderr
    assert len(shop.json("report", "redemptions", "-p", "limit=all")) == 5


def test_a_report_without_a_row_says_so_and_one_cut_for_people_how_to_see_the_rest(shop: Command) -> None:
    assert shop("report", "redemptions").endswith("no rows\n")
    told = shop("report", "usage-per-coupon", "--limit", "2", "--site", "s 1", "-p", "until=2099-01-01")
    assert told.endswith("no rows\n")
    told = shop("report", "usage-per-coupon", "--limit", "2", "-p", "until=2099-01-01")
    assert "… and 28 more rows: eventstore report usage-per-coupon -p until=2099-01-01\n" in told
    assert "until is to be later" in shop.refused(
        "report", "redemptions", "-p", "since=2026-09-02", "-p", "until=2026-09-01", status=1
    )
    done = shop.run("report", "redemptions", "--since", "2026-09-02")
    assert (done.returncode, "go as -p since=VALUE" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["findings", "--csv", "--json"],
        ["findings", "--csv", "--limit", "3"],
        ["findings", "--json", "--limit", "3"],
        ["findings", "--parquet", "x.parquet", "--limit", "3"],
        ["findings", "--list"],
        ["findings", "--describe", "--parquet", "x.parquet"],
        ["findings", "--describe", "--csv"],
        ["--list", "--csv"],
        ["--list", "-p", "site=a"],
        ["usage-over-time", "-p", "per=day", "-p", "per=week"],
        ["findings", "--site", "a", "-p", "site=a"],
        ["usage-over-time", "--tz", "UTC", "-p", "tz=UTC"],
        ["findings", "-p", "site"],
    ],
    ids=" ".join,
)
def test_what_a_report_would_have_to_drop_is_wrong_usage(shop: Command, arguments: list[str], folder: Path) -> None:
    done = shop.run("report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (folder / "x.parquet").exists()


def test_the_list_of_reports_is_grouped_and_one_is_described(shop: Command) -> None:
    listed = shop("report", "--list")
    shown = {row[0] for row in cells(listed)}
    assert {each.name for each in analytics.reports()} <= shown
    assert "How coupons are used" in shown
    assert (
        listed.index("How coupons are used") < listed.index("usage-per-coupon") < listed.index("What does not add up")
    )
    for report in analytics.reports():
        described = shop("report", report.name, "--describe")
        assert described.startswith(f"{report.title}: {report.question}\n")
        rows = cells(described)
        for each in report.columns:
            assert any(row[:2] == [each.name, each.unit] for row in rows)
        for parameter in report.parameters:
            assert any(row[0] == parameter.name for row in rows)
    told = shop.json("report", "usage-over-time", "--describe")
    assert [each["name"] for each in told["columns"]] == [
        each.name for each in analytics.report("usage-over-time").columns
    ]
    assert {"name": "per", "type": "day|week|month", "default": "day"}.items() <= told["parameters"][0].items()
    assert "did you mean findings?" in shop.refused("report", "finding", "--describe", status=1)
    assert shop.run("report", "--describe").returncode == 2
