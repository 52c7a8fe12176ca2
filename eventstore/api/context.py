"""What every route needs: the store, the settings, who is asking, and the body within its limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Annotated, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect

from eventstore import access
from eventstore.access import Scope, Token
from eventstore.api.desk import Desk
from eventstore.api.fanout import Fanout
from eventstore.config import Settings
from eventstore.errors import DeliveryTooLarge, NotAuthenticated, TooManyFailures
from eventstore.log.appender import Appender
from eventstore.store import EventStore
from eventstore.webhooks import FRESH_SECONDS

WEBHOOK_SECONDS = 1.1
"""How long a webhook waits for its commit. Wix gives 1250 ms and then comes again; so does it after a 503, but knowing why."""
RELAY_SECONDS = 3.0
"""How long a relayed event waits for its commit: the relay gives an attempt 3.5 seconds, and then knows nothing."""
AHEAD_SECONDS = 2.0
KEPT_HEADERS = frozenset(
    (b"content-type", b"date", b"traceparent", b"user-agent", b"x-request-id", b"x-wix-request-id")
)
"""The request headers that quarantine keeps with a delivery. All others, credentials and addresses among them, are dropped."""
KEPT_HEADER_LENGTH = 200
QUICK_THREADS = 8
"""Threads of their own for what authenticates: readers and batches that wait must not keep a webhook waiting."""
BATCHES_AT_ONCE = 16
"""Batches under way at once; others wait for their turn."""
DRAIN_FACTOR = 32
"""How many times the limit is read and thrown away of a body that is too large, so that its sender, who may not look for an
answer before it has sent everything, gets to see the 413 rather than a broken connection."""

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Refresher:
    """Reads something of the database again, once at a time: who asks for it meanwhile waits for the reading under way.

    Up to AHEAD_SECONDS before it is due it is read in the background, so that under load nobody waits for it.
    """

    def __init__(self, read: Callable[[], Awaitable[None]], limit: float) -> None:
        self._read = read
        self._limit = limit
        self._done_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    @property
    def due(self) -> bool:
        """Whether `require` has anything to do."""
        return time.monotonic() - self._done_at > self._limit - AHEAD_SECONDS

    async def require(self, age: float | None = None) -> None:
        """Have it read again if it is older than `age` (default: the limit), in seconds."""
        now = time.monotonic()
        if now - self._done_at > (self._limit if age is None else age):
            await asyncio.shield(self._start())
        elif now - self._done_at > self._limit - AHEAD_SECONDS:
            self._start()

    def _start(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._run())
            self._reading.add_done_callback(_retrieve)
        return self._reading

    async def _run(self) -> None:
        started = time.monotonic()
        await self._read()
        self._done_at = started


def _retrieve(task: asyncio.Task[None]) -> None:
    # A failure in the background is told to the one who must have it read; here it is only taken note of.
    if not task.cancelled():
        task.exception()


@dataclass
class Context:
    """The state of one app."""

    store: EventStore
    settings: Settings

    def __post_init__(self) -> None:
        self.failures = Failures(self.settings.auth_failures_per_minute)
        self.webhooks = Appender(self.store.submit, WEBHOOK_SECONDS)
        self.relays = Appender(self.store.submit, RELAY_SECONDS)
        self.batches = CapacityLimiter(BATCHES_AT_ONCE)
        self.desk = Desk(self.store, self.settings)
        self.fanout = Fanout(self.store)
        self.apps = Refresher(self._read_apps, FRESH_SECONDS)
        self._tokens: dict[bytes, Token] = {}
        self._fresh_tokens = Refresher(self._read_tokens, FRESH_SECONDS)
        self._quick = CapacityLimiter(QUICK_THREADS)

    async def authenticate(self, secret: str, address: str) -> Token:
        """The token of this secret. Raises NotAuthenticated, and TooManyFailures if the address has guessed too often.

        A good token is known from memory, so that the failures of others at its address never have it refused.
        """
        await self._fresh_tokens.require()
        # Never the secret itself is compared, only its hash: how long that takes tells nothing about a token.
        digest = access.digest(secret)
        token = self._tokens.get(digest)
        if token is not None:
            return token
        self.failures.require_few(address)
        token = await self.quickly(access.find_token, self.store.engine, digest)
        if token is None:
            self.failures.note(address)
            raise NotAuthenticated("the bearer token is unknown or revoked; make one with `eventstore token create`")
        self._tokens[digest] = token
        return token

    async def is_live(self, token: Token) -> bool:
        """Whether a token that was good has not been revoked since. While the database is away it is taken to be."""
        with suppress(SQLAlchemyError):
            await self._fresh_tokens.require()
        return any(each.token_id == token.token_id for each in self._tokens.values())

    async def quickly(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Call what asks the database who is there, in one of the threads kept for that."""
        return await to_thread.run_sync(function, *arguments, limiter=self._quick, abandon_on_cancel=True)

    async def _read_apps(self) -> None:
        await self.quickly(self.store.webhooks.refresh)

    async def _read_tokens(self) -> None:
        self._tokens = await self.quickly(access.live_tokens, self.store.engine)


class Failures:
    """Counts failed authentications by address, in memory."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def note(self, address: str) -> None:
        """One more failed."""
        self._limiter.hit(self._limit, _network(address))

    def require_few(self, address: str) -> None:
        """Raise TooManyFailures if the address has used up its failures of this minute."""
        network = _network(address)
        if not self._limiter.test(self._limit, network):
            ends = self._limiter.get_window_stats(self._limit, network).reset_time
            raise TooManyFailures(
                f"more than {self._limit.amount} failed authentications in a minute from this address "
                "(auth_failures_per_minute); try again later",
                retry_after=max(1.0, ends - time.time()),
            )


def address_of(request: Request) -> str:
    """The address that a request comes from; behind a proxy on this machine, the one that the proxy tells."""
    return request.client.host if request.client is not None else ""


def _network(address: str) -> str:
    """What failures are counted by: of an IPv6 address the network, for its owner has 2**64 of them."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def kept_headers(request: Request) -> dict[str, str] | None:
    """Those headers of a request that quarantine may keep."""
    found = {
        name.decode("latin-1"): value[:KEPT_HEADER_LENGTH].decode("latin-1")
        for name, value in request.scope["headers"]
        if name in KEPT_HEADERS
    }
    return found or None


async def context(request: Request) -> Context:
    """The app's state. Async, although it waits for nothing: FastAPI sends what is not through its thread pool."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


_bearer = HTTPBearer(auto_error=False, description="A token made by `eventstore token create`.")


async def _token(
    request: Request,
    here: Annotated[Context, Depends(context)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Token:
    if credentials is None:
        raise NotAuthenticated("send the header `Authorization: Bearer TOKEN`; `eventstore token create` makes a token")
    return await here.authenticate(credentials.credentials, address_of(request))


async def _may_ingest(token: Annotated[Token, Depends(_token)]) -> Token:
    token.require(Scope.INGEST)
    return token


async def _may_read(token: Annotated[Token, Depends(_token)]) -> Token:
    token.require(Scope.READ)
    return token


Here = Annotated[Context, Depends(context)]
Ingester = Annotated[Token, Depends(_may_ingest)]
Reader = Annotated[Token, Depends(_may_read)]


def site_asked(here: Context, token: Token, named: str | None) -> str | None:
    """The one site that a question is about; None: all, which only a token bound to none may ask. Raises NotAllowed."""
    if named is None and token.site_id is None:
        return None
    return token.site_for(named, here.settings.site)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises DeliveryTooLarge when it is over `limit` bytes."""
    parts = []
    size = 0
    more = True
    while more and size <= limit * DRAIN_FACTOR:
        # Not request.stream(): most bodies are one message, and that asks three times more for each.
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
    if size > limit:
        raise DeliveryTooLarge(
            f"the body is over the limit of {limit} bytes; the setting max_body_bytes (EVENTSTORE_MAX_BODY_BYTES) raises it"
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)
