"""Who may come in at the HTTP door: bearer tokens, their scopes and sites."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serving import (
    CREATED,
    PATIENCE,
    SITE,
    NewServer,
    Serving,
    answers,
    assert_problem,
    created,
    fixture,
    head,
    ndjson,
    one_line,
    settled,
    wrapped,
)

VELO = f"/v1/velo/{CREATED}"
READING = ["/v1/coupons", "/v1/coupons/c-1", "/v1/coupons/c-1/history", "/v1/usage"]
INGESTION = [VELO, "/v1/sdk/events", "/v1/events"]
SDK_EVENT = fixture("sdk_loyalty_coupon_created.json")


def everything(client: httpx.Client) -> Iterator[httpx.Response]:
    for path in READING:
        yield client.get(path)
    for path in INGESTION:
        yield client.post(path, json=created("e-refused"))


def test_without_a_token_nothing_is_told_or_taken_but_how_the_server_is(server: Serving) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as stranger:
        for response in everything(stranger):
            told = assert_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "eventstore token create" in told["detail"]
        assert set(stranger.get("/healthz").json()) == {"status", "version", "pid", "head", "projected", "problem"}
        assert stranger.get("/openapi.json").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "Basic dXNlcjpwYXNz",
        "Bearer",
        "Token secret-word",
        "Bearer secret-word",
        "Bearer evs_secret-word",
        "Bearer evs_" + "secret-word" * 500,
        "Bearer sécret-word",
        "Bearer ' OR 1=1 --",
    ],
)
def test_a_wrong_authorization_is_refused_and_never_echoed(server: Serving, header: str) -> None:
    headers = [(b"Authorization", header.encode())]
    with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE) as stranger:
        for response in everything(stranger):
            assert_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "secret-word" not in response.text + str(response.headers)
    assert "secret-word" not in server.stderr


def test_the_scheme_s_name_is_read_without_case(server: Serving) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        assert client.get("/v1/coupons", headers={"Authorization": f"bearer {server.token}"}).status_code == 200


def test_a_token_does_only_what_its_scopes_say(server: Serving) -> None:
    reads = server.new_token("--any-site", "--scopes", "read")
    ingests = server.new_token("--any-site", "--scopes", "ingest")
    with server.client(reads) as reader, server.client(ingests) as ingester:
        for path in INGESTION:
            response = reader.post(path, json=created("e-refused"))
            assert "ingest" in assert_problem(response, 403)["detail"]
            assert reads not in response.text
        for path in READING:
            assert "read" in assert_problem(ingester.get(path), 403)["detail"]
        assert reader.get("/v1/coupons").status_code == 200
        assert ingester.post(VELO, json=created("scoped")).json()["outcome"] == "appended"
    assert server.rows("SELECT count(*) FROM events WHERE event_id = 'e-refused'") == [(0,)]


def test_a_token_of_the_scope_admin_may_read_and_ingest(server: Serving) -> None:
    with server.client(server.new_token("--any-site", "--scopes", "admin")) as admin:
        assert admin.get("/v1/coupons").status_code == 200
        assert admin.post(VELO, json=created("by-admin")).json()["outcome"] == "appended"


def test_a_revoked_token_is_soon_refused_by_the_running_server(server: Serving) -> None:
    made = json.loads(server.run("token", "create", "--any-site", "--json").stdout)
    with server.client(made["token"]) as client:
        assert client.get("/v1/coupons").status_code == 200
        assert server.run("token", "revoke", made["token_id"]).returncode == 0
        deadline = time.monotonic() + PATIENCE
        while (response := client.get("/v1/coupons")).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert made["token"] not in response.text
        assert "revoked" in assert_problem(response, 401)["detail"]
        assert_problem(client.post(VELO, json=created("e-refused")), 401)


def test_a_token_bound_to_a_site_takes_no_event_of_another_and_shows_none(server: Serving) -> None:
    mine, other = server.new_token("--site", "mine"), server.new_token("--site", SITE)
    with server.client(mine) as client, server.client(other) as owner:
        told = assert_problem(client.post("/v1/sdk/events", content=SDK_EVENT), 403)
        assert "mine" in told["detail"]
        assert SITE in told["detail"]
        assert owner.post("/v1/sdk/events", content=SDK_EVENT).json()["outcome"] == "appended"
        # In a batch such a line is refused alone.
        lines = ndjson(wrapped(CREATED, created("bound-1", "bound"))) + one_line(SDK_EVENT)
        lines += ndjson(wrapped(CREATED, created("bound-2", "bound"), site="another"))
        first, second, third = answers(client.post("/v1/events", content=lines))
        assert first["outcome"] == "appended"
        assert (second["outcome"], second["problem"]["status"]) == ("refused", 403)
        assert (third["outcome"], third["problem"]["status"]) == ("refused", 403)
        # A wrapper cannot say otherwise than the delivery in it.
        masked = {"route": "sdk", "site": "mine", "body": json.loads(SDK_EVENT)}
        [hidden] = answers(client.post("/v1/events", content=json.dumps(masked)))
        assert (hidden["outcome"], hidden["problem"]["status"]) == ("refused", 400)
        # Velo names no site: the token's is taken.
        found = settled(client, head(client), "/v1/coupons/bound")
        assert found["site_id"] == "mine"
        assert_problem(client.get("/v1/coupons", params={"site": SITE}), 403)
        assert_problem(owner.get("/v1/coupons/bound"), 404)
        assert_problem(owner.get("/v1/coupons/bound/history"), 404)
        assert {each["site_id"] for each in client.get("/v1/coupons").json()["coupons"]} == {"mine"}
        assert client.get("/v1/coupons/bound", params={"site": "mine"}).status_code == 200
    assert server.rows("SELECT count(*) FROM events WHERE event_id = 'bound-2'") == [(0,)]


def test_an_unbound_token_files_an_event_under_the_site_it_names_or_under_the_server_s(new_server: NewServer) -> None:
    with new_server("--site", "house") as server, server.client() as client:
        client.post(VELO, json=created("one", "c-house"))
        client.post("/v1/sdk/events", content=SDK_EVENT)
        client.post("/v1/events", content=ndjson(wrapped(CREATED, created("two", "c-named"), site="named")))
        assert server.rows("SELECT site_id FROM events ORDER BY position") == [("house",), (SITE,), ("named",)]
        assert settled(client, 3, "/v1/coupons/c-house")["site_id"] == "house"
        assert client.get("/v1/coupons/c-named").json()["site_id"] == "named"
