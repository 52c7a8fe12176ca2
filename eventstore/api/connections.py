"""What an answer may know of the connection that it goes to, which ASGI does not tell."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_TRANSPORT = "eventstore.transport"


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # uvicorn chooses it when it is loaded
    """uvicorn's own, whose requests also tell their transport: see `transport_of`."""

    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # The state that each request is given a copy of.
        self.app_state = {**self.app_state, _TRANSPORT: transport}


def transport_of(scope: Scope) -> asyncio.Transport | None:
    """What carries this request, where a `Connection` received it: to end it at once, whatever waits to be sent."""
    found: asyncio.Transport | None = scope.get("state", {}).get(_TRANSPORT)
    return found
