"""Senders that do not give up while a store is out of order, and what must hold of its log afterwards."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import text

from eventstore import apps
from eventstore.log.engine import is_sqlite, make_engine, writing
from tests.serving import APPLIED, PATIENCE, PROBLEM_JSON, SITE, Serving, applied, ndjson, settled, wrapped
from tests.signing import APP, coupon_event, public_pem, webhook

WEBHOOKS = "/v1/webhooks/wix"
VELO = f"/v1/velo/{APPLIED}"
BATCH = "/v1/events"
DOORS = (WEBHOOKS, VELO, BATCH)
COUPONS = 5
LINES = 5


def coupon_of(event_id: str) -> str:
    return f"c-{int(event_id.rsplit('-', 1)[1]) % COUPONS}"


def delivery(event_id: str) -> dict[str, Any]:
    """The use that this id stands for, as the relay sends it: the same whenever it is sent again."""
    return applied(event_id, f"order-{event_id}", coupon_of(event_id))


def register(server: Serving) -> None:
    """Make the app known whose webhooks the senders sign."""
    engine = make_engine(server.store)
    apps.add_app(engine, name=APP, key=public_pem(), instances=[SITE])
    engine.dispose()


def assert_come_again(response: httpx.Response) -> None:
    """503, as problem details that say when to try again."""
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.json()["status"] == 503


class Sender(threading.Thread):
    """Sends through one door, one delivery after the other, each again until it is taken; remembers what it was told."""

    def __init__(self, server: Serving, door: str, name: str) -> None:
        super().__init__(name=name)
        self.sent: set[str] = set()
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self.taken_after_refusal = 0
        self.strange: list[object] = []
        self._server = server
        self._door = door
        self._numbers = itertools.count()
        self._told_to_end = threading.Event()

    def end(self) -> None:
        """Send what is not taken yet, and then nothing more."""
        self._told_to_end.set()

    def run(self) -> None:
        with self._server.client() as client:
            while not self._told_to_end.is_set() and not self.strange:
                ids = [f"{self.name}-{next(self._numbers)}" for _ in range(LINES if self._door == BATCH else 1)]
                self.sent.update(ids)
                self._send_until_taken(client, ids)

    def _send_until_taken(self, client: httpx.Client, ids: list[str]) -> None:
        body = self._body(ids)
        deadline = time.monotonic() + PATIENCE
        for attempt in itertools.count():
            try:
                response = client.post(self._door, content=body)
                if response.status_code == 200:
                    if self._took(response, ids):
                        self.taken_after_refusal += attempt > 0
                        return
                else:
                    assert_come_again(response)
            except (httpx.TransportError, AssertionError) as error:
                self.strange.append(error)
                return
            self.refused += 1
            if time.monotonic() > deadline:
                self.strange.append(f"{ids} are never taken")
                return
            time.sleep(0.05)

    def _body(self, ids: list[str]) -> bytes:
        if self._door == BATCH:
            return ndjson(*[wrapped(APPLIED, delivery(event_id)) for event_id in ids])
        if self._door == WEBHOOKS:
            return webhook(use_of_coupon(ids[0]))
        return json.dumps(delivery(ids[0])).encode()

    def _took(self, response: httpx.Response, ids: list[str]) -> bool:
        """Whether every event of the delivery is acknowledged."""
        told = [json.loads(line) for line in response.text.splitlines()]
        done = [answer for answer in told if answer["outcome"] in ("appended", "duplicate")]
        if len(told) != len(ids) or any(answer not in done and answer["outcome"] != "unavailable" for answer in told):
            self.strange.append(told)
        for answer in done:
            known = self.acknowledged.setdefault(answer["event_id"], answer["position"])
            if known != answer["position"] or answer["event_id"] not in ids:
                self.strange.append(answer)
        return len(done) == len(ids)


def use_of_coupon(event_id: str) -> dict[str, Any]:
    """The use that this id stands for, as Wix's webhook carries it."""
    made = coupon_event(event_id, coupon_of(event_id))
    coupon = made.pop("createdEvent")["entity"]
    return {
        **made,
        "slug": "applied",
        "actionEvent": {"body": {"coupon": coupon, "wixAppOrderId": f"order-{event_id}"}},
    }


class Load:
    """Senders at every door of one server; `name` tells what they send from what others do."""

    def __init__(self, server: Serving, name: str = "") -> None:
        self._server = server
        self.senders = [Sender(server, door, f"{name}sender{number}") for number, door in enumerate((*DOORS, VELO))]

    @property
    def acknowledged(self) -> int:
        return sum(len(sender.acknowledged) for sender in self.senders)

    def wait_for_more(self, more: int) -> None:
        """Wait until so many events more are acknowledged."""
        goal = self.acknowledged + more
        self.wait_until(lambda: self.acknowledged >= goal, "nothing is acknowledged any more")

    def wait_for_refusals(self, times: int) -> None:
        """Wait until every sender has been refused so many times more."""
        goals = [sender.refused + times for sender in self.senders]
        self.wait_until(
            lambda: all(sender.refused >= goal for sender, goal in zip(self.senders, goals, strict=True)),
            "not every sender is refused",
        )

    def wait_until(self, reached: Callable[[], bool], otherwise: str) -> None:
        """Wait for something to become true while nothing strange happens."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert self._server.process is not None
            assert self._server.process.poll() is None, self._server.stderr
            assert not [sender.strange for sender in self.senders if sender.strange], self._server.stderr[-3_000:]
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.01)

    def end(self) -> None:
        for sender in self.senders:
            sender.end()
        for sender in self.senders:
            sender.join()


@contextmanager
def load_on(server: Serving, name: str = "") -> Iterator[Load]:
    """Senders at work until the block ends; each then goes on until its last delivery is taken."""
    load = Load(server, name)
    for sender in load.senders:
        sender.start()
    try:
        yield load
    finally:
        load.end()


@contextmanager
def locked(server: Serving) -> Iterator[None]:
    """Another program that stands still in the midst of a write."""
    engine = make_engine(server.store)
    with engine.connect() as connection:
        writing(connection).execute(text("SELECT size FROM log_head" + ("" if is_sqlite(engine) else " FOR UPDATE")))
        try:
            yield
        finally:
            connection.rollback()
    engine.dispose()


def log_of(server: Serving) -> dict[str, int]:
    """The position of every event, once it is known that they run from 1 without gaps and that no event stands twice."""
    engine = make_engine(server.store)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT position, event_id FROM events ORDER BY position")).all()
            keys = connection.execute(text("SELECT event_id, position FROM event_keys")).all()
            size = connection.execute(text("SELECT size FROM log_head")).scalar_one()
            kept = connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
    finally:
        engine.dispose()
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    found = {event_id: position for position, event_id in rows}
    assert len(found) == len(rows) == size
    assert {event_id: position for event_id, position in keys} == found
    assert kept == 0
    return found


def assert_nothing_lost_and_nothing_twice(server: Serving, *loads: Load) -> None:
    """The log holds exactly what was acknowledged, each event once, and the projections have counted each once."""
    told: dict[str, int] = {}
    for sender in [sender for load in loads for sender in load.senders]:
        assert not sender.strange
        assert sender.acknowledged.keys() == sender.sent
        told |= sender.acknowledged
    found = log_of(server)
    assert found == told
    with server.client() as client:
        rows = settled(client, len(found), "/v1/usage", site=SITE)["usage"]
        rows += settled(client, len(found), "/v1/usage", site="local")["usage"]
        health = client.get("/healthz").json()
    assert (health["status"], health["projected"]) == ("ok", len(found))
    used: Counter[str] = Counter()
    for row in rows:
        used[row["coupon_id"]] += row["times_used"]
    assert used == Counter(coupon_of(event_id) for event_id in found)
    status = server.cli("status")
    assert status.returncode == 0, status.stdout + status.stderr
