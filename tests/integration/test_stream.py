"""The stream of new events over HTTP: where it begins and goes on, what it tells to whom, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.api import fanout
from eventstore.api.fanout import Frame, Ring
from eventstore.event import INT64_MAX
from eventstore.log.reader import Filter
from tests.serving import (
    APPLIED,
    CREATED,
    DELETED,
    PATIENCE,
    SITE,
    NewServer,
    Serving,
    applied,
    assert_problem,
    created,
    ndjson,
    wrapped,
)
from tests.streaming import PATH, SMALL_RING, listening, with_little_patience, with_small_rings

LARGE = "x" * 15_000
"""A coupon's name that makes its event so large that few fill what a connection buffers."""


def append(server: Serving, *bodies: dict[str, Any], handler: str = CREATED, site: str | None = None) -> list[int]:
    """Append deliveries over HTTP; their positions."""
    lines = [wrapped(handler, body, **({} if site is None else {"site": site})) for body in bodies]
    with server.client() as client:
        answer = client.post("/v1/events", content=ndjson(*lines))
    assert answer.status_code == 200, answer.text
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert {each["outcome"] for each in told} == {"appended"}, told
    return [each["position"] for each in told]


def some(label: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Deliveries of new coupons of this test's own."""
    return [created(f"{label}-{number}", f"c-{label}-{number}", **fields) for number in range(count)]


@contextmanager
def server_that_calls(new_server: NewServer, call: Callable[..., None], *options: str) -> Iterator[Serving]:
    """A server whose process calls this instead of the command line's entry point."""
    with new_server(*options) as server:
        server.kill()
        server.call = call
        server.start()
        yield server


# Where it begins


def test_it_begins_at_the_end_of_the_log_and_tells_every_new_event(server: Serving) -> None:
    [before] = append(server, *some("before", 1))
    with listening(server) as listener:
        assert listener.beginning.id == str(before)
        assert listener.beginning.retry is not None
        assert listener.beginning.retry > 0
        assert append(server, *some("new", 3)) == listener.positions(3)


def test_it_goes_on_behind_a_position_and_behind_the_last_id_before_that(server: Serving) -> None:
    positions = append(server, *some("resumed", 5))
    with listening(server, after=positions[1]) as listener:
        assert listener.positions(3) == positions[2:]
    with listening(server, after=0, last_event_id=str(positions[2])) as listener:
        assert listener.beginning.id == str(positions[2])
        assert listener.positions(2) == positions[3:]
    # As a client sends it that has none.
    with listening(server, after=positions[3], last_event_id="") as listener:
        assert listener.positions(1) == positions[4:]
    with listening(server, after=0) as listener:
        assert listener.positions(positions[-1]) == list(range(1, positions[-1] + 1))


def test_nothing_may_keep_it_or_hold_it_back_on_its_way(server: Serving) -> None:
    with listening(server) as listener:
        headers = listener.response.headers
        assert headers["content-type"].partition(";")[0] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"


def test_an_event_is_told_with_its_canonical_json_as_the_tail_tells_it(server: Serving) -> None:
    [position] = append(server, created("told", "c-told", name='Ünï\u2028\x85\u2029"quoted"\r\n'))
    with listening(server, after=position - 1) as listener:
        [block] = listener.events(1)
    [(payload,)] = server.rows("SELECT payload FROM events WHERE position = ?", position)
    assert block.data is not None
    assert list(block.data) == ["position", "recorded_at", "event"]
    assert block.data["event"] == orjson.loads(payload)
    assert block.type == "coupon.created"
    [line] = server.run("tail", "--from", str(position), "--json").stdout.splitlines()[:1]
    assert json.loads(line) == block.data


def test_events_that_another_process_appends_are_told_too(server: Serving) -> None:
    with listening(server) as listener:
        done = server.run("ingest", "-", given=ndjson(*[wrapped(CREATED, body) for body in some("beside", 3)]))
        assert done.returncode == 0, done.stderr
        assert [block.data["event"]["event_id"] for block in listener.events(3) if block.data] == [
            f"beside-{number}" for number in range(3)
        ]


@pytest.mark.parametrize(
    ("last_event_id", "said"),
    [
        ("nonsense", "'nonsense' is no position"),
        ("-1", "'-1' is no position"),
        ("1.5", "'1.5' is no position"),
        ("9" * 30, "is no position"),
        (str(INT64_MAX), "is no position of the log, which ends at"),
        ("99999999999999999999", "is no position"),
    ],
)
def test_an_id_that_no_event_has_is_refused_and_told_so(server: Serving, last_event_id: str, said: str) -> None:
    with server.client() as client:
        told = assert_problem(client.get(PATH, headers={"Last-Event-ID": last_event_id}), 400)
    assert told["detail"].startswith("Last-Event-ID")
    assert said in told["detail"]


@pytest.mark.parametrize(
    ("parameters", "status", "said"),
    [
        ({"after": "1000000"}, 400, "after=1000000 is no position of the log"),
        ({"after": "-1"}, 422, "after"),
        ({"after": "x"}, 422, "after"),
        ({"type": "coupon.aplied"}, 400, "did you mean 'coupon.applied'?"),
        ({"type": "coupons.*"}, 400, "did you mean 'coupon.*'?"),
        ({"type": ""}, 400, "unknown type ''"),
        ({"type": "subject.erased"}, 400, "the known ones are coupon.created"),
        ({"coupon": "\0"}, 422, "coupon"),
    ],
)
def test_a_wrong_parameter_is_refused_and_told_so(
    server: Serving, parameters: dict[str, str], status: int, said: str
) -> None:
    with server.client() as client:
        assert said in assert_problem(client.get(PATH, params=parameters), status)["detail"]


# What is told to whom


def test_it_tells_only_the_coupon_the_types_and_the_site_asked_for(server: Serving) -> None:
    [first] = append(server, created("w-1", "c-wanted"))
    append(server, created("w-2", "c-unwanted"))
    [use, again] = append(
        server, applied("w-3", "o-1", "c-wanted"), applied("w-4", "o-1", "c-unwanted"), handler=APPLIED
    )
    [gone] = append(server, {"metadata": created("w-5", "c-wanted")["metadata"]}, handler=DELETED)
    [elsewhere] = append(server, created("w-6", "c-wanted"), site="elsewhere")
    [last] = append(server, created("w-7", "c-wanted"))
    for parameters, wanted in (
        ({"coupon": "c-wanted"}, [first, use, gone, elsewhere, last]),
        ({"coupon": "c-wanted", "site": "local"}, [first, use, gone, last]),
        ({"type": "coupon.applied"}, [use, again]),
        ({"type": ["coupon.applied", "coupon.deleted"], "coupon": "c-wanted"}, [use, gone]),
        ({"type": "wixMarketing_onCouponApplied", "coupon": "c-wanted"}, [use]),
        ({"type": "coupon.*", "coupon": "c-wanted", "site": "elsewhere"}, [elsewhere]),
    ):
        with listening(server, after=first - 1, **parameters) as listener:
            assert listener.positions(len(wanted)) == wanted
        # The same of what comes, which is told from memory.
        with listening(server, coupon=f"c-{first}", type="coupon.created") as listener:
            append(server, created(f"{wanted}-1", "c-unwanted"))
            [position] = append(server, created(f"{wanted}-2", f"c-{first}"))
            assert listener.positions(1) == [position]


def test_a_token_of_one_site_is_told_of_that_site_alone(server: Serving) -> None:
    token = server.new_token("--site", "own", "--name", "own", "--scopes", "read")
    with listening(server, token=token, after=0) as listener:
        for number in range(3):
            append(server, created(f"own-{number}-other"), site="another")
            [position] = append(server, created(f"own-{number}"), site="own")
            [block] = listener.events(1)
            assert block.position == position
            assert block.data is not None
            assert block.data["event"]["site_id"] == "own"
    with server.client(token) as client:
        assert_problem(client.get(PATH, params={"site": "another"}), 403)


def test_it_needs_a_token_that_may_read(server: Serving) -> None:
    assert_problem(httpx.get(server.url + PATH, timeout=PATIENCE), 401)
    with server.client(server.new_token("--site", SITE, "--name", "only in", "--scopes", "ingest")) as client:
        assert_problem(client.get(PATH), 403)


def test_it_ends_when_its_token_is_revoked(new_server: NewServer) -> None:
    with server_that_calls(new_server, with_little_patience) as server:
        token = server.new_token("--any-site", "--name", "short-lived", "--scopes", "read")
        with listening(server, token=token) as listener, listening(server) as other:
            append(server, *some("revoked", 1))
            assert listener.positions(1) == [1]
            [line] = [each for each in server.run("token", "list").stdout.splitlines() if "short-lived" in each]
            assert server.run("token", "revoke", line.split()[0]).returncode == 0
            assert listener.ended()
            append(server, *some("later", 1))
            assert other.positions(2) == [1, 2]


# Clients of every kind


def test_while_nothing_comes_it_says_that_it_is_there_and_how_far_it_is(new_server: NewServer) -> None:
    with server_that_calls(new_server, with_little_patience) as server:
        append(server, *some("quiet", 3))
        with listening(server, coupon="c-of-nobody", after=0) as listener:
            [beat, again] = [next(listener.blocks), next(listener.blocks)]
            assert beat.comments
            assert again.comments
            assert beat.data is None
            # All that there is has been looked at: a client that comes again need not begin where it did.
            assert again.id == "3"


def test_a_client_that_falls_behind_the_ring_is_told_everything_from_the_log(new_server: NewServer) -> None:
    with server_that_calls(new_server, with_small_rings) as server:
        with listening(server) as slow, listening(server) as quick:
            for number in range(10):
                append(server, *some(f"behind-{number}", SMALL_RING, name=LARGE))
                assert len(quick.positions(SMALL_RING)) == SMALL_RING
            count = 10 * SMALL_RING
            assert slow.positions(count) == list(range(1, count + 1))
            append(server, *some("caught-up", 3))
            assert slow.positions(3) == quick.positions(3) == [count + 1, count + 2, count + 3]
        assert server.complaints == []


@contextmanager
def deaf(server: Serving, **parameters: object) -> Iterator[socket.socket]:
    """A client that asks for a stream and does not read it."""
    address = urlsplit(server.url)
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(PATIENCE)
        connection.connect((address.hostname, address.port))
        connection.sendall(
            f"GET {PATH}?{query} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
        )
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def read_to_its_end(connection: socket.socket) -> int:
    """How many bytes there were."""
    received = 0
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            received += len(part)
    return received


def test_a_client_that_does_not_read_is_cut_off_and_holds_nobody_up(new_server: NewServer) -> None:
    with server_that_calls(new_server, with_little_patience) as server:
        with deaf(server) as connection, listening(server) as other:
            for number in range(10):
                positions = append(server, *some(f"deaf-{number}", SMALL_RING, name=LARGE))
                assert other.positions(SMALL_RING) == positions
            wait_until(lambda: "does not read, and is cut off" in server.stderr, "it is not cut off")
            assert read_to_its_end(connection) < 10 * SMALL_RING * len(LARGE)
        assert server.complaints == []


def test_more_clients_than_may_are_told_when_to_come_again(new_server: NewServer) -> None:
    with new_server(EVENTSTORE_MAX_STREAMS="3") as server, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(listening(server))
        with listening(server), server.client() as client:
            refused = client.get(PATH)
            assert "max_streams" in assert_problem(refused, 503)["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        # One has left, which the server sees at once.
        wait_until(lambda: asked(server) == 200, "there is no room again")


def asked(server: Serving) -> int:
    with server.client() as client, client.stream("GET", PATH) as response:
        return response.status_code


def wait_until(reached: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def test_whichever_of_several_workers_is_asked_tells_what_any_has_appended(new_server: NewServer) -> None:
    with new_server("--workers", "2") as server, ExitStack() as stack:
        listeners = [stack.enter_context(listening(server, after=0)) for _ in range(6)]
        for number in range(6):
            append(server, *some(f"worker-{number}", 2))
        for listener in listeners:
            assert listener.positions(12) == list(range(1, 13))
        assert server.stop(signal.SIGTERM)[0] == 0
        assert all(listener.ended() for listener in listeners)
        assert server.complaints == []


# The end


def test_a_server_that_is_told_to_stop_ends_all_streams_and_does_not_wait_for_them(new_server: NewServer) -> None:
    with server_that_calls(new_server, with_small_rings) as server:
        append(server, *some("left", 4 * SMALL_RING, name=LARGE))
        with listening(server) as listener, deaf(server, after=0):
            append(server, *some("last", 1))
            assert listener.positions(1) == [4 * SMALL_RING + 1]
            status, said = server.stop(signal.SIGTERM)
            assert listener.ended()
        assert status == 0
        assert said.splitlines()[-1] == "stopped; everything acknowledged is in the log"
        # Had it waited for as long as requests may take, it would say that it has cancelled them.
        assert server.complaints == []


# The ring

FRAMES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["c", "d", None]), st.sampled_from("xy"), st.integers(1, 90_000)),
    max_size=30,
)


@given(
    st.lists(FRAMES, max_size=6),
    st.builds(
        Filter,
        st.sampled_from(["a", None]),
        st.sampled_from(["c", None]),
        st.sampled_from(["x", frozenset("xy"), None]),
    ),
    st.integers(0, 100),
)
def test_whatever_goes_into_the_ring_comes_out_in_pieces_once_and_in_order(
    steps: list[list[tuple[str, str | None, str, int]]], wanted: Filter, begun: int
) -> None:
    ring = Ring(begun)
    kept: list[Frame] = []
    place, given = begun, b""
    for step in steps:
        frames = [
            Frame(begun + len(kept) + number, site, coupon, type_, b"%d:" % (begun + len(kept) + number) + b"." * size)
            for number, (site, coupon, type_, size) in enumerate(step, 1)
        ]
        ring.extend(frames)
        kept += frames
        assert ring.last == begun + len(kept)
        assert place >= ring.first - 1, "as long as it holds so much, nobody who reads at once falls behind"
        while (piece := ring.piece(place, wanted)).text:
            assert len(piece.text) <= fanout.PIECE_BYTES or piece.text.count(b":") == 1
            assert ring.piece(place, wanted) is piece
            place, given = piece.position, given + piece.text
        place = piece.position
        assert place == ring.last
    assert given == b"".join(each.text for each in kept if wanted.takes(each.site_id, each.coupon_id, each.type))


def test_the_ring_forgets_the_oldest_when_it_holds_too_many_or_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "RING_EVENTS", 8)
    monkeypatch.setattr(fanout, "RING_BYTES", 100)
    ring = Ring(0)
    ring.extend([Frame(number, "s", None, "t", b"1") for number in range(1, 10)])
    assert (ring.first, ring.last) == (4, 9)
    ring.extend([Frame(10, "s", None, "t", b"1" * 90)])
    assert (ring.first, ring.last) == (4, 10)
    ring.extend([Frame(11, "s", None, "t", b"1" * 500)])
    assert (ring.first, ring.last) == (12, 11)
    assert ring.piece(11, Filter()) == (b"", 11)
