"""Figures for Prometheus, in its text format: how long the log is, how far the projections are, and what waits.

https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from eventstore.api.context import Here
from eventstore.api.problems import PROBLEM
from eventstore.projections.lag import lag

if TYPE_CHECKING:
    from analytics.answering import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter(tags=["operation"])


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, type (gauge or counter), what it means, and its samples by their labels."""

    name: str
    kind: str
    about: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)


def text_of(metrics: Iterable[Metric]) -> str:
    """The metrics in Prometheus' text format."""
    lines = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_escaped(metric.about, quotes=False)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for labels, value in metric.samples:
            named = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{metric.name}{f'{{{named}}}' if named else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str, *, quotes: bool = True) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quotes else escaped


def _of_reports(tallies: Mapping[str, Tally], worker: Mapping[str, str]) -> list[Metric]:
    answered = Metric(
        "eventstore_reports_total", "counter", "Answers of reports by this worker: computed, and those still true."
    )
    seconds = Metric("eventstore_report_seconds_total", "counter", "How long this worker has computed reports.")
    for name, tally in tallies.items():
        labels = {"report": name, **worker}
        answered.samples.append(({**labels, "how": "computed"}, tally.computed))
        answered.samples.append(({**labels, "how": "kept"}, tally.kept))
        seconds.samples.append((labels, tally.seconds))
    return [answered, seconds]


class _Text(PlainTextResponse):
    media_type = CONTENT_TYPE


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=_Text,
    responses={
        200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
        503: {"description": "The database cannot be used now.", **PROBLEM},
    },
)
def metrics(here: Here) -> _Text:
    """Numbers alone, in Prometheus' text format: no ids, and nothing of the events. Needs no token, as the health check.

    Of several workers one answers; what is of that worker alone has its process number as a label.
    """
    found = lag(here.store.engine, here.store.catalogue)
    worker = {"pid": str(os.getpid())}
    return _Text(
        text_of(
            [
                Metric("eventstore_events_total", "counter", "Events in the log.", [({}, found.head)]),
                Metric(
                    "eventstore_projection_position",
                    "gauge",
                    "The position of the log that a projection has reached.",
                    [({"projection": name}, position) for name, position in found.positions.items()],
                ),
                Metric(
                    "eventstore_projection_lag_events",
                    "gauge",
                    "Events that the projections have yet to take in.",
                    [({}, found.events)],
                ),
                Metric(
                    "eventstore_projection_lag_seconds",
                    "gauge",
                    "Age of the oldest event that the projections have yet to take in.",
                    [({}, found.seconds)],
                ),
                Metric(
                    "eventstore_projections_standing_still",
                    "gauge",
                    "Projections that do not move although events wait.",
                    [({}, len(found.stands_still))],
                ),
                Metric(
                    "eventstore_projections_behind",
                    "gauge",
                    "Projections whose tables another version of their model made, or that were never built.",
                    [({}, len(found.behind))],
                ),
                Metric(
                    "eventstore_parked_coupons",
                    "gauge",
                    "Coupons that wait for an event that a projection could not take.",
                    [({}, found.parked)],
                ),
                Metric(
                    "eventstore_queued_events",
                    "gauge",
                    "Events of this worker that wait to be written.",
                    [(worker, here.store.waiting)],
                ),
                *_of_reports(here.desk.tallies(), worker),
                Metric(
                    "eventstore_reports_running",
                    "gauge",
                    "Reports that this worker computes now.",
                    [(worker, here.desk.running)],
                ),
                Metric(
                    "eventstore_follows",
                    "gauge",
                    "Whether this worker is the one that follows the log.",
                    [(worker, float(here.store.runner.leads))],
                ),
            ]
        )
    )
