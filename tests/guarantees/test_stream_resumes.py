"""Whoever streams the log has every event from its last id on, once and in order, whatever becomes of the server meanwhile.

Two hundred clients listen, some of all events and some of one coupon, some as fast as they can and some so slowly that they
fall behind what the server keeps in memory. Events come in all the while, and the server is killed with -9 and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from tests.serving import APPLIED, PATIENCE, NewServer, Serving, applied, ndjson, serving, wrapped
from tests.stores import PostgresqlServer
from tests.streaming import PATH, listening, with_small_rings

CLIENTS = 200
SLOW_SHARE = 4
"""One client in so many is slow."""
COUPON_SHARE = 5
"""One client in so many listens to one coupon only."""
COUPONS = 3
KILLS = 2
EVENTS_BETWEEN = 250
"""Events that come in before the first kill, between two, and after the last: several times what the server keeps in memory."""
BATCH = 10
AGAIN_SECONDS = 0.05
PAUSE_SECONDS = 0.02
"""Between two batches of events: more come in than a slow client can read."""
NAPS_SECONDS = (0.01, 0.1)
"""How long a slow client does something else, at least and at most, whenever it has read a little."""


class Feeder(threading.Thread):
    """Sends events until they are acknowledged, over whatever goes wrong."""

    def __init__(self, server: Serving) -> None:
        super().__init__(name="feeder")
        self.enough = threading.Event()
        self.acknowledged = 0
        self._server = server

    def run(self) -> None:
        numbers = itertools.count()
        with self._server.client() as client:
            while not self.enough.is_set():
                chosen = [next(numbers) for _ in range(BATCH)]
                uses = [applied(f"e-{number}", f"o-{number}", f"c-{number % COUPONS}") for number in chosen]
                while not self._taken(client, ndjson(*[wrapped(APPLIED, use) for use in uses])):
                    time.sleep(AGAIN_SECONDS)
                self.acknowledged += BATCH
                time.sleep(PAUSE_SECONDS)

    def _taken(self, client: httpx.Client, body: bytes) -> bool:
        try:
            answer = client.post("/v1/events", content=body)
        except httpx.TransportError:
            return False
        # Sent again, an event may be known already.
        return answer.status_code == 200 and answer.text.count('"position"') == BATCH


class Client:
    """One that listens, comes again with its last id when it is cut off, and remembers what it was given."""

    def __init__(self, server: Serving, number: int) -> None:
        self.coupon = f"c-{number % COUPONS}" if number % COUPON_SHARE == 0 else None
        self.slow = number % SLOW_SHARE == 0
        self.given: list[tuple[int, str]] = []
        self.connections = 0
        self.strange: list[object] = []
        self._server = server
        self._last_id = "0"
        self._random = random.Random(number)

    async def listen(self) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connection()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _connection(self) -> None:
        address = urlsplit(self._server.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**12)
        try:
            query = "" if self.coupon is None else f"?coupon={self.coupon}"
            writer.write(
                f"GET {PATH}{query} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {self._server.token}\r\n"
                f"Last-Event-ID: {self._last_id}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                self.strange.append(head)
                return
            self.connections += 1
            await self._read(reader)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        text = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            text += (await reader.readexactly(size + 2))[:-2]
            # What is cut short by the end of the connection is no event.
            *blocks, text = text.split(b"\n\n")
            for block in blocks:
                self._take(block)
            if self.slow:
                await asyncio.sleep(self._random.uniform(*NAPS_SECONDS))

    def _take(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
        if b"id" in fields:
            self._last_id = fields[b"id"].decode()
        if b"data" in fields:
            told = orjson.loads(fields[b"data"])
            if str(told["position"]) != self._last_id:
                self.strange.append(block)
            self.given.append((told["position"], told["event"]["event_id"]))


async def listen_while_the_server_is_killed(server: Serving, feeder: Feeder) -> list[Client]:
    """Two hundred clients over several lives of a server, until each has been given the last event that was acknowledged."""
    clients = [Client(server, number) for number in range(CLIENTS)]
    listening_ = [asyncio.create_task(client.listen()) for client in clients]
    port = server.url.rpartition(":")[2]
    feeder.start()
    for life in range(1, KILLS + 2):
        await reached(lambda life=life: feeder.acknowledged >= life * EVENTS_BETWEEN, "the events do not come in")
        # Some have had much of it, whoever has not.
        await reached(
            lambda life=life: sum(len(client.given) >= life * EVENTS_BETWEEN // 2 for client in clients) > CLIENTS // 4,
            "nobody is given anything",
        )
        if life <= KILLS:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start, port)
    feeder.enough.set()
    await asyncio.to_thread(feeder.join)
    log = server.rows("SELECT position, event_id, coupon_id FROM events ORDER BY position")
    for client in clients:
        last = max(position for position, _, coupon in log if client.coupon in (None, coupon))
        await reached(
            lambda client=client, last=last: client.given and client.given[-1][0] >= last,
            f"a client is not given the last event, {last}, but {client.given[-1:]} {client.strange}",
        )
    for task in listening_:
        task.cancel()
    await asyncio.gather(*listening_, return_exceptions=True)
    return clients


async def reached(there: object, otherwise: str) -> None:
    assert callable(there)
    deadline = time.monotonic() + 2 * PATIENCE
    while not there():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.02)


def test_two_hundred_clients_of_a_server_that_is_killed_are_given_every_event_from_their_last_id_in_order(
    new_server: NewServer,
) -> None:
    with new_server() as server:
        server.kill()
        server.call = with_small_rings
        server.start()
        feeder = Feeder(server)
        try:
            clients = asyncio.run(listen_while_the_server_is_killed(server, feeder))
        finally:
            feeder.enough.set()
        log = server.rows("SELECT position, event_id, coupon_id FROM events ORDER BY position")
        assert len(log) == feeder.acknowledged >= (KILLS + 1) * EVENTS_BETWEEN
        # A slow one may have slept through a server's whole life.
        assert sum(client.connections > KILLS for client in clients) > CLIENTS // 2
        for client in clients:
            assert client.strange == []
            assert client.connections > 1
            # From the first event on, none twice and none missing, whatever has come between.
            assert client.given == [(at, event_id) for at, event_id, coupon in log if client.coupon in (None, coupon)]
        assert server.complaints == []


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_streams_outlive_a_database_that_is_restarted(
    postgresql_server: PostgresqlServer, tmp_path: Path, dialect: str
) -> None:
    del dialect  # by nature of one engine: a file is not restarted
    with (
        postgresql_server.new() as url,
        serving(tmp_path / "served", url=url) as server,
        server.client() as client,
        listening(server) as listener,
        listening(server, coupon="c-of-nobody"),
    ):
        client.post("/v1/events", content=ndjson(wrapped(APPLIED, applied("before", "o-1"))))
        assert listener.positions(1) == [1]
        postgresql_server.restart()
        body = ndjson(wrapped(APPLIED, applied("after", "o-2")))
        deadline = time.monotonic() + PATIENCE
        while '"position"' not in client.post("/v1/events", content=body).text:
            assert time.monotonic() < deadline, "the server takes nothing any more"
            time.sleep(AGAIN_SECONDS)
        assert listener.positions(1) == [2]
