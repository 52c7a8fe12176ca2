"""Unusual input never harms: each is refused with problem details or kept in quarantine, and the server goes on."""

from __future__ import annotations

import itertools
import json
import socket
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serving import (
    APPLIED,
    CREATED,
    NewServer,
    Serving,
    answers,
    applied,
    assert_problem,
    created,
    head,
    kept_body,
    ndjson,
    only,
    settled,
    wrapped,
)

VELO = f"/v1/velo/{CREATED}"
SDK = "/v1/sdk/events"
FIVE_MEGABYTES = 5_000_000
_numbers = itertools.count(1)


pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True, scope="module")
"""Most of it is refused before a store is asked; what a database has no place for is tried on both in test_openapi.py."""


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    with new_server() as running:
        yield running
        told = {json.loads(line)["event"] for line in running.complaints}
        assert told <= {"Invalid HTTP request received."}


@pytest.fixture(scope="module")
def open_client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def client(open_client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of a server that must be well and taking events after whatever the test did."""
    yield open_client
    assert open_client.get("/healthz").json()["status"] == "ok"
    answer = open_client.post(VELO, json=created(f"after-{next(_numbers)}")).json()
    assert answer["outcome"] == "appended"


def with_metadata(**metadata: Any) -> bytes:
    """A sound delivery but for these fields of its metadata; None takes a field away."""
    event = created("e-bad")
    event["metadata"] = {name: value for name, value in (event["metadata"] | metadata).items() if value is not None}
    return json.dumps(event).encode()


def with_entity(**fields: Any) -> bytes:
    return json.dumps(created("e-bad", **fields)).encode()


def raw(old: str, new: bytes) -> bytes:
    """A sound delivery with its text `old` replaced by bytes that no encoder would write."""
    sound = json.dumps(created("e-raw", mark="MARK")).encode()
    assert old.encode() in sound
    return sound.replace(old.encode(), new)


MALFORMED = {
    "text that is not JSON": b"{nope",
    "an empty body": b"",
    "blanks": b" \r\n\t ",
    "a number": b"5",
    "a string": b'"coupon"',
    "null": b"null",
    "a list": b"[]",
    "a list of events": json.dumps([created("e-list")]).encode(),
    "two documents": json.dumps(created("e-1")).encode() * 2,
    "a document cut short": json.dumps(created("e-1")).encode()[:-2],
    "NaN": raw('"MARK"', b"NaN"),
    "Infinity": raw('"MARK"', b"-Infinity"),
    "1e400": raw('"MARK"', b"1e400"),
    "a lone surrogate": raw("MARK", b"\\ud800"),
    "a lone surrogate in an id": raw("e-raw", b"\\udc00"),
    "a byte that is not UTF-8": raw("MARK", b"\xff"),
    "a surrogate in UTF-8": raw("MARK", b"\xed\xa0\x80"),
    "UTF-16": json.dumps(created("e-1")).encode("utf-16"),
    "a bare NUL": raw("MARK", b"\x00"),
    "objects a hundred deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "lists a hundred thousand deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "brackets that never close": b"[" * 100_000,
    "an XML document": b"<coupon/>",
    "a form": b"code=SPRING&type=PercentOff",
}

QUARANTINED = {
    "an empty object": b"{}",
    "another shape": b'{"hello": "world"}',
    "a wrapper, which belongs in a batch": json.dumps(wrapped(CREATED, created("e-wrapped"))).encode(),
    "a wrapped page without coupons": b'{"route": "snapshot", "body": {"coupons": []}}',
    "metadata that is a list": b'{"metadata": [], "entity": {}}',
    "no entity": json.dumps({"metadata": created("e-bad")["metadata"]}).encode(),
    "an entity that is null": json.dumps({**created("e-bad"), "entity": None}).encode(),
    "an entity that is a text": json.dumps({**created("e-bad"), "entity": "coupon"}).encode(),
    "an entity that is a list": json.dumps({**created("e-bad"), "entity": [1]}).encode(),
    "no time": with_metadata(eventTime=None),
    "an empty time": with_metadata(eventTime=""),
    "a time in words": with_metadata(eventTime="yesterday"),
    "the thirtieth of February": with_metadata(eventTime="2025-02-30T00:00:00Z"),
    "the thirtieth of February as JavaScript writes it": with_metadata(eventTime="Sun Feb 30 2025 21:00:00 GMT+0000"),
    "the hour 25": with_metadata(eventTime="2025-02-03T25:00:00Z"),
    "the year 10000": with_metadata(eventTime=253_402_300_800_000),
    "a time that is true": with_metadata(eventTime=True),
    "a time that is a list": with_metadata(eventTime=[]),
    "a time of 31 digits": with_metadata(eventTime=10**30),
    "a sequence of 31 digits": with_metadata(entityEventSequence=10**30),
    "a sequence of 31 digits as text": with_metadata(entityEventSequence=str(10**30)),
    "a sequence of 4000 digits": with_metadata(entityEventSequence="9" * 4000),
    "a sequence with a fraction": with_metadata(entityEventSequence=1.5),
    "a NUL in the event's id": with_metadata(id="a\0b"),
    "a NUL in the coupon's id": with_entity(_id="a\0b"),
    "a line break in an id": with_metadata(id="a\nb"),
    "an event id of 201 characters": with_metadata(id="x" * 201),
    "a coupon id of 100000 characters": with_entity(_id="x" * 100_000),
    "an id that is an object": with_metadata(id={"a": 1, "b": 2}),
    "an amount of 31 digits": with_entity(percentOffRate=10**30),
    "an amount in words": with_entity(percentOffRate="ten"),
    "a limit of 31 digits": with_entity(usageLimit=10**30),
    "a start that is no time": with_entity(startTime="soon"),
    "a switch that is a text": with_entity(active="perhaps"),
    "a name of 20001 characters": with_entity(name="x" * 20_001),
}

TAKEN = {
    "a NUL in a name": with_entity(name="a\0b"),
    "a NUL in an unknown field's name": with_entity(**{"a\0b": 1}),
    "an empty name": with_entity(name=""),
    "a name of emoji and combining marks": with_entity(name="🧧é́" * 100),
    "a name that is a formula": with_entity(name="=1+1"),
    "a name with markup": with_entity(name="[red]<script>alert(1)</script>"),
    "a code that is SQL": with_entity(code="'; DROP TABLE events; --"),
    "a code longer than Wix allows": with_entity(code="x" * 300),
    "an unknown discount": with_entity(type="TwoForTheRoad", percentOffRate=None),
    "a negative percentage": with_entity(percentOffRate=-5),
    "lists sixty deep": with_entity(extra=json.loads("[" * 60 + "]" * 60)),
    "a number of 31 digits where nobody counts": with_entity(unheard=10**30),
    "a byte order mark": b"\xef\xbb\xbf" + with_entity(),
    "repeated keys, of which the last counts": raw('"code": "SPRING"', b'"code": "A", "code": "SPRING"'),
    "the year 1": with_metadata(eventTime="0001-01-01T00:00:00Z"),
    "the year 9999": with_metadata(eventTime="9999-12-31T23:59:59.999999Z"),
    "the largest sequence": with_metadata(entityEventSequence=str(2**63 - 1)),
    "an id of 200 characters": with_metadata(id="y" * 200),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_a_json_object_is_refused_and_nothing_of_it_is_kept(
    client: httpx.Client, server: Serving, name: str
) -> None:
    before = server.rows("SELECT count(*) FROM quarantine")
    for path in (VELO, SDK):
        told = assert_problem(client.post(path, content=MALFORMED[name]), 400)
        assert told["type"] == "urn:eventstore:problem:unreadable-delivery"
    assert server.rows("SELECT count(*) FROM quarantine") == before


@pytest.mark.parametrize("name", MALFORMED)
def test_a_batch_refuses_a_line_that_is_not_a_json_object_alone(client: httpx.Client, name: str) -> None:
    bad = MALFORMED[name]
    number = next(_numbers)
    sound = ndjson(wrapped(CREATED, created(f"batch-{number}")))
    told = answers(client.post("/v1/events", content=sound + bad + b"\n" + sound))
    assert (told[0]["outcome"], told[-1]["outcome"]) == ("appended", "duplicate")
    assert told[0]["line"] == 1
    # A document may hold line breaks, as UTF-16 does: each of its lines is then refused. Blank lines are skipped.
    for line in told[1:-1]:
        assert line["outcome"] == "refused"
        assert line["problem"]["status"] == 400
    assert bool(told[1:-1]) == bool(bad.strip())


@pytest.mark.parametrize("name", QUARANTINED)
def test_what_is_json_but_no_event_is_kept_in_quarantine_once_with_its_exact_bytes(
    client: httpx.Client, server: Serving, name: str
) -> None:
    body = QUARANTINED[name]
    before = head(client)
    first, again = (client.post(VELO, content=body) for _ in range(2))
    assert first.status_code == 200
    answer = first.json()
    assert answer["outcome"] == "quarantined"
    assert answer["reason"]
    assert again.json() == answer
    assert kept_body(server, answer["quarantine_id"]) == ("quarantined", body)
    assert head(client) == before


@pytest.mark.parametrize("name", [name for name in QUARANTINED if "wrap" not in name])
def test_a_batch_keeps_the_same_delivery_under_the_same_quarantine_entry(
    client: httpx.Client, server: Serving, name: str
) -> None:
    body = QUARANTINED[name]
    alone = client.post(VELO, content=body).json()
    # Neither the way a line ends nor the way the delivery came makes another delivery of it.
    content = body + b"\n" + body + b"\r\n" + body
    told = answers(client.post("/v1/events", params={"route": "velo", "handler": CREATED}, content=content))
    assert [line["line"] for line in told] == [1, 2, 3]
    assert {line["quarantine_id"] for line in told} == {alone["quarantine_id"]}
    assert kept_body(server, alone["quarantine_id"])[1] == body


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_only_odd_is_appended_and_can_be_read_back(client: httpx.Client, server: Serving, name: str) -> None:
    body = TAKEN[name].replace(b'"e-bad"', f'"odd-{next(_numbers)}"'.encode())
    coupon_id = f"odd-{next(_numbers)}"
    body = body.replace(b"c-1", coupon_id.encode())
    response = client.post(VELO, content=body)
    answer = response.json()
    assert answer["outcome"] == "appended", answer
    assert server.original(answer["position"]) == body
    entry = only(settled(client, answer["position"], f"/v1/coupons/{coupon_id}/history")["events"])
    assert entry["event"]["event_id"] == answer["event_id"]
    assert client.get(f"/v1/coupons/{coupon_id}").json()["snapshot_event_id"] == answer["event_id"]


def test_a_use_without_its_coupon_counts_for_the_entity_it_names(client: httpx.Client) -> None:
    event = applied("use-bare", "order-bare", "c-bare")
    del event["data"]
    answer = client.post(f"/v1/velo/{APPLIED}", json=event).json()
    assert answer["outcome"] == "appended"
    assert settled(client, answer["position"], "/v1/coupons/c-bare")["usage"]["times_used"] == 1


@pytest.mark.parametrize("path", [VELO, SDK])
def test_a_body_over_the_limit_is_refused_as_too_large(client: httpx.Client, path: str) -> None:
    body = json.dumps(created("e-large", junk="x" * FIVE_MEGABYTES)).encode()
    told = assert_problem(client.post(path, content=body), 413)
    assert "max_body_bytes" in told["detail"]


@pytest.mark.parametrize("path", [VELO, SDK])
def test_a_body_over_the_limit_is_refused_though_its_length_was_not_declared(client: httpx.Client, path: str) -> None:
    response = client.post(path, content=(b"x" * 50_000 for _ in range(100)))
    assert "content-length" not in response.request.headers
    assert_problem(response, 413)


def test_a_body_of_exactly_the_limit_is_judged_on_its_content(client: httpx.Client) -> None:
    body = json.dumps(created("e-limit")).encode()
    padded = body + b" " * (1_048_576 - len(body))
    assert client.post(VELO, content=padded).json()["outcome"] == "appended"
    assert_problem(client.post(VELO, content=padded + b" "), 413)


def test_under_a_raised_limit_a_large_body_is_judged_on_its_content(new_server: NewServer) -> None:
    with new_server(EVENTSTORE_MAX_BODY_BYTES="6000000") as server, server.client() as client:
        one_text = json.dumps(created("e-text", junk="x" * FIVE_MEGABYTES)).encode()
        many = json.dumps(created("e-many", junk={str(n): n for n in range(300_000)})).encode()
        broken = b"[" * FIVE_MEGABYTES
        assert client.post(VELO, content=one_text).json()["outcome"] == "appended"
        assert len(many) > 4_000_000
        assert client.post(VELO, content=many).json()["outcome"] == "appended"
        assert_problem(client.post(VELO, content=broken), 400)
        assert_problem(client.post(VELO, content=one_text + b" " * 1_000_000), 413)
        assert server.original(1) == one_text
        assert settled(client, 2, "/v1/coupons/c-1")["code"] == "SPRING"


def test_a_batch_over_its_limit_is_refused_whole(new_server: NewServer) -> None:
    with new_server(EVENTSTORE_MAX_BATCH_BYTES="10000") as server, server.client() as client:
        line = ndjson(wrapped(CREATED, created("e-1")))
        told = assert_problem(client.post("/v1/events", content=line * (10_000 // len(line) + 1)), 413)
        assert "max_batch_bytes" in told["detail"]
        assert head(client) == 0
        assert len(answers(client.post("/v1/events", content=line * 10))) == 10


@pytest.mark.parametrize("handler", ["nope", "wixMarketing_oncouponcreated", "%00", "a%20b", "x" * 2_000])
def test_an_unknown_handler_is_refused_with_the_list_of_those_there_are(client: httpx.Client, handler: str) -> None:
    told = assert_problem(client.post(f"/v1/velo/{handler}", json=created("e-1")), 404)
    assert {CREATED, APPLIED} < set(told["known_handlers"])
    assert CREATED in told["detail"]
    told = assert_problem(client.post(f"/v1/events?handler={handler}", json=created("e-1")), 404)
    assert CREATED in told["known_handlers"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2/coupons", 404),
        ("POST", "/v1/velo", 404),
        ("POST", "/v1/velo/", 404),
        ("GET", "/v1/coupons/a/b/c", 404),
        ("GET", "/v1/coupons/../../etc/passwd", 404),
        ("GET", "/v1/coupons/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", VELO, 405),
        ("GET", "/v1/events", 405),
        ("POST", "/v1/coupons", 405),
        ("PUT", "/v1/coupons", 405),
        ("DELETE", "/v1/coupons/c-1", 405),
        ("PATCH", "/v1/usage", 405),
        ("POST", "/healthz", 405),
        ("OPTIONS", "/v1/usage", 405),
        ("GET", "/v1/coupons/unheard", 404),
        ("GET", "/v1/coupons/unheard/history", 404),
        ("GET", "/v1/coupons/%00", 422),
        ("GET", "/v1/coupons/%00/history", 422),
        ("GET", "/v1/coupons?code=%00", 422),
        ("GET", "/v1/coupons?site=%00", 422),
        ("GET", "/v1/usage?after=%00/%00", 422),
        ("GET", "/v1/coupons?after=%00", 422),
        ("GET", "/v1/coupons/%ff%fe", 404),
        ("GET", "/v1/coupons/%ed%a0%80", 404),
        ("GET", f"/v1/coupons/{'x' * 5_000}", 404),
        ("GET", "/v1/coupons?limit=0", 422),
        ("GET", "/v1/coupons?limit=-1", 422),
        ("GET", "/v1/coupons?limit=1001", 422),
        ("GET", "/v1/coupons?limit=many", 422),
        ("GET", f"/v1/coupons?limit={10**30}", 422),
        ("GET", "/v1/coupons?deleted=perhaps", 422),
        ("GET", "/v1/coupons?after=nonsense", 400),
        ("GET", "/v1/usage?after=nonsense", 400),
        ("GET", "/v1/usage?limit=0", 422),
        ("GET", "/v1/coupons/c-1/history?after=nonsense", 422),
        ("GET", "/v1/coupons/c-1/history?after=-1", 422),
        ("GET", f"/v1/coupons/c-1/history?after={2**63}", 422),
        ("GET", f"/v1/coupons/c-1/history?after={10**30}", 422),
        ("GET", "/v1/coupons/c-1/history?limit=0", 422),
        ("GET", "/v1/coupons/c-1?wait_for=soon", 422),
        ("GET", "/v1/coupons/c-1?wait_for=-1", 422),
        ("GET", f"/v1/coupons/c-1?wait_for={10**30}", 422),
        ("POST", "/v1/events?route=jwt", 422),
        ("POST", "/v1/events?route=", 422),
    ],
)
def test_a_wrong_question_is_refused_with_problem_details(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    told = assert_problem(client.request(method, path), status)
    if status == 422:
        assert told["errors"][0]["where"] in told["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "code='%20OR%201=1",
        "code=%25",
        f"code={'x' * 5_000}",
        "site=",
        f"site={'x' * 5_000}",
        "nonsense=1",
    ],
)
def test_an_odd_question_has_an_answer(client: httpx.Client, query: str) -> None:
    for path in ("/v1/coupons", "/v1/usage"):
        assert client.get(f"{path}?{query}").status_code == 200


@pytest.mark.parametrize(
    "after",
    ["", "/", "local/c-1", "local/\ufffd", "🧧", "x" * 5_000, "=", "AAAA"]
    + [
        urlsafe_b64encode(told).decode()
        for told in (
            b"5",
            b"null",
            b"[]",
            b'["a"]',
            b'["a", 5]',
            b'["a", "b", "c"]',
            b'["\\u0000", "\\u0000"]',
            b"\xff",
        )
    ],
)
def test_what_is_no_cursor_is_refused_as_such(client: httpx.Client, after: str) -> None:
    for path in ("/v1/coupons", "/v1/usage"):
        assert "cursor" in assert_problem(client.get(path, params={"after": after}), 400)["detail"]


def test_what_is_not_http_at_all_does_no_harm(client: httpx.Client, server: Serving) -> None:
    address = urlsplit(server.url)
    for sent in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/sdk/events HTTP/1.1\r\nHost: x\r\nContent-Length: nope\r\n\r\n",
        b"POST /v1/sdk/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ncut short",
        b"POST /v1/sdk/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with socket.create_connection((address.hostname, address.port), timeout=60) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            while True:
                try:
                    if not plain.recv(65_536):
                        break
                except ConnectionResetError:
                    break
    assert client.get("/healthz").json()["status"] == "ok"


def test_a_sender_that_goes_away_before_its_answer_does_no_harm(client: httpx.Client, server: Serving) -> None:
    address = urlsplit(server.url)
    for path, body in (
        (VELO, json.dumps(created("e-gone")).encode()),
        ("/v1/events", ndjson(created("e-gone")) * 2_000),
    ):
        with socket.create_connection((address.hostname, address.port), timeout=60) as plain:
            plain.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    assert client.get("/healthz").json()["status"] == "ok"


def test_the_content_type_that_is_declared_does_not_matter(client: httpx.Client) -> None:
    body = json.dumps(created("e-type")).encode()
    for declared in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense"):
        response = client.post(VELO, content=body, headers={"Content-Type": declared})
        assert response.json()["outcome"] in ("appended", "duplicate")
