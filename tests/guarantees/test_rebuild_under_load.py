"""Rebuilding while a server takes in events as fast as it can and readers ask all the while: nobody notices."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.rows import Stranger
from tests.serving import APPLIED, NewServer, Serving, answers, applied, head, ndjson, settled, wrapped

COUPONS = 5
BATCH = 40
FILLED = 1_200
"""Events in the log before the first rebuild: enough that it has several seconds' worth of work beside the others."""
REBUILDS = 1
SENDERS = 2


def lines(name: str, numbers: range) -> bytes:
    return ndjson(
        *[wrapped(APPLIED, applied(f"{name}-{each}", f"o-{name}-{each}", f"c-{each % COUPONS}")) for each in numbers]
    )


class Sender(threading.Thread):
    """Sends new uses, a batch at a time, until it is told to end or one is not taken."""

    def __init__(self, server: Serving, name: str, ended: threading.Event) -> None:
        super().__init__(name=name)
        self.sent: Counter[str] = Counter()
        self.wrong: list[object] = []
        self._server = server
        self._ended = ended

    def run(self) -> None:
        with self._server.client() as client:
            for start in itertools.count(0, BATCH):
                if self._ended.is_set() or self.wrong:
                    return
                self._send(client, range(start, start + BATCH))

    def _send(self, client: httpx.Client, numbers: range) -> None:
        response = client.post("/v1/events", content=lines(self.name, numbers))
        if response.status_code != 200:
            self.wrong.append((response.status_code, response.text))
            return
        self.wrong += [each for each in answers(response) if each["outcome"] != "appended"]
        self.sent.update(f"c-{each % COUPONS}" for each in numbers)


class Reader(threading.Thread):
    """Asks for the usage over and over, and notes whatever went back or was refused."""

    def __init__(self, server: Serving, ended: threading.Event) -> None:
        super().__init__(name="reader")
        self.asked = 0
        self.wrong: list[object] = []
        self._server = server
        self._ended = ended
        self._known: dict[str, int] = {}

    def run(self) -> None:
        with self._server.client() as client:
            while not self._ended.is_set():
                self._ask(client)
                self.asked += 1

    def _ask(self, client: httpx.Client) -> None:
        response = client.get("/v1/usage")
        if response.status_code != 200:
            self.wrong.append((response.status_code, response.text))
            return
        told = {row["coupon_id"]: row["times_used"] for row in response.json()["usage"]}
        back = {name: (count, told.get(name)) for name, count in self._known.items() if told.get(name, 0) < count}
        if back:
            self.wrong.append(back)
        self._known |= told


class Watcher(threading.Thread):
    """Reads the positions of the projections in the database, past the server, and notes one that went back."""

    def __init__(self, server: Serving, ended: threading.Event) -> None:
        super().__init__(name="watcher")
        self.wrong: list[object] = []
        self._url = server.store
        self._ended = ended

    def run(self) -> None:
        known: dict[str, int] = {}
        with Stranger(self._url) as stranger:
            while not self._ended.wait(0.002):
                told: dict[str, int] = dict(stranger.rows("SELECT name, position FROM projection_checkpoints"))
                back = {name: (at, told.get(name)) for name, at in known.items() if told.get(name, -1) < at}
                if back:
                    self.wrong.append(back)
                known = told


@contextmanager
def all_at_work(server: Serving) -> Iterator[tuple[list[Sender], Reader, Watcher]]:
    ended = threading.Event()
    senders = [Sender(server, f"sender{number}", ended) for number in range(SENDERS)]
    reader, watcher = Reader(server, ended), Watcher(server, ended)
    threads: list[threading.Thread] = [*senders, reader, watcher]
    for each in threads:
        each.start()
    try:
        yield senders, reader, watcher
    finally:
        ended.set()
        for each in threads:
            each.join()


def usage(client: httpx.Client) -> dict[str, int]:
    rows: list[dict[str, Any]] = settled(client, head(client), "/v1/usage")["usage"]
    return {row["coupon_id"]: row["times_used"] for row in rows}


def test_a_rebuild_under_load_fails_no_request_and_shows_no_reader_anything_older(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        first = client.post("/v1/events", content=lines("first", range(FILLED)))
        assert {each["outcome"] for each in answers(first)} == {"appended"}
        assert usage(client) == {f"c-{number}": FILLED // COUPONS for number in range(COUPONS)}
        grown = 0
        with all_at_work(server) as (senders, reader, watcher):
            for _ in range(REBUILDS):
                before = head(client)
                done = server.cli("rebuild-projections", "--json")
                assert done.returncode == 0, done.stderr
                grown += head(client) - before
        assert grown > 0
        assert reader.asked > 0
        assert [sender.wrong for sender in senders] == [[]] * SENDERS
        assert (reader.wrong, watcher.wrong) == ([], [])
        expected = Counter({f"c-{number}": FILLED // COUPONS for number in range(COUPONS)})
        for sender in senders:
            expected += sender.sent
        assert usage(client) == expected
        # Also the tables that the live runner has gone on with since are what a rebuild of all makes.
        kept = server.rows("SELECT * FROM redemptions ORDER BY site_id, coupon_id, order_id")
        done = server.cli("rebuild-projections")
        assert done.returncode == 0, done.stderr
        assert server.rows("SELECT * FROM redemptions ORDER BY site_id, coupon_id, order_id") == kept
        assert usage(client) == expected
        assert server.complaints == []
