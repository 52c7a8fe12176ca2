"""Running the app on a real socket until it is told to stop."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

from eventstore.api.app import create_app
from eventstore.api.connections import Connection
from eventstore.api.shortcut import Shortcut
from eventstore.config import Settings
from eventstore.errors import InputError
from eventstore.store import EventStore

if TYPE_CHECKING:
    from eventstore.handlers.registry import Handlers

BACKLOG = 2_048
"""Connections that may wait to be accepted: a burst of Wix's retries must not see a refused connection."""
SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter from another that wants it. At Python's five milliseconds the event loop, which
gives it up at each signature, would wait longer for the writer and the projections than it works."""
SHUTDOWN_SECONDS = 10
"""How long requests under way may take to finish once the server is told to stop."""


def listen(settings: Settings) -> socket.socket:
    """A socket at the host and port of the settings, on which callers may wait from now on. Raises InputError if it is taken."""
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
    return listener


def url_of(listener: socket.socket, settings: Settings) -> str:
    """Where a socket made by `listen` is reached."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def serve(
    store: EventStore,
    settings: Settings,
    *,
    listener: socket.socket | None = None,
    handlers: Handlers | None = None,
    elsewhere: Callable[[], str | None] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve in this process until SIGINT or SIGTERM; `on_ready(url)` once it answers.

    On `listener`, or else at the host and port of the settings: raises InputError if those are taken. `handlers` and
    `elsewhere`: see `create_app`.
    """
    listener = listen(settings) if listener is None else listener
    url = url_of(listener, settings)
    app = create_app(store, settings, handlers=handlers, elsewhere=elsewhere)
    config = uvicorn.Config(
        Shortcut(app),
        http=Connection,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    with _told_to_stop():
        _Server(
            config,
            on_ready=lambda: None if on_ready is None else on_ready(url),
            on_stop=app.state.context.fanout.end,
        ).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it answers, from when on it can also be stopped in good order, and when it is about to stop."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before it waits for the requests under way, of which a stream would never end.
        self._on_stop()
        await super().shutdown(sockets=sockets)


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGINT and SIGTERM are how a server ends, not how it fails: uvicorn raises them anew once it has shut down."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
