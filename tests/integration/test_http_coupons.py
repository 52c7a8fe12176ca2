"""Reading over HTTP what was written: coupons, their histories and uses, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.serving import (
    APPLIED,
    CREATED,
    DELETED,
    NewServer,
    answers,
    applied,
    assert_problem,
    created,
    head,
    ndjson,
    only,
    settled,
    wrapped,
)

VELO = f"/v1/velo/{CREATED}"


@pytest.fixture(scope="module")
def shop(new_server: NewServer) -> Iterator[httpx.Client]:
    """A client of a server with 23 coupons of one site, every fifth deleted, and one coupon of another."""
    with new_server("--site", "shop") as server, server.client() as client:
        lines = [
            wrapped(CREATED, created(f"made-{number}", f"c-{number:02}", code=f"Code{number % 4}"))
            for number in range(23)
        ]
        for number in range(0, 23, 5):
            event = {"metadata": {**created(f"gone-{number}", f"c-{number:02}")["metadata"]}}
            event["metadata"]["eventTime"] = "2025-04-01T00:00:00Z"
            lines.append(wrapped(DELETED, event))
        lines += [
            wrapped(APPLIED, applied(f"used-{number}", f"order-{number}", "c-01", "Code1")) for number in range(9)
        ]
        lines.append(wrapped(CREATED, created("made-elsewhere", "c-01", code="Code1"), site="elsewhere"))
        told = answers(client.post("/v1/events", content=ndjson(*lines)))
        assert {each["outcome"] for each in told} == {"appended"}
        settled(client, told[-1]["position"], "/v1/coupons")
        yield client


def pages(client: httpx.Client, path: str, items: str, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
    after = None
    while True:
        response = client.get(path, params=parameters | ({} if after is None else {"after": after}))
        assert response.status_code == 200, response.text
        found = response.json()
        yield found[items]
        after = found["next"]
        if after is None:
            return


@pytest.mark.parametrize("limit", [1, 4, 8, 23, 24, 1_000])
@pytest.mark.parametrize(("path", "items"), [("/v1/coupons", "coupons"), ("/v1/usage", "usage")])
def test_following_next_gives_every_coupon_once_in_order(shop: httpx.Client, path: str, items: str, limit: int) -> None:
    found = list(pages(shop, path, items, limit=limit))
    assert all(len(page) <= limit for page in found)
    told = [(each["site_id"], each["coupon_id"]) for page in found for each in page]
    assert told == [("elsewhere", "c-01"), *[("shop", f"c-{number:02}") for number in range(23)]]


def test_pages_go_on_where_they_were_though_coupons_are_added_meanwhile(client: httpx.Client) -> None:
    def make(*names: str) -> None:
        lines = [wrapped(CREATED, created(name, name), site="growing") for name in names]
        told = answers(client.post("/v1/events", content=ndjson(*lines)))
        settled(client, told[-1]["position"], "/v1/coupons", site="growing")

    make("b", "d", "f")
    walk = pages(client, "/v1/coupons", "coupons", site="growing", limit=2)
    first = [each["coupon_id"] for each in next(walk)]
    make("a", "c", "e", "g")
    rest = [each["coupon_id"] for page in walk for each in page]
    assert (first, rest) == (["b", "d"], ["e", "f", "g"])


@pytest.mark.parametrize("limit", [1, 3, 10, 1_000])
def test_a_history_s_pages_give_every_event_once_in_the_order_recorded(shop: httpx.Client, limit: int) -> None:
    found = [
        each for page in pages(shop, "/v1/coupons/c-01/history", "events", site="shop", limit=limit) for each in page
    ]
    assert [each["event"]["event_id"] for each in found] == ["made-1", *[f"used-{number}" for number in range(9)]]
    positions = [each["position"] for each in found]
    assert positions == sorted(set(positions))
    times = [datetime.fromisoformat(each["recorded_at"]) for each in found]
    assert times == sorted(times)
    assert timedelta(0) <= datetime.now(UTC) - times[-1] < timedelta(hours=1)


@pytest.mark.parametrize("code", ["Code1", "code1", "CODE1", "cOdE1"])
def test_a_code_is_compared_without_case_and_shown_as_wix_spells_it(shop: httpx.Client, code: str) -> None:
    for path, items in (("/v1/coupons", "coupons"), ("/v1/usage", "usage")):
        found = shop.get(path, params={"code": code, "site": "shop"}).json()[items]
        assert [each["coupon_id"] for each in found] == [f"c-{number:02}" for number in range(1, 23, 4)]
        assert {each["code"] for each in found} == {"Code1"}
    assert shop.get("/v1/coupons", params={"code": "Code"}).json()["coupons"] == []


def test_the_case_of_every_alphabet_is_left_aside(client: httpx.Client) -> None:
    told = client.post(VELO, json=created("summer", "summer", code="ÉTÉ-Лето")).json()
    for code in ("ÉTÉ-Лето", "été-лето", "ÉTÉ-ЛЕТО"):
        found = settled(client, told["position"], "/v1/coupons", code=code)["coupons"]
        assert only(found)["coupon_id"] == "summer"


def test_deleted_coupons_can_be_left_out_or_asked_for_alone(shop: httpx.Client) -> None:
    gone = [f"c-{number:02}" for number in range(0, 23, 5)]

    def ids(**parameters: Any) -> list[str]:
        found = shop.get("/v1/coupons", params={"site": "shop", **parameters}).json()["coupons"]
        return [each["coupon_id"] for each in found]

    assert ids(deleted="true") == gone
    assert ids(deleted="false") == [coupon for coupon in ids() if coupon not in gone]
    walk = pages(shop, "/v1/coupons", "coupons", site="shop", deleted="true", limit=2)
    assert [[each["coupon_id"] for each in page] for page in walk] == [gone[:2], gone[2:4], gone[4:]]


def test_usage_says_whose_it_is_and_how_much(shop: httpx.Client) -> None:
    rows = {row["coupon_id"]: row for row in shop.get("/v1/usage", params={"site": "shop"}).json()["usage"]}
    assert {coupon: row["times_used"] for coupon, row in rows.items() if row["times_used"]} == {"c-01": 9}
    assert rows["c-01"]["by_app"] == {"": 9}
    assert {coupon for coupon, row in rows.items() if row["deleted"]} == {
        f"c-{number:02}" for number in range(0, 23, 5)
    }
    assert (rows["c-02"]["discount_type"], rows["c-02"]["discount_value"]) == ("PERCENT_OFF", 10)


def test_a_coupon_id_that_two_sites_have_needs_the_site(shop: httpx.Client) -> None:
    for path in ("/v1/coupons/c-01", "/v1/coupons/c-01/history"):
        assert "site" in assert_problem(shop.get(path), 400)["detail"]
        assert shop.get(path, params={"site": "elsewhere"}).status_code == 200


def test_what_is_not_there_is_not_found(shop: httpx.Client) -> None:
    for path in ("/v1/coupons/unheard", "/v1/coupons/unheard/history"):
        assert "unheard" in assert_problem(shop.get(path), 404)["detail"]
    for path in ("/v1/coupons/c-02", "/v1/coupons/c-02/history"):
        assert_problem(shop.get(path, params={"site": "elsewhere"}), 404)


def test_wait_for_reads_one_s_own_writes(client: httpx.Client) -> None:
    for number in range(10):
        coupon_id = f"own-{number}"
        position = client.post(VELO, json=created(coupon_id, coupon_id)).json()["position"]
        state = client.get(f"/v1/coupons/{coupon_id}", params={"wait_for": position})
        assert state.status_code == 200
        assert state.json()["coupon_id"] == coupon_id


def test_waiting_for_a_position_that_nobody_was_given_is_refused(client: httpx.Client) -> None:
    for position in (head(client) + 1, 2**63 - 1):
        told = assert_problem(client.get("/v1/coupons", params={"wait_for": position}), 400)
        assert "ends at" in told["detail"]
