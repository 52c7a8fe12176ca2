"""What a signed webhook may tell: every documented family, families unknown to the store, and the older, flat bodies."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from eventstore.apps import add_app
from eventstore.event import Event
from eventstore.log.records import Outcome
from eventstore.store import EventStore
from tests.serving import INDEX, PATIENCE, SITE, NewServer, assert_problem, fixture, only, settled
from tests.signing import APP, claims, coupon_event, envelope, public_pem, signed, webhook
from tests.unit.test_wix_fixtures import expected, fact

WEBHOOKS = "/v1/webhooks/wix"
TEST_SITE = "d1d2d3d4-0000-4000-8000-000000000004"
DOCUMENTED = [each for each in INDEX["deliveries"] if each["route"] == "rest"]
NO_FACTS = {"note", "outcome", "same_event_as"}
MEMBER = "1b0e7a53-7f44-4d0c-9a86-8f2f6f0f7a70"
ACCOUNT = {"accountId": "f0f1f2f3-0000-4000-8000-000000000001", "siteId": "a1a2a3a4-0000-4000-8000-000000000002"}


@pytest.fixture
def shop(store: EventStore) -> EventStore:
    """A store that knows one app on one site, and the site of its Test button."""
    add_app(store.engine, name=APP, key=public_pem(), instances=[SITE], test_instances=[TEST_SITE])
    return store


def documented(delivery: dict[str, Any], **more: Any) -> bytes:
    return webhook(json.loads(fixture(delivery["file"])), **more)


def flat(event_type: str, data: Any = None, *, instance: str = SITE, iat: float | None = None, **more: Any) -> bytes:
    """A webhook of the older form: `data` is the body, or the text that stands in its place; None: there is none."""
    told = envelope("" if data is None else data, instance=instance, event_type=event_type, **more)
    if data is None:
        del told["data"]
    return signed(claims(told, **({} if iat is None else {"iat": iat})))


def kept(store: EventStore, outcome: Outcome) -> Event:
    """The event that an outcome is about, its signature proved."""
    assert outcome.kind == "appended", outcome
    assert outcome.position is not None
    checked = store.check_signature(outcome.position)
    assert (checked.valid, checked.agrees) == (True, True), checked
    return store.find(str(outcome.position)).event


# The documented ones


@pytest.mark.parametrize("delivery", DOCUMENTED, ids=lambda each: each["file"])
@pytest.mark.parametrize("as_object", [False, True], ids=["texts", "objects"])
def test_a_documented_event_that_is_signed_has_every_fact_that_its_index_entry_says(
    shop: EventStore, delivery: dict[str, Any], as_object: bool
) -> None:
    body = json.loads(fixture(delivery["file"]))
    token = documented(delivery)
    if as_object:  # met in the wild: what should be text is an object already
        told = envelope("", event_type=f"{body['entityFqdn']}_{body['slug']}")
        token = signed({**claims(""), "data": {**told, "data": body}})
    event = kept(shop, shop.receive_webhook(token))
    for name, value in delivery["expect"].items():
        if name not in NO_FACTS:
            assert fact(event, name) == expected(name, value), name
    assert (event.source, event.site_id, event.event_id) == ("rest", SITE, body["id"])
    assert shop.original(1) == token


def test_the_documented_events_in_one_log_are_one_each_and_the_reused_id_is_a_conflict(shop: EventStore) -> None:
    outcomes = {each["file"]: shop.receive_webhook(documented(each)) for each in DOCUMENTED}
    for each in DOCUMENTED:
        assert outcomes[each["file"]].kind == each["expect"].get("outcome", "appended")
    assert shop.head() == len(DOCUMENTED) - 1
    assert shop.status().conflicts == 1
    again = [shop.receive_webhook(documented(each)) for each in DOCUMENTED]
    assert [each.kind for each in again if each.kind != "conflict"] == ["duplicate"] * (len(DOCUMENTED) - 1)
    # By the relay and by the app it is the same event too.
    [sdk] = shop.receive(fixture("sdk_loyalty_coupon_created.json"), route="sdk")
    assert sdk.kind == "duplicate"


def test_the_documented_payload_is_the_event_that_its_index_entry_says(shop: EventStore) -> None:
    payload = json.loads(fixture("jwt_payload_loyalty_coupon_created.json"))
    now = int(time.time())
    event = kept(shop, shop.receive_webhook(signed({**payload, "iat": now, "exp": now + 60})))
    assert event.type == "loyalty_coupon.created"
    assert event.actor is not None
    assert (event.actor.type, event.site_id) == ("MEMBER", SITE)
    again = shop.receive_webhook(documented({"file": "rest_loyalty_coupon_created.json"}))
    assert (again.kind, again.position) == ("duplicate", 1)


# The older, flat ones


def test_an_installation_is_an_event_about_its_site_dated_by_its_signature(shop: EventStore) -> None:
    issued = int(time.time()) - 5
    body = {"appId": "a-1", "originInstanceId": "o-1"}
    event = kept(shop, shop.receive_webhook(flat("AppInstalled", body, iat=issued)))
    assert (event.type, event.recognised, event.entity_id) == ("AppInstalled", False, SITE)
    assert event.event_time.timestamp() == issued
    assert event.body == body
    assert event.event_id.startswith("sha256:")


@pytest.mark.parametrize("data", [{}, "{}", "", None], ids=["an object", "{}", "an empty text", "absent"])
def test_a_removal_says_nothing_and_is_an_event_all_the_same(shop: EventStore, data: Any) -> None:
    issued = int(time.time())
    event = kept(shop, shop.receive_webhook(flat("AppRemoved", data, iat=issued)))
    assert (event.type, event.entity_id, event.body) == ("AppRemoved", SITE, None)
    # However empty is spelt, it is the same event.
    assert shop.receive_webhook(flat("AppRemoved", {}, iat=issued)).kind == "duplicate"
    assert shop.head() == 1


def test_a_flat_webhook_that_is_sent_again_is_a_duplicate_and_a_later_one_another_event(shop: EventStore) -> None:
    issued = int(time.time())
    token = flat("AppInstalled", {"appId": "a-1"}, iat=issued)
    kinds = [shop.receive_webhook(token).kind for _ in range(2)]
    kinds += [shop.receive_webhook(flat("AppInstalled", {"appId": "a-1"}, iat=issued)).kind]
    kinds += [shop.receive_webhook(flat("AppInstalled", {"appId": "a-1"}, iat=issued - 1)).kind]
    kinds += [shop.receive_webhook(flat("AppRemoved", {"appId": "a-1"}, iat=issued)).kind]
    kinds += [shop.receive_webhook(flat("AppInstalled", {"appId": "a-1"}, iat=issued, instance=TEST_SITE)).kind]
    assert kinds == ["appended", "duplicate", "duplicate", "appended", "appended", "appended"]


def test_a_flat_webhook_without_iat_is_dated_by_its_receipt(shop: EventStore) -> None:
    before = time.time()
    token = signed(claims(envelope({"appId": "a-1"}, event_type="AppInstalled"), iat=None))
    assert before <= kept(shop, shop.receive_webhook(token)).event_time.timestamp() <= time.time()


def test_a_flat_webhook_without_iat_that_is_sent_again_is_a_duplicate(shop: EventStore) -> None:
    token = signed(claims(envelope({"appId": "a-1"}, event_type="AppInstalled"), iat=None))
    assert [shop.receive_webhook(token).kind for _ in range(2)] == ["appended", "duplicate"]


def test_a_flat_event_that_the_sdk_processed_is_a_duplicate_when_the_app_repeats_it(shop: EventStore) -> None:
    body = json.dumps({"eventType": "AppInstalled", "instanceId": SITE, "payload": {"appId": "a-1"}}).encode()
    assert [only(shop.receive(body, route="sdk")).kind for _ in range(2)] == ["appended", "duplicate"]


def test_an_id_in_a_flat_body_is_its_entity_s_and_two_that_differ_stay_two_events(shop: EventStore) -> None:
    issued = int(time.time())
    bodies = [{"id": "member-1", "nickname": name} for name in ("Ann", "Bea")]
    events = [kept(shop, shop.receive_webhook(flat("members/updated", body, iat=issued))) for body in bodies]
    assert [each.entity_id for each in events] == ["member-1", "member-1"]
    assert len({each.event_id for each in events}) == 2
    assert [shop.receive_webhook(flat("members/updated", body, iat=issued)).kind for body in bodies] == [
        "duplicate",
        "duplicate",
    ]
    assert shop.status().conflicts == 0


@pytest.mark.parametrize("event_type", ["coupon.created", "loyalty_coupon.deleted", "subject.erased"])
def test_no_webhook_passes_for_an_event_of_the_store_s_own(shop: EventStore, event_type: str) -> None:
    assert shop.receive_webhook(flat(event_type, {"id": "x"})).kind == "quarantined"
    assert shop.head() == 0


def test_a_webhook_that_says_no_event_type_or_no_instance_is_kept_in_quarantine(shop: EventStore) -> None:
    for token in (
        signed(claims({"instanceId": SITE, "data": "{}"})),
        signed(claims({"eventType": "AppInstalled", "data": "{}"})),
        signed(claims({})),
        signed(claims("")),
        signed(claims("[]")),
        signed(claims("nonsense")),
        signed({"exp": claims("")["exp"]}),
    ):
        outcomes = [shop.receive_webhook(token) for _ in range(2)]
        assert {(each.kind.value, each.quarantine_id) for each in outcomes} == {
            ("quarantined", outcomes[0].quarantine_id)
        }
    assert (shop.head(), shop.status().quarantined) == (0, 7)


# Families unknown to the store


@pytest.mark.parametrize(
    "body",
    [
        {"createdEvent": {"entity": {"id": "7", "name": "10% off"}}},
        {"updatedEvent": {"currentEntityAsJson": '{"id":"7","name":"10% off"}'}},
        {"actionEvent": {"bodyAsJson": '{"id":"7","name":"10% off"}'}},
        {"deletedEvent": {"deletedEntity": {"id": "7", "name": "10% off"}}},
    ],
    ids=["created", "updated", "action", "deleted"],
)
def test_a_family_unknown_to_the_store_is_kept_under_its_event_type_as_unrecognised(
    shop: EventStore, body: dict[str, Any]
) -> None:
    event = {
        "id": "e-7",
        "entityFqdn": "wix.loyalty.v1.reward",
        "slug": "became_odd",
        "entityId": "7",
        "eventTime": "2025-05-02T00:00:00.000Z",
        "entityEventSequence": "3",
        **body,
    }
    found = kept(shop, shop.receive_webhook(webhook(event)))
    assert (found.type, found.recognised, found.event_id) == ("wix.loyalty.v1.reward_became_odd", False, "e-7")
    assert (found.entity_id, found.sequence, found.coupon_id) == ("7", 3, None)
    assert found.body == {"id": "7", "name": "10% off"}
    assert shop.receive_webhook(webhook(event)).kind == "duplicate"
    shop.project()
    assert shop.coupons() == []


# Whose it is


def test_the_test_button_s_events_stand_under_their_own_site(shop: EventStore) -> None:
    for instance in (TEST_SITE, SITE):
        assert kept(shop, shop.receive_webhook(webhook(coupon_event("same"), instance=instance))).site_id == instance
    shop.project()
    assert [each.site_id for each in shop.coupons()] == sorted([SITE, TEST_SITE])
    assert [each.site_id for each in shop.coupons(site_id=TEST_SITE)] == [TEST_SITE]
    assert [each.event.site_id for each in shop.read(site_id=SITE)] == [SITE]


def test_who_did_it_and_whose_site_it_is_reach_the_coupon_s_history(new_server: NewServer) -> None:
    identities = {
        "MEMBER": {"identityType": "MEMBER", "memberId": MEMBER},
        "WIX_USER": {"identityType": "WIX_USER", "wixUserId": "u-1"},
        "ANONYMOUS_VISITOR": {"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": "v-1"},
        "APP": {"identityType": "APP", "appId": "a-1"},
    }
    with new_server() as server:
        add = ("app", "add", "--name", APP, "--instance", SITE, "--test-instance", TEST_SITE, "--key-file", "-")
        assert server.run(*add, given=public_pem().encode()).returncode == 0
        told: dict[str, Any] = {}
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as wix:
            for kind, identity in identities.items():
                more: dict[str, Any] = {"identity": json.dumps(identity), "accountInfo": ACCOUNT}
                told = wix.post(WEBHOOKS, content=webhook(coupon_event(kind), **more)).json()
                assert told["outcome"] == "appended"
            tried = wix.post(WEBHOOKS, content=webhook(coupon_event("tried", "c-test"), instance=TEST_SITE)).json()
            assert tried["outcome"] == "appended"
        with server.client(server.new_token("--site", SITE)) as client:
            found = settled(client, told["position"], "/v1/coupons/c-1/history")["events"]
            assert_problem(client.get("/v1/coupons/c-test"), 404)
            assert [each["coupon_id"] for each in client.get("/v1/coupons").json()["coupons"]] == ["c-1"]
        for entry in found:
            event = entry["event"]
            identity = identities[event["event_id"]]
            assert event["actor"] == {"type": event["event_id"], "id": [*identity.values()][1]}
            account = {name: value for name, value in event["account"].items() if value is not None}
            assert account == {"account_id": ACCOUNT["accountId"], "site_id": ACCOUNT["siteId"]}
            assert (event["source"], event["site_id"]) == ("rest", SITE)
        assert len(found) == len(identities)
        with server.client(server.new_token("--site", TEST_SITE)) as tester:
            mine = settled(tester, tried["position"], "/v1/coupons")["coupons"]
            assert (only(mine)["coupon_id"], only(mine)["site_id"]) == ("c-test", TEST_SITE)
