"""Keys and instances over time: rotated, retired and removed ones, new instances, and signatures checked again years later."""

from __future__ import annotations

import json
import time
import zlib
from datetime import timedelta
from typing import Any

import httpx
import pytest

from eventstore import apps
from eventstore.apps import add_app, remove_app, rotate_key
from eventstore.errors import InputError, NotGenuine, UnknownInstance
from eventstore.log.records import OutcomeKind
from eventstore.store import EventStore
from eventstore.webhooks import Webhooks
from eventstore.wix.jwt import read_public_key
from tests.commands import Command
from tests.rows import Stranger
from tests.serving import CREATED, PATIENCE, SITE, NewServer, assert_problem, created
from tests.signing import APP, OTHER_APP, STRANGER, coupon_event, public_pem, webhook
from tests.stores import NewUrl

WEBHOOKS = "/v1/webhooks/wix"
NEXT = "the app's next key"
OTHER_SITE = "b1b2b3b4-0000-4000-8000-000000000002"


def token(event_id: str = "genuine", **how: Any) -> bytes:
    return webhook(coupon_event(event_id), **how)


def receive(store: EventStore, body: bytes) -> OutcomeKind:
    """Take in a webhook by a reader that knows the apps as they are now."""
    store._webhooks = Webhooks(store.engine)
    return store.receive_webhook(body).kind


def refused(store: EventStore, body: bytes, error: type[Exception]) -> str:
    before = store.head(), store.status().quarantined
    with pytest.raises(error) as refusal:
        receive(store, body)
    assert (store.head(), store.status().quarantined) == before
    return str(refusal.value)


# In the library


@pytest.fixture
def shop(store: EventStore) -> EventStore:
    """A store that knows one app on one site."""
    add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
    return store


def test_a_key_that_was_rotated_out_is_taken_within_its_grace_beside_the_new_one(shop: EventStore) -> None:
    refused(shop, token("too early", key=NEXT), NotGenuine)
    rotate_key(shop.engine, name=APP, key=public_pem(NEXT))
    assert receive(shop, token("by the old key")) == "appended"
    assert receive(shop, token("by the new key", key=NEXT)) == "appended"
    # A resend that was signed anew tells the same event.
    assert receive(shop, token("by the old key", key=NEXT)) == "duplicate"


def test_a_key_is_refused_once_its_grace_is_over(shop: EventStore) -> None:
    rotate_key(shop.engine, name=APP, key=public_pem(NEXT), grace=timedelta(0))
    refused(shop, token(), NotGenuine)
    assert receive(shop, token(key=NEXT)) == "appended"


def test_a_grace_that_ends_while_the_apps_are_known_by_heart_ends_all_the_same(shop: EventStore) -> None:
    rotate_key(shop.engine, name=APP, key=public_pem(NEXT), grace=timedelta(seconds=1))
    assert shop.receive_webhook(token("in time")).kind == "appended"
    time.sleep(1.1)
    with pytest.raises(NotGenuine):
        shop.receive_webhook(token("too late"))


def test_of_a_removed_app_nothing_is_taken_until_it_is_registered_again(shop: EventStore) -> None:
    remove_app(shop.engine, name=APP)
    refused(shop, token(), NotGenuine)
    add_app(shop.engine, name=APP, key=public_pem(), instances=[SITE])
    assert receive(shop, token()) == "appended"


def test_two_apps_cannot_own_one_instance_or_one_key(shop: EventStore) -> None:
    with pytest.raises(InputError, match=SITE):
        add_app(shop.engine, name=OTHER_APP, key=public_pem(OTHER_APP), instances=[SITE])
    with pytest.raises(InputError, match="key"):
        add_app(shop.engine, name=OTHER_APP, key=public_pem(APP), instances=[OTHER_SITE])
    assert [each.name for each in apps.list_apps(shop.engine)] == [APP]
    add_app(shop.engine, name=OTHER_APP, key=public_pem(OTHER_APP), accept_new_instances=True)
    told = refused(shop, token(key=OTHER_APP), UnknownInstance)
    assert SITE in told
    with pytest.raises(InputError, match="key"):
        rotate_key(shop.engine, name=OTHER_APP, key=public_pem(APP))


def test_a_new_instance_is_taken_by_an_app_that_accepts_them_and_is_then_its_own(shop: EventStore) -> None:
    refused(shop, token(instance=OTHER_SITE), UnknownInstance)
    add_app(shop.engine, name=APP, accept_new_instances=True)
    add_app(shop.engine, name=OTHER_APP, key=public_pem(OTHER_APP), accept_new_instances=True)
    assert receive(shop, token(instance=OTHER_SITE)) == "appended"
    assert shop.find("genuine", site_id=OTHER_SITE).event.site_id == OTHER_SITE
    refused(shop, token("taken", instance=OTHER_SITE, key=OTHER_APP), UnknownInstance)
    [app] = [each for each in apps.list_apps(shop.engine) if each.name == APP]
    assert [each.instance_id for each in app.instances] == [SITE, OTHER_SITE]


def test_an_app_that_accepts_new_instances_no_more_keeps_those_it_has(shop: EventStore) -> None:
    add_app(shop.engine, name=APP, accept_new_instances=True)
    assert receive(shop, token("one", instance="new-1")) == "appended"
    add_app(shop.engine, name=APP, accept_new_instances=False)
    assert receive(shop, token("two", instance="new-1")) == "appended"
    refused(shop, token("three", instance="new-2"), UnknownInstance)


def test_two_apps_that_see_a_new_instance_at_once_do_not_both_get_it(shop: EventStore) -> None:
    add_app(shop.engine, name=APP, accept_new_instances=True)
    add_app(shop.engine, name=OTHER_APP, key=public_pem(OTHER_APP), accept_new_instances=True)
    readers = [Webhooks(shop.engine), Webhooks(shop.engine)]
    for reader in readers:
        reader.refresh()
    assert len(readers[0].receive(token(instance="new"))) == 1
    with pytest.raises(UnknownInstance):
        readers[1].receive(token(instance="new", key=OTHER_APP))


# Signatures checked again


def test_a_signature_holds_after_its_key_was_rotated_out_its_app_removed_and_its_name_given_to_another(
    shop: EventStore,
) -> None:
    assert receive(shop, token("proved")) == "appended"
    first = shop.check_signature(1)
    assert (first.valid, first.agrees, first.app, first.key_id) == (
        True,
        True,
        APP,
        read_public_key(public_pem()).key_id,
    )
    rotate_key(shop.engine, name=APP, key=public_pem(NEXT), grace=timedelta(0))
    assert shop.check_signature(1) == first
    remove_app(shop.engine, name=APP)
    assert shop.check_signature(1) == first
    add_app(shop.engine, name=APP, key=public_pem(STRANGER), instances=[SITE])
    assert shop.check_signature(1) == first
    # The token's own end is long past by then; what counts is when it came.
    assert receive(shop, token("by the stranger", key=STRANGER)) == "appended"
    assert shop.check_signature(2).key_id == read_public_key(public_pem(STRANGER)).key_id


def test_the_signature_of_an_event_that_no_webhook_told_is_not_proved(shop: EventStore) -> None:
    shop.receive(json.dumps(created("relayed")).encode(), route="velo", handler=CREATED)
    shop.append(shop.find("relayed").event.model_copy(update={"event_id": "built"}))
    for position, route in ((1, "velo"), (2, "velo")):
        checked = shop.check_signature(position)
        assert (checked.valid, checked.agrees, checked.app) == (False, False, None)
        assert route in checked.reason


def test_a_signature_is_not_proved_where_the_stored_key_time_or_instance_is_another(
    store_url: str, new_url: NewUrl
) -> None:
    with EventStore.open(store_url) as store:
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
        assert receive(store, token("proved")) == "appended"
        assert store.check_signature(1).valid
    changes = {
        "another key": ("UPDATE wix_app_keys SET public_key = ?", public_pem(STRANGER)),
        "a key of later": ("UPDATE wix_app_keys SET added_at = added_at + ?", 3_600_000_000),
        "a key that had ended": (
            "UPDATE wix_app_keys SET added_at = added_at - 7200000000, retired_at = added_at - ?",
            3_600_000_000,
        ),
        "another instance": ("UPDATE wix_app_instances SET instance_id = ?", OTHER_SITE),
        "other bytes": ("UPDATE events SET original = ?", zlib.compress(token("proved", key=STRANGER))),
        "bytes cut short": ("UPDATE events SET original = ?", zlib.compress(token("proved")[:-9])),
    }
    for name, (statement, value) in changes.items():
        with new_url(of=store_url) as second:
            with Stranger(second) as stranger:
                stranger.drop_guards()
                stranger.execute(statement, value)
            with EventStore.open(second) as store:
                assert not store.check_signature(1).valid, name


def test_a_genuine_token_beside_an_event_that_it_does_not_tell_is_said_to_disagree(store_url: str) -> None:
    with EventStore.open(store_url) as store:
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
        receive(store, token("first"))
        receive(store, token("second"))
    with Stranger(store_url) as stranger:
        stranger.drop_guards()
        stranger.execute(
            "UPDATE events SET original = (SELECT original FROM events WHERE position = 2) WHERE position = 1"
        )
    with EventStore.open(store_url) as store:
        checked = store.check_signature(1)
        assert (checked.valid, checked.agrees) == (True, False)


def test_the_command_prints_the_exact_bytes_and_its_verdict_apart(eventstore: Command) -> None:
    body = token("proved")
    with EventStore.open(eventstore.url) as store:
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
        receive(store, body)
        store.receive(json.dumps(created("relayed")).encode(), route="velo", handler=CREATED)
        remove_app(store.engine, name=APP)

    def event(*arguments: str) -> tuple[int, str, str]:
        return eventstore.run("event", *arguments, "--check-signature")

    status, original, verdict = event("proved", "--original")
    assert (status, original.encode()) == (0, body)
    assert "signature: valid" in verdict
    assert APP in verdict
    status, original, verdict = event("relayed", "--original")
    assert (status, json.loads(original)) == (1, created("relayed"))
    assert "NOT PROVED" in verdict


def test_the_command_gives_a_second_app_neither_the_instance_nor_the_key_of_the_first(eventstore: Command) -> None:
    with EventStore.open(eventstore.url) as store:
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
        for key, instance in ((OTHER_APP, SITE), (APP, OTHER_SITE)):
            arguments = ["app", "add", "--name", OTHER_APP, "--key-file", "-", "--instance", instance]
            assert APP in eventstore.refused(*arguments, given=public_pem(key).encode(), status=1)
        assert [each.name for each in apps.list_apps(store.engine)] == [APP]


# Over HTTP


# It waits for what a server remembers to grow old, again and again: on one engine.
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_running_server_follows_what_is_added_rotated_and_removed_by_command(new_server: NewServer) -> None:
    with new_server() as server, EventStore.open(server.store) as beside:

        def post(body: bytes) -> httpx.Response:
            return httpx.post(server.url + WEBHOOKS, content=body, timeout=PATIENCE)

        def until(status: int, key: str = APP, instance: str = SITE) -> None:
            deadline = time.monotonic() + PATIENCE
            while (response := post(token(f"{time.monotonic()}", key=key, instance=instance))).status_code != status:
                assert time.monotonic() < deadline, response.text
                time.sleep(0.1)

        def app(*arguments: str, key: str | None = None) -> None:
            named = () if key is None else ("--key-file", "-")
            done = server.run("app", *arguments, *named, given=public_pem(key or APP).encode())
            assert done.returncode == 0, done.stderr

        until(401)
        app("add", "--name", APP, "--instance", SITE, key=APP)
        until(200)
        until(403, instance=OTHER_SITE)
        app("add", "--name", APP, "--instance", OTHER_SITE)
        until(200, instance=OTHER_SITE)
        app("rotate", "--name", APP, key=NEXT)
        until(200, NEXT)
        assert post(token("by the old key")).json()["outcome"] == "appended"
        app("rotate", "--name", APP, "--grace", "0", key="a third key")
        until(401)
        assert_problem(post(token("later", key=NEXT)), 401)
        assert post(token("by the third", key="a third key")).json()["outcome"] == "appended"
        app("remove", "--name", APP)
        until(401, "a third key")
        before = beside.head()
        for key in (APP, NEXT, "a third key"):
            assert_problem(post(token("after", key=key)), 401)
        assert beside.head() == before
