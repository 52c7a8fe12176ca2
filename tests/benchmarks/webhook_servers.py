"""The servers that the `webhook` benchmark sets beside the store's own: `python -m tests.benchmarks.webhook_servers KIND …`.

`bare STORE`: the store's app and server, with one more route that reads the body and answers 200.
`textbook DATABASE KEY_FILE`: a webhook handler as a tutorial would write it.
`trivial`: no HTTP library at all; it shows how much the load generator can do.
Each says `listening on URL` once it answers and ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import jwt
import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import Engine, String, Text, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from eventstore.api.app import create_app
from eventstore.api.server import BACKLOG, serve
from eventstore.config import Settings, load_settings
from eventstore.log.engine import store_url
from eventstore.store import EventStore

PATH = "/webhook"
SQLITE_CONNECTIONS = 5
"""SQLAlchemy would open fifteen, which spend longer waiting for SQLite's one writer than five do: a third slower, measured."""
LOCK_SECONDS = 60
"""How long one of them may wait: an answer other than 200 ends the benchmark."""


def main(kind: str, *arguments: str) -> None:
    kinds: dict[str, Callable[..., None]] = {"bare": bare, "textbook": textbook, "trivial": trivial}
    kinds[kind](*arguments)


def _announce(url: str) -> None:
    print(f"listening on {url}", flush=True)


# The bare endpoint


def bare(store: str) -> None:
    """Serve a store whose app has one route more, matched first, as the webhooks' own is among the app's."""

    def with_one_more(opened: EventStore, settings: Settings, **rest: Any) -> FastAPI:
        app = create_app(opened, settings, **rest)
        app.add_api_route(PATH, read_and_answer, methods=["POST"])
        app.router.routes.insert(0, app.router.routes.pop())
        return app

    with EventStore.open(store) as opened, patch("eventstore.api.server.create_app", with_one_more):
        serve(opened, load_settings(port=0), on_ready=_announce)


async def read_and_answer(request: Request) -> Response:
    await request.body()
    return Response(b"{}", media_type="application/json")


# The textbook handler


class Base(DeclarativeBase):
    pass


class WebhookEvent(Base):
    __tablename__ = "webhook_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(String(64), unique=True)
    event_type: Mapped[str] = mapped_column(String(128))
    instance_id: Mapped[str] = mapped_column(String(64))
    entity_id: Mapped[str] = mapped_column(String(64))
    event_time: Mapped[str] = mapped_column(String(40))
    payload: Mapped[str] = mapped_column(Text)


def textbook(database: str, key_file: str) -> None:
    """Serve the handler on one uvicorn process, as durable as the store: WAL and synchronous=FULL, or PostgreSQL."""
    engine = textbook_engine(database)
    Base.metadata.create_all(engine)
    app = textbook_app(engine, Path(key_file).read_text(encoding="ascii"))
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    # Connections are taken from here on; they are answered as soon as the loop runs.
    _announce(f"http://127.0.0.1:{listener.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listener])


def textbook_engine(database: str) -> Engine:
    url = store_url(database)
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    engine = create_engine(
        url,
        pool_size=SQLITE_CONNECTIONS,
        max_overflow=0,
        pool_timeout=LOCK_SECONDS,
        connect_args={"timeout": LOCK_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def durable(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def textbook_app(engine: Engine, public_key: str) -> FastAPI:
    app = FastAPI()

    @app.post(PATH)
    async def webhook(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(keep, await request.body())

    def keep(token: bytes) -> dict[str, Any]:
        claims = jwt.decode(token, public_key, algorithms=["RS256"])
        envelope = json.loads(claims["data"])
        told = json.loads(envelope["data"])
        row = WebhookEvent(
            event_id=told["id"],
            event_type=envelope["eventType"],
            instance_id=envelope["instanceId"],
            entity_id=told["entityId"],
            event_time=told["eventTime"],
            payload=json.dumps(told),
        )
        with Session(engine) as session:
            session.add(row)
            try:
                session.commit()
            except IntegrityError:
                return {"outcome": "duplicate"}
        return {"outcome": "appended"}

    return app


# The trivial server


class _Trivial(asyncio.Protocol):
    """Answers whenever as many bytes have come as a request has, of which it reads no more than the length."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class, which only looks like one

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            start = data.find(b"content-length: ") + 16
            self._missing = int(data[start : data.find(b"\r", start)]) + data.find(b"\r\n\r\n") + 4
        self._missing -= len(data)
        if self._missing == 0:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


def trivial() -> None:
    """Serve until SIGTERM."""
    import uvloop

    async def until_told() -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        server = await loop.create_server(_Trivial, "127.0.0.1", 0, backlog=BACKLOG)
        _announce(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await told.wait()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_told())


if __name__ == "__main__":
    main(*sys.argv[1:])
