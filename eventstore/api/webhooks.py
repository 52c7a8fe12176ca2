"""Wix's own webhooks: `/v1/webhooks/wix`. No bearer token: the body proves whose it is."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from eventstore.api.answers import EventAnswer, event_response
from eventstore.api.context import Context, Here, address_of, kept_headers, read_body
from eventstore.api.deliveries import RESPONSES
from eventstore.api.problems import PROBLEM
from eventstore.errors import NotGenuine, StoreUnavailable, UnknownInstance
from eventstore.webhooks import Signed, entries

router = APIRouter(tags=["ingestion"])

ANSWER_SECONDS = 1.1
"""How long a webhook waits for its commit. Wix gives 1250 ms and then comes again; so does it after a 503, but knowing why."""
_BODY = {"requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.post(
    "/v1/webhooks/wix",
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
async def wix(request: Request, here: Here) -> Response:
    """Append the event in a REST webhook: the whole body is a compact JWT, signed with RS256 by a registered app's key.

    Any content type is taken. `eventstore app add` registers an app and the instances (sites) that it may speak for.
    """
    token = await read_body(request, here.settings.max_body_bytes)
    signed = await _verified(here, token, address_of(request))
    future = here.store.submit(entries(signed, headers=kept_headers(request)))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return event_response(await asyncio.wrap_future(future))
    except TimeoutError as error:
        raise StoreUnavailable(
            "the event was not durable in time; send it again, it is not kept twice", retry_after=5.0
        ) from error


async def _verified(here: Context, token: bytes, address: str) -> Signed:
    webhooks = here.store.webhooks
    if webhooks.needs_refresh():
        await run_in_threadpool(webhooks.refresh)
    try:
        try:
            signed, known = webhooks.verify(token)
        except (NotGenuine, UnknownInstance):
            if not webhooks.needs_refresh(doubted=True):
                raise
            await run_in_threadpool(webhooks.refresh)
            signed, known = webhooks.verify(token)
    except NotGenuine:
        # Looked at all the same: a genuine webhook is never refused for what others at its address have sent.
        here.failures.require_few(address)
        here.failures.note(address)
        raise
    if not known:
        await run_in_threadpool(webhooks.admit, signed)
    return signed
