"""The benchmarks run, print the figures that they document and nothing else, and compare like with like."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from eventstore.demo import month
from eventstore.event import Event
from eventstore.log.records import prepare
from eventstore.store import EventStore
from tests.benchmarks import python_fold, rebuild
from tests.benchmarks.append_entries import EntrySource, append_pieces
from tests.benchmarks.append_peers import stored_events
from tests.benchmarks.command import main

ROOT = Path(__file__).parents[2]
FIGURES = {
    "append": [
        "single_vs_eventsourcing",
        "single_8_vs_eventsourcing",
        "single_1_vs_eventsourcing",
        "batch_100_vs_eventsourcing",
        "bulk_vs_eventsourcing",
        "bulk_vs_raw_driver",
        "bulk_prepared_vs_raw_driver",
        "group_commit_ratio",
        "group_commit_vs_raw_driver",
        "group_commit_events_per_second",
        "single_64_futures_per_second",
        "single_8_per_second",
        "single_1_per_second",
        "batch_100_per_second",
        "bulk_events_per_second",
        "bulk_prepared_per_second",
        "eventsourcing_single_64_per_second",
        "eventsourcing_single_8_per_second",
        "eventsourcing_single_1_per_second",
        "eventsourcing_batch_100_per_second",
        "eventsourcing_bulk_per_second",
        "one_commit_per_event_per_second",
        "raw_driver_commits_per_second",
        "raw_driver_events_per_second",
    ],
    "append --grow": [
        "append_slowdown",
        "read_slowdown",
        "coupon_read_slowdown",
        "append_at_smallest_per_second",
        "append_at_middle_per_second",
        "append_at_largest_per_second",
        "read_at_smallest_per_second",
        "read_at_middle_per_second",
        "read_at_largest_per_second",
        "coupon_reads_at_smallest_per_second",
        "coupon_reads_at_middle_per_second",
        "coupon_reads_at_largest_per_second",
    ],
    "rebuild": [
        "events_per_second",
        "peak_memory_mb",
        "vs_python_fold",
        "vs_python_fold_in_memory",
        "python_fold_events_per_second",
        "vs_raw_read",
        "vs_eventsourcing",
        "raw_read_events_per_second",
        "eventsourcing_events_per_second",
        "share_read",
        "share_facts",
        "share_models",
        "share_lift",
        "share_merge",
        "share_write",
        "share_swap",
    ],
    "rebuild --grow": [
        "rate_at_10m_over_1m",
        "events_per_second_small",
        "events_per_second_large",
        "peak_memory_mb_small",
        "peak_memory_mb_large",
    ],
    "live": [
        "sustained_per_second",
        "sustained_lag_max_ms",
        "vs_append_alone",
        "append_alone_per_second",
        "lag_p50_ms",
        "lag_p99_ms",
        "lag_max_ms",
    ],
    "ingest": [
        "deliveries_per_second",
        "with_original_per_second",
        "bare_pydantic_per_second",
        "vs_bare_pydantic",
    ],
    "bulk": [
        "deliveries_per_second",
        "one_process_per_second",
        "vs_one_process",
        "repeated_per_second",
        "deliveries_per_second_gzip",
        "deliveries_per_second_zstd",
        "cores_busy",
        "share_reading",
        "share_handing_over",
        "share_writing",
        "peak_memory_mb",
    ],
    "webhook": [
        "requests_per_second",
        "vs_bare_endpoint",
        "vs_textbook_handler",
        "p50_ms",
        "p99_ms",
        "p999_ms",
        "over_1250_ms",
        "sustained_per_second",
    ],
    "reports": ["slowest_warm_s", "slowest_cold_s", "connect_s", "vs_oltp_query", "vs_hand_written"],
    "export": [
        "events_per_second",
        "vs_duckdb_copy",
        "duckdb_copy_events_per_second",
        "with_projections_per_second",
        "freshness_s",
        "freshness_max_s",
        "export_peak_memory_mb",
        "peak_memory_mb",
    ],
    "sse": [
        "events_per_second",
        "log_events_per_second",
        "memory_per_client_kb",
        "vs_naive",
        "p50_ms",
        "p99_ms",
    ],
    "handlers": [
        "events_per_second",
        "async_events_per_second",
        "log_read_events_per_second",
        "vs_log_read",
        "eventsourcing_events_per_second",
        "vs_eventsourcing",
        "p50_ms",
        "p99_ms",
    ],
}
EVENTS = {
    "append": 150,
    "append --grow": 600,
    "bulk": 500,
    "webhook": 150,
    "rebuild": 200,
    "rebuild --grow": 200,
    "live": 200,
    "ingest": 1000,
    "reports": 200,
    "export": 200,
    "sse": 50,
    "handlers": 200,
}
"""Events of a round: enough that each figure comes out."""
MAY_BE_NONE = {"over_1250_ms"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


ON_POSTGRESQL = "append"
"""The benchmark that is tried on the other engine: each takes half a minute."""


@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_prints_one_json_object_with_its_documented_figures(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--events", str(EVENTS[name]), "--rounds", "1", "--json", "--directory", str(tmp_path))
    # In this process, whose children are forked with all that they need: ten that start anew would take half a minute.
    status = main([*name.split(), *options])
    printed, errors = capfd.readouterr()
    assert status == 0, errors
    told = json.loads(printed)
    assert list(told) == ["benchmark", "figures"]
    assert told["benchmark"] == name
    assert [figure["name"] for figure in told["figures"]] == FIGURES[name]
    for figure in told["figures"]:
        assert list(figure) == ["name", "value", "unit"]
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0 or (figure["value"] == 0 and figure["name"] in MAY_BE_NONE)
        assert figure["unit"]
    assert list(tmp_path.iterdir()) == []


def test_appending_is_measured_on_postgresql_too() -> None:
    name = ON_POSTGRESQL
    # Not pytest's own folder, whose long name leaves no room for that of the server's socket.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        options = ("--engine", "postgresql", "--events", "250", "--rounds", "1", "--json", "--directory", folder)
        done = run(*name.split(), *options)
        left = list(Path(folder).iterdir())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [figure["name"] for figure in told["figures"]] == FIGURES[name]
    assert all(math.isfinite(figure["value"]) and figure["value"] > 0 for figure in told["figures"])
    assert left == []


def test_a_log_that_the_disk_has_no_room_for_is_not_begun(tmp_path: Path) -> None:
    done = run("append", "--grow", "--events", "1_000_000_000_000", "--directory", str(tmp_path))
    assert done.returncode == 1
    assert "1,000,000,000,000 events take" in done.stderr
    assert "give fewer --events" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_appending_and_rebuilding_can_be_measured_as_the_log_grows() -> None:
    done = run("ingest", "--grow")
    assert done.returncode == 2
    assert "--grow is of append and rebuild, not of ingest" in done.stderr


def test_the_entries_that_a_log_is_grown_with_are_what_the_store_makes_of_their_events() -> None:
    entries = EntrySource(templates=300).take(900)
    for entry in entries:
        assert prepare(Event.from_payload(entry.payload)) == entry
    assert len({entry.event_id for entry in entries}) == 900
    assert len({entry.coupon_id for entry in entries}) > 100
    assert len({entry.site_id for entry in entries}) > 10


def test_a_grown_log_takes_its_entries_once(sqlite_store: EventStore) -> None:
    entries = EntrySource(templates=50).take(120)
    append_pieces(sqlite_store, [entries[:50], entries[50:], entries])
    assert sqlite_store.head() == 120


def test_both_sides_are_given_the_same_bytes() -> None:
    entries = EntrySource(templates=50).take(200)
    stored = stored_events(entries)
    assert [each.state for each in stored] == [entry.payload for entry in entries]
    assert len({(each.originator_id, each.originator_version) for each in stored}) == 200
    assert len({each.originator_id for each in stored}) == len({(entry.site_id, entry.entity_id) for entry in entries})


def test_the_help_names_every_figure() -> None:
    told = run("--help").stdout
    for figures in FIGURES.values():
        for name in figures:
            assert name in told


def test_a_kept_log_is_not_filled_twice_and_never_taken_for_another_size(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    rebuild.fill(str(path), 500)
    rebuild.fill(str(path), 500)
    with EventStore.open(path) as store:
        assert store.head() == 500
    done = run("rebuild", "--store", str(path), "--events", "400", "--rounds", "1")
    assert done.returncode == 1
    assert "holds 500 events, not 400" in done.stderr


def test_the_python_fold_makes_the_rows_of_the_models(sqlite_store: EventStore, path: Path) -> None:
    sqlite_store.ingest((number, delivery.line()) for number, delivery in enumerate(month(events=1500), 1))
    sqlite_store.rebuild_projections()
    sample = rebuild.measure_fold(str(path))
    assert sample["python_fold_events_per_second"] > 0


def test_a_python_fold_that_makes_other_rows_is_refused(
    sqlite_store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_store.ingest((number, delivery.line()) for number, delivery in enumerate(month(events=500), 1))
    sqlite_store.rebuild_projections()
    monkeypatch.setattr(python_fold, "_is_deleted", lambda _coupon: False)
    with pytest.raises(AssertionError, match="coupons: "):
        rebuild.measure_fold(str(path))
