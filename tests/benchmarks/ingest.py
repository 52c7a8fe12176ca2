"""`ingest`: from a delivery's bytes to what the log's writer takes, without the writer."""

from __future__ import annotations

import cProfile
import io
import itertools
import pstats
from dataclasses import dataclass

import orjson

from eventstore import wix
from eventstore.demo import SITE_ID, documented, month
from eventstore.event import Event
from eventstore.ingest import Route, read_delivery
from eventstore.log.records import now, prepare
from tests.benchmarks.harness import Benchmark, Described, Options, Result, interleaved, medians, note, seconds

MONTH_EVENTS = 3_000
"""The demonstration month is repeated past this: its mix of routes stays what it is."""
PROFILE_LINES = 10


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    count = options.events or BENCHMARK.events
    note(f"preparing {count:,} deliveries")
    deliveries = _deliveries(count)
    payloads = [prepare(event).payload for delivery in deliveries for event in _read(delivery)]

    def reading() -> None:
        for delivery in deliveries:
            for event in _read(delivery):
                prepare(event)

    def kept() -> None:
        for delivery in deliveries:
            read_delivery(delivery.bytes, Route(delivery.route, delivery.handler), _own_site)

    def bare() -> None:
        for payload in payloads:
            Event.model_validate(orjson.loads(payload))

    samples = interleaved(
        options.rounds or BENCHMARK.rounds,
        lambda: {"deliveries_per_second": count / seconds(reading)},
        lambda: {"with_original_per_second": count / seconds(kept)},
        lambda: {"bare_pydantic_per_second": len(payloads) / seconds(bare)},
    )
    values = medians(samples, vs_bare_pydantic=("deliveries_per_second", "bare_pydantic_per_second"))
    return BENCHMARK.result(values, _profile(reading) if options.profile else "")


@dataclass(frozen=True, slots=True)
class _Raw:
    route: str
    handler: str | None
    bytes: bytes


def _deliveries(count: int) -> list[_Raw]:
    """Half from the demonstration month (mostly Velo, with REST and SDK), half REST events of documented size, in turn."""
    told = (each for each in month(events=MONTH_EVENTS) if each.route != "snapshot")
    mixed = itertools.chain.from_iterable(zip(itertools.cycle(told), documented(count), strict=False))
    return [_Raw(each.route, each.handler, orjson.dumps(each.body)) for each in itertools.islice(mixed, count)]


def _own_site(named: str | None) -> str:
    return named or SITE_ID


_OBSERVED_AT = now()


def _read(delivery: _Raw) -> list[Event]:
    return wix.read(
        wix.decode(delivery.bytes),
        route=delivery.route,
        handler=delivery.handler,
        site_id=SITE_ID,
        observed_at=_OBSERVED_AT,
    )


def _profile(work: object) -> str:
    """The lines of a profile that cost most by themselves."""
    assert callable(work)
    profile = cProfile.Profile()
    profile.runcall(work)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
    return text.getvalue().strip()


BENCHMARK = Benchmark(
    name="ingest",
    about="reading deliveries as Wix sends them: bytes, decode, read, prepare (payload and hash); no database",
    peer="orjson.loads and Event.model_validate of payloads that are canonical already: what any pydantic door pays "
    "before it has understood anything of Wix",
    events=20_000,
    rounds=5,
    figures=(
        Described("deliveries_per_second", "deliveries/s", "bytes -> wix.decode -> wix.read -> prepare"),
        Described(
            "with_original_per_second", "deliveries/s", "eventstore.ingest.read_delivery: also site and kept bytes"
        ),
        Described("bare_pydantic_per_second", "events/s", "the peer"),
        Described("vs_bare_pydantic", "x", "deliveries_per_second over the peer"),
    ),
    run=run,
)
