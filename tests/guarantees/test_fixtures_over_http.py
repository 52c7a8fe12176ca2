"""Wix's documented deliveries, each sent to a running server by its own route, are answered and read back as INDEX.json says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
import orjson
import pytest

from tests.serving import (
    INDEX,
    SITE,
    NewServer,
    Serving,
    answers,
    fixture,
    head,
    ndjson,
    one_line,
    only,
    settled,
)

DELIVERIES: list[dict[str, Any]] = [each for each in INDEX["deliveries"] if each["route"] != "jwt"]
TRAP = "03a35393-7835-44b0-af53-6019a484b48b"
"""Wix's documentation deletes this coupon on 2021-01-17 and applies it on 2021-07-17."""
FLASH = "e32fad40-5013-4c39-ae16-13c6221d07d7"
LOYALTY_COUPON = "d4b6a6a0-1b43-4c7f-a4c3-7a5f1b2c3d40"
NO_FACTS = {"note", "outcome", "same_event_as", "events", "coupons", "personal", "actor_type", "site_id"}
STATE_FACTS = {"coupon_id", "code", "name", "discount_type", "discount_value", "buy_x", "get_y", "start_time"} | {
    "expiration_time",
    "created_at",
    "scope_namespace",
    "scope_group",
    "scope_entity_id",
    "usage_limit",
    "limit_per_customer",
    "minimum_subtotal",
    "limited_to_one_item",
    "active",
}


def send(client: httpx.Client, delivery: dict[str, Any]) -> dict[str, Any]:
    """Send a delivery as its route does; the answer to it."""
    body = fixture(delivery["file"])
    route = delivery["route"]
    if route == "velo":
        response = client.post(f"/v1/velo/{delivery['handler']}", content=body)
    elif route == "sdk":
        response = client.post("/v1/sdk/events", content=body)
    else:
        response = client.post("/v1/events", params={"route": route}, content=one_line(body))
        return dict(only(answers(response)))
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    with new_server("--site", SITE) as running:
        yield running


@pytest.fixture(scope="module")
def told(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """What the server answered to each delivery, sent in the order of the index."""
    return {delivery["file"]: send(client, delivery) for delivery in DELIVERIES}


def event_fact(event: dict[str, Any], name: str) -> Any:
    """A fact of the index, where the event in a coupon's history has it."""
    if name in event:
        return event[name]
    if name in ("status", "revision"):
        return event["loyalty"][name]
    coupon = event["coupon"]
    if name.startswith("scope_"):
        return coupon["scope"][name.removeprefix("scope_")]
    if name.startswith("discount_") or name in ("buy_x", "get_y"):
        return coupon["discount"][name.removeprefix("discount_")]
    return coupon[name]


def same(name: str, shown: Any, expected: Any) -> bool:
    if shown is None or expected is None:
        return shown is expected
    if name.endswith(("_time", "_at")):
        return datetime.fromisoformat(shown) == datetime.fromisoformat(expected)
    if name in ("discount_value", "minimum_subtotal"):
        return Decimal(str(shown)) == Decimal(str(expected))
    return bool(shown == expected)


def history(client: httpx.Client, coupon_id: str) -> list[dict[str, Any]]:
    found = settled(client, head(client), f"/v1/coupons/{coupon_id}/history", site=SITE)
    assert found["next"] is None
    entries: list[dict[str, Any]] = found["events"]
    return entries


@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda each: each["file"])
def test_each_documented_delivery_is_answered_as_the_index_says(
    told: dict[str, dict[str, Any]], delivery: dict[str, Any]
) -> None:
    answer, expect = told[delivery["file"]], delivery["expect"]
    if "events" in expect:
        assert [event["outcome"] for event in answer["events"]] == ["appended"] * expect["events"]
        assert len({event["position"] for event in answer["events"]}) == expect["events"]
        return
    assert answer["outcome"] == expect.get("outcome", "duplicate" if "same_event_as" in expect else "appended")
    if "event_id" in expect:
        assert answer["event_id"] == expect["event_id"]


def test_positions_are_given_in_the_order_of_arrival_without_a_gap(
    told: dict[str, dict[str, Any]], client: httpx.Client, server: Serving
) -> None:
    events = [event for answer in told.values() for event in answer.get("events", [answer])]
    appended = [event["position"] for event in events if event["outcome"] == "appended"]
    assert appended == list(range(1, head(client) + 1))
    assert server.rows("SELECT position FROM events ORDER BY position") == [(position,) for position in appended]


def test_an_id_used_for_another_event_answers_conflict_and_both_are_kept(
    told: dict[str, dict[str, Any]], server: Serving
) -> None:
    first, second = told["rest_coupon_created.json"], told["rest_coupon_deleted_same_id_conflict.json"]
    assert second["outcome"] == "conflict"
    assert second["event_id"] == first["event_id"]
    assert second["position"] == first["position"]
    [(kind, body)] = server.rows("SELECT kind, body FROM quarantine WHERE id = ?", second["quarantine_id"])
    assert kind == "conflict"
    assert body == one_line(fixture("rest_coupon_deleted_same_id_conflict.json")).rstrip(b"\n")
    assert first["event_id"] in second["reason"]


def test_one_loyalty_event_told_by_webhook_and_by_sdk_is_one_event(
    told: dict[str, dict[str, Any]], client: httpx.Client
) -> None:
    first, second = told["rest_loyalty_coupon_created.json"], told["sdk_loyalty_coupon_created.json"]
    assert (first["outcome"], second["outcome"]) == ("appended", "duplicate")
    assert (first["event_id"], first["position"]) == (second["event_id"], second["position"])
    entry = only(history(client, LOYALTY_COUPON))
    assert entry["event"]["source"] == "rest"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sdk_loyalty_coupon_created.json", "rest_loyalty_coupon_created.json"),
        ("rest_loyalty_coupon_created.json", "sdk_loyalty_coupon_created.json"),
    ],
)
def test_a_token_bound_to_the_site_gets_the_same_loyalty_event_once_from_either_route_first(
    new_server: NewServer, first: str, second: str
) -> None:
    by_file = {delivery["file"]: delivery for delivery in DELIVERIES}
    with new_server() as server:
        with server.client(server.new_token("--site", SITE)) as client:
            assert send(client, by_file[first])["outcome"] == "appended"
            assert send(client, by_file[second])["outcome"] == "duplicate"
            assert head(client) == 1
            entry = only(history(client, LOYALTY_COUPON))
        assert entry["event"]["site_id"] == SITE
        assert entry["event"]["source"] == by_file[first]["route"]


@pytest.mark.parametrize(
    "delivery",
    [each for each in DELIVERIES if "coupon_id" in each["expect"]],
    ids=lambda each: each["file"],
)
def test_a_coupon_s_history_shows_every_fact_of_the_delivery(
    told: dict[str, dict[str, Any]], client: httpx.Client, delivery: dict[str, Any]
) -> None:
    answer, expect = told[delivery["file"]], delivery["expect"]
    entry = only([each for each in history(client, expect["coupon_id"]) if each["position"] == answer["position"]])
    event = entry["event"]
    assert event["event_id"] == answer["event_id"]
    assert event["source"] == delivery["route"]
    assert event["site_id"] == SITE
    shown = {name: event_fact(event, name) for name in expect if name not in NO_FACTS}
    wrong = {name: value for name, value in shown.items() if not same(name, value, expect[name])}
    assert not wrong
    differs = event["entity_id"] != event["coupon_id"] and event["type"].startswith("coupon.")
    assert ("coupon_id_differs_from_entity_id" in [each["code"] for each in entry["findings"]]) == differs


def test_the_exact_bytes_of_each_delivery_are_kept_beside_its_event(
    told: dict[str, dict[str, Any]], server: Serving
) -> None:
    for delivery in DELIVERIES:
        answer = told[delivery["file"]]
        if answer["outcome"] != "appended" or delivery["route"] == "snapshot":
            continue
        sent = fixture(delivery["file"])
        kept = sent if delivery["route"] in ("velo", "sdk") else one_line(sent).rstrip(b"\n")
        assert server.original(answer["position"]) == kept


def test_a_privacy_request_and_an_unknown_family_are_in_the_log_though_they_name_no_coupon(
    told: dict[str, dict[str, Any]], server: Serving
) -> None:
    for delivery in DELIVERIES:
        expect = delivery["expect"]
        if "coupon_id" in expect or "type" not in expect or "events" in expect:
            continue
        [(type_, entity_id, sequence, anonymize, payload)] = server.rows(
            "SELECT type, entity_id, sequence, anonymize, payload FROM events WHERE position = ?",
            told[delivery["file"]]["position"],
        )
        kept = {"type": type_, "entity_id": entity_id, "sequence": sequence, "anonymize": bool(anonymize)}
        kept["recognised"] = orjson.loads(payload)["recognised"]
        assert {name: kept[name] for name in expect} == expect


def test_the_documented_trap_shows_a_deleted_coupon_used_once_after_its_deletion(
    told: dict[str, dict[str, Any]], client: httpx.Client
) -> None:
    assert told
    state = settled(client, head(client), f"/v1/coupons/{TRAP}")
    assert state["code"] == "SummerSale"
    assert state["deleted"] is True
    assert datetime.fromisoformat(state["deleted_at"]) == datetime.fromisoformat("2021-01-17T12:01:46.597758Z")
    usage = state["usage"]
    assert (usage["times_used"], usage["uses_after_deletion"], usage["reported_usages"]) == (1, 1, 1)
    assert datetime.fromisoformat(usage["last_used_at"]) == datetime.fromisoformat("2021-07-17T11:56:03.852350Z")
    assert usage["by_app"] == {"1380b703-ce81-ff05-f115-39571d94dfcd": 1}
    assert any("after its deletion" in finding for finding in state["findings"])
    assert [entry["event"]["type"] for entry in history(client, TRAP)] == [
        "coupon.created",
        "coupon.applied",
        "coupon.deleted",
    ]


def test_usage_counts_ours_beside_what_wix_reports(told: dict[str, dict[str, Any]], client: httpx.Client) -> None:
    assert told
    rows = {row["coupon_id"]: row for row in settled(client, head(client), "/v1/usage")["usage"]}
    applied = [each for each in DELIVERIES if each["expect"].get("type") == "coupon.applied"]
    assert {delivery["expect"]["coupon_id"]: 1 for delivery in applied} == {
        coupon_id: row["times_used"] for coupon_id, row in rows.items() if row["times_used"]
    }
    assert rows[TRAP]["reported_usages"] == 1
    # Its creation, which carries no sequence, is dated after its use and so is its latest snapshot.
    assert rows[FLASH]["reported_usages"] == 0
    assert sum(row["times_used"] for row in rows.values()) == len(applied)
    codes = {row["code"]: row for row in rows.values()}
    for coupon in only([each for each in DELIVERIES if each["route"] == "snapshot"])["expect"]["coupons"]:
        assert codes[coupon["code"]]["reported_usages"] == coupon["reported_usages"]


@pytest.mark.parametrize(
    "delivery",
    [
        each
        for each in DELIVERIES
        if each["expect"].get("type") in ("coupon.created", "coupon.updated", "coupon.applied")
    ],
    ids=lambda each: each["file"],
)
def test_a_coupon_s_state_shows_every_fact_of_its_only_delivery(client: httpx.Client, delivery: dict[str, Any]) -> None:
    body = orjson.loads(fixture(delivery["file"]))
    site = f"alone-{delivery['file']}"
    line = {"route": delivery["route"], "site": site, "body": body, "handler": delivery.get("handler")}
    answer = only(answers(client.post("/v1/events", content=ndjson(line))))
    assert answer["outcome"] == "appended"
    expect = delivery["expect"]
    state = settled(client, answer["position"], f"/v1/coupons/{expect['coupon_id']}", site=site)
    facts = [name for name in expect if name in STATE_FACTS]
    wrong = {name: state[name] for name in facts if not same(name, state[name], expect[name])}
    assert not wrong
    assert state["usage"]["reported_usages"] == expect.get("reported_usages", 0)
    assert state["usage"]["times_used"] == (1 if expect["type"] == "coupon.applied" else 0)
    assert state["deleted"] is False


def test_a_snapshot_shows_each_of_its_coupons(told: dict[str, dict[str, Any]], client: httpx.Client) -> None:
    assert told
    for expected in only([each for each in DELIVERIES if each["route"] == "snapshot"])["expect"]["coupons"]:
        state = only(settled(client, head(client), "/v1/coupons", code=expected["code"], site=SITE)["coupons"])
        facts = [name for name in expected if name in STATE_FACTS]
        assert {name: state[name] for name in facts} == {name: expected[name] for name in facts}
        entry = only(history(client, state["coupon_id"]))
        assert (entry["event"]["type"], entry["event"]["source"]) == ("coupon.observed", "snapshot")
