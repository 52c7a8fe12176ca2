"""Clients of `/v1/events/stream`: server-sent events as the HTML standard reads them, from a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from eventstore.api import fanout, stream
from tests.processes import command_line
from tests.serving import Serving

PATH = "/v1/events/stream"
SMALL_RING = 40
SMALL_PAGE = 16


@dataclass
class Block:
    """What stands between two empty lines. `data` None: it only moves the last id."""

    id: str | None = None
    type: str | None = None
    data: dict[str, Any] | None = None
    retry: int | None = None
    comments: list[str] = field(default_factory=list)

    @property
    def position(self) -> int:
        assert self.data is not None
        assert self.id == str(self.data["position"])
        assert self.type == self.data["event"]["type"]
        found: int = self.data["position"]
        return found


def parse(lines: Iterator[str]) -> Iterator[Block]:
    """The blocks of a stream; one that is cut short by its end is none."""
    block = Block()
    for line in lines:
        if not line:
            yield block
            block = Block()
            continue
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        assert colon, f"a line without a name: {line!r}"
        if name == "":
            block.comments.append(value)
        elif name == "id":
            block.id = value
        elif name == "event":
            block.type = value
        elif name == "data":
            assert block.data is None, "the data of an event stands on one line"
            block.data = json.loads(value)
        elif name == "retry":
            block.retry = int(value)
        else:
            raise AssertionError(f"an unknown field: {line!r}")


class Listener:
    """A stream that is listened to."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.blocks = parse(response.iter_lines())
        self.beginning = next(self.blocks)
        """What is told first: when to come again, and behind which position the stream begins."""

    def events(self, count: int) -> list[Block]:
        """The next so many events; whatever else comes is passed over."""
        found: list[Block] = []
        while len(found) < count:
            block = next(self.blocks)
            found += [block] if block.data is not None else []
        return found

    def positions(self, count: int) -> list[int]:
        return [block.position for block in self.events(count)]

    def ended(self) -> bool:
        """Wait for the end; whether it came in good order and without another event."""
        return all(block.data is None for block in self.blocks)


@contextmanager
def listening(
    server: Serving, *, token: str | None = None, last_event_id: str | None = None, **parameters: Any
) -> Iterator[Listener]:
    """A stream of the server, from its beginning on."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with server.client(token) as client, client.stream("GET", PATH, params=parameters, headers=headers) as response:
        assert response.status_code == 200, response.read()
        # Held here: httpx closes a response whose lines nobody has a hand on.
        listener = Listener(response)
        yield listener


# What a server process calls in place of the command line's entry point


def with_small_rings(*arguments: str) -> None:
    """A server whose clients are soon behind its ring, and which hands out little at a time."""
    fanout.RING_EVENTS = SMALL_RING
    fanout.PAGE_EVENTS = SMALL_PAGE
    fanout.PIECE_BYTES = 4_096
    stream.SEND_BUFFER_BYTES = 4_096
    command_line(*arguments)


def with_little_patience(*arguments: str) -> None:
    """The same, which tells soon that it is there, and does not wait long for who does not read."""
    stream.HEARTBEAT_SECONDS = 0.3
    fanout.TICK_SECONDS = 0.1
    fanout.STALLED_SECONDS = 1.0
    with_small_rings(*arguments)
