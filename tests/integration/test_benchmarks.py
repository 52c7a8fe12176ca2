"""The benchmarks run, print the figures that they document and nothing else, and compare like with like."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.demo import month
from eventstore.store import EventStore
from tests.benchmarks import python_fold, rebuild

ROOT = Path(__file__).parents[2]
FIGURES = {
    "append": [
        "group_commit_ratio",
        "group_commit_events_per_second",
        "one_commit_per_event_per_second",
        "group_commit_vs_raw_driver",
        "raw_driver_commits_per_second",
        "bulk_vs_raw_driver",
        "bulk_events_per_second",
        "raw_driver_events_per_second",
    ],
    "rebuild": [
        "events_per_second",
        "peak_memory_mb",
        "vs_python_fold",
        "vs_python_fold_in_memory",
        "python_fold_events_per_second",
        "share_read",
        "share_facts",
        "share_lift",
        "share_merge",
        "share_write",
        "share_swap",
    ],
    "ingest": [
        "deliveries_per_second",
        "with_original_per_second",
        "bare_pydantic_per_second",
        "vs_bare_pydantic",
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
}
EVENTS = {"webhook": 400}
"""A round's events where 2,000 would take long."""
MAY_BE_NONE = {"over_1250_ms"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_prints_one_json_object_with_its_documented_figures(name: str, tmp_path: Path) -> None:
    events = str(EVENTS.get(name, 2000))
    done = run(name, "--events", events, "--rounds", "1", "--json", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told) == ["benchmark", "figures"]
    assert told["benchmark"] == name
    assert [figure["name"] for figure in told["figures"]] == FIGURES[name]
    for figure in told["figures"]:
        assert list(figure) == ["name", "value", "unit"]
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0 or (figure["value"] == 0 and figure["name"] in MAY_BE_NONE)
        assert figure["unit"]
    assert list(tmp_path.iterdir()) == []


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
