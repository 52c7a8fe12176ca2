"""Wix's own webhooks: `/v1/webhooks/wix`. No bearer token: the body proves whose it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from eventstore.api.answers import EventAnswer, event_response
from eventstore.api.appender import in_time
from eventstore.api.context import WEBHOOK_SECONDS, Context, address_of, context, kept_headers, read_body
from eventstore.api.deliveries import RESPONSES
from eventstore.api.problems import PROBLEM
from eventstore.errors import NotGenuine, UnknownInstance
from eventstore.webhooks import RELOAD_SECONDS, Signed, entries

PATH = "/v1/webhooks/wix"
_BODY = {"requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}}


class _Direct(APIRoute):
    """A route that is documented like any other and called with the request alone: its body and rights are its own affair,
    and FastAPI's resolving of nothing at all would be a fifth of its time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(tags=["ingestion"], route_class=_Direct)


@router.post(
    PATH,
    response_model=EventAnswer,
    responses={
        **{status: told for status, told in RESPONSES.items() if status != 422},
        400: {"description": "Not a JWT.", **PROBLEM},
        401: {"description": "Signature, algorithm or time are wrong, or no registered app signed it.", **PROBLEM},
        403: {"description": "The app that signed it is not registered for this instance.", **PROBLEM},
    },
    openapi_extra=_BODY,
    summary="An event as Wix itself sends it, signed",
)
async def wix(request: Request) -> Response:
    """Append the event in a REST webhook: the whole body is a compact JWT, signed with RS256 by a registered app's key.

    Any content type is taken. `eventstore app add` registers an app and the instances (sites) that it may speak for.
    """
    here = await context(request)
    token = await read_body(request, here.settings.max_body_bytes)
    began = time.monotonic()
    signed = await _verified(here, token, address_of(request), began)
    answer = here.webhooks.append(entries(signed, headers=kept_headers(request)))
    left = _left(began)
    return event_response(await (answer if left > _PROMPT else in_time(answer, left)))


_PROMPT = WEBHOOK_SECONDS - 0.1
"""With this much of the time left, the appender's own limit will do."""


def _left(began: float) -> float:
    """The seconds that are left of a webhook's time."""
    return max(0.0, began + WEBHOOK_SECONDS - time.monotonic())


async def _verified(here: Context, token: bytes, address: str, began: float) -> Signed:
    webhooks = here.store.webhooks
    if here.apps.due:
        await in_time(here.apps.require(), _left(began))
    try:
        try:
            signed, known = webhooks.verify(token)
        except (NotGenuine, UnknownInstance):
            await in_time(here.apps.require(RELOAD_SECONDS), _left(began))
            signed, known = webhooks.verify(token)
    except NotGenuine:
        # Looked at all the same: a genuine webhook is never refused for what others at its address have sent.
        here.failures.require_few(address)
        here.failures.note(address)
        raise
    if not known:
        await in_time(here.quickly(webhooks.admit, signed), _left(began))
    return signed
