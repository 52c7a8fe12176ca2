"""`webhook`: signed webhooks over HTTP, from the request to the answer that says they are durable."""

from __future__ import annotations

import cProfile
import io
import itertools
import pstats
import signal
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from eventstore import apps
from eventstore.apps import AppInstance, AppKey, WixApp
from eventstore.demo import SITE_ID
from eventstore.log.engine import make_engine
from eventstore.store import EventStore
from eventstore.webhooks import Registry, entries
from tests.benchmarks import webhook_servers
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Goal,
    Options,
    Result,
    Sample,
    Stores,
    at_share,
    in_child,
    interleaved,
    medians,
    note,
    stores,
)
from tests.benchmarks.webhook_load import CONNECTIONS, Measured, Target, load
from tests.benchmarks.webhook_tokens import new_key, write_tokens
from tests.serving import command, environment

PATH = "/v1/webhooks/wix"
APPENDED = b'"outcome":"appended"'
WARM_UP = 400
"""Requests to a new server that are not timed: its first ones import, connect and fill caches."""
TEXTBOOK_SHARE = 4
"""The textbook handler gets one request in so many: it is slow enough that fewer give as steady a rate."""
OPEN_SHARE = 0.6
"""The open loop's rate, as a share of the closed loop's: a server that is busy and not overrun."""
WIX_WAITS_SECONDS = 1.25
PATIENCE = 60.0
"""Seconds after which a server that neither starts nor ends is killed."""
PROFILE_EVENTS = 2_000
PROFILE_LINES = 15


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with stores(options) as fresh:
        bench = _Bench(fresh, options)
        samples = interleaved(options.rounds or BENCHMARK.rounds, bench.bare, bench.ours, bench.textbook)
        rates = medians(
            samples,
            vs_bare_endpoint=("requests_per_second", "bare_endpoint_per_second"),
            vs_textbook_handler=("requests_per_second", "textbook_handler_per_second"),
        )
        rate = OPEN_SHARE * rates["requests_per_second"]
        note(f"latencies of {bench.count:,} webhooks at {rate:,.0f}/s")
        opened = bench.opened(rate)
        told = [
            f"The latencies are of {bench.count:,} webhooks that fell due at {rate:,.0f}/s, {OPEN_SHARE:g} of the closed loop's.",
            "Answers a second of the peers: "
            + ", ".join(f"{name} {rates[f'{name}_per_second']:,.0f}" for name in ("bare_endpoint", "textbook_handler")),
            bench.generator(),
        ]
        if bench.refused:
            told.append(f"{bench.refused:,} answers were 503, the store being busy; those webhooks were sent again.")
        if options.profile:
            told += [bench.server_cpu(), bench.profile()]
    return BENCHMARK.result(rates | _latencies(opened), "\n".join(told))


def _latencies(opened: Measured) -> Sample:
    sorted_ms = [1000 * latency for latency in opened.latencies]
    over = sum(latency > WIX_WAITS_SECONDS for latency in opened.latencies)
    return {
        "p50_ms": at_share(sorted_ms, 0.5),
        "p99_ms": at_share(sorted_ms, 0.99),
        "p999_ms": at_share(sorted_ms, 0.999),
        "over_1250_ms": over,
        "sustained_per_second": opened.per_second,
    }


class _Bench:
    """The webhooks of a run, and each side's measure. Every measure has a new server over a new store."""

    def __init__(self, fresh: Stores, options: Options) -> None:
        self.count = options.events or BENCHMARK.events
        self.warm_up = min(WARM_UP, self.count)
        self._fresh = fresh
        self._folder = fresh.directory
        self._tokens = self._folder / "tokens.txt"
        self._key_file = self._folder / "key.pem"
        self._generator_shares: dict[str, list[float]] = {}
        self._server_cpu: dict[str, list[Counter[str]]] = {}
        self.refused = 0
        note(f"signing {self.count + self.warm_up:,} webhooks")
        private, self._public = new_key()
        self._key_file.write_text(self._public, encoding="ascii")
        write_tokens(self._tokens, private, self.count + self.warm_up)

    def bare(self) -> Sample:
        """The bare endpoint's rate."""
        url = self._fresh.fresh()
        with self._server("bare", url) as server:
            measured = self._load("bare endpoint", server, Target(server.url, webhook_servers.PATH), self.count)
        self._fresh.discard(url)
        return {"bare_endpoint_per_second": measured.per_second}

    def ours(self) -> Sample:
        """The store's own rate."""
        return {"requests_per_second": self._ours("eventstore serve", None).per_second}

    def opened(self, rate: float) -> Measured:
        """The store's own latencies at a rate."""
        return self._ours("open loop", rate)

    def _ours(self, name: str, rate: float | None) -> Measured:
        url = self._fresh.fresh()
        with EventStore.open(url) as store:
            apps.add_app(store.engine, name="benchmark", key=self._public, instances=[SITE_ID])
        with _running(command("--store", url, "serve", "--port", "0"), self._folder) as server:
            measured = self._load(name, server, Target(server.url, PATH, APPENDED), self.count, rate)
        with EventStore.open(url, create=False) as store:
            _require(store.head(), self.warm_up + self.count)
        self._fresh.discard(url)
        return measured

    def textbook(self) -> Sample:
        """The textbook handler's rate."""
        count = max(CONNECTIONS, self.count // TEXTBOOK_SHARE)
        count = min(count, self.count)
        url = self._fresh.fresh()
        with self._server("textbook", url, str(self._key_file)) as server:
            target = Target(server.url, webhook_servers.PATH, APPENDED)
            measured = self._load("textbook handler", server, target, count)
        engine = make_engine(url)
        with engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM webhook_events")).scalar_one()
        engine.dispose()
        _require(found, self.warm_up + count)
        self._fresh.discard(url)
        return {"textbook_handler_per_second": measured.per_second}

    def generator(self) -> str:
        """What shows that the load generator was not what was measured."""
        with self._server("trivial") as server:
            measured = in_child(load, Target(server.url, "/"), self._tokens, self.warm_up, self.count)
        shares = ", ".join(
            f"{100 * statistics.median(each):.0f} % ({name})" for name, each in self._generator_shares.items()
        )
        return (
            f"The load generator, a process of its own, used {shares} of one core; from a server that does nothing it gets "
            f"{measured.per_second:,.0f} answers a second."
        )

    def server_cpu(self) -> str:
        """CPU time a request of each server, by thread."""
        lines = ["CPU time of the servers, µs a request, by thread (medians; the main thread is the event loop):"]
        for name, runs in self._server_cpu.items():
            threads = {thread: statistics.median(run[thread] for run in runs) for run in runs for thread in run}
            told = ", ".join(f"{thread} {value:,.0f}" for thread, value in threads.items())
            lines.append(f"  {name}: {told}")
        return "\n".join(lines)

    def profile(self) -> str:
        """The costliest functions, by own time, of making log entries of webhooks: no HTTP and no database."""
        moment = datetime.now(UTC)
        key = AppKey("", self._public, datetime.min.replace(tzinfo=UTC))
        instance = AppInstance(SITE_ID, False, key.added_at)
        registry = Registry([WixApp("app", "benchmark", False, moment, None, (key,), (instance,))])
        with self._tokens.open("rb") as lines:
            tokens = [line.rstrip() for line in itertools.islice(lines, PROFILE_EVENTS)]

        def reading() -> None:
            for token in tokens:
                signed = registry.verify(token)
                registry.admits(signed)
                entries(signed)

        profile = cProfile.Profile()
        profile.runcall(reading)
        told = io.StringIO()
        pstats.Stats(profile, stream=told).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
        return f"Verifying, reading and preparing {len(tokens):,} webhooks, in process:\n{told.getvalue().strip()}"

    @contextmanager
    def _server(self, *arguments: str) -> Iterator[_Server]:
        with _running([sys.executable, "-m", "tests.benchmarks.webhook_servers", *arguments], self._folder) as server:
            yield server

    def _load(self, name: str, server: _Server, target: Target, count: int, rate: float | None = None) -> Measured:
        before = server.cpu()
        measured = in_child(load, target, self._tokens, self.warm_up, count, rate)
        self.refused += measured.refused
        used = server.cpu()
        used.subtract(before)
        self._generator_shares.setdefault(name, []).append(measured.cpu_share)
        each = Counter({thread: round(value / (self.warm_up + count)) for thread, value in used.items()})
        self._server_cpu.setdefault(name, []).append(each)
        return measured


@dataclass(frozen=True, slots=True)
class _Server:
    url: str
    pid: int

    def cpu(self) -> Counter[str]:
        """Microseconds of CPU time used so far by the main thread and by all others; empty where the kernel does not say."""
        used: Counter[str] = Counter()
        for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            thread = "main" if task.parent.name == str(self.pid) else "others"
            used[thread] += int(task.read_text(encoding="ascii").split()[0]) // 1000
        return used


@contextmanager
def _running(arguments: list[str], folder: Path) -> Iterator[_Server]:
    """A server that says `listening on URL`; told to stop at the end."""
    complaints = folder / "stderr.txt"
    with complaints.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        found = next((line.split()[2] for line in process.stdout if line.startswith("listening on ")), None)
        if found is None:
            raise AssertionError(f"the server did not start: {complaints.read_text(encoding='utf-8')}")
        watchdog.cancel()
        yield _Server(found, process.pid)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    except BaseException:
        print(complaints.read_text(encoding="utf-8"), file=sys.stderr)
        raise
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def _require(found: int, acknowledged: int) -> None:
    if found != acknowledged:
        raise AssertionError(f"{acknowledged} webhooks were acknowledged, {found} are kept")


BENCHMARK = Benchmark(
    name="webhook",
    about=f"signed webhooks (RS256, about 1.1 kB of event in each) over {CONNECTIONS} keep-alive connections to `eventstore "
    "serve`, each answered once it is durable; the latencies are measured in an open loop at "
    f"{OPEN_SHARE:g} of the closed loop's rate, from when each request was due",
    peer="the same server with one more route, which reads the body and answers 200; and a handler as a tutorial would write "
    "it (FastAPI, PyJWT, SQLAlchemy's ORM, one commit a request), on the same database, as durable, in one uvicorn process",
    events=20_000,
    rounds=3,
    figures=(
        Described("requests_per_second", "requests/s", "closed loop: every connection sends on the answer"),
        Described("vs_bare_endpoint", "x", "over the route that only answers", Goal(0.3)),
        Described("vs_textbook_handler", "x", "over the tutorial's handler", Goal(3)),
        Described("p50_ms", "ms", "open loop: half of the answers took no longer"),
        Described("p99_ms", "ms", "99 % of them"),
        Described("p999_ms", "ms", "99.9 % of them"),
        Described("over_1250_ms", "requests", "that Wix would have given up on", Goal(0, at_most=True)),
        Described("sustained_per_second", "requests/s", "answered in the open loop"),
    ),
    run=run,
)
