"""Large and compressed batches over HTTP: read by other processes, refused whole where they are wrong or a bomb."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from eventstore.demo import documented
from eventstore.readers import HERE_BYTES
from tests.conftest import NewServer
from tests.integration.test_bulk import linux, reading_for, require_gone
from tests.serving import CREATED, PATIENCE, Serving, answers, assert_problem, created, ndjson, wrapped

BATCH = "/v1/events"
LARGE = 4_500
"""Documented deliveries of which a batch is large enough for readers."""
LIMIT = 2_000_000
"""The server's max_batch_bytes in tests of it."""


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd, "x-gzip": gzip.compress}


def lines(name: str, count: int = 20) -> list[dict[str, Any]]:
    return [wrapped(CREATED, created(f"{name}-{number}", f"c-{name}")) for number in range(count)]


@pytest.fixture(scope="module")
def small(new_server: NewServer) -> Iterator[Serving]:
    """A server that takes batches of LIMIT bytes."""
    with new_server(EVENTSTORE_MAX_BATCH_BYTES=str(LIMIT)) as running:
        yield running
        assert running.complaints == []


def events(client: httpx.Client) -> int:
    head: int = client.get("/healthz").json()["head"]
    return head


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_compressed_batch_is_answered_as_a_plain_one(client: httpx.Client, encoding: str) -> None:
    body = ndjson(*lines(encoding)) + b"nope\n" + ndjson({"metadata": {}})
    packed = PACKERS[encoding](body[:500]) + PACKERS[encoding](body[500:])
    told = answers(client.post(BATCH, content=packed, headers={"Content-Encoding": encoding}))
    assert [each["line"] for each in told] == list(range(1, 23))
    assert [each["outcome"] for each in told] == ["appended"] * 20 + ["refused", "quarantined"]
    again = answers(client.post(BATCH, content=body, headers={"Content-Encoding": "identity"}))
    assert [each["outcome"] for each in again] == ["duplicate"] * 20 + ["refused", "quarantined"]
    assert [each.get("position") for each in again] == [each.get("position") for each in told]


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "gzip, gzip", "nonsense"])
def test_another_encoding_is_refused_with_those_that_are_read(client: httpx.Client, encoding: str) -> None:
    before = events(client)
    response = client.post(BATCH, content=ndjson(*lines("other")), headers={"Content-Encoding": encoding})
    told = assert_problem(response, 415)
    assert encoding in told["detail"]
    assert "gzip, zstd" in told["detail"]
    assert response.headers["accept-encoding"] == "gzip, zstd"
    assert events(client) == before


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_batch_that_is_not_what_it_says_or_cut_short_is_refused_whole(client: httpx.Client, encoding: str) -> None:
    body = ndjson(*lines(f"short-{encoding}", 5_000))
    packed = PACKERS[encoding](body)
    before = events(client)
    for wrong in (packed[: len(packed) * 9 // 10], packed + b"garbage", body):
        response = client.post(BATCH, content=wrong, headers={"Content-Encoding": encoding})
        told = assert_problem(response, 400)
        assert f"the body cannot be decompressed as {encoding} to its end" in told["detail"]
    assert events(client) == before


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_decompression_bomb_is_refused_whole_and_the_server_goes_on(small: Serving, encoding: str) -> None:
    good = ndjson(*lines(f"bomb-{encoding}"))
    bomb = PACKERS[encoding](good + b"\n" * 300_000_000)
    assert len(bomb) < LIMIT
    with small.client() as client:
        before = events(client)
        told = assert_problem(client.post(BATCH, content=bomb, headers={"Content-Encoding": encoding}), 413)
        assert "max_batch_bytes" in told["detail"]
        assert events(client) == before
        whole = PACKERS[encoding](good + b"\n" * (LIMIT - len(good)))
        told_lines = answers(client.post(BATCH, content=whole, headers={"Content-Encoding": encoding}))
        assert [each["outcome"] for each in told_lines] == ["appended"] * 20
        over = PACKERS[encoding](good + b"\n" * (LIMIT - len(good) + 1))
        assert_problem(client.post(BATCH, content=over, headers={"Content-Encoding": encoding}), 413)


@linux
def test_a_large_batch_is_read_by_other_processes_that_end_with_the_server(new_server: NewServer) -> None:
    deliveries = list(documented(LARGE))
    body = b"".join(delivery.line() for delivery in deliveries)
    assert len(body) > HERE_BYTES
    with new_server() as server, server.client() as client:
        assert server.process is not None
        client.post(BATCH, content=ndjson(*lines("few")))
        assert reading_for(server.process.pid) == []
        told = answers(client.post(BATCH, content=zstd(body), headers={"Content-Encoding": "zstd"}))
        assert [each["event_id"] for each in told] == [delivery.event_id for delivery in deliveries]
        assert [each["line"] for each in told] == list(range(1, LARGE + 1))
        assert {each["outcome"] for each in told} == {"appended"}
        ids = reading_for(server.process.pid)
        assert ids != []
        assert server.stop()[0] == 0
        require_gone(ids)
        assert server.complaints == []


@linux
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # about processes, and dear
def test_readers_end_with_a_server_that_is_killed_and_one_killed_alone_is_told_in_the_lines_it_concerns(
    new_server: NewServer,
) -> None:
    body = b"".join(delivery.line() for delivery in documented(2 * LARGE))
    with new_server() as server, server.client() as client:
        assert server.process is not None
        pid = server.process.pid
        killed: list[int] = []

        def kill() -> None:
            deadline = time.monotonic() + PATIENCE
            while not killed and time.monotonic() < deadline:
                killed.extend(reading_for(pid)[:1])
            for process_id in killed:
                os.kill(process_id, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        told = answers(client.post(BATCH, content=body))
        killer.join()
        assert killed != []
        assert [each["line"] for each in told] == list(range(1, 2 * LARGE + 1))
        outcomes = [each["outcome"] for each in told]
        cut = outcomes.index("unavailable")
        assert set(outcomes[:cut]) == {"appended"}
        assert set(outcomes[cut:]) == {"unavailable"}
        assert "killed by SIGKILL" in told[cut]["problem"]["detail"]
        # Sent again, every event is kept once.
        again = answers(client.post(BATCH, content=body))
        assert {each["outcome"] for each in again} <= {"appended", "duplicate"}
        assert [each["position"] for each in again] == list(range(1, 2 * LARGE + 1))
        ids = reading_for(pid)
        server.kill()
        require_gone(ids)


def test_an_unfinished_body_leaves_nothing(small: Serving, tmp_path: Path) -> None:
    with small.client() as client:
        before = events(client)

        def body() -> Iterator[bytes]:
            yield gzip.compress(ndjson(*lines("gone")))
            raise ConnectionError("the sender is gone")

        with pytest.raises(ConnectionError):
            client.post(BATCH, content=body(), headers={"Content-Encoding": "gzip"})
        assert events(client) == before
        assert json.loads(client.get("/healthz").text)["status"] == "ok"
