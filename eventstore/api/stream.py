"""`/v1/events/stream`: the log as server-sent events, for as long as the client listens.

A stream is a place in the log and nothing else: a client that was cut off, by whatever, goes on behind the last id that it has.
So a client that does not read is cut off rather than waited for, and all are when the server is told to stop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from eventstore.access import Token
from eventstore.api.connections import transport_of
from eventstore.api.context import Context, Here, Reader, site_asked
from eventstore.api.coupons import NO_NUL, SiteParameter
from eventstore.api.fanout import END_SECONDS, Fanout, Follower
from eventstore.api.problems import PROBLEM, REFUSALS
from eventstore.errors import InputError, StoreUnavailable
from eventstore.event import INT64_MAX
from eventstore.following import types_named
from eventstore.log.reader import Filter

HEARTBEAT_SECONDS = 15.0
"""After so long without an event a comment is sent: proxies end a connection that is silent, usually after 30 or 60 seconds.
As often it is looked whether the token has been revoked."""
RETRY_MILLISECONDS = 2_000
"""How soon a client should come again when a stream has ended."""
SEND_BUFFER_BYTES = 128 * 2**10
"""What the kernel keeps for a client that is slow to read. It would take megabytes, of which no process would know."""
FULL_SECONDS = 10.0
"""When to try again where there are as many streams as may be."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nothing between server and client may keep a stream, or wait for more of it; the second is nginx's."""

router = APIRouter(tags=["reading"])


@router.get(
    "/v1/events/stream",
    response_class=StreamingResponse,
    responses={
        **REFUSALS,
        200: {
            "description": "Server-sent events, without end.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'retry: 2000\nid: 3013\n\nid: 3014\nevent: coupon.applied\ndata: {"position":3014,'
                    '"recorded_at":"2026-09-30T21:42:05.012345Z","event":{"event_id":"e-1","type":"coupon.applied", …}}\n\n',
                }
            },
        },
        400: {"description": "The id is no position of the log, or the type none that there is.", **PROBLEM},
        503: {"description": "There are as many streams as may be; Retry-After says when to try again.", **PROBLEM},
    },
    summary="Every new event as it is recorded (server-sent events)",
)
async def stream(
    here: Here,
    token: Reader,
    site: SiteParameter = None,
    coupon: Annotated[str | None, Query(pattern=NO_NUL, description="Only the coupon with this id.")] = None,
    types: Annotated[
        list[str] | None,
        Query(
            alias="type",
            description="Only events of this canonical type, as `coupon.applied` or `coupon.*`; repeatable.",
        ),
    ] = None,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=INT64_MAX,
            description="Begin behind this position; 0: with the first event. Without it or the header: at the end of the log.",
        ),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The last `id` that the client has: begin behind it. Counts for more than `after`.",
        ),
    ] = None,
) -> StreamingResponse:
    """The log's events in order, each once, from a position on, and then every new one as it is recorded.

    `id` is an event's position, `event` its canonical type, `data` a JSON object of `position`, `recorded_at` and the canonical
    `event`. A client that comes again with the last `id` it has as `Last-Event-ID` goes on where it was, whatever has ended the
    stream; browsers' EventSource and most libraries do so by themselves. A block without `data` only tells such an id.

    A comment is sent every 15 seconds of silence. A client that does not read is cut off after half a minute.
    """
    wanted = Filter(site_asked(here, token, site), coupon, types_named(types or ()))
    begin = await _beginning(here.fanout, after, last_event_id)
    if here.fanout.ended:
        raise StoreUnavailable("the server is stopping")
    if len(here.fanout) >= here.settings.max_streams:
        raise StoreUnavailable(
            f"{len(here.fanout)} clients listen already, as many as may (max_streams); try again later",
            retry_after=FULL_SECONDS,
        )
    return EventStream(here, token, wanted, begin)


async def _beginning(fanout: Fanout, after: int | None, last_event_id: str | None) -> int:
    """The position behind which a stream begins. Raises InputError for what is none of the log."""
    name = "after"
    if last_event_id:
        name = "Last-Event-ID"
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= len(str(INT64_MAX))):
            raise InputError(
                f"Last-Event-ID: {last_event_id!r} is no position; send the last `id` of a stream, or none"
            )
        after = int(last_event_id)
    if after is not None and fanout.has_read(after):
        return after
    head = await fanout.head()
    if after is not None and after > head:
        raise InputError(
            f"{name}={after} is no position of the log, which ends at {head}; "
            "send the last `id` of a stream of this store, or none"
        )
    return head if after is None else after


class EventStream(StreamingResponse):
    """The answer that is a stream. It holds no more for a client than its connection does."""

    media_type = "text/event-stream"

    def __init__(self, here: Context, token: Token, wanted: Filter, after: int) -> None:
        super().__init__(_nothing(), headers=HEADERS)
        self._here = here
        self._token = token
        self._wanted = wanted
        self._after = after
        self._transport: asyncio.Transport | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._transport = transport_of(scope)
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            with suppress(OSError, AttributeError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        with self._here.fanout.follower(self._wanted, self._after, self._cut_off) as follower:
            self.body_iterator = self._blocks(follower)
            async with aclosing(self.body_iterator):
                await super().__call__(scope, receive, send)
        if self._here.fanout.ended:
            # What the client has not taken yet must not keep the server from stopping.
            asyncio.get_running_loop().call_later(END_SECONDS, self._cut_off)

    async def _blocks(self, follower: Follower) -> AsyncGenerator[bytes, None]:
        # With the id, a client that is cut off before its first event does not miss what came meanwhile.
        yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, follower.position)
        loop = asyncio.get_running_loop()
        look_at = loop.time() + HEARTBEAT_SECONDS
        async for block in follower.blocks(HEARTBEAT_SECONDS):
            if loop.time() >= look_at:
                if not await self._here.is_live(self._token):
                    return
                look_at = loop.time() + HEARTBEAT_SECONDS
            yield block or b": nothing new\nid: %d\n\n" % follower.position

    def _cut_off(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""
