"""From a site's events.js to the coupon's history: the relay under Node, its own fetch, a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.test_relay import FAST_TIME, HANDLERS, needs_node, node_relay
from tests.serving import APPLIED, CREATED, INDEX, applied, created, fixture, head, only, serving, settled

pytestmark = needs_node


def test_each_documented_velo_event_that_the_relay_sends_stands_in_its_coupon_s_history(tmp_path: Path) -> None:
    sent = [each for each in INDEX["deliveries"] if each["route"] == "velo"]
    calls = [(each["handler"], json.loads(fixture(each["file"]))) for each in sent]
    with serving(tmp_path / "store") as server:
        token = server.new_token("--site", "my-site")
        run = node_relay(tmp_path, calls, server.url, token)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
        with server.client(token) as client:
            assert head(client) == len(sent)
            for position, delivery in enumerate(sent, 1):
                expect = delivery["expect"]
                found = settled(client, position, f"/v1/coupons/{expect['coupon_id']}/history")["events"]
                entry = only([each for each in found if each["position"] == position])
                event = entry["event"]
                assert (event["type"], event["source"]) == (expect["type"], "velo")
                assert event["site_id"] == "my-site"
            assert json.loads(server.original(1)) == calls[0][1]


def test_every_handler_of_the_relay_is_one_that_the_store_takes(tmp_path: Path) -> None:
    loyalty = {"couponReference": {"couponId": "c-1", "code": "SPRING"}, "_id": "l-1", "status": "ACTIVE"}
    bodies: dict[str, dict[str, Any]] = {name: created(name) for name in HANDLERS}
    bodies[APPLIED] = applied(APPLIED, "order")
    bodies["wixLoyalty_onCouponCreated"] = {**created("wixLoyalty_onCouponCreated", "l-1"), "entity": loyalty}
    with serving(tmp_path / "store") as server:
        run = node_relay(tmp_path, list(bodies.items()), server.url, server.token)
        assert (run.returncode, run.stderr) == (0, "")
        kept = server.rows("SELECT event_id FROM events ORDER BY position")
        assert kept == [(name,) for name in HANDLERS]


def test_a_relay_that_runs_again_changes_nothing(tmp_path: Path) -> None:
    calls = [(CREATED, created("once"))]
    with serving(tmp_path / "store") as server, server.client() as client:
        for _ in range(2):
            run = node_relay(tmp_path, calls, f"{server.url}/", server.token)
            assert (run.returncode, run.stderr) == (0, "")
        assert head(client) == 1


def test_what_the_store_keeps_aside_or_refuses_shows_in_the_site_s_log(tmp_path: Path) -> None:
    timeless = created("timeless")
    del timeless["metadata"]["eventTime"]
    calls = [(CREATED, created("same")), (CREATED, created("same", code="OTHER")), (CREATED, timeless)]
    with serving(tmp_path / "store") as server:
        run = node_relay(tmp_path, calls, server.url, server.token)
        assert run.returncode == 0
        assert "(conflict)" in run.stderr
        assert "(quarantined)" in run.stderr
        reads = server.new_token("--site", "my-site", "--scopes", "read")
        run = node_relay(tmp_path, calls[:1], server.url, reads)
        assert run.returncode == 1
        assert "HTTP 403" in run.stderr
        assert reads not in run.stdout + run.stderr
        assert server.rows("SELECT count(*) FROM events") == [(1,)]


def test_an_event_that_found_no_server_shows_in_the_site_s_log_and_is_taken_when_sent_again(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as server:
        port = server.url.rsplit(":", 1)[1]
        server.kill()
        run = node_relay(tmp_path, [(CREATED, created("early"))], server.url, server.token, before=FAST_TIME)
        assert run.returncode == 1
        assert "early" in run.stderr
        server.start(port)
        run = node_relay(tmp_path, [(CREATED, created("early"))], server.url, server.token)
        assert (run.returncode, run.stderr) == (0, "")
        assert server.rows("SELECT event_id FROM events") == [("early",)]
