"""The ingestion routes with a bearer token: `/v1/velo/{handler}`, `/v1/sdk/events` and the NDJSON batch `/v1/events`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from eventstore.api.answers import EventAnswer, event_response
from eventstore.api.batch import answered
from eventstore.api.context import Context, Here, Ingester, kept_headers, read_body
from eventstore.api.problems import PROBLEM, REFUSALS
from eventstore.errors import UnknownHandler
from eventstore.event import Source
from eventstore.ingest import Route, read_delivery
from eventstore.wix import HANDLERS

router = APIRouter(tags=["ingestion"])

RESPONSES: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    400: {"description": "Not JSON, or too deep.", **PROBLEM},
    413: {"description": "The body is over the limit.", **PROBLEM},
    503: {"description": "Send it again after Retry-After seconds; no event is kept twice.", **PROBLEM},
}
_JSON_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
_NDJSON_BODY = {"requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}


@router.post(
    "/v1/velo/{handler}",
    response_model=EventAnswer,
    responses={**RESPONSES, 404: {"description": "Not a handler that Wix documents.", **PROBLEM}},
    openapi_extra=_JSON_BODY,
    summary="An event as a site's events.js receives it",
)
async def velo(
    request: Request,
    here: Here,
    token: Ingester,
    handler: Annotated[str, Path(description="The handler's name, as in `wixMarketing_onCouponCreated`.")],
) -> Response:
    """Append the event that the site's backend handler was called with: `{metadata, entity}` or `{metadata, data}`."""
    if handler not in HANDLERS:
        raise UnknownHandler(handler, tuple(HANDLERS))
    body = await read_body(request, here.settings.max_body_bytes)
    return await _append(here, body, Route(Source.VELO, handler, headers=kept_headers(request)), token)


@router.post(
    "/v1/sdk/events",
    response_model=EventAnswer,
    responses=RESPONSES,
    openapi_extra=_JSON_BODY,
    summary="An event as a handler of @wix/sdk receives it",
)
async def sdk(request: Request, here: Here, token: Ingester) -> Response:
    """Append the event envelope that an app built on `@wix/sdk` was called with: `{entity | data, metadata}`."""
    body = await read_body(request, here.settings.max_body_bytes)
    return await _append(here, body, Route(Source.SDK, headers=kept_headers(request)), token)


async def _append(here: Context, body: bytes, how: Route, token: Ingester) -> Response:
    entries = read_delivery(body, how, lambda named: token.site_for(named, here.settings.site), may_wrap=False)
    return event_response(await here.relays.append(entries))


@router.post(
    "/v1/events",
    response_class=StreamingResponse,
    responses={
        **RESPONSES,
        400: {"description": "The compressed body is corrupt, or cut short.", **PROBLEM},
        404: {"description": "Not a handler that Wix documents.", **PROBLEM},
        415: {"description": "A content encoding other than gzip and zstd; Accept-Encoding lists those.", **PROBLEM},
        200: {"description": "One JSON answer a line, in order.", "content": {"application/x-ndjson": {}}},
    },
    openapi_extra=_NDJSON_BODY,
    summary="Many deliveries at once, one a line",
)
async def batch(
    request: Request,
    here: Here,
    token: Ingester,
    route: Annotated[
        Source | None, Query(description="The route of lines that do not say theirs; found out by shape if absent.")
    ] = None,
    handler: Annotated[str | None, Query(description="The Velo handler of lines that do not say theirs.")] = None,
) -> Response:
    """Append deliveries, one JSON document a line, and answer a line for each once it is durable.

    A line is a delivery as any route would carry it, or one wrapped with what its body does not say:
    `{"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}`. A wrong line is refused alone.

    An answer's `outcome` is that of an event, or `refused` with the `problem`, or `unavailable`: the store stopped taking events
    in the midst of the batch. Lines so answered are not acknowledged; send them again. A page of several coupons has its
    answers in `events`; its `outcome` may be `mixed`, and is `empty` if it holds none.

    The body may be compressed: `Content-Encoding: gzip` or `zstd`. It is checked to its end before anything is appended.
    """
    if handler is not None and handler not in HANDLERS:
        raise UnknownHandler(handler, tuple(HANDLERS))
    return StreamingResponse(
        await answered(request, here, token, Route(route, handler)), media_type="application/x-ndjson"
    )
