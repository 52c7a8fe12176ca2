"""What every route needs: the store, the settings, who is asking, and the body within its limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from eventstore import access
from eventstore.access import Scope, Token
from eventstore.config import Settings
from eventstore.errors import DeliveryTooLarge, NotAuthenticated
from eventstore.store import EventStore

TOKEN_CACHE_SECONDS = 5.0
"""How long a found token is trusted without asking the database: also how long a revoked one may still work."""
TOKEN_CACHE_SIZE = 1_000
DRAIN_FACTOR = 32
"""How many times the limit is read and thrown away of a body that is too large, so that its sender, who may not look for an
answer before it has sent everything, gets to see the 413 rather than a broken connection."""


@dataclass
class Context:
    """The state of one app."""

    store: EventStore
    settings: Settings
    _tokens: dict[str, tuple[float, Token]] = field(default_factory=dict)

    async def authenticate(self, secret: str) -> Token:
        """The token of this secret. Raises NotAuthenticated."""
        cached = self._tokens.get(secret)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        token = await run_in_threadpool(access.find_token, self.store.engine, secret)
        if token is None:
            self._tokens.pop(secret, None)
            raise NotAuthenticated("the bearer token is unknown or revoked; make one with `eventstore token create`")
        if len(self._tokens) >= TOKEN_CACHE_SIZE:
            self._tokens.clear()
        self._tokens[secret] = (time.monotonic() + TOKEN_CACHE_SECONDS, token)
        return token


def context(request: Request) -> Context:
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


_bearer = HTTPBearer(auto_error=False, description="A token made by `eventstore token create`.")


async def _token(
    here: Annotated[Context, Depends(context)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Token:
    if credentials is None:
        raise NotAuthenticated("send the header `Authorization: Bearer TOKEN`; `eventstore token create` makes a token")
    return await here.authenticate(credentials.credentials)


async def _may_ingest(token: Annotated[Token, Depends(_token)]) -> Token:
    token.require(Scope.INGEST)
    return token


async def _may_read(token: Annotated[Token, Depends(_token)]) -> Token:
    token.require(Scope.READ)
    return token


Here = Annotated[Context, Depends(context)]
Ingester = Annotated[Token, Depends(_may_ingest)]
Reader = Annotated[Token, Depends(_may_read)]


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises DeliveryTooLarge when it is over `limit` bytes."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit * DRAIN_FACTOR:
            break
    if size > limit:
        raise DeliveryTooLarge(
            f"the body is over the limit of {limit} bytes; the setting max_body_bytes (EVENTSTORE_MAX_BODY_BYTES) raises it"
        )
    return b"".join(parts)
