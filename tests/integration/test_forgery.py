"""Forged, altered and misdirected webhooks: each is refused, over HTTP and in the library, and nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from eventstore.apps import add_app
from eventstore.errors import DeliveryTooLarge, EventStoreError, NotGenuine, UnknownInstance, UnreadableDelivery
from eventstore.store import EventStore
from tests.integration.forgeries import (
    FORGERIES,
    NOW,
    OTHER_SITE,
    POINTERS,
    SECRET,
    Forgery,
    embedded,
    event,
    hs256,
    token,
    unsigned,
)
from tests.serving import PATIENCE, SITE, NewServer, Serving, assert_problem
from tests.signing import APP, OTHER_APP, STRANGER, public_pem, webhook
from tests.stores import OpenStore

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True, scope="module")
"""A forgery is refused before any store is asked."""
WEBHOOKS = "/v1/webhooks/wix"
NEWCOMERS = "an app that accepts new instances"
LIMIT = 1_048_576
ERROR = {400: UnreadableDelivery, 401: NotGenuine, 403: UnknownInstance}


def register(server: Serving, name: str, *options: str) -> None:
    added = server.run("app", "add", "--name", name, "--key-file", "-", *options, given=public_pem(name).encode())
    assert added.returncode == 0, added.stderr


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    # Forgers are slowed down by another test's leave: here each of them must be looked at.
    settings = {"EVENTSTORE_AUTH_FAILURES_PER_MINUTE": "1000000"}
    with new_server(**settings) as running:
        for name, site in ((APP, SITE), (OTHER_APP, OTHER_SITE)):
            register(running, name, "--instance", site)
        register(running, NEWCOMERS, "--accept-new-instances")
        yield running
        assert SECRET not in running.stderr
        assert "eyJ" not in running.stderr
        assert "Traceback" not in running.stderr


@pytest.fixture(scope="module")
def stranger(server: Serving) -> Iterator[httpx.Client]:
    """A client without any token."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        client.post(WEBHOOKS, content=token())  # the server must have read the apps once
        yield client


@pytest.fixture(scope="module")
def library(new_store: OpenStore) -> Iterator[EventStore]:
    """A store of its own that knows the same apps, and must stay empty."""
    with new_store() as store:
        for name, site in ((APP, SITE), (OTHER_APP, OTHER_SITE)):
            add_app(store.engine, name=name, key=public_pem(name), instances=[site])
        yield store


def everything_kept(server: Serving) -> list[tuple[Any, ...]]:
    """How much the store holds of all that an event or a delivery could leave behind."""
    tables = ("events", "event_keys", "quarantine", "wix_apps", "wix_app_keys", "wix_app_instances")
    return [server.rows(f"SELECT count(*) FROM {table}")[0] for table in tables]


def assert_quotes_nothing(response: httpx.Response, body: bytes) -> None:
    answer = response.text + str(response.headers)
    assert SECRET not in answer
    pieces = (body[start : start + 16] for start in range(0, min(len(body), 4_096), 8))
    assert not [piece for piece in pieces if len(piece) == 16 and piece.decode("latin-1") in answer]


@pytest.mark.parametrize(
    ("build", "status", "reason"), [each[1:] for each in FORGERIES], ids=[each[0] for each in FORGERIES]
)
def test_a_forgery_is_refused_and_nothing_of_it_is_kept_or_repeated(
    server: Serving, stranger: httpx.Client, library: EventStore, build: Forgery, status: int | None, reason: str | None
) -> None:
    before = everything_kept(server)
    body = build()
    response = stranger.post(WEBHOOKS, content=body, headers={"content-type": "text/plain"})
    told = assert_problem(response, *((400, 401) if status is None else (status,)))
    assert_quotes_nothing(response, body)
    assert told["type"].startswith("urn:eventstore:problem:")
    assert everything_kept(server) == before
    with pytest.raises(EventStoreError) as refusal:
        library.receive_webhook(body)
    assert type(refusal.value) is ERROR[response.status_code]
    assert SECRET not in str(refusal.value)
    if isinstance(refusal.value, NotGenuine):
        assert reason in (None, refusal.value.reason)
    else:
        assert not isinstance(refusal.value, UnreadableDelivery) or refusal.value.malformed
    assert library.head() == 0
    assert library.status().quarantined == 0


def test_the_token_that_the_forgeries_are_made_from_is_appended(stranger: httpx.Client, server: Serving) -> None:
    body = token("control")
    answers = [stranger.post(WEBHOOKS, content=body).json() for _ in range(2)]
    assert [each["outcome"] for each in answers] == ["appended", "duplicate"]
    assert server.original(answers[0]["position"]) == body


@pytest.mark.parametrize("name", POINTERS)
def test_a_header_that_points_at_a_key_is_ignored_where_the_app_s_own_key_has_signed(
    stranger: httpx.Client, name: str
) -> None:
    answer = stranger.post(WEBHOOKS, content=token(f"pointer-{name}", header=embedded(name))).json()
    assert answer["outcome"] == "appended"


@pytest.mark.parametrize("times", [{"exp": -20}, {"nbf": 20}, {"iat": 20}, {"exp": 390 * 86_400}, {"exp": 60.5}])
def test_clocks_may_differ_a_little_and_a_token_may_live_a_year(
    stranger: httpx.Client, times: dict[str, float]
) -> None:
    sound = {name: NOW() + seconds for name, seconds in times.items()}
    assert stranger.post(WEBHOOKS, content=token(f"times-{times}", times=sound)).json()["outcome"] == "appended"


def test_a_new_instance_is_taken_by_the_app_that_accepts_them_and_is_from_then_on_its_own(
    server: Serving, stranger: httpx.Client
) -> None:
    answers = [stranger.post(WEBHOOKS, content=token("new", instance="new", key=NEWCOMERS)).json() for _ in range(2)]
    assert [each["outcome"] for each in answers] == ["appended", "duplicate"]
    assert server.rows("SELECT count(*) FROM wix_app_instances WHERE instance_id = 'new'") == [(1,)]
    before = everything_kept(server)
    for instance, key in (("new", APP), (SITE, NEWCOMERS), (OTHER_SITE, NEWCOMERS)):
        assert_problem(stranger.post(WEBHOOKS, content=token("new", instance=instance, key=key)), 403)
    # What is not genuine binds nothing.
    assert_problem(stranger.post(WEBHOOKS, content=token("new", instance="newer", key=STRANGER)), 401)
    expired = token("new", instance="newer", key=NEWCOMERS, times={"exp": 1})
    assert_problem(stranger.post(WEBHOOKS, content=expired), 401)
    assert everything_kept(server) == before


def test_a_token_cut_short_anywhere_is_refused(server: Serving, stranger: httpx.Client, library: EventStore) -> None:
    body = token("cut")
    before = everything_kept(server)
    for end in range(len(body)):
        with pytest.raises((UnreadableDelivery, NotGenuine)) as refusal:
            library.webhooks.receive(body[:end])
        assert getattr(refusal.value, "malformed", True)
    boundaries = {place + step for place, byte in enumerate(body) if byte == ord(".") for step in (-1, 0, 1, 2)}
    for end in sorted(boundaries | {1, 2, len(body) - 1, len(body) - 2}):
        assert_problem(stranger.post(WEBHOOKS, content=body[:end]), 400, 401)
    assert everything_kept(server) == before
    assert stranger.post(WEBHOOKS, content=body).json()["outcome"] == "appended"


def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_looked_at(
    server: Serving, stranger: httpx.Client
) -> None:
    before = everything_kept(server)
    bare = webhook(event("large"), padding="")
    spare = (LIMIT - len(bare)) * 3 // 4 - 8
    fits = webhook(event("large"), padding="x" * spare)
    assert LIMIT - 64 < len(fits) <= LIMIT
    response = stranger.post(WEBHOOKS, content=fits + b"A" * (LIMIT + 1 - len(fits)))
    assert assert_problem(response, 413)["type"] == f"urn:eventstore:problem:{kebab(DeliveryTooLarge)}"
    assert_problem(stranger.post(WEBHOOKS, content=fits + b"A" * (LIMIT - len(fits))), 400, 401)
    assert everything_kept(server) == before
    assert stranger.post(WEBHOOKS, content=fits).json()["outcome"] == "appended"


def kebab(kind: type) -> str:
    return "".join("-" + letter.lower() if letter.isupper() else letter for letter in kind.__name__).lstrip("-")


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", "text/plain", "text/plain; charset=utf-16", "application/json", "application/jwt"),
        *("application/x-www-form-urlencoded", "multipart/form-data", "nonsense", "a/b/c;;=", "\xe9"),
    ],
)
def test_any_content_type_is_taken(stranger: httpx.Client, content_type: str | None) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    body = token(f"type-{content_type!r}")
    answer = stranger.post(WEBHOOKS, content=body, headers=headers)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "appended")


@pytest.mark.parametrize("header", ["Bearer evs_unknown", "Basic dXNlcjpwYXNz", "Bearer", "nonsense"])
def test_a_bearer_token_neither_helps_nor_harms(server: Serving, stranger: httpx.Client, header: str) -> None:
    answer = stranger.post(WEBHOOKS, content=token(f"with-{header}"), headers={"authorization": header})
    assert answer.json()["outcome"] == "appended"
    forged = token("forged", key=STRANGER)
    authorised = {"authorization": f"Bearer {server.token}"}
    assert_problem(stranger.post(WEBHOOKS, content=forged, headers=authorised), 401)


def test_every_refusal_is_counted_by_its_reason_and_nothing_else_is(new_server: NewServer) -> None:
    refused = {
        "algorithm": unsigned("none"),
        "signature": token(key=STRANGER),
        "expired": token(times={"exp": int(NOW()) - 60}),
        "early": token(times={"iat": int(NOW()) + 3_600}),
        "claims": token(times={"exp": None}),
        "unknown_instance": token(instance="another"),
        "unreadable_delivery": b"",
        "delivery_too_large": b"x" * (LIMIT + 1),
    }
    with new_server() as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            assert "no app" in assert_problem(client.post(WEBHOOKS, content=token()), 401)["detail"]
            add = ("app", "add", "--name", APP, "--instance", SITE, "--key-file", "-")
            assert server.run(*add, given=public_pem().encode()).returncode == 0
            deadline = time.monotonic() + PATIENCE
            tries = 1
            while client.post(WEBHOOKS, content=token()).status_code != 200:
                assert time.monotonic() < deadline
                tries += 1
                time.sleep(0.2)
            for body in refused.values():
                for _ in range(2):
                    assert_problem(client.post(WEBHOOKS, content=body), 400, 401, 403, 413)
            assert client.post(WEBHOOKS, content=token()).json()["outcome"] == "duplicate"
        server.stop()
        counted = server.rows("SELECT route, outcome, reason, count FROM delivery_counts ORDER BY outcome, reason")
        expected = [("rest", "duplicate", "", 1), ("rest", "refused", "no_app", tries)]
        expected += [("rest", "refused", reason, 2) for reason in refused]
        assert counted == sorted(expected)
        assert server.rows("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM quarantine)") == [(1, 0)]


def test_a_digest_of_the_key_is_no_secret_of_it(stranger: httpx.Client) -> None:
    for secret in (sha256(public_pem().encode()).digest(), sha256(public_pem().encode()).hexdigest().encode()):
        assert_problem(stranger.post(WEBHOOKS, content=hs256(secret)), 401)
