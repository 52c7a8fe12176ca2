"""The accounts of a store with several servers, some of them killed: every answer that was given against what the log holds.

Senders tell new events, the same ones again and others under the same ids, alone, in batches and as signed webhooks, and write
down each answer. At the end the books are compared with the database, which is read without any code of the store.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.guarantees.test_log_machine import recomputed_leaf
from tests.outages import BATCH, VELO, WEBHOOKS, register, use_of_coupon
from tests.rows import Stranger, wait_until_left
from tests.serving import APPLIED, PATIENCE, SITE, NewServer, Serving, applied, serving, wrapped
from tests.signing import webhook
from tests.stores import NewUrl

SERVERS = 3
SENDERS = 6
KILLS = 2
ANSWERS_A_ROUND = 90
"""Answers to wait for between two kills: enough that every sender is in the midst of it."""
COUPONS = 5
TELLINGS = 3
"""Different events that are told under one id."""
LONGEST_BATCH = 30
LOCAL = "local"
"""The site of what is sent with a token that is bound to none."""

Key = tuple[str, str]


class Telling(NamedTuple):
    """One event as one sender means it. Two of the same key and another `number` are two events under one id."""

    site: str
    event_id: str
    number: int

    @property
    def key(self) -> Key:
        return self.site, self.event_id

    @property
    def order(self) -> str:
        """What the event says, and no other telling does: the order that the coupon was used in."""
        return f"order-{self.event_id}-{self.number}"

    @property
    def coupon(self) -> str:
        return f"c-{int(self.event_id.rsplit('-', 1)[1]) % COUPONS}"

    def relayed(self) -> dict[str, Any]:
        return applied(self.event_id, self.order, self.coupon)

    def signed(self) -> bytes:
        event = use_of_coupon(self.event_id)
        event["actionEvent"]["body"]["wixAppOrderId"] = self.order
        return webhook(event)


class Entry(NamedTuple):
    """A line of the books: what was sent, and what was answered; None if nothing was, or only to come again."""

    telling: Telling
    body: bytes
    answer: dict[str, Any] | None


@dataclass
class Books:
    """What the senders know together."""

    told: list[Telling] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    strange: list[object] = field(default_factory=list)
    answered: int = 0
    broken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, telling: Telling, body: bytes, answer: dict[str, Any] | None) -> None:
        with self._lock:
            self.entries.append(Entry(telling, body, answer))
            self.answered += answer is not None


class Sender(threading.Thread):
    """Sends to one server after the other, whatever happens to them, until it is told to end."""

    def __init__(self, servers: Sequence[Serving], books: Books, name: str, ended: threading.Event) -> None:
        super().__init__(name=name)
        self._servers = servers
        self._books = books
        self._ended = ended
        self._random = random.Random(name)
        self._clients: dict[int, httpx.Client] = {}
        self._made = 0

    def run(self) -> None:
        try:
            while not self._ended.is_set() and not self._books.strange:
                self._send(self._random.randrange(len(self._servers)))
        except Exception as error:
            self._books.strange.append(error)
            raise
        finally:
            for client in self._clients.values():
                client.close()

    def _send(self, number: int) -> None:
        door = self._random.choice([VELO, VELO, WEBHOOKS, BATCH])
        many = self._random.randint(2, LONGEST_BATCH) if door == BATCH else 1
        tellings = [self._choose(SITE if door == WEBHOOKS else LOCAL) for _ in range(many)]
        if door == BATCH:
            bodies = [json.dumps(wrapped(APPLIED, telling.relayed())).encode() for telling in tellings]
        else:
            [telling] = tellings
            bodies = [telling.signed() if door == WEBHOOKS else json.dumps(telling.relayed()).encode()]
        answers: list[dict[str, Any] | None] = []
        try:
            client = self._client(number)
            # A line counts from when it has arrived, though the rest of the answer may never come.
            with client.stream("POST", door, content=b"\n".join(bodies)) as response:
                if response.status_code == 200:
                    answers.extend(json.loads(line) for line in response.iter_lines())
                elif response.status_code != 503 or "Retry-After" not in response.headers:
                    response.read()
                    self._books.strange.append(response.text)
        except httpx.TransportError:
            self._books.broken += 1
            self._clients.pop(number).close()
            self._ended.wait(0.02)
        answers += [None] * (len(bodies) - len(answers))
        for telling, body, answer in zip(tellings, bodies, answers, strict=True):
            come_again = answer is not None and answer["outcome"] == "unavailable"
            self._books.note(telling, body, None if come_again else answer)

    def _client(self, number: int) -> httpx.Client:
        known = self._clients.get(number)
        if known is None or known.base_url != httpx.URL(self._servers[number].url):
            if known is not None:
                known.close()
            known = self._clients[number] = self._servers[number].client()
        return known

    def _choose(self, site: str) -> Telling:
        """A new event, or one under the id of an earlier one: the same or another."""
        earlier = [telling for telling in self._books.told[-200:] if telling.site == site]
        if not earlier or self._random.random() < 0.6:
            self._made += 1
            telling = Telling(site, f"{self.name}-{self._made}", self._random.randrange(TELLINGS))
            self._books.told.append(telling)
            return telling
        known = self._random.choice(earlier)
        if self._random.random() < 0.5:
            return known
        return known._replace(number=self._random.randrange(TELLINGS))


@contextmanager
def senders_at(servers: Sequence[Serving], books: Books) -> Iterator[None]:
    ended = threading.Event()
    senders = [Sender(servers, books, f"sender{number}", ended) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        ended.set()
        for sender in senders:
            sender.join()


def wait_until(books: Books, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert not books.strange
        assert time.monotonic() < deadline, "nothing is answered any more"
        time.sleep(0.005)


def wait_for_answers(books: Books, more: int) -> None:
    goal = books.answered + more
    wait_until(books, lambda: books.answered >= goal)


# The audit


def microseconds(value: Any) -> int:
    if isinstance(value, int):
        return value
    whole = int(value.timestamp())
    return whole * 1_000_000 + int(value.microsecond)


class Standing(NamedTuple):
    """What the log holds under a key."""

    position: int
    telling: Telling


def log_of(stranger: Stranger) -> dict[Key, Standing]:
    """What the log holds, once it is known to be sound in itself."""
    rows = stranger.records("SELECT * FROM events ORDER BY position")
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    found: dict[Key, Standing] = {}
    last = 0
    for row in rows:
        row |= {"event_time": microseconds(row["event_time"]), "recorded_at": microseconds(row["recorded_at"])}
        assert row["leaf_hash"] == recomputed_leaf(row)
        assert row["recorded_at"] >= last
        last = row["recorded_at"]
        order = json.loads(row["payload"])["order_id"]
        telling = Telling(row["site_id"], row["event_id"], int(order.rsplit("-", 1)[1]))
        assert order == telling.order
        assert telling.key not in found
        assert telling.order.encode() in original_of(row["original"])
        found[telling.key] = Standing(row["position"], telling)
    [head] = stranger.records("SELECT * FROM log_head")
    assert (head["size"], microseconds(head["recorded_at"])) == (len(rows), last)
    keys = stranger.rows("SELECT site_id, event_id, position FROM event_keys")
    assert {(site, event_id): position for site, event_id, position in keys} == {
        key: standing.position for key, standing in found.items()
    }
    return found


def original_of(kept: bytes) -> bytes:
    """The delivery: of a webhook what it claims, for the order stands encoded in the token."""
    return told_by(zlib.decompress(kept))


def told_by(delivery: bytes) -> bytes:
    if delivery.startswith(b"{"):
        return delivery
    from base64 import urlsafe_b64decode

    claims = delivery.split(b".")[1]
    return urlsafe_b64decode(claims + b"=" * (-len(claims) % 4))


def assert_books_agree(store: str, books: Books) -> Counter[str]:
    """Every answer was true and stays so, and nothing else is in the log. Returns how often each outcome was told."""
    wait_until_left(store)
    with Stranger(store) as stranger:
        stands = log_of(stranger)
        kept = {row["id"]: row for row in stranger.records("SELECT * FROM quarantine")}
    outcomes: Counter[str] = Counter()
    appended: Counter[Key] = Counter()
    for telling, body, answer in books.entries:
        if answer is None:
            continue
        outcome, position = answer["outcome"], answer["position"]
        outcomes[outcome] += 1
        assert answer["event_id"] == telling.event_id
        standing = stands[telling.key]
        assert position == standing.position
        if outcome == "conflict":
            assert telling != standing.telling
            evidence = kept[answer["quarantine_id"]]
            assert (evidence["site_id"], evidence["event_id"]) == telling.key
            assert (evidence["kind"], evidence["position"]) == ("conflict", position)
            # Of a batch's line its body is kept.
            assert bytes(evidence["body"]) in body
            assert telling.order.encode() in told_by(bytes(evidence["body"]))
        else:
            assert outcome in ("appended", "duplicate")
            assert telling == standing.telling
            appended[telling.key] += outcome == "appended"
    assert all(times <= 1 for times in appended.values())
    sent = {telling for telling, _, _ in books.entries}
    assert {standing.telling for standing in stands.values()} <= sent
    # What is kept as a conflict is one, though nobody may have heard of it, and was sent.
    bodies = {body for _, body, _ in books.entries}
    for row in kept.values():
        key = (row["site_id"], row["event_id"])
        assert row["kind"] == "conflict"
        assert row["position"] == stands[key].position
        assert stands[key].telling.order.encode() not in told_by(bytes(row["body"]))
        assert any(bytes(row["body"]) in body for body in bodies)
    return outcomes


def assert_all_was_tried(books: Books, outcomes: Counter[str]) -> None:
    """The senders were in the midst of everything that the test is about."""
    assert not books.strange
    assert outcomes.keys() == {"appended", "duplicate", "conflict"}
    assert books.broken
    assert any(entry.answer is None for entry in books.entries)


@pytest.fixture
def servers(new_url: NewUrl, tmp_path: Path) -> Iterator[list[Serving]]:
    """Servers over one store."""
    with new_url() as url, ExitStack() as stack:
        running: list[Serving] = []
        for number in range(SERVERS):
            token = running[0].token if running else ""
            running.append(stack.enter_context(serving(tmp_path / str(number), url=url, token=token)))
        register(running[0])
        yield running


def test_every_answer_of_several_servers_was_true_though_they_were_killed(servers: list[Serving]) -> None:
    books = Books()
    with senders_at(servers, books):
        for number in range(KILLS):
            wait_for_answers(books, ANSWERS_A_ROUND)
            servers[number % SERVERS].restart()
        wait_for_answers(books, ANSWERS_A_ROUND)
        servers[0].kill()
    for server in servers[1:]:
        assert server.stop()[0] == 0
    assert_all_was_tried(books, assert_books_agree(servers[0].store, books))
    assert not any("Traceback" in server.stderr for server in servers)


def workers_of(server: Serving) -> dict[int, int]:
    """The process of each worker, by its number, as the log tells."""
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    return {line["worker"]: line["worker_pid"] for line in lines if line["event"] == "a worker is started"}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # the servers above are workers of either database
def test_every_answer_of_several_workers_was_true_though_they_were_killed(new_server: NewServer) -> None:
    books = Books()
    with new_server("--workers", str(SERVERS)) as server:
        register(server)
        with senders_at([server], books):
            for number in range(KILLS):
                wait_for_answers(books, ANSWERS_A_ROUND)
                died = workers_of(server)[1 + number % SERVERS]
                os.kill(died, signal.SIGKILL)
                wait_until(books, lambda: died not in workers_of(server).values())  # noqa: B023
            wait_for_answers(books, ANSWERS_A_ROUND)
            assert len(set(workers_of(server).values())) == SERVERS
            assert server.stop()[0] == 0
        assert_all_was_tried(books, assert_books_agree(server.store, books))
        assert "Traceback" not in server.stderr
