"""The app: routes, errors and lifetime put together in one place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from eventstore import __version__
from eventstore.api import coupons, deliveries, health, metrics, problems, reports, stream, webhooks
from eventstore.api.context import Context
from eventstore.config import Settings
from eventstore.store import EventStore

if TYPE_CHECKING:
    from eventstore.handlers.registry import Handlers
    from eventstore.handlers.runner import HandlerRunner

DESCRIPTION = """\
An append-only log of Wix coupon events, with projections that follow it.

Send events with a token of the scope `ingest`; a 200 is given only after they are durable, and says what became of each.
Read with a token of the scope `read`. Errors are problem details (RFC 9457).
"""


COUNTS_SECONDS = 2.0
"""How often the counts of refused deliveries are written down; a server that is killed loses those since the last time."""
_log = logging.getLogger("eventstore.api")


async def _write_counts(store: EventStore) -> None:
    while True:
        await asyncio.sleep(COUNTS_SECONDS)
        try:
            await run_in_threadpool(store.flush_refusals)
        except SQLAlchemyError as error:
            _log.warning("refused deliveries are not counted for now", extra={"reason": type(error).__name__})


def _start_handlers(store: EventStore, settings: Settings, loaded: Handlers | None) -> HandlerRunner | None:
    if settings.handlers is None:
        return None
    if loaded is None:
        from eventstore.handlers.loading import load_handlers

        loaded = load_handlers(settings.handlers)
    runner = store.handlers.runner(list(loaded), name=settings.handlers_name, begin=settings.handlers_from)
    runner.start()
    return runner


def create_app(
    store: EventStore,
    settings: Settings,
    *,
    handlers: Handlers | None = None,
    elsewhere: Callable[[], str | None] | None = None,
) -> FastAPI:
    """The app over an open store, which it closes when it ends.

    It follows the log with the projections (unless the settings leave that to `eventstore project`), runs the handlers that the
    settings name and keeps the tables in order, unless another worker does all that: `elsewhere` then tells what keeps that one
    from following. `handlers`: those of the settings, if they are loaded already.
    """

    context = Context(store, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        running: HandlerRunner | None = None
        if elsewhere is None:
            if settings.project:
                store.start_projections()
            store.start_maintenance()
            running = _start_handlers(store, settings, handlers)
        counting = asyncio.create_task(_write_counts(store))
        yield
        counting.cancel()
        if running is not None:
            await run_in_threadpool(running.stop)
        await run_in_threadpool(context.desk.close)
        await run_in_threadpool(store.close)

    app: FastAPI = FastAPIOffline(
        title="Coupon event store", version=__version__, description=DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    app.state.context = context
    app.state.problem = elsewhere or (lambda: health.kind_of(store.runner.last_error))
    problems.install(app)
    for resource in (webhooks, deliveries, stream, coupons, reports, health, metrics):
        app.include_router(resource.router)

    @app.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
