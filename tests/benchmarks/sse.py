"""`sse`: the log's new events to many clients of `/v1/events/stream` at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.responses import StreamingResponse

from eventstore.aio import AsyncEventStore
from eventstore.api.server import BACKLOG
from eventstore.log.records import Prepared
from eventstore.store import EventStore
from tests.benchmarks.append_entries import EntrySource
from tests.benchmarks.harness import (
    Benchmark,
    Described,
    Options,
    Result,
    Sample,
    Stores,
    at_share,
    interleaved,
    medians,
    note,
    stores,
)
from tests.processes import FORKING
from tests.serving import CREATED, Serving, created

PATH = "/v1/events/stream"
CLIENTS = 200
PIECE = 100
"""Events that are appended at a time where as many as can be are."""
WARM_UP = 50
"""Events that a new server sends before anything is measured: the first ones import, connect and fill what is kept."""
NAIVE_SHARE = 50
"""The naive server gets one event in so many: it is slow enough that fewer give as steady a rate."""
PACE = 100
"""Events a second at which the latency is measured."""
LONGEST_SECONDS = 20.0
PATIENCE = 120.0
"""Seconds after which clients that have not been sent everything are an error."""
_ID = re.compile(rb"\nid: (\d+)\nevent")
_CARRIED_BYTES = 64
"""What of the bytes received last is looked at again with the next ones: more than the beginning of a block."""

P = ParamSpec("P")
T = TypeVar("T")


def run(options: Options) -> Result:
    """Measure every figure of `BENCHMARK`."""
    with stores(options) as fresh:
        bench = _Bench(fresh, options.events or BENCHMARK.events)
        samples = interleaved(options.rounds or BENCHMARK.rounds, bench.ours, bench.naive, bench.paced)
    figures = medians(samples, vs_naive=("events_per_second", "naive_events_per_second"))
    naive = statistics.median(sample["naive_log_events_per_second"] for sample in samples)
    return BENCHMARK.result(
        figures,
        f"{bench.count:,} events to {CLIENTS} clients, all in one process beside the server's, on {_bytes(samples):,.0f} bytes "
        f"an event. The naive server sends {naive:,.0f} events of the log a second to all of them. The latencies are those of "
        f"{bench.paced_count:,} events at {PACE}/s, received {CLIENTS} times each.",
    )


def _bytes(samples: Sequence[Sample]) -> float:
    return statistics.median(sample["bytes_an_event"] for sample in samples)


class _Bench:
    def __init__(self, fresh: Stores, count: int) -> None:
        self.count = count
        self.paced_count = min(count, round(PACE * LONGEST_SECONDS))
        self._fresh = fresh
        note(f"making {count + WARM_UP:,} events")
        self._entries = EntrySource(templates=min(count, 2_000)).take(count + WARM_UP)

    def ours(self) -> Sample:
        """As many events as can be sent to all clients by `eventstore serve`."""
        with self._server() as server:
            return _run(self._fan_out(server, self.count))

    def naive(self) -> Sample:
        """The same by the textbook's server, of fewer events."""
        with self._server(naive) as server:
            sample = _run(self._fan_out(server, max(1, self.count // NAIVE_SHARE)))
        return {f"naive_{name}": value for name, value in sample.items() if name.endswith("_per_second")}

    async def _fan_out(self, server: Serving, count: int) -> Sample:
        assert server.process is not None
        warm, timed = self._entries[:WARM_UP], self._entries[WARM_UP : WARM_UP + count]
        with _Clients(server, 8) as few:
            await few.connect()
            await _elsewhere(append, server.store, warm[: WARM_UP // 2])
            await few.until(WARM_UP // 2)
        before = resident_bytes(server.process.pid)
        with _Clients(server, CLIENTS) as clients:
            await clients.connect()
            await _elsewhere(append, server.store, warm[WARM_UP // 2 :])
            await clients.until(WARM_UP)
            memory = resident_bytes(server.process.pid) - before
            received = clients.received
            begun = await _elsewhere(append, server.store, timed)
            await clients.until(WARM_UP + count)
            took = time.monotonic() - begun
            size = (clients.received - received) / CLIENTS / count
        return {
            "events_per_second": CLIENTS * count / took,
            "log_events_per_second": count / took,
            "memory_per_client_kb": memory / CLIENTS / 1e3,
            "bytes_an_event": size,
        }

    def paced(self) -> Sample:
        """How long after its acknowledgement an event is received, at a steady pace."""
        with self._server() as server:
            return _run(self._latencies(server))

    async def _latencies(self, server: Serving) -> Sample:
        with _Clients(server, CLIENTS, timed=True) as clients:
            await clients.connect()
            acknowledged = await _elsewhere(send, server.url, server.token, WARM_UP + self.paced_count)
            await clients.until(len(acknowledged))
            found = sorted(
                max(0.0, at - acknowledged[position])
                for client in clients.clients
                for position, at in client.times
                if position > WARM_UP
            )
        return {"p50_ms": 1e3 * at_share(found, 0.5), "p99_ms": 1e3 * at_share(found, 0.99)}

    @contextmanager
    def _server(self, call: Callable[..., None] | None = None) -> Iterator[Serving]:
        url = self._fresh.fresh()
        folder = self._fresh.directory / f"serving-{next(_numbers)}"
        folder.mkdir()
        server = Serving(folder, "--no-projections", url=url)
        server.call = call
        with closing(server):
            server.start()
            yield server
            if server.complaints:
                raise AssertionError(f"the server complains: {server.complaints[:3]}")
        self._fresh.discard(url)


_numbers = itertools.count()


def _run(work: Coroutine[Any, Any, Sample]) -> Sample:
    import uvloop  # not on Windows, where the other benchmarks can still be had

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def resident_bytes(pid: int) -> int:
    """The memory that a process has resident."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


# The clients


@dataclass
class _Client(asyncio.Protocol):
    """One connection that listens. It looks for ids in what comes, and does no more with it."""

    request: bytes
    timed: bool
    received: int = 0
    position: int = 0
    times: list[tuple[int, float]] = field(default_factory=list)
    lost: bool = False
    _carried: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class, which only looks like one
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.received and not data.startswith(b"HTTP/1.1 200 "):
            raise AssertionError(f"no stream: {data[:400]!r}")
        self.received += len(data)
        looked_at = self._carried + data
        self._carried = looked_at[-_CARRIED_BYTES:]
        if not self.timed:
            # The last one is enough, and is near the end.
            start = looked_at.rfind(b"\nid: ")
            found = _ID.match(looked_at, start) if start >= 0 else None
            if found is None and start >= 0:
                found = _ID.match(looked_at, looked_at.rfind(b"\nid: ", 0, start))
            self.position = max(self.position, int(found[1])) if found else self.position
            return
        now = time.monotonic()
        for match in _ID.finditer(looked_at):
            position = int(match[1])
            if position > self.position:
                self.position = position
                self.times.append((position, now))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.lost = True


def _itself(client: _Client) -> _Client:
    return client


class _Clients:
    """So many connections to a server's stream, which begin at the end of its log; closed at the end."""

    def __init__(self, server: Serving, count: int, *, timed: bool = False) -> None:
        host, _, port = urlsplit(server.url).netloc.partition(":")
        self._address = host, int(port)
        request = f"GET {PATH} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {server.token}\r\n\r\n"
        self.clients = [_Client(request.encode(), timed) for _ in range(count)]

    @property
    def received(self) -> int:
        """Bytes, by all of them."""
        return sum(client.received for client in self.clients)

    async def connect(self) -> None:
        """Returns once each has been told where it begins."""
        loop = asyncio.get_running_loop()
        for client in self.clients:
            await loop.create_connection(partial(_itself, client), *self._address)
        await self._all(lambda client: client.received > 0)

    async def until(self, position: int) -> None:
        """Returns once each has received the event at this position."""
        await self._all(lambda client: client.position >= position)

    async def _all(self, there: Callable[[_Client], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        waiting = self.clients
        while waiting := [client for client in waiting if not there(client)]:
            if waiting[0].lost or time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(waiting)} clients were not sent everything; one is at {waiting[0].position}"
                )
            await asyncio.sleep(0.005)

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.transport.abort()


# What happens in other processes


async def _elsewhere(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a module's function in a process of its own, while the clients here go on."""
    with ProcessPoolExecutor(1, mp_context=FORKING) as pool:
        return await asyncio.wrap_future(pool.submit(function, *arguments, **named))


def append(store: str, entries: list[Prepared]) -> float:
    """Append entries, PIECE at a time, as fast as can be; when it was begun."""
    with EventStore.open(store, create=False) as opened:
        begun = time.monotonic()
        for start in range(0, len(entries), PIECE):
            opened.submit_patiently([*entries[start : start + PIECE]]).result()
        return begun


def send(url: str, token: str, count: int) -> dict[int, float]:
    """Send events to a server at a steady pace, one at a time; when each position was acknowledged."""
    acknowledged = {}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as client:
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / PACE - time.monotonic()))
            answer = client.post(f"/v1/velo/{CREATED}", json=created(f"e-{number}", f"c-{number}"))
            answer.raise_for_status()
            acknowledged[answer.json()["position"]] = time.monotonic()
    return acknowledged


# The naive server


def naive(_store: str, url: str, *_arguments: str) -> None:
    """Serve a stream as one would at first write it: for each client a tail of its own, and each event made into JSON for it."""
    app = FastAPI(lifespan=lambda app: _opened(app, url))

    async def told() -> AsyncIterator[str]:
        store: AsyncEventStore = app.state.store
        async for record in store.tail(after=await store.head()):
            body = {"position": record.position, "recorded_at": record.recorded_at, "event": record.event}
            data = json.dumps(jsonable_encoder(body, exclude_none=True))
            yield f"id: {record.position}\nevent: {record.event.type}\ndata: {data}\n\n"

    @app.get(PATH)
    async def stream() -> StreamingResponse:
        return StreamingResponse(told(), media_type="text/event-stream")

    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    # Connections are taken from here on; they are answered as soon as the loop runs.
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}")
    print("token none is asked for")
    uvicorn.Server(config).run(sockets=[listener])


@asynccontextmanager
async def _opened(app: FastAPI, url: str) -> AsyncIterator[None]:
    async with AsyncEventStore.open(url, create=False) as app.state.store:
        yield


BENCHMARK = Benchmark(
    name="sse",
    about=f"New events to {CLIENTS} clients of /v1/events/stream at once, all of which read: as many as another process can "
    f"append and be sent to all of them, and how soon each of {PACE} events a second is received by each.",
    peer="a server as one would at first write it, on FastAPI: for each client a tail of the same log of its own, and each event "
    "made into JSON for each",
    events=5_000,
    rounds=3,
    figures=(
        Described("events_per_second", "events/s", "received, by all clients together"),
        Described("log_events_per_second", "events/s", "appended, until the last client had the last"),
        Described("memory_per_client_kb", "kB", "the server's resident memory with all clients over that with none"),
        Described("vs_naive", "x", "over the naive server"),
        Described("p50_ms", "ms", f"at {PACE} events/s: from an event's acknowledgement until a client had it"),
        Described("p99_ms", "ms", "the same, of one in a hundred longer than this"),
    ),
    run=run,
)
