"""What the server has acknowledged is in the log, exactly once, however the server ended."""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rows import wait_until_left
from tests.serving import APPLIED, PATIENCE, NewServer, Serving, applied, head, ndjson, serving, settled, wrapped

SENDERS = 4
ROUNDS = 2
ACKNOWLEDGED_A_ROUND = 80
"""Acknowledgements to wait for before the server is killed: enough that all senders are in the midst of it."""
COUPONS = 7
LONGEST_BATCH = 60


def delivery(event_id: str) -> dict[str, Any]:
    """The use that this id stands for: the same bytes whenever it is sent again."""
    number = int(event_id.rsplit("-", 1)[1])
    return applied(event_id, f"order-{event_id}", f"c-{number % COUPONS}")


class Sender(threading.Thread):
    """Sends unique events, alone and in batches, over whatever goes wrong, and remembers what it was told."""

    def __init__(self, server: Serving, name: str) -> None:
        super().__init__(name=name)
        self.sent: set[str] = set()
        self.acknowledged: dict[str, int] = {}
        self.strange: list[object] = []
        self.broken = 0
        self._server = server
        self._numbers = itertools.count()
        self._random = random.Random(name)
        self._told_to_end = threading.Event()

    def end(self) -> None:
        self._told_to_end.set()

    def run(self) -> None:
        with self._server.client() as client:
            while not self._told_to_end.is_set():
                try:
                    client.base_url = self._server.url
                    client.get("/healthz")
                    while not self._told_to_end.is_set():
                        self._send(client)
                except httpx.TransportError:
                    # The server is gone. What was under way may be in the log or not: nobody has said.
                    self.broken += 1
                    self._told_to_end.wait(0.02)

    def _send(self, client: httpx.Client) -> None:
        ids = [f"{self.name}-{next(self._numbers)}" for _ in range(self._random.randint(1, LONGEST_BATCH))]
        unsure = sorted(self.sent - self.acknowledged.keys())
        if unsure and self._random.random() < 0.3:
            ids.append(self._random.choice(unsure))
        if self._random.random() < 0.7:
            for event_id in ids[:5]:
                self.sent.add(event_id)
                self._note(client.post(f"/v1/velo/{APPLIED}", json=delivery(event_id)), event_id)
        else:
            self.sent.update(ids)
            lines = ndjson(*[wrapped(APPLIED, delivery(event_id)) for event_id in ids])
            with client.stream("POST", "/v1/events", content=lines) as response:
                if response.status_code != 200:
                    self._refused(response.status_code)
                    return
                # A line counts from when it has arrived, though the rest of the answer may never come.
                for line in response.iter_lines():
                    self._answered(json.loads(line))

    def _note(self, response: httpx.Response, event_id: str) -> None:
        if response.status_code == 200:
            answer = response.json()
            if answer.get("event_id") != event_id:
                self.strange.append(answer)
            self._answered(answer)
        else:
            self._refused(response.status_code)

    def _answered(self, answer: dict[str, Any]) -> None:
        if answer["outcome"] in ("appended", "duplicate"):
            known = self.acknowledged.setdefault(answer["event_id"], answer["position"])
            if known != answer["position"]:
                self.strange.append(answer)
        elif answer["outcome"] != "unavailable":
            self.strange.append(answer)

    def _refused(self, status: int) -> None:
        # 503 is the one refusal that a sound event may meet: by a server about to stop.
        if status != 503:
            self.strange.append(status)


def start_senders(server: Serving) -> list[Sender]:
    senders = [Sender(server, f"sender{number}") for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    return senders


def end_senders(senders: list[Sender]) -> None:
    for sender in senders:
        sender.end()
    for sender in senders:
        sender.join()


def acknowledged(senders: list[Sender]) -> int:
    return sum(len(sender.acknowledged) for sender in senders)


def wait_for_acknowledgements(senders: list[Sender], server: Serving, more: int) -> None:
    goal = acknowledged(senders) + more
    deadline = time.monotonic() + PATIENCE
    while acknowledged(senders) < goal:
        assert server.process is not None
        assert server.process.poll() is None, server.stderr
        assert time.monotonic() < deadline, "the server acknowledges nothing any more"
        time.sleep(0.005)


def assert_log_holds_what_was_acknowledged(server: Serving, senders: list[Sender]) -> None:
    if server.process is None:
        wait_until_left(server.store)
    rows = server.rows("SELECT position, event_id FROM events ORDER BY position")
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    assert server.rows("SELECT size FROM log_head") == [(len(rows),)]
    stands = {event_id: position for position, event_id in rows}
    assert len(stands) == len(rows)
    for sender in senders:
        assert not sender.strange
        assert {event_id: stands.get(event_id) for event_id in sender.acknowledged} == sender.acknowledged
    assert stands.keys() <= set().union(*[sender.sent for sender in senders])
    keys = server.rows("SELECT event_id, position FROM event_keys")
    assert dict(keys) == stands
    assert server.rows("SELECT count(*) FROM quarantine") == [(0,)]


def send_again(client: httpx.Client, senders: list[Sender]) -> None:
    """Every event that nobody has acknowledged, once more: each is then known."""
    for sender in senders:
        for event_id in sorted(sender.sent - sender.acknowledged.keys()):
            answer = client.post(f"/v1/velo/{APPLIED}", json=delivery(event_id)).json()
            assert answer["outcome"] in ("appended", "duplicate")
            sender.acknowledged[event_id] = answer["position"]


def assert_usage_counts_every_event_once(client: httpx.Client, senders: list[Sender]) -> None:
    expected: Counter[str] = Counter()
    for sender in senders:
        expected.update(delivery(event_id)["data"]["coupon"]["_id"] for event_id in sender.sent)
    rows = settled(client, head(client), "/v1/usage")["usage"]
    assert {row["coupon_id"]: row["times_used"] for row in rows} == expected


def test_every_acknowledged_event_is_in_the_log_exactly_once_after_the_server_was_killed(new_server: NewServer) -> None:
    moments = random.Random(7)
    with new_server() as server:
        senders = start_senders(server)
        try:
            for _ in range(ROUNDS):
                wait_for_acknowledgements(senders, server, ACKNOWLEDGED_A_ROUND)
                time.sleep(moments.random() * 0.1)
                server.kill()
                server.start()
            wait_for_acknowledgements(senders, server, ACKNOWLEDGED_A_ROUND)
            server.kill()
        finally:
            end_senders(senders)
        assert acknowledged(senders) >= ROUNDS * ACKNOWLEDGED_A_ROUND
        assert all(sender.broken for sender in senders)
        assert_log_holds_what_was_acknowledged(server, senders)

        server.start()
        with server.client() as client:
            send_again(client, senders)
            assert head(client) == sum(len(sender.sent) for sender in senders)
            assert_log_holds_what_was_acknowledged(server, senders)
            assert_usage_counts_every_event_once(client, senders)
        assert "Traceback" not in server.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_told_to_stop_under_load_loses_nothing_it_acknowledged(
    new_server: NewServer, how: signal.Signals
) -> None:
    with new_server() as server:
        senders = start_senders(server)
        try:
            wait_for_acknowledgements(senders, server, ACKNOWLEDGED_A_ROUND)
            status, said = server.stop(how)
        finally:
            end_senders(senders)
        assert status == 0
        assert said.splitlines()[-1] == "stopped; everything acknowledged is in the log"
        assert server.stderr == ""
        assert_log_holds_what_was_acknowledged(server, senders)
        # What could not be answered any more was not taken either, or is known when it comes again.
        server.start()
        with server.client() as client:
            send_again(client, senders)
            assert_log_holds_what_was_acknowledged(server, senders)
            assert_usage_counts_every_event_once(client, senders)


def test_an_idle_server_told_to_stop_ends_in_good_order_and_leaves_one_file(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with server.client() as client:
            assert client.post(f"/v1/velo/{APPLIED}", json=delivery("x-1")).json()["position"] == 1
            settled(client, 1, "/v1/coupons/c-1")
            status, said = server.stop()
        assert (status, server.stderr) == (0, "")
        assert "stopped" in said
        # The write-ahead log is merged back: the file alone is the whole store.
        assert {path.name for path in tmp_path.iterdir()} == {"log.db", "stderr.txt"}


def test_a_server_stopped_the_moment_it_says_that_it_listens_ends_in_good_order(new_server: NewServer) -> None:
    with new_server() as server:
        assert server.stop(signal.SIGTERM)[0] == 0
        server.start()
        assert server.stop(signal.SIGINT)[0] == 0
        assert server.stderr == ""


def test_a_second_server_on_the_same_port_says_so_and_leaves_the_first_alone(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        port = server.url.rsplit(":", 1)[1]
        done = server.cli("serve", "--port", port)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert client.get("/healthz").status_code == 200
