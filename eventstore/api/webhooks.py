"""Wix's own webhooks: `/v1/webhooks/wix`. No bearer token: the body proves whose it is."""

from __future__ import annotations

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
    signed = await _verified(here, token, address_of(request))
    return event_response(await here.webhooks.append(entries(signed, headers=kept_headers(request))))


async def _verified(here: Context, token: bytes, address: str) -> Signed:
    webhooks = here.store.webhooks
    if here.apps.due:
        await in_time(here.apps.require(), WEBHOOK_SECONDS)
    try:
        try:
            signed, known = webhooks.verify(token)
        except (NotGenuine, UnknownInstance):
            await in_time(here.apps.require(RELOAD_SECONDS), WEBHOOK_SECONDS)
            signed, known = webhooks.verify(token)
    except NotGenuine:
        # Looked at all the same: a genuine webhook is never refused for what others at its address have sent.
        here.failures.require_few(address)
        here.failures.note(address)
        raise
    if not known:
        await in_time(here.quickly(webhooks.admit, signed), WEBHOOK_SECONDS)
    return signed
