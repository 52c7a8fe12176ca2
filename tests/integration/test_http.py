"""The HTTP door of a running server: single deliveries, health, and a server that starts again or loses its database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from tests.rows import Stranger
from tests.serving import (
    APPLIED,
    CREATED,
    PATIENCE,
    NewServer,
    Serving,
    answers,
    applied,
    assert_problem,
    created,
    ndjson,
    only,
    serving,
    settled,
    wrapped,
)
from tests.stores import text_of

VELO = f"/v1/velo/{CREATED}"


def test_one_use_reported_under_two_event_ids_is_two_events_and_one_use(client: httpx.Client) -> None:
    for number in (1, 2):
        told = client.post(f"/v1/velo/{APPLIED}", json=applied(f"twice-{number}", "same-order", "twice")).json()
        assert told["outcome"] == "appended"
    assert settled(client, told["position"], "/v1/coupons/twice")["usage"]["times_used"] == 1
    assert len(client.get("/v1/coupons/twice/history").json()["events"]) == 2


def test_the_same_event_sent_again_by_itself_is_a_duplicate_at_its_first_place(client: httpx.Client) -> None:
    first = client.post(VELO, json=created("alone", "alone")).json()
    again = client.post(VELO, content=json.dumps(created("alone", "alone"), indent=4)).json()
    assert (first["outcome"], again["outcome"]) == ("appended", "duplicate")
    assert (again["event_id"], again["position"]) == (first["event_id"], first["position"])


def test_the_health_check_shows_the_projections_following_the_log(client: httpx.Client) -> None:
    position = client.post(VELO, json=created("well", "well")).json()["position"]
    settled(client, position, "/v1/coupons")
    told = client.get("/healthz").json()
    assert told["status"] == "ok"
    assert told["problem"] is None
    assert told["head"] >= position
    assert told["projected"] >= position


def test_a_server_started_again_knows_everything_and_prints_no_second_token(new_server: NewServer) -> None:
    with new_server() as server:
        with server.client() as client:
            client.post(VELO, json=created("kept", "kept"))
            before = settled(client, 1, "/v1/coupons/kept")
        server.stop()
        server.start()
        with server.client() as client:
            assert settled(client, 1, "/v1/coupons/kept") == before
        assert "shown this once" not in server.stop()[1]
        assert server.rows("SELECT count(*) FROM api_tokens") == [(1,)]
        [(kept,)] = server.rows("SELECT token_hash FROM api_tokens")
        with Stranger(server.store) as stranger:
            assert not stranger.holds(server.token)
            assert stranger.holds("kept")
        assert len(kept) == 32


def test_events_that_another_process_appends_are_seen_by_the_server(server: Serving, client: httpx.Client) -> None:
    line = ndjson(wrapped(CREATED, created("beside", "beside"), site="beside"))
    done = server.cli("ingest", "-", "--json", given=line)
    assert done.returncode == 0, done.stderr
    position = json.loads(done.stdout)["head"]
    assert settled(client, position, "/v1/coupons/beside")["site_id"] == "beside"
    told = answers(client.post("/v1/events", content=line))
    assert only(told)["outcome"] == "duplicate"


# PostgreSQL alone: a file is not away, and what happens when it is locked or full is in test_outage.py.
def test_while_the_database_is_away_the_server_says_come_again_and_then_goes_on(
    postgresql: Callable[[], URL], tmp_path: Path
) -> None:
    url, other = postgresql(), postgresql()
    admin = create_engine(other, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    def admit(allowed: bool) -> None:
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS {allowed}"))
            if not allowed:
                end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
                connection.execute(end, {"name": url.database})

    with serving(tmp_path, url=text_of(url)) as server, server.client() as client:
        assert client.post(VELO, json=created("before")).json()["position"] == 1
        admit(False)
        for response in (
            client.get("/v1/coupons"),
            client.get("/healthz"),
            client.post(VELO, json=created("meanwhile")),
            client.post("/v1/events", content=ndjson(wrapped(CREATED, created("meanwhile")))),
        ):
            assert_problem(response, 503)
            assert int(response.headers["retry-after"]) >= 1
        admit(True)
        assert client.post(VELO, json=created("meanwhile")).json()["position"] == 2
        deadline = time.monotonic() + PATIENCE
        while client.get("/healthz").json()["status"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert settled(client, 2, "/v1/coupons/c-1")["coupon_id"] == "c-1"
        assert "Traceback" not in server.stderr


def test_the_front_page_leads_to_the_api_page(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.is_redirect
    assert response.headers["location"] == "/docs"
