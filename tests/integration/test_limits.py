"""Limits: failed authentication by address, size and depth of a delivery; what is kept of a request, and what is only counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.outages import WEBHOOKS, register
from tests.rows import Stranger
from tests.serving import (
    APPLIED,
    CREATED,
    SITE,
    NewServer,
    Serving,
    answers,
    applied,
    assert_problem,
    created,
    ndjson,
    wrapped,
)
from tests.signing import STRANGER, coupon_event, signed, webhook

VELO = f"/v1/velo/{CREATED}"
SDK = "/v1/sdk/events"
BATCH = "/v1/events"
FAILURES = 4
"""Failed authentications that an address has in a minute here."""
LIMIT = 8_192
COUNTED_SECONDS = 20.0
"""How long to wait for what the server writes down every few seconds."""


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    settings = {"EVENTSTORE_AUTH_FAILURES_PER_MINUTE": str(FAILURES), "EVENTSTORE_MAX_BODY_BYTES": str(LIMIT)}
    with new_server(**settings) as running:
        register(running)
        yield running
        assert "Traceback" not in running.stderr


def from_address(address: str, token: str | None = None) -> dict[str, str]:
    """The headers of a request that a proxy on this machine passes on for `address`."""
    headers = {"X-Forwarded-For": address}
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


def velo(client: httpx.Client, event_id: str, headers: dict[str, str]) -> httpx.Response:
    return client.post(VELO, json=created(event_id), headers=headers)


def refusals(server: Serving) -> dict[tuple[str, str, str], int]:
    """How many deliveries were refused, by site, route and reason."""
    rows = server.rows(
        "SELECT site_id, route, reason, sum(count) FROM delivery_counts WHERE outcome = 'refused' GROUP BY 1, 2, 3"
    )
    return {(site, route, reason): count for site, route, reason, count in rows}


# Failed authentication


def assert_shut_out(response: httpx.Response) -> None:
    told = assert_problem(response, 429)
    assert told["type"] == "urn:eventstore:problem:too-many-failures"
    assert "auth_failures_per_minute" in told["detail"]
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_past_the_limit_failing_tokens_are_told_when_to_come_again_and_good_ones_still_work(
    server: Serving, client: httpx.Client
) -> None:
    guesser = "203.0.113.1"
    unused = server.new_token("--site", SITE)
    time_known = time.monotonic() + 6.0  # by then the running server has read its tokens anew
    for number in range(FAILURES):
        assert_problem(velo(client, "x", from_address(guesser, f"evs_guess_{number}")), 401)
    for number in range(3):
        assert_shut_out(velo(client, "x", from_address(guesser, f"evs_other_guess_{number}")))
    assert_shut_out(client.get("/v1/coupons", headers=from_address(guesser, "evs_guess_to_read")))

    answer = velo(client, "good-1", from_address(guesser, server.token))
    assert answer.json()["outcome"] == "appended"
    assert client.get("/v1/coupons", headers=from_address(guesser, server.token)).status_code == 200
    # One made before and first used only now, once the server has had the time to learn of it.
    answer = velo(client, "good-2", from_address(guesser, unused))
    while answer.status_code == 429:
        assert time.monotonic() < time_known, "a good token is refused for what others at its address have sent"
        time.sleep(0.1)
        answer = velo(client, "good-2", from_address(guesser, unused))
    assert answer.json()["outcome"] == "appended"
    # Good requests do not wipe out the failures.
    assert_shut_out(velo(client, "x", from_address(guesser, "evs_guess_again")))


def test_past_the_limit_forged_webhooks_are_told_when_to_come_again_and_genuine_ones_still_work(
    client: httpx.Client,
) -> None:
    forger = from_address("203.0.113.2")
    forged = webhook(coupon_event("forged"), key=STRANGER)
    for _ in range(FAILURES):
        assert_problem(client.post(WEBHOOKS, content=forged, headers=forger), 401)
    for _ in range(3):
        assert_shut_out(client.post(WEBHOOKS, content=forged, headers=forger))
    for number in range(3):
        answer = client.post(WEBHOOKS, content=webhook(coupon_event(f"genuine-{number}")), headers=forger)
        assert answer.json()["outcome"] == "appended"
    # Tokens and webhooks of one address have one allowance.
    assert_shut_out(velo(client, "x", {**forger, "Authorization": "Bearer evs_guess"}))


def test_the_failures_of_one_address_are_not_those_of_another(client: httpx.Client) -> None:
    for number in range(FAILURES + 1):
        last = velo(client, "x", from_address("203.0.113.3", f"evs_guess_{number}"))
    assert_shut_out(last)
    for other in ("203.0.113.4", "2001:db8::4"):
        assert_problem(velo(client, "x", from_address(other, "evs_guess")), 401)
        assert_problem(client.post(WEBHOOKS, content=b"e30.e30.e30", headers=from_address(other)), 401)


def test_an_address_that_a_client_makes_up_in_front_of_its_own_counts_for_nothing(client: httpx.Client) -> None:
    # A proxy adds the address it sees behind what the client claims.
    for number in range(FAILURES):
        assert_problem(velo(client, "x", from_address(f"198.51.100.{number}, 203.0.113.5", "evs_guess")), 401)
    assert_shut_out(velo(client, "x", from_address("198.51.100.99, 203.0.113.5", "evs_guess")))


def test_what_is_no_attempt_to_guess_is_not_counted_as_one(client: httpx.Client) -> None:
    careless = from_address("203.0.113.6")
    for _ in range(FAILURES + 2):
        assert_problem(client.post(WEBHOOKS, content=b"not a token", headers=careless), 400)
        other_site = webhook(coupon_event("e-1"), instance="1e2b6c3a-6f0d-4f57-9a4d-0d6f4a1c7b11")
        assert_problem(client.post(WEBHOOKS, content=other_site, headers=careless), 403)
    assert_problem(client.post(WEBHOOKS, content=webhook(coupon_event("e-1"), key=STRANGER), headers=careless), 401)


# Size and depth


def sized(body: dict[str, Any], size: int) -> bytes:
    """The delivery as exactly `size` bytes."""
    text = json.dumps(body).encode()
    return text + b" " * (size - len(text))


def sized_webhook(size: int) -> bytes:
    """A genuine webhook of at least `size` bytes, and little more."""
    return webhook(coupon_event("large-hook", note="x" * (size * 3 // 4)))


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_too_large(client: httpx.Client) -> None:
    sdk = {
        "entity": created("x")["entity"],
        "metadata": {"_id": "large-sdk", "entityFqdn": "wix.ecommerce.coupons.v2.coupon", "slug": "created"},
    }
    sdk["metadata"] |= {"entityId": "c-1", "eventTime": "2025-03-01T08:00:00Z"}
    for door, body in ((VELO, created("large-velo")), (SDK, sdk)):
        told = assert_problem(client.post(door, content=sized(body, LIMIT + 1)), 413)
        assert "max_body_bytes" in told["detail"]
        assert client.post(door, content=sized(body, LIMIT)).json()["outcome"] == "appended"


def test_a_webhook_over_the_limit_is_too_large_though_it_is_genuine(client: httpx.Client) -> None:
    assert len(sized_webhook(LIMIT)) > LIMIT
    assert_problem(client.post(WEBHOOKS, content=sized_webhook(LIMIT)), 413)
    assert len(sized_webhook(LIMIT // 2)) < LIMIT
    assert client.post(WEBHOOKS, content=sized_webhook(LIMIT // 2)).json()["outcome"] == "appended"


def test_a_line_of_a_batch_over_the_limit_is_refused_alone(client: httpx.Client) -> None:
    line = json.dumps(wrapped(CREATED, created("large-line", note="x" * LIMIT))).encode() + b"\n"
    first, second, third = answers(
        client.post(
            BATCH, content=ndjson(wrapped(CREATED, created("l-1"))) + line + ndjson(wrapped(CREATED, created("l-3")))
        )
    )
    assert (first["outcome"], third["outcome"]) == ("appended", "appended")
    assert second["outcome"] == "refused"
    assert second["problem"]["status"] == 413


DEEP = json.loads("[" * 100 + "]" * 100)


@pytest.mark.parametrize("door", [VELO, SDK])
def test_a_delivery_nested_too_deep_is_not_taken(client: httpx.Client, door: str) -> None:
    told = assert_problem(client.post(door, json=created("deep", extra=DEEP)), 400)
    assert "deeper" in told["detail"]


def test_a_line_nested_too_deep_is_refused_alone(client: httpx.Client) -> None:
    deep, good = answers(
        client.post(
            BATCH, content=ndjson(wrapped(CREATED, created("deep", extra=DEEP)), wrapped(CREATED, created("not-deep")))
        )
    )
    assert deep["problem"]["status"] == 400
    assert good["outcome"] == "appended"


def test_a_genuine_webhook_nested_too_deep_is_kept_in_quarantine(server: Serving, client: httpx.Client) -> None:
    # It proves to be Wix's: what today's readers cannot take may be read by tomorrow's.
    token = webhook(coupon_event("deep-hook", extra=DEEP))
    answer = client.post(WEBHOOKS, content=token).json()
    assert answer["outcome"] == "quarantined"
    assert "deeper" in answer["reason"]
    [(body,)] = server.rows("SELECT body FROM quarantine WHERE id = ?", answer["quarantine_id"])
    assert body == token


def test_claims_or_headers_of_a_webhook_nested_without_end_are_refused(client: httpx.Client) -> None:
    bottomless = b"[" * 3_000
    unverified = from_address("203.0.113.7")
    for token in (signed(bottomless), signed({"data": "{}"}, header=bottomless)):
        assert_problem(client.post(WEBHOOKS, content=token, headers=unverified), 400)


# What is kept of a request


def test_quarantine_keeps_of_a_requests_headers_only_those_on_its_list_each_cut_short(
    server: Serving, client: httpx.Client
) -> None:
    kept = {
        "content-type": "application/json; charset=utf-8",
        "date": "Sat, 01 Mar 2025 08:00:00 GMT",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "user-agent": "agent " + "a" * 500,
        "x-request-id": "request-1",
        "x-wix-request-id": "1740816000.123",
    }
    secrets = {
        "cookie": "session=marker-cookie",
        "x-forwarded-for": "203.0.113.8",
        "x-real-ip": "203.0.113.8",
        "forwarded": "for=203.0.113.8",
        "proxy-authorization": "Basic marker",
        "x-api-key": "marker-key",
        "referer": "https://example.com/?member=marker",
    }
    expected = {name: value[:200] for name, value in kept.items()}
    unreadable = {"metadata": {"id": "kept", "eventTime": "2025-02-30T08:00:00Z"}, "entity": {}}
    for door, content in (
        (VELO, json.dumps(unreadable).encode()),
        (SDK, json.dumps({**unreadable, "of": "sdk"}).encode()),
        (WEBHOOKS, webhook({"id": "kept-hook", "slug": "created", "entityFqdn": "wix.ecommerce.coupons.v2.coupon"})),
    ):
        answer = client.post(door, content=content, headers={**kept, **secrets}).json()
        assert answer["outcome"] == "quarantined", answer
        [(told, body)] = server.rows("SELECT headers, body FROM quarantine WHERE id = ?", answer["quarantine_id"])
        assert json.loads(told) == expected
        assert body == content


def test_a_conflict_keeps_the_headers_too(server: Serving, client: httpx.Client) -> None:
    assert client.post(VELO, json=created("twice")).json()["outcome"] == "appended"
    other = client.post(VELO, json=created("twice", code="OTHER"), headers={"X-Request-Id": "r-2"}).json()
    assert other["outcome"] == "conflict"
    [(told,)] = server.rows("SELECT headers FROM quarantine WHERE id = ?", other["quarantine_id"])
    assert json.loads(told)["x-request-id"] == "r-2"
    assert "authorization" not in told.lower()


# What is only counted


def test_refused_deliveries_are_counted_by_route_and_reason_and_nothing_of_them_is_kept(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        register(server)
        marker = "never-to-be-kept"
        reader = {"Authorization": f"Bearer {server.new_token('--scopes', 'read', '--site', SITE)}"}
        forged = webhook(coupon_event(marker), key=STRANGER)
        expired = webhook(coupon_event(marker), times={"iat": 1_000, "exp": 2_000})
        stray = webhook(coupon_event(marker), instance=marker)
        guess = {"Authorization": f"Bearer {marker}"}
        body = json.dumps(created(marker))
        for _ in range(2):
            assert_problem(client.post(VELO, content=body, headers=guess), 401)
            assert_problem(client.post(WEBHOOKS, content=forged), 401)
        assert_problem(client.post(WEBHOOKS, content=expired), 401)
        assert_problem(client.post(WEBHOOKS, content=stray), 403)
        assert_problem(client.post(WEBHOOKS, content=marker.encode()), 400)
        assert_problem(client.post(SDK, content=body, headers=guess), 401)
        assert_problem(client.post(BATCH, content=body, headers=guess), 401)
        assert_problem(client.post(VELO, content=body, headers=reader), 403)
        assert_problem(client.post(f"/v1/velo/{marker}", content=body), 404)
        assert_problem(client.post(VELO, content=f'{{"{marker}'), 400)
        [line] = answers(client.post(BATCH, content=f'{{"{marker}\n', params={"route": "velo"}))
        assert line["outcome"] == "refused"
        expected = {
            ("", "velo", "not_authenticated"): 2,
            ("", "rest", "signature"): 2,
            ("", "rest", "expired"): 1,
            ("", "rest", "unknown_instance"): 1,
            ("", "rest", "unreadable_delivery"): 1,
            ("", "sdk", "not_authenticated"): 1,
            ("", "unknown", "not_authenticated"): 1,
            ("", "velo", "not_allowed"): 1,
            ("", "velo", "unknown_handler"): 1,
            ("", "velo", "unreadable_delivery"): 2,
        }
        deadline = time.monotonic() + COUNTED_SECONDS
        while refusals(server) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert refusals(server) == expected

        # The last ones, which no timer has written down yet, are written as the server stops.
        assert_problem(client.post(WEBHOOKS, content=forged), 401)
        assert client.post(f"/v1/velo/{APPLIED}", json=applied("e-1", "o-1")).json()["outcome"] == "appended"
        assert client.post(f"/v1/velo/{APPLIED}", json=applied("e-1", "o-1")).json()["outcome"] == "duplicate"
        assert server.stop()[0] == 0
        assert refusals(server) == expected | {("", "rest", "signature"): 3}
        others = server.rows("SELECT route, outcome, reason, count FROM delivery_counts WHERE outcome <> 'refused'")
        assert others == [("velo", "duplicate", "", 1)]
        assert server.rows("SELECT count(*) FROM quarantine") == [(0,)]
        assert marker not in server.stderr
        with Stranger(server.store) as stranger:
            assert not stranger.holds(marker)
            assert stranger.holds("e-1")
