"""The server's logs: a JSON object a line, and in no line a token, a body, a path or anything of a person."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from eventstore import access
from eventstore.access import Scope
from eventstore.store import EventStore
from tests.outages import WEBHOOKS, locked, register
from tests.rows import Stranger
from tests.serving import APPLIED, CREATED, PATIENCE, SITE, Serving, applied, created, ndjson, settled, wrapped
from tests.signing import STRANGER, coupon_event, envelope, signed, webhook

VELO = f"/v1/velo/{CREATED}"
SDK = "/v1/sdk/events"
BATCH = "/v1/events"
MARK = "mArKeR"
"""Stands in everything that is sent here, and may stand in nothing that is logged."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
UNREADABLE = {"metadata": {"id": f"{MARK}-unreadable", "eventTime": f"2025-02-30 {MARK}"}, "entity": {"code": MARK}}


class Logged:
    """A server that logs, with the one token that its store has."""

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        self.server = Serving(folder, url=url, **settings)
        with EventStore.open(self.server.store) as store:
            # With a token there is no need to print one.
            secret, _ = access.create_token(
                store.engine, name=f"{MARK} token", site_id=None, scopes=frozenset((Scope.INGEST, Scope.READ))
            )
        self.server.token = secret
        register(self.server)
        headers = {"User-Agent": f"agent {MARK}", "X-Request-Id": f"request {MARK}", "Cookie": f"c={MARK}"}
        self.server.start()
        self.client = self.server.client()
        self.client.headers.update(headers)

    def close(self) -> None:
        self.client.close()
        self.server.close()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What is logged so far."""
        return [json.loads(line) for line in self.server.stderr.splitlines()]

    def events(self) -> set[str]:
        return {line["event"] for line in self.lines}

    def wait_for(self, event: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while event not in self.events():
            assert time.monotonic() < deadline, f"{event!r} is never logged: {self.events()}"
            time.sleep(0.02)


@pytest.fixture
def logged(tmp_path: Path, store_url: str) -> Iterator[Logged]:
    """A server that logs all it can, as JSON."""
    with closing(Logged(tmp_path, store_url, EVENTSTORE_LOG_LEVEL="debug", EVENTSTORE_LOG_FORMAT="json")) as running:
        yield running


def assert_well_formed(lines: list[dict[str, Any]]) -> None:
    assert lines
    for line in lines:
        assert line["time"].endswith("Z")
        moment = datetime.fromisoformat(line["time"])
        assert abs((datetime.now(UTC) - moment).total_seconds()) < 600
        assert line["level"] in LEVELS
        assert line["pid"] > 0
        assert isinstance(line["event"], str)
        assert line["event"]


def assert_says_nothing(logged: Logged, said: str = "") -> None:
    """Neither a marker nor a secret stands in what the server wrote to its two streams."""
    told = logged.server.stderr + said
    secrets = [MARK, logged.server.token, logged.server.token[4:], "eyJhbGciOi", SITE, "evs_"]
    for secret in secrets:
        around = told.lower().find(secret.lower())
        assert around < 0, told[max(0, around - 300) : around + 300]


def person() -> dict[str, str]:
    return {"identityType": "MEMBER", "memberId": f"member-{MARK}"}


def loyalty(event_id: str) -> dict[str, Any]:
    """A reward that names a member in every way that Wix does."""
    ids = {name: f"{name}-{MARK}" for name in ("accountId", "memberId", "memberIdDeprecated", "transactionId")}
    return {
        "id": event_id,
        "entityFqdn": "wix.loyalty.v1.coupon",
        "slug": "created",
        "entityId": f"loyalty-{MARK}",
        "eventTime": "2025-03-01T08:00:00Z",
        "createdEvent": {"entity": {"id": f"loyalty-{MARK}", "status": "ACTIVE", "rewardName": MARK, **ids}},
    }


def sdk(event_id: str, **metadata: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"_id": event_id, "entityFqdn": "wix.ecommerce.coupons.v2.coupon", "slug": "created"}
    told |= {"entityId": f"c-{MARK}", "eventTime": "2025-03-01T08:00:00Z", **metadata}
    told["identity"] = {"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": f"visitor-{MARK}"}
    return {"entity": {"_id": f"c-{MARK}", "code": MARK, "name": MARK}, "metadata": told}


def deliver_everything(client: httpx.Client) -> set[int]:
    """Good, repeated, conflicting, unreadable, refused and forged deliveries through every door; the statuses met."""
    met = set()

    def send(door: str, **what: Any) -> dict[str, Any]:
        response = client.post(door, **what)
        met.add(response.status_code)
        return dict(json.loads(response.text.splitlines()[0]))

    coupon = f"c-{MARK}"
    for body in (created("e-1", coupon, name=MARK, code=MARK), created(f"{MARK}-2", coupon)):
        assert send(VELO, json=body)["outcome"] == "appended"
    assert send(VELO, json=created("e-1", coupon, name=MARK, code=MARK))["outcome"] == "duplicate"
    assert send(VELO, json=created("e-1", coupon, name=f"other {MARK}"))["outcome"] == "conflict"
    assert send(VELO, json=UNREADABLE)["outcome"] == "quarantined"
    assert (
        send(f"/v1/velo/{APPLIED}?q={MARK}", json=applied(f"{MARK}-3", f"order-{MARK}", coupon))["outcome"]
        == "appended"
    )
    assert send(SDK, json=sdk("e-4", instanceId=f"site-{MARK}"))["outcome"] == "appended"
    assert send(SDK, json={"metadata": {MARK: MARK}})["outcome"] == "quarantined"
    send(f"/v1/velo/{MARK}", json=created("e-5"))
    send(f"/v1/velo/%00%0a{MARK}", json=created("e-5"))
    for door in (VELO, SDK, BATCH):
        send(door, content=f'{{"{MARK}": ')
        send(door, content=MARK.encode() * 300_000)
        for token in (f"evs_{MARK}", f"{MARK} {MARK}", "."):
            send(door, content=b"{}", headers={"Authorization": f"Bearer {token}"})
        send(door, content=b"{}", headers={"Authorization": f"Basic {MARK}"})
    lines = ndjson(
        wrapped(CREATED, created(f"{MARK}-6", coupon)),
        wrapped(f"handler-{MARK}", created("e-7")),
        wrapped(CREATED, UNREADABLE),
        {"route": MARK, "body": {}},
        wrapped(CREATED, created("e-8"), observed_at=MARK),
    )
    send(f"{BATCH}?handler={CREATED}", content=lines + f"{MARK}\n".encode())
    send(f"{BATCH}?route={MARK}&handler={MARK}", content=lines)
    owner = {"accountId": f"account-{MARK}", "siteId": f"site-{MARK}"}
    good = webhook(loyalty(f"{MARK}-hook"), identity=json.dumps(person()), accountInfo=owner)
    assert send(WEBHOOKS, content=good)["outcome"] == "appended"
    assert send(WEBHOOKS, content=good)["outcome"] == "duplicate"
    assert send(WEBHOOKS, content=webhook({"id": MARK, "slug": MARK, "entityFqdn": MARK}))["outcome"] == "quarantined"
    for forged in (
        webhook(coupon_event(MARK, MARK), key=STRANGER),
        webhook(coupon_event(MARK, MARK), instance=f"instance-{MARK}"),
        webhook(coupon_event(MARK, MARK), times={"exp": 1_000}),
        webhook(coupon_event(MARK, MARK), header={"alg": MARK}),
        signed({"data": envelope(MARK), "exp": MARK}),
        signed(MARK.encode()),
        f"{MARK}.{MARK}.{MARK}".encode(),
        MARK.encode(),
    ):
        send(f"{WEBHOOKS}?token={MARK}", content=forged, headers={"Authorization": f"Bearer {MARK}"})
    return met


def ask_everything(client: httpx.Client) -> set[int]:
    """Questions that are answered and those that are wrong; the statuses met."""
    paths = [
        "/healthz",
        "/docs",
        "/openapi.json",
        "/",
        f"/v1/coupons?code={MARK}&site={MARK}",
        f"/v1/coupons?after={MARK}",
        f"/v1/coupons?limit={MARK}&wait_for={MARK}&deleted={MARK}",
        f"/v1/coupons/c-{MARK}?site=local",
        f"/v1/coupons/unknown-{MARK}?site={MARK}",
        f"/v1/coupons/%00{MARK}",
        f"/v1/coupons/c-{MARK}/history?site=local&access_token={MARK}",
        f"/v1/usage?site={MARK}",
        f"/{MARK}",
        f"/{MARK}%0a{MARK}/..%2f{MARK}",
    ]
    met = {client.get(path).status_code for path in paths}
    met |= {
        client.request(method, f"/v1/coupons/{MARK}").status_code for method in ("PUT", "DELETE", "OPTIONS", "HEAD")
    }
    guess = {"Authorization": f"Bearer evs_{MARK}"}
    return met | {client.get(path, headers=guess).status_code for path in paths[4:]}


def speak_nonsense(url: str) -> None:
    """What is no HTTP, what ends too early, and what asks for another protocol."""
    parts = urlsplit(url)
    head = f"POST {WEBHOOKS} HTTP/1.1\r\nHost: {MARK}\r\n"
    for text in (
        f"{MARK} {MARK}\r\n\r\n",
        f"GET /{MARK} HTTP/9.9\r\n\r\n",
        f"{head}Content-Length: {MARK}\r\n\r\n",
        f"{head}Content-Length: 500\r\n\r\n{MARK}",
        f"GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\nConnection: Upgrade\r\nUpgrade: {MARK}\r\n\r\n",
        f"GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: {MARK}\r\n\r\n",
    ):
        with closing(socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)) as connection:
            connection.sendall(text.encode())
            connection.settimeout(0.1)
            try:
                connection.recv(4_096)
            except TimeoutError:
                continue


def test_no_line_of_the_log_holds_anything_of_what_was_sent(logged: Logged) -> None:
    statuses = deliver_everything(logged.client) | ask_everything(logged.client)
    assert statuses >= {200, 400, 401, 403, 404, 405, 413, 422}
    assert max(statuses) < 500
    speak_nonsense(logged.server.url)
    logged.client.get("/healthz")
    status, said = logged.server.stop()
    assert status == 0
    assert_says_nothing(logged, said)
    assert_well_formed(logged.lines)
    assert {"refused", "kept in quarantine"} <= logged.events()
    refused = [line for line in logged.lines if line["event"] == "refused"]
    assert {line["reason"] for line in refused} >= {"not_authenticated", "signature", "expired", "unknown_instance"}
    assert {line["route"] for line in refused} >= {
        WEBHOOKS,
        "/v1/velo/{handler}",
        SDK,
        BATCH,
        "/v1/coupons/{coupon_id}",
    }


def test_at_the_level_debug_every_delivery_is_told_of_by_its_outcome(logged: Logged) -> None:
    deliver_everything(logged.client)
    outcomes = [line["outcome"] for line in logged.lines if line["level"] in ("DEBUG", "INFO") and "outcome" in line]
    assert set(outcomes) >= {"appended", "duplicate", "conflict", "quarantined"}
    assert {line["level"] for line in logged.lines} >= {"DEBUG", "INFO"}


def test_an_unexpected_error_is_logged_by_its_kind_and_place_and_not_by_what_it_says(logged: Logged) -> None:
    client = logged.client
    client.headers["Connection"] = "close"  # the server ends a connection whose request met an unexpected error
    position = client.post(VELO, json=created("e-1", f"c-{MARK}", name=MARK)).json()["position"]
    settled(client, position, f"/v1/coupons/c-{MARK}", site="local")
    with Stranger(logged.server.store) as other:
        if not other.sqlite:  # whose columns take any value as they are
            other.execute("ALTER TABLE coupons ALTER reported_usages TYPE text, ALTER discount_value TYPE text")
        other.execute("UPDATE coupons SET reported_usages = ?, discount_value = ?", f"value {MARK}", f"value {MARK}")
        assert client.get(f"/v1/coupons/c-{MARK}?site=local").status_code == 500
        assert client.get(f"/v1/coupons?code={MARK}").status_code in (200, 500)
        other.execute("DROP TABLE coupons")
        told = client.get(f"/v1/coupons/c-{MARK}?site=local")
        assert told.status_code == 500
        assert MARK not in told.text
        assert client.get(f"/v1/coupons?code={MARK}").status_code == 500
        # The log does not need the projections; they tell of their trouble where health is asked for.
        assert client.post(VELO, json=created("e-2", f"c-{MARK}", name=MARK)).json()["outcome"] == "appended"
        deadline = time.monotonic() + PATIENCE
        while (health := client.get("/healthz").json())["status"] == "ok":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert MARK not in json.dumps(health)
        # No count can be written, nor anything kept in quarantine: refused deliveries are told of, and not what they were.
        other.execute("DROP TABLE delivery_counts")
        assert client.post(VELO, json=UNREADABLE).status_code >= 500
        client.post(VELO, json=UNREADABLE, headers={"Authorization": f"Bearer {MARK}"})
        logged.wait_for("refused deliveries are not counted for now")
    assert_says_nothing(logged)
    assert_well_formed(logged.lines)
    errors = [line for line in logged.lines if line["level"] == "ERROR"]
    assert any(line["event"].startswith("unexpected ") for line in errors)
    assert "coupons.py" in json.dumps(errors)


def test_a_locked_database_is_logged_without_what_it_was_asked(logged: Logged) -> None:
    token = webhook(loyalty(f"{MARK}-hook"), identity=json.dumps(person()))
    with locked(logged.server):
        assert logged.client.post(WEBHOOKS, content=token).status_code == 503
    assert_says_nothing(logged)
    assert {"refused"} <= logged.events()
    assert [line["reason"] for line in logged.lines if line.get("status") == 503] == ["store_unavailable"]


def test_logs_are_lines_of_text_where_that_is_asked_for(tmp_path: Path, store_url: str) -> None:
    with closing(Logged(tmp_path, store_url, EVENTSTORE_LOG_FORMAT="text")) as logged:
        logged.client.post(WEBHOOKS, content=webhook(coupon_event(MARK), key=STRANGER))
        logged.client.post(VELO, json=UNREADABLE)
        assert logged.server.process is not None
        process = logged.server.process.pid
        assert logged.server.stop()[0] == 0
        first, second = logged.server.stderr.splitlines()
        assert_says_nothing(logged)
    moment, level, pid, rest = first.split(" ", 3)
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert level in LEVELS
    assert int(pid) == process
    assert rest == f"refused method=POST route={WEBHOOKS} status=401 reason=signature"
    assert second.split(" ", 3)[1:] == ["INFO", pid, "kept in quarantine outcome=quarantined quarantine_id=1"]


def test_a_level_leaves_out_what_is_below_it(tmp_path: Path, store_url: str) -> None:
    with closing(Logged(tmp_path, store_url, EVENTSTORE_LOG_LEVEL="error")) as logged:
        deliver_everything(logged.client)
        assert logged.server.stop()[0] == 0
        assert logged.server.stderr == ""
