"""Running the app on a real socket until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from eventstore.api.app import create_app
from eventstore.config import Settings
from eventstore.errors import InputError
from eventstore.store import EventStore

BACKLOG = 2_048
"""Connections that may wait to be accepted: a burst of Wix's retries must not see a refused connection."""
SHUTDOWN_SECONDS = 10
"""How long requests under way may take to finish once the server is told to stop."""


def serve(store: EventStore, settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready(url)` once the socket is open. Raises InputError if the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port"
        ) from error
    listener.listen(BACKLOG)
    if on_ready is not None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        on_ready(f"http://{host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(
        create_app(store, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])
