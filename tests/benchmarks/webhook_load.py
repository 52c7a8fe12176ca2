"""The load of the `webhook` benchmark: many keep-alive connections from one process that does little more than write bytes.

Closed loop: every connection sends its next request on the answer. Open loop: requests fall due at a fixed rate, whatever the
server does, and a latency counts from when its request was due, so that a stall is felt by all that it kept waiting.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

CONNECTIONS = 200
WARM_UP_CONNECTIONS = 8
"""A new server is not met by all of them at once."""
TICK_SECONDS = 0.001
"""How often an open loop looks for what is due: the event loop's timers are no finer. It is part of the latencies."""
PATIENCE = 60.0
"""Seconds without any answer after which a run has failed."""
AGAIN_SECONDS = 0.1
"""After so long a request that the server was too busy for is sent once more, as senders of webhooks do."""
SHOWN_BYTES = 400


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what each answer must contain beside its status of 200."""

    url: str
    path: str
    expected: bytes = b""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run took. `refused`: the answers of 503 in it; `cpu_seconds` are this process's own; `latencies` (seconds, sorted)
    are an open loop's."""

    requests: int
    refused: int
    seconds: float
    cpu_seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_seconds / self.seconds


def load(target: Target, bodies: Path, warm_up: int, count: int, rate: float | None = None) -> Measured:
    """Send the first `warm_up` lines of a file in a closed loop, and then the next `count`, which are measured.

    `rate` (requests a second) makes the latter an open loop. What is answered by 503 is sent again. Raises AssertionError for
    any other answer but the expected one.
    """
    import uvloop  # not on Windows, where the other benchmarks can still be had

    requests = _requests(target, bodies, warm_up + count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(target, requests, warm_up, rate))


def _requests(target: Target, bodies: Path, count: int) -> list[bytes]:
    host = urlsplit(target.url).netloc
    head = f"POST {target.path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: text/plain\r\naccept: */*\r\ncontent-length: "
    with bodies.open("rb") as lines:
        found = [line.removesuffix(b"\n") for line in itertools.islice(lines, count)]
    if len(found) != count:
        raise AssertionError(f"{len(found)} bodies where {count} are to be sent")
    return [b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body) for body in found]


async def _load(target: Target, requests: list[bytes], warm_up: int, rate: float | None) -> Measured:
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(target.url).netloc.partition(":")
    connections = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(_Connection, host, int(port))
        connections.append(connection)
    if warm_up:
        await _Closed(connections[:WARM_UP_CONNECTIONS], requests[:warm_up], target.expected).run()
    measured = requests[warm_up:]
    run: _Run = _Closed(connections, measured, target.expected)
    if rate is not None:
        run = _Open(connections, measured, target.expected, rate)
    gc.collect()
    gc.freeze()
    cpu = time.process_time()
    start = time.perf_counter()
    await run.run()
    took = time.perf_counter() - start
    cpu = time.process_time() - cpu
    for connection in connections:
        connection.transport.abort()
    return Measured(len(measured), run.refused, took, cpu, sorted(run.latencies))


class _Connection(asyncio.Protocol):
    """One connection: a request at a time, and of its answer only what tells where it ends."""

    def __init__(self) -> None:
        self.run: _Run | None = None
        self.transport: asyncio.WriteTransport
        self.due = 0.0
        self.sent_again = False
        self._request = b""
        self._part = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class, which only looks like one

    def send(self, request: bytes) -> None:
        self._request = request
        self.sent_again = False
        self.transport.write(request)

    def send_again(self) -> None:
        self.sent_again = True
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._part:
            data = self._part + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or len(data) < end + _content_length(data):
            self._part = data
            return
        self._part = b""
        assert self.run is not None
        self.run.answer(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.run is not None:
            self.run.fail(f"the server closed a connection: {exc}")


def _content_length(data: bytes) -> int:
    start = data.find(b"content-length: ") + 16
    return int(data[start : data.find(b"\r", start)])


class _Run(ABC):
    def __init__(self, connections: list[_Connection], requests: list[bytes], expected: bytes) -> None:
        self.latencies: list[float] = []
        self.refused = 0
        self._connections = connections
        self._count = self._left = len(requests)
        self._expected = expected
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for connection in connections:
            connection.run = self

    async def run(self) -> None:
        """Until every request has its answer."""
        self._start()
        before = -1
        while not self._done.done():
            if before == self._left:
                raise AssertionError(f"no answer for {PATIENCE:.0f} s, {self._left} requests are left")
            before = self._left
            await asyncio.wait([self._done], timeout=PATIENCE)
        await self._done

    def answer(self, connection: _Connection, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 503 "):
            self.refused += 1
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, connection.send_again)
            return
        # What was sent again may have been kept the first time.
        if not data.startswith(b"HTTP/1.1 200 ") or not (self._expected in data or connection.sent_again):
            self.fail(f"after {self._count - self._left} good answers: {data[:SHOWN_BYTES]!r}")
            return
        self._left -= 1
        self._answered(connection)
        if self._left == 0 and not self._done.done():
            self._done.set_result(None)

    def fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(AssertionError(why))

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _answered(self, connection: _Connection) -> None: ...


class _Closed(_Run):
    """Every connection sends its next request on the answer."""

    def __init__(self, connections: list[_Connection], requests: list[bytes], expected: bytes) -> None:
        super().__init__(connections, requests, expected)
        self._requests: Iterator[bytes] = iter(requests)

    def _start(self) -> None:
        for connection in self._connections:
            self._answered(connection)

    def _answered(self, connection: _Connection) -> None:
        request = next(self._requests, None)
        if request is not None:
            connection.send(request)


class _Open(_Run):
    """Requests fall due at a fixed rate; those that find no idle connection wait for one, and their waiting counts."""

    def __init__(self, connections: list[_Connection], requests: list[bytes], expected: bytes, rate: float) -> None:
        super().__init__(connections, requests, expected)
        self._requests = requests
        self._rate = rate
        self._next = 0
        self._idle = deque(connections)
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._began = 0.0

    def _start(self) -> None:
        self._began = time.perf_counter()
        self._tick()

    def _tick(self) -> None:
        reached = min(self._count, int((time.perf_counter() - self._began) * self._rate) + 1)
        for number in range(self._next, reached):
            self._waiting.append((self._began + number / self._rate, self._requests[number]))
        self._next = reached
        while self._waiting and self._idle:
            self._send(self._idle.popleft())
        if self._next < self._count and not self._done.done():
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _send(self, connection: _Connection) -> None:
        connection.due, request = self._waiting.popleft()
        connection.send(request)

    def _answered(self, connection: _Connection) -> None:
        self.latencies.append(time.perf_counter() - connection.due)
        if self._waiting:
            self._send(connection)
        else:
            self._idle.append(connection)
