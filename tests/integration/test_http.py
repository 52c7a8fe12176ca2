"""The HTTP door of a running server: who may come in, batches, and reading what was written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from eventstore.ingest import CHUNK_LINES
from tests.serving import (
    APPLIED,
    CREATED,
    DELETED,
    PATIENCE,
    SITE,
    Serving,
    answers,
    applied,
    assert_problem,
    created,
    fixture,
    head,
    kept_body,
    ndjson,
    one_line,
    only,
    serving,
    settled,
    wrapped,
)

VELO = f"/v1/velo/{CREATED}"
READING = ["/v1/coupons", "/v1/coupons/c-1", "/v1/coupons/c-1/history", "/v1/usage"]
INGESTION = [VELO, "/v1/sdk/events", "/v1/events"]
SDK_EVENT = fixture("sdk_loyalty_coupon_created.json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for the tests that keep to a site, or to ids, of their own."""
    with serving(tmp_path_factory.mktemp("http")) as running:
        yield running
        assert running.complaints == []


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def everything(client: httpx.Client) -> Iterator[httpx.Response]:
    for path in READING:
        yield client.get(path)
    for path in INGESTION:
        yield client.post(path, json=created("e-refused"))


# Who may come in


def test_without_a_token_nothing_is_told_or_taken_but_how_the_server_is(server: Serving) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as stranger:
        for response in everything(stranger):
            told = assert_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "eventstore token create" in told["detail"]
        assert set(stranger.get("/healthz").json()) == {"status", "version", "head", "projected", "problem"}
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
    made = json.loads(server.cli("token", "create", "--any-site", "--json").stdout)
    with server.client(made["token"]) as client:
        assert client.get("/v1/coupons").status_code == 200
        assert server.cli("token", "revoke", made["token_id"]).returncode == 0
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


def test_an_unbound_token_files_an_event_under_the_site_it_names_or_under_the_server_s(tmp_path: Path) -> None:
    with serving(tmp_path, "--site", "house") as server, server.client() as client:
        client.post(VELO, json=created("one", "c-house"))
        client.post("/v1/sdk/events", content=SDK_EVENT)
        client.post("/v1/events", content=ndjson(wrapped(CREATED, created("two", "c-named"), site="named")))
        assert server.rows("SELECT site_id FROM events ORDER BY position") == [("house",), (SITE,), ("named",)]
        assert settled(client, 3, "/v1/coupons/c-house")["site_id"] == "house"
        assert client.get("/v1/coupons/c-named").json()["site_id"] == "named"


# Batches


def test_each_line_is_answered_in_order_and_a_wrong_one_is_refused_alone(client: httpx.Client, server: Serving) -> None:
    sound = ndjson(wrapped(CREATED, created("mixed-1", "mixed")))
    lines = [
        sound,
        b"{nope\n",
        b"\n",
        b"   \r\n",
        ndjson(wrapped(APPLIED, applied("mixed-2", "order", "mixed"))).replace(b"\n", b"\r\n"),
        b"[]\n",
        ndjson(wrapped("wixMarketing_onNothing", created("mixed-3"))),
        sound,
        ndjson(wrapped(CREATED, created("mixed-1", "mixed", code="OTHER"))),
        ndjson({"route": "velo", "handler": CREATED, "body": {"metadata": {}}}),
        ndjson({"route": "pigeon", "body": {}}),
        ndjson({"coupons": []}),
        ndjson(wrapped(DELETED, {"metadata": created("mixed-4", "mixed")["metadata"]})).rstrip(b"\n"),
    ]
    told = answers(client.post("/v1/events", content=b"".join(lines)))
    assert [(each["line"], each["outcome"]) for each in told] == [
        (1, "appended"),
        (2, "refused"),
        (5, "appended"),
        (6, "refused"),
        (7, "refused"),
        (8, "duplicate"),
        (9, "conflict"),
        (10, "quarantined"),
        (11, "refused"),
        (12, "empty"),
        (13, "appended"),
    ]
    by_line = {each["line"]: each for each in told}
    assert by_line[8]["position"] == by_line[1]["position"]
    assert [by_line[line]["problem"]["status"] for line in (2, 6, 7, 11)] == [400, 400, 404, 400]
    assert CREATED in by_line[7]["problem"]["known_handlers"]
    assert "pigeon" in by_line[11]["problem"]["detail"]
    assert kept_body(server, by_line[9]["quarantine_id"]) == ("conflict", lines[8].rstrip(b"\n"))
    assert kept_body(server, by_line[10]["quarantine_id"]) == ("quarantined", lines[9].rstrip(b"\n"))
    state = settled(client, by_line[13]["position"], "/v1/coupons/mixed")
    assert (state["deleted"], state["usage"]["times_used"]) == (True, 1)


def test_an_empty_batch_has_no_answers(client: httpx.Client) -> None:
    assert answers(client.post("/v1/events", content=b"")) == []
    assert answers(client.post("/v1/events", content=b"\n\r\n  \n")) == []


def test_lines_without_a_wrapper_take_their_route_and_handler_from_the_address(client: httpx.Client) -> None:
    parameters = {"route": "velo", "handler": APPLIED}
    lines = ndjson(applied("bare-1", "order", "bare"), wrapped(CREATED, created("bare-2", "bare")))
    told = answers(client.post("/v1/events", params=parameters, content=lines))
    assert [each["outcome"] for each in told] == ["appended", "appended"]
    found = settled(client, told[-1]["position"], "/v1/coupons/bare/history")["events"]
    assert [each["event"]["type"] for each in found] == ["coupon.applied", "coupon.created"]


def test_a_velo_line_that_says_no_handler_is_quarantined_unless_it_can_only_be_a_use(client: httpx.Client) -> None:
    told = answers(client.post("/v1/events", content=ndjson(created("told-1"), applied("told-2", "order", "told"))))
    assert [each["outcome"] for each in told] == ["quarantined", "appended"]
    assert CREATED in told[0]["reason"]


def test_a_line_over_the_limit_is_refused_alone_and_the_next_ones_are_appended(tmp_path: Path) -> None:
    limit = 2_000
    with serving(tmp_path, EVENTSTORE_MAX_BODY_BYTES=str(limit)) as server, server.client() as client:

        def line_of(size: int, event_id: str) -> bytes:
            bare = ndjson(wrapped(CREATED, created(event_id))).rstrip(b"\n")
            return bare + b" " * (size - len(bare))

        lines = [
            line_of(limit, "fits") + b"\n",
            line_of(limit, "fits-too") + b"\r\n",
            line_of(limit + 1, "one-over") + b"\n",
            line_of(limit + 2, "two-over") + b"\r\n",
            line_of(limit + 3, "three-over") + b"\n",
            line_of(5_000_000, "far-over") + b"\n",
            line_of(limit, "carriage returns") + b"\r" * 5_000 + b"\n",
            line_of(400, "small") + b"\n",
            b"x" * 10_000,
        ]
        told = answers(client.post("/v1/events", content=b"".join(lines)))
        assert [each["line"] for each in told] == list(range(1, len(lines) + 1))
        refused = [each["line"] for each in told if each["outcome"] == "refused"]
        assert refused == [3, 4, 5, 6, 7, 9]
        assert {each["problem"]["status"] for each in told if each["outcome"] == "refused"} == {413}
        assert [each["event_id"] for each in told if each["outcome"] == "appended"] == ["fits", "fits-too", "small"]


def test_a_batch_of_twenty_thousand_lines_is_answered_whole_and_counted(tmp_path: Path) -> None:
    total, coupons = 20_000, 50
    lines = [
        wrapped(APPLIED, applied(f"use-{number}", f"order-{number}", f"c-{number % coupons:02}"))
        for number in range(total)
    ]
    with serving(tmp_path) as server, server.client() as client:
        body = ndjson(*lines)
        told = answers(client.post("/v1/events", content=body))
        assert [(each["line"], each["outcome"], each["position"]) for each in told] == [
            (number, "appended", number) for number in range(1, total + 1)
        ]
        again = answers(client.post("/v1/events", content=body))
        assert {each["outcome"] for each in again} == {"duplicate"}
        assert [each["position"] for each in again] == list(range(1, total + 1))
        assert head(client) == total
        usage = settled(client, total, "/v1/usage")["usage"]
        assert [each["times_used"] for each in usage] == [total // coupons] * coupons


def test_a_page_of_coupons_on_one_line_is_answered_an_event_each(client: httpx.Client, server: Serving) -> None:
    taken = "2025-05-03T10:00:00Z"
    page = json.loads(fixture("snapshot_query_coupons.json"))
    line = {"route": "snapshot", "site": "pages", "observed_at": taken, "body": page}
    first, again = (only(answers(client.post("/v1/events", content=ndjson(line)))) for _ in range(2))
    assert (first["outcome"], again["outcome"]) == ("appended", "duplicate")
    assert [each["position"] for each in first["events"]] == [each["position"] for each in again["events"]]
    assert [each["event_id"] for each in first["events"]] == [each["event_id"] for each in again["events"]]
    assert len({each["event_id"] for each in first["events"]}) == 2
    # Each coupon's event keeps its own part of the page, which can be read alone.
    for event, coupon in zip(first["events"], page["coupons"], strict=True):
        assert json.loads(server.original(event["position"])) == {"coupons": [coupon]}
    # One coupon more on the page: the others are known.
    page["coupons"].append({**page["coupons"][0], "id": "0d0d0d0d-0000-4000-8000-000000000005"})
    mixed = only(answers(client.post("/v1/events", content=ndjson(line))))
    assert mixed["outcome"] == "mixed"
    assert [each["outcome"] for each in mixed["events"]] == ["duplicate", "duplicate", "appended"]


@pytest.mark.parametrize("taken", ["yesterday", "2025-05-03T10:00:00", "2025-02-30T00:00:00Z"])
def test_a_wrapper_with_a_time_that_is_none_is_refused(client: httpx.Client, taken: str) -> None:
    line = {"route": "snapshot", "observed_at": taken, "body": {"coupons": []}}
    told = only(answers(client.post("/v1/events", content=ndjson(line))))
    assert (told["outcome"], told["problem"]["status"]) == ("refused", 400)


@pytest.mark.parametrize("site", ["", "x" * 201, "a\nb", 5, ["x"]])
def test_a_wrapper_with_a_site_that_is_none_is_refused(client: httpx.Client, site: object) -> None:
    told = only(answers(client.post("/v1/events", content=ndjson(wrapped(CREATED, created("no-site"), site=site)))))
    assert (told["outcome"], told["problem"]["status"]) == ("refused", 400)
    assert "site" in told["problem"]["detail"]


def test_an_event_repeated_within_one_batch_is_appended_once_wherever_it_stands(client: httpx.Client) -> None:
    line = wrapped(CREATED, created("again", "again"))
    others = [wrapped(CREATED, created(f"again-{number}", "again")) for number in range(2 * CHUNK_LINES)]
    told = answers(client.post("/v1/events", content=ndjson(line, line, *others, line)))
    assert [told[0]["outcome"], told[1]["outcome"], told[-1]["outcome"]] == ["appended", "duplicate", "duplicate"]
    assert {told[1]["position"], told[-1]["position"]} == {told[0]["position"]}
    assert {each["outcome"] for each in told[2:-1]} == {"appended"}


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


# Reading


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with 23 coupons of one site, every fifth deleted, and one coupon of another."""
    with serving(tmp_path_factory.mktemp("shop"), "--site", "shop") as server, server.client() as client:
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


def test_the_health_check_shows_the_projections_following_the_log(client: httpx.Client) -> None:
    position = client.post(VELO, json=created("well", "well")).json()["position"]
    settled(client, position, "/v1/coupons")
    told = client.get("/healthz").json()
    assert told["status"] == "ok"
    assert told["problem"] is None
    assert told["head"] >= position
    assert told["projected"] >= position


def test_a_server_started_again_knows_everything_and_prints_no_second_token(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
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
        assert server.token.encode() not in server.path.read_bytes()
        assert len(kept) == 32


def test_events_that_another_process_appends_are_seen_by_the_server(server: Serving, client: httpx.Client) -> None:
    line = ndjson(wrapped(CREATED, created("beside", "beside"), site="beside"))
    done = server.cli("ingest", "-", "--json", given=line)
    assert done.returncode == 0, done.stderr
    position = json.loads(done.stdout)["head"]
    assert settled(client, position, "/v1/coupons/beside")["site_id"] == "beside"
    told = answers(client.post("/v1/events", content=line))
    assert only(told)["outcome"] == "duplicate"


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

    with serving(tmp_path, url=url.render_as_string(hide_password=False)) as server, server.client() as client:
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
