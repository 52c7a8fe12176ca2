"""A way past the app's layers for the one route that must be fast."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eventstore.api import problems, webhooks


class Shortcut:
    """Wix's webhooks go to their route at once, everything else through the app.

    The layers of FastAPI and Starlette serve sessions, bodies and dependencies that this route has none of, and cost it half
    as much as all that it does. The route is the app's own, so that it is documented, and answers the same without this.
    """

    def __init__(self, app: Starlette) -> None:
        self._app: ASGIApp = app
        self._starlette = app
        self._route = next(route for route in webhooks.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != webhooks.PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._starlette
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await webhooks.wix(request)
        except Exception as error:  # noqa: BLE001 - as in the app, every error has its answer
            response = await problems.answer(request, error)
        await response(scope, receive, send)
