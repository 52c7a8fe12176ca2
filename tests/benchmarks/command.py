"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from eventstore.errors import EventStoreError
from tests.benchmarks import append, bulk, export, handlers, ingest, live, rebuild, reports, sse, webhook
from tests.benchmarks.harness import POSTGRESQL, SQLITE, Benchmark, Options, Result
from tests.processes import FORKING

BENCHMARKS = {
    each.name: each
    for each in (
        append.BENCHMARK,
        rebuild.BENCHMARK,
        live.BENCHMARK,
        ingest.BENCHMARK,
        bulk.BENCHMARK,
        webhook.BENCHMARK,
        reports.BENCHMARK,
        export.BENCHMARK,
        handlers.BENCHMARK,
        sse.BENCHMARK,
    )
}
WIDTH = 100


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its figures. The exit code is 0 also when a goal is missed, for machines differ."""
    parser = _parser()
    given = parser.parse_args(arguments)
    benchmark = BENCHMARKS[given.name]
    if given.grow:
        if benchmark.grown is None:
            parser.error(f"--grow is of append and rebuild, not of {benchmark.name}")
        benchmark = benchmark.grown
    # What is forked holds no more than every process that opens a store, for its memory is measured.
    FORKING.set_forkserver_preload(["eventstore.store"])
    options = Options(
        events=given.events,
        rounds=given.rounds,
        engine=given.engine,
        directory=given.directory,
        store=given.store,
        profile=given.profile,
    )
    try:
        result = benchmark.run(options)
    except EventStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(_json(benchmark, result))
        if result.notes:
            print(result.notes, file=sys.stderr)
    else:
        print(_table(benchmark, result))
        if result.notes:
            print(f"\n{result.notes}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the event store beside what one would write by hand, both in the same run, in turn. "
        "Figures are medians of the rounds; a ratio is taken within each round. Progress goes to standard error.",
        epilog=_described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BENCHMARKS, help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--grow",
        action="store_true",
        help="append: one store that grows, and what its size costs; rebuild: two sizes, tenfold",
    )
    parser.add_argument("--events", type=_positive, metavar="N", help="events a round (default: see below)")
    parser.add_argument("--rounds", type=_positive, metavar="R", help="interleaved rounds (default: see below)")
    parser.add_argument(
        "--engine",
        choices=(SQLITE, POSTGRESQL),
        default=SQLITE,
        help="the database (default: %(default)s); postgresql runs a server of its own; ingest needs neither",
    )
    parser.add_argument(
        "--json", action="store_true", help='print one object {"benchmark", "figures"} and nothing else'
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where the stores are made for the run; a real disk (default: /var/tmp)",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="rebuild: the log to read, a SQLite file or a PostgreSQL URL; filled if it is empty, and kept afterwards",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="ingest: also the ten costliest functions by own time; webhook: those of reading a webhook, and the servers' CPU "
        "time a request",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _described() -> str:
    parts = ["benchmarks and their figures:"]
    grown = [each.grown for each in BENCHMARKS.values() if each.grown is not None]
    for each in (*BENCHMARKS.values(), *grown):
        parts.append(f"\n  {each.name} ({each.events:,} events, {each.rounds} rounds unless told otherwise)")
        parts.append(textwrap.fill(each.about, WIDTH, initial_indent="    ", subsequent_indent="    "))
        parts.append(textwrap.fill(f"Peer: {each.peer}.", WIDTH, initial_indent="    ", subsequent_indent="    "))
        for figure in each.figures:
            goal = f" [goal {figure.goal}]" if figure.goal is not None else ""
            parts.append(f"      {figure.name:<34}{figure.about}{goal}")
    return "\n".join(parts)


def _json(benchmark: Benchmark, result: Result) -> str:
    figures = [{"name": each.name, "value": each.value, "unit": each.unit} for each in result.figures]
    return json.dumps({"benchmark": benchmark.name, "figures": figures}, allow_nan=False)


def _table(benchmark: Benchmark, result: Result) -> str:
    lines = [f"{benchmark.name}: {benchmark.about}", ""]
    for figure, described in zip(result.figures, benchmark.figures, strict=True):
        goal = ""
        if described.goal is not None:
            goal = f"goal {described.goal}: {'met' if described.goal.met(figure.value) else 'MISSED'}"
        decimals = 0 if figure.value >= 1000 else 2
        lines.append(f"  {figure.name:<34}{figure.value:>12,.{decimals}f} {figure.unit:<14}{goal}".rstrip())
    lines += ["", textwrap.fill(f"Peer: {benchmark.peer}.", WIDTH)]
    return "\n".join(lines)
